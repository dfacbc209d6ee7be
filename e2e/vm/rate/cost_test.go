//go:build bench || qemu

package rate_test

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"text/tabwriter"

	"github.com/vishvananda/netlink"

	"github.com/berth-lb/berth/e2e/vm/cluster"
)

// Each place of a way is measured in turn with all others. A run of the kernel's waits for about 30
// ms in the end, so it has many frames; all of a round are of other flows.
const samples = 24

// stops are the places of a way, from one node's interface to the pod's.
func (r *rack) stops(w way) [][]place {
	var pods []place
	for _, p := range r.pods[w.target] {
		pods = append(pods, place{space: p.Name, device: "eth0"})
	}
	stops := [][]place{{{space: w.target.Name, device: "eth0"}}, pods}
	if w.gateway == w.target {
		return stops
	}
	at := w.gateway.Name
	return append([][]place{{{space: at, device: "eth0"}}, {{space: at, device: "eth0", egress: true}}}, stops...)
}

// cost is what nodes spend on a packet, in nanoseconds: the owner from its interface to where the
// packet leaves by it, the target up to the pod's interface.
type cost struct{ owner, target float64 }

func (c cost) sum() float64 { return c.owner + c.target }

// costs measures ways.
func (r *rack) costs(b *testing.B, g *generator, ways []way, each bool) map[string]cost {
	b.Helper()
	found := map[string][][]float64{}
	for round := range samples + 1 {
		if each {
			r.forget(b, ways)
		}
		for _, w := range ways {
			from := netip.AddrFrom4([4]byte{198, 19, 0, 1})
			if each {
				// What is gone from conntrack is not from IPVS.
				from = netip.AddrFrom4([4]byte{198, 19, 1, byte(round)})
			}
			at := r.sample(b, g, w, from, each)
			if round > 0 { // it is slow
				found[w.name] = append(found[w.name], at)
			}
		}
		slices.Reverse(ways)
	}
	costs := map[string]cost{}
	for name, all := range found {
		last := len(all[0]) - 1
		c := cost{target: usual(all, last) - usual(all, last-1)}
		if last > 1 {
			c.owner = usual(all, 1) - usual(all, 0)
		}
		costs[name] = c
	}
	return costs
}

// usual is the lower quartile of what was measured at a stop: what else the machine does only adds.
func usual(all [][]float64, stop int) float64 {
	var at []float64
	for _, a := range all {
		at = append(at, a[stop])
	}
	slices.Sort(at)
	return at[len(at)/4]
}

// sample measures each stop of a way once. All frames must come there, and be counted by what
// steers them.
func (r *rack) sample(b *testing.B, g *generator, w way, from netip.Addr, each bool) []float64 {
	b.Helper()
	mac, err := net.ParseMAC(w.gateway.MAC(b))
	if err == nil {
		err = g.datagram(from, netip.MustParseAddr(w.address), mac)
	}
	if err != nil {
		b.Fatal(err)
	}
	var at []float64
	before := r.counted(b, w)
	for _, places := range r.stops(w) {
		ns, err := g.send(each, places)
		if err != nil {
			b.Fatalf("%s: %v", w.name, err)
		}
		at = append(at, ns)
	}
	after := r.counted(b, w)
	for _, c := range []struct {
		what       string
		have, want int
	}{
		{"were steered by the owner", after.sent - before.sent, 3 * frames},
		{"were steered packets to the target", after.taken - before.taken, frames},
		{"were known to conntrack", after.known - before.known, w.known(each)},
	} {
		if w.service != "" && c.have < c.want {
			b.Fatalf("%s: %d packets %s, want %d at least", w.name, c.have, c.what, c.want)
		}
	}
	return at
}

// known is how many packets conntrack has to know at least.
func (w way) known(each bool) int {
	if w.name != looked || each {
		return 0
	}
	return frames - 1 // but the first
}

// forget empties conntrack of the nodes.
func (r *rack) forget(b *testing.B, ways []way) {
	b.Helper()
	nodes := map[*cluster.Node]bool{}
	for _, w := range ways {
		nodes[w.gateway], nodes[w.target] = true, true
	}
	for n := range nodes {
		if _, err := cluster.In(n.Name, func() (any, error) {
			return nil, netlink.ConntrackTableFlush(netlink.ConntrackTable)
		}); err != nil {
			b.Fatalf("empty conntrack of %s: %v", n.Name, err)
		}
	}
}

// measure reports what all ways cost, for packets of one flow and for packets that are each of a
// new one, and prints both beside each other.
func (r *rack) measure(b *testing.B, ways []way) {
	b.Helper()
	var places []place
	for _, w := range ways {
		for _, stop := range r.stops(w) {
			for _, p := range stop {
				if !slices.Contains(places, p) {
					places = append(places, p)
				}
			}
		}
	}
	g := newGenerator(b, places)
	found := map[bool]map[string]cost{}
	for _, each := range []bool{false, true} {
		b.Run(map[bool]string{false: "one-flow", true: "new-flows"}[each], func(b *testing.B) {
			for b.Loop() {
				r.refresh(b)
				found[each] = r.costs(b, g, slices.Clone(ways), each)
			}
			b.ReportMetric(0, "ns/op") // it means nothing here
			base := found[each][policyC]
			for name, c := range found[each] {
				if c.owner != 0 {
					b.ReportMetric(c.owner, name+"-owner-ns")
					b.ReportMetric(c.owner/base.owner, name+"-owner/cluster")
				}
				b.ReportMetric(c.target, name+"-target-ns")
				b.ReportMetric(c.sum()/base.sum(), name+"/cluster")
			}
		})
	}
	if len(found) < 2 {
		return // one was not asked for
	}
	out := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(out, "ns per packet\towner\ttarget\tboth\tby cluster\tnew flows: owner\ttarget\tboth\tby cluster\t")
	for _, w := range ways {
		fmt.Fprint(out, w.name, "\t")
		for _, each := range []bool{false, true} {
			c := found[each][w.name]
			fmt.Fprintf(
				out, "%.0f\t%.0f\t%.0f\t%.2f\t", c.owner, c.target, c.sum(), c.sum()/found[each][policyC].sum(),
			)
		}
		fmt.Fprintln(out)
	}
	_ = out.Flush() // to where the results go
}
