//go:build root

package e2e

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/e2e/lab"
)

// families returns the IP families of a dual-stack rack.
func families() []corev1.IPFamily {
	return []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}
}

// addressOf returns a client's address of the same family as another address.
func (r *rack) addressOf(t *testing.T, host string, like netip.Addr) netip.Addr {
	t.Helper()
	addresses, err := r.Lab.Addresses(host)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addresses {
		if a.Is4() == like.Is4() {
			return a
		}
	}
	t.Fatalf("%s has no address of the family of %s", host, like)
	return netip.Addr{}
}

func testL2Cluster(t *testing.T, r *rack) {
	svc := r.serve(t)
	var owners []string
	for _, family := range families() {
		address := r.address(t, svc, family)
		owners = append(owners, r.owner(t, address))
		for _, host := range []string{lab.Client, lab.Remote} {
			r.answers(t, host, address)
			r.reaches(t, host, address, r.Nodes()...)
		}
	}
	if owners[0] != owners[1] {
		t.Errorf("addresses of one Service are answered for by %v, want one node", owners)
	}
}

func testL2Local(t *testing.T, r *rack) {
	svc := r.serve(t, local)
	for _, family := range families() {
		address := r.address(t, svc, family)
		owner := r.owner(t, address)
		r.keepsClient(t, address, owner)
	}
	// Without a Pod of its own the owner must give the address up.
	address := r.address(t, svc, corev1.IPv4Protocol)
	owner := r.owner(t, address)
	r.turn(t, owner, false)
	next, err := r.AwaitAnswerer(t.Context(), patience, address, owner)
	if err != nil {
		t.Fatal(err)
	}
	r.keepsClient(t, address, next)
}

func testBGPCluster(t *testing.T, r *rack) {
	for _, svc := range r.routed(t) {
		address := soleAddress(svc)
		r.routes(t, address, r.Nodes()...)
		for _, host := range []string{lab.Client, lab.Remote} {
			r.answers(t, host, address)
			r.reaches(t, host, address, r.Nodes()...)
		}
		if hosts, err := r.Answerers(t.Context(), address); err != nil || len(hosts) > 0 {
			t.Errorf("%v answer ARP or NDP for %s, which is announced by BGP only (%v)", hosts, address, err)
		}
	}
}

func testBGPLocal(t *testing.T, r *rack) {
	services := r.routed(t, local)
	for _, svc := range services {
		address := soleAddress(svc)
		r.routes(t, address, r.Nodes()...)
		r.keepsClient(t, address, r.Nodes()...)
		// Flows are spread over the next hops, each served where it arrives.
		r.reaches(t, lab.Remote, address, r.Nodes()...)
	}
	r.turn(t, "n2", false)
	for _, svc := range services {
		address := soleAddress(svc)
		r.routes(t, address, "n1", "n3")
		r.keepsClient(t, address, "n1", "n3")
	}
	r.turn(t, "n2", true)
	for _, svc := range services {
		r.routes(t, soleAddress(svc), r.Nodes()...)
	}
}

// routed makes a Service of each family with an address of the pool that is announced by BGP.
func (r *rack) routed(t *testing.T, changes ...change) []*corev1.Service {
	t.Helper()
	return []*corev1.Service{
		r.serve(t, append(changes, only(corev1.IPv4Protocol), pinned("198.51.100.10"))...),
		r.serve(t, append(changes, only(corev1.IPv6Protocol), pinned("2001:db8:100::10"))...),
	}
}

// soleAddress returns the one address of a Service.
func soleAddress(svc *corev1.Service) netip.Addr {
	return netip.MustParseAddr(svc.Status.LoadBalancer.Ingress[0].IP)
}

// reaches sends requests until Pods on all the nodes have answered.
func (r *rack) reaches(t *testing.T, host string, address netip.Addr, nodes ...string) {
	t.Helper()
	var reached []string
	eventually(t, func(ctx context.Context) error {
		answer, err := r.AskHTTP(ctx, host, address)
		if err != nil {
			return err
		}
		if !slices.Contains(reached, answer.Node) {
			reached = append(reached, answer.Node)
			slices.Sort(reached)
		}
		if !slices.Equal(reached, nodes) {
			return fmt.Errorf("from %s, Pods on %v answered for %s, want %v", host, reached, address, nodes)
		}
		return nil
	})
}

// keepsClient sends requests from both clients, and checks that Pods on these nodes answer and see
// the client's own address.
func (r *rack) keepsClient(t *testing.T, address netip.Addr, nodes ...string) {
	t.Helper()
	for _, host := range []string{lab.Client, lab.Remote} {
		client := r.addressOf(t, host, address)
		for _, answer := range r.answers(t, host, address) {
			if got := answer.ClientAddress(); got != client {
				t.Errorf("the Pod saw %s, asked from %s (%s) for %s over %s", got, host, client, address, answer.Protocol)
			}
			if !slices.Contains(nodes, answer.Node) {
				t.Errorf("a Pod on %s answered for %s over %s, want one on %v", answer.Node, address, answer.Protocol, nodes)
			}
		}
	}
}

// turn makes the application's Pod on a node ready or not; it is ready again after the test.
func (r *rack) turn(t *testing.T, node string, ready bool) {
	t.Helper()
	pods, err := r.Kubernetes.CoreV1().Pods(
		r.web.Namespace,
	).List(
		t.Context(),
		metav1.ListOptions{LabelSelector: "app=" + r.web.Name, FieldSelector: "spec.nodeName=" + node},
	)
	if err != nil {
		t.Fatal(err)
	}
	if len(pods.Items) != 1 {
		t.Fatalf("%d Pods of %s on %s, want 1", len(pods.Items), r.web.Name, node)
	}
	post := func(path string) error {
		at := netip.AddrPortFrom(netip.MustParseAddr(pods.Items[0].Status.PodIP), 8080)
		response, err := r.HTTPClient(node).Post("http://"+at.String()+path, "", nil)
		if err != nil {
			return fmt.Errorf("turn the Pod on %s: %w", node, err)
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("turn the Pod on %s: %s", node, response.Status)
		}
		return nil
	}
	path := "/ready"
	if !ready {
		path = "/unready"
		t.Cleanup(func() {
			if err := post("/ready"); err != nil {
				t.Error(err)
			}
		})
	}
	if err := post(path); err != nil {
		t.Fatal(err)
	}
}
