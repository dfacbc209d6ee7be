package table

import (
	"cmp"
	"hash/fnv"
	"math"
	"slices"
)

// Builder builds tables, and keeps what they have in common. It is for one goroutine.
type Builder struct {
	columns map[string]*column // by node
	scores  []uint64
}

// column is what a node's score in each slot depends on beside its weight.
type column struct {
	id    uint64   // of the node, for equal scores
	place []uint16 // of each slot among all slots of this node, by a hash
	used  bool     // since the last Forget
}

// NewBuilder returns a Builder.
func NewBuilder() *Builder {
	return &Builder{columns: map[string]*column{}, scores: scores()}
}

// Forget frees what was kept for nodes that no table was built of since the last call.
func (b *Builder) Forget() {
	for k, c := range b.columns {
		if !c.used {
			delete(b.columns, k)
		}
		c.used = false
	}
}

// Build returns the table of normalized members. Without members it has no slots.
func (b *Builder) Build(members Members) *Table {
	if len(members) == 0 {
		return &Table{}
	}
	t := &Table{Members: members, Slots: make([]Slot, Slots)}
	r := b.ranker(members)
	for i := range t.Slots {
		r.rank(i, &t.Slots[i])
	}
	return t
}

// Change returns the table of members like Build. It takes from a table of members that were
// nearly the same what stays.
func (b *Builder) Change(old *Table, members Members) *Table {
	if old == nil || len(members) == 0 || len(old.Slots) == 0 {
		return b.Build(members)
	}
	moved, added := difference(old.Members, members)
	if len(added) > len(members)/2 {
		return b.Build(members)
	}
	t := &Table{Members: members, Slots: make([]Slot, len(old.Slots))}
	r := b.ranker(members)
	for i := range t.Slots {
		stays := true
		for j, m := range old.Slots[i] {
			if m == None {
				t.Slots[i][j] = None
				continue
			}
			t.Slots[i][j] = moved[m]
			stays = stays && moved[m] != None
		}
		for _, m := range added {
			if stays {
				r.insert(i, &t.Slots[i], m)
			}
		}
		if !stays || drain(old.Members, old.Slots[i][:Ranks-1]) || drain(members, t.Slots[i][:]) {
			r.rank(i, &t.Slots[i])
		}
	}
	return t
}

// drain reports whether there are so many nodes as ranks, and all drain.
func drain(members Members, ranks []uint16) bool {
	for _, m := range ranks {
		if m == None || !members[m].Draining {
			return false
		}
	}
	return true
}

// difference returns where each old member is now, None if it is gone or has another weight, and
// which members are new or have another weight.
func difference(old, members Members) (moved, added []uint16) {
	moved = make([]uint16, len(old))
	j := 0
	for i, m := range old {
		moved[i] = None
		for j < len(members) && members[j].Node < m.Node {
			added = append(added, uint16(j))
			j++
		}
		if j == len(members) || members[j].Node != m.Node {
			continue
		}
		if members[j].Weight == m.Weight {
			moved[i] = uint16(j)
		} else {
			added = append(added, uint16(j))
		}
		j++
	}
	for ; j < len(members); j++ {
		added = append(added, uint16(j))
	}
	return moved, added
}

// ranker computes the ranking of slots.
type ranker struct {
	members Members
	scores  []uint64
	columns []*column
	weights []uint64
}

func (b *Builder) ranker(members Members) ranker {
	r := ranker{members: members, scores: b.scores}
	for _, m := range members {
		r.columns = append(r.columns, b.column(m.Node))
		r.weights = append(r.weights, uint64(m.Weight))
	}
	return r
}

func (r *ranker) score(slot int, member uint16) uint64 {
	return r.scores[r.columns[member].place[slot]] * r.weights[member]
}

// rank ranks all members in a slot. Where those that drain would take all ranks, the best other one
// has the last.
func (r *ranker) rank(slot int, s *Slot) {
	*s = Slot{None, None, None, None}
	for m := range r.columns {
		r.insert(slot, s, uint16(m))
	}
	if !drain(r.members, s[:]) {
		return
	}
	ready := Slot{None, None, None, None}
	for m := range r.columns {
		if !r.members[m].Draining {
			r.insert(slot, &ready, uint16(m))
		}
	}
	s[Ranks-1] = ready[0]
}

// insert puts a member where its score belongs.
func (r *ranker) insert(slot int, s *Slot, m uint16) {
	score := r.score(slot, m)
	if last := s[Ranks-1]; last != None && r.ahead(slot, last, m, score) {
		return
	}
	at := 0
	for s[at] != None && r.ahead(slot, s[at], m, score) {
		at++
	}
	copy(s[at+1:], s[at:])
	s[at] = m
}

// ahead reports whether one member ranks before another one that has this score.
func (r *ranker) ahead(slot int, one, other uint16, score uint64) bool {
	mine := r.score(slot, one)
	return mine > score || mine == score && r.columns[one].id < r.columns[other].id
}

// Before returns how two members of normalized ones rank in a slot, by what Build goes by.
func (b *Builder) Before(members Members) func(slot int, one, other uint16) bool {
	r := b.ranker(members)
	return func(slot int, one, other uint16) bool { return r.ahead(slot, one, other, r.score(slot, other)) }
}

// scores returns the score of a node of weight 1 by place: -1/ln(u), where the places are the
// middles of equal parts of (0, 1). In units of 2^-20, so that all machines compare the same
// numbers: floating point may differ in its last bit.
func scores() []uint64 {
	s := make([]uint64, Slots)
	for i := range s {
		u := (float64(i) + 0.5) / Slots
		s[i] = uint64(math.Round(-(1 << 20) / math.Log(u)))
	}
	return s
}

// column sorts the slots by a hash of the node's name. So each place comes once, which halves the
// scatter of shares that independent random numbers have.
func (b *Builder) column(node string) *column {
	if c := b.columns[node]; c != nil {
		c.used = true
		return c
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(node)) // never fails
	c := &column{id: mix(h.Sum64()), place: make([]uint16, Slots), used: true}
	type keyed struct {
		hash uint64
		slot uint16
	}
	order := make([]keyed, Slots)
	for i := range order {
		order[i] = keyed{mix(c.id + uint64(i)*0x9e3779b97f4a7c15), uint16(i)}
	}
	slices.SortFunc(order, func(a, b keyed) int { return cmp.Compare(a.hash, b.hash) })
	for place, k := range order {
		c.place[k.slot] = uint16(place)
	}
	b.columns[node] = c
	return c
}

// mix is the finalizer of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number
// generators", 2014). It maps different numbers to different ones.
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
