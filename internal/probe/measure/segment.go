package measure

import (
	"cmp"
	"context"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ndp"

	"github.com/berth-lb/berth/internal/probe"
	"github.com/berth-lb/berth/l2/election"
	"github.com/berth-lb/berth/l2/neighbor"
	"github.com/berth-lb/berth/l2/packet"
)

const (
	// askPause is the time between two questions, if the request names none.
	askPause = 10 * time.Millisecond
	// answerWait is for how long answers are awaited after the last question: Linux as a proxy answers
	// up to 0.8 s later (proxy_delay).
	answerWait = time.Second
)

// segment is an interface on which the probe asks and listens.
type segment struct {
	*notes
	link      packet.Link
	sockets   *packet.Sockets
	addresses []netip.Addr
	decoys    [][2]netip.Addr // that no host has
	round     atomic.Uint32   // 0 is the first
}

func (n *notes) segment(l packet.Link) (*segment, error) {
	s := &segment{notes: n, link: l, addresses: n.addresses(l)}
	for _, is4 := range []bool{true, false} {
		if slices.ContainsFunc(s.addresses, func(a netip.Addr) bool { return a.Is4() == is4 }) {
			s.decoys = append(s.decoys, neighbor.DecoyPairs(l.Subnets, is4, s.taken)...)
		}
	}
	var err error
	s.sockets, err = packet.Open(l, packet.Handlers{
		Hello: s.hello,
		Cut:   func() {},
		Probe: func(cluster uint64, node string) { s.greeted(cluster, node) },
		ARP: func(frame []byte) []byte {
			if p, ok := neighbor.ParseARP(frame); ok && p.Operation == arp.OperationReply && s.toUs(frame) {
				s.answered(p.SenderIP, [6]byte(p.SenderHardwareAddr))
			}
			return nil
		},
		NDP: func(frame []byte) []byte {
			if p, ok := neighbor.ParseNDP(frame); ok && s.toUs(frame) {
				if m, is := p.Message.(*ndp.NeighborAdvertisement); is {
					s.answered(m.TargetAddress, [6]byte(p.Station))
				}
			}
			return nil
		},
		Broken: func(err error) { n.fail("%v", err) },
		Failed: func(err error) {
			if err != nil {
				n.fail("interface %s: %v", l.Name, err)
			}
		},
	})
	return s, err
}

// taken reports whether an address is no decoy.
func (s *segment) taken(a netip.Addr) bool {
	return slices.Contains(s.addresses, a) || slices.Contains(s.link.Addrs, a)
}

// toUs reports whether a frame was sent to this interface alone: it answers, and does not announce
// what is moving.
func (s *segment) toUs(frame []byte) bool { return [6]byte(frame) == s.link.MAC }

func (s *segment) hello(payload []byte) {
	if node, cluster, is := election.SenderOf(payload); is {
		s.greeted(cluster, node)
	}
}

// greeted takes a message of another node, or of this one on another interface.
func (s *segment) greeted(cluster uint64, node string) {
	if s.asked.Cluster == "" || cluster == election.ClusterID(s.asked.Cluster) {
		s.hear(s.link.Name, node)
	}
}

func (s *segment) answered(a netip.Addr, mac [6]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers[answered{a, s.link.Name, mac}] |= 1 << s.round.Load()
}

// greet sends messages that everybody on the segment should hear.
func (s *segment) greet(ctx context.Context) {
	frame := packet.ProbeFrame(s.link.HardwareAddr(), election.ClusterID(s.asked.Cluster), s.asked.Node)
	tick := time.NewTicker(cmp.Or(s.asked.Greet, probe.HelloInterval))
	defer tick.Stop()
	for {
		if err := s.sockets.SendHello(frame); err != nil {
			s.fail("interface %s: send a message to other nodes: %v", s.link.Name, err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// ask asks for each address and each decoy, and waits for answers.
func (s *segment) ask(ctx context.Context) {
	all := slices.Clone(s.addresses)
	for _, pair := range s.decoys {
		all = append(all, pair[:]...)
	}
	if len(all) == 0 {
		return
	}
	for _, a := range all {
		if err := s.sockets.Hear(a); err != nil {
			s.fail("interface %s: %v", s.link.Name, err)
			return
		}
	}
	tick := time.NewTicker(cmp.Or(s.asked.Pause, askPause))
	defer tick.Stop()
	for round := range probe.Rounds {
		s.round.Store(uint32(round))
		for _, a := range all {
			if err := s.askFor(a); err != nil {
				s.fail("interface %s: ask for addresses: %v", s.link.Name, err)
			}
			if wait(ctx, tick.C) != nil {
				return
			}
		}
		if wait(ctx, time.After(answerWait)) != nil {
			return
		}
	}
	s.judgeDecoys()
}

func wait(ctx context.Context, until <-chan time.Time) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-until:
		return nil
	}
}

// askFor asks which host has an address, in the name of this node as its kernel does: a question in
// nobody's name would say that this node wants the address, and speakers would have to look.
func (s *segment) askFor(a netip.Addr) error {
	mac := s.link.HardwareAddr()
	if a.Is4() {
		if own := s.link.HostAddr(); own.IsValid() {
			return s.sockets.SendARP(neighbor.ARPRequest(mac, own, a))
		}
		return s.sockets.SendARP(neighbor.ARPProbe(mac, a))
	}
	i := slices.IndexFunc(s.link.Addrs, func(a netip.Addr) bool { return a.Is6() && a.IsLinkLocalUnicast() })
	if i < 0 {
		return s.sockets.SendNDP(neighbor.NDPProbe(mac, a))
	}
	return s.sockets.SendNDP(solicitation(mac, s.link.Addrs[i], a))
}

func solicitation(mac net.HardwareAddr, own, target netip.Addr) []byte {
	group, err := ndp.SolicitedNodeMulticast(target)
	if err != nil {
		return nil
	}
	return neighbor.NDPFrame(mac, neighbor.MulticastMAC(group), own.WithZone(""), group, &ndp.NeighborSolicitation{
		TargetAddress: target, Options: []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: mac}},
	})
}

// judgeDecoys takes those who answer for both decoys of a pair for proxies, and forgets decoys.
func (s *segment) judgeDecoys() {
	s.mu.Lock()
	defer s.mu.Unlock()
	var proxies []string
	for at := range s.answers {
		for _, pair := range s.decoys {
			other := answered{pair[1], at.iface, at.mac}
			if mac := net.HardwareAddr(at.mac[:]).String(); at.iface == s.link.Name && at.address == pair[0] &&
				s.answers[other] != 0 && !slices.Contains(proxies, mac) {
				proxies = append(proxies, mac)
			}
		}
	}
	for at := range s.answers {
		decoy := slices.ContainsFunc(
			s.decoys,
			func(p [2]netip.Addr) bool { return p[0] == at.address || p[1] == at.address },
		)
		if at.iface == s.link.Name && (decoy || !slices.Contains(s.addresses, at.address)) {
			delete(s.answers, at)
		}
	}
	slices.Sort(proxies)
	for i := range s.report.Links {
		if s.report.Links[i].Name == s.link.Name {
			s.report.Links[i].Proxies = proxies
		}
	}
}
