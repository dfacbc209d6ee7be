//go:build root

package bgp

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/osrg/gobgp/v4/api"
	"golang.org/x/sys/unix"
)

// filter drops the SYNs that the driver sends to a port, or only counts them.
type filter struct {
	conn  *nftables.Conn
	table *nftables.Table
	chain *nftables.Chain
}

func newFilter(t *testing.T, port uint16, verdict expr.VerdictKind) *filter {
	t.Helper()
	conn, err := nftables.New()
	must(t, err)
	f := &filter{conn: conn}
	f.table = conn.AddTable(&nftables.Table{Name: "bgpt", Family: nftables.TableFamilyINet})
	f.chain = conn.AddChain(&nftables.Chain{
		Name: "out", Table: f.table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityFilter,
	})
	conn.AddRule(&nftables.Rule{Table: f.table, Chain: f.chain, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(port)},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 13, Len: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{2}, Xor: []byte{0}},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{2}},
		&expr.Counter{},
		&expr.Verdict{Kind: verdict},
	}})
	must(t, conn.Flush())
	t.Cleanup(func() { f.remove(t) })
	return f
}

func (f *filter) remove(t *testing.T) {
	t.Helper()
	if f.table != nil {
		f.conn.DelTable(f.table)
		must(t, f.conn.Flush())
	}
	f.table = nil
}

// seen is how many SYNs there were.
func (f *filter) seen(t *testing.T) uint64 {
	t.Helper()
	rules, err := f.conn.GetRules(f.table, f.chain)
	must(t, err)
	for _, e := range rules[0].Exprs {
		if c, ok := e.(*expr.Counter); ok {
			return c.Packets
		}
	}
	t.Fatal("the rule has lost its counter")
	return 0
}

// A router that nothing reached for a while has its session again with the first call that does,
// and calls are less than a second apart.
func TestFRRIsBackWithTheFirstCallThatReachesIt(t *testing.T) {
	f := newFRR(t, frrConfig)
	for _, address := range []string{frrIPv4, frrIPv6} {
		t.Run(address, func(t *testing.T) {
			d := run(t)
			p := frrPeer("tor1", address)
			p.ConnectRetryTime = 0 // as it is by default
			d.SyncPeers([]Peer{p})
			d.Sync("web", routes(nil, "192.0.2.1/32"))
			f.has(t, "192.0.2.1/32")
			d.observes(t, SessionUp, "tor1")

			silence := newFilter(t, 179, expr.VerdictDrop)
			f.shell(t, "ip link set bgpt-tor down")
			began := time.Now()
			d.observes(t, SessionDown, "tor1")
			f.shell(t, "ip link set bgpt-tor up") // the kernels see each other, the filter is in between
			f.shell(t, "ip -6 addr replace 2001:db8::1/64 dev bgpt-tor nodad")
			f.await(t, "some calls", func() bool { return silence.seen(t) >= 10 })
			calls, lasted := silence.seen(t), time.Since(began)
			if most := uint64(lasted/callPause)*2 + 2; calls > most {
				t.Errorf("%d calls in %s, want at most %d", calls, lasted, most)
			}
			silence.remove(t)
			open := newFilter(t, 179, expr.VerdictAccept)
			opened := time.Now()
			up := d.observes(t, SessionUp, "tor1")
			if n := open.seen(t); n > 1 {
				t.Errorf("the session took %d calls", n)
			}
			open.remove(t)
			f.has(t, "192.0.2.1/32")
			t.Logf("%d SYNs in the %s of silence, and the session %s after it", calls,
				lasted.Round(time.Millisecond), up.Time.Sub(opened).Round(time.Millisecond))
		})
	}
}

// The same where the link was down.
func TestFRRIsBackWhenItsLinkIs(t *testing.T) {
	f := newFRR(t, frrConfig)
	d := run(t)
	p := frrPeer("tor1", frrIPv4)
	p.ConnectRetryTime = 0
	d.SyncPeers([]Peer{p})
	d.Sync("web", routes(nil, "192.0.2.1/32"))
	f.has(t, "192.0.2.1/32")
	d.observes(t, SessionUp, "tor1")
	f.shell(t, "ip link set bgpt-tor down")
	d.observes(t, SessionDown, "tor1")
	calls := newFilter(t, 179, expr.VerdictAccept)
	f.await(t, "some calls", func() bool { return calls.seen(t) >= 4 })
	f.shell(t, "ip link set bgpt-tor up")
	opened := time.Now()
	up := d.observes(t, SessionUp, "tor1")
	t.Logf("the session was there %s after the link", up.Time.Sub(opened).Round(time.Millisecond))
	f.has(t, "192.0.2.1/32")
}

// A bgpd that ends and is started again has its session again; until then its kernel refuses.
func TestFRRIsBackWhenItIsStartedAgain(t *testing.T) {
	f := newFRR(t, frrConfig)
	d := run(t, func(c *Config) { c.LastingSession = time.Nanosecond })
	p := frrPeer("tor1", frrIPv4)
	p.ConnectRetryTime = 0
	d.SyncPeers([]Peer{p})
	d.Sync("web", routes(nil, "192.0.2.1/32"))
	f.has(t, "192.0.2.1/32")
	d.observes(t, SessionUp, "tor1")
	calls := newFilter(t, 179, expr.VerdictAccept)
	killed := time.Now()
	must(t, f.bgpd.Process.Kill())
	_ = f.bgpd.Wait() // killed
	down := d.observes(t, SessionDown, "tor1")
	if !strings.Contains(down.Reason, "closed the connection") {
		t.Errorf("it ended since %q", down.Reason)
	}
	f.await(t, "some calls", func() bool { return calls.seen(t) >= 10 })
	if n, most := calls.seen(t), uint64(time.Since(killed)/callPause)*2+2; n > most {
		t.Errorf("%d calls within %s of a router that refuses, want at most %d", n, time.Since(killed), most)
	}
	t.Logf("%d calls in %s", calls.seen(t), time.Since(killed).Round(time.Millisecond))
	f.bgpd = f.daemon(t, "bgpd", nil)
	f.await(t, "bgpd to answer", func() bool { return f.vtysh("bgpd", "show bgp summary json") != "" })
	answered := time.Now()
	up := d.observes(t, SessionUp, "tor1")
	t.Logf("the session was there %s after bgpd answered its shell", up.Time.Sub(answered).Round(time.Millisecond))
	f.has(t, "192.0.2.1/32")
}

// A router that exports 12 000 routes and changes many of them keeps its session.
func TestFRRThatSendsMuchKeepsItsSession(t *testing.T) {
	const n = 12000
	network := func(i int) string { return fmt.Sprintf("network 20.%d.%d.0/24", i/250, i%250) }
	config := strings.Replace(frrConfig, " address-family ipv4 unicast\n",
		" no bgp network import-check\n address-family ipv4 unicast\n", 1)
	var lines strings.Builder
	for i := range n {
		fmt.Fprintf(&lines, "  %s\n", network(i))
	}
	config = strings.Replace(config, "  neighbor node activate\n", lines.String()+"  neighbor node activate\n", 1)
	f := newFRR(t, config)
	d := run(t)
	d.SyncPeers([]Peer{frrPeer("tor1", frrIPv4)})
	d.Sync("web", routes(nil, "192.0.2.1/32"))
	d.up(t, "tor1")
	sent := func() (sent struct {
		Peers map[string]struct{ PfxSnt, MsgSent int }
	}) {
		must(t, json.Unmarshal([]byte(f.vtysh("bgpd", "show bgp ipv4 unicast summary json")), &sent))
		return sent
	}
	f.await(t, "the table to be sent", func() bool { return sent().Peers["10.0.0.9"].PfxSnt >= n })
	before, since := sent().Peers["10.0.0.9"].MsgSent, d.session(t, "tor1").Since
	commands := []string{"configure terminal", "router bgp 64513", "address-family ipv4 unicast"}
	for i := range 500 {
		commands = append(commands, "no "+network(i))
	}
	f.vtysh("bgpd", commands...)
	f.await(t, "withdrawals to be sent", func() bool { return sent().Peers["10.0.0.9"].PfxSnt < n })
	for i := range commands[3:] {
		commands[3+i] = network(i)
	}
	f.vtysh("bgpd", commands...)
	f.await(t, "the table to be sent again", func() bool { return sent().Peers["10.0.0.9"].PfxSnt >= n })
	d.Sync("web", routes(nil, "192.0.2.2/32"))
	f.await(t, "our route", func() bool { return f.table("ipv4")["192.0.2.2/32"] != "" })
	if s := d.session(t, "tor1"); !s.Established() || !s.Since.Equal(since) {
		t.Errorf("the session is %s since %s, want established since %s: %s", s.State, s.Since, since, s.LastError)
	}
	must(t, d.owner.server.bgp.ListPeer(t.Context(), &api.ListPeerRequest{}, func(p *api.Peer) {
		if got := p.GetState().GetMessages().GetReceived().GetUpdate(); got > 2 {
			t.Errorf("GoBGP got %d UPDATE messages, want the two End-of-RIBs", got)
		}
	}))
	t.Logf("FRR sent %d prefixes and then %d messages", n, sent().Peers["10.0.0.9"].MsgSent-before)
}

// On a node whose own addresses are on another card, routes of the other family than the session's
// point to the session's card, which the router can reach.
func TestFRRIsToldTheAddressBesideTheSessions(t *testing.T) {
	f := newFRR(t, fmt.Sprintf(dialing, ""))
	command(t, "ip", "link", "add", "bt-mgmt", "type", "veth", "peer", "name", "bt-other")
	t.Cleanup(func() { command(t, "ip", "link", "del", "bt-mgmt") })
	command(t, "ip", "addr", "add", "10.7.0.9/24", "dev", "bt-mgmt")
	command(t, "ip", "-6", "addr", "add", "2001:db8:7::9/64", "dev", "bt-mgmt", "nodad")
	command(t, "ip", "link", "set", "bt-mgmt", "up")
	// One that is no longer to be used does not count.
	command(t, "ip", "-6", "addr", "add", "2001:db8::77/64", "dev", f.link, "nodad", "preferred_lft", "0")
	both := []netip.Addr{netip.MustParseAddr("10.7.0.9"), netip.MustParseAddr("2001:db8:7::9")}
	for _, c := range []struct {
		name, router, four, six string
		own                     []netip.Addr
		change                  func(*Peer)
	}{
		{"over IPv4", frrIPv4, "10.0.0.9", "2001:db8::9", both, nil},
		{"over IPv6", frrIPv6, "10.0.0.9", "2001:db8::9", both, nil},
		{"over IPv4 of a node without IPv6", frrIPv4, "10.0.0.9", "2001:db8::9", both[:1], nil},
		{"over IPv6 of a node without IPv4", frrIPv6, "10.0.0.9", "2001:db8::9", both[1:], nil},
		{"the node's own", frrIPv4, "10.7.0.9", "2001:db8:7::9", both, func(p *Peer) { p.NodeNextHop = true }},
		{"of one that connects to us", frrIPv4, "10.0.0.9", "2001:db8::9", both, func(p *Peer) {
			*p = passive(p.Name, frrIPv4)
		}},
		{"of one that connects to us over IPv6", frrIPv6, "10.0.0.9", "2001:db8::9", both, func(p *Peer) {
			*p = passive(p.Name, frrIPv6)
		}},
		{"of a prefix", frrIPv4, "10.0.0.9", "2001:db8::9", both, func(p *Peer) { *p = byPrefix(p.Name, "10.0.0.0/24") }},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := run(t, listening, func(config *Config) { config.NextHops = c.own })
			p := frrPeer("tor1", c.router)
			if c.change != nil {
				c.change(&p)
			}
			d.SyncPeers([]Peer{p})
			d.Sync("web", routes(nil, "192.0.2.1/32", "2001:db8:1::1/128"))
			f.says(t, "ipv4", "192.0.2.1/32", "path 64512 via "+c.four)
			f.says(t, "ipv6", "2001:db8:1::1/128", "path 64512 via "+c.six)
			d.Sync("dns", routes(nil, "192.0.2.53/32", "2001:db8:1::53/128"))
			f.says(t, "ipv4", "192.0.2.53/32", "path 64512 via "+c.four)
			f.says(t, "ipv6", "2001:db8:1::53/128", "path 64512 via "+c.six)
		})
	}
}
