package dataplane

import (
	"hash/fnv"
	"io"

	"github.com/berth-lb/berth/speaker/dataplane/ipvs"
)

// markAllocator gives frontends firewall marks, each its own. After a restart a frontend gets the
// one it had, unless two want the same and come in another order. It is not safe for concurrent
// use.
type markAllocator struct {
	groups map[string]map[ipvs.Frontend]uint32
	users  map[ipvs.Frontend]int // groups that have it: for a moment two may
	of     map[ipvs.Frontend]uint32
	taken  map[uint32]bool
}

func newMarkAllocator() *markAllocator {
	return &markAllocator{
		map[string]map[ipvs.Frontend]uint32{},
		map[ipvs.Frontend]int{},
		map[ipvs.Frontend]uint32{},
		map[uint32]bool{},
	}
}

// assign returns the marks of a group's frontends, which replace those it had.
func (m *markAllocator) assign(group string, frontends []ipvs.Frontend) map[ipvs.Frontend]uint32 {
	before, after := m.groups[group], make(map[ipvs.Frontend]uint32, len(frontends))
	for _, f := range frontends {
		if _, double := after[f]; double {
			continue
		}
		after[f] = m.mark(f)
		m.users[f]++
	}
	for f := range before {
		if m.users[f]--; m.users[f] == 0 {
			delete(m.taken, m.of[f])
			delete(m.of, f)
			delete(m.users, f)
		}
	}
	if m.groups[group] = after; len(after) == 0 {
		delete(m.groups, group)
	}
	return after
}

func (m *markAllocator) mark(f ipvs.Frontend) uint32 {
	if mark, has := m.of[f]; has {
		return mark
	}
	h := fnv.New32a()
	_, _ = io.WriteString(h, f.String()) // it never fails
	n := h.Sum32()
	mark := ipvs.Marks | n&^ipvs.MarksMask
	for m.taken[mark] {
		n++
		mark = ipvs.Marks | n&^ipvs.MarksMask
	}
	m.of[f], m.taken[mark] = mark, true
	return mark
}
