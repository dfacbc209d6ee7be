//go:build root

package heart

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mdlayher/arp"
	dto "github.com/prometheus/client_model/go"

	"github.com/berth-lb/berth/bgp/bfd"
	"github.com/berth-lb/berth/internal/keptfile"
	"github.com/berth-lb/berth/internal/lines"
	"github.com/berth-lb/berth/internal/urgent"
	"github.com/berth-lb/berth/l2"
	"github.com/berth-lb/berth/speaker/dataplane/nft/nettest"
)

// folderVariable marks a process that is a heart.
const folderVariable = "BERTH_TEST_HEART"

// hastyVariable marks a heart that has little patience.
const hastyVariable = "BERTH_TEST_HASTY"

var hasty = patience{
	fresh: time.Second, age: 1200 * time.Millisecond, stale: 2 * time.Second,
	vouchFor: 4 * time.Second, vouchEvery: 100 * time.Millisecond,
}

// routerVariable marks a process that is a router which watches this node.
const routerVariable = "BERTH_TEST_ROUTER"

func TestMain(m *testing.M) {
	if folder := os.Getenv(folderVariable); folder != "" {
		if err := beat(folder); err != nil {
			panic(err)
		}
		return
	}
	if node := os.Getenv(routerVariable); node != "" {
		engine, err := bfd.New(slog.New(slog.DiscardHandler), nil)
		if err != nil {
			panic(err)
		}
		engine.Sync([]bfd.Peer{{Name: "node", Remote: netip.MustParseAddr(node)}})
		go func() { _ = engine.Run(context.Background()) }()
		for range engine.Events() { // until it is killed
		}
	}
	os.Exit(nettest.Main(m))
}

// beat is cmd/berth-heart, which a test of this package cannot run.
func beat(folder string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	go urgent.Keep(ctx, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	h, err := New(
		Config{Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)), StateFile: filepath.Join(folder, "state")},
	)
	if err != nil {
		return err
	}
	if os.Getenv(hastyVariable) != "" {
		h.patience = hasty
	}
	l, err := lines.Listen(ctx, filepath.Join(folder, "socket"))
	if err != nil {
		return err
	}
	paths, err := lines.Listen(ctx, filepath.Join(folder, "bfd"))
	if err != nil {
		return err
	}
	return h.Run(ctx, l, paths)
}

// rig is a node with a client on its segment.
type rig struct {
	t      *testing.T
	folder string
	client string // enters its namespace
	heart  *exec.Cmd
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, folder: t.TempDir(), client: nettest.Namespace(t)}
	nettest.Shell(t, `
ip link add node0 type veth peer name client0 netns %s
ip addr add 10.77.0.1/24 dev node0
ip link set lo up
ip link set node0 up
%s ip addr add 10.77.0.9/24 dev client0
%s ip link set client0 up`, nettest.PID(r.client), r.client, r.client)
	t.Cleanup(func() { nettest.Shell(t, "ip link del node0") })
	r.begin()
	t.Cleanup(func() { r.kill() })
	return r
}

// begin starts a heart, by a command if one is given.
func (r *rig) begin(by ...string) {
	r.t.Helper()
	argv := slices.Concat(by, []string{nettest.Executable()})
	r.heart = exec.Command(argv[0], argv[1:]...)
	r.heart.Env = append(os.Environ(), folderVariable+"="+r.folder)
	r.heart.Stderr = os.Stderr
	if err := r.heart.Start(); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) kill() {
	_ = r.heart.Process.Signal(syscall.SIGKILL)
	_ = r.heart.Wait()
}

// speaker is a speaker of the node.
type speaker struct {
	*Remote
	answers chan string
	end     func()
}

func (r *rig) speaker() *speaker {
	s := &speaker{answers: make(chan string, 64)}
	told := func(what string) func(netip.Addr, bool) {
		return func(a netip.Addr, on bool) {
			if on {
				s.answers <- what + a.String()
			} else {
				s.answers <- "-" + a.String()
			}
		}
	}
	s.Remote = NewRemote(RemoteConfig{
		Identity: Identity{Node: "a", Cluster: "test", NodeAddresses: []netip.Addr{netip.MustParseAddr("10.77.0.1")}},
		Dial: func(ctx context.Context) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(r.folder, "socket"))
		},
		Logger:  slog.New(slog.NewTextHandler(io.Discard, nil)),
		Answers: told("+"),
		Gained:  func(a netip.Addr) { s.answers <- "gained " + a.String() },
	})
	s.SetKeys(l2.Keys{Sign: []byte("01234567890123456789012345678901")})
	s.SetNodes(map[string][]netip.Addr{"a": {netip.MustParseAddr("10.77.0.1")}})
	s.SetState(l2.Ready)
	return s
}

func (s *speaker) want(addresses ...string) *speaker {
	for _, a := range addresses {
		s.Sync(netip.MustParseAddr(a), l2.Desired{Announced: true, Interfaces: []string{""}, Candidates: []string{"a"}})
	}
	return s
}

// run connects to the heart until the test ends, or end.
func (s *speaker) run(t *testing.T) *speaker {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Run(ctx) }()
	s.end = func() { cancel(); <-done }
	t.Cleanup(s.end)
	return s
}

func (s *speaker) hears(t *testing.T, want ...string) {
	t.Helper()
	var got []string
	for range want {
		select {
		case a := <-s.answers:
			got = append(got, a)
		case <-time.After(20 * time.Second):
			t.Fatalf("the speaker heard %q, want %q", got, want)
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Fatalf("the speaker heard %q, want %q", got, want)
	}
}

// answered reports whether somebody answers ARP for the address.
func (r *rig) answered(address string) bool {
	r.t.Helper()
	var found bool
	nettest.Within(r.t, r.client, func() {
		ifi, err := net.InterfaceByName("client0")
		if err != nil {
			r.t.Error(err)
			return
		}
		c, err := arp.Dial(ifi)
		if err != nil {
			r.t.Error(err)
			return
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(time.Second)); err != nil {
			r.t.Error(err)
		}
		_, err = c.Resolve(netip.MustParseAddr(address))
		found = err == nil
	})
	return found
}

func (r *rig) is(answered bool, addresses ...string) {
	r.t.Helper()
	for _, a := range addresses {
		nettest.Eventually(r.t, a+" is answered for, or not", func() bool { return r.answered(a) == answered })
	}
}

const one, two = "10.77.0.200", "10.77.0.201"

func TestTheHeartGoesOnWithoutItsSpeaker(t *testing.T) {
	r := newRig(t)
	first := r.speaker().want(one).run(t)
	first.hears(t, "+"+one, "gained "+one)
	r.is(true, one)
	first.end() // as a container does that is started again alone
	for range 5 {
		if !r.answered(one) {
			t.Fatal("the address is not answered for without a speaker")
		}
	}
	// The next one is told what is held, and resets no connection for that.
	next := r.speaker().want(one, two).run(t)
	next.hears(t, "+"+one, "+"+two, "gained "+two)
	nettest.Eventually(
		t,
		"the next speaker knows what is held",
		func() bool { return len(next.Holds(netip.MustParseAddr(one))) == 1 },
	)
	next.end()
	// What a speaker does not want is withdrawn when it has said everything.
	last := r.speaker().want(two).run(t)
	r.is(false, one)
	r.is(true, two)
	nettest.Eventually(t, "the last speaker knows what is held", func() bool {
		return len(last.Holds(address(one))) == 0 && len(last.Holds(address(two))) == 1
	})
	if got := last.Status(); got.Err != "" || got.State != l2.Ready || len(got.Segments) != 1 ||
		got.Segments[0].Owned != 1 {
		t.Errorf("status %+v", got)
	}
	families, err := last.Gather()
	if err != nil ||
		!slices.ContainsFunc(
			families,
			func(f *dto.MetricFamily) bool { return f.GetName() == "berth_l2_hellos_sent_total" },
		) {
		t.Errorf("metrics %v, %v", families, err)
	}
}

func TestARestartOfTheSpeakerAloneHandsNothingOver(t *testing.T) {
	r := newRig(t)
	s := r.speaker().want(one).run(t)
	s.hears(t, "+"+one, "gained "+one)
	s.SetState(l2.Restarting)
	select {
	case <-s.Drained():
	case <-time.After(10 * time.Second):
		t.Fatal("not drained")
	}
	if got := s.Status().State; got != l2.Ready {
		t.Errorf("the node is %s, want it to stay %s", got, l2.Ready)
	}
	s.end()
	r.is(true, one)
}

func TestASpeakerOfAnotherClusterGetsAnotherHeart(t *testing.T) {
	r := newRig(t)
	first := r.speaker().want(one).run(t)
	first.hears(t, "+"+one, "gained "+one)
	first.end()
	other := r.speaker()
	other.Remote.want.Identity.Cluster = "another"
	other.run(t)
	if err := r.heart.Wait(); err == nil {
		t.Error("the heart did not fail")
	}
	if _, err := os.Stat(filepath.Join(r.folder, "state")); err == nil {
		t.Error("the state is still there")
	}
}

func TestTheEndOfBothHandsOver(t *testing.T) {
	r := newRig(t)
	s := r.speaker().want(one).run(t)
	s.hears(t, "+"+one, "gained "+one)
	if err := r.heart.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	s.SetState(l2.Restarting)
	nettest.Eventually(t, "the node restarts", func() bool { return s.Status().State == l2.Restarting })
	select {
	case <-s.Drained():
	case <-time.After(10 * time.Second):
		t.Fatal("not drained")
	}
	s.end()
	if err := r.heart.Wait(); err != nil {
		t.Errorf("the heart ended with %v", err)
	}
	r.is(false, one)
	if _, err := os.Stat(filepath.Join(r.folder, "state")); err == nil {
		t.Error("the state is still there")
	}
}

func TestAHeartThatCrashedGoesOnWithWhatItKnew(t *testing.T) {
	r := newRig(t)
	s := r.speaker().want(one).run(t)
	s.hears(t, "+"+one, "gained "+one)
	state := filepath.Join(r.folder, "state")
	nettest.Eventually(t, "the state is kept", func() bool { _, err := os.Stat(state); return err == nil })
	if info, err := os.Stat(state); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the state has mode %v, %v", info.Mode(), err)
	}
	s.end() // and none comes: the API server is away
	r.kill()
	r.is(false, one)
	r.begin()
	r.is(true, one)
	// A state of another boot is not used.
	r.kill()
	text, err := os.ReadFile(state)
	if err != nil {
		t.Fatal(err)
	}
	other := strings.Replace(string(text), strings.TrimSpace(keptfile.BootID()), "another", 1)
	if err := os.WriteFile(state, []byte(other), 0o600); err != nil {
		t.Fatal(err)
	}
	r.begin()
	for range 3 {
		if r.answered(one) {
			t.Error("the address is answered for by a state of another boot")
		}
	}
	// A speaker that comes back tells everything, and hears that it lost the address in between.
	again := r.speaker().want(one).run(t)
	again.hears(t, "+"+one, "gained "+one)
	r.kill()
	r.begin()
	again.hears(t, "-"+one, "+"+one, "gained "+one)
}

func TestPathsAreWatchedByTheHeart(t *testing.T) {
	r := newRig(t)
	paths := NewPaths(lines.Dial(filepath.Join(r.folder, "bfd")), slog.New(slog.DiscardHandler))
	paths.Sync([]bfd.Peer{{Name: "tor", Remote: netip.MustParseAddr("10.77.0.9")}})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = paths.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	argv := append(strings.Fields(r.client), nettest.Executable())
	router := exec.CommandContext(ctx, argv[0], argv[1:]...)
	router.Env = append(os.Environ(), routerVariable+"=10.77.0.1")
	router.Stderr = os.Stderr
	if err := router.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = router.Process.Kill(); _ = router.Wait() })
	if e := <-paths.Events(); e.Peer != "tor" || e.State != bfd.Up {
		t.Errorf("who speaks BGP heard %+v", e)
	}
	// Who comes next hears how things are.
	next := NewPaths(lines.Dial(filepath.Join(r.folder, "bfd")), slog.New(slog.DiscardHandler))
	go func() { _ = next.Run(ctx) }() // ends with ctx
	if e := <-next.Events(); e.Peer != "tor" || e.State != bfd.Up {
		t.Errorf("the next one heard %+v", e)
	}
	r.kill()
	if e := <-paths.Events(); e.Peer != "tor" || e.State != bfd.Down || e.Remote != bfd.AdminDown {
		t.Errorf("who speaks BGP heard %+v of a heart that is gone", e)
	}
}
