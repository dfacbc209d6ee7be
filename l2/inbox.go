package l2

import (
	"context"
	"net/netip"
	"path"
	"slices"
	"sync"
	"time"

	"github.com/berth-lb/berth/l2/election"
	"github.com/berth-lb/berth/l2/packet"
)

// inbox is what the driver leaves for a segment's loop. Only the latest value of each thing counts.
type inbox struct {
	mu sync.Mutex
	inputs
}

// inputs are what an inbox holds. They are guarded by its mu until the loop has taken them.
type inputs struct {
	desired    map[netip.Addr]Desired // of addresses that concern this segment, or did
	whole      bool                   // desired is all that there is
	next       map[netip.Addr]Desired // what may be desired soon, never changed; nil: as before
	mirrored   map[mirrorKey]Claim
	rebalance  []netip.Addr
	mirrorLost bool
	link       *packet.Link // nil: not known yet
	renamed    bool         // the mirror had another name for the segment in the meantime
	home       bool         // the interface holds a node address
	others     []string     // the interfaces that this one serves the segment for
	paired     string       // the one that serves the segment for this one, as was confirmed; "": it was not
}

// mirrorKey is what the mirror has one claim for.
type mirrorKey struct {
	addr    netip.Addr
	segment string
}

// orders are what the driver tells every segment.
type orders struct {
	state        State
	keys         Keys
	capabilities Capabilities
	contact      election.Contact
	nodes        nodes
	round        uint64 // of the departure
}

// nodes are the addresses of all nodes. They are never changed, only replaced.
type nodes struct {
	addresses map[string][]netip.Addr
	version   uint64 // 0: not known
}

// within returns the nodes besides self that have an address in one of the subnets; nil: not known.
func (n nodes) within(subnets []netip.Prefix, self string) map[string]bool {
	if n.version == 0 {
		return nil
	}
	found := make(map[string]bool)
	for node, addresses := range n.addresses {
		if node != self && slices.ContainsFunc(addresses, func(a netip.Addr) bool {
			return slices.ContainsFunc(subnets, func(p netip.Prefix) bool { return p.Contains(a.Unmap()) })
		}) {
			found[node] = true
		}
	}
	return found
}

// take returns what was left since the last time, and the link.
func (i *inbox) take() inputs {
	i.mu.Lock()
	defer i.mu.Unlock()
	taken := inputs{
		next:       i.next,
		rebalance:  i.rebalance,
		mirrorLost: i.mirrorLost,
		link:       i.link,
		home:       i.home,
		others:     i.others,
		paired:     i.paired,
		whole:      i.whole,
		renamed:    i.renamed,
	}
	i.next, i.rebalance, i.mirrorLost, i.paired, i.renamed = nil, nil, false, "", false
	if len(i.desired) > 0 || i.whole {
		i.whole = false
		taken.desired, i.desired = i.desired, make(map[netip.Addr]Desired)
	}
	// Without a link the segment has no name yet, so what the mirror says has to wait.
	if len(i.mirrored) > 0 && i.link != nil {
		taken.mirrored, i.mirrored = i.mirrored, make(map[mirrorKey]Claim)
	}
	return taken
}

func (s *segment) setDesired(addr netip.Addr, desired Desired) {
	s.inbox.mu.Lock()
	s.inbox.desired[addr] = desired
	s.inbox.mu.Unlock()
	s.wake.Notify()
}

func (s *segment) setAllDesired(all map[netip.Addr]Desired) {
	s.inbox.mu.Lock()
	s.inbox.desired, s.inbox.whole = all, true
	s.inbox.mu.Unlock()
	s.wake.Notify()
}

func (s *segment) setNext(next map[netip.Addr]Desired) {
	s.inbox.mu.Lock()
	s.inbox.next = next
	s.inbox.mu.Unlock()
	s.wake.Notify()
}

// setMirrored leaves claims of other segments out. After a new name of the segment the driver is
// asked for those that were.
func (s *segment) setMirrored(said Claim) {
	s.inbox.mu.Lock()
	ours := s.inbox.link == nil || s.inbox.link.Segment() == said.Segment
	if ours {
		s.inbox.mirrored[mirrorKey{said.Address, said.Segment}] = said
	}
	s.inbox.mu.Unlock()
	if ours {
		s.wake.Notify()
	}
}

func (s *segment) rebalance(addr netip.Addr) {
	s.inbox.mu.Lock()
	s.inbox.rebalance = append(s.inbox.rebalance, addr)
	s.inbox.mu.Unlock()
	s.wake.Notify()
}

func (s *segment) setMirrorLost() {
	s.inbox.mu.Lock()
	s.inbox.mirrorLost = true
	clear(s.inbox.mirrored)
	s.inbox.mu.Unlock()
	s.wake.Notify()
}

func (s *segment) setLink(l packet.Link, home bool) {
	s.inbox.mu.Lock()
	was := s.inbox.link
	changed := was == nil || !was.Same(l) || was.MTU != l.MTU || !slices.Equal(was.Subnets, l.Subnets) ||
		s.inbox.home != home
	s.inbox.renamed = s.inbox.renamed || was != nil && was.Segment() != l.Segment()
	s.inbox.link, s.inbox.home = &l, home
	s.inbox.mu.Unlock()
	if changed {
		s.wake.Notify()
	}
}

func (s *segment) setPaired(first string) {
	s.inbox.mu.Lock()
	s.inbox.paired = first
	s.inbox.mu.Unlock()
	s.wake.Notify()
}

func (s *segment) setOthers(names []string) {
	s.inbox.mu.Lock()
	s.inbox.others = names
	s.inbox.mu.Unlock()
	s.wake.Notify()
}

// isHome reports whether the interface holds a node address.
func (s *segment) isHome() bool {
	s.inbox.mu.Lock()
	defer s.inbox.mu.Unlock()
	return s.inbox.home
}

// place returns whether the interface holds a node address, and those that it serves the segment
// for.
func (s *segment) place() (home bool, others []string) {
	s.inbox.mu.Lock()
	defer s.inbox.mu.Unlock()
	return s.inbox.home, s.inbox.others
}

// readInbox brings the loop up to date with the inbox and the driver's orders.
func (s *segment) readInbox(ctx context.Context, now time.Time) {
	in, orders := s.inbox.take(), s.parent.orders()
	s.state, s.keys, s.round = orders.state, orders.keys, orders.round
	before, known := s.link.Segment(), s.link.Name != ""
	if in.link != nil && (!in.link.Same(s.link) || s.link.Name == "") {
		s.changeLink(ctx, now, *in.link)
	} else if in.link != nil {
		s.link = *in.link
		s.machine.SetMTU(s.link.MTU)
	}
	if known && s.link.Segment() != before {
		s.renameSegment(now, before)
	} else if in.renamed { // and back
		s.machine.Remirror(now, s.parent.mirrored(s.link.Segment()))
	}
	if subnets := s.link.HostSubnets(); orders.nodes.version != s.nodes.version || !slices.Equal(subnets, s.subnets) {
		s.nodes, s.subnets = orders.nodes, subnets
		s.machine.SetNeighbors(now, orders.nodes.within(subnets, s.config.Node))
	}
	s.machine.SetCapabilities(now, orders.capabilities)
	if !orders.contact.IsZero() {
		s.machine.Confirm(now, orders.contact)
	}
	s.updateMachine(now, causeOf(orders.state))
	if in.mirrorLost {
		s.machine.MirrorLost(now)
	}
	if len(in.mirrored) > 0 {
		s.drain(now) // a peer says a claim on the segment before the mirror has it
	}
	for _, said := range in.mirrored {
		if said.Segment == s.link.Segment() {
			s.machine.Mirrored(now, said)
		}
	}
	if in.paired != "" && s.parent.isPaired(s.name, in.paired) {
		s.confirmFirst(now, in.paired)
	}
	if in.home != s.home || !slices.Equal(in.others, s.twins.others) {
		s.home, s.twins.others = in.home, in.others
		s.applyDesired(now)
	}
	if in.whole {
		for addr := range s.desired {
			if _, still := in.desired[addr]; !still {
				in.desired[addr] = Desired{}
			}
		}
	}
	for addr, d := range in.desired {
		if s.desired[addr] = d; !d.Announced {
			delete(s.desired, addr)
		}
		s.apply(now, addr, d)
	}
	if in.next != nil {
		s.coming = in.next
		s.anticipate(now)
	}
	s.machine.Rebalance(in.rebalance...)
}

// renameSegment takes that the mirror calls the segment by another name: the claims of this node
// move there, and those of others under that name count.
func (s *segment) renameSegment(now time.Time, before string) {
	for a := range s.owned {
		s.notifyMirror(before, Claim{Address: a})
	}
	s.machine.Remirror(now, s.parent.mirrored(s.link.Segment()))
}

// causeOf is why the ownership of addresses changes when this node enters a state.
func causeOf(state State) Cause {
	switch {
	case state.Departing():
		return election.Departing
	case state == Ready:
		return election.Joined
	}
	return election.Unable
}

// apply hands an address to the machine if it concerns this interface, or one that this one serves
// the segment for.
func (s *segment) apply(now time.Time, addr netip.Addr, d Desired) {
	if !s.isConcerned(d) {
		d = Desired{}
	}
	s.machine.SetDesired(now, addr, d)
}

// isConcerned reports whether this interface serves an address that is wanted like that.
func (s *segment) isConcerned(d Desired) bool {
	return s.twins.first == "" &&
		(concerns(d, s.name, s.home) || slices.ContainsFunc(s.twins.others, func(name string) bool {
			return concerns(d, name, s.parent.home(name))
		}))
}

// concerns reports whether the address is wanted on an interface; home: it holds a node address.
func concerns(d Desired, name string, home bool) bool {
	return len(d.Interfaces) == 0 && home || slices.ContainsFunc(d.Interfaces, func(p string) bool {
		return p == "" && home || matches(p, name)
	})
}

func matches(pattern, ifname string) bool {
	ok, err := path.Match(pattern, ifname)
	return err == nil && ok
}
