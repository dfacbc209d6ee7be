package bgp

import (
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	gobgp "github.com/osrg/gobgp/v4/pkg/packet/bgp"
)

func TestOfPeersThatClashTheFirstIsUsed(t *testing.T) {
	peer := func(name, address string) Peer {
		return Peer{Name: name, Address: netip.MustParseAddr(address), LocalASN: 64512, RemoteASN: 64513}
	}
	usable, problems := checkPeers([]Peer{
		peer(
			"tor1",
			"10.0.0.1",
		), peer("tor1", "10.0.0.2"), peer("tor3", "10.0.0.1"), peer("tor4", "10.0.0.4"), {Name: "tor5"},
	})
	if len(usable) != 2 || usable[0].Name != "tor1" || usable[1].Name != "tor4" {
		t.Errorf("usable peers: %v", usable)
	}
	want := []string{
		"peer tor1 is configured twice",
		"peer tor3 has the address 10.0.0.1 of peer tor1",
		"peer tor5: address, spec.interface and spec.addressPrefix: write one of them, to say where the neighbor is",
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

func TestDefaultsWrittenOutResetNoSession(t *testing.T) {
	tor := newRouter(t, "127.0.0.2", 64513, nodeASN)
	d := run(t)
	p := tor.peer("tor", nodeASN)
	d.SyncPeers([]Peer{p})
	d.up(t, "tor")
	since := d.session(t, "tor").Since
	p.HoldTime, p.KeepaliveTime, p.IPv4, p.IPv6 = 90*time.Second, 30*time.Second, true, true
	d.SyncPeers([]Peer{p, {Name: "a mark of what was read"}})
	d.becomes(t, func(st Status) bool { return len(st.Peers) == 2 })
	if s := d.session(t, "tor"); !s.Established() || !s.Since.Equal(since) || len(tor.ended()) > 0 {
		t.Errorf(
			"the session is %s since %s, want established since %s; it ended %v",
			s.State,
			s.Since,
			since,
			tor.ended(),
		)
	}
}

func TestARouterThatIsLeftAlone(t *testing.T) {
	atOnce(t)
	tor1, tor2 := newRouter(t, "127.0.0.2", 64513, nodeASN), newRouter(t, "127.0.0.3", 64514, nodeASN)
	var mu sync.Mutex
	heard := map[netip.Addr]int{}
	var d *running
	var configured, missed atomic.Int32
	d = run(t, func(c *Config) {
		c.OnChange = func() {
			if configured.Load() > 0 && len(d.Status().Peers) != int(configured.Load()) {
				missed.Add(1)
			}
		}
		c.Heard = func(router netip.Addr) {
			mu.Lock()
			defer mu.Unlock()
			heard[router]++
		}
	})
	d.SyncPeers([]Peer{tor1.peer("tor1", nodeASN), tor2.peer("tor2", nodeASN)})
	d.Sync("web", routes(nil, "192.0.2.1/32"))
	d.up(t, "tor1", "tor2")
	mu.Lock()
	for _, address := range []string{"127.0.0.2", "127.0.0.3"} {
		if n := heard[netip.MustParseAddr(address)]; n < 2 { // OPEN and KEEPALIVE
			t.Errorf("%d messages of %s were told", n, address)
		}
	}
	mu.Unlock()
	configured.Store(2)
	d.LeaveAlone(map[netip.Addr]string{netip.MustParseAddr("127.0.0.3"): "it bites"})
	tor2.has(t)
	d.becomes(t, func(st Status) bool { return st.Peers[1].State == "idle" && st.Peers[1].LastError == "it bites" })
	if !d.session(t, "tor1").Established() {
		t.Error("the other session ended")
	}
	d.LeaveAlone(nil)
	tor2.has(t, "192.0.2.1/32")
	d.up(t, "tor2")
	changed := tor1.peer("tor1", nodeASN)
	changed.HoldTime = 33 * time.Second
	d.SyncPeers([]Peer{changed, tor2.peer("tor2", nodeASN)})
	d.observes(t, SessionDown, "tor1")
	d.becomes(t, func(Status) bool { return d.session(t, "tor1").State == "active" })
	if n := missed.Load(); n > 0 {
		t.Errorf("a peer that is configured was missing in the status %d times", n)
	}
}

// A router that dials while it is dialed ends one of the two connections. What is wrong with the
// other one is the reason that counts.
func TestACollisionIsNoFailure(t *testing.T) {
	router := netip.MustParseAddr("10.0.0.1")
	for _, test := range []struct {
		subcode uint8
		notes   int
	}{
		{gobgp.BGP_ERROR_SUB_CONNECTION_COLLISION_RESOLUTION, 0},
		{gobgp.BGP_ERROR_SUB_ADMINISTRATIVE_SHUTDOWN, 1},
	} {
		n := newGobgpLog(slog.DiscardHandler)
		n.rename(map[netip.Prefix]string{netip.PrefixFrom(router, 32): "tor1"})
		message, err := gobgp.NewBGPNotificationMessage(gobgp.BGP_ERROR_CEASE, test.subcode, nil).Serialize()
		if err != nil {
			t.Fatal(err)
		}
		n.said(router, Peer{Name: "tor1", Address: router, LocalASN: 64512, RemoteASN: 64513}, message)
		if got := n.take(); len(got) != test.notes {
			t.Errorf("Cease with subcode %d: %v, want %d notes", test.subcode, got, test.notes)
		}
	}
}
