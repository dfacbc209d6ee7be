package l2

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mdlayher/arp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/berth-lb/berth/l2/election"
	"github.com/berth-lb/berth/l2/internal/frametest"
	"github.com/berth-lb/berth/l2/neighbor"
	"github.com/berth-lb/berth/l2/packet"
)

// These tests run whole drivers in virtual time, on a segment without loss. The tests with the tag
// root do the same on a real one.

// ether is a segment: what one wire sends, the others receive.
type ether struct {
	mu    sync.Mutex
	wires []*fakeWire // guarded by mu
}

// kernelEvents tells a driver that links changed.
type kernelEvents struct {
	mu   sync.Mutex
	tell func() // guarded by mu; nil: nobody listens yet
}

func (k *kernelEvents) watch(ctx context.Context, changed func()) error {
	k.mu.Lock()
	k.tell = changed
	k.mu.Unlock()
	changed()
	<-ctx.Done()
	return nil
}

// change makes a change as an event.
func (k *kernelEvents) change(do func()) {
	k.mu.Lock()
	do()
	tell := k.tell
	k.mu.Unlock()
	if tell != nil {
		tell()
	}
}

// fakeSystem is a node's kernel with one interface.
type fakeSystem struct {
	kernelEvents
	ether *ether
	link  packet.Link // guarded by mu
	fails error       // guarded by mu; what opening a socket returns
	mute  bool        // guarded by mu; hellos are filtered
	wire  *fakeWire   // guarded by mu; the last that was opened

	suspended atomic.Int64 // for how long the machine was, in ns
}

// connect puts a wire on the segment.
func (e *ether) connect(w *fakeWire) {
	w.mu.Lock()
	w.ether = e
	w.mu.Unlock()
	e.mu.Lock()
	e.wires = append(e.wires, w)
	e.mu.Unlock()
}

type fakeWire struct {
	in packet.Handlers

	mu      sync.Mutex
	ether   *ether             // guarded by mu
	joined  map[netip.Addr]int // guarded by mu
	busy    bool               // guarded by mu; hellos wait in the socket
	mute    bool               // guarded by mu; hellos are filtered
	waiting [][]byte           // guarded by mu
}

var (
	_ system = (*fakeSystem)(nil)
	_ wire   = (*fakeWire)(nil)
)

func (f *fakeSystem) now() time.Time { return time.Now().Add(time.Duration(f.suspended.Load())) }

func (f *fakeSystem) links() ([]packet.Link, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return []packet.Link{f.link}, nil
}

func (f *fakeSystem) open(_ packet.Link, in packet.Handlers) (wire, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fails != nil {
		return nil, f.fails
	}
	w := &fakeWire{in: in, joined: make(map[netip.Addr]int), mute: f.mute}
	f.ether.connect(w)
	f.wire = w
	return w, nil
}

// set changes the interface or what opening returns, as an event.
func (f *fakeSystem) set(change func(*fakeSystem)) { f.change(func() { change(f) }) }

func (w *fakeWire) segment() *ether {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ether
}

// others are the wires that receive what this one sends; none if it is closed.
func (w *fakeWire) others() []*fakeWire {
	e := w.segment()
	e.mu.Lock()
	defer e.mu.Unlock()
	if !slices.Contains(e.wires, w) {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(e.wires), func(x *fakeWire) bool { return x == w })
}

func (w *fakeWire) SendHello(frame []byte) error {
	w.mu.Lock()
	mute := w.mute
	w.mu.Unlock()
	if mute {
		return nil
	}
	for _, o := range w.others() {
		o.mu.Lock()
		busy := o.busy
		if busy {
			o.waiting = append(o.waiting, slices.Clone(frame[neighbor.EthernetHeader:]))
		}
		o.mu.Unlock()
		if !busy {
			o.in.Hello(frame[neighbor.EthernetHeader:])
		}
	}
	return nil
}

func (w *fakeWire) SendARP(frame []byte) error {
	for _, o := range w.others() {
		if answer := o.in.ARP(frame); answer != nil {
			w.in.ARP(answer)
		}
	}
	return nil
}

func (w *fakeWire) SendNDP(frame []byte) error {
	for _, o := range w.others() {
		if answer := o.in.NDP(frame); answer != nil {
			w.in.NDP(answer)
		}
	}
	return nil
}

func (w *fakeWire) Drain(take func([]byte)) error {
	w.mu.Lock()
	waiting := w.waiting
	w.waiting = nil
	w.mu.Unlock()
	for _, payload := range waiting {
		take(payload)
	}
	return nil
}

// setBusy starts or ends a time in which nothing is read from the socket.
func (w *fakeWire) setBusy(busy bool) {
	w.mu.Lock()
	w.busy = busy
	w.mu.Unlock()
	if !busy {
		_ = w.Drain(w.in.Hello)
	}
}

// setMute starts or ends a time in which hellos that are sent get lost.
func (w *fakeWire) setMute(mute bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mute = mute
}

func (w *fakeWire) Join(a netip.Addr)  { w.count(a, +1) }
func (w *fakeWire) Leave(a netip.Addr) { w.count(a, -1) }
func (w *fakeWire) Wait()              {}

func (w *fakeWire) count(a netip.Addr, n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.joined[a] += n; w.joined[a] == 0 {
		delete(w.joined, a)
	}
}

func (w *fakeWire) Close() {
	e := w.segment()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.wires = slices.DeleteFunc(e.wires, func(x *fakeWire) bool { return x == w })
}

// whoHas asks for an IPv4 address and returns the MACs that answer.
func (e *ether) whoHas(t *testing.T, addr string) []string {
	t.Helper()
	question := frametest.ARP(t, arp.OperationRequest, frametest.Theirs, netip.MustParseAddr("192.0.2.100"),
		netip.MustParseAddr(addr))
	e.mu.Lock()
	wires := slices.Clone(e.wires)
	e.mu.Unlock()
	var macs []string
	for _, w := range wires {
		if answer := w.in.ARP(question); answer != nil {
			macs = append(macs, net.HardwareAddr(answer[6:12]).String())
		}
	}
	slices.Sort(macs)
	return macs
}

// fakeNode is a driver on the segment; number is the last byte of its MAC.
type fakeNode struct {
	*Driver
	system *fakeSystem
	mac    string
	kill   context.CancelFunc
	ended  chan error
}

func (e *ether) node(t *testing.T, name string, number byte, options ...func(*Config, *fakeSystem)) *fakeNode {
	t.Helper()
	home := netip.AddrFrom4([4]byte{192, 0, 2, number})
	mac := [6]byte{2, 0, 0, 0, 0, number}
	l := packet.Link{
		Name:  "eth0",
		Index: 1,
		MTU:   1500,
		MAC:   mac,
		Up:    true,
		Addrs: []netip.Addr{home},
		Subnets: []netip.Prefix{
			netip.MustParsePrefix("192.0.2.0/24"),
			netip.MustParsePrefix("2001:db8::/64"),
			netip.MustParsePrefix("fe80::/64"),
		},
	}
	sys := &fakeSystem{ether: e, link: l}
	config := Config{Node: name, NodeAddresses: []netip.Addr{home}, Logger: slog.New(slog.DiscardHandler)}
	for _, set := range options {
		set(&config, sys)
	}
	d, err := newDriver(config, sys)
	if err != nil {
		t.Fatal(err)
	}
	d.SetKeys(Keys{Sign: []byte("key")})
	d.SetState(Ready)
	ctx, cancel := context.WithCancel(context.Background())
	n := &fakeNode{
		Driver: d,
		system: sys,
		mac:    net.HardwareAddr(mac[:]).String(),
		kill:   cancel,
		ended:  make(chan error, 1),
	}
	go func() { n.ended <- d.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-n.ended; err != nil {
			t.Errorf("%s: Run returned %v", name, err)
		}
	})
	return n
}

// seen empties the stream of observations, without times.
func (n *fakeNode) seen() []Observation {
	var list []Observation
	for {
		select {
		case o := <-n.Observed():
			o.Time = time.Time{}
			list = append(list, o)
		default:
			return list
		}
	}
}

// pass lets virtual time pass.
func pass(t time.Duration) {
	<-time.After(t)
	synctest.Wait()
}

const svc = "192.0.2.200"

var svc4 = netip.MustParseAddr(svc)

// by returns the desired state of an address that these nodes may own. They take all such addresses
// in the same order.
func by(candidates ...string) Desired {
	return Desired{Announced: true, Candidates: candidates, Rank: "test"}
}

// sync has the node want the same of several addresses.
func (n *fakeNode) sync(d Desired, addrs ...string) {
	for _, a := range addrs {
		n.Sync(netip.MustParseAddr(a), d)
	}
}

// twoNodes returns a settled pair, the owner of svc first.
func twoNodes(t *testing.T, e *ether, options ...func(*Config, *fakeSystem)) (owner, other *fakeNode) {
	t.Helper()
	owner, other = e.node(t, "a", 1, options...), e.node(t, "b", 2, options...)
	for _, n := range []*fakeNode{owner, other} {
		n.Sync(svc4, by("a", "b"))
	}
	pass(2 * time.Second)
	got := e.whoHas(t, svc)
	if slices.Equal(got, []string{other.mac}) {
		owner, other = other, owner
	}
	if !slices.Equal(got, []string{owner.mac}) {
		t.Fatalf("%s is answered by %v, want by one of %s and %s", svc, got, owner.mac, other.mac)
	}
	owner.seen()
	other.seen()
	return owner, other
}

// Nodes hear each other on the interface that has their address, also where nothing is announced:
// who asks which nodes are dead goes by that.
func TestDriverHearsWithoutAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &ether{}
		a, b := e.node(t, "a", 1), e.node(t, "b", 2)
		pass(2 * time.Second)
		for _, n := range []*fakeNode{a, b} {
			segments := n.Status().Segments
			if len(segments) != 1 || len(segments[0].Peers) != 1 || segments[0].Peers[0].State != Ready {
				t.Errorf("a node sees %+v, want one segment with the other one, ready", segments)
			}
		}
		a.kill()
		pass(500 * time.Millisecond)
		if !slices.ContainsFunc(b.seen(), func(o Observation) bool { return o.Kind == PeerDown && o.Node == "a" }) {
			t.Error("nobody noticed that a node died")
		}
	})
}

func TestDriverListensFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &ether{}
		n := e.node(t, "a", 1)
		n.Sync(svc4, by("a"))
		pass(900 * time.Millisecond)
		if got := e.whoHas(t, svc); got != nil {
			t.Errorf("answered by %v before a second of listening", got)
		}
		pass(300 * time.Millisecond)
		if got := e.whoHas(t, svc); !slices.Equal(got, []string{n.mac}) {
			t.Errorf("answered by %v, want %s", got, n.mac)
		}
		want := []Observation{{Kind: AddressGained, Interface: "eth0", Address: svc4, Node: "a", Cause: election.Joined}}
		if diff := cmp.Diff(want, n.seen(), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
			t.Errorf("observed (-want +got):\n%s", diff)
		}
		if got := n.Holds(svc4); !slices.Equal(got, []string{"eth0"}) {
			t.Errorf("holds it on %v, want eth0", got)
		}
	})
}

func TestDriverKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &ether{}
		n := e.node(t, "a", 1)
		n.SetKeys(Keys{})
		n.Sync(svc4, by("a"))
		pass(5 * time.Second)
		if got := e.whoHas(t, svc); got != nil {
			t.Errorf("answered without a key by %v", got)
		}
		other := e.node(t, "b", 2)
		other.SetKeys(Keys{Sign: []byte("another")})
		n.SetKeys(Keys{Sign: []byte("key")})
		pass(2 * time.Second)
		if got := n.Status().Segments; len(got) != 1 || len(got[0].Peers) != 0 || !got[0].Claiming {
			t.Errorf("segments %+v, want one that claims and knows no peer", got)
		}
	})
}

// The address of a dead owner is taken within half a second.
func TestDriverTakesAddressOfDeadOwner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &ether{}
		owner, other := twoNodes(t, e)
		owner.kill()
		pass(500 * time.Millisecond)
		if got := e.whoHas(t, svc); !slices.Equal(got, []string{other.mac}) {
			t.Errorf("answered by %v, want %s", got, other.mac)
		}
		var kinds []Kind
		for _, o := range other.seen() {
			kinds = append(kinds, o.Kind)
		}
		if want := []Kind{PeerOverdue, AddressGained, PeerDown}; !slices.Equal(kinds, want) { // actions come before reports
			t.Errorf("observed %v, want %v", kinds, want)
		}
	})
}

// A machine that was suspended wakes with the clocks of its processes where they were. It is silent
// from its first moment, as a process that was frozen is.
func TestDriverOfSuspendedMachine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &ether{}
		owner, other := twoNodes(t, e)
		wire := owner.system.wire
		e.mu.Lock()
		e.wires = slices.DeleteFunc(e.wires, func(w *fakeWire) bool { return w == wire })
		e.mu.Unlock()
		pass(350 * time.Millisecond) // so the other takes over, while this one is suspended
		owner.system.suspended.Store(int64(time.Hour))
		e.connect(wire)
		expectEqual(t, "answered when it wakes by", e.whoHas(t, svc), []string{other.mac})
		pass(2 * time.Second)
		expectEqual(t, "answered later by", e.whoHas(t, svc), []string{other.mac})
	})
}

// A node whose turn to claim comes late first hears which node took the address.
func TestDriverLateTurnHearsFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &ether{}
		first, second := e.node(t, "a", 1), e.node(t, "b", 2)
		pass(2 * time.Second)
		addr := svc4 // for which the second node's claim would win if it made one too
		for !election.RanksBefore(addr.String(), nil, "b", "a") {
			addr = addr.Next()
		}
		second.system.wire.setBusy(true)
		for _, n := range []*fakeNode{first, second} {
			d := by("a", "b")
			d.Preferred = map[string]int32{"a": 1}
			n.Sync(addr, d)
		}
		pass(40 * time.Millisecond) // two turns
		second.system.wire.setBusy(false)
		pass(3 * time.Second)
		if got := e.whoHas(t, addr.String()); !slices.Equal(got, []string{first.mac}) {
			t.Errorf("answered by %v, want %s, who came first", got, first.mac)
		}
	})
}

// What the mirror says of a peer is older than the peer's own word, which may still wait in the
// socket: an owner that took the mirror first would claim above the peer that it gives way to.
func TestDriverHearsBeforeMirror(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, api := &ether{}, &apiMirror{claims: map[netip.Addr]Claim{}, latency: 5 * time.Millisecond}
		owner, other := twoNodes(t, e, api.join)
		e.node(t, "c", 3) // hears both
		pass(2 * time.Second)
		api.nodes = []*fakeNode{owner, other}
		owner.system.wire.setMute(true) // so the other takes the address
		for taken := false; !taken; taken = len(e.whoHas(t, svc)) == 2 {
			owner.system.wire.setBusy(false)
			owner.system.wire.setBusy(true)
			pass(time.Millisecond)
		}
		pass(10 * time.Millisecond) // the owner reads the mirror
		owner.system.wire.setMute(false)
		owner.system.wire.setBusy(false)
		pass(time.Second)
		for _, o := range other.seen() {
			if o.Kind == AddressLost {
				t.Errorf("%s lost what it took: %+v", other.config.Node, o)
			}
		}
		expectEqual(t, "answered by", e.whoHas(t, svc), []string{other.mac})
	})
}

func TestDrainedAfterHandover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &ether{}
		owner, other := twoNodes(t, e)
		owner.SetState(Leaving)
		began := time.Now()
		for drained := owner.Drained(); ; pass(time.Millisecond) {
			if len(e.whoHas(t, svc)) == 0 {
				t.Fatalf("nobody answers %s after the order to leave", time.Since(began))
			}
			select {
			case <-drained:
			default:
				continue
			}
			break
		}
		if took := time.Since(began); took > 200*time.Millisecond {
			t.Errorf("drained after %s, want well before the handover time", took)
		}
		if got := e.whoHas(t, svc); !slices.Equal(got, []string{other.mac}) {
			t.Errorf("answered by %v, want %s", got, other.mac)
		}
		owner.SetState(Ready)
		pass(200 * time.Millisecond)
		if got := e.whoHas(t, svc); !slices.Equal(got, []string{other.mac}) {
			t.Errorf("answered by %v, want %s still: an owner stays", got, other.mac)
		}
		select {
		case <-owner.Drained():
			t.Error("drained while ready")
		default:
		}
	})
}

func TestSetCapabilitiesMovesAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &ether{}
		nodes := []*fakeNode{e.node(t, "a", 1), e.node(t, "b", 2)}
		needs := by("a", "b")
		needs.Needs = 1 << 8
		for _, n := range nodes {
			n.Sync(svc4, needs)
		}
		for _, step := range []struct {
			a, b Capabilities
			want []string
		}{
			{0, 1, nil},
			{1 << 8, 1, []string{nodes[0].mac}},
			{1 << 8, 1<<8 | 1, []string{nodes[0].mac}},
			{0, 1<<8 | 1, []string{nodes[1].mac}},
			{1 << 8, 1<<8 | 1, []string{nodes[1].mac}},
			{1 << 8, 0, []string{nodes[0].mac}},
			{0, 0, nil},
		} {
			nodes[0].SetCapabilities(step.a)
			nodes[1].SetCapabilities(step.b)
			pass(2 * time.Second)
			if got := e.whoHas(t, svc); !slices.Equal(got, step.want) {
				t.Errorf("with %b and %b answered by %v, want %v", step.a, step.b, got, step.want)
			}
		}
	})
}

// Leaving does not wait longer than the handover time for a taker that does not take.
func TestDrainedAfterHandoverTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &ether{}
		owner, other := twoNodes(t, e)
		other.Sync(svc4, Desired{}) // its view of the API differs
		owner.SetState(Leaving)
		pass(900 * time.Millisecond)
		select {
		case <-owner.Drained():
			t.Error("drained before the handover time, while it owned an address")
		default:
		}
		if got := e.whoHas(t, svc); !slices.Equal(got, []string{owner.mac}) {
			t.Errorf("answered by %v, want %s", got, owner.mac)
		}
		pass(400 * time.Millisecond)
		select {
		case <-owner.Drained():
		default:
			t.Error("not drained after the handover time")
		}
	})
}

func TestDrainedWithoutInterfaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := (&ether{}).node(t, "a", 1)
		n.system.set(func(f *fakeSystem) { f.link.Addrs = nil })
		n.SetState(Leaving)
		pass(100 * time.Millisecond)
		select {
		case <-n.Drained():
		default:
			t.Error("not drained")
		}
	})
}

func TestSyncInterfaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &ether{}
		n := e.node(t, "a", 1)
		for _, c := range []struct {
			interfaces []string
			want       []string
		}{
			{[]string{"eth0"}, []string{n.mac}},
			{[]string{"eth1"}, nil},
			{[]string{"eth1", "e*"}, []string{n.mac}},
			{[]string{"[", "bond*"}, nil},
			{nil, []string{n.mac}},
		} {
			d := by("a")
			d.Interfaces = c.interfaces
			n.Sync(svc4, d)
			pass(2 * time.Second)
			if got := e.whoHas(t, svc); !slices.Equal(got, c.want) {
				t.Errorf("on %v answered by %v, want %v", c.interfaces, got, c.want)
			}
		}
		n.system.set(func(f *fakeSystem) { f.link.Addrs = nil })
		pass(100 * time.Millisecond)
		if got := e.whoHas(t, svc); got != nil {
			t.Errorf("answered by %v on an interface without the node's address", got)
		}
	})
}

func TestDriverRetriesOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &ether{}
		n := e.node(t, "a", 1)
		n.Sync(svc4, by("a"))
		broken := errors.New("no such luck")
		n.system.set(func(f *fakeSystem) { f.fails, f.link.MAC[0] = broken, 6 })
		pass(5 * time.Second)
		failures := 0
		for _, o := range n.seen() {
			if o.Kind == Failure && errors.Is(o.Err, broken) {
				failures++
			}
		}
		if failures != 1 {
			t.Errorf("the failure was observed %d times, want once", failures)
		}
		if got := n.Status().Segments; len(got) != 1 || got[0].Up || got[0].Err != "no such luck" {
			t.Errorf("segments %+v, want one that is down and says why", got)
		}
		n.system.set(func(f *fakeSystem) { f.fails = nil })
		pass(3 * time.Second)
		if got := e.whoHas(t, svc); !slices.Equal(got, []string{"06:00:00:00:00:01"}) {
			t.Errorf("answered by %v after the interface can be opened", got)
		}
		if got := n.Status().Segments; len(got) != 1 || !got[0].Up || got[0].Err != "" || got[0].Owned != 1 {
			t.Errorf("segments %+v, want one that is up and owns one address", got)
		}
	})
}

// In virtual time a loop that never waits would hang the test.
func TestSegmentRestsAfterLinkLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &ether{}
		n := e.node(t, "a", 1)
		n.Sync(svc4, by("a"))
		pass(1300 * time.Millisecond) // 1 s of listening, 200 ms of probing
		if got := n.Holds(svc4); len(got) != 1 {
			t.Fatalf("holds it on %v, want one interface", got)
		}
		e.wires[0].in.Broken(errors.New("gone"))
		n.system.set(func(f *fakeSystem) { f.link.Up = false })
		pass(5 * time.Second)
		if got := n.Holds(svc4); got != nil {
			t.Errorf("holds it on %v while the interface is down", got)
		}
		n.system.set(func(f *fakeSystem) { f.link.Up = true })
		pass(2 * time.Second)
		if got := e.whoHas(t, svc); !slices.Equal(got, []string{n.mac}) {
			t.Errorf("answered by %v, want %s", got, n.mac)
		}
	})
}

func TestSegmentReplacesBrokenSocket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &ether{}
		owner, other := twoNodes(t, e)
		var first *fakeWire
		for _, w := range e.wires {
			if answer := w.in.ARP(frametest.ARP(t, arp.OperationRequest, frametest.Theirs,
				netip.MustParseAddr("192.0.2.100"), netip.MustParseAddr(svc))); answer != nil {
				first = w
			}
		}
		first.in.Broken(errors.New("gone"))
		pass(500 * time.Millisecond)
		if got := e.whoHas(t, svc); !slices.Equal(got, []string{other.mac}) {
			t.Errorf("answered by %v while the socket is gone, want %s", got, other.mac)
		}
		pass(3 * time.Second)
		other.kill()
		pass(500 * time.Millisecond)
		if got := e.whoHas(t, svc); !slices.Equal(got, []string{owner.mac}) {
			t.Errorf("answered by %v when the other is dead, want %s", got, owner.mac)
		}
		if slices.Contains(e.wires, first) {
			t.Error("the broken wire is still in use")
		}
	})
}

func TestSegmentJoinsWhatIsAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &ether{}
		n := e.node(t, "a", 1)
		const v6 = "2001:db8::200"
		n.sync(by("a"), svc, v6)
		pass(3 * time.Second)
		joined := func() map[netip.Addr]int {
			w := e.wires[0]
			w.mu.Lock()
			defer w.mu.Unlock()
			return maps.Clone(w.joined)
		}
		if got := joined(); len(got) != 2 || got[netip.MustParseAddr(v6)] != 1 || got[svc4] != 1 {
			t.Errorf("joined for %v, want once for %s and %s", got, v6, svc)
		}
		n.sync(Desired{}, v6)
		pass(time.Millisecond)
		if got := joined(); len(got) != 1 || got[svc4] != 1 {
			t.Errorf("joined for %v, want once for %s", got, svc)
		}
		n.sync(Desired{}, svc)
		pass(time.Millisecond)
		if got := joined(); len(got) != 0 {
			t.Errorf("joined for %v, want nothing", got)
		}
		if got := e.whoHas(t, svc); got != nil {
			t.Errorf("answered by %v after the removal", got)
		}
	})
}

func TestConfigIsValidated(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	for name, c := range map[string]Config{
		"no node":               {Logger: log},
		"no logger":             {Node: "a"},
		"a name without end":    {Node: string(bytes.Repeat([]byte("n"), 254)), Logger: log},
		"an interval too short": {Node: "a", Logger: log, HelloInterval: time.Millisecond},
		"an interval too long":  {Node: "a", Logger: log, HelloInterval: time.Minute},
		"a negative handover":   {Node: "a", Logger: log, Handover: -1},
	} {
		if _, err := New(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	r := prometheus.NewRegistry()
	if _, err := New(Config{Node: "a", Logger: log, Metrics: r}); err != nil {
		t.Fatal(err)
	}
	if _, err := New(Config{Node: "a", Logger: log, Metrics: r}); err == nil {
		t.Error("metrics registered twice: accepted")
	}
}

func TestRunLeavesNoGoroutine(t *testing.T) {
	defer goleak.VerifyNone(t)
	// This uses the real kernel's notifications, which need no privilege. No interface has this
	// address.
	d, err := New(Config{
		Node:          "a",
		NodeAddresses: []netip.Addr{netip.MustParseAddr("192.0.2.1")},
		Logger:        slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- d.Run(ctx) }()
	d.SetState(Leaving)
	<-d.Drained() // the supervisor has looked at the interfaces
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func BenchmarkSync(b *testing.B) {
	for _, n := range []int{10, 10000} {
		d, err := newDriver(Config{Node: "a", Logger: slog.New(slog.DiscardHandler)}, &fakeSystem{ether: &ether{}})
		if err != nil {
			b.Fatal(err)
		}
		for i := range n {
			d.Sync(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), by("a", "b"))
		}
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for b.Loop() {
				d.Sync(svc4, by("a", "b"))
			}
		})
	}
}
