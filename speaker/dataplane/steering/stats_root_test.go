//go:build root

package steering

import (
	"errors"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/berth-lb/berth/speaker/dataplane/nft/nettest"
	"github.com/berth-lb/berth/speaker/dataplane/steering/decide"
	"github.com/berth-lb/berth/speaker/dataplane/steering/program"
)

// More counters than are read at once are read, each of all processors.
func TestDriver_manyCounters(t *testing.T) {
	r := newRack(t)
	d := r.start(t)
	desired := r.desired(t, "one")
	mustSync(t, d, desired)
	id := d.services.records["default/web"].id
	node := d.nodes.nodes.index["one"]
	processors, err := ebpf.PossibleCPU()
	if err != nil {
		t.Fatal(err)
	}
	each := make([]uint64, processors)
	for i := range each {
		each[i] = uint64(i + 1)
	}
	sum := uint64(len(each) * (len(each) + 1) / 2)
	const many = 3*batch + 7
	for n := range many {
		key := program.StatsKey{Service: id, Node: node, Reason: uint16(1000 + n)}
		// The kernel has memory for some at once, and gets more by and by.
		nettest.Eventually(t, "a counter is written", func() bool {
			err := d.kernel.Stats.Put(key, each)
			if err != nil && !errors.Is(err, unix.ENOMEM) {
				t.Fatal(err)
			}
			return err == nil
		})
	}
	counts, err := d.Stats()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[decide.Reason]bool{}
	for _, c := range counts {
		if c.Reason < 1000 {
			continue
		}
		if seen[c.Reason] || c.Packets != sum || c.Service != "default/web" || c.Node != "one" {
			t.Errorf("%+v, want %d packets", c, sum)
		}
		seen[c.Reason] = true
	}
	if len(seen) != many {
		t.Errorf("%d counters are read, of %d", len(seen), many)
	}
}

// What is counted of a node goes with it: another one gets its number one day.
func TestDriver_countersOfNodes(t *testing.T) {
	r := newRack(t)
	d := r.start(t)
	desired := r.desired(t, "one", "two")
	mustSync(t, d, desired)
	id, gone := d.services.records["default/web"].id, d.nodes.nodes.index["two"]
	processors, err := ebpf.PossibleCPU()
	if err != nil {
		t.Fatal(err)
	}
	for _, node := range []uint16{gone, d.nodes.nodes.index["one"]} {
		key := program.StatsKey{Service: id, Node: node, Reason: uint16(decide.First)}
		if err := d.kernel.Stats.Put(key, make([]uint64, processors)); err != nil {
			t.Fatal(err)
		}
	}
	delete(desired.Nodes, "two")
	mustSync(t, d, desired)
	counts, err := d.kernel.counters()
	if err != nil {
		t.Fatal(err)
	}
	left := 0
	for key := range counts {
		if key.Node == gone {
			t.Errorf("%+v is counted of a node that is gone", key)
		}
		left++
	}
	if left == 0 {
		t.Error("nothing is counted of those that are left")
	}
}

// What is counted of Services that are gone goes with the next Refresh.
func TestDriver_countersOfServices(t *testing.T) {
	r := newRack(t)
	d := r.start(t)
	desired := r.desired(t, "one")
	mustSync(t, d, desired)
	processors, err := ebpf.PossibleCPU()
	if err != nil {
		t.Fatal(err)
	}
	id, node := d.services.records["default/web"].id, d.nodes.nodes.index["one"]
	for _, service := range []uint32{id, id + 1000} {
		key := program.StatsKey{Service: service, Node: node, Reason: uint16(decide.First)}
		if err := d.kernel.Stats.Put(key, make([]uint64, processors)); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Update(nil, []string{"default/web"}); err != nil {
		t.Fatal(err)
	}
	if err := d.Refresh(); err != nil {
		t.Fatal(err)
	}
	counts, err := d.kernel.counters()
	if err != nil {
		t.Fatal(err)
	}
	others := false
	for key := range counts {
		if key.Service == id {
			t.Errorf("%+v is counted of a Service that is gone", key)
		}
		others = others || key.Service == id+1000
	}
	if !others {
		t.Error("the counters of others are gone, too")
	}
	// A process that ended before its Refresh left them.
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	again := r.start(t)
	if again.services.lastID < id+1000 {
		t.Errorf("the next Service gets id %d, and %d is counted", again.services.lastID+1, id+1000)
	}
	mustSync(t, again, desired)
	if err := again.Refresh(); err != nil {
		t.Fatal(err)
	}
	if counts, err = again.kernel.counters(); err != nil {
		t.Fatal(err)
	}
	for key := range counts {
		if key.Service == id+1000 {
			t.Errorf("%+v is counted of a Service that was gone before", key)
		}
	}
}
