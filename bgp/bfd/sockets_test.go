package bfd

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/net/ipv4"
)

// Addresses of the loopback network: each has port 3784 for itself.
var near, far = netip.MustParseAddr("127.0.0.2"), netip.MustParseAddr("127.0.0.3")

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func TestLinksThatShareAReceiverEndTogether(t *testing.T) {
	w := newWire(quiet(), newMetrics())
	for range 100 {
		var links [2]*link
		for i := range links {
			var err error
			peer := Peer{Name: "tor", Remote: far, Local: near}
			if links[i], err = w.open(peer, make(chan packet, 1), make(chan int, 1)); err != nil {
				t.Fatal(err)
			}
		}
		var closing sync.WaitGroup
		for _, l := range links {
			closing.Go(l.close)
		}
		closing.Wait()
	}
	if len(w.receivers)+len(w.links) != 0 {
		t.Errorf("%d receivers and %d links are left", len(w.receivers), len(w.links))
	}
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(near, portSingleHop)))
	if err != nil {
		t.Fatalf("the port is not free: %v", err)
	}
	c.Close()
}

// running is an engine that runs until the test ends.
func running(t *testing.T) *Engine {
	t.Helper()
	e, err := New(quiet(), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var run sync.WaitGroup
	run.Go(func() { _ = e.Run(ctx) }) // it returns nil
	t.Cleanup(func() { cancel(); run.Wait() })
	return e
}

// expect waits for an event.
func expect(t *testing.T, e *Engine, want Event) {
	t.Helper()
	select {
	case got := <-e.Events():
		if got != want {
			t.Errorf("event %+v, want %+v", got, want)
		}
	case <-time.After(10 * time.Second):
		t.Fatalf("no event; the sessions are %+v", e.Status())
	}
}

func TestTwoEnginesWatchEachOther(t *testing.T) {
	a, b := running(t), running(t)
	fast := func(p Peer) Peer {
		p.ReceiveInterval, p.TransmitInterval = 20*time.Millisecond, 20*time.Millisecond
		return p
	}
	a.Sync([]Peer{fast(Peer{Name: "b", Remote: far, Local: near})})
	b.Sync([]Peer{fast(Peer{Name: "a", Remote: near, Local: far})})
	up := func(e *Engine, peer string) {
		t.Helper()
		select {
		case got := <-e.Events():
			if got.Peer != peer || got.State != Up {
				t.Errorf("event %+v, want %s Up", got, peer)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%s is not up; the sessions are %+v", peer, e.Status())
		}
	}
	up(a, "b")
	up(b, "a")
	// Ended on purpose: the other end is told, and does not take it for a death.
	a.Sync(nil)
	expect(t, b, Event{Peer: "a", State: Down, Diag: NeighborSignaledDown, Remote: AdminDown})
	if left := a.Status(); len(left) != 0 {
		t.Errorf("sessions %+v are left", left)
	}
}

func TestASessionWhosePortIsTakenSaysSo(t *testing.T) {
	taken, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(near, portSingleHop)))
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	e := running(t)
	e.Sync([]Peer{{Name: "tor", Remote: far, Local: near}})
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(10 * time.Second); ; <-tick.C {
		status := e.Status()[0].Err
		if strings.Contains(status, "UDP port 3784 of 127.0.0.2 is taken by another program") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the session says %q", status)
		}
	}
}

func TestPacketsThatAreOfNoSessionAreCounted(t *testing.T) {
	m := newMetrics()
	w := newWire(quiet(), m)
	in := make(chan packet, 1)
	l, err := w.open(Peer{Name: "tor", Remote: far, Local: near}, in, make(chan int, 1))
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	good := packet{
		state:      Up,
		multiplier: 3,
		mine:       7,
		yours:      l.discriminator,
		desiredTx:  time.Second,
		requiredRx: time.Second,
	}
	for _, c := range []struct {
		name string
		b    []byte
		ttl  int
		from netip.Addr
		want string
	}{
		{name: "good", b: good.append(nil), ttl: 255, from: far},
		{name: "short", b: good.append(nil)[:10], ttl: 255, from: far, want: "length"},
		{name: "from further away", b: good.append(nil), ttl: 254, from: far, want: "ttl"},
		{name: "from somebody else", b: good.append(nil), ttl: 255, from: netip.MustParseAddr("127.0.0.9"), want: "source"},
	} {
		if got := w.deliver(c.b, c.ttl, c.from, l.place); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
	if got := <-in; got.mine != 7 {
		t.Errorf("the session got %+v", got)
	}
	// Over the wire: what is no BFD packet is counted.
	c, err := net.DialUDP(
		"udp",
		net.UDPAddrFromAddrPort(netip.AddrPortFrom(far, 0)),
		net.UDPAddrFromAddrPort(netip.AddrPortFrom(near, portSingleHop)),
	)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(10 * time.Second); testutil.CollectAndCount(m.rejected) == 0; <-tick.C {
		if time.Now().After(deadline) {
			t.Fatal("it was not counted")
		}
	}
}

func TestPacketsFromTooFarAwayAreSaid(t *testing.T) {
	e, err := New(quiet(), nil)
	if err != nil {
		t.Fatal(err)
	}
	e.Sync([]Peer{{Name: "tor", Remote: far, Local: near}})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = e.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(far, 0)))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := ipv4.NewPacketConn(c).SetTTL(64); err != nil {
		t.Fatal(err)
	}
	b := packet{state: Down, multiplier: 3, mine: 5, desiredTx: ms(100), requiredRx: ms(100)}.append(nil)
	const want = "the router's BFD packets come with TTL 64, and it is to be one hop away (TTL 255)"
	for deadline := time.Now().Add(10 * time.Second); !strings.HasPrefix(e.Status()[0].Err, want); {
		if time.Now().After(deadline) {
			t.Fatalf("the status says %q", e.Status()[0].Err)
		}
		_, _ = c.WriteToUDPAddrPort(b, netip.AddrPortFrom(near, portSingleHop)) // the receiver may not be open yet
		<-time.After(10 * time.Millisecond)
	}
	if got := tooFar(Peer{MinTTL: 254}, 64); !strings.Contains(got, "2 hops allow 254 at least") {
		t.Errorf("over several hops it says %q", got)
	}
}
