package peer

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestPeerValidation(t *testing.T) {
	good := Peer{Name: "tor1", Address: netip.MustParseAddr("10.0.0.1"), LocalASN: 64512, RemoteASN: 64513}
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
		{"no name", func(p *Peer) { p.Name = "" }, "name: "},
		{"no address", func(p *Peer) { p.Address = netip.Addr{} }, "write one of them"},
		{
			"a multicast address",
			func(p *Peer) { p.Address = netip.MustParseAddr("ff02::1") },
			"address: ff02::1 is not the address of a router",
		},
		{
			"no local AS",
			func(p *Peer) { p.LocalASN = 0 },
			"localASN, spec.remoteASN and spec.localASNOverride: 0 and 64513",
		},
		{"the last AS", func(p *Peer) { p.RemoteASN = 4294967295 }, "64512 and 4294967295 are not both"},
		{
			"families mixed",
			func(p *Peer) { p.SourceAddress = netip.MustParseAddr("2001:db8::1") },
			"different families",
		},
		{"a hold time too short", func(p *Peer) { p.HoldTime = 2 * time.Second }, "holdTime: "},
		{"a hold time too long", func(p *Peer) { p.HoldTime = 65536 * time.Second }, "holdTime: "},
		{"half seconds", func(p *Peer) { p.HoldTime = 3500 * time.Millisecond }, "whole seconds"},
		{"passive", func(p *Peer) { p.Passive, p.GracefulRestart, p.BFD.Enabled = true, time.Minute, true }, ""},
		{
			"passive on an interface",
			func(p *Peer) { p.Passive, p.Address, p.Interface = true, netip.Addr{}, "eth0" },
			"connect: Accept is for a neighbor with an address",
		},
		{"passive in a VRF", func(p *Peer) { p.Passive, p.VRF = true, "red" }, "spec.vrf: the neighbor connects to us"},
		{
			"passive over IPv6 with TTL security",
			func(p *Peer) { p.Passive, p.TTLSecurityHops, p.Address = true, 1, netip.MustParseAddr("2001:db8::1") },
			"ttlSecurityHops: it does not work",
		},
		{"a prefix", byPrefixOnly("10.0.0.0/24"), ""},
		{
			"a prefix and an address",
			func(p *Peer) { p.Prefix = netip.MustParsePrefix("10.0.0.0/24") },
			"write one of them",
		},
		{"a prefix with host bits", byPrefixOnly("10.0.0.7/24"), "is not a prefix without host bits"},
		{"a link-local prefix", byPrefixOnly("fe80::/64"), "addressPrefix: fe80:: is link-local"},
		{
			"a prefix and any AS",
			byPrefixOnly("10.0.0.0/24", func(p *Peer) { p.RemoteASN, p.RemoteType = 0, External }),
			"known by spec.remoteASN",
		},
		{
			"a prefix and graceful restart",
			byPrefixOnly("10.0.0.0/24", func(p *Peer) { p.GracefulRestart = time.Minute }),
			"no sourceAddress, gracefulRestart or bfd",
		},
		{
			"a prefix and BFD",
			byPrefixOnly("10.0.0.0/24", func(p *Peer) { p.BFD.Enabled = true }),
			"no sourceAddress, gracefulRestart or bfd",
		},
		{
			"keepalives too rare",
			func(p *Peer) { p.KeepaliveTime = 90 * time.Second },
			"keepaliveTime: 1m30s is not below holdTime",
		},
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

// Whatever is left out is the same as its default.
func TestDefaultsWrittenOutAreNone(t *testing.T) {
	plain := Peer{Name: "tor", BFD: BFD{Enabled: true}}
	for name, write := range map[string]func(*Peer){
		"port":      func(p *Peer) { p.Port = 179 },
		"hold":      func(p *Peer) { p.HoldTime = 90 * time.Second },
		"keepalive": func(p *Peer) { p.KeepaliveTime = 30 * time.Second },
		"both":      func(p *Peer) { p.HoldTime, p.KeepaliveTime = 90*time.Second, 30*time.Second },
		"retry":     func(p *Peer) { p.ConnectRetryTime = 5 * time.Second },
		"families":  func(p *Peer) { p.IPv4, p.IPv6 = true, true },
		"BFD": func(p *Peer) {
			const usual = 300 * time.Millisecond
			p.BFD = BFD{Enabled: true, ReceiveInterval: usual, TransmitInterval: usual, Multiplier: 3}
		},
	} {
		p := plain
		write(&p)
		if p.Canonical() != plain {
			t.Errorf("%s: %+v is %+v", name, p, p.Canonical())
		}
		h1, k1, r1 := plain.Timers()
		if h2, k2, r2 := p.Canonical().Timers(); h1 != h2 || k1 != k2 || r1 != r2 {
			t.Errorf("%s: the times change: %s %s %s", name, h2, k2, r2)
		}
	}
	for _, p := range []Peer{
		{Port: 1179}, {HoldTime: 30 * time.Second}, {KeepaliveTime: 10 * time.Second}, {ConnectRetryTime: time.Second},
		{HoldTime: 30 * time.Second, KeepaliveTime: 5 * time.Second}, {IPv6: true},
	} {
		if p.Canonical() != p {
			t.Errorf("%+v became %+v", p, p.Canonical())
		}
	}
}
