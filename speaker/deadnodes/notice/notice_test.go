package notice

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berth-lb/berth/speaker/deadnodes"
)

var (
	oldKey = []byte("0123456789abcdef0123456789abcdef")
	newKey = []byte("fedcba9876543210fedcba9876543210")
)

func TestOpen(t *testing.T) {
	n := Notice{Kind: Silent, Node: "n1", Sent: 7}
	keys := Keys{Sign: newKey, Accept: [][]byte{oldKey}}
	for _, key := range [][]byte{oldKey, newKey} {
		if got, err := Open(n.Seal(key), keys); err != nil || got != n {
			t.Errorf("%v: %v", got, err)
		}
	}
	resealed := func(change func(b []byte) []byte) []byte {
		b := n.Seal(newKey)
		b = change(b[:len(b)-32])
		return sign(b, b, newKey)
	}
	for what, c := range map[string]struct {
		b    []byte
		keys Keys
		want error
	}{
		"another cluster's":     {n.Seal([]byte("another key")), keys, errKey},
		"no key":                {n.Seal(nil), Keys{}, errKey},
		"cut":                   {n.Seal(newKey)[:20], keys, errFormat},
		"a bit is another":      {flipped(n.Seal(newKey)), keys, errKey},
		"no name":               {Notice{Kind: Silent}.Seal(newKey), keys, errFormat},
		"too long":              {Notice{Kind: Silent, Node: strings.Repeat("n", 254)}.Seal(newKey), keys, errFormat},
		"a name that is longer": {resealed(func(b []byte) []byte { return append(b, 'x') }), keys, errFormat},
		"a kind to come":        {resealed(func(b []byte) []byte { b[5] = byte(Hello) + 1; return b }), keys, errKind},
		"a version to come":     {resealed(func(b []byte) []byte { b[4] = 2; return b }), keys, errKind},
		"a hello":               {resealed(func(b []byte) []byte { copy(b, "bert"); return b }), keys, errFormat},
	} {
		if got, err := Open(c.b, c.keys); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, %v; want %v", what, got, err, c.want)
		}
	}
}

func flipped(b []byte) []byte {
	b[8] ^= 1
	return b
}

func FuzzOpen(f *testing.F) {
	f.Add(Notice{Kind: Silent, Node: "n1"}.Seal(newKey))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, b := range [][]byte{b, sign(b[:len(b):len(b)], b, newKey)} {
			n, err := Open(b, Keys{Sign: newKey})
			if err == nil && string(n.Seal(newKey)) != string(b) {
				t.Errorf("%q opens as %v, which is %q", b, n, n.Seal(newKey))
			}
		}
	})
}

// A silence is told often at first, and on and on; that a node serves again is told a few times.
func TestLedger(t *testing.T) {
	l, begun := ledger{}, time.Unix(0, 0)
	serves := false
	var got []string
	silent := []string{"a"}
	now := begun
	step := func(until time.Duration) {
		for {
			l.update(now, silent, func(string) bool { return serves })
			send, next := l.take(now)
			for _, n := range send {
				got = append(got, fmt.Sprint(n.Kind, " ", n.Node, " ", now.Sub(begun)))
			}
			if next.IsZero() || next.Sub(begun) > until {
				now = begun.Add(until)
				return
			}
			now = next
		}
	}
	expect := func(when, want string) {
		t.Helper()
		if text := strings.Join(got, ", "); text != want {
			t.Errorf("%s: %s\nwant %s", when, text, want)
		}
		got = nil
	}
	step(15 * time.Second)
	expect(
		"a is silent",
		"silent a 0s, silent a 100ms, silent a 300ms, silent a 1s, silent a 2s, silent a 4s, silent a 14s",
	)
	silent = nil
	step(40 * time.Second)
	expect("it is not certain any more", "")
	serves = true
	step(60 * time.Second)
	expect("a serves", "serves a 40s, serves a 40.1s, serves a 40.3s, serves a 41s, serves a 42s, serves a 44s")
	if len(l) > 0 {
		t.Errorf("%d nodes are remembered", len(l))
	}
	silent = []string{"a"}
	step(60 * time.Second)
	expect("a is silent again", "silent a 1m0s")
}

// farm is nodes on loopback, each with a real socket.
type farm struct {
	port      string
	addresses func(node string) []netip.Addr // where kernels are asked
	nodes     map[string][]netip.Addr
}

func loopback(node string) netip.Addr {
	return netip.MustParseAddr(strings.Replace(node, "n", "127.0.0.1", 1))
}

// newFarm has n nodes n0, n1, ...
func newFarm(t *testing.T, addresses func(node string) []netip.Addr, n int) *farm {
	t.Helper()
	free, err := net.ListenPacket("udp", "127.0.0.9:0") //nolint:noctx // it does not wait
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(free.LocalAddr().String())
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	f := &farm{port: port, addresses: addresses, nodes: map[string][]netip.Addr{}}
	for i := range n {
		f.nodes[fmt.Sprint("n", i)] = []netip.Addr{loopback(fmt.Sprint("n", i))}
	}
	return f
}

func (f *farm) begin(t *testing.T, node string) (*deadnodes.Detector, *Driver, func()) {
	t.Helper()
	d := deadnodes.New(deadnodes.Config{Node: node, Ports: []uint16{1}, Addresses: f.addresses})
	driver, err := New(Config{
		Logger: slog.New(slog.DiscardHandler), Node: node, Listen: net.JoinHostPort(loopback(node).String(), f.port),
		Nodes: func() map[string][]netip.Addr { return f.nodes }, Dead: d, Serves: func() bool { return true },
	})
	if err != nil {
		t.Fatal(err)
	}
	driver.SetKeys(Keys{Sign: newKey})
	driver.SetReady(true)
	ctx, cancel := context.WithCancel(t.Context())
	var runs sync.WaitGroup
	for _, run := range []func(context.Context) error{d.Run, driver.Run} {
		runs.Go(func() {
			if err := run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	stop := func() { cancel(); runs.Wait() }
	t.Cleanup(stop)
	return d, driver, stop
}

func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	late, again := time.After(30*time.Second), time.NewTicker(10*time.Millisecond)
	defer again.Stop()
	for !is() {
		select {
		case <-again.C:
		case <-late:
			t.Fatalf("never: %s", what)
		}
	}
}

// A node that does not hear another learns by a notice of one that did that it is dead; a notice
// with another cluster's key says nothing.
func TestDriver(t *testing.T) {
	const witness, victim, stranger, far = "n0", "n1", "n2", "n3"
	rack := newFarm(t, func(node string) []netip.Addr {
		if node == victim {
			return []netip.Addr{netip.MustParseAddr("255.255.255.255")} // no kernel answers there
		}
		return []netip.Addr{loopback(node)}
	}, 4)
	hears, _, _ := rack.begin(t, witness)
	strange, driver, _ := rack.begin(t, stranger)
	driver.SetKeys(Keys{Sign: oldKey})
	learns, _, _ := rack.begin(t, far)
	for _, d := range []*deadnodes.Detector{hears, strange} {
		d.Heard(victim, "eth0")
		d.Heard("n9", "eth0")
	}
	strange.Silent(victim, "eth0", false)
	until(t, "the stranger knows", func() bool { return strange.Dead()[victim] })
	hears.Heard(victim, "eth0")
	<-time.After(500 * time.Millisecond) // three notices of the stranger's
	if len(learns.Suspects()) > 0 {
		t.Error("a notice with another cluster's key counts")
	}
	hears.Silent(victim, "eth0", false)
	until(t, "the victim is dead for who never heard it", func() bool { return learns.Lost()[victim] })
	if silences := learns.Silences(); len(silences) > 0 {
		t.Errorf("it tells what it was told: %v", silences)
	}
}

// Of nodes that hear nobody on a segment, some learn that one is dead since its hellos end, and
// tell the others.
func TestDriver_hellos(t *testing.T) {
	var mu sync.Mutex
	gone := false
	rack := newFarm(t, func(node string) []netip.Addr {
		mu.Lock()
		defer mu.Unlock()
		if node == "n0" && gone {
			return []netip.Addr{netip.MustParseAddr("255.255.255.255")}
		}
		return []netip.Addr{loopback(node)}
	}, 6)
	var others []*deadnodes.Detector
	end := func() {}
	for i := range 6 {
		d, _, stop := rack.begin(t, fmt.Sprint("n", i))
		if i == 0 {
			end = stop
		} else {
			others = append(others, d)
		}
	}
	until(t, "n0 is heard", func() bool {
		return slices.ContainsFunc(others, func(d *deadnodes.Detector) bool { return d.Serves("n0") })
	})
	mu.Lock()
	gone = true
	mu.Unlock()
	end()
	until(t, "all know that n0 is dead", func() bool {
		return !slices.ContainsFunc(others, func(d *deadnodes.Detector) bool { return !d.Lost()["n0"] })
	})
	mu.Lock()
	gone = false
	mu.Unlock()
	rack.begin(t, "n0")
	until(t, "all know that n0 serves again", func() bool {
		return !slices.ContainsFunc(others, func(d *deadnodes.Detector) bool { return d.Suspects()["n0"] })
	})
	for _, d := range others {
		if found := d.Suspects(); len(found) > 0 {
			t.Errorf("suspects: %v", found)
		}
		if found := d.Silences(); len(found) > 0 {
			t.Errorf("a controller that fences would be told of what no segment shows: %v", found)
		}
	}
}

// A node that is late itself takes nobody for dead.
func TestWards(t *testing.T) {
	w := wards{last: map[string]time.Time{}}
	at := func(d time.Duration) time.Time { return time.Unix(0, 0).Add(d) }
	w.looked = at(0)
	w.hear("a", at(0))
	w.hear("b", at(0))
	for d := helloEvery; d <= 2*time.Second; d += helloEvery {
		w.hear("b", at(d))
		late := w.late(at(d))
		if is := slices.Contains(late, "a"); is != (d == helloLate+helloEvery) || len(late) > 1 {
			t.Errorf("after %v late: %v", d, late)
		}
	}
	if late := w.late(at(10 * time.Second)); len(late) > 0 {
		t.Errorf("after a sleep late: %v", late)
	}
	if late := w.late(at(10*time.Second + helloEvery)); len(late) > 0 {
		t.Errorf("a moment after a sleep late: %v", late)
	}
}

// Each node has three watchers, and few change when another node comes.
func TestWatchersOf(t *testing.T) {
	var names []string
	for i := range 100 {
		names = append(names, fmt.Sprint("n", i))
	}
	load, moved := map[string]int{}, 0
	for _, node := range names {
		may := slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == node })
		before := slices.Clone(watchersOf(node, slices.Clone(may)))
		for _, w := range before {
			load[w]++
		}
		for _, w := range watchersOf(node, append(slices.Clone(may), "new")) {
			if !slices.Contains(before, w) {
				moved++
			}
		}
	}
	for node, n := range load {
		if n > 12 {
			t.Errorf("%s has %d wards", node, n)
		}
	}
	if moved > 12 {
		t.Errorf("%d of 300 watchers are others since a node came", moved)
	}
	if got := watchersOf("a", []string{"b"}); !slices.Equal(got, []string{"b"}) {
		t.Errorf("of two nodes: %v", got)
	}
}

func TestNew(t *testing.T) {
	for _, bad := range []string{"7470", ":0", ":http", "127.0.0.1:70000"} {
		if _, err := New(Config{Listen: bad}); err == nil || !strings.Contains(err.Error(), bad) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}
