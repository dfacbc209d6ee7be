package bgp

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestPeerValidation(t *testing.T) {
	good := Peer{Name: "tor1", Address: netip.MustParseAddr("10.0.0.1"), LocalASN: 64512, PeerASN: 64513}
	cases := []struct {
		name   string
		change func(*Peer)
		want   string // part of the error; empty: none
	}{
		{"the least that is needed", func(*Peer) {}, ""},
		{"everything", func(p *Peer) {
			p.Port, p.HoldTime, p.KeepaliveTime, p.ConnectRetryTime = 1790, 9*time.Second, 3*time.Second, time.Second
			p.EBGPMultihop, p.SourceAddress, p.Password = 3, netip.MustParseAddr("10.0.0.9"), "secret"
		}, ""},
		{"no name", func(p *Peer) { p.Name = "" }, "without a name"},
		{"no address", func(p *Peer) { p.Address = netip.Addr{} }, "not an address"},
		{"a multicast address", func(p *Peer) { p.Address = netip.MustParseAddr("ff02::1") }, "not an address"},
		{"no local AS", func(p *Peer) { p.LocalASN = 0 }, "local AS number 0 is reserved"},
		{"the last AS", func(p *Peer) { p.PeerASN = 4294967295 }, "peer AS number 4294967295 is reserved"},
		{"families mixed", func(p *Peer) { p.SourceAddress = netip.MustParseAddr("2001:db8::1") }, "different families"},
		{"a hold time too short", func(p *Peer) { p.HoldTime = 2 * time.Second }, "outside 3s to 65535s"},
		{"a hold time too long", func(p *Peer) { p.HoldTime = 65536 * time.Second }, "outside 3s to 65535s"},
		{"half seconds", func(p *Peer) { p.HoldTime = 3500 * time.Millisecond }, "whole seconds"},
		{"passive", func(p *Peer) { p.Passive, p.GracefulRestart, p.BFD.Enabled = true, time.Minute, true }, ""},
		{"passive on an interface", func(p *Peer) { p.Passive, p.Address, p.Interface = true, netip.Addr{}, "eth0" }, "a passive peer has an address"},
		{"passive in a VRF", func(p *Peer) { p.Passive, p.VRF = true, "red" }, "not in red"},
		{"passive over IPv6 with TTL security", func(p *Peer) { p.Passive, p.TTLSecurityHops, p.Address = true, 1, netip.MustParseAddr("2001:db8::1") }, "hop limit 255"},
		{"a prefix", byPrefixOnly("10.0.0.0/24"), ""},
		{"a prefix and an address", func(p *Peer) { p.Prefix = netip.MustParsePrefix("10.0.0.0/24") }, "both a prefix, 10.0.0.0/24, and 10.0.0.1"},
		{"a prefix with host bits", byPrefixOnly("10.0.0.7/24"), "10.0.0.7/24 is not a prefix; 10.0.0.0/24 is"},
		{"a link-local prefix", byPrefixOnly("fe80::/64"), "not a prefix of routers' addresses"},
		{"a prefix and any AS", byPrefixOnly("10.0.0.0/24", func(p *Peer) { p.PeerASN, p.PeerType = 0, External }), "by their AS number only"},
		{"a prefix and graceful restart", byPrefixOnly("10.0.0.0/24", func(p *Peer) { p.GracefulRestart = time.Minute }), "no VRF, source address, graceful restart or BFD"},
		{"a prefix and BFD", byPrefixOnly("10.0.0.0/24", func(p *Peer) { p.BFD.Enabled = true }), "no VRF, source address, graceful restart or BFD"},
		{"keepalives too rare", func(p *Peer) { p.KeepaliveTime = 90 * time.Second }, "not below the hold time"},
	}
	for _, c := range cases {
		p := good
		c.change(&p)
		err := p.Validate()
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: got error %v, want %q", c.name, err, c.want)
		}
	}
}

// byPrefixOnly puts a prefix in the place of the address, and changes more.
func byPrefixOnly(prefix string, more ...func(*Peer)) func(*Peer) {
	return func(p *Peer) {
		p.Address, p.Prefix = netip.Addr{}, netip.MustParsePrefix(prefix)
		for _, change := range more {
			change(p)
		}
	}
}

func TestOfPeersThatClashTheFirstIsUsed(t *testing.T) {
	peer := func(name, address string) Peer {
		return Peer{Name: name, Address: netip.MustParseAddr(address), LocalASN: 64512, PeerASN: 64513}
	}
	usable, problems := checkPeers([]Peer{
		peer("tor1", "10.0.0.1"), peer("tor1", "10.0.0.2"), peer("tor3", "10.0.0.1"), peer("tor4", "10.0.0.4"), {Name: "tor5"},
	})
	if len(usable) != 2 || usable[0].Name != "tor1" || usable[1].Name != "tor4" {
		t.Errorf("usable peers: %v", usable)
	}
	want := []string{
		"peer tor1 is configured twice",
		"peer tor3 has the address 10.0.0.1 of peer tor1",
		"peer tor5: invalid IP is not an address to open a session to",
	}
	for i, p := range problems {
		if i >= len(want) || p.text != want[i] {
			t.Errorf("problem %d: %s", i, p.text)
		}
	}
	if len(problems) != len(want) {
		t.Errorf("got %d problems, want %d", len(problems), len(want))
	}
}

func TestASlowReaderLosesTheOldestObservations(t *testing.T) {
	o := make(observations, 2)
	for _, reason := range []string{"1", "2", "3"} {
		o.send(Observation{Reason: reason})
	}
	if a, b := <-o, <-o; a.Reason != "2" || b.Reason != "3" {
		t.Errorf("kept %s and %s, want 2 and 3", a.Reason, b.Reason)
	}
}
