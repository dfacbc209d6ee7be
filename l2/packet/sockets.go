package packet

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/berth-lb/berth/internal/async"
	"github.com/berth-lb/berth/l2/neighbor"
)

// Sockets are the packet sockets of one interface: for hellos, ARP and neighbor discovery. Their
// methods wait only for the interface's own queue.
type Sockets struct {
	hello, arp, ndp      *packet.Conn
	in                   Handlers
	arpFilter, ndpFilter *socketFilter
	solicited            *solicitedNodes
	index                int                // of the interface
	queried              chan time.Duration // within what time an answer is due
	changed              async.Signal       // addresses were joined or left

	readers sync.WaitGroup
	closing sync.Once
	done    chan struct{}
}

// Handlers take what sockets receive. Frames are valid only during the call.
type Handlers struct {
	Hello func(payload []byte)
	Cut   func() // a frame in place of a hello was too long to be one
	// Probe takes the messages of ProbeFrame; nil: they are ignored.
	Probe  func(cluster uint64, node string)
	ARP    func(frame []byte) (reply []byte)
	NDP    func(frame []byte) (reply []byte)
	Broken func(error) // a socket failed for good: close the sockets
	Failed func(error) // something failed and will be retried; nil: it works again
}

// Open opens an interface's sockets in the network namespace of the process. It needs CAP_NET_RAW.
// The handlers are called from goroutines of the sockets until Wait returns.
func Open(l Link, in Handlers) (*Sockets, error) {
	ifi := &net.Interface{Index: l.Index, Name: l.Name, MTU: l.MTU, HardwareAddr: l.HardwareAddr()}
	s := &Sockets{
		in:      in,
		index:   l.Index,
		changed: async.NewSignal(),
		queried: make(chan time.Duration, 1),
		done:    make(chan struct{}),
	}
	var err error
	defer func() {
		if err != nil {
			s.closeConns()
		}
	}()
	if s.hello, err = listen(ifi, etherTypeHello, acceptAll()); err != nil {
		return nil, fmt.Errorf("open the hello socket on %s: %w", l.Name, err)
	}
	if err = s.hello.JoinGroup(helloGroup()); err != nil {
		return nil, fmt.Errorf("join the hello group on %s: %w", l.Name, err)
	}
	if s.arp, err = listen(ifi, neighbor.EtherTypeARP, rejectAll()); err != nil {
		return nil, fmt.Errorf("open the ARP socket on %s: %w", l.Name, err)
	}
	if s.ndp, err = listen(ifi, neighbor.EtherTypeIPv6, rejectAll()); err != nil {
		return nil, fmt.Errorf("open the NDP socket on %s: %w", l.Name, err)
	}
	s.arpFilter, s.ndpFilter = newSocketFilter(s.arp, arpFilter), newSocketFilter(s.ndp, ndpFilter)
	s.solicited = newSolicitedNodes(ifi, s)
	s.readers.Go(func() { s.read(s.hello, maxHello, s.takeHello) })
	s.readers.Go(func() { s.read(s.arp, maxQuestion, s.reply(s.arp, in.ARP)) })
	s.readers.Go(func() { s.read(s.ndp, maxQuestion, s.reply(s.ndp, s.takeNDP)) })
	s.readers.Go(s.upkeep)
	return s, nil
}

func listen(ifi *net.Interface, etherType int, filter []bpf.Instruction) (*packet.Conn, error) {
	raw, err := bpf.Assemble(filter)
	if err != nil {
		return nil, fmt.Errorf("assemble the filter: %w", err)
	}
	return packet.Listen(ifi, packet.Raw, etherType, &packet.Config{Filter: raw})
}

const (
	// maxHello is the longest frame that is read from the hello socket. A message that does not
	// depend on the sender's MTU is far below it.
	maxHello = 16 << 10
	// maxQuestion is the longest frame that is read from the others. Of a longer one the responders
	// see the beginning, which is all they need.
	maxQuestion = 2048
)

// read passes each frame to take until the socket is closed or fails. Of a frame that is longer
// than that, it passes the beginning.
func (s *Sockets) read(c *packet.Conn, longest int, take func(frame []byte)) {
	raw, err := c.SyscallConn()
	b := make([]byte, longest+1) // a frame that fills it was cut
	for err == nil {
		// The library's read allocates addresses for each frame, which on a busy segment costs as
		// much as the answer.
		var failure error
		err = raw.Read(func(fd uintptr) bool {
			for range readBatch {
				var n int
				if n, failure = unix.Read(int(fd), b); failure != nil {
					break
				}
				take(b[:n])
			}
			return !errors.Is(failure, unix.EAGAIN)
		})
		// ENETDOWN is returned once when the interface goes down. What follows from that arrives by
		// netlink.
		if err == nil && !errors.Is(failure, unix.ENETDOWN) && !errors.Is(failure, unix.EINTR) {
			err = failure
		}
	}
	if !s.closed() && !errors.Is(err, net.ErrClosed) {
		s.in.Broken(fmt.Errorf("read from %s: %w", c.LocalAddr(), err))
	}
}

func (s *Sockets) takeHello(frame []byte) { s.in.takeHello(frame, s.in.Hello) }

// takeHello passes the payload of a frame to take, unless the frame was cut or is a probe's.
func (in Handlers) takeHello(frame []byte, take func([]byte)) {
	if len(frame) > maxHello {
		in.Cut()
		return
	}
	if len(frame) <= neighbor.EthernetHeader {
		return
	}
	payload := frame[neighbor.EthernetHeader:]
	cluster, node, is := probeOf(payload)
	switch {
	case !is:
		take(payload)
	case in.Probe != nil:
		in.Probe(cluster, node)
	}
}

// takeNDP handles MLD queries, and passes other frames on.
func (s *Sockets) takeNDP(frame []byte) []byte {
	if q, ok := neighbor.ParseMLDQuery(frame); ok {
		s.solicited.queried(q)
		select {
		case s.queried <- q.Within:
		default: // one is enough
		}
		return nil
	}
	return s.in.NDP(frame)
}

// reply sends what respond returns for each frame. If the interface's queue is full the answer is
// lost, and will be asked for again.
func (s *Sockets) reply(c *packet.Conn, respond func([]byte) []byte) func([]byte) {
	raw, err := c.SyscallConn()
	if err != nil {
		return func([]byte) {} // it is closed
	}
	return func(frame []byte) {
		if answer := respond(frame); answer != nil {
			_ = raw.Control(func(fd uintptr) { _, _ = unix.Write(int(fd), answer) })
		}
	}
}

func send(c *packet.Conn, frame []byte) error {
	_, err := c.WriteTo(frame, &packet.Addr{HardwareAddr: frame[:6]})
	return err
}

// SendHello, SendARP and SendNDP send a whole Ethernet frame.
func (s *Sockets) SendHello(frame []byte) error { return send(s.hello, frame) }
func (s *Sockets) SendARP(frame []byte) error   { return send(s.arp, frame) }
func (s *Sockets) SendNDP(frame []byte) error   { return send(s.ndp, frame) }

func (s *Sockets) hearAll(on bool) error {
	raw, err := s.ndp.SyscallConn()
	if err != nil {
		return fmt.Errorf("reach the NDP socket: %w", err)
	}
	option := unix.PACKET_DROP_MEMBERSHIP
	if on {
		option = unix.PACKET_ADD_MEMBERSHIP
	}
	var failure error
	err = raw.Control(func(fd uintptr) {
		request := &unix.PacketMreq{Ifindex: int32(s.index), Type: unix.PACKET_MR_ALLMULTI}
		failure = os.NewSyscallError(
			"setsockopt",
			unix.SetsockoptPacketMreq(int(fd), unix.SOL_PACKET, option, request),
		)
	})
	return errors.Join(err, failure)
}

// Drain passes every hello that waits in the socket to take before it returns.
func (s *Sockets) Drain(take func([]byte)) error {
	raw, err := s.hello.SyscallConn()
	if err != nil {
		return fmt.Errorf("drain the hello socket: %w", err)
	}
	b := make([]byte, maxHello+1)
	// Control, unlike Read, does not wait for the reader of the socket.
	return raw.Control(func(fd uintptr) {
		for range 4096 { // more than the socket can hold
			n, _, err := unix.Recvfrom(int(fd), b, unix.MSG_DONTWAIT)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if err != nil {
				return
			}
			s.in.takeHello(b[:n], take)
		}
	})
}

// Join lets ARP or neighbor discovery about an address reach the handlers at once. The interface
// joins the solicited-node group of an IPv6 address soon after.
func (s *Sockets) Join(addr netip.Addr) {
	if err := s.filterOf(addr).allow(addr); err != nil {
		s.in.Failed(err) // upkeep tries again
	}
	s.solicited.count(addr, +1)
	s.changed.Notify()
}

// Hear lets ARP or neighbor discovery about an address reach the handlers, without joining a group:
// questions of others need not, but answers to this interface do.
func (s *Sockets) Hear(addr netip.Addr) error { return s.filterOf(addr).allow(addr) }

// Leave undoes one Join, soon after.
func (s *Sockets) Leave(addr netip.Addr) {
	s.filterOf(addr).disallow(addr)
	s.solicited.count(addr, -1)
	s.changed.Notify()
}

// Unsettled returns how many solicited-node groups are still to be joined or left.
func (s *Sockets) Unsettled() int { return s.solicited.unsettled() }

func (s *Sockets) filterOf(addr netip.Addr) *socketFilter {
	if addr.Is4() {
		return s.arpFilter
	}
	return s.ndpFilter
}

// readBatch is how many frames are read before checking whether the socket was closed.
const readBatch = 64

const (
	// narrowPause is how long the filters may pass too much: changes come in bunches.
	narrowPause = 100 * time.Millisecond
	// retryPause is the time until a failure is retried, for example while IPv6 is disabled, and
	// until memberships are reported again.
	retryPause = time.Second
)

// upkeep does what Join and Leave left for later, and answers queries, until the sockets are
// closed.
func (s *Sockets) upkeep() {
	defer s.solicited.close()
	narrow, retry, repeat, answer := newOneShot(), newOneShot(), newOneShot(), newOneShot()
	for {
		var err error
		select {
		case <-s.done:
			return
		case <-narrow.c():
			// If this fails the filters only pass too much.
			_ = errors.Join(s.arpFilter.narrow(), s.ndpFilter.narrow())
			narrow.done()
			continue
		case within := <-s.queried:
			// Not at once: other listeners answer too.
			answer.within(rand.N(within/2 + 1))
			continue
		case <-answer.c():
			err = s.solicited.answer()
			answer.done()
		case <-repeat.c():
			err = s.solicited.repeat()
			repeat.done()
		case <-s.changed:
			narrow.within(narrowPause)
		case <-retry.c():
			retry.done()
		}
		again, settled := s.solicited.settle()
		if again {
			repeat.within(retryPause)
		}
		if err = cmp.Or(s.arpFilter.retry(), s.ndpFilter.retry(), err, settled); err != nil {
			retry.within(retryPause)
		}
		s.in.Failed(err)
	}
}

// oneShot is a timer that is set once until it has fired.
type oneShot struct {
	timer *time.Timer
	set   bool
}

func newOneShot() *oneShot {
	t := time.NewTimer(0)
	t.Stop()
	return &oneShot{timer: t}
}

func (a *oneShot) c() <-chan time.Time { return a.timer.C }

func (a *oneShot) within(d time.Duration) {
	if !a.set {
		a.timer.Reset(d)
		a.set = true
	}
}

// done must be called when the timer has fired.
func (a *oneShot) done() { a.set = false }

// Close closes the sockets. It may be called more than once and from any goroutine.
func (s *Sockets) Close() {
	s.closing.Do(func() {
		close(s.done)
		s.closeConns()
	})
}

// Wait returns when the handlers will not be called any more.
func (s *Sockets) Wait() { s.readers.Wait() }

func (s *Sockets) closed() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// closeConns closes the connections in parallel: the kernel makes each wait until no processor uses
// it any more.
func (s *Sockets) closeConns() {
	var closing sync.WaitGroup
	defer closing.Wait()
	for _, c := range []*packet.Conn{s.hello, s.arp, s.ndp} {
		if c != nil {
			closing.Go(func() { _ = c.Close() }) // nothing was buffered
		}
	}
}
