package steering

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"

	"github.com/berth-lb/berth/speaker/dataplane/steering/decide"
	"github.com/berth-lb/berth/speaker/dataplane/steering/program"
)

// Route is what this node does with a client's packets, as the kernel has it now.
type Route struct {
	// Slot is the slot that the client's packets are in, of Slots.
	Slot, Slots int
	// BySource: only the client's address says which slot that is.
	BySource bool
	// Ranks are the nodes of the slot, the best first.
	Ranks []Rank
	// Node gets a new connection; this one if its packets do not leave it.
	Node   string
	Reason decide.Reason
	// Asks is the node that Node asks about a connection that it does not know; empty: none, since
	// the slot has had its first node for long, or the Service has no second chance.
	Asks string
}

// Rank is a node of a slot.
type Rank struct {
	Node string
	// Draining: it has no ready endpoint. Dead: it is thought to be. It gets no new connection then,
	// unless nobody else can.
	Draining, Dead bool
}

var (
	// ErrNotSteered is that an address, port and protocol is not steered here.
	ErrNotSteered = errors.New("this node does not steer this address, port and protocol")
	// ErrPasses is that the program lets everything pass.
	ErrPasses = fmt.Errorf(
		"the program lets everything pass, since its tables were not refreshed for %.0f minutes", lease.Minutes(),
	)
)

// RouteOf returns what this node does with a new connection. It reads what the program reads, and
// decides by the same rules.
func (d *Driver) RouteOf(f decide.Flow) (Route, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.synced {
		return Route{}, errors.New("the tables are not written yet: ask again in a few seconds")
	}
	service, err := d.kernel.serviceAt(keyOf(Frontend{f.Service, f.Protocol}))
	if err != nil {
		return Route{}, err
	}
	c, err := d.kernel.configuration()
	switch {
	case err != nil:
		return Route{}, err
	case c.Flags&program.On == 0:
		return Route{}, ErrNotSteered
	case monotonic() > c.Deadline:
		return Route{}, ErrPasses
	}
	r := Route{Slots: int(service.Slots), BySource: service.Flags&program.Affinity != 0}
	r.Slot = decide.SlotOf(f.Hash(c.Seed, r.BySource), r.Slots)
	allowed, err := d.kernel.allows(service, f.Client.Addr())
	if err != nil {
		return Route{}, err
	}
	if !allowed {
		r.Node, r.Reason = d.desired.Self, decide.Source
		return r, nil
	}
	v := decide.View{Self: uint16(c.Self), TTL: freshTTL, Local: service.Flags&program.Local != 0}
	if v.Slot, err = d.kernel.readSlot(service, r.Slot); err != nil {
		return Route{}, err
	}
	return r, d.look(&r, v, service, f)
}

// look fills in what the slot and its nodes say.
func (d *Driver) look(r *Route, v decide.View, service program.Service, f decide.Flow) error {
	names := d.nodes.names()
	nodes := map[uint16]program.Node{}
	for i := range decide.Ranks {
		n, drains := v.Slot.At(i)
		if n == decide.Nobody {
			continue
		}
		node, err := d.kernel.node(n)
		if err != nil {
			return err
		}
		nodes[n] = node
		v.Alive[i], v.Returned[i] = node.Flags&program.Alive != 0, node.Flags&program.Returned != 0
		v.Dead[i] = node.Flags&program.Dead != 0
		r.Ranks = append(r.Ranks, Rank{names[n], drains, !v.Alive[i] && n != v.Self})
	}
	verdict := v.Decide(false)
	r.Node, r.Reason = names[verdict.Node], verdict.Reason
	if verdict.Action == decide.Steer && !hasPath(nodes[verdict.Node], f.Service.Addr()) {
		r.Node, r.Reason = names[v.Self], decide.NoPath
	}
	r.Asks = names[asks(v, verdict.Node, service, f.Protocol)]
	return nil
}

// asks returns whom the first in rank asks, by the tables of this node; Nobody if it does not ask.
func asks(v decide.View, first uint16, service program.Service, protocol uint8) uint16 {
	v.Self, v.TTL = first, forwardedTTL
	v.Chance = protocol == decide.TCP && service.Flags&program.TCPChance != 0 ||
		protocol == decide.UDP && service.Flags&program.UDPChance != 0
	v.Bounces = v.Chance && protocol == decide.UDP
	if verdict := v.Decide(false); verdict.Reason == decide.Second {
		return verdict.Node
	}
	return decide.Nobody
}

// TTLs of a packet from a client, and of one that was forwarded once, to the first in rank.
const (
	freshTTL     = 64
	forwardedTTL = 24
)

// hasPath reports whether packets for an address of this family can be sent to the node.
func hasPath(n program.Node, service netip.Addr) bool {
	if service.Is4() {
		return n.Interface != 0 && n.Addr4 != [4]byte{}
	}
	return n.Interface != 0 && n.Addr6 != [16]byte{}
}

// serviceAt reads the entry of an address, port and protocol.
func (k *kernel) serviceAt(key program.ServiceKey) (s program.Service, err error) {
	switch err := k.Services.Lookup(key, &s); {
	case errors.Is(err, ebpf.ErrKeyNotExist):
		return s, ErrNotSteered
	case err != nil:
		return s, fmt.Errorf("read a Service that is steered: %w", err)
	}
	return s, nil
}

// allows reports whether the Service's source ranges have the client.
func (k *kernel) allows(s program.Service, client netip.Addr) (bool, error) {
	if s.Flags&program.Ranges == 0 {
		return true, nil
	}
	var found uint32
	key := program.RangeKey{PrefixLen: 32 + 128, Service: s.ID, Address: program.AddressOf(client)}
	switch err := k.SourceRanges.Lookup(key, &found); {
	case errors.Is(err, ebpf.ErrKeyNotExist):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("read the ranges of sources: %w", err)
	}
	return true, nil
}

// readSlot reads one slot of a Service's table.
func (k *kernel) readSlot(s program.Service, slot int) (decide.Slot, error) {
	p := k.pages[s.Page]
	if p == nil { // of a process before this one, which did not Sync yet
		return 0, fmt.Errorf("the table is not read yet: page %d is of a process before this one", s.Page)
	}
	var one [slotSize]byte
	if _, err := p.memory.ReadAt(one[:], (int64(s.Start)+int64(slot))*slotSize); err != nil {
		return 0, fmt.Errorf("read a table: %w", err)
	}
	return decide.Slot(binary.NativeEndian.Uint64(one[:])), nil
}

func (k *kernel) node(index uint16) (n program.Node, err error) {
	if err := k.Nodes.Lookup(uint32(index), &n); err != nil {
		return n, fmt.Errorf("read a node: %w", err)
	}
	return n, nil
}
