package neighbor

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ndp"

	"github.com/berth-lb/berth/l2/internal/frametest"
)

var (
	ours   = frametest.Ours
	theirs = frametest.Theirs
	held4  = netip.MustParseAddr("192.0.2.1")
	known4 = netip.MustParseAddr("192.0.2.2")
	asker4 = netip.MustParseAddr("192.0.2.100")
	held6  = netip.MustParseAddr("2001:db8::1")
	known6 = netip.MustParseAddr("2001:db8::2")
	asker6 = netip.MustParseAddr("2001:db8::100")
)

// someAnswers answers for held4 and held6, and knows known4 and known6.
func someAnswers() *AddressTable {
	a := NewAddressTable(time.Now)
	a.Watchdog.Extend(time.Now().Add(time.Hour))
	a.answerFor(held4, held6)
	a.SetWanted(known4, true)
	a.SetWanted(known6, true)
	return a
}

// answerFor makes the table want the addresses and answer for them.
func (a *AddressTable) answerFor(addrs ...netip.Addr) {
	for _, addr := range addrs {
		a.SetWanted(addr, true)
		a.Answer(addr)
	}
}

// ignoredCounter is a counter that nobody reads.
type ignoredCounter struct{}

func (ignoredCounter) Inc() {}

func TestARPResponder(t *testing.T) {
	multicast := net.HardwareAddr{3, 0, 0, 0, 0, 9}
	request := frametest.ARP(t, arp.OperationRequest, theirs, asker4, held4)
	changed := func(i int, b byte) []byte {
		f := bytes.Clone(request)
		f[i] = b
		return f
	}
	stranger := bytes.Clone(request)
	copy(stranger, theirs)
	for name, c := range map[string]struct {
		frame    []byte
		answered bool
		sighted  netip.Addr
		use      Use
	}{
		"a request": {frame: request, answered: true},
		"a probe": {
			frame:    frametest.ARP(t, arp.OperationRequest, theirs, netip.IPv4Unspecified(), held4),
			answered: true,
			sighted:  held4,
			use:      Probed,
		},
		"a probe for another's": {
			frame:   frametest.ARP(t, arp.OperationRequest, theirs, netip.IPv4Unspecified(), known4),
			sighted: known4,
			use:     Probed,
		},
		"a probe for an unknown one": {frame: ARPProbe(theirs, asker4)},
		"our own probe":              {frame: ARPProbe(ours, held4)},
		"a request from ours": {
			frame:    frametest.ARP(t, arp.OperationRequest, theirs, known4, held4),
			answered: true,
			sighted:  known4,
			use:      Spoken,
		},
		"from ours to someone": {
			frame:   frametest.ARP(t, arp.OperationRequest, theirs, held4, asker4),
			sighted: held4,
			use:     Spoken,
		},
		"another's address":       {frame: frametest.ARP(t, arp.OperationRequest, theirs, asker4, known4)},
		"an unknown address":      {frame: frametest.ARP(t, arp.OperationRequest, theirs, asker4, asker4.Next())},
		"our own request":         {frame: frametest.ARP(t, arp.OperationRequest, ours, asker4, held4)},
		"sent to another station": {frame: stranger},
		"a multicast sender":      {frame: frametest.ARP(t, arp.OperationRequest, multicast, asker4, held4)},
		"a multicast station":     {frame: changed(6, 3)},
		"a sender of zeros": {frame: frametest.ARP(t, arp.OperationRequest,
			make(net.HardwareAddr, 6), asker4, held4)},
		"a broadcast address": {frame: frametest.ARP(t, arp.OperationRequest, theirs,
			netip.MustParseAddr("255.255.255.255"), held4)},
		"a multicast address": {frame: frametest.ARP(t, arp.OperationRequest, theirs,
			netip.MustParseAddr("224.0.0.1"), held4)},
		"a loopback address": {frame: frametest.ARP(t, arp.OperationRequest, theirs,
			netip.MustParseAddr("127.0.0.1"), held4)},
		"cut short":               {frame: request[:EthernetHeader+arpLength-1]},
		"another hardware type":   {frame: changed(15, 6)},
		"another protocol":        {frame: changed(16, 9)},
		"a lying hardware length": {frame: changed(18, 200)},
		"a lying protocol length": {frame: changed(19, 16)},
		"an unknown operation":    {frame: changed(21, 9)},
		"a tag before it":         {frame: frametest.Tagged(request)},
		"a reply": {
			frame:   frametest.ARP(t, arp.OperationReply, theirs, held4, asker4),
			sighted: held4,
			use:     Announced,
		},
		"a gratuitous request": {
			frame:   frametest.ARP(t, arp.OperationRequest, theirs, known4, known4),
			sighted: known4,
			use:     Announced,
		},
		"a gratuitous reply": {
			frame:   frametest.ARP(t, arp.OperationReply, theirs, known4, known4),
			sighted: known4,
			use:     Announced,
		},
		"a foreigner's announcement":  {frame: frametest.ARP(t, arp.OperationRequest, theirs, asker4, asker4)},
		"our own gratuitous, flooded": {frame: frametest.ARP(t, arp.OperationReply, ours, held4, held4)},
	} {
		var sighted Sighting
		r := &ARPResponder{
			MAC:      ours,
			Table:    someAnswers(),
			Requests: ignoredCounter{},
			Replies:  ignoredCounter{},
			Sighted:  func(s Sighting) { sighted = s },
		}
		answer := r.Respond(c.frame)
		if (answer != nil) != c.answered || sighted.Addr != c.sighted || sighted.Use != c.use {
			t.Errorf("%s: answer %x, sighted %+v; want answered %v, sighted %s, use %d",
				name, answer, sighted, c.answered, c.sighted, c.use)
		}
		if sighted.Addr.IsValid() && sighted.MAC != [6]byte(theirs) {
			t.Errorf("%s: sighted at %x", name, sighted.MAC)
		}
	}
}

func TestProbeFrames(t *testing.T) {
	p, ok := ParseARP(ARPProbe(ours, held4))
	if !ok || p.Operation != arp.OperationRequest || p.TargetIP != held4 || !p.SenderIP.IsUnspecified() ||
		!bytes.Equal(p.SenderHardwareAddr, ours) || !bytes.Equal(p.TargetHardwareAddr, make(net.HardwareAddr, 6)) {
		t.Errorf("the ARP probe is %+v", p)
	}
	if to := net.HardwareAddr(ARPProbe(ours, held4)[:6]); to.String() != "ff:ff:ff:ff:ff:ff" {
		t.Errorf("the ARP probe goes to %s", to)
	}
	frame := NDPProbe(ours, held6)
	n, ok := ParseNDP(frame)
	if m, is := n.Message.(*ndp.NeighborSolicitation); !ok || !is || m.TargetAddress != held6 || len(m.Options) > 0 ||
		!n.Source.IsUnspecified() || n.dst != frametest.SolicitedNode(t, held6) || !bytes.Equal(n.Station, ours) {
		t.Errorf("the NDP probe is %+v with %+v", n, n.Message)
	}
	if to := net.HardwareAddr(frame[:6]); to.String() != "33:33:ff:00:00:01" {
		t.Errorf("the NDP probe goes to %s", to)
	}
	if f := NDPProbe(ours, held4); f != nil {
		t.Errorf("for an IPv4 address it is %x", f)
	}
}

func TestARPResponderReply(t *testing.T) {
	r := &ARPResponder{MAC: ours, Table: someAnswers(), Requests: ignoredCounter{}, Replies: ignoredCounter{}}
	frame := r.Respond(frametest.ARP(t, arp.OperationRequest, theirs, asker4, held4))
	want := []byte{
		2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1, 8, 6,
		0, 1, 8, 0, 6, 4, 0, 2,
		2, 0, 0, 0, 0, 1, 192, 0, 2, 1,
		2, 0, 0, 0, 0, 9, 192, 0, 2, 100,
	}
	if !bytes.Equal(frame, want) {
		t.Errorf("reply\n%x, want\n%x", frame, want)
	}
}

func TestGratuitousARP(t *testing.T) {
	got := GratuitousARP(ours, held4)
	head := []byte{255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 1, 8, 6, 0, 1, 8, 0, 6, 4}
	want := [][]byte{
		append(bytes.Clone(head), 0, 1, 2, 0, 0, 0, 0, 1, 192, 0, 2, 1, 0, 0, 0, 0, 0, 0, 192, 0, 2, 1),
		append(bytes.Clone(head), 0, 2, 2, 0, 0, 0, 0, 1, 192, 0, 2, 1, 2, 0, 0, 0, 0, 1, 192, 0, 2, 1),
	}
	if len(got) != 2 || !bytes.Equal(got[0], want[0]) || !bytes.Equal(got[1], want[1]) {
		t.Errorf("announced\n%x, want\n%x", got, want)
	}
}

func TestRespondersObeyWatchdog(t *testing.T) {
	a := someAnswers()
	a.Watchdog.Extend(time.Now())
	r4 := &ARPResponder{MAC: ours, Table: a, Requests: ignoredCounter{}, Replies: ignoredCounter{}}
	r6 := &NDPResponder{MAC: ours, Table: a, Solicitations: ignoredCounter{}, Advertisements: ignoredCounter{}}
	if f := r4.Respond(frametest.ARP(t, arp.OperationRequest, theirs, asker4, held4)); f != nil {
		t.Errorf("ARP answered with %x", f)
	}
	if f := r6.Respond(frametest.Solicitation(t, asker6, held6, held6, true)); f != nil {
		t.Errorf("NDP answered with %x", f)
	}
}

// A question for a known address is told of, answered or not.
func TestRespondersTellQuestions(t *testing.T) {
	a := someAnswers()
	var got []Question
	asked := func(q Question) { got = append(got, q) }
	r4 := &ARPResponder{MAC: ours, Table: a, Requests: ignoredCounter{}, Replies: ignoredCounter{}, Asked: asked}
	r6 := &NDPResponder{
		MAC: ours, Table: a, Solicitations: ignoredCounter{}, Advertisements: ignoredCounter{}, Asked: asked,
	}
	r4.Sighted, r6.Sighted = func(Sighting) {}, func(Sighting) {}
	for range 2 {
		r4.Respond(frametest.ARP(t, arp.OperationRequest, theirs, asker4, held4))
		r6.Respond(frametest.Solicitation(t, asker6, held6, held6, true))
		a.Watchdog.Stop()
	}
	r4.Respond(frametest.ARP(t, arp.OperationRequest, theirs, asker4, netip.MustParseAddr("192.0.2.77")))
	want := []Question{
		{held4, asker4, [6]byte(theirs), true}, {held6, asker6, [6]byte(theirs), true},
		{held4, asker4, [6]byte(theirs), false}, {held6, asker6, [6]byte(theirs), false},
	}
	if !slices.Equal(got, want) {
		t.Errorf("told of %v, want %v", got, want)
	}
}

func TestNDPResponder(t *testing.T) {
	group := frametest.SolicitedNode(t, held6)
	asked := frametest.Solicitation(t, asker6, group, held6, true)
	changed := func(i int, b byte) []byte {
		f := bytes.Clone(asked)
		f[i] = b
		return f
	}
	stranger := bytes.Clone(asked)
	copy(stranger, theirs)
	withOption := func(first byte) []byte {
		mac := append(net.HardwareAddr{first}, theirs[1:]...)
		return frametest.NDP(t, &ndp.NeighborSolicitation{
			TargetAddress: held6, Options: []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: mac}},
		}, asker6, group)
	}
	none := netip.IPv6Unspecified()
	nonce := ndp.NewNonce()
	for name, c := range map[string]struct {
		frame   []byte
		to      netip.Addr // of the answer; invalid: none
		sighted netip.Addr
		use     Use
	}{
		"a solicitation": {frame: asked, to: asker6},
		"without its option": {
			frame: frametest.Solicitation(t, asker6, group, held6, false),
			to:    asker6,
		},
		"a probe of reachability": {
			frame: frametest.Solicitation(t, asker6, held6, held6, false),
			to:    asker6,
		},
		"a probe for duplicates": {
			frame:   frametest.Solicitation(t, none, group, held6, false),
			to:      netip.IPv6LinkLocalAllNodes(),
			sighted: held6,
			use:     Probed,
		},
		"the same with a nonce": {
			frame: frametest.NDP(t, &ndp.NeighborSolicitation{
				TargetAddress: held6,
				Options:       []ndp.Option{nonce},
			}, none, group),
			to:      netip.IPv6LinkLocalAllNodes(),
			sighted: held6,
			use:     Probed,
		},
		"a probe for another's": {frame: NDPProbe(theirs, known6), sighted: known6, use: Probed},
		"our own probe":         {frame: NDPProbe(ours, held6)},
		"from ours about another": {
			frame:   frametest.Solicitation(t, held6, frametest.SolicitedNode(t, asker6), asker6, true),
			sighted: held6,
			use:     Spoken,
		},
		"sent to another station": {frame: stranger},
		"a multicast source": {frame: frametest.Solicitation(t, netip.IPv6LinkLocalAllNodes(),
			group, held6, true)},
		"a loopback source": {frame: frametest.Solicitation(t, netip.IPv6Loopback(), group,
			held6, true)},
		"a multicast option":  {frame: withOption(3)},
		"a multicast station": {frame: changed(6, 3)},
		"a multicast target": {frame: frametest.NDP(t,
			&ndp.NeighborSolicitation{TargetAddress: group}, asker6, group)},
		"an option that is cut":        {frame: asked[:len(asked)-4]},
		"a tag before it":              {frame: frametest.Tagged(asked)},
		"a probe with a source option": {frame: frametest.Solicitation(t, none, group, held6, true)},
		"a probe sent to the address":  {frame: frametest.Solicitation(t, none, held6, held6, false)},
		"sent to another group": {frame: frametest.Solicitation(t, asker6,
			frametest.SolicitedNode(t, asker6), held6, true)},
		"another's address": {frame: frametest.Solicitation(t, asker6,
			frametest.SolicitedNode(t, known6), known6, true)},
		"a forwarded one": {frame: changed(EthernetHeader+7, 254)},
		"a broken checksum": {frame: changed(EthernetHeader+IPv6Header+2, asked[EthernetHeader+
			IPv6Header+2]^1)},
		"another code":              {frame: changed(EthernetHeader+IPv6Header+1, 1)},
		"another protocol":          {frame: changed(EthernetHeader+6, 17)},
		"IPv4 inside":               {frame: changed(EthernetHeader, 0x45)},
		"a length beyond the frame": {frame: changed(EthernetHeader+4, 4)},
		"an option of length zero":  {frame: changed(EthernetHeader+IPv6Header+25, 0)},
		"cut short":                 {frame: asked[:60]},
		"an advertisement of a held one": {
			frame: frametest.NDP(t, &ndp.NeighborAdvertisement{
				TargetAddress: held6,
				Override:      true,
			}, asker6, netip.IPv6LinkLocalAllNodes()),
			sighted: held6,
			use:     Announced,
		},
		"an advertisement of a known one": {
			frame: frametest.NDP(t, &ndp.NeighborAdvertisement{
				TargetAddress: known6,
				Override:      true,
			}, known6, netip.IPv6LinkLocalAllNodes()),
			sighted: known6,
			use:     Announced,
		},
		"an advertisement of a foreign one": {frame: frametest.NDP(t,
			&ndp.NeighborAdvertisement{TargetAddress: asker6}, asker6, netip.IPv6LinkLocalAllNodes())},
		"a router solicitation": {frame: frametest.NDP(t, &ndp.RouterSolicitation{}, asker6,
			netip.IPv6LinkLocalAllRouters())},
	} {
		var sighted Sighting
		r := &NDPResponder{
			MAC:            ours,
			Table:          someAnswers(),
			Solicitations:  ignoredCounter{},
			Advertisements: ignoredCounter{},
			Sighted:        func(s Sighting) { sighted = s },
		}
		answer := r.Respond(c.frame)
		if (answer != nil) != c.to.IsValid() || sighted.Addr != c.sighted || sighted.Use != c.use {
			t.Errorf("%s: answer %x, sighted %+v; want one to %s, sighted %s, use %d",
				name, answer, sighted, c.to, c.sighted, c.use)
			continue
		}
		if answer == nil {
			continue
		}
		p, ok := ParseNDP(answer)
		a, is := p.Message.(*ndp.NeighborAdvertisement)
		if !ok || !is || p.dst != c.to || p.Source != held6 || p.Station.String() != ours.String() ||
			a.TargetAddress != held6 || !a.Override || a.Router || a.Solicited != (c.to == asker6) {
			t.Errorf("%s: answered %+v with %+v", name, p, p.Message)
		}
		station := net.HardwareAddr(answer[:6])
		if wanted := map[bool]string{
			true:  theirs.String(),
			false: "33:33:00:00:00:01",
		}[c.to == asker6]; station.String() != wanted {
			t.Errorf("%s: answered to station %s, want %s", name, station, wanted)
		}
	}
}

func FuzzARP(f *testing.F) {
	f.Add(frametest.ARP(f, arp.OperationRequest, theirs, asker4, held4))
	f.Add(frametest.ARP(f, arp.OperationReply, theirs, held4, held4))
	f.Add(ARPProbe(theirs, held4))
	f.Add(frametest.Tagged(GratuitousARP(theirs, known4)[0]))
	a := someAnswers()
	f.Fuzz(func(t *testing.T, frame []byte) {
		sighted := func(s Sighting) {
			if s.Addr != held4 && s.Addr != known4 || !IsUnicast(s.MAC[:]) || s.Use < Announced || s.Use > Probed {
				t.Errorf("%x is sighted as %+v", frame, s)
			}
		}
		r := &ARPResponder{
			MAC:      ours,
			Table:    a,
			Requests: ignoredCounter{},
			Replies:  ignoredCounter{},
			Sighted:  sighted,
		}
		answer := r.Respond(frame)
		if answer == nil {
			return
		}
		asked, _ := ParseARP(frame)
		p, ok := ParseARP(answer)
		if !ok || !bytes.Equal(answer[6:12], ours) || !IsUnicast(answer[:6]) || p.SenderIP != held4 ||
			asked.TargetIP != held4 || !bytes.Equal(answer[:6], asked.SenderHardwareAddr) || p.TargetIP.IsMulticast() {
			t.Errorf("%x answered with %x", frame, answer)
		}
	})
}

func FuzzNDP(f *testing.F) {
	group := frametest.SolicitedNode(f, held6)
	f.Add(frametest.Solicitation(f, asker6, group, held6, true))
	f.Add(frametest.Solicitation(f, netip.IPv6Unspecified(), group, held6, false))
	f.Add(NDPProbe(theirs, known6))
	f.Add(UnsolicitedNA(theirs, held6))
	f.Add(frametest.Tagged(UnsolicitedNA(theirs, held6)))
	f.Add(frametest.NDP(f, &ndp.NeighborSolicitation{
		TargetAddress: held6,
		Options:       []ndp.Option{ndp.NewNonce()},
	}, asker6, group))
	a := someAnswers()
	f.Fuzz(func(t *testing.T, frame []byte) {
		// The checksum is repaired, so that the code after it is reached.
		if start := EthernetHeader + IPv6Header; len(frame) >= start+24 {
			end := start + int(binary.BigEndian.Uint16(frame[EthernetHeader+4:]))
			if end >= start+24 && end <= len(frame) {
				binary.BigEndian.PutUint16(frame[start+2:], 0)
				from := netip.AddrFrom16([16]byte(frame[EthernetHeader+8:]))
				to := netip.AddrFrom16([16]byte(frame[EthernetHeader+24:]))
				binary.BigEndian.PutUint16(frame[start+2:], checksum(from, to, frame[start:end]))
			}
		}
		sighted := func(s Sighting) {
			if s.Addr != held6 && s.Addr != known6 || !IsUnicast(s.MAC[:]) || s.Use < Announced || s.Use > Probed {
				t.Errorf("%x is sighted as %+v", frame, s)
			}
		}
		r := &NDPResponder{
			MAC:            ours,
			Table:          a,
			Solicitations:  ignoredCounter{},
			Advertisements: ignoredCounter{},
			Sighted:        sighted,
		}
		answer := r.Respond(frame)
		if answer == nil {
			return
		}
		p, ok := ParseNDP(answer)
		m, is := p.Message.(*ndp.NeighborAdvertisement)
		if !ok || !is || m.TargetAddress != held6 || p.Source != held6 || !bytes.Equal(p.Station, ours) ||
			p.dst.IsMulticast() && p.dst != netip.IPv6LinkLocalAllNodes() {
			t.Errorf("%x answered with %x", frame, answer)
		}
	})
}

// BenchmarkRespond asks for each address in turn.
func BenchmarkRespond(b *testing.B) {
	for _, n := range []int{10, 10000} {
		a := NewAddressTable(time.Now)
		a.Watchdog.Extend(time.Now().Add(time.Hour))
		var arps, foreign, ndps [][]byte
		addr4, addr6 := netip.MustParseAddr("10.0.0.0"), netip.MustParseAddr("fd00::")
		for i := range n {
			addr4, addr6 = addr4.Next(), addr6.Next()
			a.answerFor(addr4, addr6)
			arps = append(arps, frametest.ARP(b, arp.OperationRequest, theirs, asker4, addr4))
			foreign = append(foreign, frametest.ARP(b, arp.OperationRequest, theirs, asker4, netip.AddrFrom4([4]byte{
				11, 0, byte(i >> 8), byte(i),
			})))
			ndps = append(ndps, frametest.Solicitation(b, asker6, addr6, addr6, true))
		}
		r4 := &ARPResponder{MAC: ours, Table: a, Requests: ignoredCounter{}, Replies: ignoredCounter{}}
		r6 := &NDPResponder{MAC: ours, Table: a, Solicitations: ignoredCounter{}, Advertisements: ignoredCounter{}}
		for _, c := range []struct {
			name    string
			respond func([]byte) []byte
			frames  [][]byte
			want    bool
		}{
			{"ARP/held", r4.Respond, arps, true},
			{"ARP/foreign", r4.Respond, foreign, false},
			{"NDP/held", r6.Respond, ndps, true},
		} {
			b.Run(fmt.Sprintf("%s/%d", c.name, n), func(b *testing.B) {
				b.ReportAllocs()
				for k := 0; b.Loop(); k++ {
					if got := c.respond(c.frames[k%n]); (got != nil) != c.want {
						b.Fatalf("answered %x", got)
					}
				}
			})
		}
	}
}
