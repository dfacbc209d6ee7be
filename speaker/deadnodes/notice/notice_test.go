package notice

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berth-lb/berth/speaker/deadnodes"
)

var (
	oldKey = []byte("0123456789abcdef0123456789abcdef")
	newKey = []byte("fedcba9876543210fedcba9876543210")
)

func TestOpen(t *testing.T) {
	n := Notice{Kind: Answer, Node: "n1", Number: 1<<63 + 7}
	keys := Keys{Sign: newKey, Accept: [][]byte{oldKey}}
	for _, key := range [][]byte{oldKey, newKey} {
		if got, err := Open(n.Seal("me", key), "me", keys); err != nil || got != n {
			t.Errorf("%v: %v", got, err)
		}
	}
	resealed := func(change func(b []byte) []byte) []byte {
		b := n.Seal("me", newKey)
		b = change(b[:len(b)-32])
		return sign(b, b, "me", newKey)
	}
	for what, c := range map[string]struct {
		b    []byte
		keys Keys
		want error
	}{
		"another cluster's":     {n.Seal("me", []byte("another key")), keys, errKey},
		"for another node":      {n.Seal("you", newKey), keys, errKey},
		"no key":                {n.Seal("me", nil), Keys{}, errKey},
		"cut":                   {n.Seal("me", newKey)[:20], keys, errFormat},
		"a bit is another":      {append(n.Seal("me", newKey)[:7], n.Seal("me", newKey)[6:]...), keys, errKey},
		"no name":               {Notice{Kind: Silent}.Seal("me", newKey), keys, errFormat},
		"too long":              {Notice{Kind: Silent, Node: strings.Repeat("n", 254)}.Seal("me", newKey), keys, errFormat},
		"a name that is longer": {resealed(func(b []byte) []byte { return append(b, 'x') }), keys, errFormat},
		"a kind to come":        {resealed(func(b []byte) []byte { b[5] = byte(Ends) + 1; return b }), keys, errKind},
		"a version to come":     {resealed(func(b []byte) []byte { b[4] = version + 1; return b }), keys, errKind},
		"a hello":               {resealed(func(b []byte) []byte { copy(b, "bert"); return b }), keys, errFormat},
	} {
		if got, err := Open(c.b, "me", c.keys); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, %v; want %v", what, got, err, c.want)
		}
	}
}

func FuzzOpen(f *testing.F) {
	f.Add(Notice{Kind: Silent, Node: "n1"}.Seal("me", newKey))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, b := range [][]byte{b, sign(b[:len(b):len(b)], b, "me", newKey)} {
			n, err := Open(b, "me", Keys{Sign: newKey})
			if err == nil && string(n.Seal("me", newKey)) != string(b) {
				t.Errorf("%q opens as %v, which is %q", b, n, n.Seal("me", newKey))
			}
		}
	})
}

// Who has just begun is told of all that are silent, but not of itself, and not for each datagram.
func TestLedger_greets(t *testing.T) {
	l, now := ledger{}, at(0)
	l.update(now, []string{"a", "b", "c", "d"}, nil)
	l.update(now, []string{"a", "b", "d"}, func(node string) bool { return false })
	l.serves("e", now)
	g := greeted{}
	for _, c := range []struct {
		node  string
		after time.Duration
		want  string
	}{
		{"x", 0, "silent a, silent b, silent d"},
		{"a", 0, "silent b, silent d"},
		{"x", greetEvery - 1, ""},
		{"x", greetEvery, "silent a, silent b, silent d"},
	} {
		var got []string
		for _, n := range g.greet(l, c.node, now.Add(c.after)) {
			got = append(got, fmt.Sprint(n.Kind, " ", n.Node))
		}
		if text := strings.Join(got, ", "); text != c.want {
			t.Errorf("%s after %s: %s, want %s", c.node, c.after, text, c.want)
		}
	}
	if g.greet(l, "y", now.Add(time.Minute)); len(g) != 1 {
		t.Errorf("%d are remembered", len(g))
	}
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
	silent, serves = nil, false
	now = begun.Add(time.Minute + forgetAfter + time.Second)
	step(2 * forgetAfter)
	if expect("it is gone", ""); len(l) > 0 {
		t.Errorf("%d nodes are remembered for ever", len(l))
	}
}

// farm is nodes on loopback, each with a real socket.
type farm struct {
	port      string
	addresses func(node string) []netip.Addr // where kernels are asked
	nodes     map[string][]netip.Addr
}

// nowhere is the broadcast address: no kernel takes or refuses a connection there.
var nowhere = netip.MustParseAddr("255.255.255.255")

// loopback is the address of node n0, n1, ...
func loopback(node string) netip.Addr {
	return netip.MustParseAddr(strings.Replace(node, "n", "127.0.0.1", 1))
}

func newFarm(t *testing.T, addresses func(node string) []netip.Addr, nodes int) *farm {
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
	for i := range nodes {
		f.nodes[fmt.Sprint("n", i)] = []netip.Addr{loopback(fmt.Sprint("n", i))}
	}
	return f
}

// begin begins a node that serves. It may be stopped; in the end it is.
func (f *farm) begin(t *testing.T, node string) (d *deadnodes.Detector, driver *Driver, stop func()) {
	t.Helper()
	d = deadnodes.New(deadnodes.Config{Node: node, Ports: []uint16{1}, Addresses: f.addresses})
	driver, err := New(Config{
		Logger: slog.New(slog.DiscardHandler), Node: node, Listen: net.JoinHostPort(loopback(node).String(), f.port),
		Nodes: func() map[string][]netip.Addr { return f.nodes }, Dead: d, Serves: func() bool { return true },
		Addresses: func(node string) []netip.Addr { return f.nodes[node] },
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
	stop = func() { cancel(); runs.Wait() }
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
	t.Parallel() // it waits for most of the time
	const witness, victim, stranger, far = "n0", "n1", "n2", "n3"
	rack := newFarm(t, func(node string) []netip.Addr {
		if node == victim {
			return []netip.Addr{nowhere}
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

// A speaker that begins learns soon who died while it was away, though notices are seldom by then.
func TestDriver_begins(t *testing.T) {
	t.Parallel() // it waits for most of the time
	const witness, victim, late = "n0", "n1", "n2"
	rack := newFarm(t, func(node string) []netip.Addr {
		if node == victim {
			return []netip.Addr{nowhere}
		}
		return []netip.Addr{loopback(node)}
	}, 3)
	hears, _, _ := rack.begin(t, witness)
	hears.Heard(victim, "eth0")
	hears.Heard("n9", "eth0")
	hears.Silent(victim, "eth0", false)
	<-time.After(repeats[len(repeats)-1] + 200*time.Millisecond)
	begun := time.Now()
	learns, _, _ := rack.begin(t, late)
	until(t, "it knows who is dead", func() bool { return learns.Lost()[victim] })
	if took := time.Since(begun); took > repeatEvery/2 {
		t.Errorf("it took %s", took)
	}
}

// Of nodes that hear nobody on a segment three watch each. They learn that it is dead since it does
// not answer, and tell all; a speaker that is away says nothing. Those that fence are told nothing.
func TestDriver_watch(t *testing.T) {
	t.Parallel() // it waits for most of the time
	const victim, deaf = "n0", "n1"
	var gone atomic.Bool
	rack := newFarm(t, func(node string) []netip.Addr {
		if node == victim && gone.Load() {
			return []netip.Addr{nowhere}
		}
		return []netip.Addr{loopback(node)}
	}, 7)
	var others []*deadnodes.Detector
	end := func() {}
	for node := range rack.nodes {
		switch d, _, stop := rack.begin(t, node); node {
		case victim:
			end = stop
		case deaf:
			stop() // it may be chosen, and does not watch
		default:
			others = append(others, d)
		}
	}
	watching := func() (n int) {
		for _, d := range others {
			if d.Serves(victim) {
				n++
			}
		}
		return n
	}
	all := func(is func(*deadnodes.Detector) bool) func() bool {
		return func() bool {
			return !slices.ContainsFunc(others, func(d *deadnodes.Detector) bool { return !is(d) })
		}
	}
	until(t, "three watch it", func() bool { return watching() == mostWatchers })
	end()
	until(t, "they do not any more", func() bool { return watching() == 0 })
	<-time.After(time.Second)
	if !all(func(d *deadnodes.Detector) bool { return !d.Suspects()[victim] })() {
		t.Error("its speaker is away, and its kernel answers, and it is suspected")
	}
	gone.Store(true)
	until(t, "all know that it is dead", all(func(d *deadnodes.Detector) bool { return d.Lost()[victim] }))
	if !all(func(d *deadnodes.Detector) bool { return len(d.Silences()) == 0 })() {
		t.Error("a controller that fences would be told what no segment shows")
	}
	gone.Store(false)
	rack.begin(t, victim)
	until(t, "all know that it lives", all(func(d *deadnodes.Detector) bool { return !d.Suspects()[victim] }))
	until(t, "it is watched again", func() bool { return watching() == mostWatchers })
	for _, d := range others {
		for _, node := range slices.Collect(maps.Keys(d.Suspects())) {
			if node != deaf {
				t.Errorf("%s is suspected", node)
			}
		}
	}
}

// Those that are left notice that the only node of another segment died: a segment of two, or a
// single node that hears nobody.
func TestDriver_lone(t *testing.T) {
	t.Parallel() // it waits for most of the time
	for _, survivors := range []int{2, 1} {
		const victim = "n0"
		var gone atomic.Bool
		rack := newFarm(t, func(node string) []netip.Addr {
			if node == victim && gone.Load() {
				return []netip.Addr{nowhere}
			}
			return []netip.Addr{loopback(node)}
		}, survivors+1)
		_, _, end := rack.begin(t, victim)
		var others []*deadnodes.Detector
		for i := range survivors {
			d, _, _ := rack.begin(t, fmt.Sprint("n", i+1))
			if survivors == 2 {
				d.Heard(fmt.Sprint("n", 2-i), "eth0")
			}
			others = append(others, d)
		}
		all := func(is func(*deadnodes.Detector) bool) func() bool {
			return func() bool {
				return !slices.ContainsFunc(others, func(d *deadnodes.Detector) bool { return !is(d) })
			}
		}
		until(t, "it is watched", all(func(d *deadnodes.Detector) bool { return d.Serves(victim) }))
		gone.Store(true)
		end()
		until(t, "they know that it is dead", all(func(d *deadnodes.Detector) bool { return d.Lost()[victim] }))
		gone.Store(false)
		rack.begin(t, victim)
		until(t, "they know that it serves", all(func(d *deadnodes.Detector) bool {
			return d.Serves(victim) && !d.Suspects()[victim] && !d.Alone()
		}))
	}
}

func at(d time.Duration) time.Time { return time.Unix(0, 0).Add(d) }

// A ward that leaves some questions in a row without an answer is silent, until it answers again.
// Nobody is who did not answer yet.
func TestWards(t *testing.T) {
	w := newWards(1<<64 - 3)
	answering := map[string]bool{"a": true, "b": true}
	rounds := func(n int, all bool, want ...string) {
		t.Helper()
		var asked, silent []string
		for range n {
			asked = w.ask(all)
			for _, node := range asked {
				if answering[node] && !w.answer(node, w.number) {
					t.Errorf("an answer of %s does not count", node)
				}
			}
		}
		for node, one := range w.byNode {
			if one.silent() {
				silent = append(silent, node)
			}
		}
		slices.Sort(silent)
		if !slices.Equal(silent, want) {
			t.Errorf("silent: %v, want %v", silent, want)
		}
		often := all || w.number%seldom == 0
		for _, node := range silent {
			if slices.Contains(asked, node) != often {
				t.Errorf("%s is silent, and asked: %t", node, !often)
			}
		}
	}
	for _, node := range []string{"a", "b", "c"} {
		w.invite(node, at(0))
	}
	if w.known() {
		t.Error("somebody answered, who was not asked")
	}
	rounds(2*seldom, false)
	answering["a"] = false
	rounds(missedAtMost, false)
	rounds(1, false, "a")
	rounds(2*seldom+1, false, "a")
	rounds(1, true, "a")
	answering["a"] = true
	rounds(seldom, false)
	for what, number := range map[string]uint64{"old": w.number - answersLate, "to come": w.number + 1} {
		if w.answer("c", number) {
			t.Errorf("an answer counts that is %s", what)
		}
	}
	if w.answer("nobody", w.number) || !w.known() {
		t.Error("an answer of nobody counts")
	}
	if left := w.expire(at(wardFor)); len(left) > 0 || len(w.byNode) != 3 {
		t.Errorf("left: %v of %v", left, w.byNode)
	}
	w.invite("b", at(wardFor))
	left := w.expire(at(wardFor + 1))
	if slices.Sort(left); !slices.Equal(left, []string{"a", "c"}) || w.byNode["b"] == nil {
		t.Errorf("left: %v", left)
	}
	for i := range 2 * mostWards {
		w.invite(fmt.Sprint("n", i), at(wardFor))
	}
	if len(w.byNode) != mostWards {
		t.Errorf("%d wards", len(w.byNode))
	}
}

func setOf(nodes []string) map[string]bool {
	set := map[string]bool{}
	for _, n := range nodes {
		set[n] = true
	}
	return set
}

// Each node has three watchers; few change when another node comes.
func TestWatchers(t *testing.T) {
	var names []string
	for i := range 100 {
		names = append(names, fmt.Sprint("n", i))
	}
	load, moved := map[string]int{}, 0
	for _, node := range names {
		may := setOf(names)
		delete(may, node)
		before := newWatchers(node).invite(may, at(0))
		for _, w := range before {
			load[w]++
		}
		may["new"] = true
		for _, w := range newWatchers(node).invite(may, at(0)) {
			if !slices.Contains(before, w) {
				moved++
			}
		}
	}
	for node, n := range load {
		if n > 12 {
			t.Errorf("%s watches %d", node, n)
		}
	}
	if moved > 12 {
		t.Errorf("%d of 300 watchers are others since a node came", moved)
	}
	if got := newWatchers("self").invite(setOf([]string{"b"}), at(0)); !slices.Equal(got, []string{"b"}) {
		t.Errorf("of two nodes: %v", got)
	}
}

// Who does not watch is replaced, and tried again later, so that the few that do are found among
// many.
func TestWatchers_few(t *testing.T) {
	all, watch := map[string]bool{}, map[string]bool{}
	for i := range 500 {
		all[fmt.Sprint("n", i)] = true
		watch[fmt.Sprint("n", i)] = i%25 == 0
	}
	w, invited := newWatchers("self"), 0
	chosen := func() (names []string) {
		for node, one := range w.chosen {
			if one.failed.IsZero() && watch[node] {
				names = append(names, node)
			}
		}
		slices.Sort(names)
		return names
	}
	var found []string
	now := time.Duration(0)
	for ; now < 20*time.Minute; now += time.Second {
		invited += len(w.invite(all, at(now)))
		for _, node := range chosen() {
			if !w.ask(node, at(now)) {
				t.Fatalf("%s is not to ask", node)
			}
		}
		if found = chosen(); len(found) == mostWatchers {
			break
		}
	}
	if len(found) != mostWatchers || !w.watched(at(now)) {
		t.Fatalf("found %v of 20 among 500 nodes, in %s", found, now)
	}
	if most := mostWatchers * int(now/time.Second+1); invited > most {
		t.Errorf("%d were asked in %s, want %d at most", invited, now, most)
	}
	if w.ask("a stranger", at(now)) {
		t.Error("somebody is to ask who was not chosen")
	}
	watch[found[0]] = false // it ends
	for end := now + time.Minute; now < end; now += time.Second {
		for _, node := range w.invite(all, at(now)) {
			if node == found[0] && now > end-time.Minute+asksWithin+inviteEvery {
				t.Errorf("%s is asked still", node)
			}
		}
		for _, node := range chosen() {
			w.ask(node, at(now))
		}
	}
	if w.watched(at(now + time.Minute)) {
		t.Error("watched, though nobody asks")
	}
}

// In a small cluster those that did not watch for a moment do again at once.
func TestWatchers_small(t *testing.T) {
	w, all := newWatchers("self"), setOf([]string{"a", "b"})
	w.invite(all, at(0))
	for node := range all {
		w.ask(node, at(time.Second))
	}
	now := 2 * time.Second
	for ; now < 20*time.Second; now += time.Second { // nothing passes
		w.invite(all, at(now))
	}
	if w.watched(at(now)) {
		t.Error("watched, though nobody asks")
	}
	for node := range all {
		if !w.ask(node, at(now)) {
			t.Errorf("%s asks again, and is not to", node)
		}
	}
	w.end("a", at(now))
	if w.active() != 1 {
		t.Errorf("%d are to watch, one of which said that it ends", w.active())
	}
	if got := w.invite(all, at(now+time.Second)); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("invited: %v", got)
	}
}

func TestNew(t *testing.T) {
	for _, bad := range []string{"7470", ":0", ":http", "127.0.0.1:70000"} {
		if _, err := New(Config{Listen: bad}); err == nil || !strings.Contains(err.Error(), bad) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}
