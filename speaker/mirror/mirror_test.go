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

func TestWhatIsDoneAboutAnL2Owner(t *testing.T) {
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
		{"a claim that nobody mirrored", ours(1, true), nil, write},
		{"our object was deleted", ours(1, true), nil, write},
		{"ours is there", ours(1, true), of("n1", 1, true), write}, // if it differs
		{"a new claim takes over from another node", ours(2, true), of("n2", 1, true), write},
		{"even one that is not witnessed, for layer 2 to settle", ours(2, false), of("n2", 1, true), write},
		{"another node claimed with a higher term", ours(1, true), of("n2", 2, true), leave},
		{"another node claimed with the same term", ours(2, true), of("n2", 2, true), leave},
		{"another node claimed later, unwitnessed: layer 2 claims above it", ours(1, true), of("n2", 9, false), leave},
		{"withdrawn, and still ours", withdrawn, of("n1", 1, true), remove},
		{"withdrawn, and another's by now", withdrawn, of("n2", 2, true), leave},
		{"withdrawn, and gone", withdrawn, nil, leave},
		{"left over from before a restart", nil, of("n1", 1, true), remove},
		{"another's", nil, of("n2", 1, true), leave},
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

func TestTheNameOfAnL2OwnerIsOfItsGroupAndSegment(t *testing.T) {
	names := map[string]bool{}
	for _, c := range [][2]string{{"d/web l2", "172.30.0.0/24"}, {"d/web l2", "10.0.0.0/24"}, {"d/web l2,too", "172.30.0.0/24"}, {"d/db l2", "172.30.0.0/24"}, {"e/web l2", "172.30.0.0/24"}} {
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

func TestAnL2OwnerHoldsAClaimAndSaysWhatItIsAbout(t *testing.T) {
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
