//go:build root

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/e2e/lab"
)

// asks waits until the address answers over HTTP.
func (r *rack) asks(t *testing.T, host string, address netip.Addr) {
	t.Helper()
	eventually(t, func(ctx context.Context) error {
		_, err := r.AskHTTP(ctx, host, address)
		return err
	})
}

// successor waits until a node other than the given one answers for both addresses of the Service,
// and both serve requests.
func (r *rack) successor(t *testing.T, svc *corev1.Service, not string) {
	t.Helper()
	for _, family := range families() {
		address := r.address(t, svc, family)
		if _, err := r.AwaitAnswerer(t.Context(), patience, address, not); err != nil {
			t.Fatal(err)
		}
		r.asks(t, lab.Client, address)
		r.asks(t, lab.Remote, address)
	}
}

// recovered waits until each address has one owner and both answer, as before the fault. It returns
// the owners: two nodes that claim at the same moment settle it address by address, so there may be
// two.
func (r *rack) recovered(t *testing.T, svc *corev1.Service) (owners []string) {
	t.Helper()
	r.settle(t)
	for _, family := range families() {
		address := r.address(t, svc, family)
		owners = append(owners, r.owner(t, address))
		r.answers(t, lab.Client, address)
		r.answers(t, lab.Remote, address)
	}
	return owners
}

// watched keeps sending requests to the Service, as a client does that keeps its neighbor cache.
// The returned function ends that, logs what the client saw, and checks that it is served again.
func (r *rack) watched(t *testing.T, svc *corev1.Service) (stop func()) {
	t.Helper()
	address := r.address(t, svc, corev1.IPv4Protocol)
	end := r.probe(t, lab.Client, address, 500*time.Millisecond, false)
	return func() {
		t.Helper()
		seen := end()
		t.Logf("a client that keeps its neighbor cache: %s", seen)
		if seen.asked == len(seen.failed)+len(seen.broken) {
			t.Errorf("no answer at all: %s", seen)
		}
	}
}

func testNodeCut(t *testing.T, r *rack) {
	svc, owner := r.away(t)
	routed := soleAddress(r.serve(t, only(corev1.IPv4Protocol), pinned("198.51.100.40")))
	r.routes(t, routed, r.Nodes()...)
	stop := r.watched(t, svc)
	t.Cleanup(func() {
		if err := r.Heal(owner); err != nil {
			t.Error(err)
		}
	})
	if err := r.Cut(owner); err != nil {
		t.Fatal(err)
	}
	r.successor(t, svc, owner)
	r.routes(t, routed, r.others(owner)...)
	if err := r.Heal(owner); err != nil {
		t.Fatal(err)
	}
	r.recovered(t, svc)
	stop()
	r.routes(t, routed, r.Nodes()...)
}

func testHeartFrozen(t *testing.T, r *rack) {
	svc, owner := r.away(t)
	stop := r.watched(t, svc)
	if err := r.Pause(t.Context(), "heart@"+owner); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// A second call is harmless.
		if err := r.Resume(context.WithoutCancel(t.Context()), "heart@"+owner); err != nil {
			t.Error(err)
		}
	})
	r.successor(t, svc, owner)
	stop()

	address := r.address(t, svc, corev1.IPv4Protocol)
	end := r.probe(t, lab.Client, address, probeTimeout, true)
	if err := r.Resume(t.Context(), "heart@"+owner); err != nil {
		t.Fatal(err)
	}
	r.recovered(t, svc)
	r.unfailed(t, "new connections after the heart woke", end())
}

func testAPIServerAway(t *testing.T, r *rack) {
	svc, owner := r.away(t)
	routed := soleAddress(r.serve(t, only(corev1.IPv4Protocol), pinned("198.51.100.50")))
	r.routes(t, routed, r.Nodes()...)
	if err := r.Pause(t.Context(), "kube-apiserver"); err != nil {
		t.Fatal(err)
	}
	resume := func() {
		t.Helper()
		if err := r.Resume(context.WithoutCancel(t.Context()), "kube-apiserver"); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(func() {
		if err := r.Heal(owner); err != nil {
			t.Error(err)
		}
		resume()
	})
	for _, host := range []string{lab.Client, lab.Remote} {
		r.answers(t, host, r.address(t, svc, corev1.IPv4Protocol))
		r.answers(t, host, routed)
	}
	if err := r.Cut(owner); err != nil {
		t.Fatal(err)
	}
	r.successor(t, svc, owner)
	r.routes(t, routed, r.others(owner)...)
	if err := r.Heal(owner); err != nil {
		t.Fatal(err)
	}
	r.routes(t, routed, r.Nodes()...)
	resume()
	r.recovered(t, svc)
}

// testSessionReset makes the router end all sessions, twice.
func testSessionReset(t *testing.T, r *rack) {
	svc := r.serve(t, only(corev1.IPv4Protocol), pinned("198.51.100.60"))
	r.routes(t, soleAddress(svc), r.Nodes()...)
	for range 2 {
		before := r.connections(t)
		if _, err := r.Vtysh(t.Context(), "clear bgp *"); err != nil {
			t.Fatal(err)
		}
		eventually(t, func(context.Context) error {
			for neighbor, n := range r.connections(t) {
				if n <= before[neighbor] {
					return fmt.Errorf("the session with %s was made %d times, %d before", neighbor, n, before[neighbor])
				}
			}
			return nil
		})
		r.routes(t, soleAddress(svc), r.Nodes()...)
	}
	eventually(t, func(ctx context.Context) error {
		events, err := r.Kubernetes.EventsV1().Events(
			"default",
		).List(
			ctx,
			metav1.ListOptions{FieldSelector: "reason=SessionDown"},
		)
		if err == nil &&
			!slices.ContainsFunc(
				events.Items,
				func(e eventsv1.Event) bool { return e.Regarding.Name == "tor" && e.Series != nil },
			) {
			err = fmt.Errorf("no event SessionDown of BGPNeighbor tor counts how often: %+v", events.Items)
		}
		return err
	})
}

// connections returns how many times the session with each node's IPv4 address was established, as
// the router counts it.
func (r *rack) connections(t *testing.T) map[string]int {
	t.Helper()
	text, err := r.Vtysh(t.Context(), "show bgp neighbors json")
	if err != nil {
		t.Fatal(err)
	}
	var neighbors map[string]struct{ ConnectionsEstablished int }
	if err := json.Unmarshal([]byte(text), &neighbors); err != nil {
		t.Fatalf("the router's neighbors: %v in %s", err, text)
	}
	made := map[string]int{}
	for name, n := range neighbors {
		if n.ConnectionsEstablished > 0 && !strings.Contains(name, ":") {
			made[name] = n.ConnectionsEstablished
		}
	}
	if len(made) != len(r.Nodes()) {
		t.Fatalf("the router has had sessions with %v, want %d neighbors", made, len(r.Nodes()))
	}
	return made
}
