//go:build root

package api

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/controller"
	"github.com/berth-lb/berth/e2e/stage"
)

const finalizer = "service.kubernetes.io/load-balancer-cleanup"

// startProvider runs a controller as cloud provider, with the rights that
// manifests/cloud-provider add. In the end it lets the Services of the namespace be
// deleted before it stops: without it their finalizers would stay.
func startProvider(t *testing.T, ns string) *running {
	t.Helper()
	grantProvider(t)
	r := startAs(t, leadAsProvider)
	deleteServices(t, ns)
	return r
}

// leadAsProvider leads as a cloud provider.
func leadAsProvider(c *controller.Controller, ctx context.Context) error {
	p, err := controller.NewProvider(c)
	if err != nil {
		return err
	}
	return p.Lead(ctx)
}

// grantProvider gives the controller the rights that manifests/cloud-provider add,
// until the end of the test.
func grantProvider(t *testing.T) {
	t.Helper()
	file, err := stage.Manifest()
	must(t, err)
	rights := filepath.Join(filepath.Dir(file), "cloud-provider", "rbac.yaml")
	_, err = scene.Kubectl(t.Context(), "", "apply", "-f", rights)
	must(t, err)
	t.Cleanup(func() {
		if _, err := scene.Kubectl(context.Background(), "", "delete", "--ignore-not-found", "-f", rights); err != nil {
			t.Error(err)
		}
	})
}

// deleteServices deletes the Services of the namespace at the end of the test, before
// what was started before this call is stopped.
func deleteServices(t *testing.T, ns string) {
	t.Helper()
	t.Cleanup(func() {
		_, err := scene.Kubectl(context.Background(), "", "delete", "services", "--all", "-n", ns, "--timeout=15s")
		if err == nil {
			return
		}
		t.Error(err)
		for _, svc := range services(t, ns) { // for the tests after this one
			_, _ = scene.Kubectl(
				context.Background(), "", "patch", "service", svc, "-n", ns, "--type=merge", "-p",
				`{"metadata":{"finalizers":null}}`,
			)
		}
	})
}

func services(t *testing.T, ns string) []string {
	t.Helper()
	list, err := scene.Kubernetes.CoreV1().Services(ns).List(context.Background(), metav1.ListOptions{})
	if err != nil {
		t.Error(err)
		return nil
	}
	var names []string
	for _, svc := range list.Items {
		names = append(names, svc.Name)
	}
	return names
}

// wait waits until the Service is as wanted.
func wait(t *testing.T, ns, name, wanted string, is func(*corev1.Service) bool) *corev1.Service {
	t.Helper()
	var svc *corev1.Service
	must(t, stage.Eventually(t.Context(), patience, func(context.Context) error {
		if svc = get(t, ns, name); !is(svc) {
			return fmt.Errorf("Service %s is not %s: %+v %+v", name, wanted, svc.ObjectMeta, svc.Status)
		}
		return nil
	}))
	return svc
}

// awaitOldEvent waits for an event of the service controller's about the Service.
func awaitOldEvent(t *testing.T, ns, reason, message string) {
	t.Helper()
	must(t, stage.Eventually(t.Context(), patience, func(ctx context.Context) error {
		list, err := scene.Kubernetes.CoreV1().Events(ns).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(list.Items, func(e corev1.Event) bool {
			return e.Source.Component == "service-controller" && e.Reason == reason && strings.Contains(e.Message, message)
		}) {
			return fmt.Errorf("no event %s with %q", reason, message)
		}
		return nil
	}))
}

// The provider gives addresses through Kubernetes' service controller.
func TestProviderAllocation(t *testing.T) {
	ns := namespace(t)
	startProvider(t, ns)
	makePool(t, "p", "192.0.2.1-192.0.2.9", "2001:db8::1-2001:db8::9")
	makeService(t, ns, "web", families(corev1.IPFamilyPolicyRequireDualStack, corev1.IPv6Protocol, corev1.IPv4Protocol))
	svc := await(t, ns, "web", "Allocated", "2001:db8::1", "192.0.2.1")
	if !slices.Equal(svc.Finalizers, []string{finalizer}) {
		t.Errorf("finalizers %v, want the service controller's", svc.Finalizers)
	}
	for _, i := range svc.Status.LoadBalancer.Ingress {
		if i.IPMode == nil || *i.IPMode != corev1.LoadBalancerIPModeVIP {
			t.Errorf("ingress %+v, want ipMode VIP", i)
		}
	}
	awaitOldEvent(t, ns, "EnsuredLoadBalancer", "Ensured load balancer")
	awaitEvent(t, ns, "web", "Allocated")
}

// A Service that requests another address is moved to it.
func TestProviderLoadBalancerIPChange(t *testing.T) {
	ns := namespace(t)
	startProvider(t, ns)
	makePool(t, "p", "192.0.2.1-192.0.2.9")
	makeService(t, ns, "web", nil)
	await(t, ns, "web", "Allocated", "192.0.2.1")
	patch(t, ns, "web", `{"spec":{"loadBalancerIP":"192.0.2.5"}}`)
	await(t, ns, "web", "Allocated", "192.0.2.5")
	makeService(t, ns, "next", nil)
	await(t, ns, "next", "Allocated", "192.0.2.2")
}

// A request that cannot be met is explained, and met as soon as possible.
func TestProviderExplainsAndWaits(t *testing.T) {
	ns := namespace(t)
	startProvider(t, ns)
	makePool(t, "p", "192.0.2.1/32")
	makeService(t, ns, "first", nil)
	await(t, ns, "first", "Allocated", "192.0.2.1")
	makeService(t, ns, "full", nil)
	await(t, ns, "full", "PoolExhausted")
	awaitOldEvent(t, ns, "SyncLoadBalancerFailed", "failed to ensure load balancer: PoolExhausted: no IPv4 address is free in LoadBalancerPool p; add some to its spec.addresses, or create another pool")
	remove(t, ns, "first") // and not before the service controller would try again by itself
	await(t, ns, "full", "Allocated", "192.0.2.1")

	makeService(t, ns, "pinned", pin("203.0.113.1"))
	await(t, ns, "pinned", "AddressOutsidePools")
	makePool(t, "q", "203.0.113.0/24")
	await(t, ns, "pinned", "Allocated", "203.0.113.1")

	// An address that the Service may not keep is taken out of its status.
	patch(t, ns, "pinned", `{"spec":{"loadBalancerIP":"192.0.2.1"}}`)
	await(t, ns, "pinned", "AddressInUse")
	awaitOldEvent(
		t, ns, "SyncLoadBalancerFailed",
		"AddressInUse: spec.loadBalancerIP: 192.0.2.1 is held by Service "+ns+"/full; ask for another here, or have that Service ask for another",
	)
}

// A Service that is deleted or changed to another type releases its address.
func TestProviderReleasesAddress(t *testing.T) {
	ns := namespace(t)
	startProvider(t, ns)
	makePool(t, "p", "192.0.2.1/32")
	makeService(t, ns, "first", nil)
	await(t, ns, "first", "Allocated", "192.0.2.1")
	remove(t, ns, "first")
	makeService(t, ns, "second", nil)
	await(t, ns, "second", "Allocated", "192.0.2.1")
	patch(t, ns, "second", `{"spec":{"type":"ClusterIP"}}`)
	wait(t, ns, "second", "clean", func(s *corev1.Service) bool {
		return len(s.Status.LoadBalancer.Ingress) == 0 && len(s.Status.Conditions) == 0 && len(s.Finalizers) == 0
	})
	makeService(t, ns, "third", nil)
	await(t, ns, "third", "Allocated", "192.0.2.1")
}

// A status that was changed by another writer is restored.
func TestProviderRestoresStatus(t *testing.T) {
	ns := namespace(t)
	startProvider(t, ns)
	makePool(t, "p", "192.0.2.1-192.0.2.9")
	makeService(t, ns, "web", nil)
	await(t, ns, "web", "Allocated", "192.0.2.1")
	for _, status := range []string{`{"status":{"loadBalancer":null}}`, `{"status":{"loadBalancer":{"ingress":[{"ip":"203.0.113.9"}]}}}`} {
		patch(t, ns, "web", status, "status")
		await(t, ns, "web", "Allocated", "192.0.2.1")
	}
}

// A Service keeps its address when nodes change, and its condition says whether it is announced.
func TestProviderNodeChanges(t *testing.T) {
	ns := namespace(t)
	startProvider(t, ns)
	makePool(t, "p", "192.0.2.1-192.0.2.9")
	makeService(t, ns, "web", nil)
	await(t, ns, "web", "Allocated", "192.0.2.1")
	must(t, scene.Apply(t.Context(), object("SegmentAnnouncement", "l2", `{}`)))
	silenced(t)
	speaks(t, eth0)
	announcement := func(reason string) {
		t.Helper()
		svc := wait(t, ns, "web", reason, func(s *corev1.Service) bool {
			c := meta.FindStatusCondition(s.Status.Conditions, v1alpha1.ServiceAnnounced)
			return c != nil && c.Reason == reason
		})
		if in := svc.Status.LoadBalancer.Ingress; len(in) != 1 || in[0].IP != "192.0.2.1" {
			t.Errorf("addresses %+v when %s", in, reason)
		}
	}
	announcement("Announced")
	_, err := scene.Kubectl(t.Context(), "", "label", "node", "n1", v1alpha1.ExcludeLabel+"=")
	must(t, err)
	t.Cleanup(func() {
		_, _ = scene.Kubectl(context.Background(), "", "label", "node", "n1", v1alpha1.ExcludeLabel+"-")
	})
	announcement("NoCandidate")
	_, err = scene.Kubectl(t.Context(), "", "label", "node", "n1", v1alpha1.ExcludeLabel+"-")
	must(t, err)
	announcement("Announced")
	list, err := scene.Kubernetes.CoreV1().Events(ns).List(t.Context(), metav1.ListOptions{})
	must(t, err)
	for _, e := range list.Items {
		if strings.HasPrefix(e.Reason, "UpdateLoadBalancer") || e.Reason == "UpdatedLoadBalancer" {
			t.Errorf("event %s: %s", e.Reason, e.Message)
		}
	}
}

// A restart of the provider keeps every address and writes nothing.
func TestProviderRestartKeepsAddresses(t *testing.T) {
	ns := namespace(t)
	first := startProvider(t, ns)
	makePool(t, "p", "192.0.2.1-192.0.2.9")
	want := map[string]string{"a": "192.0.2.3", "b": "192.0.2.1", "c": "192.0.2.2"}
	versions := map[string]string{}
	makeService(t, ns, "a", pin("192.0.2.3"))
	for _, name := range []string{"b", "c"} {
		makeService(t, ns, name, nil)
		await(t, ns, name, "Allocated", want[name])
	}
	for name, address := range want {
		versions[name] = await(t, ns, name, "Allocated", address).ResourceVersion
	}
	patch(t, ns, "a", `{"spec":{"loadBalancerIP":""}}`)
	versions["a"] = await(t, ns, "a", "Allocated", "192.0.2.3").ResourceVersion
	first.stop()
	// What happens while nobody is there is made up for; the rest stays.
	must(t, scene.Kubernetes.CoreV1().Services(ns).Delete(t.Context(), "b", metav1.DeleteOptions{}))
	makeService(t, ns, "late", pin("192.0.2.4"))
	second := startProvider(t, ns)
	await(t, ns, "late", "Allocated", "192.0.2.4")
	must(t, stage.Eventually(t.Context(), patience, func(ctx context.Context) error {
		if _, err := scene.Kubernetes.CoreV1().Services(ns).Get(ctx, "b", metav1.GetOptions{}); err == nil {
			return errors.New("Service b is still there")
		}
		return nil
	}))
	for _, name := range []string{"a", "c"} {
		if svc := await(t, ns, name, "Allocated", want[name]); svc.ResourceVersion != versions[name] {
			t.Errorf("Service %s was written: %+v", name, svc.ManagedFields)
		}
	}
	if n := second.writes(t); n != 1 {
		t.Errorf("%v writes of conditions after the restart, want that of the new Service", n)
	}
}

// Provider and reconciler take over from each other, and never lead both.
func TestProviderAndReconcilerTakeTurns(t *testing.T) {
	ns := namespace(t)
	reconciler := start(t)
	makePool(t, "p", "192.0.2.1-192.0.2.9")
	makeService(t, ns, "web", nil)
	await(t, ns, "web", "Allocated", "192.0.2.1")
	class := "berth.dev/lb"
	makeService(t, ns, "class", func(s *corev1.ServiceSpec) { s.LoadBalancerClass = &class })
	classed := await(t, ns, "class", "Allocated", "192.0.2.2").ResourceVersion
	reconciler.stop()

	provider := startProvider(t, ns)
	wait(
		t,
		ns,
		"web",
		"the service controller's",
		func(s *corev1.Service) bool { return slices.Contains(s.Finalizers, finalizer) },
	)
	await(t, ns, "web", "Allocated", "192.0.2.1")
	makeService(t, ns, "next", nil)
	await(t, ns, "next", "Allocated", "192.0.2.3")
	if svc := await(t, ns, "class", "Allocated", "192.0.2.2"); svc.ResourceVersion != classed {
		t.Errorf("a Service of a class was written: %+v", svc.ManagedFields)
	}
	provider.stop()

	again := start(t)
	makeService(t, ns, "last", nil)
	await(t, ns, "last", "Allocated", "192.0.2.4")
	for name, address := range map[string]string{"web": "192.0.2.1", "class": "192.0.2.2", "next": "192.0.2.3"} {
		await(t, ns, name, "Allocated", address)
	}
	if n := again.writes(t); n != 1 {
		t.Errorf("%v writes after the change back, want that of the new Service", n)
	}
	again.stop()
	startProvider(t, ns) // takes the finalizers off when the Services are deleted
}

func TestProviderNeedsEachOfItsRights(t *testing.T) {
	for _, c := range []struct {
		name, rule, verb, resource string
		show                       func(t *testing.T, ns string)
	}{
		{
			name:     "patch services/status",
			rule:     "/rules/0",
			verb:     "patch",
			resource: "services/status",
			show: func(t *testing.T, ns string) {
				awaitOldEvent(t, ns, "SyncLoadBalancerFailed", `cannot patch resource "services/status"`)
				if svc := get(t, ns, "web"); len(svc.Finalizers)+len(svc.Status.LoadBalancer.Ingress) != 0 {
					t.Errorf("the Service was written: %+v", svc)
				}
			},
		},
		{
			name:     "create events",
			rule:     "/rules/1",
			verb:     "create",
			resource: "events",
			show: func(t *testing.T, ns string) {
				await(t, ns, "web", "Allocated", "192.0.2.1")
				awaitEvent(t, ns, "web", "Allocated")
				list, err := scene.Kubernetes.CoreV1().Events(ns).List(t.Context(), metav1.ListOptions{})
				must(t, err)
				for _, e := range list.Items {
					if e.Source.Component == "service-controller" {
						t.Errorf("event %s %s was written", e.Reason, e.Message)
					}
				}
			},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			ns := namespace(t)
			grantProvider(t)
			_, err := scene.Kubectl(
				t.Context(), "", "patch", "clusterrole", "berth-cloud-provider", "--type=json", "-p",
				`[{"op":"remove","path":"`+c.rule+`"}]`,
			)
			must(t, err)
			must(t, stage.Eventually(t.Context(), patience, func(ctx context.Context) error {
				out, _ := scene.Kubectl(
					ctx, "", "auth", "can-i", c.verb, c.resource, "-n", ns,
					"--as=system:serviceaccount:"+stage.Namespace+":berth-controller",
				)
				if strings.TrimSpace(out) != "no" {
					return fmt.Errorf("kubectl auth can-i says %q", out)
				}
				return nil
			}))
			startAs(t, leadAsProvider)
			deleteServices(t, ns)
			makePool(t, "p", "192.0.2.1/32")
			makeService(t, ns, "web", nil)
			c.show(t, ns)
		})
	}
}

// Without the provider, its finalizer blocks the deletion of a Service.
func TestProviderFinalizerWithoutProvider(t *testing.T) {
	ns := namespace(t)
	r := startProvider(t, ns)
	makePool(t, "p", "192.0.2.1/32")
	makeService(t, ns, "web", nil)
	await(t, ns, "web", "Allocated", "192.0.2.1")
	r.stop()
	remove(t, ns, "web")
	if svc := get(t, ns, "web"); svc.DeletionTimestamp == nil {
		t.Errorf("Service %+v is not being deleted", svc)
	}
	// As docs/design/decisions/0003-cloud-provider.md says.
	names, err := scene.Kubectl(
		t.Context(), "", "get", "services", "-A", "--field-selector", "spec.type=LoadBalancer", "-o",
		`jsonpath={range .items[*]}{.metadata.namespace} {.metadata.name}{"\n"}{end}`,
	)
	must(t, err)
	if names != ns+" web\n" {
		t.Errorf("Services of type LoadBalancer: %q", names)
	}
	_, err = scene.Kubectl(
		t.Context(), "", "patch", "service", "-n", ns, "web", "--type=merge", "-p",
		`{"metadata":{"finalizers":null}}`,
	)
	must(t, err)
	if names := services(t, ns); len(names) != 0 {
		t.Errorf("Services %v are left", names)
	}
}

func TestProviderDeletesServiceMadeWithFinalizer(t *testing.T) {
	ns := namespace(t)
	startProvider(t, ns)
	makePool(t, "p", "192.0.2.1-192.0.2.9")
	must(t, scene.Apply(t.Context(), `apiVersion: v1
kind: Service
metadata: {name: web, namespace: `+ns+`, finalizers: [`+finalizer+`]}
spec: {type: LoadBalancer, ports: [{port: 80}]}
`))
	await(t, ns, "web", "Allocated", "192.0.2.1")
	must(t, scene.Kubernetes.CoreV1().Services(ns).Delete(t.Context(), "web", metav1.DeleteOptions{}))
	must(t, stage.Eventually(t.Context(), patience, func(ctx context.Context) error {
		if slices.Contains(services(t, ns), "web") {
			return fmt.Errorf("the Service is still there")
		}
		return nil
	}))
}

// An address that comes into use elsewhere is taken out of service.
func TestProviderAddressInUse(t *testing.T) {
	ns := namespace(t)
	startProvider(t, ns)
	silenced(t)
	makePool(t, "p", "192.0.2.1-192.0.2.9")
	makeService(t, ns, "web", nil)
	makeService(t, ns, "pinned", pin("192.0.2.5"))
	await(t, ns, "web", "Allocated", "192.0.2.1")
	await(t, ns, "pinned", "Allocated", "192.0.2.5")
	speaks(t, `state: Ready, addresses: [{address: 192.0.2.1, interface: eth0}, {address: 192.0.2.5, interface: eth0}]`)
	await(t, ns, "web", "Allocated", "192.0.2.2")
	await(t, ns, "pinned", "AddressExcluded")
}

// If two controllers write a status, the provider backs off, too.
func TestProviderBacksOff(t *testing.T) {
	ns := namespace(t)
	r := startProvider(t, ns)
	makePool(t, "p", "192.0.2.1-192.0.2.9")
	makeService(t, ns, "web", nil)
	await(t, ns, "web", "Allocated", "192.0.2.1")
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
	defer cancel()
	fights := 0
	for ctx.Err() == nil { // as quick as the others' controllers are
		if got := shown(get(t, ns, "web")); !slices.Equal(got, []string{"172.30.0.11"}) {
			writeStatus(t, "k3s", ns, "web", "172.30.0.11")
			fights++
			continue
		}
		select {
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
	if fights < 3 || fights > 6 {
		t.Errorf("%d statuses were overwritten in 8 s, want 3 at once and then fewer and fewer", fights)
	}
	if got := r.count(t, "berth_service_status_overwritten_total"); int(got) != fights {
		t.Errorf("%v overwritten statuses were counted, want %d", got, fights)
	}
	awaitNote(t, ns, "web", "StatusContested", "field manager k3s overwrites status.loadBalancer of this Service, which Berth serves, again and again")
	await(t, ns, "web", "StatusContested", "192.0.2.1")
}
