//go:build root

package bgp

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// dialing has FRR connect at once and again and again; %s is for more lines.
const dialing = frrConfig + " neighbor node timers connect 1\n%s"

func listening(c *Config) { c.Listen = ":179" }

func passive(name, address string) Peer {
	return Peer{
		Name:      name,
		Address:   netip.MustParseAddr(address),
		Passive:   true,
		LocalASN:  nodeASN,
		RemoteASN: frrASN,
		HoldTime:  3 * time.Second,
	}
}

func byPrefix(name, prefix string) Peer {
	return Peer{
		Name:      name,
		Prefix:    netip.MustParsePrefix(prefix),
		LocalASN:  nodeASN,
		RemoteASN: frrASN,
		HoldTime:  3 * time.Second,
	}
}

// neighbor is what FRR says of its session with us.
func (f *frr) neighbor(t *testing.T, address string) (n struct {
	RemoteRouterID          string `json:"remoteRouterId"`
	HostForeign, BgpState   string
	PortForeign             int
	LastErrorCodeSubcode    string
	LastShutdownDescription string
	MessageStats            struct{ UpdatesRecv int }
}) {
	t.Helper()
	all := map[string]json.RawMessage{}
	must(t, json.Unmarshal([]byte(f.vtysh("bgpd", "show bgp neighbors "+address+" json")), &all))
	must(t, json.Unmarshal(all[address], &n))
	return n
}

func TestFRRThatConnectsToUsGetsRoutes(t *testing.T) {
	for _, c := range []struct {
		name   string
		lines  string
		v4, v6 Peer
		change func(*Peer)
	}{
		{name: "passive", v4: passive("tor1", frrIPv4), v6: passive("tor2", frrIPv6)},
		{name: "by prefix", v4: byPrefix("tor1", "10.0.0.0/24"), v6: byPrefix("tor2", "2001:db8::/64")},
		{
			name: "passive, with a password", lines: " neighbor node password sesame\n",
			v4: passive("tor1", frrIPv4), v6: passive("tor2", frrIPv6), change: func(p *Peer) { p.Password = "sesame" },
		},
		{
			name: "by prefix, with a password", lines: " neighbor node password sesame\n",
			v4: byPrefix("tor1", "10.0.0.0/24"), v6: byPrefix("tor2", "2001:db8::/64"),
			change: func(p *Peer) { p.Password = "sesame" },
		},
		{
			name: "passive, with TTL security", lines: " neighbor 10.0.0.9 ttl-security hops 1\n",
			v4: passive("tor1", frrIPv4), v6: passive("tor2", frrIPv6), change: ttlSecurityOverIPv4,
		},
		{
			name: "by prefix, with TTL security", lines: " neighbor 10.0.0.9 ttl-security hops 1\n",
			v4: byPrefix("tor1", "10.0.0.0/24"), v6: byPrefix("tor2", "2001:db8::/64"), change: ttlSecurityOverIPv4,
		},
		{
			name: "passive, with multihop", lines: " neighbor node ebgp-multihop 5\n",
			v4: passive("tor1", frrIPv4), v6: passive("tor2", frrIPv6), change: func(p *Peer) { p.EBGPMultihop = 5 },
		},
		{
			name: "by prefix, with multihop", lines: " neighbor node ebgp-multihop 5\n",
			v4: byPrefix("tor1", "10.0.0.0/24"), v6: byPrefix("tor2", "2001:db8::/64"),
			change: func(p *Peer) { p.EBGPMultihop = 5 },
		},
		{
			name: "passive, at one of our addresses",
			v4:   passive("tor1", frrIPv4), v6: passive("tor2", frrIPv6), change: func(p *Peer) {
				if p.Name == "tor1" {
					p.SourceAddress = netip.MustParseAddr("10.0.0.9")
				}
			},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFRR(t, fmt.Sprintf(dialing, c.lines))
			d := run(t, listening)
			if c.change != nil {
				c.change(&c.v4)
				c.change(&c.v6)
			}
			d.SyncPeers([]Peer{c.v4, c.v6})
			d.Sync("web", routes(nil, "192.0.2.1/32", "2001:db8:1::1/128"))
			d.up(t, "tor1", "tor2")
			f.has(t, "192.0.2.1/32", "2001:db8:1::1/128")
			d.Sync("web", routes([]string{"tor1"}, "192.0.2.2/32"))
			f.has(t, "192.0.2.2/32")
			if n := f.neighbor(t, "10.0.0.9"); n.PortForeign != 179 {
				t.Errorf("our port is %d: FRR did not connect to us, but we to it", n.PortForeign)
			}
			st := d.session(t, "tor1")
			if st.Address != netip.MustParseAddr(frrIPv4) || st.IPv4 != 1 {
				t.Errorf("status %+v, want address %s and 1 prefix", st, frrIPv4)
			}
		})
	}
}

func TestFRRWithoutThePasswordIsNotAcceptedByPrefix(t *testing.T) {
	f := newFRR(t, fmt.Sprintf(dialing, ""))
	d := run(t, listening)
	p := byPrefix("tor1", "10.0.0.0/24")
	p.Password = "sesame"
	d.SyncPeers([]Peer{p, passive("tor2", frrIPv6)})
	d.up(t, "tor2") // FRR has tried both by now
	if n := f.neighbor(t, "10.0.0.9"); n.BgpState == "Established" {
		t.Error("a session without the password")
	}
}

func TestFRRThatConnectsToUsKeepsTheRoutesOverARestart(t *testing.T) {
	f := newFRR(t, fmt.Sprintf(dialing, " bgp graceful-restart\n"))
	d := run(t, listening)
	p := passive("tor1", frrIPv4)
	p.GracefulRestart = time.Minute
	d.SyncPeers([]Peer{p})
	d.Sync("web", routes(nil, "192.0.2.1/32"))
	f.says(t, "ipv4", "192.0.2.1/32", "path 64512 via 10.0.0.9")
	d.becomes(t, func(st Status) bool { return st.Peers[0].KeepsRoutes })
	d.Restart()
	d.stop()
	f.says(t, "ipv4", "192.0.2.1/32", "path 64512 via 10.0.0.9, stale")
	next := run(t, listening)
	next.SyncPeers([]Peer{p})
	next.Sync("web", routes(nil, "192.0.2.1/32"))
	f.says(t, "ipv4", "192.0.2.1/32", "path 64512 via 10.0.0.9")
}

func TestAPortThatIsTakenIsReportedOnThePeersThatNeedItAndTakenWhenItIsFree(t *testing.T) {
	f := newFRR(t, fmt.Sprintf(dialing, ""))
	other, err := net.Listen("tcp4", ":179")
	must(t, err)
	defer other.Close()
	d := run(t, listening)
	d.SyncPeers([]Peer{frrPeer("tor1", frrIPv4), passive("tor2", frrIPv6)})
	d.Sync("web", routes(nil, "192.0.2.1/32"))
	o := d.observesReason(t, SessionFailed, "tor2", "address already in use")
	if !strings.Contains(o.Reason, "tried again every 5s") {
		t.Errorf("reason %q", o.Reason)
	}
	d.up(t, "tor1")
	f.has(t, "192.0.2.1/32")
	must(t, other.Close())
	d.up(t, "tor1", "tor2")
	f.has(t, "192.0.2.1/32")
}

func TestFRRSeesANewRouterIDAndARepeatedOneResetsNothing(t *testing.T) {
	f := newFRR(t, frrConfig)
	d := run(t)
	d.SyncPeers([]Peer{frrPeer("tor1", frrIPv4)})
	d.Sync("web", routes(nil, "192.0.2.1/32"))
	f.has(t, "192.0.2.1/32")
	d.observes(t, SessionUp, "tor1")
	if n := f.neighbor(t, "10.0.0.9"); n.RemoteRouterID != "10.0.0.9" {
		t.Errorf("FRR sees router ID %s, want 10.0.0.9", n.RemoteRouterID)
	}
	must(t, d.SetRouterID(netip.MustParseAddr("10.0.0.9")))
	must(t, d.SetRouterID(netip.MustParseAddr("192.0.2.200")))
	if o := d.observes(t, SessionDown, "tor1"); o.Reason != "the router ID changes from 10.0.0.9 to 192.0.2.200" {
		t.Errorf("reason %q", o.Reason)
	}
	d.observes(t, SessionUp, "tor1")
	f.has(t, "192.0.2.1/32")
	if n := f.neighbor(t, "10.0.0.9"); n.RemoteRouterID != "192.0.2.200" {
		t.Errorf("FRR sees router ID %s, want 192.0.2.200", n.RemoteRouterID)
	}
	since := d.session(t, "tor1").Since
	must(t, d.SetRouterID(netip.MustParseAddr("192.0.2.200")))
	d.Sync("web", routes(nil, "192.0.2.2/32"))
	f.has(t, "192.0.2.2/32")
	if s := d.session(t, "tor1"); s.Since != since {
		t.Errorf("the same router ID again gave a new session, since %s", s.Since)
	}
}

// ttlSecurityOverIPv4 is for a peer one hop away; over IPv6 it does not work with peers that
// connect to us.
func ttlSecurityOverIPv4(p *Peer) {
	if p.Covers().Addr().Is4() {
		p.TTLSecurityHops = 1
	}
}
