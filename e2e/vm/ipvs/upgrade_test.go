//go:build vm && release

package ipvs_test

import (
	"fmt"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/berth-lb/berth/e2e/stock"
	"github.com/berth-lb/berth/speaker/dataplane/ipvs"
)

// TestUpgrade has the drivers of the previous version and of this one follow each other, as when a
// speaker is upgraded and goes back. Each takes over what the one before left in the kernel:
// nothing is deleted or made again, connections stay, and no new one fails.
func TestUpgrade(t *testing.T) {
	folder, err := stock.Find()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(folder.PreviousIPVS()); err != nil {
		t.Fatalf("the previous version is not built: run `lab build --previous` first: %v", err)
	}
	s := newSite(t)
	s.serve(t)
	tcp, tcp6 := frontend(ipvs.TCP, service4, 80), frontend(ipvs.TCP, service6, 80)
	mh, udp := frontend(ipvs.TCP, service4, 81), frontend(ipvs.UDP, service4, 82)
	hashed := simple("mh", real(4, false))
	hashed.Flags, hashed.PersistenceTimeout = ipvs.HashPort, time.Hour
	table := func(servers int) ipvs.Table {
		return ipvs.Table{
			tcp: simple("wrr", real(servers, false)), tcp6: simple("rr", real(servers, true)),
			mh: hashed, udp: simple("rr", real(servers, false)),
		}
	}
	const oldVersion, newVersion = "old", "new"
	programs := map[string]string{oldVersion: folder.PreviousIPVS(), newVersion: "/proc/self/exe"}
	kill := s.spawnFrom(t, programs[oldVersion], table(2))
	before := s.state(t)
	held := map[ipvs.Frontend]*heldConnection{}
	for f := range table(2) {
		held[f] = s.hold(t, f)
	}
	come := s.startNewcomers(t, tcp, tcp6, mh, udp)
	for _, version := range []string{newVersion, oldVersion, newVersion, oldVersion} {
		counted := s.counted(t)
		kill()
		if now := s.state(t); now != before {
			t.Errorf("without a driver the kernel has\n%s\nand had\n%s", now, before)
		}
		come.await(t, 50)
		kill = s.spawnFrom(t, programs[version], table(2))
		// It compares each 2 s, and the kernel brings its counters up to date as often.
		lasts(t, 5*time.Second)
		if now := s.state(t); now != before {
			t.Errorf("with the %s driver the kernel has\n%s\nand had\n%s", version, now, before)
		}
		for name, n := range s.counted(t) {
			if n < counted[name] {
				t.Errorf("the %s driver made %s again: it had %d connections and has %d", version, name, counted[name], n)
			}
		}
		for f, c := range held {
			if err := c.say(); err != nil {
				t.Errorf("with the %s driver a connection to %s broke: %v", version, target(f), err)
			}
		}
	}
	// What changed while no driver ran is written by the next one, of either version.
	for _, step := range []struct {
		version string
		servers int
	}{{newVersion, 3}, {oldVersion, 2}} {
		kill()
		kill = s.spawnFrom(t, programs[step.version], table(step.servers))
		if got := len(list(t, s.raw(t), tcp)); got != step.servers {
			t.Errorf("the %s driver has %d real servers in the kernel, want %d", step.version, got, step.servers)
		}
	}
	asked, failed := come.end()
	t.Logf("%d new connections, %d failed: %v", asked, len(failed), failed)
	if asked == 0 || len(failed) > 0 {
		t.Errorf("of %d new connections %d failed: %v", asked, len(failed), failed)
	}
	// A new version without IPVS removes all that the previous one left.
	kill()
	if _, err := in(s.director, func() (struct{}, error) { return struct{}{}, ipvs.RemoveLeftovers() }); err != nil {
		t.Fatal(err)
	}
	if left := names(t, s.raw(t)); len(left) > 0 {
		t.Errorf("%v is left", left)
	}
}

// lasts lets what would go wrong within a while go wrong.
func lasts(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-t.Context().Done():
		t.Fatal(t.Context().Err())
	case <-time.After(d):
	}
}

// counted returns how many connections each virtual server had.
func (s *site) counted(t *testing.T) map[string]uint64 {
	t.Helper()
	found, err := s.raw(t).Services()
	if err != nil {
		t.Fatal(err)
	}
	counts := map[string]uint64{}
	for _, v := range found {
		counts[fmt.Sprint(v.Protocol, " ", v.Address, " port ", v.Port)] = v.Stats64.Connections
	}
	return counts
}

// heldConnection is one that is used again and again.
type heldConnection struct {
	network string
	conn    net.Conn
	name    string // of the server
}

func (s *site) hold(t *testing.T, f ipvs.Frontend) *heldConnection {
	t.Helper()
	network := "tcp"
	if f.Protocol == ipvs.UDP {
		network = "udp"
	}
	conn, name, err := s.dial(network, target(f), 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &heldConnection{network, conn, name}
}

// say writes a line. By TCP it comes back, by UDP the server says who it is.
func (h *heldConnection) say() error {
	if err := h.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	line, want := "still there\n", "still there\n"
	if h.network == "udp" {
		want = h.name + "\n"
	}
	if _, err := h.conn.Write([]byte(line)); err != nil {
		return err
	}
	got := make([]byte, 0, len(want))
	for len(got) < len(want) {
		n, err := h.conn.Read(got[len(got):cap(got)])
		if err != nil {
			return err
		}
		got = got[:len(got)+n]
	}
	if string(got) != want {
		return fmt.Errorf("answered %q, want %q", got, want)
	}
	return nil
}

// arrivals are new connections, one after the other.
type arrivals struct {
	stop, done chan struct{}

	mu     sync.Mutex
	asked  int     // guarded by mu
	failed []error // guarded by mu
}

func (s *site) startNewcomers(t *testing.T, to ...ipvs.Frontend) *arrivals {
	t.Helper()
	a := &arrivals{stop: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(a.done)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for i := 0; ; i = (i + 1) % len(to) {
			select {
			case <-a.stop:
				return
			case <-tick.C:
			}
			network := "tcp"
			if to[i].Protocol == ipvs.UDP {
				network = "udp"
			}
			conn, _, err := s.dial(network, target(to[i]), 0)
			a.mu.Lock()
			a.asked++
			if err != nil {
				a.failed = append(a.failed, fmt.Errorf("%s: %w", target(to[i]), err))
			} else {
				conn.Close()
			}
			a.mu.Unlock()
		}
	}()
	t.Cleanup(func() { a.end() })
	return a
}

// await waits until there were so many more.
func (a *arrivals) await(t *testing.T, more int) {
	t.Helper()
	count := func() int {
		a.mu.Lock()
		defer a.mu.Unlock()
		return a.asked
	}
	want := count() + more
	eventually(t, 6*patience, func() error {
		if is := count(); is < want {
			return fmt.Errorf("%d new connections, want %d", is, want)
		}
		return nil
	})
}

// end ends them and returns what became of them. It may be called again.
func (a *arrivals) end() (asked int, failed []error) {
	select {
	case <-a.stop:
	default:
		close(a.stop)
	}
	<-a.done
	return a.asked, a.failed
}
