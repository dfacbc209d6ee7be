package notice

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/berth-lb/berth/speaker/deadnodes"
)

var (
	oldKey = []byte("0123456789abcdef0123456789abcdef")
	newKey = []byte("fedcba9876543210fedcba9876543210")
)

func TestOpen(t *testing.T) {
	n := Notice{Kind: Silent, Node: "n1"}
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
		"a bit is another":      {append(n.Seal(newKey)[:7], n.Seal(newKey)[6:]...), keys, errKey},
		"no name":               {Notice{Kind: Silent}.Seal(newKey), keys, errFormat},
		"too long":              {Notice{Kind: Silent, Node: strings.Repeat("n", 254)}.Seal(newKey), keys, errFormat},
		"a name that is longer": {resealed(func(b []byte) []byte { return append(b, 'x') }), keys, errFormat},
		"a kind to come":        {resealed(func(b []byte) []byte { b[5] = 9; return b }), keys, errKind},
		"a version to come":     {resealed(func(b []byte) []byte { b[4] = 2; return b }), keys, errKind},
		"a hello":               {resealed(func(b []byte) []byte { copy(b, "bert"); return b }), keys, errFormat},
	} {
		if got, err := Open(c.b, c.keys); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, %v; want %v", what, got, err, c.want)
		}
	}
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
	silent, serves = nil, false
	now = begun.Add(time.Minute + forgetAfter + time.Second)
	step(2 * forgetAfter)
	if expect("it is gone", ""); len(l) > 0 {
		t.Errorf("%d nodes are remembered for ever", len(l))
	}
}

// A node that does not hear another learns by a notice of one that did that it is dead, and that it
// serves again, by real sockets.
func TestDriver(t *testing.T) {
	addresses := map[string][]netip.Addr{
		"witness": {netip.MustParseAddr("127.0.0.1")}, "far": {netip.MustParseAddr("127.0.0.2")},
		"victim": {netip.MustParseAddr("127.0.0.3")}, "other": {netip.MustParseAddr("127.0.0.4")},
	}
	// No kernel takes or refuses a connection at the broadcast address.
	dead := map[string][]netip.Addr{"victim": {netip.MustParseAddr("255.255.255.255")}}
	free, err := net.ListenPacket("udp", "127.0.0.9:0") //nolint:noctx // it does not wait
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(free.LocalAddr().String())
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	begin := func(node string) (*deadnodes.Detector, *Driver) {
		d := deadnodes.New(deadnodes.Config{
			Node: node, Ports: []uint16{1},
			Addresses: func(name string) []netip.Addr {
				if a := dead[name]; a != nil {
					return a
				}
				return addresses[name]
			},
		})
		driver, err := New(Config{
			Logger: slog.New(
				slog.DiscardHandler,
			), Node: node, Listen: net.JoinHostPort(addresses[node][0].String(), port),
			Nodes: func() map[string][]netip.Addr { return addresses }, Dead: d,
		})
		if err != nil {
			t.Fatal(err)
		}
		driver.SetKeys(Keys{Sign: newKey})
		ctx, cancel := context.WithCancel(t.Context())
		runs := make(chan error, 2)
		go func() { runs <- d.Run(ctx) }()
		go func() { runs <- driver.Run(ctx) }()
		t.Cleanup(func() {
			cancel()
			for range 2 {
				if err := <-runs; err != nil {
					t.Error(err)
				}
			}
		})
		return d, driver
	}
	witness, _ := begin("witness")
	far, _ := begin("far")
	_, stranger := begin("other")
	stranger.SetKeys(Keys{Sign: oldKey})
	becomes := func(what string, is func() bool) {
		t.Helper()
		late := time.After(10 * time.Second)
		for !is() {
			select {
			case <-far.Changed():
			case <-late:
				t.Fatalf("%s: never", what)
			}
		}
	}
	for _, node := range []string{"victim", "other"} {
		witness.Heard(node, "eth0")
	}
	witness.Silent("victim", "eth0", false)
	becomes(
		"the victim is dead for who never heard it",
		func() bool { return far.Dead()["victim"] && far.Lost()["victim"] },
	)
	if silences := far.Silences(); len(silences) > 0 {
		t.Errorf("it tells what it was told: %v", silences)
	}
}

func TestNew(t *testing.T) {
	for _, bad := range []string{"7470", ":0", ":http", "127.0.0.1:70000"} {
		if _, err := New(Config{Listen: bad}); err == nil || !strings.Contains(err.Error(), bad) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}
