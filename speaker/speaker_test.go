package speaker

import (
	"cmp"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berth-lb/berth/bgp"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/l2"
)

func TestAskedRouterID(t *testing.T) {
	own, hash := netip.MustParseAddr("192.0.2.11"), routerID("n1", addrs("2001:db8::11"))
	if id := routerID("n1", addrs("2001:db8::11", "192.0.2.11")); id != own {
		t.Errorf("%s, want the IPv4 address %s", id, own)
	}
	if !hash.Is4() || hash.IsUnspecified() || hash != routerID("n1", addrs("2001:db8::12")) ||
		hash == routerID("n2", addrs("2001:db8::11")) {
		t.Errorf("%s is not a number of the node's own", hash)
	}
	for text, want := range map[string]netip.Addr{
		"198.51.100.1": netip.MustParseAddr("198.51.100.1"),
		"0.0.0.0":      own,
		"2001:db8::1":  own,
		"7":            own,
		"":             own,
	} {
		speaker := &v1alpha1.Speaker{
			ObjectMeta: named("n1"),
			Spec:       v1alpha1.SpeakerSpec{BGP: v1alpha1.SpeakerBGP{RouterID: text}},
		}
		id, complaint := askedRouterID(speaker, own)
		if id != want {
			t.Errorf("%q: %s, want %s", text, id, want)
		}
		expected := "Speaker n1: spec.bgp.routerID: " + strconv.Quote(text) + " is not a BGP router ID"
		if bad := want == own && text != ""; bad != strings.HasPrefix(complaint, expected) || !bad && complaint != "" {
			t.Errorf("%q: complaint %q", text, complaint)
		}
	}
	if id, complaint := askedRouterID(&v1alpha1.Speaker{}, own); id != own || complaint != "" {
		t.Errorf("without a word of it: %s, %q", id, complaint)
	}
}

// A speaker is ready when it carries what the process before carried, and at the latest after a
// while.
func TestSpeaker_settle(t *testing.T) {
	up := func(name string) bgp.PeerStatus { return bgp.PeerStatus{Name: name, State: "established"} }
	down := bgp.PeerStatus{Name: "tor"}
	claiming, listening := []l2.Segment{{Up: true, Claiming: true}}, []l2.Segment{{Interface: "eth0", Up: true}}
	failing := l2.Segment{Interface: "eth1", Err: "open: operation not permitted"}
	unwanted := failing
	failing.Wanted = 1
	for _, c := range []struct {
		name     string
		segments []l2.Segment
		peers    []bgp.PeerStatus
		former   []string
		state    v1alpha1.SpeakerState
		want     time.Duration
	}{
		{name: "all is there", segments: claiming, peers: []bgp.PeerStatus{up("tor")}, former: []string{"tor"}},
		{name: "a session that there was not", segments: claiming, peers: []bgp.PeerStatus{down}, want: settleAtMost},
		{
			name: "a session that there was", segments: claiming, peers: []bgp.PeerStatus{down}, former: []string{"tor"},
			want: resumeAtMost,
		},
		{
			name: "a neighbor that is gone", segments: claiming, peers: []bgp.PeerStatus{down}, former: []string{"gone"},
			want: settleAtMost,
		},
		{name: "a segment", segments: listening, peers: []bgp.PeerStatus{up("tor")}, want: resumeAtMost},
		{name: "a link that is down", segments: append(claiming, l2.Segment{Wanted: 1}), peers: []bgp.PeerStatus{up("tor")}},
		{
			name: "a segment that fails", segments: append(claiming, failing), peers: []bgp.PeerStatus{up("tor")},
			want: resumeAtMost,
		},
		{
			name: "a segment that fails, and nothing is wanted there", segments: append(claiming, unwanted),
			peers: []bgp.PeerStatus{up("tor")},
		},
		{
			name: "a segment, and the node leaves", segments: listening, peers: []bgp.PeerStatus{up("tor")},
			state: v1alpha1.SpeakerLeaving, want: settleAtMost,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := idleNode(t)
			n.ordered.Store(1)
			n.l2.status.Segments, n.bgp.status.Peers = c.segments, c.peers
			n.reporter.setState(cmp.Or(c.state, v1alpha1.SpeakerAnnouncing), "")
			former := map[string]bool{}
			for _, name := range c.former {
				former[name] = true
			}
			synctest.Test(t, func(t *testing.T) {
				s, begun := &Speaker{Options: n.Options}, time.Now()
				s.settle(t.Context(), n.planner, former)
				if took := time.Since(begun); !s.Ready() || took != c.want {
					t.Errorf("ready %t after %s, want it after %s", s.Ready(), took, c.want)
				}
			})
		})
	}
}
