//go:build linux

package stage

import (
	"net"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ethernet"
	"github.com/mdlayher/ndp"
)

func mac(last byte) net.HardwareAddr { return net.HardwareAddr{2, 0, 0, 0, 0, last} }

func arpFrame(t *testing.T, operation arp.Operation, sender, target string) []byte {
	t.Helper()
	p, err := arp.NewPacket(operation, mac(1), netip.MustParseAddr(sender), mac(2), netip.MustParseAddr(target))
	if err != nil {
		t.Fatal(err)
	}
	payload, err := p.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	frame, err := (&ethernet.Frame{
		Destination: ethernet.Broadcast, Source: mac(1), EtherType: ethernet.EtherTypeARP, Payload: payload,
	}).MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	return frame
}

func ndpFrame(t *testing.T, message ndp.Message) []byte {
	t.Helper()
	body, err := ndp.MarshalMessage(message)
	if err != nil {
		t.Fatal(err)
	}
	frame, err := (&ethernet.Frame{
		Destination: ethernet.Broadcast, Source: mac(1), EtherType: ethernet.EtherTypeIPv6,
		Payload: append(make([]byte, 40), body...),
	}).MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	return frame
}

func TestOnlyFramesThatClaimAnAddressAreSightings(t *testing.T) {
	v6 := netip.MustParseAddr("fd00:30::200")
	for _, c := range []struct {
		name  string
		frame []byte
		want  Sighting
		ok    bool
	}{
		{
			name:  "an ARP reply",
			frame: arpFrame(t, arp.OperationReply, "172.30.0.200", "172.30.0.2"),
			want:  Sighting{Address: netip.MustParseAddr("172.30.0.200"), MAC: "02:00:00:00:00:01"},
			ok:    true,
		},
		{
			name:  "a gratuitous reply",
			frame: arpFrame(t, arp.OperationReply, "172.30.0.200", "172.30.0.200"),
			want:  Sighting{Address: netip.MustParseAddr("172.30.0.200"), MAC: "02:00:00:00:00:01", Gratuitous: true},
			ok:    true,
		},
		{
			name:  "a gratuitous request",
			frame: arpFrame(t, arp.OperationRequest, "172.30.0.200", "172.30.0.200"),
			want:  Sighting{Address: netip.MustParseAddr("172.30.0.200"), MAC: "02:00:00:00:00:01", Gratuitous: true},
			ok:    true,
		},
		{
			name:  "an ARP request",
			frame: arpFrame(t, arp.OperationRequest, "172.30.0.2", "172.30.0.200"),
			want:  Sighting{}},
		{
			name: "an advertisement that was asked for",
			frame: ndpFrame(t, &ndp.NeighborAdvertisement{Solicited: true, TargetAddress: v6,
				Options: []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Target, Addr: mac(7)}}}),
			want: Sighting{Address: v6, MAC: "02:00:00:00:00:07"},
			ok:   true,
		},
		{
			name:  "an unsolicited advertisement without an option",
			frame: ndpFrame(t, &ndp.NeighborAdvertisement{TargetAddress: v6}),
			want:  Sighting{Address: v6, MAC: "02:00:00:00:00:01", Gratuitous: true},
			ok:    true,
		},
		{
			name:  "a solicitation",
			frame: ndpFrame(t, &ndp.NeighborSolicitation{TargetAddress: v6}),
			want:  Sighting{}},
		{
			name:  "a stump",
			frame: []byte{1, 2, 3},
			want:  Sighting{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, ok := sighting(c.frame)
			if ok != c.ok || ok && got != c.want {
				t.Errorf("got %+v, %v; want %+v, %v", got, ok, c.want, c.ok)
			}
		})
	}
}

// at returns a moment of the tests, in milliseconds.
func at(ms int) time.Time { return time.UnixMilli(int64(ms)) }

func TestSightingsAreKeptInTheOrderOfTime(t *testing.T) {
	address := netip.MustParseAddr("172.30.0.200")
	c := &Capture{seen: map[netip.Addr]Sightings{}}
	for _, s := range []Sighting{
		{At: at(10), Host: "n1"}, {At: at(30), Host: "n2"}, {At: at(20), Host: "n1"}, {At: at(150), Host: "n2"},
		{At: at(0), Host: "n1"},
	} {
		s.Address = address
		c.note(s)
	}
	all := c.Of(address)
	var order []int64
	for _, s := range all {
		order = append(order, s.At.UnixMilli())
	}
	if want := []int64{0, 10, 20, 30, 150}; !slices.Equal(order, want) {
		t.Errorf("the order is %v, want %v", order, want)
	}
	if got := len(all.Between(at(10), at(30))); got != 2 {
		t.Errorf("%d sightings from 10 ms on and before 30 ms, want 2", got)
	}
	if got := all.By("n2").Since(at(31)); len(got) != 1 || got[0].At != at(150) {
		t.Errorf("n2 after 30 ms: %v", got)
	}
	const want = "from 0.0 s [n1 n2], from 0.1 s [n2], to 0.1 s"
	if got := all.String(); got != want {
		t.Errorf("in words: %q, want %q", got, want)
	}
}

// asked returns a capture of an address that was asked for every 20 ms, and answered by the hosts
// named, all of them with the same hardware address.
func asked(address netip.Addr, answers ...[]string) *Capture {
	c := &Capture{seen: map[netip.Addr]Sightings{}, asked: map[netip.Addr][]time.Time{}}
	for i, hosts := range answers {
		c.asked[address] = append(c.asked[address], at(20*i))
		for _, h := range hosts {
			c.note(Sighting{At: at(20*i + 1), Address: address, Host: h})
		}
	}
	c.asked[address] = append(c.asked[address], at(20*len(answers)))
	return c
}

func TestAnOwnerHasAnsweredAloneFifteenTimes(t *testing.T) {
	address := netip.MustParseAddr("172.30.0.200")
	row := func(n int, hosts ...string) [][]string { return slices.Repeat([][]string{hosts}, n) }
	for _, c := range []struct {
		name    string
		answers [][]string
		since   int
		want    string // the start of the error; empty: an owner
	}{
		{
			name:    "fourteen times are not enough",
			answers: row(14, "n1"),
			want:    "it was not asked often enough yet for 172.30.0.200",
		},
		{
			name:    "what was before does not count",
			answers: row(20, "n1"),
			since:   200,
			want:    "it was not asked often enough yet for 172.30.0.200",
		},
		{
			name:    "one question without an answer",
			answers: slices.Concat(row(7, "n1"), row(1), row(7, "n1")), want: "[] answer for 172.30.0.200, want one host",
		},
		{
			name:    "one question with two answers",
			answers: slices.Concat(row(14, "n1"), row(1, "n1", "n2")), want: "[n1 n2] answer for 172.30.0.200, want one host",
		},
		{
			name:    "one that another answered",
			answers: slices.Concat(row(14, "n1"), row(1, "n2")), want: "n2 with  answers for 172.30.0.200, and n1 with  before",
		},
		{
			name:    "two in the past",
			answers: slices.Concat(row(9, "n1", "n2"), row(15, "n1"))},
	} {
		t.Run(c.name, func(t *testing.T) {
			host, err := asked(address, c.answers...).alone(address, at(c.since))
			switch {
			case c.want == "" && (err != nil || host.Host != "n1"):
				t.Errorf("the owner is %+v, %v; want n1", host, err)
			case c.want != "" && (err == nil || err.Error() != c.want):
				t.Errorf("the error is %v, want %s", err, c.want)
			}
		})
	}
}

func TestOverlapsAreOfHostsThatAnswerTheSameRequests(t *testing.T) {
	address, begun := netip.MustParseAddr("172.30.0.200"), time.Unix(1000, 0)
	at := func(ms int) time.Time { return begun.Add(time.Duration(ms) * time.Millisecond) }
	c := &Capture{seen: map[netip.Addr]Sightings{}, asked: map[netip.Addr][]time.Time{}}
	for round, hosts := range [][]string{
		{"n1"}, {"n1", "n2"}, {"n2"}, {"n2", "n3"}, {"n3", "n2"}, {"n2", "n3"}, {"n3"}, {}, {"n3", "n1"}, {"n1"},
	} {
		c.asked[address] = append(c.asked[address], at(100*round))
		for i, host := range hosts {
			c.note(Sighting{Address: address, At: at(100*round + i + 1), Host: host})
		}
		c.note(Sighting{Address: address, At: at(100*round + 50), Host: "n9", Gratuitous: true})
	}
	for _, test := range []struct {
		name     string
		from, to int
		want     Overlap
		requests int
	}{
		{"all of it", 0, 1000, Overlap{at(300), at(500), []string{"n2", "n3"}}, 5},
		{"a single request", 0, 300, Overlap{at(100), at(100), []string{"n1", "n2"}}, 1},
		{"the end of one", 450, 1000, Overlap{at(500), at(500), []string{"n2", "n3"}}, 2},
		{"none", 600, 800, Overlap{}, 0},
	} {
		got, requests := c.Overlap(address, at(test.from), at(test.to))
		if !reflect.DeepEqual(got, test.want) || requests != test.requests {
			t.Errorf("%s: %+v, %d requests; want %+v, %d", test.name, got, requests, test.want, test.requests)
		}
	}
}
