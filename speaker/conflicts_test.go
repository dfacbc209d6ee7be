package speaker

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/l2"
)

func TestConflicts_current(t *testing.T) {
	c := newConflicts()
	begin := time.Unix(1000, 0)
	heard := func(address string, mac byte, after time.Duration) {
		c.note(
			l2.Observation{
				Kind:      l2.Conflict,
				Interface: "eth0",
				Address:   netip.MustParseAddr(address),
				MAC:       []byte{2, 0, 0, 0, 0, mac},
			},
			begin.Add(after),
		)
	}
	heard("192.0.2.2", 1, 0)
	heard("192.0.2.1", 1, 0)
	heard("192.0.2.1", 2, 50*time.Second)
	both := []v1alpha1.ConflictReport{
		{Address: "192.0.2.1", MAC: "02:00:00:00:00:02", Interface: "eth0"},
		{Address: "192.0.2.2", MAC: "02:00:00:00:00:01", Interface: "eth0"},
	}
	for after, want := range map[time.Duration][]v1alpha1.ConflictReport{
		60 * time.Second:  both,
		61 * time.Second:  both[:1],
		111 * time.Second: nil,
	} {
		one := &conflicts{seen: map[netip.Addr]conflictSeen{}}
		for k, v := range c.seen {
			one.seen[k] = v
		}
		if diff := cmp.Diff(want, one.current(begin.Add(after))); diff != "" {
			t.Errorf("after %s: %s", after, diff)
		}
	}
}

func TestConflicts_current_many(t *testing.T) {
	c := newConflicts()
	begin := time.Unix(1000, 0)
	for i := range 90 {
		c.note(
			l2.Observation{Kind: l2.Conflict, Address: netip.MustParseAddr(fmt.Sprintf("192.0.2.%d", 100+i))},
			begin.Add(time.Duration(i)*time.Second),
		)
	}
	got := c.current(begin.Add(60 * time.Second))
	if len(got) != 64 || got[0].Address != "192.0.2.126" || got[63].Address != "192.0.2.189" {
		t.Errorf("%d reported, from %v", len(got), got)
	}
	if all := c.addresses(begin.Add(60 * time.Second)); len(all) != 90 {
		t.Errorf("%d addresses are in conflict, want 90", len(all))
	}
	c.forget(netip.MustParseAddr("192.0.2.187"))
	if left := c.addresses(begin.Add(147 * time.Second)); !slices.Equal(
		slices.SortedFunc(slices.Values(left), netip.Addr.Compare),
		addrs("192.0.2.188", "192.0.2.189"),
	) {
		t.Errorf("a minute later: %v, want the last two", left)
	}
}
