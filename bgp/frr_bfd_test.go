//go:build root

package bgp

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/net/ipv4"

	"github.com/berth-lb/berth/bgp/bfd"
)

// bfdPeer is what FRR's bfdd knows of a session.
type bfdPeer struct {
	Peer                  string
	Status                string
	Diagnostic            string
	RemoteDiagnostic      string `json:"remote-diagnostic"`
	TransmitInterval      int    `json:"transmit-interval"`
	RemoteReceiveInterval int    `json:"remote-receive-interval"`
	RemoteTransmit        int    `json:"remote-transmit-interval"`
	RemoteMultiplier      int    `json:"remote-detect-multiplier"`
}

// withBFD starts FRR with bfdd.
func withBFD(t *testing.T, config string) (f *frr, bfdd *os.Process) {
	t.Helper()
	f = newFRR(t, frrConfig)
	must(t, os.WriteFile(filepath.Join(f.dir, "bfdd.conf"), []byte(config), 0o644))
	bfdd = f.daemon(t, "bfdd", nil).Process
	f.await(t, "bfdd to answer", func() bool { return f.vtysh("bfdd", "show bfd peers json") != "" })
	return f, bfdd
}

func (f *frr) bfd(peer string) bfdPeer {
	var peers []bfdPeer
	if err := json.Unmarshal([]byte(f.vtysh("bfdd", "show bfd peers json")), &peers); err != nil {
		return bfdPeer{}
	}
	for _, p := range peers {
		if p.Peer == peer {
			return p
		}
	}
	return bfdPeer{}
}

// watching is an engine that runs.
type watching struct {
	*bfd.Engine
	stop    func()
	metrics *prometheus.Registry
}

func watch(t *testing.T, peers ...bfd.Peer) *watching {
	t.Helper()
	registry := prometheus.NewRegistry()
	e, err := bfd.New(slog.New(slog.NewTextHandler(testWriter{t}, nil)), registry)
	must(t, err)
	e.Sync(peers)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := e.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	w := &watching{Engine: e, stop: func() { cancel(); <-done }, metrics: registry}
	t.Cleanup(w.stop)
	return w
}

// next returns the next event.
func (w *watching) next(t *testing.T) bfd.Event {
	t.Helper()
	select {
	case e := <-w.Events():
		return e
	case <-time.After(patience):
		t.Fatal("no event")
	}
	return bfd.Event{}
}

func (w *watching) expect(t *testing.T, want bfd.Event) {
	t.Helper()
	if got := w.next(t); got != want {
		t.Fatalf("event %+v, want %+v", got, want)
	}
}

const bfdTimers = "\n  detect-multiplier 3\n  receive-interval 100\n  transmit-interval 150\n"

func TestBFDWithFRROverOneHop(t *testing.T) {
	f, _ := withBFD(
		t,
		"bfd\n peer 10.0.0.9 interface bgpt-tor"+bfdTimers+"  no shutdown\n"+
			" peer 2001:db8::9 local-address 2001:db8::1 interface bgpt-tor"+bfdTimers+"  no shutdown\n",
	)
	four := bfd.Peer{
		Name:             "four",
		Remote:           netip.MustParseAddr(frrIPv4),
		ReceiveInterval:  200 * time.Millisecond,
		TransmitInterval: 50 * time.Millisecond,
	}
	six := bfd.Peer{Name: "six", Remote: netip.MustParseAddr(frrIPv6)}
	w := watch(t, four, six)
	got := map[bfd.Event]bool{w.next(t): true, w.next(t): true}
	if !got[bfd.Event{Peer: "four", State: bfd.Up, Remote: bfd.Init}] &&
		!got[bfd.Event{Peer: "four", State: bfd.Up, Remote: bfd.Up}] ||
		len(got) != 2 {
		t.Fatalf("events %+v", got)
	}
	f.await(t, "FRR to know our timers", func() bool {
		p := f.bfd("10.0.0.9")
		return p.Status == "up" && p.RemoteReceiveInterval == 200 && p.RemoteTransmit == 50 && p.RemoteMultiplier == 3 &&
			f.bfd("2001:db8::9").Status == "up"
	}, func() string { return fmt.Sprintf("%+v %+v", f.bfd("10.0.0.9"), f.bfd("2001:db8::9")) })
	status := w.Status()
	if s := status[0]; s.Transmit != 100*time.Millisecond || s.Detection != 600*time.Millisecond {
		t.Errorf("we send every %s and wait %s, want 100 ms (FRR's receive interval) and 3 times 200 ms", s.Transmit, s.Detection)
	}

	// Other timers are told within the session.
	four.ReceiveInterval, four.Multiplier = 100*time.Millisecond, 5
	w.Sync([]bfd.Peer{four, six})
	f.await(t, "FRR to know our new timers", func() bool {
		p := f.bfd("10.0.0.9")
		return p.Status == "up" && p.RemoteReceiveInterval == 100 && p.RemoteMultiplier == 5
	}, func() string { return fmt.Sprintf("%+v", f.bfd("10.0.0.9")) })

	// One is shut down by the router's operator, the other stays.
	f.vtysh("bfdd", "configure terminal", "bfd", "peer 10.0.0.9 interface bgpt-tor", "shutdown")
	w.expect(t, bfd.Event{Peer: "four", State: bfd.Down, Diag: bfd.NeighborSignaledDown, Remote: bfd.AdminDown})
	f.vtysh("bfdd", "configure terminal", "bfd", "peer 10.0.0.9 interface bgpt-tor", "no shutdown")
	if e := w.next(t); e.Peer != "four" || e.State != bfd.Up {
		t.Fatalf("event %+v, want Up again", e)
	}
	if s := w.Status()[1]; s.State != bfd.Up {
		t.Errorf("the other session is %s", s.State)
	}

	// Our end is told as AdminDown, and is no failure.
	w.stop()
	f.await(t, "FRR to see that we stopped on purpose", func() bool {
		p := f.bfd("10.0.0.9")
		return p.Status == "down" && p.RemoteDiagnostic == "administratively down"
	}, func() string { return fmt.Sprintf("%+v", f.bfd("10.0.0.9")) })
}

func TestARouterThatFallsSilentIsNoticed(t *testing.T) {
	_, bfdd := withBFD(t, "bfd\n peer 10.0.0.9 interface bgpt-tor"+bfdTimers+"  no shutdown\n")
	w := watch(
		t,
		bfd.Peer{
			Name:             "tor",
			Remote:           netip.MustParseAddr(frrIPv4),
			ReceiveInterval:  100 * time.Millisecond,
			TransmitInterval: 100 * time.Millisecond,
		},
	)
	if e := w.next(t); e.State != bfd.Up {
		t.Fatalf("event %+v", e)
	}
	began := time.Now()
	must(t, bfdd.Signal(syscall.SIGSTOP))
	if e := w.next(t); e.State != bfd.Down || e.Diag != bfd.DetectionTimeExpired {
		t.Fatalf("event %+v", e)
	}
	t.Logf("noticed after %s", time.Since(began)) // 3 times 150 ms, less jitter
	must(t, bfdd.Signal(syscall.SIGCONT))
	if e := w.next(t); e.State != bfd.Up {
		t.Fatalf("event %+v, want Up again", e)
	}
}

func TestBFDOverSeveralHops(t *testing.T) {
	f, _ := withBFD(t, "bfd\n peer 10.0.0.9 multihop local-address 10.0.0.1"+bfdTimers+"  no shutdown\n")
	w := watch(
		t,
		bfd.Peer{Name: "tor", Remote: netip.MustParseAddr(frrIPv4), Local: netip.MustParseAddr("10.0.0.9"), MinTTL: 250},
	)
	if e := w.next(t); e.State != bfd.Up {
		t.Fatalf("event %+v", e)
	}
	f.await(t, "FRR to have it up", func() bool { return f.bfd("10.0.0.9").Status == "up" })
}

// TestPacketsThatARouterHasForwardedDoNotCount sends packets as a router's that make a session come
// up, with a lower TTL.
func TestPacketsThatARouterHasForwardedDoNotCount(t *testing.T) {
	w := watch(t, bfd.Peer{Name: "tor", Remote: netip.MustParseAddr("127.0.0.3"), Local: netip.MustParseAddr("127.0.0.2")})
	c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.3:49200")))
	must(t, err)
	defer c.Close()
	p := ipv4.NewPacketConn(c)
	down := []byte{1 << 5, 1 << 6, 3, 24, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0xff, 0xff, 0, 0, 0, 0}
	send := func(ttl int) {
		must(t, p.SetTTL(ttl))
		_, err := c.WriteToUDPAddrPort(down, netip.MustParseAddrPort("127.0.0.2:3784"))
		must(t, err)
	}
	told := func() string { return fmt.Sprintf("%+v %v", w.Status(), gather(t, w.metrics)) }
	await(t, time.Tick(10*time.Millisecond), func() bool {
		send(254)
		return gather(t, w.metrics)["berth_bfd_packets_rejected_total{reason=ttl}"] > 3
	}, told)
	if s := w.Status()[0]; s.State != bfd.Down {
		t.Errorf("after packets that were forwarded: %+v", s)
	}
	send(255)
	await(t, time.Tick(time.Millisecond), func() bool { return w.Status()[0].State == bfd.Init }, told)
}

func TestATakenPortIsToldWithItsRemedy(t *testing.T) {
	other, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.2:3784")))
	must(t, err)
	defer other.Close()
	w := watch(t, bfd.Peer{Name: "tor", Remote: netip.MustParseAddr("127.0.0.3"), Local: netip.MustParseAddr("127.0.0.2")})
	await(
		t,
		time.Tick(time.Millisecond),
		func() bool { return strings.Contains(w.Status()[0].Err, "is taken by another program") },
		func() string { return fmt.Sprintf("%+v", w.Status()) },
	)
}
