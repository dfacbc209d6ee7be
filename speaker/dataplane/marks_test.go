package dataplane

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/berth-lb/berth/speaker/dataplane/ipvs"
)

func marked(n int) ipvs.Frontend {
	return ipvs.Frontend{Address: netip.AddrFrom4([4]byte{192, 0, byte(n >> 8), byte(n)}), Port: 80, Protocol: ipvs.TCP}
}

func TestMarkAllocator(t *testing.T) {
	const n = 20_000 // of 16 million: some collide
	m, first, owner := newMarkAllocator(), map[ipvs.Frontend]uint32{}, map[uint32]ipvs.Frontend{}
	for i := range n {
		f := marked(i)
		mark := m.assign(fmt.Sprint(i), []ipvs.Frontend{f})[f]
		if mark&ipvs.MarksMask != ipvs.Marks {
			t.Fatalf("%s has mark %#x", f, mark)
		}
		if other, taken := owner[mark]; taken {
			t.Fatalf("%s and %s have mark %#x", f, other, mark)
		}
		first[f], owner[mark] = mark, f
	}
	// Another process, which sees them in another order.
	again, different := newMarkAllocator(), 0
	for i := range n {
		f := marked(n - 1 - i)
		if again.assign(f.String(), []ipvs.Frontend{f})[f] != first[f] {
			different++
		}
	}
	if different > n/100 {
		t.Errorf("%d of %d marks are others after a restart", different, n)
	}
}

func TestMarkAllocator_freesMarks(t *testing.T) {
	m, f := newMarkAllocator(), marked(1)
	mark := m.assign("a", []ipvs.Frontend{f})[f]
	if got := m.assign("b", []ipvs.Frontend{f, f})[f]; got != mark {
		t.Errorf("in another group the mark is %#x, was %#x", got, mark)
	}
	m.assign("a", nil)
	if got := m.assign("b", []ipvs.Frontend{f})[f]; got != mark {
		t.Errorf("with the former group gone the mark is %#x, was %#x", got, mark)
	}
	m.assign("b", nil)
	if len(m.groups)+len(m.of)+len(m.taken)+len(m.users) > 0 {
		t.Errorf("something is left: %+v", m)
	}
}
