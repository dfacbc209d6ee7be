package heart

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/berth-lb/berth/internal/keptfile"
	"github.com/berth-lb/berth/l2"
)

func address(text string) netip.Addr { return netip.MustParseAddr(text) }

// orders reads what a Remote says, as a heart does.
func ordersOf(t *testing.T, r *Remote) orders {
	t.Helper()
	got := newOrders()
	for o, more := r.next(); more; o, more = r.next() {
		text, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		if len(o.Desired) > perOrder || len(o.Mirrored) > perOrder {
			t.Errorf("an order has %d addresses and %d claims", len(o.Desired), len(o.Mirrored))
		}
		var read order
		if err := json.Unmarshal(text, &read); err != nil {
			t.Fatal(err)
		}
		if read.Identity != nil {
			got.Identity = *read.Identity
		}
		if read.State != nil {
			got.State = read.State.State
		}
		got.apply(&read)
	}
	return got
}

func wanted(r *Remote) orders {
	want := r.want
	want.Confirmed = 0
	return want
}

func TestEverythingIsSaidOnEachConnection(t *testing.T) {
	r := NewRemote(
		RemoteConfig{Identity: Identity{Node: "a", Cluster: "c", NodeAddresses: []netip.Addr{address("192.0.2.1")}}},
	)
	many := make([]string, 50)
	for i := range many {
		many[i] = string(rune('a'+i%26)) + "-node"
	}
	a := address("10.0.0.0")
	for i := range 3*perOrder + 1 {
		a = a.Next()
		d := l2.Desired{Announced: true, Interfaces: []string{""}, Candidates: many, Rank: a.String()}
		if i%2 == 0 {
			d.Preferred = map[string]int32{"a-node": int32(i % 4)}
		}
		r.Sync(a, d)
		r.Mirrored(l2.Claim{Address: a, Segment: "10.0.0.0/8", Node: "b", Term: 1, MAC: []byte{2, 0, 0, 0, 0, 1}})
	}
	r.SetKeys(l2.Keys{Sign: []byte("key"), Accept: [][]byte{[]byte("old")}})
	r.SetCapabilities(5)
	r.SetNodes(map[string][]netip.Addr{"a": {address("192.0.2.1")}, "b": nil})
	r.SetState(l2.Ready)
	r.Anticipate(map[netip.Addr]l2.Desired{address("10.9.9.9"): {Announced: true, Candidates: many}})
	for range 2 {
		r.connect()
		if diff := cmp.Diff(wanted(r), ordersOf(t, r), cmp.Exporter(func(reflect.Type) bool { return true })); diff != "" {
			t.Fatalf("the heart got other orders (-want +got):\n%s", diff)
		}
	}
	// What changes costs what it is.
	r.Sync(a, l2.Desired{Announced: true, Interfaces: []string{""}, Candidates: slices.Clone(many), Rank: a.String(),
		Preferred: maps.Clone(r.want.desired[a].Preferred)})
	r.Sync(address("10.9.9.9"), l2.Desired{})
	if o, more := r.next(); more {
		t.Errorf("order %+v after nothing changed", o)
	}
	r.Sync(a, l2.Desired{})
	o, more := r.next()
	if !more || len(o.Desired) != 1 || o.Desired[a].Announced || len(o.Terms) > 0 || o.Identity != nil || o.Complete {
		t.Errorf("order %+v after one address was withdrawn", o)
	}
	if o, more := r.next(); more {
		t.Errorf("order %+v after everything was said", o)
	}
}

func TestTermsAreShared(t *testing.T) {
	set := newTermSet()
	same := l2.Desired{Announced: true, Candidates: []string{"a", "b"}, Preferred: map[string]int32{"a": 1}}
	others := []l2.Desired{
		{Announced: true, Candidates: []string{"a"}, Preferred: map[string]int32{"a": 1}},
		{Announced: true, Candidates: []string{"a", "b"}, Preferred: map[string]int32{"a": 2}},
		{Announced: true, Candidates: []string{"a", "b"}, Interfaces: []string{"b"}},
		{Announced: true, Interfaces: []string{"a", "b"}},
		{Announced: true, Candidates: []string{"ab"}},
		{Announced: true, Candidates: []string{"a", "b"}, Needs: 1},
	}
	if x, y := set.wish(same), set.wish(same); x != y || len(set.all) != 1 {
		t.Errorf("wishes %+v and %+v of equal terms, of %d", x, y, len(set.all))
	}
	for i, d := range others {
		if got := set.wish(d).desired(set.all); !reflect.DeepEqual(got, d) || len(set.all) != i+2 {
			t.Errorf("got %+v back, want %+v", got, d)
		}
	}
}

func TestTheLedgerTellsTheLatest(t *testing.T) {
	l := newLedger()
	a, b := address("10.0.0.1"), address("10.0.0.2")
	l.answering(a, true)
	l.claimed(l2.Claim{Address: a, Segment: "s", Node: "n", Term: 1})
	if n := taken(l); !n.empty() {
		t.Errorf("news %+v without a speaker", n)
	}
	l.open()
	l.answering(b, true)
	n := taken(l)
	if !n.Whole || n.Answers[a] != 1 || n.Answers[b] != 1 || len(n.Claims) != 1 {
		t.Errorf("first news %+v", n)
	}
	l.answering(a, false)
	l.answering(a, true)
	l.claimed(l2.Claim{Address: a, Segment: "s"})
	for range mostUnread + 5 {
		l.seen(l2.Observation{Kind: l2.PeerUp, Err: os.ErrClosed}, nil)
	}
	n = taken(l)
	if n.Whole || len(n.Answers) != 1 || n.Answers[a] != 1 || len(n.Claims) != 1 || n.Claims[0].Node != "" ||
		len(n.Seen) != mostUnread {
		t.Errorf("news %+v", n)
	}
	if said := n.Seen[0]; said.Err != nil || said.Failure != os.ErrClosed.Error() {
		t.Errorf("observation %+v", said)
	}
	if n := taken(l); !n.empty() {
		t.Errorf("news %+v twice", n)
	}
}

// A heart that is gone answered for nothing; what the next one says is compared with that.
func TestARemoteFollowsWhatIsAnsweredFor(t *testing.T) {
	var calls []string
	r := NewRemote(RemoteConfig{
		Answers: func(a netip.Addr, on bool) {
			calls = append(calls, map[bool]string{true: "+", false: "-"}[on]+a.String())
		},
		Gained:  func(a netip.Addr) { calls = append(calls, "gained "+a.String()) },
		OnClaim: func(c l2.Claim) { calls = append(calls, "claim of "+c.Address.String()+" by "+c.Node) },
		Whole:   func() { calls = append(calls, "whole") },
	})
	a, b := address("10.0.0.1"), address("10.0.0.2")
	for _, step := range []struct {
		news news
		want []string
	}{
		{news{Told: []answer{{ID: 1}}}, nil},
		{news{Whole: true, Answers: map[netip.Addr]int{a: 1}, Claims: []l2.Claim{{Address: b, Segment: "s", Node: "n"}}},
			[]string{"+10.0.0.1", "claim of 10.0.0.2 by n", "whole"}},
		{news{Claims: []l2.Claim{{Address: b, Segment: "s"}}}, []string{"claim of 10.0.0.2 by "}},
		{news{Answers: map[netip.Addr]int{a: 2}}, []string{"+10.0.0.1", "gained 10.0.0.1"}},
		{news{Claims: []l2.Claim{{Address: a, Segment: "s", Node: "n"}}}, []string{"claim of 10.0.0.1 by n"}},
		{news{Whole: true, Answers: map[netip.Addr]int{a: 2}, Claims: []l2.Claim{{Address: a, Segment: "s", Node: "n"}}},
			[]string{"claim of 10.0.0.1 by n"}},
		{news{Answers: map[netip.Addr]int{a: 0}}, []string{"-10.0.0.1", "-10.0.0.1"}},
		{news{Answers: map[netip.Addr]int{b: 1}}, []string{"+10.0.0.2", "gained 10.0.0.2"}},
		{news{Whole: true}, []string{"-10.0.0.2", "claim of 10.0.0.1 by "}},
	} {
		calls = nil
		r.hear(step.news)
		if !reflect.DeepEqual(calls, step.want) {
			t.Errorf("called %q after %+v, want %q", calls, step.news, step.want)
		}
	}
	restarts := 0
	for len(r.Observed()) > 0 {
		if o := <-r.Observed(); o.Kind == l2.Restarted {
			restarts++
		}
	}
	if restarts != 2 {
		t.Errorf("%d other hearts were told of, want 2: the first is none", restarts)
	}
}

func TestAHeartThatIsAwayIsSaid(t *testing.T) {
	r := NewRemote(RemoteConfig{})
	r.away(&net.OpError{Op: "dial", Err: os.ErrNotExist})
	if s := r.Status(); s.Err == "" {
		t.Error("the status does not say that the heart is away")
	}
	if _, err := r.Gather(); err == nil {
		t.Error("there are metrics of a heart that is away")
	}
}

// FuzzRecall reads states as nobody wrote them: the heart begins all the same.
func FuzzRecall(f *testing.F) {
	written := filepath.Join(f.TempDir(), "state")
	err := keptfile.Write(written, keptVersion, kept{
		orders:  orders{Identity: Identity{Node: "a", Cluster: "c"}, State: l2.Ready, Confirmed: 1},
		Terms:   []terms{{Candidates: []string{"a"}}},
		Desired: map[netip.Addr]wish{address("10.0.0.1"): {Announced: true}},
	})
	if err != nil {
		f.Fatal(err)
	}
	good, err := os.ReadFile(written)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(bytes.Replace(good, []byte(`"Announced":true`), []byte(`"Announced":true,"Terms":-1`), 1))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, text []byte) {
		file := filepath.Join(t.TempDir(), "state")
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		h, err := New(Config{Logger: slog.New(slog.DiscardHandler), StateFile: file})
		if err != nil {
			t.Fatal(err)
		}
		h.recall()
		if bytes.Equal(text, good) && len(h.orders.desired) != 1 {
			t.Errorf("recalled %d addresses, want 1", len(h.orders.desired))
		}
	})
}

// taken returns what is to be told now.
func taken(l *ledger) news {
	n, _ := l.next()
	return n
}

// A connection begins with all that the heart claims, 10 000 addresses here.
func BenchmarkANewConnection(b *testing.B) {
	n := news{Whole: true}
	for a := address("10.0.0.0"); len(n.Claims) < 10_000; a = a.Next() {
		n.Claims = append(
			n.Claims,
			l2.Claim{Address: a, Segment: "10.0.0.0/8", Interface: "eth0", Node: "a", Term: 1},
		)
	}
	r := NewRemote(RemoteConfig{Identity: Identity{Node: "a", Cluster: "c"}})
	for b.Loop() {
		r.note(n)
	}
}

// Orders that say the same terms again leave one list in memory.
func TestOrdersShareTerms(t *testing.T) {
	said := func(candidates ...string) terms {
		return terms{Interfaces: []string{""}, Candidates: candidates, Preferred: map[string]int32{"a": 1}}
	}
	set := newTermSet()
	first, again, other := set.share(said("a", "b")), set.share(said("a", "b")), set.share(said("a"))
	if &first.Candidates[0] != &again.Candidates[0] {
		t.Error("equal terms are kept twice")
	}
	if len(other.Candidates) != 1 {
		t.Errorf("other terms became %v", other)
	}
	for i := range 3 * mostShared {
		set.share(said(strconv.Itoa(i)))
		if len(set.all) > mostShared {
			t.Fatalf("%d terms are kept", len(set.all))
		}
	}
	if got := set.share(said("a", "b")); !got.equal(first) {
		t.Errorf("after many others the terms are %v", got)
	}
}

// BenchmarkOrders is what it takes to put into orders that the candidates for 10 000 addresses are
// others, which share one list.
func BenchmarkOrders(b *testing.B) {
	for _, nodes := range []int{3, 50, 500} {
		b.Run(fmt.Sprint(nodes, "_nodes"), func(b *testing.B) {
			candidates := make([]string, nodes)
			for i := range candidates {
				candidates[i] = fmt.Sprintf("node-%03d.rack-1.example", i)
			}
			r := NewRemote(RemoteConfig{Logger: slog.New(slog.DiscardHandler)})
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				desired := l2.Desired{Announced: true, Candidates: candidates[:nodes-i%2]}
				address := netip.MustParseAddr("10.0.0.1")
				for range 10_000 {
					r.Sync(address, desired)
					address = address.Next()
				}
				for {
					o, _ := r.next()
					if len(o.Desired) == 0 {
						break
					}
				}
			}
		})
	}
}
