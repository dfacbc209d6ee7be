package l2

import (
	"context"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-lb/berth/l2/packet"
)

// system is the edge to the kernel: what interfaces there are, and sockets on them.
type system interface {
	// now is a clock that counts while the machine is suspended: peers do not wait for it to wake.
	now() time.Time
	// links lists the interfaces that can carry a segment: Ethernet, not a port of a bridge or
	// bond.
	links() ([]packet.Link, error)
	// watch calls changed whenever links may answer differently, until ctx ends or the kernel's
	// notifications are lost; then it returns why.
	watch(ctx context.Context, changed func()) error
	// open opens the sockets on an interface that is up, and calls the handlers from goroutines of
	// its own until the wire is closed.
	open(l packet.Link, handlers packet.Handlers) (wire, error)
}

// wire is an interface's sockets. Its methods wait only for the interface's own queue.
type wire interface {
	// SendHello, SendARP and SendNDP send a whole Ethernet frame.
	SendHello(frame []byte) error
	SendARP(frame []byte) error
	SendNDP(frame []byte) error
	// Drain hands every hello that waits in the socket to take before it returns.
	Drain(take func(payload []byte)) error
	// Join lets ARP or neighbor discovery about an address reach the responders at once. The
	// solicited-node group of an IPv6 address follows soon after. Leave undoes one Join, soon
	// after.
	Join(netip.Addr)
	Leave(netip.Addr)
	// Close closes the sockets. It may be called more than once and from any goroutine. Wait
	// returns once the handlers will not be called any more.
	Close()
	Wait()
}

// hostSystem is the system that this process runs on.
type hostSystem struct{}

// begun is when the program started, by two clocks. The second counts while the machine is
// suspended; Go's own does not.
var begun, begunBoot = time.Now(), sinceBoot()

func (hostSystem) now() time.Time { return begun.Add(sinceBoot() - begunBoot) }

// sinceBoot reads CLOCK_BOOTTIME (clock_gettime(2)).
func sinceBoot() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		panic(err) // every kernel since Linux 2.6.39 has it
	}
	return time.Duration(t.Nano())
}

func (hostSystem) links() ([]packet.Link, error) { return packet.Links() }

func (hostSystem) watch(ctx context.Context, changed func()) error { return packet.Watch(ctx, changed) }

func (hostSystem) open(l packet.Link, handlers packet.Handlers) (wire, error) {
	s, err := packet.Open(l, handlers)
	if err != nil {
		return nil, err
	}
	return s, nil
}
