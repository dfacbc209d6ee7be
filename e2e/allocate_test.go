//go:build root

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/e2e/lab"
)

func testAllocate(t *testing.T, r *rack) {
	for _, c := range []struct {
		name     string
		change   change
		families []corev1.IPFamily
	}{
		{
			name:     "IPv4",
			change:   only(corev1.IPv4Protocol),
			families: []corev1.IPFamily{corev1.IPv4Protocol},
		},
		{
			name:     "IPv6",
			change:   only(corev1.IPv6Protocol),
			families: []corev1.IPFamily{corev1.IPv6Protocol},
		},
		{
			name:     "dual-stack",
			change:   func(*corev1.Service) {},
			families: []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			svc := r.serve(t, c.change)
			if got := len(svc.Status.LoadBalancer.Ingress); got != len(c.families) {
				t.Errorf("%d addresses, want %d: %v", got, len(c.families), svc.Status.LoadBalancer.Ingress)
			}
			for _, ingress := range svc.Status.LoadBalancer.Ingress {
				if ingress.IPMode == nil || *ingress.IPMode != corev1.LoadBalancerIPModeVIP {
					t.Errorf("%s has ipMode %v, want VIP", ingress.IP, ingress.IPMode)
				}
			}
			r.awaitCondition(t, svc, v1alpha1.ServiceAllocated, metav1.ConditionTrue, "Allocated")
			r.announced(t, svc)
			for _, reason := range []string{"Allocated", "Announced", "Owner"} {
				r.awaitEvent(t, svc, reason)
			}
			for _, family := range c.families {
				r.answers(t, lab.Client, r.address(t, svc, family))
			}
		})
	}
}

func testPin(t *testing.T, r *rack) {
	for _, c := range []struct {
		name    string
		changes []change
		want    string
	}{
		{
			name:    "IPv4",
			changes: []change{only(corev1.IPv4Protocol), pinned("172.30.0.241")},
			want:    "172.30.0.241",
		},
		{
			name:    "IPv6",
			changes: []change{only(corev1.IPv6Protocol), pinned("fd00:30::2f1")},
			want:    "fd00:30::2f1",
		},
		{
			name:    "dual-stack, the other family being given",
			changes: []change{pinned("172.30.0.242")},
			want:    "172.30.0.242",
		},
		{
			name:    "from a pool that gives on request only",
			changes: []change{only(corev1.IPv4Protocol), pinned("198.51.100.7")},
			want:    "198.51.100.7",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			svc := r.serve(t, c.changes...)
			if got := svc.Status.LoadBalancer.Ingress[0].IP; got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
			if got := len(svc.Status.LoadBalancer.Ingress); got != len(svc.Spec.IPFamilies) {
				t.Errorf("%d addresses for families %v", got, svc.Spec.IPFamilies)
			}
		})
	}
	t.Run("outside every pool none is given", func(t *testing.T) {
		svc := r.ask(t, only(corev1.IPv4Protocol), pinned("192.0.2.1"))
		svc, message := r.awaitCondition(t, svc, v1alpha1.ServiceAllocated, metav1.ConditionFalse, "AddressOutsidePools")
		if len(svc.Status.LoadBalancer.Ingress) != 0 {
			t.Errorf("has %v, want nothing", svc.Status.LoadBalancer.Ingress)
		}
		if !strings.Contains(message, "192.0.2.1 is in no LoadBalancerPool") {
			t.Errorf("message %q does not name the address", message)
		}
		r.awaitEvent(t, svc, "AddressOutsidePools")
	})
	t.Run("of a family the Service does not have none is given", func(t *testing.T) {
		svc := r.ask(t, only(corev1.IPv6Protocol), pinned("172.30.0.243"))
		svc, _ = r.awaitCondition(t, svc, v1alpha1.ServiceAllocated, metav1.ConditionFalse, "FamilyMismatch")
		if len(svc.Status.LoadBalancer.Ingress) != 0 {
			t.Errorf("has %v, want nothing", svc.Status.LoadBalancer.Ingress)
		}
	})
}

func testPinTaken(t *testing.T, r *rack) {
	const wanted = "172.30.0.244"
	first := r.serve(t, pinned(wanted))
	second := r.ask(t, pinned(wanted))
	refused, message := r.awaitCondition(t, second, v1alpha1.ServiceAllocated, metav1.ConditionFalse, "AddressInUse")
	if len(refused.Status.LoadBalancer.Ingress) != 0 {
		t.Errorf("has %v, want nothing", refused.Status.LoadBalancer.Ingress)
	}
	if !strings.Contains(message, first.Namespace+"/"+first.Name) {
		t.Errorf("message %q does not name %s, which holds the address", message, first.Name)
	}
	r.awaitEvent(t, second, "AddressInUse")

	r.remove(t, first)
	given, _ := r.awaitCondition(t, second, v1alpha1.ServiceAllocated, metav1.ConditionTrue, "Allocated")
	if got := given.Status.LoadBalancer.Ingress[0].IP; got != wanted {
		t.Errorf("got %s, want %s", got, wanted)
	}
	r.answers(t, lab.Client, r.address(t, given, corev1.IPv4Protocol))
}

func testFree(t *testing.T, r *rack) {
	for _, c := range []struct {
		name string
		end  func(*testing.T, *corev1.Service)
	}{
		{"deleted", func(t *testing.T, svc *corev1.Service) { r.remove(t, svc) }},
		{"made a ClusterIP", func(t *testing.T, svc *corev1.Service) {
			patch := []byte(`{"spec":{"type":"ClusterIP","loadBalancerIP":null,"externalTrafficPolicy":null}}`)
			if _, err := r.Kubernetes.CoreV1().Services(svc.Namespace).Patch(
				t.Context(), svc.Name, types.MergePatchType, patch, metav1.PatchOptions{},
			); err != nil {
				t.Fatal(err)
			}
			eventually(t, func(ctx context.Context) error {
				now, err := r.Kubernetes.CoreV1().Services(svc.Namespace).Get(ctx, svc.Name, metav1.GetOptions{})
				if err == nil && (len(now.Status.Conditions) > 0 || len(now.Status.LoadBalancer.Ingress) > 0) {
					err = fmt.Errorf("status is not cleared: %+v", now.Status)
				}
				return err
			})
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			svc := r.serve(t, pinned("172.30.0.245"))
			address := r.address(t, svc, corev1.IPv4Protocol)
			r.owner(t, address)
			c.end(t, svc)
			eventually(t, func(ctx context.Context) error {
				hosts, err := r.Answerers(ctx, address)
				if err == nil && len(hosts) > 0 {
					err = fmt.Errorf("%v still answer for %s", hosts, address)
				}
				return err
			})
			next := r.serve(t, pinned("172.30.0.245"))
			r.answers(t, lab.Client, r.address(t, next, corev1.IPv4Protocol))
		})
	}
}

func testNoAnnouncement(t *testing.T, r *rack) {
	objects := `
apiVersion: berth.dev/v1alpha1
kind: LoadBalancerPool
metadata: {name: silent}
spec: {allocation: OnRequest, addresses: [172.30.0.190], scopes: [{namespaceSelector: {}, serviceSelector: {}}]}
`
	r.apply(t, objects)
	svc := r.serve(t, only(corev1.IPv4Protocol), pinned("172.30.0.190"))
	_, message := r.awaitCondition(t, svc, v1alpha1.ServiceAnnounced, metav1.ConditionFalse, "NoAnnouncement")
	if !strings.Contains(message, "LoadBalancerPool silent") {
		t.Errorf("message %q does not name the pool", message)
	}
	r.awaitEvent(t, svc, "NoAnnouncement")
	address := r.address(t, svc, corev1.IPv4Protocol)
	if hosts, err := r.Answerers(t.Context(), address); err != nil || len(hosts) > 0 {
		t.Errorf("%v answer for an address that is not announced (%v)", hosts, err)
	}

	r.apply(t, `
apiVersion: berth.dev/v1alpha1
kind: SegmentAnnouncement
metadata: {name: silent}
spec: {poolNames: [silent], nodeSelector: {}, serviceSelector: {}}
`)
	r.announced(t, svc)
	r.answers(t, lab.Client, address)
}

// apply applies objects, and deletes them when the test ends.
func (r *rack) apply(t *testing.T, yaml string) {
	t.Helper()
	t.Cleanup(func() {
		if _, err := r.Kubectl(
			context.WithoutCancel(t.Context()), yaml, "delete", "--ignore-not-found", "-f", "-",
		); err != nil {
			t.Error(err)
		}
	})
	if err := r.Apply(t.Context(), yaml); err != nil {
		t.Fatal(err)
	}
}
