package steering

import (
	"hash/fnv"
	"net/netip"
	"time"

	"github.com/berth-lb/berth/speaker/dataplane/steering/decide"
	"github.com/berth-lb/berth/speaker/dataplane/steering/program"
	"github.com/berth-lb/berth/speaker/dataplane/steering/table"
)

// nodes are the nodes in the kernel's map: each keeps its index for as long as it is there, also
// when the speaker restarts.
type nodes struct {
	index map[string]uint16
	// known are indices by hash of the name, of nodes that a process before this one left.
	known map[uint64]uint16
	// taken are the indices that are in use.
	taken map[uint16]bool
	last  uint16 // given
	// suspected are nodes that are thought dead; returned is until when others must count with
	// connections elsewhere because one was.
	suspected map[string]bool
	dead      map[string]bool // of those that are suspected, beyond doubt
	returned  map[string]time.Time
	asked     uint64 // how many second chances there were when returned ones were to be forgotten last
}

func nameOf(node string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(node)) // never fails
	return h.Sum64()
}

// newNodes takes over what is in the kernel.
func newNodes(found map[uint16]program.Node) *nodes {
	n := &nodes{
		index: map[string]uint16{}, known: map[uint64]uint16{}, taken: map[uint16]bool{},
		suspected: map[string]bool{}, dead: map[string]bool{}, returned: map[string]time.Time{},
	}
	for i, node := range found {
		n.known[node.Name] = i
		n.taken[i] = true
		n.last = max(n.last, i)
	}
	return n
}

// sync gives every node an index, and returns whether another one is a node now than before.
func (n *nodes) sync(desired map[string]Node, found map[uint16]program.Node, now time.Time) (changed bool) {
	for name := range desired {
		if _, ok := n.index[name]; ok {
			continue
		}
		changed = true
		hash := nameOf(name)
		i, ok := n.known[hash]
		if ok {
			n.adopt(name, found[i], now)
		} else {
			i = n.next()
		}
		delete(n.known, hash)
		n.index[name], n.taken[i] = i, true
	}
	for name := range n.index {
		if _, ok := desired[name]; !ok {
			changed = true
			delete(n.taken, n.index[name])
			delete(n.index, name)
			delete(n.suspected, name)
			delete(n.dead, name)
			delete(n.returned, name)
		}
	}
	for hash, i := range n.known {
		delete(n.taken, i)
		delete(n.known, hash)
	}
	return changed
}

// adopt takes over what was thought of a node.
func (n *nodes) adopt(name string, found program.Node, now time.Time) {
	if found.Flags&program.Alive == 0 {
		n.suspected[name] = true
	}
	if found.Flags&program.Returned != 0 || n.suspected[name] {
		n.returned[name] = now.Add(table.MovedFor)
	}
}

// next is an index that was not used for as long as possible.
func (n *nodes) next() uint16 {
	for {
		n.last = n.last%(decide.MaxNodes-1) + 1
		if !n.taken[n.last] {
			return n.last
		}
	}
}

// bury notes that a node that is suspected is dead beyond doubt, or not. It returns whether that is
// news.
func (n *nodes) bury(name string, dead bool) bool {
	if n.dead[name] == dead {
		return false
	}
	if n.dead[name] = dead; !dead {
		delete(n.dead, name)
	}
	return true
}

// suspect notes that a node is thought dead, or no longer. It returns whether that is news.
func (n *nodes) suspect(name string, dead bool, now time.Time) bool {
	if n.suspected[name] == dead {
		return false
	}
	if dead {
		n.suspected[name] = true
	} else {
		delete(n.suspected, name)
	}
	n.returned[name] = now.Add(table.MovedFor)
	return true
}

// forget lets nodes no longer count as returned whose time is over. While connections still need a
// second chance it is prolonged. Asked returns how many there were; false: that is not known now.
func (n *nodes) forget(now time.Time, asked func() (uint64, bool)) {
	var over []string
	for name, until := range n.returned {
		if !n.suspected[name] && !now.Before(until) {
			over = append(over, name)
		}
	}
	if len(over) == 0 {
		return
	}
	sum, known := asked()
	for _, name := range over {
		if known && sum == n.asked {
			delete(n.returned, name)
		} else {
			n.returned[name] = now.Add(table.MovedFor)
		}
	}
	if known {
		n.asked = sum
	}
}

// entry is what the kernel's map has of a node.
func (n *nodes) entry(name string, d Node) program.Node {
	e := program.Node{Name: nameOf(name), Interface: uint32(d.Interface), MTU: uint32(d.MTU)}
	if d.IPv4.IsValid() {
		e.Addr4 = d.IPv4.As4()
	}
	if d.IPv6.IsValid() {
		e.Addr6 = d.IPv6.As16()
	}
	if d.Encapsulate {
		e.Flags |= program.Encapsulate
	}
	if !n.suspected[name] {
		e.Flags |= program.Alive
	}
	if _, returned := n.returned[name]; returned || n.suspected[name] {
		e.Flags |= program.Returned
	}
	if n.dead[name] {
		e.Flags |= program.Dead
	}
	return e
}

// entries are those of all nodes, and the addresses that others are known by: what seems to come
// from this one itself, over the network, does not.
func (n *nodes) entries(d Desired) (map[uint16]program.Node, map[program.Address]uint32) {
	byIndex, byAddress := map[uint16]program.Node{}, map[program.Address]uint32{}
	for name, node := range d.Nodes {
		i := n.index[name]
		byIndex[i] = n.entry(name, node)
		for _, a := range []netip.Addr{node.IPv4, node.IPv6} {
			if a.IsValid() && name != d.Self {
				byAddress[program.AddressOf(a)] = uint32(i)
			}
		}
	}
	return byIndex, byAddress
}
