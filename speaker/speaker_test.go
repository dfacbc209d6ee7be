package speaker

import (
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"github.com/berth-lb/berth/config/v1alpha1"
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
