package bgpd

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/berth-lb/berth/bgp"
	"github.com/berth-lb/berth/internal/lines"
	"github.com/berth-lb/berth/speaker/rival"
)

// Variables that mark a process as one of those that a test starts.
const (
	keeperVariable  = "BERTH_TEST_BGP_KEEPER" // its folder
	programVariable = "BERTH_TEST_BGP_WORKER" // the program of its workers; empty: the test's
	aloneVariable   = "BERTH_TEST_BGP_ALONE"  // its AloneAtMost; empty: the default
	workerArgument  = "worker-of-a-test"
)

func TestMain(m *testing.M) {
	switch {
	case len(os.Args) > 1 && os.Args[1] == workerArgument:
		if err := workForTest(); err != nil {
			fmt.Fprintln(os.Stderr, "berth-bgp:", err)
			os.Exit(1)
		}
	case os.Getenv(keeperVariable) != "":
		if err := keepForTest(os.Getenv(keeperVariable)); err != nil {
			fmt.Fprintln(os.Stderr, "berth-bgp:", err)
			os.Exit(1)
		}
	default:
		os.Exit(m.Run())
	}
}

// workForTest and keepForTest are cmd/berth-bgp, which a test of this package cannot run.
func workForTest() error {
	signal.Ignore(os.Interrupt, syscall.SIGTERM)
	conn, trace, err := Inherited()
	if err != nil {
		return err
	}
	return Work(context.Background(), conn, trace, slog.New(slog.NewTextHandler(os.Stderr, nil)))
}

func keepForTest(folder string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	l, err := lines.Listen(ctx, filepath.Join(folder, "socket"))
	if err != nil {
		return err
	}
	worker := []string{os.Args[0], workerArgument}
	if program := os.Getenv(programVariable); program != "" {
		worker = []string{program, "-worker"}
	}
	alone, _ := time.ParseDuration(os.Getenv(aloneVariable))
	return NewKeeper(KeeperConfig{
		Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)), Worker: worker,
		StateFile: filepath.Join(folder, "state"), AloneAtMost: alone,
	}).Run(ctx, l)
}

// rig is a keeper in a process of its own.
type rig struct {
	t       *testing.T
	folder  string
	program string // of workers
	keeper  *exec.Cmd
	log     bytes.Buffer
}

func newRig(t *testing.T, program string) *rig {
	t.Helper()
	folder, err := os.MkdirTemp("", "bgpd-") //nolint:usetesting // a short name, for a socket is in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(folder) })
	r := &rig{t: t, folder: folder, program: program}
	r.begin()
	t.Cleanup(func() {
		r.kill()
		if t.Failed() {
			t.Log(r.log.String())
		}
	})
	return r
}

func (r *rig) begin() {
	r.t.Helper()
	self, err := os.Executable()
	if err != nil {
		r.t.Fatal(err)
	}
	r.keeper = exec.Command(self)
	r.keeper.Env = append(os.Environ(), keeperVariable+"="+r.folder, programVariable+"="+r.program)
	r.keeper.Stderr = &r.log
	if err := r.keeper.Start(); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) kill() {
	_ = r.keeper.Process.Kill()
	_ = r.keeper.Wait()
}

// worker returns the worker's process.
func (r *rig) worker() int {
	r.t.Helper()
	var pid int
	r.await("a worker", func() bool {
		task := fmt.Sprintf("/proc/%d/task/%d/children", r.keeper.Process.Pid, r.keeper.Process.Pid)
		tasks, _ := filepath.Glob(filepath.Dir(filepath.Dir(task)) + "/*/children")
		for _, file := range tasks {
			text, _ := os.ReadFile(file)
			if fields := strings.Fields(string(text)); len(fields) > 0 {
				pid, _ = strconv.Atoi(fields[0])
			}
		}
		return pid > 0
	})
	return pid
}

// await waits for what is to come.
func (r *rig) await(what string, come func() bool) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !come() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			r.t.Fatalf("there is no %s", what)
		}
	}
}

// speaker is a speaker's side.
type speaker struct {
	*Remote
	rig  *rig
	end  context.CancelFunc
	done chan struct{}
	conn net.Conn
}

// speaker begins one, which wants these peers and one route.
func (r *rig) speaker(peers ...bgp.Peer) *speaker {
	r.t.Helper()
	ctx, end := context.WithCancel(context.Background())
	s := &speaker{rig: r, end: end, done: make(chan struct{})}
	s.Remote = NewRemote(RemoteConfig{
		Identity: Identity{Node: "n1"}, RouterID: netip.MustParseAddr("10.0.0.9"),
		NextHops: []netip.Addr{netip.MustParseAddr("127.0.0.1")},
		Dial: func(ctx context.Context) (net.Conn, error) {
			conn, err := lines.Dial(filepath.Join(r.folder, "socket"))(ctx)
			s.conn = conn
			return conn, err
		},
		Logger: slog.New(slog.DiscardHandler),
	})
	s.Meet(ctx)
	s.Sync("web", bgp.Desired{Routes: []bgp.Route{{Prefix: netip.MustParsePrefix("192.0.2.1/32")}}})
	s.SyncPeers(peers)
	go func() { defer close(s.done); _ = s.Run(ctx) }() // ends with ctx
	r.t.Cleanup(s.leave)
	return s
}

// leave ends the speaker as it does when it is told to.
func (s *speaker) leave() {
	s.end()
	<-s.done
}

// is waits for a state of the session with a peer.
func (s *speaker) is(peer, state string) bgp.PeerStatus {
	s.rig.t.Helper()
	var found bgp.PeerStatus
	s.rig.await(fmt.Sprintf("peer %s that is %s", peer, state), func() bool {
		for _, p := range s.Status().Peers {
			if p.Name == peer {
				found = p
			}
		}
		return found.State == state
	})
	return found
}

// router is one that speaks as much BGP as these tests need.
type router struct {
	t            *testing.T
	listener     *net.TCPListener
	capabilities []byte // more of them
	sessions     chan *session
	attempts     chan bool // one for each connection
}

// session is one that the other side has confirmed.
type session struct {
	open   []byte
	routes chan string // prefixes; - before those withdrawn
	ended  chan []byte // a NOTIFICATION, or nothing
}

func newRouter(t *testing.T, address string, capabilities ...byte) *router {
	t.Helper()
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(address), 0)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	r := &router{
		t:            t,
		listener:     l,
		capabilities: capabilities,
		sessions:     make(chan *session, 64),
		attempts:     make(chan bool, 1024),
	}
	go func() { // ends with the listener
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			r.attempts <- true
			go r.serve(conn) // ends with the connection
		}
	}()
	return r
}

const routerASN = 64513

// peer is the router for the driver.
func (r *router) peer(name string) bgp.Peer {
	at := r.listener.Addr().(*net.TCPAddr).AddrPort()
	return bgp.Peer{
		Name: name, Address: at.Addr().Unmap(), Port: at.Port(), LocalASN: 64512, RemoteASN: routerASN,
		GracefulRestart: 2 * time.Minute, IPv4: true, ConnectRetryTime: time.Second,
	}
}

// serve speaks to a node.
func (r *router) serve(conn net.Conn) {
	defer conn.Close()
	capabilities := slices.Concat([]byte{1, 4, 0, 1, 0, 1, 64, 6, 0, 120, 0, 1, 1, 0}, r.capabilities)
	open := slices.Concat([]byte{4, routerASN >> 8, routerASN & 255, 0, 90, 10, 0, 0, 1},
		[]byte{byte(len(capabilities) + 2), 2, byte(len(capabilities))}, capabilities)
	if _, err := conn.Write(slices.Concat(message(1, open), message(4, nil))); err != nil {
		return
	}
	s := &session{routes: make(chan string, 64), ended: make(chan []byte, 1)}
	kind, body, err := read(conn)
	if err != nil || kind != 1 {
		return
	}
	s.open = body
	if kind, _, err := read(conn); err != nil || kind != 4 {
		return
	}
	if _, err := conn.Write(message(2, make([]byte, 4))); err != nil { // End-of-RIB
		return
	}
	r.sessions <- s
	for {
		kind, body, err := read(conn)
		switch {
		case err != nil:
			s.ended <- nil
			return
		case kind == 2:
			s.update(body)
		case kind == 3:
			s.ended <- body
			return
		}
	}
}

// gracefulShutdown is that community (RFC 8326).
var gracefulShutdown = []byte{0xff, 0xff, 0, 0}

// update takes an UPDATE of IPv4.
func (s *session) update(body []byte) {
	withdrawn := int(binary.BigEndian.Uint16(body))
	attributes := int(binary.BigEndian.Uint16(body[2+withdrawn:]))
	each := func(prefixes []byte, sign string) {
		for len(prefixes) > 0 {
			n := int(prefixes[0]+7) / 8
			var address [4]byte
			copy(address[:], prefixes[1:1+n])
			s.routes <- fmt.Sprintf("%s%s/%d", sign, netip.AddrFrom4(address), prefixes[0])
			prefixes = prefixes[1+n:]
		}
	}
	each(body[2:2+withdrawn], "-")
	sign := ""
	if bytes.Contains(body[4+withdrawn:4+withdrawn+attributes], gracefulShutdown) {
		sign = "last resort "
	}
	each(body[4+withdrawn+attributes:], sign)
}

// restarts reports whether the node said in its OPEN that it has restarted (RFC 4724 section 3).
func (s *session) restarts() bool {
	return bytes.Contains(s.open, []byte{64, 6, 0x80, 120}) || bytes.Contains(s.open, []byte{64, 10, 0x80, 120})
}

func message(kind byte, body []byte) []byte {
	m := append(bytes.Repeat([]byte{255}, 16), 0, 0, kind)
	binary.BigEndian.PutUint16(m[16:], uint16(len(m)+len(body)))
	return append(m, body...)
}

func read(conn net.Conn) (kind byte, body []byte, err error) {
	header := make([]byte, 19)
	if _, err := io.ReadFull(conn, header); err != nil {
		return 0, nil, err
	}
	body = make([]byte, binary.BigEndian.Uint16(header[16:])-19)
	_, err = io.ReadFull(conn, body)
	return header[18], body, err
}

// next returns the next session.
func (r *router) next() *session {
	r.t.Helper()
	return receive(r.t, "session", r.sessions)
}

// hears expects a route.
func (s *session) hears(t *testing.T, want string) {
	t.Helper()
	if got := receive(t, "route", s.routes); got != want {
		t.Errorf("the router hears %s, want %s", got, want)
	}
}

func receive[T any](t *testing.T, what string, from <-chan T) T {
	t.Helper()
	enough := time.NewTimer(30 * time.Second)
	defer enough.Stop()
	select {
	case v := <-from:
		return v
	case <-enough.C:
		t.Fatalf("no %s comes", what)
	}
	panic("not reached")
}

const webRoute = "192.0.2.1/32"

func TestSessionsOutliveASpeaker(t *testing.T) {
	r, tor := newRig(t, ""), newRouter(t, "127.0.0.1")
	first := r.speaker(tor.peer("tor"))
	session := tor.next()
	session.hears(t, webRoute)
	first.is("tor", "established")

	// It crashes: its connection ends without a word.
	_ = first.conn.Close()
	r.await("speaker that is connected again", func() bool { return first.Status().Err == "" })
	first.is("tor", "established")
	first.leave() // and now with one

	// The next speaker hears of the session before it wants anything, and wants less.
	second := r.speaker(tor.peer("tor"))
	if s := second.is("tor", "established"); s.IPv4 != 1 {
		t.Errorf("the next speaker hears that %d routes are announced, want 1", s.IPv4)
	}
	second.Sync("web", bgp.Desired{})
	session.hears(t, "-"+webRoute)

	// And a speaker that no longer names what the one before wanted.
	second.Sync("old", bgp.Desired{Routes: []bgp.Route{{Prefix: netip.MustParsePrefix("192.0.2.2/32")}}})
	session.hears(t, "192.0.2.2/32")
	second.leave()
	third := r.speaker(tor.peer("tor"))
	got := []string{receive(t, "route", session.routes), receive(t, "route", session.routes)}
	slices.Sort(got)
	if want := []string{"-192.0.2.2/32", webRoute}; !slices.Equal(got, want) {
		t.Errorf("the router hears %q, want %q", got, want)
	}
	if families, err := third.Gather(); err != nil || len(families) < 5 {
		t.Errorf("%d metrics, %v", len(families), err)
	}
	if len(tor.sessions) > 0 {
		t.Error("there was another session")
	}
}

func TestWorkerCrashes(t *testing.T) {
	r, tor := newRig(t, ""), newRouter(t, "127.0.0.1")
	s := r.speaker(tor.peer("tor"))
	observed := func(want bgp.Kind) {
		t.Helper()
		if o := receive(t, "observation", s.Observed()); o.Kind != want || o.Peer != "tor" {
			t.Errorf("observed %+v, want %s", o, want)
		}
	}
	tor.next().hears(t, webRoute)
	observed(bgp.SessionUp)
	for range 2 {
		if err := syscall.Kill(r.worker(), syscall.SIGSEGV); err != nil {
			t.Fatal(err)
		}
		observed(bgp.SessionDown)
		session := tor.next()
		if !session.restarts() {
			t.Errorf("the next worker does not say that it has restarted: OPEN %x", session.open)
		}
		session.hears(t, webRoute)
		observed(bgp.SessionUp)
		s.is("tor", "established")
	}
	families, err := s.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "berth_bgp_crashes_total" && f.GetMetric()[0].GetCounter().GetValue() != 2 {
			t.Errorf("%s", f)
		}
	}
}

func TestKeeperCrashes(t *testing.T) {
	r, tor := newRig(t, ""), newRouter(t, "127.0.0.1")
	s := r.speaker(tor.peer("tor"))
	former := tor.next()
	former.hears(t, webRoute)
	r.await("file", func() bool { _, err := os.Stat(filepath.Join(r.folder, "state")); return err == nil })
	s.leave()
	r.kill() // and no speaker comes: the API server is away
	if n := receive(t, "end of the session", former.ended); n != nil {
		t.Errorf("a worker whose keeper is gone says NOTIFICATION %x", n)
	}
	r.begin()
	session := tor.next()
	session.hears(t, webRoute)
	// The speaker that comes changes nothing.
	r.speaker(tor.peer("tor")).is("tor", "established")
	if len(tor.sessions) > 0 {
		t.Error("there was another session")
	}
}

func TestKeeperEndsAsTheSpeakerSays(t *testing.T) {
	for _, c := range []struct {
		name     string
		say      func(*speaker)
		farewell bool
		restart  time.Duration // the peer's GracefulRestart
		route    string        // that the router hears before the end
		want     []byte        // the beginning of the NOTIFICATION; nil: none
	}{
		{name: "restart", say: func(s *speaker) { s.Restart() }, farewell: true, restart: time.Minute},
		{name: "without a word", say: func(*speaker) {}, restart: time.Minute},
		{name: "no graceful restart", say: func(s *speaker) { s.Restart() }, farewell: true, want: []byte{6, 4}},
		{
			name: "withdraw", say: func(s *speaker) { _ = s.Withdraw(context.Background()) }, farewell: true,
			restart: time.Minute, route: "-" + webRoute, want: []byte{6, 2},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, tor := newRig(t, ""), newRouter(t, "127.0.0.1")
			peer := tor.peer("tor")
			peer.GracefulRestart = c.restart
			s := r.speaker(peer)
			session := tor.next()
			session.hears(t, webRoute)
			s.is("tor", "established")
			if !c.farewell { // the speaker ended before, in a crash
				s.Dial = func(context.Context) (net.Conn, error) { return nil, io.EOF }
				_ = s.conn.Close()
				s.leave()
			}
			ends := make(chan bool, 1)
			go func() { ends <- s.Ends(context.Background()) }() // ends with the answer
			if err := r.keeper.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			if !<-ends {
				t.Error("the keeper does not say that it ends, too")
			}
			c.say(s)
			if c.route != "" {
				session.hears(t, c.route)
			}
			s.leave()
			if got := receive(t, "end", session.ended); !bytes.HasPrefix(got, c.want) ||
				(got == nil) != (c.want == nil) {
				t.Errorf("the session ends with NOTIFICATION %x, want %x", got, c.want)
			}
			if err := r.keeper.Wait(); err != nil {
				t.Error(err)
			}
			if _, err := os.Stat(filepath.Join(r.folder, "state")); err == nil {
				t.Error("the state is left behind")
			}
		})
	}
}

func TestKeeperStaysWhenTheSpeakerEndsAlone(t *testing.T) {
	r, tor := newRig(t, ""), newRouter(t, "127.0.0.1")
	s := r.speaker(tor.peer("tor"))
	tor.next().hears(t, webRoute)
	if s.Ends(t.Context()) {
		t.Error("the keeper says that it ends")
	}
}

func TestOwnSessionsAreNoRivals(t *testing.T) {
	r, tor := newRig(t, ""), newRouter(t, "127.0.0.1")
	peer := tor.peer("tor")
	routers := []rival.Router{{Address: peer.Address, Port: peer.Port}}
	s := r.speaker(peer)
	tor.next()
	s.is("tor", "established")
	if found, err := s.Look(routers); err != nil || len(found) > 0 {
		t.Errorf("Berth's own session is taken for that of another: %v, %v", found, err)
	}
	conn, err := net.Dial("tcp", tor.listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if found, err := s.Look(routers); err != nil || len(found) != 1 ||
		found[0].Local.String() != conn.LocalAddr().String() {
		t.Errorf("another program's connection %s: found %v, %v", conn.LocalAddr(), found, err)
	}
	// A keeper without a worker looks itself.
	idle := NewKeeper(KeeperConfig{Logger: slog.New(slog.DiscardHandler)})
	if found, err := idle.rivals(routers); err != nil || len(found) != 1 { // the worker's; the other is this process's
		t.Errorf("without a worker, what is found is %v, %v", found, err)
	}
}

func TestWithoutASpeakerRoutesBecomeALastResort(t *testing.T) {
	t.Setenv(aloneVariable, "1s")
	r, tor := newRig(t, ""), newRouter(t, "127.0.0.1")
	s := r.speaker(tor.peer("tor"))
	session := tor.next()
	session.hears(t, webRoute)
	state := filepath.Join(r.folder, "state")
	r.await("file", func() bool { _, err := os.Stat(state); return err == nil })
	s.leave()
	session.hears(t, "last resort "+webRoute)
	s = r.speaker(tor.peer("tor"))
	session.hears(t, webRoute)
	s.is("tor", "established")
	// The keeper's next process, which no speaker comes to, announces as what was wanted, for a while.
	s.leave()
	r.kill()
	r.begin()
	session = tor.next()
	for heard := ""; heard != "last resort "+webRoute; {
		heard = receive(t, "route", session.routes)
	}
}

func TestASpeakerLooksForRivalsBeforeItWantsAnything(t *testing.T) {
	r, tor := newRig(t, ""), newRouter(t, "127.0.0.1")
	peer := tor.peer("tor")
	conn, err := net.Dial("tcp", tor.listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(t.Context())
	s := NewRemote(RemoteConfig{
		Identity: Identity{Node: "n1"}, RouterID: netip.MustParseAddr("10.0.0.9"),
		NextHops: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, Dial: lines.Dial(filepath.Join(r.folder, "socket")),
		Logger: slog.New(slog.DiscardHandler),
	})
	s.Meet(ctx)
	routers := []rival.Router{{Address: peer.Address, Port: peer.Port}}
	for range 2 {
		if found, err := s.Look(routers); err != nil || len(found) != 1 {
			t.Errorf("before the start it finds %v, %v", found, err)
		}
	}
	s.SyncPeers([]bgp.Peer{peer})
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Run(ctx) }()
	tor.next()
	cancel()
	<-done
}
