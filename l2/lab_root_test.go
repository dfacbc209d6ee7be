//go:build root

package l2

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mdlayher/packet"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/berth-lb/berth/l2/neighbor"
)

// A node of these tests is this test binary again, in a network namespace of its own, so that it
// can be killed and frozen like a real speaker.
const nodeVariable = "L2_TEST_NODE"

func TestMain(m *testing.M) {
	if name := os.Getenv(nodeVariable); name != "" {
		if err := serveNode(name); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if os.Getenv(responderVariable) != "" {
		if err := serveAnswers(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// order is one line of a node's standard input; report one of its output.
type order struct {
	Addresses []netip.Addr
	Desired   *Desired
	Next      *Desired // what to anticipate of Addresses, and of no others
	State     *State
	Drain     bool
	Status    bool
}

type report struct {
	Seen    *seen
	Drained bool
	Status  *Status
	Holds   int // with Status: how many of vip4 and vip6
}

type seen struct {
	Kind      Kind
	Interface string
	Address   netip.Addr
	Node      string
	Cause     Cause
	MAC       string
	Err       string
}

func serveNode(name string) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	d, err := New(Config{
		Node: name, NodeAddresses: []netip.Addr{netip.MustParseAddr(os.Getenv("L2_TEST_ADDRESS"))},
		Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err != nil {
		return err
	}
	d.SetKeys(Keys{Sign: []byte("a key for tests")})
	d.SetState(Ready)
	orders, reports := make(chan order), json.NewEncoder(os.Stdout)
	go func() {
		in := json.NewDecoder(os.Stdin)
		for {
			var o order
			if in.Decode(&o) != nil {
				cancel() // the test is over
				return
			}
			orders <- o
		}
	}()
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx) }()
	var drained <-chan struct{}
	for {
		select {
		case err := <-ended:
			return err
		case <-drained:
			drained = nil
			_ = reports.Encode(report{Drained: true})
		case o := <-d.Observed():
			s := &seen{o.Kind, o.Interface, o.Address, o.Node, o.Cause, o.MAC.String(), ""}
			if o.Err != nil {
				s.Err = o.Err.Error()
			}
			_ = reports.Encode(report{Seen: s})
		case o := <-orders:
			if o.Desired != nil {
				for _, a := range o.Addresses {
					d.Sync(a, *o.Desired)
				}
			}
			if o.Next != nil {
				next := map[netip.Addr]Desired{}
				for _, a := range o.Addresses {
					next[a] = *o.Next
				}
				d.Anticipate(next)
			}
			if o.State != nil {
				d.SetState(*o.State)
			}
			if o.Drain {
				drained = d.Drained()
			}
			if o.Status {
				s := d.Status()
				held := 0
				for _, a := range both() {
					held += len(d.Holds(a))
				}
				_ = reports.Encode(report{Status: &s, Holds: held})
			}
		}
	}
}

// segmentLab is a bridge in a namespace, with nodes and a client on it.
type segmentLab struct {
	t      testing.TB
	prefix string
	nodes  map[string]*node
	client *client
}

type node struct {
	t       testing.TB
	name    string
	ns      string
	mac     string
	cmd     *exec.Cmd
	in      *json.Encoder
	stdin   io.Closer
	reports chan report
}

func ip(t testing.TB, args ...string) string {
	t.Helper()
	out, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// newSegmentLab makes the namespaces and starts a driver on each node; the n-th has 10.77.0.n and
// fd77::n.
func newSegmentLab(t testing.TB, names ...string) *segmentLab {
	t.Helper()
	l := &segmentLab{t: t, prefix: fmt.Sprintf("l2t-%d-", os.Getpid()), nodes: make(map[string]*node)}
	l.addNS("sw")
	ip(t, "-n", l.prefix+"sw", "link", "add", "br0", "type", "bridge")
	ip(t, "-n", l.prefix+"sw", "link", "set", "br0", "up")
	l.attach("client", 100)
	l.client = newClient(t, l.prefix+"client")
	for i, name := range names {
		l.attach(name, i+1)
		l.start(name, i+1)
	}
	return l
}

func (l *segmentLab) addNS(name string) {
	ns := l.prefix + name
	ip(l.t, "netns", "add", ns)
	l.t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", ns).Run() })
	ip(l.t, "-n", ns, "link", "set", "lo", "up")
}

func (l *segmentLab) attach(name string, number int) {
	l.addNS(name)
	ns, sw := l.prefix+name, l.prefix+"sw"
	ip(l.t, "-n", sw, "link", "add", "p-"+name, "type", "veth", "peer", "name", "eth0", "netns", ns)
	ip(l.t, "-n", sw, "link", "set", "p-"+name, "master", "br0", "up")
	ip(l.t, "-n", ns, "addr", "add", fmt.Sprintf("10.77.0.%d/24", number), "dev", "eth0")
	ip(l.t, "-n", ns, "addr", "add", fmt.Sprintf("fd77::%d/64", number), "dev", "eth0", "nodad")
	ip(l.t, "-n", ns, "link", "set", "eth0", "up")
}

func (l *segmentLab) start(name string, number int) *node {
	l.t.Helper()
	self, err := os.Executable()
	if err != nil {
		l.t.Fatal(err)
	}
	ns := l.prefix + name
	cmd := exec.Command("ip", "netns", "exec", ns, self)
	cmd.Env = append(os.Environ(), nodeVariable+"="+name, fmt.Sprintf("L2_TEST_ADDRESS=10.77.0.%d", number))
	cmd.Stderr = &prefixed{t: l.t, name: name}
	in, err := cmd.StdinPipe()
	if err != nil {
		l.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		l.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	n := &node{
		t:       l.t,
		name:    name,
		ns:      ns,
		cmd:     cmd,
		stdin:   in,
		in:      json.NewEncoder(in),
		reports: make(chan report, 1<<16),
	}
	n.mac = linkMAC(l.t, ns, "eth0")
	l.nodes[name] = n
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer close(n.reports)
		for d := json.NewDecoder(bufio.NewReader(out)); ; {
			var r report
			if d.Decode(&r) != nil {
				return
			}
			n.reports <- r
		}
	}()
	l.t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGCONT)
		_ = in.Close() // it ends by itself
		<-ended
		_ = cmd.Wait()
	})
	return n
}

func linkMAC(t testing.TB, ns, name string) string {
	t.Helper()
	var found []struct{ Address string }
	if err := json.Unmarshal([]byte(ip(t, "-n", ns, "-j", "link", "show", name)), &found); err != nil ||
		len(found) != 1 {
		t.Fatalf("read the MAC of %s: %v", name, err)
	}
	return found[0].Address
}

func mustMAC(t testing.TB, s string) net.HardwareAddr {
	t.Helper()
	mac, err := net.ParseMAC(s)
	if err != nil {
		t.Fatal(err)
	}
	return mac
}

// prefixed passes a node's log on to the test's.
type prefixed struct {
	t    testing.TB
	name string
}

func (p *prefixed) Write(b []byte) (int, error) {
	p.t.Logf("%s %s: %s", time.Now().Format("05.000"), p.name, strings.TrimSpace(string(b)))
	return len(b), nil
}

func (n *node) order(o order) {
	n.t.Helper()
	if err := n.in.Encode(o); err != nil {
		n.t.Fatalf("order to %s: %v", n.name, err)
	}
}

// inNS runs f on a thread inside the node's namespace.
func (n *node) inNS(f func() error) {
	n.t.Helper()
	ns, err := netns.GetFromName(n.ns)
	if err != nil {
		n.t.Fatal(err)
	}
	defer ns.Close()
	if err := inside(ns, f); err != nil {
		n.t.Fatal(err)
	}
}

// end closes the node's orders and waits until its process has ended.
func (n *node) end() {
	n.t.Helper()
	_ = n.stdin.Close()
	deadline := time.After(10 * time.Second)
	for {
		select {
		case _, ok := <-n.reports:
			if !ok {
				return
			}
		case <-deadline:
			n.t.Fatalf("%s did not end within 10 s", n.name)
		}
	}
}

// awaitSettled waits until the node and so many peers of it are ready, and it answers for vip4
// and vip6 or for neither.
func (n *node) awaitSettled(peers int, holds bool) {
	n.t.Helper()
	want := 0
	if holds {
		want = len(both())
	}
	n.order(order{Status: true})
	n.await("settled", func(r report) bool {
		if r.Status == nil {
			return false
		}
		if r.Holds == want && len(r.Status.Segments) == 1 && r.Status.Segments[0].readyWith(peers) {
			return true
		}
		n.order(order{Status: true})
		return false
	})
}

func (s Segment) readyWith(peers int) bool {
	ready := 0
	for _, p := range s.Peers {
		if p.State == Ready {
			ready++
		}
	}
	return s.Claiming && ready == peers
}

func (n *node) setState(s State) { n.order(order{State: &s}) }

// signal sends to the node's own process: ip replaced itself by it.
func (n *node) signal(s syscall.Signal) {
	n.t.Helper()
	if err := n.cmd.Process.Signal(s); err != nil {
		n.t.Fatal(err)
	}
}

// await returns the first report that the condition holds for.
func (n *node) await(what string, holds func(report) bool) report {
	n.t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		select {
		case r, ok := <-n.reports:
			if !ok {
				n.t.Fatalf("%s ended before: %s", n.name, what)
			}
			if holds(r) {
				return r
			}
		case <-deadline:
			n.t.Fatalf("%s: not within 10 s: %s", n.name, what)
		}
	}
}

func (n *node) awaitMove(kind Kind, addr string) report {
	n.t.Helper()
	return n.await(kind.String()+" "+addr, func(r report) bool {
		return r.Seen != nil && r.Seen.Kind == kind && r.Seen.Address.String() == addr
	})
}

func (l *segmentLab) syncAll(d Desired, addrs ...netip.Addr) {
	l.t.Helper()
	for _, n := range l.nodes {
		n.order(order{Addresses: addrs, Desired: &d})
	}
}

// awaitListener waits until the bridge has learned that the node listens to an IPv6 group.
func (l *segmentLab) awaitListener(group, node string) {
	l.t.Helper()
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	deadline := time.After(20 * time.Second)
	for {
		out, err := exec.Command("bridge", "-n", l.prefix+"sw", "mdb", "show").Output()
		if err != nil {
			l.t.Fatal(err)
		}
		for line := range strings.Lines(string(out)) {
			if strings.Contains(line, "p-"+node+" ") && strings.Contains(line, group) {
				return
			}
		}
		select {
		case <-look.C:
		case <-deadline:
			l.t.Fatalf("the bridge does not know %s as a listener of %s:\n%s", node, group, out)
		}
	}
}

// client resolves addresses by a real kernel.
type client struct {
	t       testing.TB
	ns      netns.NsHandle
	handle  *netlink.Handle
	index   int
	updates chan netlink.NeighUpdate
}

func newClient(t testing.TB, ns string) *client {
	t.Helper()
	c := &client{t: t, updates: make(chan netlink.NeighUpdate, 256)}
	var err error
	if c.ns, err = netns.GetFromName(ns); err != nil {
		t.Fatal(err)
	}
	if c.handle, err = netlink.NewHandleAt(c.ns); err != nil {
		t.Fatal(err)
	}
	c.index = c.on("eth0").index
	done := make(chan struct{})
	if err := netlink.NeighSubscribeAt(c.ns, c.updates, done); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		close(done)
		for range c.updates {
		}
		c.handle.Close()
		_ = c.ns.Close()
	})
	return c
}

// on is the client on another of its interfaces.
func (c *client) on(ifname string) *client {
	c.t.Helper()
	l, err := c.handle.LinkByName(ifname)
	if err != nil {
		c.t.Fatal(err)
	}
	other := *c
	other.index = l.Attrs().Index
	return &other
}

// in runs f on a thread inside the client's namespace.
func (c *client) in(f func() error) {
	c.t.Helper()
	if err := inside(c.ns, f); err != nil {
		c.t.Fatal(err)
	}
}

// inside runs f on a thread inside a namespace.
func inside(ns netns.NsHandle, f func() error) error {
	ended := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		if err := netns.Set(ns); err != nil {
			ended <- err
			return
		}
		ended <- f()
	}()
	return <-ended
}

// resolve forgets what the kernel knows of addr and lets it ask; it returns the answer's MAC, or ""
// after a whole second without any.
func (c *client) resolve(addr string) string {
	c.t.Helper()
	ip := net.ParseIP(addr)
	_ = c.handle.NeighDel(&netlink.Neigh{LinkIndex: c.index, IP: ip})
	c.forget()
	c.in(func() error {
		conn, err := net.Dial("udp", net.JoinHostPort(addr, "9"))
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = conn.Write([]byte("x"))
		return err
	})
	deadline := time.After(950 * time.Millisecond) // before the kernel asks a second time
	for {
		select {
		case u := <-c.updates:
			const known = unix.NUD_REACHABLE | unix.NUD_STALE | unix.NUD_DELAY | unix.NUD_PROBE
			if u.IP.Equal(ip) && u.State&known != 0 && u.HardwareAddr != nil {
				return u.HardwareAddr.String()
			}
		case <-deadline:
			return ""
		}
	}
}

// probe makes the kernel doubt what it knows of addr, and ask.
func (c *client) probe(addr string) {
	c.t.Helper()
	for _, n := range c.neighbors(addr) {
		n.State = unix.NUD_PROBE
		if err := c.handle.NeighSet(&n); err != nil {
			c.t.Fatal(err)
		}
	}
}

func (c *client) neighbors(addr string) []netlink.Neigh {
	c.t.Helper()
	all, err := c.handle.NeighList(c.index, netlink.FAMILY_ALL)
	if err != nil {
		c.t.Fatal(err)
	}
	var found []netlink.Neigh
	for _, n := range all {
		if n.IP.Equal(net.ParseIP(addr)) {
			found = append(found, n)
		}
	}
	if len(found) == 0 {
		c.t.Fatalf("the client knows no neighbor %s", addr)
	}
	return found
}

// send puts a frame on the wire.
func (c *client) send(frame []byte) {
	c.t.Helper()
	c.in(func() error {
		conn, err := packet.Listen(&net.Interface{Index: c.index}, packet.Raw, neighbor.EtherTypeARP, nil)
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = conn.WriteTo(frame, &packet.Addr{HardwareAddr: frame[:6]})
		return err
	})
}

// learns waits until the kernel, without having forgotten or asked, maps addr to mac.
func (c *client) learns(addr, mac string, within time.Duration) {
	c.t.Helper()
	deadline := time.After(within)
	for {
		select {
		case u := <-c.updates:
			if u.IP.Equal(net.ParseIP(addr)) && u.HardwareAddr.String() == mac {
				return
			}
		case <-deadline:
			c.t.Fatalf("the client did not learn within %s that %s is at %s", within, addr, mac)
		}
	}
}

func (c *client) forget() {
	for {
		select {
		case <-c.updates:
		default:
			return
		}
	}
}

// capture is what arrives at the client of one protocol.
type capture struct {
	conn   *packet.Conn
	frames chan []byte
}

// capture begins a capture of an EtherType; it holds up to 4096 frames.
func (c *client) capture(etherType int) *capture {
	c.t.Helper()
	x := &capture{frames: make(chan []byte, 4096)}
	c.in(func() error {
		var err error
		x.conn, err = packet.Listen(&net.Interface{Index: c.index}, packet.Raw, etherType, nil)
		return err
	})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for b := make([]byte, 2048); ; {
			n, _, err := x.conn.ReadFrom(b)
			if err != nil {
				return
			}
			x.frames <- append([]byte(nil), b[:n]...)
		}
	}()
	c.t.Cleanup(func() {
		_ = x.conn.Close()
		<-ended
	})
	return x
}

// first returns the first frame from mac that arrives from now on.
func (x *capture) first(t testing.TB, mac string) []byte {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		select {
		case f := <-x.frames:
			if net.HardwareAddr(f[6:12]).String() == mac {
				return f
			}
		case <-deadline:
			t.Fatalf("nothing from %s within 10 s", mac)
		}
	}
}
