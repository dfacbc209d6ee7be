//go:build root

package api

import (
	"context"
	"fmt"
	"testing"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/e2e/stage"
)

const crowd = 300 // Services

// makeCrowd creates many Services at once and waits until all have addresses.
func makeCrowd(t *testing.T, ns string) {
	t.Helper()
	group, ctx := errgroup.WithContext(t.Context())
	group.SetLimit(16)
	no := false // the cluster has no more than 2 768 NodePorts
	for i := range crowd {
		group.Go(func() error {
			svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("crowd-%d", i)}, Spec: corev1.ServiceSpec{
				Type: corev1.ServiceTypeLoadBalancer, AllocateLoadBalancerNodePorts: &no, Ports: []corev1.ServicePort{{Port: 80}},
			}}
			_, err := scene.Kubernetes.CoreV1().Services(ns).Create(ctx, svc, metav1.CreateOptions{})
			return err
		})
	}
	must(t, group.Wait())
	must(t, stage.Eventually(t.Context(), 4*patience, func(ctx context.Context) error {
		list, err := scene.Kubernetes.CoreV1().Services(ns).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		owner := map[string]string{}
		for i := range list.Items {
			svc := &list.Items[i]
			addresses := stage.Addresses(svc)
			if len(addresses) != 1 {
				return fmt.Errorf("Service %s has addresses %v, want one", svc.Name, addresses)
			}
			a := addresses[0].String()
			if other := owner[a]; other != "" {
				t.Fatalf("Services %s and %s both have %s", other, svc.Name, a)
			}
			owner[a] = svc.Name
		}
		return nil
	}))
}

// removeAll deletes the Services of a namespace at once: kubectl takes one by one.
func removeAll(t *testing.T, ns string) {
	t.Helper()
	list, err := scene.Kubernetes.CoreV1().Services(ns).List(context.Background(), metav1.ListOptions{})
	must(t, err)
	group, ctx := errgroup.WithContext(context.Background())
	group.SetLimit(16)
	for i := range list.Items {
		group.Go(func() error {
			return scene.Kubernetes.CoreV1().Services(ns).Delete(ctx, list.Items[i].Name, metav1.DeleteOptions{})
		})
	}
	must(t, group.Wait())
}

// versions returns the resourceVersions of the Services of a namespace.
func versions(t *testing.T, ns string) map[string]string {
	t.Helper()
	list, err := scene.Kubernetes.CoreV1().Services(ns).List(t.Context(), metav1.ListOptions{})
	must(t, err)
	found := map[string]string{}
	for i := range list.Items {
		found[list.Items[i].Name] = list.Items[i].ResourceVersion
	}
	return found
}

// passMarkers creates so many Services, one after the other, and waits for the
// address of each: what was queued before is done then.
func passMarkers(t *testing.T, ns, name string, addresses ...string) {
	t.Helper()
	for i, address := range addresses {
		makeService(t, ns, fmt.Sprintf("%s-%d", name, i), pin(address))
		await(t, ns, fmt.Sprintf("%s-%d", name, i), "Allocated", address)
	}
}

// Many Services cost one write each, and nothing else is written.
func TestWritesOfManyServices(t *testing.T) {
	ns := namespace(t)
	t.Cleanup(func() { removeAll(t, ns) })
	first := start(t)
	apply(t, "LoadBalancerPool", "p", `{addresses: [198.18.0.0/22, 192.0.2.0/24], onRequestAddresses: [192.0.2.0/24]}`)
	passMarkers(t, ns, "pool", "192.0.2.1")
	begun := first.writes(t)
	makeCrowd(t, ns)
	if got := first.writes(t) - begun; got != crowd {
		t.Errorf("%v writes for %d Services, want one each", got, crowd)
	}

	before := versions(t, ns)
	remove(t, ns, "crowd-7")
	delete(before, "crowd-7")
	passMarkers(t, ns, "deleted", "192.0.2.2", "192.0.2.3")
	if got := first.writes(t) - begun; got != crowd+2 {
		t.Errorf("%v writes with a deletion, want %d: two more, for the new Services", got, crowd+2)
	}
	first.stop()

	second := start(t)
	passMarkers(t, ns, "restarted", "192.0.2.4", "192.0.2.5")
	if got := second.writes(t); got != 2 {
		t.Errorf("%v writes after a restart, want 2, for the new Services", got)
	}
	after := versions(t, ns)
	for name, version := range before {
		if after[name] != version {
			t.Errorf("Service %s was written, with nothing to say about it", name)
		}
	}
}
