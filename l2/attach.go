package l2

import (
	"context"
	"time"

	"github.com/berth-lb/berth/l2/election"

	"github.com/berth-lb/berth/l2/neighbor"

	"github.com/berth-lb/berth/l2/packet"
)

// This file is a segment's hold on its interface: opening and closing the wire, and what comes in by it.

// follow takes a change of the interface: sockets belong to one index and one MAC address.
func (s *segment) follow(ctx context.Context, now time.Time, l packet.Link) {
	before := s.link
	s.link = l
	if !l.Up {
		s.shut(now, election.LinkDown)
		s.reopen = time.Time{}
		return
	}
	if s.wire != nil {
		s.closeWire()
	}
	s.open(ctx, now)
	if before.Up && s.wire != nil {
		s.machine.AnnounceAll(election.LinkChanged)
	}
}

// open opens the sockets; where that fails it will be tried again.
func (s *segment) open(ctx context.Context, now time.Time) {
	s.reopen = time.Time{}
	mac := s.link.HardwareAddr()
	arp := &neighbor.ARPResponder{
		MAC: mac, Table: s.answers, Sighted: s.sighted,
		Requests: s.counts.arpRequests, Replies: s.counts.arpReplies,
	}
	ndp := &neighbor.NDPResponder{
		MAC: mac, Table: s.answers, Sighted: s.sighted,
		Solicitations: s.counts.ndpSolicitations, Advertisements: s.counts.ndpAdvertisements,
	}
	w, err := s.d.system.open(s.link, packet.Handlers{
		Hello:  s.received,
		ARP:    arp.Respond,
		NDP:    ndp.Respond,
		Broken: func(err error) { offer(s.broken, err) },
		Failed: func(err error) { offer(s.failed, err) },
	})
	s.note(faultSocket, err)
	if err != nil {
		s.shut(now, election.LinkDown)
		s.reopen = now.Add(retry)
		return
	}
	s.wire = w
	// A write that waits for a stuck interface ends with ctx.
	s.unwatch = context.AfterFunc(ctx, w.Close)
	s.machine.Open(now, s.link.MTU)
	for _, addrs := range s.answers.Groups() {
		s.hearOf(addrs, nil)
	}
	s.listenFor(s.answers.Owned(), nil)
	s.answers.SetDecoys(s.proxies.Abort(), false) // the new socket does not hear of them
	s.doubted = nil
}

// shut gives up the interface: it can carry nothing, so nothing is handed over.
func (s *segment) shut(now time.Time, cause Cause) {
	if s.wire != nil {
		s.closeWire()
	}
	s.machine.Close(now)
	s.stand(now, cause)
}

func (s *segment) closeWire() {
	s.unwatch()
	s.wire.Close()
	s.wire.Wait()
	s.wire = nil
	// What the closed sockets said of their end concerns nobody now.
	select {
	case <-s.broken: //nolint:errcheck // it concerns a socket that is closed
	default:
	}
}

func (s *segment) finish() {
	now := time.Now()
	s.answers.Watchdog.Stop()
	if s.wire != nil {
		s.closeWire()
	}
	if s.state == Holding {
		return // the mirror goes on to say that this node owns what it owned
	}
	s.stand(now, election.Stopped)
	s.carryOut(now)
}

// received is called by the wire for each message. One that finds no room is lost as if on the wire.
func (s *segment) received(payload []byte) {
	if x, ok := s.verified(payload); ok {
		offer(s.messages, x)
	}
}

// verified returns the message, or counts why it is none. Forged ones end here, off the loop.
func (s *segment) verified(payload []byte) (election.Message, bool) {
	s.d.mu.Lock()
	keys := s.d.keys
	s.d.mu.Unlock()
	x, err := election.OpenMessage(payload, s.d.cluster, keys)
	if err != nil {
		s.counts.rejected(err)
	}
	return x, err == nil
}

// sighted is called by the responders; what is lost here will be announced again.
func (s *segment) sighted(x neighbor.Sighting) { offer(s.sightings, x) }

func offer[T any](c chan<- T, x T) {
	select {
	case c <- x:
	default:
	}
}
