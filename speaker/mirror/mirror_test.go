package mirror

import (
	"log/slog"
	"net/http"
	"net/netip"
	"path"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/rest"

	"github.com/berth-lb/berth/config/client"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/l2"
)

func TestDecide(t *testing.T) {
	ours := func(term uint64, witnessed bool) *entry {
		return &entry{claim: l2.Claim{Node: "n1", Term: term, Witnessed: witnessed}}
	}
	withdrawn := &entry{claim: l2.Claim{}}
	of := func(node string, term int64, witnessed bool) *v1alpha1.L2Owner {
		return &v1alpha1.L2Owner{Status: v1alpha1.L2OwnerStatus{NodeName: node, Term: term, Witnessed: witnessed}}
	}
	for _, c := range []struct {
		name  string
		have  *entry // nil: no claim
		found *v1alpha1.L2Owner
		want  action
	}{
		{
			name: "a claim that nobody mirrored",
			have: ours(1, true),
			want: write,
		},
		{
			name: "our object was deleted",
			have: ours(1, true),
			want: write,
		},
		{
			name:  "ours is there",
			have:  ours(1, true),
			found: of("n1", 1, true),
			want:  write,
		}, // if it differs
		{
			name:  "a new claim takes over from another node",
			have:  ours(2, true),
			found: of("n2", 1, true),
			want:  write,
		},
		{
			name:  "even one that is not witnessed, for layer 2 to settle",
			have:  ours(2, false),
			found: of("n2", 1, true),
			want:  write,
		},
		{
			name:  "another node claimed with a higher term",
			have:  ours(1, true),
			found: of("n2", 2, true),
			want:  leave,
		},
		{
			name:  "another node claimed with the same term",
			have:  ours(2, true),
			found: of("n2", 2, true),
			want:  leave,
		},
		{
			name:  "another node claimed later, unwitnessed: layer 2 claims above it",
			have:  ours(1, true),
			found: of("n2", 9, false),
			want:  leave,
		},
		{
			name:  "withdrawn, and still ours",
			have:  withdrawn,
			found: of("n1", 1, true),
			want:  remove,
		},
		{
			name:  "withdrawn, and another's by now",
			have:  withdrawn,
			found: of("n2", 2, true),
			want:  leave,
		},
		{
			name: "withdrawn, and gone",
			have: withdrawn,
			want: leave,
		},
		{
			name:  "left over from before a restart",
			found: of("n1", 1, true),
			want:  remove,
		},
		{
			name:  "another's",
			found: of("n2", 1, true),
			want:  leave,
		},
	} {
		have := entry{}
		if c.have != nil {
			have = *c.have
		}
		if got := decide("n1", have, c.have != nil, c.found); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}

// Of two interfaces on one segment, whose claims are for one L2Owner, the one that withdraws does
// not end the other's claim.
func TestClaims_latest_twoInterfaces(t *testing.T) {
	address := netip.MustParseAddr("192.0.2.1")
	claim := func(ifname, node string, term uint64) l2.Claim {
		return l2.Claim{Address: address, Segment: "192.0.2.0/24", Interface: ifname, Node: node, Term: term}
	}
	name := nameOf(address, "192.0.2.0/24")
	c := NewClaims()
	expect := func(when, ifname, node string) {
		t.Helper()
		have, ok := c.latest(name)
		if !ok || have.claim.Interface != ifname || have.claim.Node != node {
			t.Errorf("%s: %t, %+v; want %s of %q", when, ok, have.claim, ifname, node)
		}
	}
	c.Claimed(claim("eth1", "n1", 1))
	c.Claimed(claim("eth0", "n1", 2))
	c.Claimed(claim("eth1", "", 0))
	expect("eth1 withdraws", "eth0", "n1")
	c.Claimed(claim("eth0", "", 0))
	expect("eth0 withdraws too", "eth0", "")
	have, _ := c.latest(name)
	c.acted(name, have)
	if have, ok := c.latest(name); ok {
		t.Errorf("when that was written: %+v, want nothing", have.claim)
	}
	if len(c.names) > 0 {
		t.Errorf("names of %v are left", c.names)
	}
}

// A term that the admission policy would refuse is reached in steps.
func TestBounded(t *testing.T) {
	at := func(term int64) *v1alpha1.L2Owner {
		return &v1alpha1.L2Owner{Status: v1alpha1.L2OwnerStatus{Term: term}}
	}
	for _, c := range []struct {
		name  string
		term  int64
		found *v1alpha1.L2Owner
		want  int64
	}{
		{
			name: "a new object",
			term: 7,
			want: 7,
		},
		{
			name:  "the next term",
			term:  8,
			found: at(7),
			want:  8,
		},
		{
			name: "a new object, after somebody raised the term and deleted the old one",
			term: 3 * maxTermStep,
			want: maxTermStep,
		},
		{
			name:  "the second step",
			term:  3 * maxTermStep,
			found: at(maxTermStep),
			want:  2 * maxTermStep,
		},
	} {
		if got := bounded(c.term, c.found); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}

func TestNameOf(t *testing.T) {
	// Nodes of different versions must agree on these.
	for _, c := range []struct{ address, segment, want string }{
		{
			address: "192.0.2.10",
			segment: "172.30.0.0/24",
			want:    "192.0.2.10.172.30.0.0-24",
		},
		{
			address: "2001:db8::10",
			segment: "172.30.0.0/24",
			want:    "2001-0db8-0000-0000-0000-0000-0000-0010.172.30.0.0-24",
		},
		{
			address: "2001:db8::10",
			segment: "2001:db8::/64",
			want:    "2001-0db8-0000-0000-0000-0000-0000-0010.2001-0db8-0000-0000-0000-0000-0000-0000-64",
		},
		{
			address: "192.0.2.10",
			segment: "Storage_1",
			want:    "192.0.2.10.interface-6e78c8d141",
		},
	} {
		got := nameOf(netip.MustParseAddr(c.address), c.segment)
		if got != c.want {
			t.Errorf("%s on %s: %s, want %s", c.address, c.segment, got, c.want)
		}
		if wrong := validation.IsDNS1123Subdomain(got); len(wrong) > 0 {
			t.Errorf("%s: %v", got, wrong)
		}
	}
}

func TestMirror_object(t *testing.T) {
	claim := l2.Claim{
		Address: netip.MustParseAddr("192.0.2.1"), Segment: "172.30.0.0/24", Node: "n1", Term: 7, Witnessed: true,
		Interface: "eth0", MAC: []byte{2, 0, 0, 0, 0, 1}, Cause: l2.PeerSilent,
	}
	m := &Mirror{
		Claims: &Claims{
			shown: map[netip.Addr]readers{
				claim.Address: {services: []string{"d/web", "e/mail"}, announcements: []string{"l2", "too"}},
			},
		},
	}
	since := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	owner := m.object(nameOf(claim.Address, claim.Segment), entry{claim: claim, since: since})
	at := metav1.NewTime(since)
	want := v1alpha1.L2OwnerStatus{
		ServiceRefs:       []v1alpha1.ServiceReference{{Namespace: "d", Name: "web"}, {Namespace: "e", Name: "mail"}},
		AnnouncementNames: []string{"l2", "too"}, Address: "192.0.2.1",
		NodeName: "n1", Segment: "172.30.0.0/24", Interface: "eth0", MAC: "02:00:00:00:00:01", Term: 7, Witnessed: true,
		Reason: "PeerSilent", AcquireTime: &at, ObservedGeneration: 1,
		Conditions: []metav1.Condition{
			{
				Type:               "Ready",
				Status:             "True",
				Reason:             "Answering",
				Message:            "node n1 answers",
				ObservedGeneration: 1,
				LastTransitionTime: at,
			},
		},
	}
	if diff := cmp.Diff(want, owner.Status); diff != "" {
		t.Error(diff)
	}
	claim.Cause = "" // for readers only
	got, ok := claimOf(owner)
	if diff := cmp.Diff(claim, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" || !ok {
		t.Errorf("%t, %s", ok, diff)
	}
	// One object speaks for an address on a segment.
	owner.Name = nameOf(claim.Address, "172.30.1.0/24")
	if got, ok := claimOf(owner); ok {
		t.Errorf("an object of another name mirrors %+v", got)
	}
}

// told is a listener that remembers.
type told []l2.Claim

func (c *told) Mirrored(claim l2.Claim) { *c = append(*c, claim) }

// The claim of a dead node may have a higher term than anybody on the segment knows.
// What is kept of an L2Owner says the same claim, and is all of it if it names this node.
func TestMirror_keep(t *testing.T) {
	m := &Mirror{Config: Config{Node: "n1"}}
	for _, node := range []string{"n1", "n2"} {
		claim := l2.Claim{
			Address: netip.MustParseAddr(
				"2001:db8::1",
			), Segment: "2001:db8::/64", Interface: "eth0", Node: node, Term: 7,
			MAC: []byte{2, 0, 0, 0, 0, 1}, Witnessed: true, Tentative: true,
		}
		m.Claims = NewClaims()
		m.Show(claim.Address, []string{"d/web"}, []string{"all"})
		o := m.object(nameOf(claim.Address, claim.Segment), entry{claim: claim, since: time.Unix(1, 0)})
		o.UID, o.ResourceVersion, o.Generation, o.ManagedFields = "1", "9", 3, []metav1.ManagedFieldsEntry{{}}
		whole := o.DeepCopy()
		got := ownerOf(m.keep(o))
		if said, ok := claimOf(got); !ok ||
			!cmp.Equal(said, claim, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })) {
			t.Errorf("of %s: claim %+v", node, said)
		}
		whole.ManagedFields = nil
		if node != m.Node {
			whole = &v1alpha1.L2Owner{
				ObjectMeta: metav1.ObjectMeta{
					Name:            whole.Name,
					UID:             "1",
					ResourceVersion: "9",
					Generation:      3,
				}, Status: got.Status,
			}
		}
		if diff := cmp.Diff(whole, got); diff != "" {
			t.Errorf("of %s:\n%s", node, diff)
		}
	}
	if ownerOf("something else") != nil {
		t.Error("something else is an L2Owner")
	}
}

func TestMirror_reconcile_termOfDeadNode(t *testing.T) {
	berth, err := client.New(&rest.Config{Host: "http://127.0.0.1:1"}) // nothing is asked of it
	if err != nil {
		t.Fatal(err)
	}
	var said told
	m, err := New(Config{
		Berth: berth, Logger: slog.New(slog.DiscardHandler), Node: "n1", Claims: NewClaims(), To: &said,
		Ready: func(node string) bool { return node != "n2" },
	})
	if err != nil {
		t.Fatal(err)
	}
	claim := l2.Claim{Address: netip.MustParseAddr("192.0.2.1"), Segment: "192.0.2.0/24", Interface: "eth0"}
	owner := func(node string) {
		found := &v1alpha1.L2Owner{
			ObjectMeta: metav1.ObjectMeta{Name: nameOf(claim.Address, claim.Segment)},
			Status: v1alpha1.L2OwnerStatus{
				Address: claim.Address.String(), Segment: claim.Segment, NodeName: node, Term: 7,
			},
		}
		if err := m.informer.GetStore().Add(m.keep(found)); err != nil {
			t.Fatal(err)
		}
		ours := claim
		ours.Node, ours.Term = "n1", 1
		m.Claimed(ours)
		if err := m.reconcile(t.Context(), found.Name); err != nil {
			t.Fatal(err)
		}
	}
	owner("n3")
	if len(said) > 0 {
		t.Errorf("of a living node layer 2 heard again: %+v", said)
	}
	owner("n2")
	if len(said) != 1 || said[0].Node != "" || said[0].Term != 7 {
		t.Errorf("of a dead node layer 2 heard %+v, want the term 7 without a node", said)
	}
}

// removals remembers which objects are to be deleted, and finds none of any.
type removals chan string

func (r removals) RoundTrip(q *http.Request) (*http.Response, error) {
	if q.Method == http.MethodDelete {
		r <- path.Base(q.URL.Path)
	}
	return &http.Response{
		StatusCode: http.StatusNotFound, Body: http.NoBody, Header: http.Header{}, Request: q,
	}, nil
}

// However slowly a speaker starts, it removes no L2Owner of its node before layer 2 has said what
// it claims.
func TestMirror_orphan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		removed := make(removals, 9)
		berth, err := client.New(&rest.Config{Host: "http://api", Transport: removed})
		if err != nil {
			t.Fatal(err)
		}
		m, err := New(Config{
			Berth: berth, Logger: slog.New(slog.DiscardHandler), Node: "n1", Claims: NewClaims(), To: new(told),
			NodeUID: func(string) (types.UID, bool) { return "", false },
			Ready:   func(string) bool { return true },
		})
		if err != nil {
			t.Fatal(err)
		}
		claim := func(address string) l2.Claim {
			return l2.Claim{
				Address: netip.MustParseAddr(address), Segment: "192.0.2.0/24", Interface: "eth0", Node: "n1", Term: 1,
			}
		}
		for _, c := range []l2.Claim{claim("192.0.2.1"), claim("192.0.2.2")} {
			owner := m.object(nameOf(c.Address, c.Segment), entry{claim: c, since: time.Now()})
			if err := m.informer.GetStore().Add(m.keep(owner)); err != nil {
				t.Fatal(err)
			}
			m.saw(owner)
		}
		var working sync.WaitGroup
		working.Go(func() { m.work(t.Context()) })
		expect := func(when string, want ...string) {
			t.Helper()
			synctest.Wait()
			var got []string
			for len(removed) > 0 {
				got = append(got, <-removed)
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s: removed %v, want %v", when, got, want)
			}
		}
		<-time.After(10 * orphanAfter)
		expect("while layer 2 has said nothing")
		m.Claimed(claim("192.0.2.1"))
		m.Whole()
		<-time.After(orphanAfter - time.Second)
		m.Whole()
		expect("a moment after it said what it claims")
		<-time.After(time.Second)
		expect("later", nameOf(netip.MustParseAddr("192.0.2.2"), "192.0.2.0/24"))

		c := claim("192.0.2.1")
		c.Node, c.Cause = "", l2.HandedOver
		m.Claimed(c)
		<-time.After(handedOverAfter - time.Millisecond)
		expect("a moment after another node got it")
		<-time.After(2 * time.Millisecond)
		expect("which wrote no claim", nameOf(c.Address, c.Segment))
		m.Depart()
		m.Claimed(c)
		expect("while this node departs", nameOf(c.Address, c.Segment))
		m.queue.ShutDown()
		working.Wait()
	})
}
