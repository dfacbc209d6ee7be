//go:build root

package api

import (
	"context"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/e2e/stage"
)

// apply applies a configuration object of a kind, with a spec in YAML.
func apply(t *testing.T, kind, name, spec string) {
	t.Helper()
	must(t, scene.Apply(t.Context(), object(kind, name, spec)))
}

// annotated creates a Service with annotations.
func annotated(t *testing.T, ns, name string, annotations map[string]string, change func(*corev1.ServiceSpec)) {
	t.Helper()
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name, Annotations: annotations}, Spec: corev1.ServiceSpec{
		Type: corev1.ServiceTypeLoadBalancer, Ports: []corev1.ServicePort{{Port: 80}}, Selector: map[string]string{"app": name},
	}}
	if change != nil {
		change(&svc.Spec)
	}
	_, err := scene.Kubernetes.CoreV1().Services(ns).Create(t.Context(), svc, metav1.CreateOptions{})
	must(t, err)
}

func on(port int32) func(*corev1.ServiceSpec) {
	return func(s *corev1.ServiceSpec) { s.Ports = []corev1.ServicePort{{Port: port}} }
}

func TestThePoolOfHighestPriorityIsUsedFirst(t *testing.T) {
	ns := namespace(t)
	start(t)
	apply(t, "IPPool", "low", `{addresses: [192.0.2.1/32]}`)
	apply(t, "IPPool", "high", `{addresses: [198.51.100.1/32], priority: 10}`)
	makeService(t, ns, "first", nil)
	await(t, ns, "first", "Allocated", "198.51.100.1")
	makeService(t, ns, "second", nil)
	await(t, ns, "second", "Allocated", "192.0.2.1")
}

func TestReservedAndEdgeAddressesOfAPoolAreNotGivenToAnybody(t *testing.T) {
	ns := namespace(t)
	start(t)
	apply(t, "IPPool", "p", `{addresses: [192.0.2.0/29], reserved: [192.0.2.1-192.0.2.2], excludeEdgeAddresses: true}`)
	makeService(t, ns, "any", nil)
	await(t, ns, "any", "Allocated", "192.0.2.3")
	makeService(t, ns, "named", pin("192.0.2.1"))
	await(t, ns, "named", "Allocated", "192.0.2.1")
	makeService(t, ns, "edge", pin("192.0.2.0"))
	awaitMessage(t, ns, "edge", "AddressExcluded", "spec.loadBalancerIP: 192.0.2.0 is .0 or .255, which IPPool p excludes (spec.excludeEdgeAddresses); ask for another")
}

func TestADisabledPoolKeepsWhatItGaveAndGivesNoMore(t *testing.T) {
	ns := namespace(t)
	start(t)
	apply(t, "IPPool", "p", `{addresses: [192.0.2.1-192.0.2.9]}`)
	makeService(t, ns, "old", nil)
	await(t, ns, "old", "Allocated", "192.0.2.1")
	apply(t, "IPPool", "p", `{addresses: [192.0.2.1-192.0.2.9], allocation: Disabled}`)
	makeService(t, ns, "new", nil)
	await(t, ns, "new", "NoPool")
	makeService(t, ns, "named", pin("192.0.2.5"))
	awaitMessage(t, ns, "named", "PoolDisabled", "spec.loadBalancerIP: 192.0.2.5 is in IPPool p, whose allocation is Disabled; ask for another, or enable the pool")
	await(t, ns, "old", "Allocated", "192.0.2.1")
	apply(t, "IPPool", "p", `{addresses: [192.0.2.1-192.0.2.9], allocation: Automatic}`)
	await(t, ns, "named", "Allocated", "192.0.2.5")
	await(t, ns, "new", "Allocated", "192.0.2.2")
}

func TestScopesOfAPoolSelectNamespacesAndServices(t *testing.T) {
	ns := namespace(t)
	start(t)
	apply(t, "IPPool", "byname", `{addresses: [192.0.2.1/32], scopes: [{namespaces: [elsewhere]}, {namespaces: [`+ns+`], serviceSelector: {matchLabels: {tier: front}}}]}`)
	makeService(t, ns, "web", nil)
	await(t, ns, "web", "NoPool")
	patch(t, ns, "web", `{"metadata":{"labels":{"tier":"front"}}}`)
	await(t, ns, "web", "Allocated", "192.0.2.1")

	apply(t, "IPPool", "bylabel", `{addresses: [198.51.100.1/32], scopes: [{namespaceSelector: {matchLabels: {team: blue}}}]}`)
	makeService(t, ns, "pinned", pin("198.51.100.1"))
	awaitMessage(t, ns, "pinned", "PoolOutOfScope", "spec.loadBalancerIP: 198.51.100.1 is in IPPool bylabel, which does not serve this Service (its spec.scopes); ask for another")
	_, err := scene.Kubectl(t.Context(), "", "label", "namespace", ns, "team=blue")
	must(t, err)
	await(t, ns, "pinned", "Allocated", "198.51.100.1")
	// The label gone, nothing is taken away.
	_, err = scene.Kubectl(t.Context(), "", "label", "namespace", ns, "team-")
	must(t, err)
	makeService(t, ns, "late", pin("198.51.100.1"))
	await(t, ns, "late", "PoolOutOfScope")
	await(t, ns, "pinned", "Allocated", "198.51.100.1")
}

func TestTheAnnotationNamesThePools(t *testing.T) {
	ns := namespace(t)
	start(t)
	apply(t, "IPPool", "auto", `{addresses: [192.0.2.1-192.0.2.9]}`)
	apply(t, "IPPool", "four", `{addresses: [198.51.100.1/32], allocation: OnRequest}`)
	apply(t, "IPPool", "six", `{addresses: ["2001:db8::1/128"], allocation: OnRequest}`)
	annotated(t, ns, "dual", map[string]string{v1alpha1.AnnotationPools: "four, six"}, families(corev1.IPFamilyPolicyRequireDualStack, corev1.IPv4Protocol, corev1.IPv6Protocol))
	await(t, ns, "dual", "Allocated", "198.51.100.1", "2001:db8::1")
	annotated(t, ns, "full", map[string]string{v1alpha1.AnnotationPools: "four"}, nil)
	awaitMessage(t, ns, "full", "PoolExhausted", "no IPv4 address is free in IPPool four; widen it or add another")
	annotated(t, ns, "typo", map[string]string{v1alpha1.AnnotationPools: "fore"}, nil)
	awaitMessage(t, ns, "typo", "UnknownPool", `annotation berth.dev/pools: no IPPool "fore" exists; create it or take the name out`)
	annotated(t, ns, "six", map[string]string{v1alpha1.AnnotationPools: "six"}, families(corev1.IPFamilyPolicySingleStack, corev1.IPv4Protocol))
	awaitMessage(t, ns, "six", "NoPool", "annotation berth.dev/pools: none of the pools named gives IPv4 addresses")
	annotated(t, ns, "both", map[string]string{v1alpha1.AnnotationPools: "four"}, pin("192.0.2.5"))
	awaitMessage(t, ns, "both", "PoolOutOfScope", "spec.loadBalancerIP: 192.0.2.5 is in IPPool auto, which annotation berth.dev/pools does not name; name it there, or ask for another address")
	// An annotation that changes moves the Service.
	makeService(t, ns, "moves", nil)
	await(t, ns, "moves", "Allocated", "192.0.2.1")
	apply(t, "IPPool", "fore", `{addresses: [203.0.113.1-203.0.113.2], allocation: OnRequest}`)
	await(t, ns, "typo", "Allocated", "203.0.113.1")
	patch(t, ns, "moves", `{"metadata":{"annotations":{"berth.dev/pools":"fore"}}}`)
	await(t, ns, "moves", "Allocated", "203.0.113.2")
}

func TestTheAnnotationAsksForAddressesAndMustAgreeWithTheField(t *testing.T) {
	ns := namespace(t)
	start(t)
	apply(t, "IPPool", "p", `{addresses: [192.0.2.0/24, "2001:db8::/64"]}`)
	dual := families(corev1.IPFamilyPolicyRequireDualStack, corev1.IPv4Protocol, corev1.IPv6Protocol)
	annotated(t, ns, "two", map[string]string{v1alpha1.AnnotationAddresses: "2001:db8::5,192.0.2.5"}, dual)
	await(t, ns, "two", "Allocated", "192.0.2.5", "2001:db8::5")
	annotated(t, ns, "agree", map[string]string{v1alpha1.AnnotationAddresses: "192.0.2.6"}, pin("192.0.2.6"))
	await(t, ns, "agree", "Allocated", "192.0.2.6")
	annotated(t, ns, "differ", map[string]string{v1alpha1.AnnotationAddresses: "192.0.2.7"}, pin("192.0.2.8"))
	awaitMessage(t, ns, "differ", "Contradiction", "spec.loadBalancerIP is 192.0.2.8, and annotation berth.dev/load-balancer-ips says 192.0.2.7; make them agree, or take one of them out")
	annotated(t, ns, "same", map[string]string{v1alpha1.AnnotationAddresses: "192.0.2.7,192.0.2.8"}, nil)
	awaitMessage(t, ns, "same", "InvalidAddress", "annotation berth.dev/load-balancer-ips: 192.0.2.7 and 192.0.2.8 are both IPv4; a Service has one address of each family")
	annotated(t, ns, "bad", map[string]string{v1alpha1.AnnotationAddresses: "192.0.2"}, nil)
	awaitMessage(t, ns, "bad", "InvalidAddress", `annotation berth.dev/load-balancer-ips: "192.0.2" is no IP address; write one such as 192.0.2.1, or take it out`)
}

func TestServicesWithOneSharingKeyShareAnAddress(t *testing.T) {
	ns, far := namespace(t), namespace(t)
	start(t)
	apply(t, "IPPool", "p", `{addresses: [192.0.2.1-192.0.2.9]}`)
	key := map[string]string{v1alpha1.AnnotationSharingKey: "k"}
	annotated(t, ns, "http", key, on(80))
	await(t, ns, "http", "Allocated", "192.0.2.1")
	annotated(t, ns, "https", key, on(443))
	await(t, ns, "https", "Allocated", "192.0.2.1")
	annotated(t, ns, "clash", key, on(80))
	await(t, ns, "clash", "Allocated", "192.0.2.2")
	annotated(t, far, "far", key, on(8080))
	await(t, far, "far", "Allocated", "192.0.2.3")
	annotated(t, ns, "pinned", key, func(s *corev1.ServiceSpec) { on(80)(s); pin("192.0.2.1")(s) })
	awaitMessage(t, ns, "pinned", "AddressInUse", "spec.loadBalancerIP: 192.0.2.1 is held by Service "+ns+"/http with the same TCP port 80, so it cannot be shared; mend that or ask for another")

	// An edit into a clash moves the one that was edited, and lets the other in.
	patch(t, ns, "http", `{"spec":{"ports":[{"port":443}]}}`)
	await(t, ns, "http", "Allocated", "192.0.2.2")
	await(t, ns, "pinned", "Allocated", "192.0.2.1")
	await(t, ns, "https", "Allocated", "192.0.2.1")

	// A pool may let namespaces share.
	apply(t, "IPPool", "p", `{addresses: [192.0.2.1-192.0.2.9], sharing: AcrossNamespaces}`)
	annotated(t, far, "near", key, on(8081))
	await(t, far, "near", "Allocated", "192.0.2.1")
}

func TestAnAddressOutsideThePoolsIsReleasedOnRequest(t *testing.T) {
	ns := namespace(t)
	start(t)
	apply(t, "IPPool", "p", `{addresses: [192.0.2.1/32]}`)
	makeService(t, ns, "web", nil)
	await(t, ns, "web", "Allocated", "192.0.2.1")
	apply(t, "IPPool", "p", `{addresses: [198.51.100.1/32]}`)
	awaitMessage(t, ns, "web", "OutsidePools", `192.0.2.1 is kept, but is in no IPPool any more, so only advertisements of all pools or of a pool that is gone announce it; add it to a pool, or release it with annotation berth.dev/release: "192.0.2.1"`)
	patch(t, ns, "web", `{"metadata":{"annotations":{"berth.dev/release":"192.0.2.1"}}}`)
	await(t, ns, "web", "Allocated", "198.51.100.1")
}

func TestPoolsRenamedSplitAndMergedKeepEveryAddress(t *testing.T) {
	ns := namespace(t)
	r := start(t)
	apply(t, "IPPool", "all", `{addresses: [192.0.2.0/24]}`)
	for i := range 4 {
		makeService(t, ns, fmt.Sprintf("s%d", i), pin(fmt.Sprintf("192.0.2.%d", 100*(i/2)+i+1)))
	}
	all := func(want ...string) {
		t.Helper()
		for i, a := range want {
			await(t, ns, fmt.Sprintf("s%d", i), "Allocated", a)
		}
	}
	addresses := []string{"192.0.2.1", "192.0.2.2", "192.0.2.103", "192.0.2.104"}
	all(addresses...)
	before := r.writes(t)
	apply(t, "IPPool", "left", `{addresses: [192.0.2.0/26]}`)
	apply(t, "IPPool", "right", `{addresses: [192.0.2.64-192.0.2.255]}`)
	awaitConflict(t, "all", "True", "spec.addresses: 192.0.2.0/26 is in the younger IPPool left too, which does not get it; take it out of one of the two; spec.addresses: 192.0.2.64-192.0.2.255 is in the younger IPPool right too, which does not get it; take it out of one of the two")
	awaitConflict(t, "left", "True", "spec.addresses: 192.0.2.0/26 is in the older IPPool all too, which keeps it; take it out of one of the two")
	must(t, scene.Berth.IPPools.Delete(t.Context(), "all", metav1.DeleteOptions{}))
	awaitConflict(t, "left", "False", "no other IPPool claims these addresses")
	all(addresses...)
	makeService(t, ns, "next", nil)
	await(t, ns, "next", "Allocated", "192.0.2.0")
	all(addresses...)
	// The pool was gone for no moment in which nobody covered an address.
	if got := r.writes(t) - before; got > 1+2*4 {
		t.Errorf("%v writes while the pools were split; want the one of the new Service, and at most a message changed and back for each other", got)
	}
}

func TestAReservationKeepsAnAddressForItsServiceAcrossRecreationAndRestore(t *testing.T) {
	ns, other := namespace(t), namespace(t)
	first := start(t)
	apply(t, "IPPool", "p", `{addresses: [192.0.2.1-192.0.2.9]}`)
	must(t, scene.Apply(t.Context(), "apiVersion: berth.dev/v1alpha1\nkind: IPReservation\nmetadata: {name: front, namespace: "+ns+"}\nspec: {pool: p, service: web}\n"))
	awaitReservation(t, ns, "front", "192.0.2.1", "True", "192.0.2.1 is kept for namespace "+ns)
	makeService(t, other, "other", nil)
	await(t, other, "other", "Allocated", "192.0.2.2")
	makeService(t, other, "thief", pin("192.0.2.1"))
	awaitMessage(t, other, "thief", "AddressReserved", "spec.loadBalancerIP: 192.0.2.1 is reserved by IPReservation "+ns+"/front; ask for another")
	makeService(t, ns, "web", nil)
	await(t, ns, "web", "Allocated", "192.0.2.1")
	remove(t, ns, "web")
	makeService(t, other, "next", nil)
	await(t, other, "next", "Allocated", "192.0.2.3")
	makeService(t, ns, "web", nil)
	await(t, ns, "web", "Allocated", "192.0.2.1")

	// A restore from backup: the objects are there, the statuses are not.
	first.stop()
	for _, s := range [][2]string{{ns, "web"}, {other, "other"}, {other, "next"}, {other, "thief"}} {
		patch(t, s[0], s[1], `{"status":{"loadBalancer":null,"conditions":null}}`, "status")
	}
	start(t)
	await(t, ns, "web", "Allocated", "192.0.2.1")
	await(t, other, "thief", "AddressReserved")

	_, err := scene.Kubectl(t.Context(), "", "delete", "ipreservation", "-n", ns, "front")
	must(t, err)
	remove(t, ns, "web")
	await(t, other, "thief", "Allocated", "192.0.2.1")
}

func TestAReservationOfAnAddressInUseWaitsForIt(t *testing.T) {
	ns, other := namespace(t), namespace(t)
	start(t)
	apply(t, "IPPool", "p", `{addresses: [192.0.2.1-192.0.2.9]}`)
	makeService(t, other, "holder", nil)
	await(t, other, "holder", "Allocated", "192.0.2.1")
	must(t, scene.Apply(t.Context(), "apiVersion: berth.dev/v1alpha1\nkind: IPReservation\nmetadata: {name: front, namespace: "+ns+"}\nspec: {address: 192.0.2.1}\n"))
	awaitReservation(t, ns, "front", "192.0.2.1", "False", "spec.address: 192.0.2.1 is held by Service "+other+"/holder of another namespace; it is kept as soon as that gives it back")
	remove(t, other, "holder")
	awaitReservation(t, ns, "front", "192.0.2.1", "True", "192.0.2.1 is kept for namespace "+ns)
	_, err := scene.Kubectl(t.Context(), "", "patch", "ipreservation", "-n", ns, "front", "--type=merge", "-p", `{"spec":{"address":"192.0.2.2"}}`)
	if err == nil || !strings.Contains(err.Error(), "the address of a reservation does not change") {
		t.Errorf("changing the address: %v", err)
	}
}

func TestAReservationThatCannotBeKeptSaysWhy(t *testing.T) {
	ns := namespace(t)
	start(t)
	apply(t, "IPPool", "p", `{addresses: [192.0.2.1-192.0.2.2]}`)
	for _, c := range []struct{ name, spec, address, status, message string }{
		{"first", "address: 192.0.2.1", "192.0.2.1", "True", "192.0.2.1 is kept for namespace " + ns},
		{"same", "address: 192.0.2.1", "192.0.2.1", "False", "spec.address: 192.0.2.1 is kept by IPReservation " + ns + "/first already; delete one of the two"},
		{"any", "pool: p", "192.0.2.2", "True", "192.0.2.2 is kept for namespace " + ns},
		{"full", "pool: p", "", "False", "spec.pool: no IPv4 address is free in IPPool p; widen it"},
		{"outside", "address: 203.0.113.1", "203.0.113.1", "False", "spec.address: 203.0.113.1 is in no IPPool; add it to one, or make a reservation of an address that is"},
		{"typo", "pool: q", "", "False", `spec.pool: no IPPool "q" gives addresses; create it, enable it, or name another`},
	} {
		must(t, scene.Apply(t.Context(), "apiVersion: berth.dev/v1alpha1\nkind: IPReservation\nmetadata: {name: "+c.name+", namespace: "+ns+"}\nspec: {"+c.spec+"}\n"))
		awaitReservation(t, ns, c.name, c.address, c.status, c.message)
	}
	// What was in the way goes, and the others have it at once.
	for _, c := range []struct{ goes, name, address string }{{"any", "full", "192.0.2.2"}, {"first", "same", "192.0.2.1"}} {
		_, err := scene.Kubectl(t.Context(), "", "delete", "ipreservation", "-n", ns, c.goes)
		must(t, err)
		awaitReservation(t, ns, c.name, c.address, "True", c.address+" is kept for namespace "+ns)
	}
}

// awaitMessage waits until the Service has no address, for this reason and with
// this message.
func awaitMessage(t *testing.T, ns, name, reason, message string) {
	t.Helper()
	must(t, stage.Eventually(t.Context(), patience, func(context.Context) error {
		svc := get(t, ns, name)
		c := meta.FindStatusCondition(svc.Status.Conditions, v1alpha1.ServiceAllocated)
		if c == nil || c.Reason != reason || c.Message != message {
			return fmt.Errorf("Service %s: condition %+v, want %s: %s", name, c, reason, message)
		}
		return nil
	}))
	awaitEvent(t, ns, name, reason)
}

func awaitConflict(t *testing.T, pool, status, message string) {
	t.Helper()
	must(t, stage.Eventually(t.Context(), patience, func(ctx context.Context) error {
		p, err := scene.Berth.IPPools.Get(ctx, pool, metav1.GetOptions{})
		if err != nil {
			return err
		}
		c := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionConflict)
		if c == nil || string(c.Status) != status || c.Message != message {
			return fmt.Errorf("IPPool %s: condition %+v, want %s: %s", pool, c, status, message)
		}
		return nil
	}))
}

func awaitReservation(t *testing.T, ns, name, address, status, message string) {
	t.Helper()
	must(t, stage.Eventually(t.Context(), patience, func(ctx context.Context) error {
		r, err := scene.Berth.IPReservations(ns).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		c := meta.FindStatusCondition(r.Status.Conditions, v1alpha1.ConditionReady)
		if r.Spec.Address != address || c == nil || string(c.Status) != status || c.Message != message {
			return fmt.Errorf("IPReservation %s: address %s, condition %+v, want %s, %s: %s", name, r.Spec.Address, c, address, status, message)
		}
		return nil
	}))
}
