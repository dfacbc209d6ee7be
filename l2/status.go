package l2

import (
	"net"
	"net/netip"
	"slices"
	"strings"
)

// Status is a bounded summary: its size grows with interfaces and peers, not with groups.
type Status struct {
	State    State
	Keyed    bool      // hellos can be signed; without a key nothing is claimed
	Segments []Segment // by interface name
	Err      string    // what hinders the driver as a whole; empty: nothing
	Lost     uint64    // observations nobody read in time
}

// Segment is one interface as this node sees it.
type Segment struct {
	Interface string
	MAC       net.HardwareAddr // empty while there is none
	Up        bool             // link up, sockets open
	Claiming  bool             // this node may own groups here: ready, keyed, and has listened
	Peers     []Peer           // alive, by name
	Groups    int              // groups wanted here
	Owned     int              // groups answered for, handovers included
	Err       string           // the last failure that still stands
	Subnets   []netip.Prefix   // of the interface, without link-local ones and single addresses
	ProxyARP  net.HardwareAddr // a host that answers for everything; empty: none is known
}

// Status returns what is known now. It does not wait for the network.
func (d *Driver) Status() Status {
	d.mu.Lock()
	s := Status{State: d.state, Keyed: len(d.keys.Sign) > 0, Err: d.failure, Lost: d.observed.Dropped()}
	for _, seg := range d.segments {
		if p := seg.published.Load(); p != nil {
			s.Segments = append(s.Segments, *p)
		}
	}
	d.mu.Unlock()
	slices.SortFunc(s.Segments, func(a, b Segment) int { return strings.Compare(a.Interface, b.Interface) })
	return s
}

// Holds returns the interfaces on which this node answers for the group now, by name.
func (d *Driver) Holds(group string) []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var held []string
	for name, seg := range d.segments {
		if seg.answers.Holds(group) {
			held = append(held, name)
		}
	}
	slices.Sort(held)
	return held
}
