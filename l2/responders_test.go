package l2

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ethernet"
	"github.com/mdlayher/ndp"
	"golang.org/x/net/bpf"
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
	a.mark("held", true)
	return a
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
	for name, c := range map[string]struct {
		frame    []byte
		answered bool
		sighted  netip.Addr
	}{
		"a request":                   {frame: request, answered: true},
		"a probe":                     {frame: arpBy(t, arp.OperationRequest, theirM, netip.IPv4Unspecified(), held4), answered: true},
		"another's address":           {frame: arpBy(t, arp.OperationRequest, theirM, asker4, known4)},
		"an unknown address":          {frame: arpBy(t, arp.OperationRequest, theirM, asker4, asker4.Next())},
		"our own request":             {frame: arpBy(t, arp.OperationRequest, ours, asker4, held4)},
		"a multicast sender":          {frame: arpBy(t, arp.OperationRequest, multicast, asker4, held4)},
		"a sender of zeros":           {frame: arpBy(t, arp.OperationRequest, make(net.HardwareAddr, 6), asker4, held4)},
		"cut short":                   {frame: request[:ethernetHeader+arpLength-1]},
		"another hardware type":       {frame: changed(15, 6)},
		"another protocol":            {frame: changed(16, 9)},
		"a lying hardware length":     {frame: changed(18, 200)},
		"a lying protocol length":     {frame: changed(19, 16)},
		"an unknown operation":        {frame: changed(21, 9)},
		"a reply":                     {frame: arpBy(t, arp.OperationReply, theirM, held4, asker4), sighted: held4},
		"a gratuitous request":        {frame: arpBy(t, arp.OperationRequest, theirM, known4, known4), sighted: known4},
		"a gratuitous reply":          {frame: arpBy(t, arp.OperationReply, theirM, known4, known4), sighted: known4},
		"a foreigner's announcement":  {frame: arpBy(t, arp.OperationRequest, theirM, asker4, asker4)},
		"our own gratuitous, flooded": {frame: arpBy(t, arp.OperationReply, ours, held4, held4)},
	} {
		var sighted sighting
		r := &arpResponder{mac: ours, answers: someAnswers(), counts: counted(t), sighted: func(s sighting) { sighted = s }}
		answer := r.respond(c.frame)
		if (answer != nil) != c.answered || sighted.addr != c.sighted {
			t.Errorf("%s: answer %x, sighted %s; want answered %v, sighted %s", name, answer, sighted.addr, c.answered, c.sighted)
		}
		if sighted.addr.IsValid() && sighted.mac != [6]byte(theirM) {
			t.Errorf("%s: sighted at %x", name, sighted.mac)
		}
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
	frame, err := (&ethernet.Frame{Destination: theirM, Source: theirM, EtherType: ethernet.EtherTypeIPv6, Payload: append(ip, body...)}).MarshalBinary()
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
	none := netip.IPv6Unspecified()
	nonce := ndp.NewNonce()
	for name, c := range map[string]struct {
		frame   []byte
		to      netip.Addr // of the answer; invalid: none
		sighted netip.Addr
	}{
		"a solicitation":                    {frame: asked, to: asker6},
		"without its option":                {frame: solicitation(t, asker6, group, held6, false), to: asker6},
		"a probe of reachability":           {frame: solicitation(t, asker6, held6, held6, false), to: asker6},
		"a probe for duplicates":            {frame: solicitation(t, none, group, held6, false), to: netip.IPv6LinkLocalAllNodes()},
		"the same with a nonce":             {frame: ndpBy(t, &ndp.NeighborSolicitation{TargetAddress: held6, Options: []ndp.Option{nonce}}, none, group), to: netip.IPv6LinkLocalAllNodes()},
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
		"an advertisement of a held one":    {frame: ndpBy(t, &ndp.NeighborAdvertisement{TargetAddress: held6, Override: true}, asker6, netip.IPv6LinkLocalAllNodes()), sighted: held6},
		"an advertisement of a known one":   {frame: ndpBy(t, &ndp.NeighborAdvertisement{TargetAddress: known6, Override: true}, known6, netip.IPv6LinkLocalAllNodes()), sighted: known6},
		"an advertisement of a foreign one": {frame: ndpBy(t, &ndp.NeighborAdvertisement{TargetAddress: asker6}, asker6, netip.IPv6LinkLocalAllNodes())},
		"a router solicitation":             {frame: ndpBy(t, &ndp.RouterSolicitation{}, asker6, netip.IPv6LinkLocalAllRouters())},
	} {
		var sighted sighting
		r := &ndpResponder{mac: ours, answers: someAnswers(), counts: counted(t), sighted: func(s sighting) { sighted = s }}
		answer := r.respond(c.frame)
		if (answer != nil) != c.to.IsValid() || sighted.addr != c.sighted {
			t.Errorf("%s: answer %x, sighted %s; want one to %s, sighted %s", name, answer, sighted.addr, c.to, c.sighted)
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

// filtered runs a filter as the kernel would.
func filtered(t testing.TB, filter []bpf.Instruction, frame []byte) bool {
	t.Helper()
	vm, err := bpf.NewVM(filter)
	if err != nil {
		t.Fatal(err)
	}
	n, err := vm.Run(frame)
	if err != nil {
		t.Fatal(err)
	}
	return n > 0
}

func TestTheARPFilterPassesWhatMayConcernUs(t *testing.T) {
	low, high := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.3")
	for target, want := range map[string]bool{
		"192.0.2.0": false, "192.0.2.1": true, "192.0.2.2": true, "192.0.2.3": true, "192.0.2.4": false,
		"0.0.0.0": false, "255.255.255.255": false,
	} {
		a := netip.MustParseAddr(target)
		for _, op := range []arp.Operation{arp.OperationRequest, arp.OperationReply} {
			if got := filtered(t, arpFilter(low, high), arpBy(t, op, theirM, asker4, a)); got != want {
				t.Errorf("%s about %s passes: %v, want %v", op, target, got, want)
			}
			if got := filtered(t, arpFilter(low, high), arpBy(t, op, theirM, a, asker4)); got != want {
				t.Errorf("%s from %s passes: %v, want %v", op, target, got, want)
			}
		}
	}
	good := arpBy(t, arp.OperationRequest, theirM, asker4, low)
	for i, b := range map[int]byte{15: 2, 17: 1, 18: 5, 19: 5, 21: 3} {
		bad := bytes.Clone(good)
		bad[i] = b
		if filtered(t, arpFilter(low, high), bad) {
			t.Errorf("with byte %d = %d it passes", i, b)
		}
	}
}

func TestTheNDPFilterPassesNeighbourDiscoveryOnly(t *testing.T) {
	none := netip.IPv6LinkLocalAllNodes()
	good := solicitation(t, asker6, none, held6, true)
	far := bytes.Clone(good)
	far[ethernetHeader+7] = 64
	for name, c := range map[string]struct {
		frame []byte
		want  bool
	}{
		"solicitation":        {good, true},
		"advertisement":       {ndpBy(t, &ndp.NeighborAdvertisement{TargetAddress: held6}, held6, none), true},
		"router solicitation": {ndpBy(t, &ndp.RouterSolicitation{}, held6, none), false},
		"from afar":           {far, false},
	} {
		if got := filtered(t, ndpFilter(), c.frame); got != c.want {
			t.Errorf("%s passes: %v, want %v", name, got, c.want)
		}
	}
}

func FuzzRespond(f *testing.F) {
	f.Add(arpBy(f, arp.OperationRequest, theirM, asker4, held4))
	f.Add(arpBy(f, arp.OperationReply, theirM, held4, held4))
	f.Add(solicitation(f, asker6, groupOf(f, held6), held6, true))
	f.Add(solicitation(f, netip.IPv6Unspecified(), groupOf(f, held6), held6, false))
	f.Add(unsolicitedNA(theirM, held6))
	a, counts := someAnswers(), counted(f)
	f.Fuzz(func(t *testing.T, frame []byte) {
		r4 := &arpResponder{mac: ours, answers: a, counts: counts, sighted: func(sighting) {}}
		if answer := r4.respond(frame); answer != nil && (!bytes.Equal(answer[6:12], ours) || answer[0]&1 != 0) {
			t.Errorf("%x answered with %x", frame, answer)
		}
		r6 := &ndpResponder{mac: ours, answers: a, counts: counts, sighted: func(sighting) {}}
		if answer := r6.respond(frame); answer != nil {
			if _, ok := parseNDP(answer); !ok {
				t.Errorf("%x answered with %x, which is not valid", frame, answer)
			}
		}
	})
}

func BenchmarkRespond(b *testing.B) {
	for _, n := range []int{10, 1000, 10000} {
		a := newAnswers()
		a.awake.extend(time.Now().Add(time.Hour))
		addr4, addr6 := netip.MustParseAddr("10.0.0.0"), netip.MustParseAddr("fd00::")
		for i := range n {
			addr4, addr6 = addr4.Next(), addr6.Next()
			group := fmt.Sprint("g", i)
			a.set(group, []netip.Addr{addr4, addr6})
			a.mark(group, true)
		}
		r4 := &arpResponder{mac: ours, answers: a, counts: counted(b)}
		r6 := &ndpResponder{mac: ours, answers: a, counts: counted(b)}
		for name, c := range map[string]struct {
			respond func([]byte) []byte
			frame   []byte
			want    bool
		}{
			"ARP/held":    {r4.respond, arpBy(b, arp.OperationRequest, theirM, asker4, addr4), true},
			"ARP/foreign": {r4.respond, arpBy(b, arp.OperationRequest, theirM, asker4, asker4), false},
			"NDP/held":    {r6.respond, solicitation(b, asker6, addr6, addr6, true), true},
		} {
			b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if got := c.respond(c.frame); (got != nil) != c.want {
						b.Fatalf("answered %x", got)
					}
				}
			})
		}
	}
}
