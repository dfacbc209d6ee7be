package l2

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
	"github.com/mdlayher/ethernet"
	"github.com/mdlayher/ndp"
)

var (
	ours   = net.HardwareAddr{2, 0, 0, 0, 0, 1}
	theirM = net.HardwareAddr{2, 0, 0, 0, 0, 9}
	held4  = netip.MustParseAddr("192.0.2.1")
	known4 = netip.MustParseAddr("192.0.2.2")
	asker4 = netip.MustParseAddr("192.0.2.100")
	held6  = netip.MustParseAddr("2001:db8::1")
	known6 = netip.MustParseAddr("2001:db8::2")
	asker6 = netip.MustParseAddr("2001:db8::100")
)

// someAnswers answers for held4 and held6, and knows known4 and known6.
func someAnswers() *answers {
	a := newAnswers()
	a.awake.extend(time.Now().Add(time.Hour))
	a.set("held", []netip.Addr{held4, held6})
	a.set("known", []netip.Addr{known4, known6})
	a.own("held")
	return a
}

// own has a group answered for, with all its addresses.
func (a *answers) own(group string) {
	on, _ := a.mark(group, true)
	for _, addr := range on {
		a.answer(addr)
	}
}

func counted(t testing.TB) *segmentCounts {
	t.Helper()
	m, err := newMetrics(nil)
	if err != nil {
		t.Fatal(err)
	}
	return m.of("eth0")
}

// arpBy builds a frame by the libraries' own codecs.
func arpBy(t testing.TB, op arp.Operation, mac net.HardwareAddr, sender netip.Addr, target netip.Addr) []byte {
	t.Helper()
	p, err := arp.NewPacket(op, mac, sender, make(net.HardwareAddr, 6), target)
	if err != nil {
		t.Fatal(err)
	}
	body, err := p.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	frame, err := (&ethernet.Frame{Destination: ethernet.Broadcast, Source: mac, EtherType: ethernet.EtherTypeARP, Payload: body}).MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	return frame
}

func TestARPIsAnsweredForWhatIsHeldAndNothingElse(t *testing.T) {
	multicast := net.HardwareAddr{3, 0, 0, 0, 0, 9}
	request := arpBy(t, arp.OperationRequest, theirM, asker4, held4)
	changed := func(i int, b byte) []byte {
		f := bytes.Clone(request)
		f[i] = b
		return f
	}
	stranger := bytes.Clone(request)
	copy(stranger, theirM)
	for name, c := range map[string]struct {
		frame    []byte
		answered bool
		sighted  netip.Addr
		use      use
	}{
		"a request":                   {frame: request, answered: true},
		"a probe":                     {frame: arpBy(t, arp.OperationRequest, theirM, netip.IPv4Unspecified(), held4), answered: true, sighted: held4, use: probed},
		"a probe for another's":       {frame: arpBy(t, arp.OperationRequest, theirM, netip.IPv4Unspecified(), known4), sighted: known4, use: probed},
		"a probe for an unknown one":  {frame: arpProbe(theirM, asker4)},
		"our own probe":               {frame: arpProbe(ours, held4)},
		"a request from ours":         {frame: arpBy(t, arp.OperationRequest, theirM, known4, held4), answered: true, sighted: known4, use: spoken},
		"from ours to someone":        {frame: arpBy(t, arp.OperationRequest, theirM, held4, asker4), sighted: held4, use: spoken},
		"another's address":           {frame: arpBy(t, arp.OperationRequest, theirM, asker4, known4)},
		"an unknown address":          {frame: arpBy(t, arp.OperationRequest, theirM, asker4, asker4.Next())},
		"our own request":             {frame: arpBy(t, arp.OperationRequest, ours, asker4, held4)},
		"sent to another station":     {frame: stranger},
		"a multicast sender":          {frame: arpBy(t, arp.OperationRequest, multicast, asker4, held4)},
		"a multicast station":         {frame: changed(6, 3)},
		"a sender of zeros":           {frame: arpBy(t, arp.OperationRequest, make(net.HardwareAddr, 6), asker4, held4)},
		"a broadcast address":         {frame: arpBy(t, arp.OperationRequest, theirM, netip.MustParseAddr("255.255.255.255"), held4)},
		"a multicast address":         {frame: arpBy(t, arp.OperationRequest, theirM, netip.MustParseAddr("224.0.0.1"), held4)},
		"a loopback address":          {frame: arpBy(t, arp.OperationRequest, theirM, netip.MustParseAddr("127.0.0.1"), held4)},
		"cut short":                   {frame: request[:ethernetHeader+arpLength-1]},
		"another hardware type":       {frame: changed(15, 6)},
		"another protocol":            {frame: changed(16, 9)},
		"a lying hardware length":     {frame: changed(18, 200)},
		"a lying protocol length":     {frame: changed(19, 16)},
		"an unknown operation":        {frame: changed(21, 9)},
		"a tag before it":             {frame: tagged(request)},
		"a reply":                     {frame: arpBy(t, arp.OperationReply, theirM, held4, asker4), sighted: held4, use: announced},
		"a gratuitous request":        {frame: arpBy(t, arp.OperationRequest, theirM, known4, known4), sighted: known4, use: announced},
		"a gratuitous reply":          {frame: arpBy(t, arp.OperationReply, theirM, known4, known4), sighted: known4, use: announced},
		"a foreigner's announcement":  {frame: arpBy(t, arp.OperationRequest, theirM, asker4, asker4)},
		"our own gratuitous, flooded": {frame: arpBy(t, arp.OperationReply, ours, held4, held4)},
	} {
		var sighted sighting
		r := &arpResponder{mac: ours, answers: someAnswers(), counts: counted(t), sighted: func(s sighting) { sighted = s }}
		answer := r.respond(c.frame)
		if (answer != nil) != c.answered || sighted.addr != c.sighted || sighted.use != c.use {
			t.Errorf("%s: answer %x, sighted %+v; want answered %v, sighted %s, use %d", name, answer, sighted, c.answered, c.sighted, c.use)
		}
		if sighted.addr.IsValid() && sighted.mac != [6]byte(theirM) {
			t.Errorf("%s: sighted at %x", name, sighted.mac)
		}
	}
}

// tagged puts a VLAN tag into a frame, as no kernel hands it out.
func tagged(frame []byte) []byte {
	return slices.Concat(frame[:12], []byte{0x81, 0, 0, 7}, frame[12:])
}

func TestAProbeAsksForWhatItIsToAskFor(t *testing.T) {
	p, ok := parseARP(arpProbe(ours, held4))
	if !ok || p.Operation != arp.OperationRequest || p.TargetIP != held4 || !p.SenderIP.IsUnspecified() ||
		!bytes.Equal(p.SenderHardwareAddr, ours) || !bytes.Equal(p.TargetHardwareAddr, make(net.HardwareAddr, 6)) {
		t.Errorf("the ARP probe is %+v", p)
	}
	if to := net.HardwareAddr(arpProbe(ours, held4)[:6]); to.String() != "ff:ff:ff:ff:ff:ff" {
		t.Errorf("the ARP probe goes to %s", to)
	}
	frame := ndpProbe(ours, held6)
	n, ok := parseNDP(frame)
	if m, is := n.message.(*ndp.NeighborSolicitation); !ok || !is || m.TargetAddress != held6 || len(m.Options) > 0 ||
		!n.source.IsUnspecified() || n.dst != groupOf(t, held6) || !bytes.Equal(n.station, ours) {
		t.Errorf("the NDP probe is %+v with %+v", n, n.message)
	}
	if to := net.HardwareAddr(frame[:6]); to.String() != "33:33:ff:00:00:01" {
		t.Errorf("the NDP probe goes to %s", to)
	}
	if f := ndpProbe(ours, held4); f != nil {
		t.Errorf("for an IPv4 address it is %x", f)
	}
}

func TestAnARPReplyIsUnicastAndWellFormed(t *testing.T) {
	r := &arpResponder{mac: ours, answers: someAnswers(), counts: counted(t)}
	frame := r.respond(arpBy(t, arp.OperationRequest, theirM, asker4, held4))
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

func TestGratuitousARPHasBothForms(t *testing.T) {
	got := gratuitousARP(ours, held4)
	head := []byte{255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 1, 8, 6, 0, 1, 8, 0, 6, 4}
	want := [][]byte{
		append(bytes.Clone(head), 0, 1, 2, 0, 0, 0, 0, 1, 192, 0, 2, 1, 0, 0, 0, 0, 0, 0, 192, 0, 2, 1),
		append(bytes.Clone(head), 0, 2, 2, 0, 0, 0, 0, 1, 192, 0, 2, 1, 2, 0, 0, 0, 0, 1, 192, 0, 2, 1),
	}
	if len(got) != 2 || !bytes.Equal(got[0], want[0]) || !bytes.Equal(got[1], want[1]) {
		t.Errorf("announced\n%x, want\n%x", got, want)
	}
}

func TestNothingIsAnsweredByAResponderWhoseLoopIsAsleep(t *testing.T) {
	a := someAnswers()
	a.awake.extend(time.Now())
	r4 := &arpResponder{mac: ours, answers: a, counts: counted(t)}
	r6 := &ndpResponder{mac: ours, answers: a, counts: counted(t)}
	if f := r4.respond(arpBy(t, arp.OperationRequest, theirM, asker4, held4)); f != nil {
		t.Errorf("ARP answered with %x", f)
	}
	if f := r6.respond(solicitation(t, asker6, held6, held6, true)); f != nil {
		t.Errorf("NDP answered with %x", f)
	}
}

// solicitation is a neighbour solicitation as a frame from theirM.
func solicitation(t testing.TB, from, to, target netip.Addr, option bool) []byte {
	t.Helper()
	m := &ndp.NeighborSolicitation{TargetAddress: target}
	if option {
		m.Options = []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: theirM}}
	}
	return ndpBy(t, m, from, to)
}

func ndpBy(t testing.TB, m ndp.Message, from, to netip.Addr) []byte {
	t.Helper()
	body, err := ndp.MarshalMessageChecksum(m, from, to)
	if err != nil {
		t.Fatal(err)
	}
	ip := append([]byte{0x60, 0, 0, 0, 0, 0, protoICMPv6, ndpHopLimit}, from.AsSlice()...)
	ip = append(ip, to.AsSlice()...)
	binary.BigEndian.PutUint16(ip[4:], uint16(len(body)))
	frame, err := (&ethernet.Frame{Destination: ours, Source: theirM, EtherType: ethernet.EtherTypeIPv6, Payload: append(ip, body...)}).MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	return frame
}

func groupOf(t testing.TB, addr netip.Addr) netip.Addr {
	t.Helper()
	g, err := ndp.SolicitedNodeMulticast(addr)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func TestNDPIsAnsweredForWhatIsHeldAndNothingElse(t *testing.T) {
	group := groupOf(t, held6)
	asked := solicitation(t, asker6, group, held6, true)
	changed := func(i int, b byte) []byte {
		f := bytes.Clone(asked)
		f[i] = b
		return f
	}
	stranger := bytes.Clone(asked)
	copy(stranger, theirM)
	withOption := func(first byte) []byte {
		mac := append(net.HardwareAddr{first}, theirM[1:]...)
		return ndpBy(t, &ndp.NeighborSolicitation{
			TargetAddress: held6, Options: []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: mac}},
		}, asker6, group)
	}
	none := netip.IPv6Unspecified()
	nonce := ndp.NewNonce()
	for name, c := range map[string]struct {
		frame   []byte
		to      netip.Addr // of the answer; invalid: none
		sighted netip.Addr
		use     use
	}{
		"a solicitation":                    {frame: asked, to: asker6},
		"without its option":                {frame: solicitation(t, asker6, group, held6, false), to: asker6},
		"a probe of reachability":           {frame: solicitation(t, asker6, held6, held6, false), to: asker6},
		"a probe for duplicates":            {frame: solicitation(t, none, group, held6, false), to: netip.IPv6LinkLocalAllNodes(), sighted: held6, use: probed},
		"the same with a nonce":             {frame: ndpBy(t, &ndp.NeighborSolicitation{TargetAddress: held6, Options: []ndp.Option{nonce}}, none, group), to: netip.IPv6LinkLocalAllNodes(), sighted: held6, use: probed},
		"a probe for another's":             {frame: ndpProbe(theirM, known6), sighted: known6, use: probed},
		"our own probe":                     {frame: ndpProbe(ours, held6)},
		"from ours about another":           {frame: solicitation(t, held6, groupOf(t, asker6), asker6, true), sighted: held6, use: spoken},
		"sent to another station":           {frame: stranger},
		"a multicast source":                {frame: solicitation(t, netip.IPv6LinkLocalAllNodes(), group, held6, true)},
		"a loopback source":                 {frame: solicitation(t, netip.IPv6Loopback(), group, held6, true)},
		"a multicast option":                {frame: withOption(3)},
		"a multicast station":               {frame: changed(6, 3)},
		"a multicast target":                {frame: ndpBy(t, &ndp.NeighborSolicitation{TargetAddress: group}, asker6, group)},
		"an option that is cut":             {frame: asked[:len(asked)-4]},
		"a tag before it":                   {frame: tagged(asked)},
		"a probe with a source option":      {frame: solicitation(t, none, group, held6, true)},
		"a probe sent to the address":       {frame: solicitation(t, none, held6, held6, false)},
		"sent to another group":             {frame: solicitation(t, asker6, groupOf(t, asker6), held6, true)},
		"another's address":                 {frame: solicitation(t, asker6, groupOf(t, known6), known6, true)},
		"a forwarded one":                   {frame: changed(ethernetHeader+7, 254)},
		"a broken checksum":                 {frame: changed(ethernetHeader+ipv6Header+2, asked[ethernetHeader+ipv6Header+2]^1)},
		"another code":                      {frame: changed(ethernetHeader+ipv6Header+1, 1)},
		"another protocol":                  {frame: changed(ethernetHeader+6, 17)},
		"IPv4 inside":                       {frame: changed(ethernetHeader, 0x45)},
		"a length beyond the frame":         {frame: changed(ethernetHeader+4, 4)},
		"an option of length zero":          {frame: changed(ethernetHeader+ipv6Header+25, 0)},
		"cut short":                         {frame: asked[:60]},
		"an advertisement of a held one":    {frame: ndpBy(t, &ndp.NeighborAdvertisement{TargetAddress: held6, Override: true}, asker6, netip.IPv6LinkLocalAllNodes()), sighted: held6, use: announced},
		"an advertisement of a known one":   {frame: ndpBy(t, &ndp.NeighborAdvertisement{TargetAddress: known6, Override: true}, known6, netip.IPv6LinkLocalAllNodes()), sighted: known6, use: announced},
		"an advertisement of a foreign one": {frame: ndpBy(t, &ndp.NeighborAdvertisement{TargetAddress: asker6}, asker6, netip.IPv6LinkLocalAllNodes())},
		"a router solicitation":             {frame: ndpBy(t, &ndp.RouterSolicitation{}, asker6, netip.IPv6LinkLocalAllRouters())},
	} {
		var sighted sighting
		r := &ndpResponder{mac: ours, answers: someAnswers(), counts: counted(t), sighted: func(s sighting) { sighted = s }}
		answer := r.respond(c.frame)
		if (answer != nil) != c.to.IsValid() || sighted.addr != c.sighted || sighted.use != c.use {
			t.Errorf("%s: answer %x, sighted %+v; want one to %s, sighted %s, use %d", name, answer, sighted, c.to, c.sighted, c.use)
			continue
		}
		if answer == nil {
			continue
		}
		p, ok := parseNDP(answer)
		a, is := p.message.(*ndp.NeighborAdvertisement)
		if !ok || !is || p.dst != c.to || p.source != held6 || p.station.String() != ours.String() ||
			a.TargetAddress != held6 || !a.Override || a.Router || a.Solicited != (c.to == asker6) {
			t.Errorf("%s: answered %+v with %+v", name, p, p.message)
		}
		station := net.HardwareAddr(answer[:6])
		if wanted := map[bool]string{true: theirM.String(), false: "33:33:00:00:00:01"}[c.to == asker6]; station.String() != wanted {
			t.Errorf("%s: answered to station %s, want %s", name, station, wanted)
		}
	}
}

func FuzzARP(f *testing.F) {
	f.Add(arpBy(f, arp.OperationRequest, theirM, asker4, held4))
	f.Add(arpBy(f, arp.OperationReply, theirM, held4, held4))
	f.Add(arpProbe(theirM, held4))
	f.Add(tagged(gratuitousARP(theirM, known4)[0]))
	a, counts := someAnswers(), counted(f)
	f.Fuzz(func(t *testing.T, frame []byte) {
		r := &arpResponder{mac: ours, answers: a, counts: counts, sighted: func(s sighting) {
			if s.addr != held4 && s.addr != known4 || !unicast(s.mac[:]) || s.use < announced || s.use > probed {
				t.Errorf("%x is sighted as %+v", frame, s)
			}
		}}
		answer := r.respond(frame)
		if answer == nil {
			return
		}
		asked, _ := parseARP(frame)
		p, ok := parseARP(answer)
		if !ok || !bytes.Equal(answer[6:12], ours) || !unicast(answer[:6]) || p.SenderIP != held4 ||
			asked.TargetIP != held4 || !bytes.Equal(answer[:6], asked.SenderHardwareAddr) || p.TargetIP.IsMulticast() {
			t.Errorf("%x answered with %x", frame, answer)
		}
	})
}

func FuzzNDP(f *testing.F) {
	group := groupOf(f, held6)
	f.Add(solicitation(f, asker6, group, held6, true))
	f.Add(solicitation(f, netip.IPv6Unspecified(), group, held6, false))
	f.Add(ndpProbe(theirM, known6))
	f.Add(unsolicitedNA(theirM, held6))
	f.Add(tagged(unsolicitedNA(theirM, held6)))
	f.Add(ndpBy(f, &ndp.NeighborSolicitation{TargetAddress: held6, Options: []ndp.Option{ndp.NewNonce()}}, asker6, group))
	a, counts := someAnswers(), counted(f)
	f.Fuzz(func(t *testing.T, frame []byte) {
		// The checksum is repaired, so that what is behind it is reached.
		if start := ethernetHeader + ipv6Header; len(frame) >= start+24 {
			end := start + int(binary.BigEndian.Uint16(frame[ethernetHeader+4:]))
			if end >= start+24 && end <= len(frame) {
				binary.BigEndian.PutUint16(frame[start+2:], 0)
				from := netip.AddrFrom16([16]byte(frame[ethernetHeader+8:]))
				to := netip.AddrFrom16([16]byte(frame[ethernetHeader+24:]))
				binary.BigEndian.PutUint16(frame[start+2:], checksum(from, to, frame[start:end]))
			}
		}
		r := &ndpResponder{mac: ours, answers: a, counts: counts, sighted: func(s sighting) {
			if s.addr != held6 && s.addr != known6 || !unicast(s.mac[:]) || s.use < announced || s.use > probed {
				t.Errorf("%x is sighted as %+v", frame, s)
			}
		}}
		answer := r.respond(frame)
		if answer == nil {
			return
		}
		p, ok := parseNDP(answer)
		m, is := p.message.(*ndp.NeighborAdvertisement)
		if !ok || !is || m.TargetAddress != held6 || p.source != held6 || !bytes.Equal(p.station, ours) ||
			p.dst.IsMulticast() && p.dst != netip.IPv6LinkLocalAllNodes() {
			t.Errorf("%x answered with %x", frame, answer)
		}
	})
}

// BenchmarkRespond asks for each address in turn.
func BenchmarkRespond(b *testing.B) {
	for _, n := range []int{10, 10000} {
		a := newAnswers()
		a.awake.extend(time.Now().Add(time.Hour))
		var arps, foreign, ndps [][]byte
		addr4, addr6 := netip.MustParseAddr("10.0.0.0"), netip.MustParseAddr("fd00::")
		for i := range n {
			addr4, addr6 = addr4.Next(), addr6.Next()
			group := fmt.Sprint("g", i)
			a.set(group, []netip.Addr{addr4, addr6})
			a.own(group)
			arps = append(arps, arpBy(b, arp.OperationRequest, theirM, asker4, addr4))
			foreign = append(foreign, arpBy(b, arp.OperationRequest, theirM, asker4, netip.AddrFrom4([4]byte{11, 0, byte(i >> 8), byte(i)})))
			ndps = append(ndps, solicitation(b, asker6, addr6, addr6, true))
		}
		r4 := &arpResponder{mac: ours, answers: a, counts: counted(b)}
		r6 := &ndpResponder{mac: ours, answers: a, counts: counted(b)}
		for _, c := range []struct {
			name    string
			respond func([]byte) []byte
			frames  [][]byte
			want    bool
		}{
			{"ARP/held", r4.respond, arps, true},
			{"ARP/foreign", r4.respond, foreign, false},
			{"NDP/held", r6.respond, ndps, true},
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
