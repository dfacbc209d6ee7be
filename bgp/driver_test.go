package bgp

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	gobgp "github.com/osrg/gobgp/v4/pkg/packet/bgp"
	gobgpserver "github.com/osrg/gobgp/v4/pkg/server"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/berth-lb/berth/bgp/community"
)

const nodeASN = 64512

// running is a driver that runs, with the owner inside for tests that look into it.
type running struct {
	*Driver
	owner   *loop
	metrics *prometheus.Registry
	stop    func() time.Duration
}

func run(t testing.TB, change ...func(*Config)) *running {
	t.Helper()
	registry := prometheus.NewRegistry()
	config := Config{
		Node:     "node-1",
		RouterID: netip.MustParseAddr("10.0.0.9"),
		NextHops: []netip.Addr{netip.MustParseAddr("10.0.0.9"), netip.MustParseAddr("2001:db8::9")},
		Logger:   slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelInfo})),
		Metrics:  registry,
	}
	for _, c := range change {
		c(&config)
	}
	d, err := New(config)
	must(t, err)
	r := &running{Driver: d, owner: newLoop(d), metrics: registry}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.owner.run(ctx) }()
	var took time.Duration
	stopped := false
	r.stop = func() time.Duration {
		if stopped {
			return took
		}
		stopped = true
		began := time.Now()
		cancel()
		must(t, <-done)
		took = time.Since(began)
		return took
	}
	t.Cleanup(func() { r.stop() })
	return r
}

// testWriter gives the driver's log to the test.
type testWriter struct{ t testing.TB }

func (w testWriter) Write(line []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(line)))
	return len(line), nil
}

// observes waits for an observation and returns it.
func (r *running) observes(t testing.TB, kind Kind, peer string) Observation {
	t.Helper()
	return r.observesReason(t, kind, peer, "")
}

func (r *running) observesReason(t testing.TB, kind Kind, peer, part string) Observation {
	t.Helper()
	var seen []Observation
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	for {
		select {
		case o := <-r.Observed():
			if o.Kind == kind && o.Peer == peer && strings.Contains(o.Reason, part) {
				return o
			}
			seen = append(seen, o)
		case <-timeout.C:
			t.Fatalf("no %s of %s with %q within %s; saw %v", kind, peer, part, patience, seen)
		}
	}
}

// observesNext waits for the next observation of the peer and returns it.
func (r *running) observesNext(t testing.TB, peer string) Observation {
	t.Helper()
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	for {
		select {
		case o := <-r.Observed():
			if o.Peer == peer {
				return o
			}
		case <-timeout.C:
			t.Fatalf("nothing of %s within %s", peer, patience)
		}
	}
}

// up waits until the sessions with these peers are established, in the driver's eyes as well.
func (r *running) up(t testing.TB, peers ...string) {
	t.Helper()
	await(t, r.Observed(), func() bool {
		var established []string
		for _, p := range r.Status().Peers {
			if p.Established() {
				established = append(established, p.Name)
			}
		}
		return !slices.ContainsFunc(peers, func(name string) bool { return !slices.Contains(established, name) })
	}, func() string { return fmt.Sprintf("sessions not up: %+v", r.Status().Peers) })
}

// counts waits until the status counts what the peer is announced: a router can have a route a
// moment before.
func (r *running) counts(t testing.TB, peer string, ipv4, ipv6 int) {
	t.Helper()
	r.becomes(t, func(Status) bool {
		s := r.session(t, peer)
		return s.Established() && s.IPv4 == ipv4 && s.IPv6 == ipv6
	})
}

// becomes waits for what the driver says of itself: a router hears of a route a moment before the
// driver counts it as sent.
func (r *running) becomes(t testing.TB, ok func(Status) bool, details ...func() string) {
	t.Helper()
	again := time.NewTicker(time.Millisecond)
	defer again.Stop()
	await(t, again.C, func() bool { return ok(r.Status()) }, func() string {
		text := fmt.Sprintf("status %+v", r.Status())
		for _, d := range details {
			text += "\n" + d()
		}
		return text
	})
}

func (r *running) session(t testing.TB, name string) PeerStatus {
	t.Helper()
	for _, p := range r.Status().Peers {
		if p.Name == name {
			return p
		}
	}
	t.Fatalf("no peer %s in the status", name)
	return PeerStatus{}
}

// session0Up reports whether the only peer's session is established.
func (r *running) session0Up() bool {
	peers := r.Status().Peers
	return len(peers) == 1 && peers[0].Established()
}

func TestRoutesOfBothFamiliesPointToTheSessionOrTheNode(t *testing.T) {
	atOnce(t)
	for _, c := range []struct {
		name, address   string
		routerASN       uint32
		asPath          string
		wantLocalPrefIs bool
		node            bool
		hops            [2]string
	}{
		{"eBGP over IPv4", "127.0.0.2", 64513, "64512", false, false, [2]string{"127.0.0.1", "2001:db8::9"}},
		{"iBGP over IPv4", "127.0.0.2", nodeASN, "", true, false, [2]string{"127.0.0.1", "2001:db8::9"}},
		{"eBGP over IPv6", "::1", 64513, "64512", false, false, [2]string{"10.0.0.9", "::1"}},
		{"eBGP over IPv4, to the node", "127.0.0.2", 64513, "64512", false, true, [2]string{"10.0.0.9", "2001:db8::9"}},
		{"eBGP over IPv6, to the node", "::1", 64513, "64512", false, true, [2]string{"10.0.0.9", "2001:db8::9"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			routerID := c.address
			if strings.Contains(routerID, ":") {
				routerID = "10.0.0.1"
			}
			tor := newRouterWithID(t, c.address, routerID, c.routerASN, nodeASN)
			d := run(t)
			peer := tor.peer("tor1", nodeASN)
			peer.NodeNextHop = c.node
			d.SyncPeers([]Peer{peer})
			d.Sync("web", routes(nil, "192.0.2.1/32", "2001:db8:1::1/128"))
			tor.has(t, "192.0.2.1/32", "2001:db8:1::1/128")

			d.up(t, "tor1")
			if got := nextHop(tor.path("192.0.2.1/32")); got != c.hops[0] {
				t.Errorf("IPv4 next hop %s, want %s", got, c.hops[0])
			}
			if got := nextHop(tor.path("2001:db8:1::1/128")); got != c.hops[1] {
				t.Errorf("IPv6 next hop %s, want %s", got, c.hops[1])
			}
			for _, prefix := range tor.prefixes() {
				asPath, localPref, communities := attributes(tor.path(prefix))
				if asPath != c.asPath || localPref != c.wantLocalPrefIs || communities {
					t.Errorf("%s: AS path %q, LOCAL_PREF %v, communities %v; want %q, %v, none",
						prefix, asPath, localPref, communities, c.asPath, c.wantLocalPrefIs)
				}
			}
			d.counts(t, "tor1", 1, 1)

			tor.forget()
			d.Sync("web", routes(nil, "2001:db8:1::1/128"))
			tor.has(t, "2001:db8:1::1/128")
			d.Sync("web", Desired{})
			tor.has(t)
			want := []string{"-192.0.2.1/32", "-2001:db8:1::1/128"}
			if diff := cmp.Diff(want, tor.heard()); diff != "" {
				t.Errorf("on the wire (-want +got):\n%s", diff)
			}
		})
	}
}

func TestSetNextHops(t *testing.T) {
	atOnce(t)
	tor := newRouter(t, "127.0.0.2", 64513, nodeASN)
	d := run(t)
	peer := tor.peer("tor1", nodeASN)
	peer.NodeNextHop = true
	d.SyncPeers([]Peer{peer})
	d.Sync("web", routes(nil, "192.0.2.1/32", "2001:db8:1::1/128"))
	tor.has(t, "192.0.2.1/32", "2001:db8:1::1/128")
	tor.forget()
	must(t, d.SetNextHops([]netip.Addr{netip.MustParseAddr("10.0.0.10"), netip.MustParseAddr("2001:db8::9")}))
	moved := func() bool { return nextHop(tor.path("192.0.2.1/32")) == "10.0.0.10" }
	await(t, tor.changed, moved, func() string { return "the next hop is still " + nextHop(tor.path("192.0.2.1/32")) })
	if got := nextHop(tor.path("2001:db8:1::1/128")); got != "2001:db8::9" {
		t.Errorf("IPv6 next hop %s, want 2001:db8::9 as before", got)
	}
	for _, words := range tor.heard() {
		if strings.HasPrefix(words, "-") {
			t.Errorf("on the wire: %s; want no withdrawal", words)
		}
	}
	d.counts(t, "tor1", 1, 1) // the session stayed
	twice := []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")}
	if err := d.SetNextHops(twice); err == nil {
		t.Error("two next hops of a family are accepted")
	}
}

func TestARouteForSomePeersReachesThoseOnlyAndMovesAlone(t *testing.T) {
	atOnce(t)
	tor1, tor2 := newRouter(t, "127.0.0.2", 64513, nodeASN), newRouter(t, "127.0.0.3", 64514, nodeASN)
	d := run(t)
	d.SyncPeers([]Peer{tor1.peer("tor1", nodeASN), tor2.peer("tor2", nodeASN)})
	d.Sync("all", routes(nil, "192.0.2.1/32"))
	d.Sync("moving", routes([]string{"tor1"}, "192.0.2.2/32"))
	d.Sync("nobody", routes([]string{"tor9"}, "192.0.2.3/32"))
	tor1.has(t, "192.0.2.1/32", "192.0.2.2/32")
	tor2.has(t, "192.0.2.1/32")
	d.up(t, "tor1", "tor2")
	tor1.forget()
	tor2.forget()

	d.Sync("moving", routes([]string{"tor1", "tor2"}, "192.0.2.2/32"))
	tor2.has(t, "192.0.2.1/32", "192.0.2.2/32")
	d.Sync("moving", routes([]string{"tor2"}, "192.0.2.2/32"))
	tor1.has(t, "192.0.2.1/32")
	d.Sync("moving", routes(nil, "192.0.2.2/32"))
	tor1.has(t, "192.0.2.1/32", "192.0.2.2/32")
	tor2.has(t, "192.0.2.1/32", "192.0.2.2/32")
	for _, tor := range []*router{tor1, tor2} {
		if log := tor.heard(); slices.Contains(log, "+192.0.2.1/32") || slices.Contains(log, "-192.0.2.1/32") {
			t.Errorf("router %s heard of a prefix that did not change: %v", tor.address, log)
		}
	}
	if slices.Contains(tor2.heard(), "-192.0.2.2/32") {
		t.Errorf("a prefix that a peer kept was withdrawn from it: %v", tor2.heard())
	}
	d.counts(t, "tor1", 2, 0)
}

func TestAChangeToOnePeerLeavesTheSessionsOfOthersAlone(t *testing.T) {
	atOnce(t)
	tor1, tor2 := newRouter(t, "127.0.0.2", 64513, nodeASN), newRouter(t, "127.0.0.3", 64514, nodeASN)
	d := run(t)
	p1, p2 := tor1.peer("tor1", nodeASN), tor2.peer("tor2", nodeASN)
	d.SyncPeers([]Peer{p1, p2})
	d.Sync("web", routes(nil, "192.0.2.1/32"))
	tor1.has(t, "192.0.2.1/32")
	tor2.has(t, "192.0.2.1/32")
	d.up(t, "tor1", "tor2")
	since := d.session(t, "tor1").Since

	p2.HoldTime = 30 * time.Second
	d.SyncPeers([]Peer{p1, p2, {Name: "broken"}})
	if o := d.observesReason(t, SessionDown, "tor2", "changed in the configuration"); !o.Intended {
		t.Errorf("a change of the configuration is a failure: %+v", o)
	}
	if o := d.observesNext(t, "tor2"); o.Kind != SessionUp {
		t.Errorf("before the session with the changed peer came up again: %+v", o)
	}
	tor2.has(t, "192.0.2.1/32")
	if got := d.session(t, "broken").LastError; !strings.Contains(got, "write one of them") {
		t.Errorf("the broken peer's error: %q", got)
	}
	d.SyncPeers([]Peer{p1})
	if o := d.observesNext(t, "tor2"); o.Kind != SessionDown || !o.Intended {
		t.Errorf("the end of a peer is a failure: %+v", o)
	}
	tor2.has(t)

	if now := d.session(t, "tor1"); now.Since != since || !now.Established() {
		t.Errorf("session with tor1 was touched: since %s, before %s", now.Since, since)
	}
	if ends := tor1.ended(); len(ends) != 0 {
		t.Errorf("tor1 saw its session end: %v", ends)
	}
	d.becomes(t, func(st Status) bool { return len(st.Peers) == 1 })
}

func TestLeavingWithdrawsKeepsTheSessionAndRemembersChanges(t *testing.T) {
	atOnce(t)
	tor := newRouter(t, "127.0.0.2", 64513, nodeASN)
	d := run(t)
	d.SyncPeers([]Peer{tor.peer("tor1", nodeASN)})
	d.Sync("web", routes(nil, "192.0.2.1/32"))
	tor.has(t, "192.0.2.1/32")

	d.up(t, "tor1")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	must(t, d.Withdraw(ctx))
	tor.has(t)
	d.Sync("web", routes(nil, "192.0.2.1/32", "192.0.2.2/32"))
	must(t, d.Withdraw(ctx)) // has taken the Sync above in before it returns
	if st := d.Status(); !st.Leaving || st.Announced != 0 || !st.Peers[0].Established() {
		t.Errorf("status while leaving: %+v", st)
	}
	d.Resume()
	tor.has(t, "192.0.2.1/32", "192.0.2.2/32")

	must(t, d.Withdraw(ctx))
	if took := d.stop(); took > 2*time.Second {
		t.Errorf("stopping took %s", took)
	}
	await(t, tor.changed, func() bool { return len(tor.ended()) > 0 }, func() string { return "the session did not end" })
	if ends := tor.ended(); !strings.Contains(ends[0], "cease") || !strings.Contains(ends[0], "administrative shutdown") {
		t.Errorf("session ended with %q, want Cease, Administrative Shutdown", ends[0])
	}
}

func TestStoppingEndsTheSessionWithCeaseAndIsQuickWithPeersInAnyState(t *testing.T) {
	atOnce(t)
	tor := newRouter(t, "127.0.0.2", 64513, nodeASN)
	silent, err := net.Listen("tcp", "127.0.0.3:0")
	must(t, err)
	defer silent.Close()
	d := run(t)
	mute := Peer{Name: "mute", Address: netip.MustParseAddr("127.0.0.3"), LocalASN: nodeASN, RemoteASN: 64514,
		Port: silent.Addr().(*net.TCPAddr).AddrPort().Port()}
	refusing := Peer{Name: "refusing", Address: netip.MustParseAddr("127.0.0.4"), LocalASN: nodeASN, RemoteASN: 64515,
		Port: freePort(t, "127.0.0.4"), ConnectRetryTime: time.Second}
	d.SyncPeers([]Peer{mute, refusing, tor.peer("tor1", nodeASN)})
	d.Sync("web", routes(nil, "192.0.2.1/32"))
	tor.has(t, "192.0.2.1/32")
	d.observesReason(t, SessionFailed, "refusing", "cannot connect: connection refused")
	if took := d.stop(); took > 2*time.Second {
		t.Errorf("stopping took %s", took)
	}
	await(t, tor.changed, func() bool { return len(tor.ended()) > 0 }, func() string { return "the session did not end" })
	if ends := tor.ended(); !strings.Contains(ends[0], "cease") || !strings.Contains(ends[0], "administrative reset") {
		t.Errorf("session ended with %q, want Cease, Administrative Reset", ends[0])
	}
}

func TestAWordBeforeTheEndCounts(t *testing.T) {
	for range 10 { // without it, select takes either in turn
		d, err := New(Config{Node: "node-1", RouterID: netip.MustParseAddr("10.0.0.9"),
			NextHops: []netip.Addr{netip.MustParseAddr("10.0.0.9")}, Logger: slog.New(slog.DiscardHandler),
			Metrics: prometheus.NewRegistry()})
		must(t, err)
		o := newLoop(d)
		ctx, cancel := context.WithCancel(context.Background())
		d.Restart()
		cancel()
		must(t, o.run(ctx))
		if o.phase != restarting {
			t.Fatalf("ended in phase %s, want %s", o.phase, restarting)
		}
	}
}

func TestARouteWithoutANextHopIsReportedAndNotAnnounced(t *testing.T) {
	atOnce(t)
	tor := newRouter(t, "127.0.0.2", 64513, nodeASN)
	d := run(t, func(c *Config) { c.NextHops = []netip.Addr{netip.MustParseAddr("10.0.0.9")} })
	d.SyncPeers([]Peer{tor.peer("tor1", nodeASN)})
	d.Sync("web", routes(nil, "192.0.2.1/32", "2001:db8:1::1/128"))
	o := d.observes(t, RouteFailed, "")
	if o.Prefix.String() != "2001:db8:1::1/128" || o.Reason != "the node has no next hop of this family" {
		t.Errorf("observed %+v", o)
	}
	tor.has(t, "192.0.2.1/32")
	want := []Unannounced{{Prefix: o.Prefix, Reason: o.Reason}}
	d.becomes(t, func(st Status) bool {
		return st.UnannouncedTotal == 1 && slices.Equal(st.Unannounced, want) && st.Announced == 1
	})
	d.Sync("web", Desired{})
	tor.has(t)
	d.becomes(t, func(st Status) bool { return st.UnannouncedTotal == 0 && len(st.Unannounced) == 0 })
}

// A node without an IPv6 address announces IPv6 routes in sessions over IPv6, in which they point
// to its end.
func TestAFamilyThatTheNodeHasNoAddressOf(t *testing.T) {
	atOnce(t)
	four, six := newRouter(t, "127.0.0.2", 64513, nodeASN), newRouterWithID(t, "::1", "10.0.0.1", 64514, nodeASN)
	d := run(t, func(c *Config) { c.NextHops = []netip.Addr{netip.MustParseAddr("10.0.0.9")} })
	d.Sync("web", routes(nil, "192.0.2.1/32", "2001:db8:1::1/128"))
	d.SyncPeers([]Peer{four.peer("four", nodeASN)})
	four.has(t, "192.0.2.1/32")
	d.observesReason(t, SessionFailed, "four", "IPv6 routes are withheld")
	d.SyncPeers([]Peer{four.peer("four", nodeASN), six.peer("six", nodeASN)})
	six.has(t, "192.0.2.1/32", "2001:db8:1::1/128")
	if got := nextHop(six.path("2001:db8:1::1/128")); got != "::1" {
		t.Errorf("IPv6 next hop %s, want ::1", got)
	}
	four.has(t, "192.0.2.1/32")
	d.SyncPeers([]Peer{four.peer("four", nodeASN)})
	d.becomes(t, func(st Status) bool { return st.UnannouncedTotal == 1 })
	four.has(t, "192.0.2.1/32")
}

func TestWrongASNumbersAreExplained(t *testing.T) {
	atOnce(t)
	t.Run("the peer's", func(t *testing.T) {
		atOnce(t)
		tor := newRouter(t, "127.0.0.2", 64513, nodeASN)
		d := run(t)
		p := tor.peer("tor1", nodeASN)
		p.RemoteASN = 64999
		d.SyncPeers([]Peer{p})
		d.observesReason(t, SessionFailed, "tor1", "peer says AS 64513, configured 64999")
		if got := d.session(t, "tor1").LastError; !strings.HasPrefix(got, "peer says AS 64513, configured 64999") {
			t.Errorf("last error %q", got)
		}
		d.SyncPeers([]Peer{tor.peer("tor1", nodeASN)})
		d.observes(t, SessionUp, "tor1")
	})
	t.Run("our own", func(t *testing.T) {
		atOnce(t)
		tor := newRouter(t, "127.0.0.2", 64513, nodeASN)
		d := run(t)
		d.SyncPeers([]Peer{tor.peer("tor1", 65000)})
		d.observesReason(t, SessionFailed, "tor1", "it does not expect AS 65000")
	})
}

func TestANotificationThatEndsASessionIsDecoded(t *testing.T) {
	atOnce(t)
	tor := newRouter(t, "127.0.0.2", 64513, nodeASN)
	d := run(t)
	d.SyncPeers([]Peer{tor.peer("tor1", nodeASN)})
	d.observes(t, SessionUp, "tor1")
	tor.bgpShutdown(t, "maintenance until noon")
	o := d.observes(t, SessionDown, "tor1")
	if o.Intended {
		t.Errorf("what the router did was intended here: %+v", o)
	}
	for _, part := range []string{
		"peer sent NOTIFICATION", "cease", "administrative shutdown", `"maintenance until noon"`,
	} {
		if !strings.Contains(o.Reason, part) {
			t.Errorf("reason %q lacks %q", o.Reason, part)
		}
	}
	if s := d.session(t, "tor1"); s.LastError != o.Reason || s.Established() || s.IPv4 != 0 {
		t.Errorf("status %+v", s)
	}
}

func TestASessionThatLastedIsStartedAnewWhenItEnds(t *testing.T) {
	atOnce(t)
	tor1, tor2 := newRouter(t, "127.0.0.2", 64513, nodeASN), newRouter(t, "127.0.0.3", 64514, nodeASN)
	d := run(t, func(c *Config) { c.LastingSession = time.Nanosecond })
	d.SyncPeers([]Peer{tor1.peer("tor1", nodeASN), tor2.peer("tor2", nodeASN)})
	d.Sync("web", routes(nil, "192.0.2.1/32"))
	tor1.has(t, "192.0.2.1/32")
	tor2.has(t, "192.0.2.1/32")
	d.up(t, "tor1", "tor2")
	for range 2 {
		tor1.forget()
		tor1.bgpReset(t, "again")
		d.observesReason(t, SessionDown, "tor1", "administrative reset")
		d.observes(t, SessionUp, "tor1")
		tor1.has(t, "192.0.2.1/32")
		d.counts(t, "tor1", 1, 0)
		if got := d.session(t, "tor1").LastError; !strings.Contains(got, `"again"`) {
			t.Errorf("last error %q, want the router's word", got)
		}
	}
	if ends := tor2.ended(); len(ends) != 0 {
		t.Errorf("tor2 saw its session end: %v", ends)
	}
	if n := gather(t, d.metrics)["berth_bgp_session_outage_seconds{}"]; n != 2 {
		t.Errorf("%v outages were measured, want 2", n)
	}
}

func TestRoutesOfAPeerAreRejected(t *testing.T) {
	atOnce(t)
	tor1, tor2 := newRouter(t, "127.0.0.2", 64513, nodeASN), newRouter(t, "127.0.0.3", 64514, nodeASN)
	_, listen := ear(t)
	d := run(t, listen)
	r := &rogue{address: netip.MustParseAddr("127.0.0.4"), asn: 64528}
	d.SyncPeers([]Peer{
		tor1.peer("tor1", nodeASN), tor2.peer("tor2", nodeASN),
		{Name: "rogue", Address: r.address, Passive: true, LocalASN: nodeASN, RemoteASN: uint32(r.asn)},
	})
	d.Sync("web", routes(nil, "192.0.2.1/32"))
	tor1.has(t, "192.0.2.1/32")
	tor2.has(t, "192.0.2.1/32")

	rejected := make(chan bool, 8)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	must(t, d.owner.server.bgp.WatchEvent(ctx, gobgpserver.WatchEventMessageCallbacks{
		OnPathUpdate: func(paths []*apiutil.Path, _ time.Time) {
			for _, p := range paths {
				if p.Nlri.String() == "20.0.0.0/32" {
					rejected <- p.Withdrawal
				}
			}
		},
	}, gobgpserver.WatchPostUpdate(false, "", "")))
	tor1.announces(t, "203.0.113.0/24") // which gets no further than our connection
	unsifted, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	var taking sync.WaitGroup
	defer taking.Wait()
	defer unsifted.Close()
	taking.Go(func() {
		for {
			conn, err := unsifted.Accept()
			if err != nil || d.owner.server.take(conn) != nil {
				return
			}
		}
	})
	_, err = r.connects(t, netip.MustParseAddrPort(unsifted.Addr().String())).Write(flood(1)[0])
	must(t, err)
	select {
	case ok := <-rejected:
		if !ok {
			t.Error("the peer's route was accepted")
		}
	case <-time.After(patience):
		t.Fatal("the peer's route did not arrive")
	}
	found, err := d.owner.server.paths(gobgp.RF_IPv4_UC)
	must(t, err)
	if len(found) != 1 {
		t.Errorf("table has %d prefixes, want our own one: %v", len(found), found)
	}
	d.Sync("web", routes(nil, "192.0.2.2/32"))
	tor2.has(t, "192.0.2.2/32")
}

func TestDriftIsReadBackAndRepaired(t *testing.T) {
	config := Config{RouterID: netip.MustParseAddr("10.0.0.9"), NextHops: []netip.Addr{netip.MustParseAddr("10.0.0.9")}}
	d, err := New(config)
	must(t, err)
	o := newLoop(d)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	o.server, err = startServer(ctx, config.RouterID, nil, o.gobgpLog)
	must(t, err)
	defer o.server.stop(ctx, false)
	give := func(prefix, hop string, a announcement, withdraw bool) {
		path, err := newPath(netip.MustParsePrefix(prefix), a, netip.MustParseAddr(hop), withdraw, o.sets, 1)
		must(t, err)
		call := o.server.add
		if withdraw {
			call = o.server.remove
		}
		must(t, call([]*apiutil.Path{path}))
	}
	o.carryOut(order{groups: map[string]Desired{
		"web": routes(nil, "192.0.2.1/32", "192.0.2.2/32", "192.0.2.3/32", "192.0.2.4/32", "192.0.2.5/32"),
	}})
	o.sendBatch()
	o.readBack()
	if len(o.dirty) != 0 {
		t.Fatalf("drift where there is none: %v", o.dirty)
	}

	give("192.0.2.1/32", "10.0.0.9", of(Route{}), true)                                          // lost
	give("192.0.2.2/32", "10.0.0.8", of(Route{}), false)                                         // other next hop
	give("192.0.2.3/32", "10.0.0.9", of(Route{Peers: []string{"tor1"}}), false)                  // other peers
	give("192.0.2.4/32", "10.0.0.9", of(Route{Attributes: Attributes{MED: new(uint32)}}), false) // another MED
	give("203.0.113.1/32", "10.0.0.9", of(Route{}), false)                                       // not ours
	o.readBack()
	var marked []netip.Prefix
	for p := range o.dirty {
		marked = append(marked, p)
	}
	want := []string{"192.0.2.1/32", "192.0.2.2/32", "192.0.2.3/32", "192.0.2.4/32", "203.0.113.1/32"}
	if diff := cmp.Diff(want, texts(marked)); diff != "" {
		t.Errorf("marked for repair (-want +got):\n%s", diff)
	}
	o.sendBatch()
	o.readBack()
	if len(o.dirty) != 0 {
		t.Errorf("not repaired: %v", o.dirty)
	}
	found, err := o.server.paths(gobgp.RF_IPv4_UC)
	must(t, err)
	if len(found) != 5 || d.Status().Announced != 5 {
		t.Errorf("%d prefixes in the table and %d in the status, want 5", len(found), d.Status().Announced)
	}
}

func TestChangesWhileASessionComesUpAllArrive(t *testing.T) {
	atOnce(t)
	tor := newRouter(t, "127.0.0.2", 64513, nodeASN)
	d := run(t)
	d.SyncPeers([]Peer{tor.peer("tor1", nodeASN)})
	pace := time.NewTicker(time.Millisecond)
	defer pace.Stop()
	var want []string
	for i := 0; !d.session0Up(); i++ {
		prefix := fmt.Sprintf("198.18.%d.%d/32", i/250%250, i%250)
		d.Sync(fmt.Sprintf("group-%d", i%62500), routes(nil, prefix))
		want = append(want, prefix)
		<-pace.C
	}
	slices.Sort(want)
	tor.has(t, slices.Compact(want)...)
}

func TestMetricsFollowTheSession(t *testing.T) {
	atOnce(t)
	tor := newRouter(t, "127.0.0.2", 64513, nodeASN)
	d := run(t)
	d.SyncPeers([]Peer{tor.peer("tor1", nodeASN)})
	d.Sync("web", routes(nil, "192.0.2.1/32", "192.0.2.2/32", "2001:db8:1::1/128"))
	tor.has(t, "192.0.2.1/32", "192.0.2.2/32", "2001:db8:1::1/128")
	d.up(t, "tor1")
	d.Sync("web", routes(nil, "192.0.2.1/32"))
	tor.has(t, "192.0.2.1/32")
	want := map[string]float64{
		`berth_bgp_session_up{peer=tor1}`:                     1,
		`berth_bgp_session_outage_seconds{}`:                  0,
		`berth_bgp_session_downs_total{peer=tor1}`:            0,
		`berth_bgp_prefixes_announced{family=IPv4,peer=tor1}`: 1,
		`berth_bgp_prefixes_announced{family=IPv6,peer=tor1}`: 0,
		`berth_bgp_prefixes_failed{}`:                         0,
		`berth_bgp_updates_total{operation=announce}`:         3,
		`berth_bgp_updates_total{operation=withdraw}`:         2,
		`berth_bgp_update_errors_total{}`:                     0,
	}
	for _, state := range sessionStates {
		want["berth_bgp_session_state{peer=tor1,state="+state+"}"] = 0
	}
	want["berth_bgp_session_state{peer=tor1,state=established}"] = 1
	var diff string
	d.becomes(t, func(Status) bool {
		diff = cmp.Diff(want, gather(t, d.metrics))
		return diff == ""
	}, func() string { return "metrics (-want +got):\n" + diff })
}

func TestEachPeerIsToldItsOwnAttributesOfOnePrefix(t *testing.T) {
	atOnce(t)
	number := func(n uint32) *uint32 { return &n }
	tor1, tor2, inside := newRouter(
		t,
		"127.0.0.2",
		64513,
		nodeASN,
	), newRouter(
		t,
		"127.0.0.3",
		64514,
		nodeASN,
	), newRouter(
		t,
		"127.0.0.4",
		nodeASN,
		nodeASN,
	)
	d := run(t)
	prefix := netip.MustParsePrefix("192.0.2.1/32")
	plain := netip.MustParsePrefix("192.0.2.2/32")
	d.Sync("web", Desired{Routes: []Route{
		{
			Prefix: prefix,
			Peers:  []string{"tor1"},
			Attributes: Attributes{
				Prepend:     2,
				MED:         number(30),
				Communities: []community.Community{{A: 64512, B: 7}, {Large: true, Global: 64512, A: 1, B: 2}},
			},
		},
		{Prefix: prefix, Peers: []string{"inside"}, Attributes: Attributes{Prepend: 2, LocalPref: number(250), Weight: 3}},
		{Prefix: prefix, Peers: []string{"tor2"}},
		{
			Prefix: plain,
			Attributes: Attributes{
				MED:         number(9),
				LocalPref:   number(50),
				Weight:      2,
				Communities: []community.Community{{A: 65535, B: 65281}, {Large: true, Global: 1, A: 1, B: 1}},
			},
		},
	}})
	// Routes before peers, so that none is sent twice to make sure that it arrived.
	d.SyncPeers([]Peer{tor1.peer("tor1", nodeASN), tor2.peer("tor2", nodeASN), inside.peer("inside", nodeASN)})
	for _, c := range []struct {
		router *router
		prefix netip.Prefix
		want   string
	}{
		{tor1, prefix, "path 64512 64512 64512, med 30, communities 64512:7, large 64512:1:2"},
		{tor2, prefix, "path 64512"},
		{inside, prefix, "path , local 250, extended 64512:375000"},
		{tor1, plain, "path 64512, med 9, communities 65535:65281, extended 64512:250000, large 1:1:1"},
		{inside, plain, "path , med 9, local 50, communities 65535:65281, extended 64512:250000, large 1:1:1"},
	} {
		c.router.has(t, "192.0.2.1/32", "192.0.2.2/32")
		c.router.tells(t, c.prefix.String(), c.want)
	}

	// What changes for one peer is sent to that one alone, once GoBGP counts the sessions.
	for _, name := range []string{"tor1", "tor2", "inside"} {
		d.up(t, name)
	}
	for _, r := range []*router{tor1, tor2, inside} {
		r.forget()
	}
	d.Sync("web", Desired{Routes: []Route{
		{Prefix: prefix, Peers: []string{"tor1"}, Attributes: Attributes{Prepend: 1}},
		{Prefix: prefix, Peers: []string{"inside"}, Attributes: Attributes{Prepend: 2, LocalPref: number(250), Weight: 3}},
		{
			Prefix: plain,
			Attributes: Attributes{
				MED:         number(9),
				LocalPref:   number(50),
				Weight:      2,
				Communities: []community.Community{{A: 65535, B: 65281}, {Large: true, Global: 1, A: 1, B: 1}},
			},
		},
	}})
	tor1.tells(t, prefix.String(), "path 64512 64512")
	tor2.has(t, "192.0.2.2/32")
	inside.tells(t, prefix.String(), "path , local 250, extended 64512:375000")
	for _, r := range []*router{tor1, tor2, inside} {
		if slices.Contains(r.heard(), "+"+plain.String()) {
			t.Errorf("router %s heard of %s again: %v", r.address, plain, r.heard())
		}
	}
}

func TestWhatTakesEffectWithoutANewSessionLeavesTheSessionAlone(t *testing.T) {
	atOnce(t)
	tor := newRouter(t, "127.0.0.2", 64513, nodeASN)
	d := run(t)
	peer := tor.peer("tor", nodeASN)
	d.SyncPeers([]Peer{peer})
	d.Sync("web", routes(nil, "192.0.2.1/32"))
	tor.has(t, "192.0.2.1/32")
	d.up(t, "tor")
	since := d.session(t, "tor").Since
	peer.ConnectRetryTime, peer.BFD.Multiplier = 7*time.Second, 5
	d.SyncPeers([]Peer{peer})
	d.Sync("web", routes(nil, "192.0.2.1/32", "192.0.2.2/32")) // comes after the peers
	tor.has(t, "192.0.2.1/32", "192.0.2.2/32")
	if s := d.session(t, "tor"); !s.Established() || !s.Since.Equal(since) {
		t.Errorf("session is %s since %s, want established since %s", s.State, s.Since, since)
	}
	if ended := tor.ended(); len(ended) > 0 {
		t.Errorf("the router saw its session end: %v", ended)
	}
	peer.HoldTime = 30 * time.Second
	d.SyncPeers([]Peer{peer})
	d.observes(t, SessionDown, "tor")
	tor.has(t, "192.0.2.1/32", "192.0.2.2/32")
}

func TestAPeerThatIsKnownByItsTypeOnlyIsTakenAsItIs(t *testing.T) {
	atOnce(t)
	outside, inside := newRouter(t, "127.0.0.2", 64513, nodeASN), newRouter(t, "127.0.0.3", nodeASN, nodeASN)
	d := run(t)
	a, b := outside.peer("outside", nodeASN), inside.peer("inside", nodeASN)
	a.RemoteASN, a.RemoteType = 0, External
	b.RemoteASN, b.RemoteType = 0, Internal
	d.SyncPeers([]Peer{a, b})
	d.Sync("web", routes(nil, "192.0.2.1/32"))
	outside.has(t, "192.0.2.1/32")
	inside.has(t, "192.0.2.1/32")
	outside.tells(t, "192.0.2.1/32", "path 64512")
	inside.tells(t, "192.0.2.1/32", "path , local 100")

	// The other kind is refused.
	a.RemoteType, b.RemoteType = Internal, External
	d.SyncPeers([]Peer{a, b})
	d.becomes(t, func(st Status) bool {
		in, out := st.Peers[0], st.Peers[1]
		return !in.Established() && strings.Contains(in.LastError, "peer is in our own AS 64512") &&
			!out.Established() && strings.Contains(out.LastError, "64512 (internal)")
	})
}

func TestOnlyTheFamiliesOfAPeerAreAnnouncedToIt(t *testing.T) {
	atOnce(t)
	four, six := newRouter(t, "127.0.0.2", 64513, nodeASN), newRouter(t, "127.0.0.3", 64514, nodeASN)
	d := run(t)
	a, b := four.peer("four", nodeASN), six.peer("six", nodeASN)
	a.IPv4, b.IPv6 = true, true
	d.SyncPeers([]Peer{a, b})
	d.Sync("web", routes(nil, "192.0.2.1/32", "2001:db8::1/128"))
	four.has(t, "192.0.2.1/32")
	six.has(t, "2001:db8::1/128")
}

func TestDrainingMakesRoutesALastResortAndWithdrawsThemLater(t *testing.T) {
	atOnce(t)
	outside, inside := newRouter(t, "127.0.0.2", 64513, nodeASN), newRouter(t, "127.0.0.3", nodeASN, nodeASN)
	d := run(t)
	d.SyncPeers([]Peer{outside.peer("outside", nodeASN), inside.peer("inside", nodeASN)})
	own := Desired{
		Routes: []Route{
			{
				Prefix:     netip.MustParsePrefix("192.0.2.1/32"),
				Attributes: Attributes{Communities: []community.Community{{A: 1, B: 1}}},
			},
		},
	}
	d.Sync("web", own)
	outside.has(t, "192.0.2.1/32")
	inside.has(t, "192.0.2.1/32")
	d.up(t, "outside", "inside")

	long := "path" + strings.Repeat(" 64512", 12)
	d.Drain(time.Hour)
	outside.tells(t, "192.0.2.1/32", long+", communities 1:1 65535:0")
	inside.tells(t, "192.0.2.1/32", "path , local 0, communities 1:1 65535:0")
	d.Sync("new", routes(nil, "192.0.2.2/32")) // not any more
	d.Resume()
	outside.has(t, "192.0.2.1/32", "192.0.2.2/32")
	outside.tells(t, "192.0.2.1/32", "path 64512, communities 1:1")
	inside.tells(t, "192.0.2.1/32", "path , local 100, communities 1:1")
	if log := outside.heard(); slices.Contains(log, "-192.0.2.2/32") || slices.Contains(log, "-192.0.2.1/32") {
		t.Errorf("withdrawn on the way: %v", log)
	}

	d.LastResort()
	outside.tells(t, "192.0.2.1/32", long+", communities 1:1 65535:0")
	inside.tells(t, "192.0.2.1/32", "path , local 0, communities 1:1 65535:0")
	d.Sync("newer", routes(nil, "192.0.2.3/32"))
	outside.tells(t, "192.0.2.3/32", long+", communities 65535:0")
	if s := d.Status(); s.Leaving {
		t.Error("a last resort is told as leaving")
	}
	// One that is drained stays the last resort until it goes.
	outside.forget()
	d.Drain(time.Hour)
	d.becomes(t, func(st Status) bool { return st.Leaving })
	d.Sync("web", Desired{}) // an order that follows, and one that goes out
	outside.has(t, "192.0.2.2/32", "192.0.2.3/32")
	if log := outside.heard(); !slices.Equal(log, []string{"-192.0.2.1/32"}) {
		t.Errorf("the drain of a last resort told %v", log)
	}
	d.Sync("web", own)
	d.Resume()
	outside.tells(t, "192.0.2.1/32", "path 64512, communities 1:1")

	outside.forget()
	d.Drain(time.Millisecond)
	outside.has(t)
	inside.has(t)
	if s := d.Status(); !s.Leaving || len(outside.ended()) > 0 {
		t.Errorf("leaving %t, sessions ended with %v; want them to stay", s.Leaving, outside.ended())
	}
}

// GoBGP's policies, which put on a path what a peer is told apart from others, put no LOCAL_PREF 0
// on it.
func TestLocalPrefZeroForSome(t *testing.T) {
	atOnce(t)
	least := newRouter(t, "127.0.0.2", nodeASN, nodeASN)
	plain := newRouter(t, "127.0.0.3", nodeASN, nodeASN)
	outside := newRouter(t, "127.0.0.4", 64513, nodeASN)
	d := run(t)
	d.SyncPeers([]Peer{least.peer("least", nodeASN), plain.peer("plain", nodeASN), outside.peer("outside", nodeASN)})
	prefix := netip.MustParsePrefix("192.0.2.1/32")
	d.Sync("web", Desired{Routes: []Route{
		{Prefix: prefix, Peers: []string{"least"}, Attributes: Attributes{LocalPref: new(uint32)}},
		{Prefix: prefix, Peers: []string{"plain"}},
		{Prefix: prefix, Peers: []string{"outside"}, Attributes: Attributes{Prepend: 2}},
	}})
	least.tells(t, prefix.String(), "path , local 0")
	plain.tells(t, prefix.String(), "path , local 100")
	outside.tells(t, prefix.String(), "path 64512 64512 64512")
	d.Drain(time.Hour)
	for _, r := range []*router{least, plain} {
		r.tells(t, prefix.String(), "path , local 0, communities 65535:0")
	}
	outside.tells(t, prefix.String(), "path"+strings.Repeat(" 64512", 14)+", communities 65535:0")
}
