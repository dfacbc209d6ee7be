package mirror

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/l2"
)

func TestDecide(t *testing.T) {
	ours := func(term uint64, witnessed bool) *entry {
		return &entry{claim: l2.Claim{Group: "d/web l2", Node: "n1", Term: term, Witnessed: witnessed}}
	}
	withdrawn := &entry{claim: l2.Claim{Group: "d/web l2"}}
	of := func(node string, term int64, witnessed bool) *v1alpha1.L2Owner {
		return &v1alpha1.L2Owner{Status: v1alpha1.L2OwnerStatus{NodeName: node, Term: term, Witnessed: witnessed,
			ServiceRefs: []v1alpha1.ServiceReference{{Namespace: "d", Name: "web"}}, AnnouncementNames: []string{"l2"}}}
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

func TestKeyOf(t *testing.T) {
	names := map[string]bool{}
	for _, c := range [][2]string{
		{"d/web l2", "172.30.0.0/24"},
		{"d/web l2", "10.0.0.0/24"},
		{"d/web l2,too", "172.30.0.0/24"},
		{"d/db l2", "172.30.0.0/24"},
		{"e/web l2", "172.30.0.0/24"},
	} {
		names[keyOf(c[0], c[1])] = true
	}
	if len(names) != 5 {
		t.Errorf("names %v, want five", names)
	}
	// Nodes of different versions must agree on it.
	if got, want := keyOf("d/web l2", "172.30.0.0/24"), "d/web-1c8ed16c26"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestMirror_object(t *testing.T) {
	claim := l2.Claim{
		Group: "d/web l2,too", Segment: "172.30.0.0/24", Node: "n1", Term: 7, Witnessed: true,
		Interface: "eth0", MAC: []byte{2, 0, 0, 0, 0, 1}, Cause: l2.PeerSilent,
	}
	m := &Mirror{
		Claims: &Claims{
			shown: map[string]members{
				claim.Group: {[]string{"d/web", "e/mail"}, []netip.Addr{netip.MustParseAddr("192.0.2.1")}},
			},
		},
	}
	since := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	owner := m.object("d/web-1", entry{claim: claim, since: since})
	at := metav1.NewTime(since)
	want := v1alpha1.L2OwnerStatus{
		ServiceRefs:       []v1alpha1.ServiceReference{{Namespace: "d", Name: "web"}, {Namespace: "e", Name: "mail"}},
		AnnouncementNames: []string{"l2", "too"}, Addresses: []string{"192.0.2.1"},
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
	if diff := cmp.Diff(claim, claimOf(owner)); diff != "" {
		t.Error(diff)
	}
}
