//go:build bench

package rate_test

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/berth-lb/berth/e2e/vm/cluster"
)

// BenchmarkSteering compares steering with kube-proxy on this machine's kernel: what nodes spend on
// a packet from a client to a pod, and what a client gets done.
//
//	go test -tags bench -run '^$' -bench . ./vm/rate
func BenchmarkSteering(b *testing.B) {
	// Each thread that waits in a system call holds its place, so that its return does not cost a
	// change of threads.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(32))
	r := newRack(b, cluster.New(b))
	r.measure(b, r.named(direct, beside, policyC, policyL, steered, looked, tunneled))
	c := comparison{
		paths: map[string]path{}, before: r.refresh,
		ratios: [][2]string{{steered, policyC}, {tunneled, policyC}, {policyL, policyC}, {direct, policyC}},
	}
	ways := r.named(direct, policyC, policyL, steered, tunneled)
	for _, w := range ways {
		c.paths[w.name] = path{w.address, c.nextPorts()}
	}
	keepPorts(b)
	c.counted = func(b *testing.B) map[string]count {
		all := map[string]count{}
		for _, w := range ways {
			if w.service != "" {
				all[w.name] = count{packets: r.counted(b, w).sent}
			}
		}
		return all
	}
	for _, l := range loads {
		if l.each {
			b.Run(fmt.Sprint("by-client/", l.name), func(b *testing.B) { c.run(b, l) })
		}
	}
}
