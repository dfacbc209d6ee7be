package l2

import (
	"context"
	"net/netip"

	"github.com/berth-lb/berth/l2/packet"
)

// system is the edge to the kernel: what interfaces there are, and sockets on them.
type system interface {
	// links lists the interfaces that can carry a segment: Ethernet, not a port of a bridge or bond.
	links() ([]packet.Link, error)
	// watch calls changed whenever links may answer differently, until ctx ends or the kernel's
	// notifications are lost; then it returns why.
	watch(ctx context.Context, changed func()) error
	// open opens the sockets on an interface that is up, and calls in from goroutines of its own until the
	// wire is closed.
	open(l packet.Link, in packet.Handlers) (wire, error)
}

// wire is an interface's sockets. Its methods do not wait for anything but the interface's own queue.
type wire interface {
	// sendHello, sendARP and sendNDP send a whole Ethernet frame.
	SendHello(frame []byte) error
	SendARP(frame []byte) error
	SendNDP(frame []byte) error
	// drain hands every hello that waits in the socket to take before it returns.
	Drain(take func(payload []byte)) error
	// join lets ARP or neighbour discovery about an address reach the responders, at once; the solicited-node
	// group of an IPv6 address follows soon after. leave undoes one join, soon after.
	Join(netip.Addr)
	Leave(netip.Addr)
	// close closes the sockets; it may be called more than once and from any goroutine. wait returns once
	// the ingress will not be called any more.
	Close()
	Wait()
}

// kernel is the system this process runs on.
type kernel struct{}

func (kernel) open(l packet.Link, in packet.Handlers) (wire, error) {
	s, err := packet.Open(l, in)
	if err != nil {
		return nil, err
	}
	return s, nil
}

func (k kernel) links() ([]packet.Link, error) { return packet.Links() }

func (k kernel) watch(ctx context.Context, changed func()) error { return packet.Watch(ctx, changed) }
