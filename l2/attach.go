package l2

import (
	"context"
	"time"

	"github.com/berth-lb/berth/l2/election"
	"github.com/berth-lb/berth/l2/neighbor"
	"github.com/berth-lb/berth/l2/packet"
)

// attachment is a segment's hold on its interface.
type attachment struct {
	link    packet.Link
	wire    wire      // nil: closed
	release func()    // ends the hold that the loop's context has on the wire
	reopen  time.Time // when to try to open the wire again; zero: not
}

// changeLink takes a change of the interface. Sockets belong to one index and one MAC address.
func (s *segment) changeLink(ctx context.Context, now time.Time, l packet.Link) {
	before := s.link
	s.link = l
	if !l.Up {
		s.closeLink(now, election.LinkDown)
		s.reopen = time.Time{}
		return
	}
	if s.wire != nil {
		s.closeWire()
	}
	s.openWire(ctx, now)
	if before.Up && s.wire != nil {
		s.machine.AnnounceAll(election.LinkChanged)
	}
}

// openWire opens the sockets. If that fails it is tried again later.
func (s *segment) openWire(ctx context.Context, now time.Time) {
	s.reopen = time.Time{}
	s.doubtNext(now) // the new socket does not hear about it, and nobody listened until now
	mac := s.link.HardwareAddr()
	arp := &neighbor.ARPResponder{
		MAC:      mac,
		Table:    s.table,
		Sighted:  s.receiveSighting,
		Asked:    s.asked,
		Requests: s.counts.arpRequests,
		Replies:  s.counts.arpReplies,
	}
	ndp := &neighbor.NDPResponder{
		MAC:            mac,
		Table:          s.table,
		Sighted:        s.receiveSighting,
		Asked:          s.asked,
		Solicitations:  s.counts.ndpSolicitations,
		Advertisements: s.counts.ndpAdvertisements,
	}
	w, err := s.system.open(s.link, packet.Handlers{
		Hello:  s.receiveHello,
		Cut:    func() { s.counts.rejected(election.RejectCut) },
		ARP:    arp.Respond,
		NDP:    ndp.Respond,
		Broken: func(err error) { trySend(s.broken, err) },
		Failed: func(err error) { trySend(s.failed, err) },
	})
	s.setFault(faultSocket, err)
	if err != nil {
		s.closeLink(now, election.LinkDown)
		s.reopen = now.Add(retryDelay)
		return
	}
	s.wire = w
	s.release = closeWith(ctx, w)
	s.machine.Open(now, s.link.MTU)
	for _, a := range s.table.Wanted() {
		s.listen(a)
	}
	for a := range s.owned {
		s.joinNDP(a)
	}
	s.table.SetDecoys(s.proxies.Abort(), false) // the new socket does not hear about them
	s.undecided = nil
}

// closeWith closes the wire when ctx ends, so that a write that waits for a stuck interface ends
// too. The returned function undoes that, or waits until it is done.
func closeWith(ctx context.Context, w wire) (release func()) {
	closed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(closed)
		w.Close()
	})
	return func() {
		if !stop() {
			<-closed
		}
	}
}

// closeLink gives up the interface. It can carry nothing, so nothing is handed over.
func (s *segment) closeLink(now time.Time, cause Cause) {
	if s.wire != nil {
		s.closeWire()
	}
	s.machine.Close(now)
	s.updateMachine(now, cause)
}

func (s *segment) closeWire() {
	s.release()
	s.wire.Close()
	s.wire.Wait()
	s.wire = nil
	// An error that the closed sockets reported does not matter any more.
	select {
	case <-s.broken: //nolint:errcheck // it is about a socket that is closed
	default:
	}
}

// finish is the end of the loop.
func (s *segment) finish() {
	now := s.system.now()
	if last := s.published.Load(); last != nil {
		s.observeFreshness(now, last.Outdated, "") // it is not outdated where it is not
	}
	s.table.Watchdog.Stop()
	if s.wire != nil {
		s.closeWire()
	}
	if s.state == Holding {
		return // the mirror continues to say that this node owns what it owned
	}
	s.updateMachine(now, election.Stopped)
	s.applyOutputs(now)
}

// receiveHello is called by the wire for each message. If the queue is full the message is lost, as
// if on the wire.
func (s *segment) receiveHello(payload []byte) {
	if x, ok := s.verify(payload); ok {
		trySend(s.messages, x)
	}
}

// verify returns the message, or counts why it is rejected. Forged messages end here, off the loop.
func (s *segment) verify(payload []byte) (election.Message, bool) {
	x, err := election.OpenMessage(payload, s.cluster, s.parent.orders().keys)
	if err != nil {
		s.counts.rejected(err)
	}
	return x, err == nil
}

// receiveSighting is called by the responders. A sighting that is lost here will be repeated.
func (s *segment) asked(q neighbor.Question) {
	if s.config.Asked != nil {
		s.config.Asked(s.name, q)
	}
}

func (s *segment) receiveSighting(x neighbor.Sighting) { trySend(s.sightings, x) }

// trySend sends x unless that would block.
func trySend[T any](c chan<- T, x T) {
	select {
	case c <- x:
	default:
	}
}
