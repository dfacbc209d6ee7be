//go:build release

package release

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// TestJumboFrames has 600 Services on a segment whose hosts and ports have long frames, and then
// different ones. Claims of 200 addresses fit into no frame of 1500 bytes.
func TestJumboFrames(t *testing.T) {
	f := raiseField(t, fieldOptions{
		name:  "reljumbo",
		pool:  []addressRange{{"172.30.0.101", 150}, {"172.30.0.50", 50}, {"fd00:30::1:0", 400}},
		every: time.Second,
	})
	// Other hosts keep 1500, as TCP between them and the nodes otherwise sends what a port drops.
	const normal, jumbo = 1500, 9000
	f.mtus(t, map[string][2]int{"n1": {jumbo, jumbo}, "n2": {jumbo, jumbo}, "n3": {jumbo, jumbo}})
	f.serve(t, corev1.IPv4Protocol, 200)
	f.serve(t, corev1.IPv6Protocol, 400)
	f.settled(t, time.Now())
	t.Run("MTU 9000", f.testMoves)
	// n1's port is as it was, n2's port passes less than n2 may send, n3 sends and gets less.
	f.mtus(t, map[string][2]int{"n2": {jumbo, normal}, "n3": {normal, normal}})
	t.Run("mixed MTUs", f.testMoves)
	f.noConflicts(t)
}

func (f *field) mtus(t *testing.T, mtus map[string][2]int) {
	t.Helper()
	for host, mtu := range mtus {
		if err := f.SetMTU(host, mtu[0], mtu[1]); err != nil {
			t.Fatal(err)
		}
	}
}

// testMoves makes all addresses move: by a rolling restart of the speakers, and by the cut of the
// node that answers for most.
func (f *field) testMoves(t *testing.T) {
	given, err := f.given(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	must(t, f.restart)
	restarted := time.Now()
	f.answeredAt(t, given, "after a rolling restart", restarted, 3*time.Second)
	node := most(f.settled(t, restarted))
	f.overlaps(t, "a rolling restart", begun, time.Now())

	cut := time.Now()
	end := f.strike(t, cable(), node)
	f.answeredAt(t, given, "after a cut of "+node, cut, 3*time.Second)
	f.settled(t, time.Now())
	end()
	f.whole(t)
	f.settled(t, time.Now())
	f.overlaps(t, "a cut of "+node+", and its end", cut, time.Now())
	f.unrejected(t)
}

// most returns the node that answers for the most addresses.
func most(owners map[netip.Addr]string) string {
	count, node := map[string]int{}, ""
	for _, owner := range owners {
		if count[owner]++; count[owner] > count[node] {
			node = owner
		}
	}
	return node
}

// answeredAt checks that a while after a moment each address is answered for by one node.
func (f *field) answeredAt(t *testing.T, given addresses, what string, since time.Time, after time.Duration) {
	t.Helper()
	lasts(t, time.Until(since.Add(after+2*f.every))) // until the last requests' time is over
	nobody, several := f.unanswered(given, since.Add(after))
	fmt.Printf("%s %s: %d addresses answered for by two nodes, %d by nobody\n", after, what, len(several), len(nobody))
	for _, address := range append(nobody, several...)[:min(5, len(nobody)+len(several))] {
		t.Errorf("%s %s, %s: %s", after, what, address, f.capture.Of(address).Since(since.Add(-2*f.every)))
	}
}

// unrejected checks that speakers understood whatever they heard of each other.
func (f *field) unrejected(t *testing.T) {
	t.Helper()
	for _, node := range f.Nodes() {
		text, err := f.metrics(t.Context(), node)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(text) {
			if regexp.MustCompile(`^berth_l2_hellos_rejected_total\{.*reason="(hmac|length|truncated)".*\} [1-9]`).
				MatchString(line) {
				t.Errorf("on %s: %s", node, line)
			}
		}
	}
}
