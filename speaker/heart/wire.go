package heart

import (
	"encoding/binary"
	"hash/maphash"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"time"
	"unsafe"

	"github.com/berth-lb/berth/bgp/bfd"
	"github.com/berth-lb/berth/l2"
)

// perOrder is how many addresses or claims go into one order, so that neither side holds much at
// once.
const perOrder = 500

// Identity says who the node is.
type Identity struct {
	Node    string
	Cluster string // see l2.Config
	// NodeAddresses select interfaces until the nodes are known.
	NodeAddresses []netip.Addr
}

// order is what the speaker wants. A nil field changes nothing. The parts are carried out in the
// order of the fields.
type order struct {
	// Watches: this connection is about Paths only. It stands in the first order.
	Watches      bool                    `json:",omitempty"`
	Identity     *Identity               `json:",omitempty"`
	Keys         *l2.Keys                `json:",omitempty"`
	Capabilities *l2.Capabilities        `json:",omitempty"`
	Nodes        map[string][]netip.Addr `json:",omitempty"`
	Confirmed    *time.Duration          `json:",omitempty"` // how long ago
	MirrorLost   bool                    `json:",omitempty"`
	Mirrored     []l2.Claim              `json:",omitempty"`
	// Terms of addresses are shared between them.
	Terms     []terms             `json:",omitempty"`
	Desired   map[netip.Addr]wish `json:",omitempty"`
	Next      map[netip.Addr]wish `json:",omitempty"`
	NewNext   bool                `json:",omitempty"` // Next replaces what was next
	Paths     *[]bfd.Peer         `json:",omitempty"`
	State     *stateOrder         `json:",omitempty"`
	Rebalance []netip.Addr        `json:",omitempty"`
	Question  *question           `json:",omitempty"`
	Complete  bool                `json:",omitempty"` // everything was said on this connection
	Farewell  bool                `json:",omitempty"` // the speaker ends, and has nothing more to say
}

// terms are what many addresses have in common.
type terms struct {
	Interfaces []string         `json:",omitempty"`
	Candidates []string         `json:",omitempty"`
	Preferred  map[string]int32 `json:",omitempty"`
	Needs      l2.Capabilities  `json:",omitempty"`
	Exempt     []string         `json:",omitempty"`
}

// wish is the desired state of one address.
type wish struct {
	Terms     int    // index of the order's Terms
	Announced bool   `json:",omitempty"` // false: withdrawn
	Rank      string `json:",omitempty"`
}

type stateOrder struct {
	State l2.State
	Turn  uint64 // of the orders of this connection
}

// question asks for what is read and not sent by itself.
type question struct {
	ID      uint64
	Metrics bool // else Status
}

// news is what the heart has to say. A nil field says nothing.
type news struct {
	// Whole: Answers, Holds and Claims are all there are. It is the first of a connection.
	Whole   bool                    `json:",omitempty"`
	Answers map[netip.Addr]int      `json:",omitempty"` // on how many segments it is answered for
	Holds   map[netip.Addr][]string `json:",omitempty"` // by interface
	Claims  []l2.Claim              `json:",omitempty"`
	Paths   []bfd.Event             `json:",omitempty"`
	Seen    []observation           `json:",omitempty"`
	Drained uint64                  `json:",omitempty"` // the turn of the state that it has drained for
	Told    []answer                `json:",omitempty"`
}

func (n *news) empty() bool {
	return !n.Whole && len(n.Answers) == 0 && len(n.Holds) == 0 && len(n.Claims) == 0 && len(n.Paths) == 0 &&
		len(n.Seen) == 0 && n.Drained == 0 && len(n.Told) == 0
}

// answer to a question.
type answer struct {
	ID      uint64
	Layer2  l2.Status
	BFD     []bfd.Status `json:",omitempty"`
	Metrics []byte       `json:",omitempty"` // in Prometheus' text format
}

// observation is an l2.Observation whose error is text.
type observation struct {
	l2.Observation
	Failure string `json:",omitempty"`
}

// termSet gives each distinct combination of terms one number.
type termSet struct {
	all  []terms
	seed maphash.Seed
	by   map[uint64][]int
	last struct { // many addresses share lists, so that most are found without a look at these
		terms  terms
		number int
	}
}

func newTermSet() *termSet { return &termSet{seed: maphash.MakeSeed(), by: map[uint64][]int{}} }

// wish returns the wish for a desired state, and adds its terms to the set.
func (s *termSet) wish(d l2.Desired) wish {
	if !d.Announced {
		return wish{}
	}
	t := terms{
		Interfaces: d.Interfaces, Candidates: d.Candidates, Preferred: d.Preferred, Needs: d.Needs, Exempt: d.Exempt,
	}
	return wish{Terms: s.number(t), Announced: true, Rank: d.Rank}
}

// number returns the number of these terms, and adds them to the set.
func (s *termSet) number(t terms) int {
	if len(s.all) > 0 && t.same(s.last.terms) {
		return s.last.number
	}
	key := s.hash(t)
	found := slices.IndexFunc(s.by[key], func(i int) bool { return t.equal(s.all[i]) })
	s.last.terms = t
	if found >= 0 {
		s.last.number = s.by[key][found]
		return s.last.number
	}
	s.all = append(s.all, t)
	s.last.number = len(s.all) - 1
	s.by[key] = append(s.by[key], s.last.number)
	return s.last.number
}

// mostShared is how many terms are shared between orders; then all are forgotten.
const mostShared = 1024

// share returns equal terms that are in the set, so that they are kept once, whatever the number of
// orders that say them.
func (s *termSet) share(t terms) terms {
	if len(s.all) >= mostShared {
		*s = *newTermSet()
	}
	return s.all[s.number(t)]
}

// same reports whether two terms are equal because their lists are the same memory.
func (t terms) same(o terms) bool {
	return t.Needs == o.Needs && slices.Equal(t.Interfaces, o.Interfaces) && slices.Equal(t.Exempt, o.Exempt) &&
		len(t.Candidates) == len(o.Candidates) &&
		unsafe.SliceData(t.Candidates) == unsafe.SliceData(o.Candidates) &&
		reflect.ValueOf(t.Preferred).UnsafePointer() == reflect.ValueOf(o.Preferred).UnsafePointer()
}

// hash leaves the preferences out: they have no order.
func (s *termSet) hash(t terms) uint64 {
	var h maphash.Hash
	h.SetSeed(s.seed)
	for _, list := range [][]string{t.Interfaces, t.Candidates, t.Exempt} {
		for _, text := range list {
			_, _ = h.WriteString(text)
			_ = h.WriteByte(0)
		}
		_ = h.WriteByte(1)
	}
	var needs [2]byte
	binary.BigEndian.PutUint16(needs[:], uint16(t.Needs))
	_, _ = h.Write(needs[:])
	return h.Sum64()
}

func (t terms) equal(o terms) bool {
	return t.Needs == o.Needs && slices.Equal(t.Interfaces, o.Interfaces) && slices.Equal(t.Exempt, o.Exempt) &&
		slices.Equal(t.Candidates, o.Candidates) && maps.Equal(t.Preferred, o.Preferred)
}

// desired is the reverse of termSet.wish. A number that is none counts as withdrawn.
func (w wish) desired(all []terms) l2.Desired {
	if !w.Announced || w.Terms < 0 || w.Terms >= len(all) {
		return l2.Desired{}
	}
	t := all[w.Terms]
	return l2.Desired{
		Announced: true, Interfaces: t.Interfaces, Candidates: t.Candidates, Preferred: t.Preferred,
		Needs: t.Needs, Exempt: t.Exempt, Rank: w.Rank,
	}
}
