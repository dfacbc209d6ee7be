//go:build root

package heart

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-lb/berth/bgp/bfd"
	"github.com/berth-lb/berth/internal/lines"
	"github.com/berth-lb/berth/l2"
	"github.com/berth-lb/berth/speaker/dataplane/nft/nettest"
)

// starving is how long a heart is starved, and how many addresses it has.
func starving(t *testing.T) (lasting time.Duration, addresses int) {
	t.Helper()
	text := os.Getenv("BERTH_STARVED")
	if text == "" {
		return 5 * time.Second, 500
	}
	lasting, err := time.ParseDuration(text)
	if err != nil {
		t.Fatalf("BERTH_STARVED: %v", err)
	}
	return lasting, 10_000
}

// newNode makes groups of processes for a node: one for its heart, that asks for a tenth of a
// processor and may be in the real-time class, and one for what keeps the processors busy, with the
// weight of two.
func newNode(t *testing.T) (heart, hogs string) {
	t.Helper()
	const v1, v2 = "/sys/fs/cgroup/cpu", "/sys/fs/cgroup"
	top, weight, heartWeight, hogWeight := v1, "cpu.shares", "102", "2048"
	if _, err := os.Stat(v1); err != nil {
		put(t, filepath.Join(v2, "cgroup.subtree_control"), "+cpu")
		top, weight, heartWeight, hogWeight = v2, "cpu.weight", "4", "79" // as runc converts them
	}
	node := filepath.Join(top, fmt.Sprintf("berth-starved-%d", time.Now().UnixNano()))
	heart, hogs = filepath.Join(node, "heart"), filepath.Join(node, "hogs")
	for _, group := range []string{node, heart, hogs} {
		if err := os.Mkdir(group, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { // when its processes have ended
			nettest.Eventually(t, group+" can be removed", func() bool { return os.Remove(group) == nil })
		})
		if group == node && top == v2 {
			put(t, filepath.Join(node, "cgroup.subtree_control"), "+cpu")
		}
	}
	put(t, filepath.Join(heart, weight), heartWeight)
	put(t, filepath.Join(hogs, weight), hogWeight)
	const bound = "cpu.rt_runtime_us" // where there is one, nothing may be in the real-time class at first
	if _, err := os.Stat(filepath.Join(node, bound)); err == nil {
		put(t, filepath.Join(node, bound), "300000")
		put(t, filepath.Join(heart, bound), "300000")
	}
	return heart, hogs
}

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// join puts a process into a group.
func join(t *testing.T, group string, p *os.Process) {
	t.Helper()
	put(t, filepath.Join(group, "cgroup.procs"), strconv.Itoa(p.Pid))
}

// pair is the speaker of one of two nodes, a and b, that are candidates for the same addresses, and
// watch each other by BFD at 3 x 50 ms.
type pair struct {
	*Remote
	lines chan net.Conn // connections to the heart
	downs atomic.Int32  // of BFD
	ups   atomic.Int32
	gone  atomic.Bool // it connects no longer
}

func newPair(t *testing.T, r *rig, name, own, other string, addresses []netip.Addr) *pair {
	t.Helper()
	p := &pair{lines: make(chan net.Conn, 1)}
	p.Remote = NewRemote(RemoteConfig{
		Identity: Identity{Node: name, Cluster: "test", NodeAddresses: []netip.Addr{netip.MustParseAddr(own)}},
		Dial: func(ctx context.Context) (net.Conn, error) {
			if p.gone.Load() {
				return nil, errors.New("it is gone")
			}
			conn, err := new(net.Dialer).DialContext(ctx, "unix", filepath.Join(r.folder, "socket"))
			if err == nil {
				select {
				case <-p.lines:
				default:
				}
				p.lines <- conn
			}
			return conn, err
		},
		Logger: slog.New(slog.DiscardHandler),
	})
	p.SetKeys(l2.Keys{Sign: []byte("01234567890123456789012345678901")})
	p.SetNodes(
		map[string][]netip.Addr{"a": {netip.MustParseAddr("10.77.0.1")}, "b": {netip.MustParseAddr("10.77.0.9")}},
	)
	p.SetState(l2.Ready)
	for _, a := range addresses {
		p.wish(a, 0)
	}
	paths := NewPaths(lines.Dial(filepath.Join(r.folder, "bfd")), slog.New(slog.DiscardHandler))
	paths.Sync([]bfd.Peer{{
		Name: "other", Remote: netip.MustParseAddr(other),
		ReceiveInterval: 50 * time.Millisecond, TransmitInterval: 50 * time.Millisecond,
	}})
	ctx, end := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { _ = paths.Run(ctx) }() // ends with ctx
	go func() {
		defer close(done)
		_ = p.Run(ctx)
	}()
	go func() {
		for e := range paths.Events() {
			if e.State == bfd.Up {
				p.ups.Add(1)
			} else {
				p.downs.Add(1)
			}
		}
	}()
	t.Cleanup(func() { end(); <-done })
	return p
}

// wish wants an address, which the node prefers to some degree.
func (p *pair) wish(a netip.Addr, preferred int32) {
	p.Sync(a, l2.Desired{
		Announced: true, Interfaces: []string{""}, Candidates: []string{"a", "b"},
		Preferred: map[string]int32{"a": preferred, "b": preferred},
	})
}

// answered returns how many addresses the node answers for.
func (p *pair) answered() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.answers)
}

// count returns the sum of a counter of the heart.
func (p *pair) count(t *testing.T, name string) float64 {
	t.Helper()
	sum := 0.0
	nettest.Eventually(t, "the heart says its metrics", func() bool {
		families, err := p.Gather()
		if err != nil {
			return false
		}
		for _, family := range families {
			if family.GetName() == name {
				for _, m := range family.GetMetric() {
					sum += m.GetCounter().GetValue()
				}
			}
		}
		return true
	})
	return sum
}

// TestNothingMakesTheHeartLate starves a node: others want all of its processors, its speaker comes
// and goes, and wants this and that. A peer that has what it needs never misses its hellos, nor its
// BFD packets, and no address moves.
func TestNothingMakesTheHeartLate(t *testing.T) {
	lasting, n := starving(t)
	group, hogs := newNode(t)
	r := newRig(t)
	nettest.Shell(t, "ip addr add 10.77.0.1/16 dev node0; %s ip addr add 10.77.0.9/16 dev client0", r.client)
	join(t, group, r.heart.Process)
	peer := &rig{t: t, folder: t.TempDir(), client: r.client}
	peer.begin(strings.Fields(r.client)...)
	t.Cleanup(peer.kill)
	var addresses []netip.Addr
	for a := netip.MustParseAddr("10.77.100.0"); len(addresses) < n; a = a.Next() {
		addresses = append(addresses, a)
	}
	b := newPair(t, peer, "b", "10.77.0.9", "10.77.0.1", addresses)
	a := newPair(t, r, "a", "10.77.0.1", "10.77.0.9", addresses)
	eventually(t, "all is answered for, and BFD is up", func() bool {
		return a.answered()+b.answered() == n && b.ups.Load() > 0
	})
	moves := func() float64 { return a.count(t, "berth_l2_moves_total") + b.count(t, "berth_l2_moves_total") }
	moved, downs := moves(), b.downs.Load() // the speaker of a loses its heart from sight

	for range runtime.NumCPU() {
		hog := exec.CommandContext(t.Context(), "sh", "-c", "while :; do :; done")
		if err := hog.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = hog.Process.Kill(); _ = hog.Wait() })
		join(t, hogs, hog.Process)
	}
	var gaps []time.Duration
	heard, enough := make(chan struct{}), time.Now().Add(lasting)
	go func() {
		defer close(heard)
		nettest.Within(t, r.client, func() { gaps = gapsOfHellos(t, enough) })
	}()
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	crashes := 0
	for turn := int32(0); time.Now().Before(enough); turn++ {
		for _, address := range addresses[:100] {
			a.wish(address, turn%2)
		}
		if turn%8 == 4 {
			_ = (<-a.lines).Close() // as of a speaker that crashed
			crashes++
		}
		_, _ = a.Gather()
		<-tick.C
	}
	<-heard
	slices.Sort(gaps)
	fmt.Printf("%s, %d addresses, %d crashes: %d hellos, between them at p50 %s, p99 %s, p99.9 %s, at most %s\n",
		lasting, n, crashes, len(gaps), gaps[len(gaps)/2], gaps[len(gaps)*99/100], gaps[len(gaps)*999/1000],
		gaps[len(gaps)-1])
	if most := gaps[len(gaps)-1]; most >= 300*time.Millisecond {
		t.Errorf("there was no hello for %s", most)
	}
	if got := a.count(t, "berth_l2_overslept_total"); got != 0 {
		t.Errorf("the heart overslept %v times", got)
	}
	if got := moves(); got != moved {
		t.Errorf("%v moves of addresses", got-moved)
	}
	if got := b.downs.Load(); got != downs {
		t.Errorf("BFD was down %d times", got-downs)
	}
}

// eventually is nettest.Eventually with more patience.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick, enough := time.NewTicker(50*time.Millisecond), time.After(time.Minute)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-enough:
			t.Fatalf("not in time: %s", what)
		}
	}
}

// The next speaker is not there at once, and what the one that crashed knew was right a moment ago.
func TestASpeakerThatCrashedHasTime(t *testing.T) {
	t.Setenv(hastyVariable, "1")
	r := newRig(t)
	peer := &rig{t: t, folder: t.TempDir(), client: r.client}
	peer.begin(strings.Fields(r.client)...)
	t.Cleanup(peer.kill)
	addresses := []netip.Addr{address(one), address(two)}
	a := newPair(t, r, "a", "10.77.0.1", "10.77.0.9", addresses)
	a.Confirm(time.Now())
	eventually(t, "a answers for both", func() bool { a.Confirm(time.Now()); return a.answered() == 2 })
	b := newPair(t, peer, "b", "10.77.0.9", "10.77.0.1", addresses)
	eventually(t, "they hear each other", func() bool {
		a.Confirm(time.Now())
		b.Confirm(time.Now())
		return a.count(t, "berth_l2_hellos_received_total") > 20 && b.count(t, "berth_l2_hellos_received_total") > 20
	})
	if n := b.answered(); n != 0 {
		t.Fatalf("b answers for %d addresses", n)
	}
	select { // the connection ends, and the next speaker does not come
	case line := <-a.lines:
		a.gone.Store(true)
		_ = line.Close()
	default:
		t.Fatal("the speaker is not connected")
	}
	crashed := time.Now()
	eventually(t, "b takes over from a node whose next speaker does not come", func() bool {
		b.Confirm(time.Now())
		return b.answered() == 2
	})
	if took := time.Since(crashed); took < hasty.vouchFor {
		t.Errorf("b took over after %s, want it to wait for longer than %s", took, hasty.vouchFor)
	}
}

// gapsOfHellos returns the times between beats that reached the peer, by the kernel's clock.
func gapsOfHellos(t *testing.T, until time.Time) (gaps []time.Duration) {
	const hellos = 0x88b5
	ifi, err := net.InterfaceByName("client0")
	if err != nil {
		t.Error(err)
		return nil
	}
	protocol := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, hellos))
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
	if err != nil {
		t.Error(err)
		return nil
	}
	defer func() { _ = unix.Close(fd) }()
	for _, err := range []error{
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1),
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000}),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: protocol, Ifindex: ifi.Index}),
	} {
		if err != nil {
			t.Error(err)
			return nil
		}
	}
	// Between two beats claims may follow the first at once.
	const burst = 20 * time.Millisecond
	frame, control := make([]byte, 2048), make([]byte, 128)
	var last time.Time
	for time.Now().Before(until) {
		_, n, _, _, err := unix.Recvmsg(fd, frame, control, 0)
		if err != nil {
			continue // nothing came in time
		}
		messages, err := unix.ParseSocketControlMessage(control[:n])
		if err != nil || len(messages) != 1 {
			t.Errorf("%d control messages, %v", len(messages), err)
			return nil
		}
		stamp := messages[0].Data
		at := time.Unix(int64(binary.NativeEndian.Uint64(stamp)), int64(binary.NativeEndian.Uint64(stamp[8:])))
		if gap := at.Sub(last); !last.IsZero() && gap > burst {
			gaps = append(gaps, gap)
		}
		last = at
	}
	return gaps
}
