//go:build root

package api

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-lb/berth/config/retain"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/e2e/stage"
)

// selections are the fields that select: one of each group must be written.
var selections = map[string][][]string{
	"LoadBalancerPool":    {{"scopes: [{namespaceSelector: {}, serviceSelector: {}}]"}},
	"SegmentAnnouncement": {{"poolSelector: {}", "poolNames"}, {"nodeSelector: {}"}, {"serviceSelector: {}"}},
	"RouteAnnouncement": {
		{"poolSelector: {}", "poolNames"},
		{"neighborSelector: {}", "neighborNames"},
		{"nodeSelector: {}"},
		{"serviceSelector: {}"},
	},
	"BGPNeighbor": {{"nodeSelector: {}"}},
}

// object is a configuration object of a kind, with a spec in YAML. By the fields that select, and
// that the spec lacks, it selects everything.
func object(kind, name, spec string) string {
	fields := strings.TrimSuffix(spec, "}")
	for _, group := range selections[kind] {
		if !slices.ContainsFunc(group, func(field string) bool {
			name, _, _ := strings.Cut(field, ":")
			return strings.Contains(fields, "{"+name+":") || strings.Contains(fields, ", "+name+":")
		}) {
			if fields != "{" {
				fields += ", "
			}
			fields += group[0]
		}
	}
	return fmt.Sprintf("apiVersion: berth.dev/v1alpha1\nkind: %s\nmetadata: {name: %s}\nspec: %s}\n", kind, name, fields)
}

// apply applies a configuration object of a kind, with a spec in YAML: see object.
func apply(t *testing.T, kind, name, spec string) {
	t.Helper()
	must(t, scene.Apply(t.Context(), object(kind, name, spec)))
}

// annotated creates a Service with annotations.
func annotated(t *testing.T, ns, name string, annotations map[string]string, change func(*corev1.ServiceSpec)) {
	t.Helper()
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name, Annotations: annotations},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeLoadBalancer, Ports: []corev1.ServicePort{{Port: 80}},
			Selector: map[string]string{"app": name},
		},
	}
	if change != nil {
		change(&svc.Spec)
	}
	_, err := scene.Kubernetes.CoreV1().Services(ns).Create(t.Context(), svc, metav1.CreateOptions{})
	must(t, err)
}

func on(port int32) func(*corev1.ServiceSpec) {
	return func(s *corev1.ServiceSpec) { s.Ports = []corev1.ServicePort{{Port: port}} }
}

// The pool with the highest priority is used first.
func TestPoolPriority(t *testing.T) {
	ns := namespace(t)
	start(t)
	apply(t, "LoadBalancerPool", "low", `{addresses: [192.0.2.1/32]}`)
	apply(t, "LoadBalancerPool", "high", `{addresses: [198.51.100.1/32], priority: 10}`)
	makeService(t, ns, "first", nil)
	await(t, ns, "first", "Allocated", "198.51.100.1")
	makeService(t, ns, "second", nil)
	await(t, ns, "second", "Allocated", "192.0.2.1")
}

// Addresses on request and the edges of prefixes are not given to Services.
func TestPoolReservedAddresses(t *testing.T) {
	ns := namespace(t)
	start(t)
	apply(t, "LoadBalancerPool", "p", `{addresses: [192.0.2.0/29], onRequestAddresses: [192.0.2.1-192.0.2.2], edgeAddresses: Exclude}`)
	makeService(t, ns, "any", nil)
	await(t, ns, "any", "Allocated", "192.0.2.3")
	makeService(t, ns, "named", pin("192.0.2.1"))
	await(t, ns, "named", "Allocated", "192.0.2.1")
	makeService(t, ns, "edge", pin("192.0.2.0"))
	awaitMessage(t, ns, "edge", "AddressExcluded", "spec.loadBalancerIP: 192.0.2.0 is .0 or .255, which LoadBalancerPool p excludes (spec.edgeAddresses); ask for another")
}

// A disabled pool keeps the addresses that are in use, and gives none.
func TestPoolDisabled(t *testing.T) {
	ns := namespace(t)
	start(t)
	apply(t, "LoadBalancerPool", "p", `{addresses: [192.0.2.1-192.0.2.9]}`)
	makeService(t, ns, "old", nil)
	await(t, ns, "old", "Allocated", "192.0.2.1")
	apply(t, "LoadBalancerPool", "p", `{addresses: [192.0.2.1-192.0.2.9], allocation: Disabled}`)
	makeService(t, ns, "new", nil)
	await(t, ns, "new", "NoPool")
	makeService(t, ns, "named", pin("192.0.2.5"))
	awaitMessage(t, ns, "named", "PoolDisabled", "spec.loadBalancerIP: 192.0.2.5 is in LoadBalancerPool p, whose allocation is Disabled; ask for another, or enable the pool")
	await(t, ns, "old", "Allocated", "192.0.2.1")
	apply(t, "LoadBalancerPool", "p", `{addresses: [192.0.2.1-192.0.2.9], allocation: Automatic}`)
	await(t, ns, "named", "Allocated", "192.0.2.5")
	await(t, ns, "new", "Allocated", "192.0.2.2")
}

// A pool that was deleted a moment ago gives no addresses, although what it gave stays in effect
// until it is known that its kind was not deleted with it.
func TestPoolDeleted(t *testing.T) {
	ns := namespace(t)
	start(t)
	apply(t, "LoadBalancerPool", "old", `{addresses: [192.0.2.1-192.0.2.9]}`)
	makeService(t, ns, "first", nil)
	await(t, ns, "first", "Allocated", "192.0.2.1")
	must(t, scene.Berth.LoadBalancerPools.Delete(t.Context(), "old", metav1.DeleteOptions{}))
	<-time.After(retain.BelievedAfter / 3) // the controller has seen it, and does not know yet why
	makeService(t, ns, "second", nil)
	await(t, ns, "second", "NoPool")
	apply(t, "LoadBalancerPool", "new", `{addresses: [198.51.100.1/32]}`)
	await(t, ns, "second", "Allocated", "198.51.100.1")
}

// The scopes of a pool select namespaces and Services.
func TestPoolScopes(t *testing.T) {
	ns := namespace(t)
	start(t)
	apply(
		t, "LoadBalancerPool", "byname",
		`{addresses: [192.0.2.1/32], scopes: [{namespaceNames: [elsewhere], serviceSelector: {}}, {namespaceNames: [`+ns+`], serviceSelector: {matchLabels: {tier: front}}}]}`,
	)
	makeService(t, ns, "web", nil)
	await(t, ns, "web", "NoPool")
	patch(t, ns, "web", `{"metadata":{"labels":{"tier":"front"}}}`)
	await(t, ns, "web", "Allocated", "192.0.2.1")

	apply(t, "LoadBalancerPool", "bylabel", `{addresses: [198.51.100.1/32], scopes: [{namespaceSelector: {matchLabels: {team: blue}}, serviceSelector: {}}]}`)
	makeService(t, ns, "pinned", pin("198.51.100.1"))
	awaitMessage(t, ns, "pinned", "PoolOutOfScope", "spec.loadBalancerIP: 198.51.100.1 is in LoadBalancerPool bylabel, which does not serve this Service (its spec.scopes); ask for another")
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

// The annotation berth.dev/pools names the pools.
func TestPoolsAnnotation(t *testing.T) {
	ns := namespace(t)
	start(t)
	apply(t, "LoadBalancerPool", "auto", `{addresses: [192.0.2.1-192.0.2.9]}`)
	apply(t, "LoadBalancerPool", "four", `{addresses: [198.51.100.1/32], allocation: OnRequest}`)
	apply(t, "LoadBalancerPool", "six", `{addresses: ["2001:db8::1/128"], allocation: OnRequest}`)
	annotated(
		t, ns, "dual", map[string]string{v1alpha1.AnnotationPools: "four, six"},
		families(corev1.IPFamilyPolicyRequireDualStack, corev1.IPv4Protocol, corev1.IPv6Protocol),
	)
	await(t, ns, "dual", "Allocated", "198.51.100.1", "2001:db8::1")
	annotated(t, ns, "full", map[string]string{v1alpha1.AnnotationPools: "four"}, nil)
	awaitMessage(t, ns, "full", "PoolExhausted", "no IPv4 address is free in LoadBalancerPool four; add some to its spec.addresses, or name another pool in annotation berth.dev/pools")
	annotated(t, ns, "typo", map[string]string{v1alpha1.AnnotationPools: "fore"}, nil)
	awaitMessage(t, ns, "typo", "UnknownPool", `annotation berth.dev/pools: no LoadBalancerPool "fore" exists; create it or take the name out`)
	annotated(
		t, ns, "six", map[string]string{v1alpha1.AnnotationPools: "six"},
		families(corev1.IPFamilyPolicySingleStack, corev1.IPv4Protocol),
	)
	awaitMessage(t, ns, "six", "NoPool", "annotation berth.dev/pools: none of the pools named (six) gives IPv4 addresses; see their addresses and condition Ready (kubectl describe loadbalancerpools.berth.dev), or name another")
	annotated(t, ns, "both", map[string]string{v1alpha1.AnnotationPools: "four"}, pin("192.0.2.5"))
	awaitMessage(t, ns, "both", "PoolOutOfScope", "spec.loadBalancerIP: 192.0.2.5 is in LoadBalancerPool auto, which annotation berth.dev/pools does not name; name it there, or ask for another address")
	// An annotation that changes moves the Service.
	makeService(t, ns, "moves", nil)
	await(t, ns, "moves", "Allocated", "192.0.2.1")
	apply(t, "LoadBalancerPool", "fore", `{addresses: [203.0.113.1-203.0.113.2], allocation: OnRequest}`)
	await(t, ns, "typo", "Allocated", "203.0.113.1")
	patch(t, ns, "moves", `{"metadata":{"annotations":{"berth.dev/pools":"fore"}}}`)
	await(t, ns, "moves", "Allocated", "203.0.113.2")
}

// The annotation berth.dev/load-balancer-ips requests addresses, and must agree with
// spec.loadBalancerIP.
func TestLoadBalancerIPsAnnotation(t *testing.T) {
	ns := namespace(t)
	start(t)
	apply(t, "LoadBalancerPool", "p", `{addresses: [192.0.2.0/24, "2001:db8::/64"]}`)
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
	awaitMessage(t, ns, "bad", "InvalidAddress", `annotation berth.dev/load-balancer-ips: "192.0.2" is not an IP address; write one such as 192.0.2.1, or take it out`)
}

// Services with the same sharing key share an address.
func TestSharingKeyAnnotation(t *testing.T) {
	ns, far := namespace(t), namespace(t)
	start(t)
	apply(t, "LoadBalancerPool", "p", `{addresses: [192.0.2.1-192.0.2.9]}`)
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
	awaitMessage(
		t, ns, "pinned", "AddressInUse",
		"spec.loadBalancerIP: 192.0.2.1 is held by Service "+ns+"/http with the same TCP port 80, so it cannot be shared; fix that or ask for another",
	)

	// An edit into a clash moves the one that was edited, and lets the other in.
	patch(t, ns, "http", `{"spec":{"ports":[{"port":443}]}}`)
	await(t, ns, "http", "Allocated", "192.0.2.2")
	await(t, ns, "pinned", "Allocated", "192.0.2.1")
	await(t, ns, "https", "Allocated", "192.0.2.1")

	// A pool may let namespaces share.
	apply(t, "LoadBalancerPool", "p", `{addresses: [192.0.2.1-192.0.2.9], sharing: AcrossNamespaces}`)
	annotated(t, far, "near", key, on(8081))
	await(t, far, "near", "Allocated", "192.0.2.1")
}

// An address outside the pools is released on request.
func TestReleaseAnnotation(t *testing.T) {
	ns := namespace(t)
	start(t)
	apply(t, "LoadBalancerPool", "p", `{addresses: [192.0.2.1/32]}`)
	makeService(t, ns, "web", nil)
	await(t, ns, "web", "Allocated", "192.0.2.1")
	apply(t, "LoadBalancerPool", "p", `{addresses: [198.51.100.1/32]}`)
	awaitMessage(t, ns, "web", "OutsidePools", `192.0.2.1 is kept, but is in no LoadBalancerPool any more, so only announcements of all pools or of a pool that is gone announce it; add it to a pool, or release it with annotation berth.dev/release: "192.0.2.1"`)
	patch(t, ns, "web", `{"metadata":{"annotations":{"berth.dev/release":"192.0.2.1"}}}`)
	await(t, ns, "web", "Allocated", "198.51.100.1")
}

// Pools that are renamed, split and merged keep every address.
func TestPoolRenameSplitAndMerge(t *testing.T) {
	ns := namespace(t)
	r := start(t)
	apply(t, "LoadBalancerPool", "all", `{addresses: [192.0.2.0/24]}`)
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
	apply(t, "LoadBalancerPool", "left", `{addresses: [192.0.2.0/26]}`)
	apply(t, "LoadBalancerPool", "right", `{addresses: [192.0.2.64-192.0.2.255]}`)
	awaitConflict(t, "all", "True", "spec.addresses: 192.0.2.0/26 is in the younger LoadBalancerPool left too, which does not get it; take it out of one of the two; spec.addresses: 192.0.2.64-192.0.2.255 is in the younger LoadBalancerPool right too, which does not get it; take it out of one of the two")
	awaitConflict(t, "left", "True", "spec.addresses: 192.0.2.0/26 is in the older LoadBalancerPool all too, which keeps it; take it out of one of the two: of all to have it here")
	must(t, scene.Berth.LoadBalancerPools.Delete(t.Context(), "all", metav1.DeleteOptions{}))
	awaitConflict(t, "left", "False", "no other LoadBalancerPool claims these addresses")
	all(addresses...)
	makeService(t, ns, "next", nil)
	await(t, ns, "next", "Allocated", "192.0.2.0")
	all(addresses...)
	// The pool was gone for no moment in which nobody covered an address.
	if got := r.writes(t) - before; got > 1+2*4 {
		t.Errorf("%v writes while the pools were split; want the one of the new Service, and at most a message changed and back for each other", got)
	}
}

func reserve(t *testing.T, ns, name, spec string) {
	t.Helper()
	must(t, scene.Apply(t.Context(), fmt.Sprintf("apiVersion: berth.dev/v1alpha1\nkind: AddressReservation\nmetadata: {name: %s, namespace: %s}\nspec: {%s}\n", name, ns, spec)))
}

// A reservation keeps addresses for its Service when that is recreated or restored.
func TestReservationOutlivesService(t *testing.T) {
	ns, other := namespace(t), namespace(t)
	first := start(t)
	apply(t, "LoadBalancerPool", "four", `{addresses: [192.0.2.1-192.0.2.9]}`)
	apply(t, "LoadBalancerPool", "six", `{addresses: ["2001:db8::1-2001:db8::9"]}`)
	reserve(t, ns, "front", "poolNames: [four, six], ipFamilies: [IPv6, IPv4], serviceName: web")
	awaitReservation(t, ns, "front", "192.0.2.1 2001:db8::1", "True", "192.0.2.1 and 2001:db8::1 are kept for namespace "+ns)
	makeService(t, other, "other", nil)
	await(t, other, "other", "Allocated", "192.0.2.2")
	makeService(t, other, "thief", pin("192.0.2.1"))
	awaitMessage(
		t, other, "thief", "AddressReserved",
		"spec.loadBalancerIP: 192.0.2.1 is reserved by AddressReservation "+ns+"/front; ask for another",
	)
	dual := families(corev1.IPFamilyPolicyRequireDualStack, corev1.IPv4Protocol, corev1.IPv6Protocol)
	makeService(t, ns, "web", dual)
	await(t, ns, "web", "Allocated", "192.0.2.1", "2001:db8::1")
	remove(t, ns, "web")
	makeService(t, other, "next", dual)
	await(t, other, "next", "Allocated", "192.0.2.3", "2001:db8::2")
	makeService(t, ns, "web", dual)
	await(t, ns, "web", "Allocated", "192.0.2.1", "2001:db8::1")

	// A restore from backup: the objects are there, with their annotations, and the statuses are not.
	first.stop()
	for _, s := range [][2]string{{ns, "web"}, {other, "other"}, {other, "next"}, {other, "thief"}} {
		patch(t, s[0], s[1], `{"status":{"loadBalancer":null,"conditions":null}}`, "status")
	}
	_, err := scene.Berth.AddressReservations(
		ns,
	).Patch(
		t.Context(), "front", types.MergePatchType, []byte(`{"status":null}`), metav1.PatchOptions{}, "status",
	)
	must(t, err)
	if r, err := scene.Berth.AddressReservations(ns).Get(t.Context(), "front", metav1.GetOptions{}); err != nil ||
		len(r.Status.Addresses) > 0 ||
		r.Annotations[v1alpha1.AnnotationReservedAddresses] != "192.0.2.1,2001:db8::1" {
		t.Fatalf("%+v, %v", r, err)
	}
	start(t)
	await(t, ns, "web", "Allocated", "192.0.2.1", "2001:db8::1")
	awaitReservation(t, ns, "front", "192.0.2.1 2001:db8::1", "True", "192.0.2.1 and 2001:db8::1 are kept for namespace "+ns)
	await(t, other, "thief", "AddressReserved")

	// A pool that is deleted for a moment costs no address; a pool that is no longer named does.
	must(t, scene.Berth.LoadBalancerPools.Delete(t.Context(), "six", metav1.DeleteOptions{}))
	awaitReservation(t, ns, "front", "192.0.2.1", "False", "annotation berth.dev/reserved-addresses: 2001:db8::1 is in no LoadBalancerPool; add it to one, or reserve an address that is")
	apply(t, "LoadBalancerPool", "more", `{addresses: ["2001:db8::1-2001:db8::9", 198.51.100.1]}`)
	reserve(t, ns, "front", "poolNames: [more], ipFamilies: [IPv6, IPv4], serviceName: web")
	awaitReservation(t, ns, "front", "198.51.100.1 2001:db8::1", "True", "198.51.100.1 and 2001:db8::1 are kept for namespace "+ns)

	_, err = scene.Kubectl(t.Context(), "", "delete", "addressreservation", "-n", ns, "front")
	must(t, err)
	remove(t, ns, "web")
	await(t, other, "thief", "Allocated", "192.0.2.1")
}

// A reservation of an address in use waits for it.
func TestReservationOfAddressInUse(t *testing.T) {
	ns, other := namespace(t), namespace(t)
	start(t)
	apply(t, "LoadBalancerPool", "p", `{addresses: [192.0.2.1-192.0.2.9]}`)
	makeService(t, other, "holder", nil)
	await(t, other, "holder", "Allocated", "192.0.2.1")
	reserve(t, ns, "front", "addresses: [192.0.2.1]")
	awaitReservation(
		t, ns, "front", "", "False",
		"spec.addresses: 192.0.2.1 is held by Service "+other+"/holder of another namespace; it is kept as soon as that Service frees it",
	)
	remove(t, other, "holder")
	awaitReservation(t, ns, "front", "192.0.2.1", "True", "192.0.2.1 is kept for namespace "+ns)
	// It may ask for another; what it had is anybody's then.
	reserve(t, ns, "front", "addresses: [192.0.2.2]")
	awaitReservation(t, ns, "front", "192.0.2.2", "True", "192.0.2.2 is kept for namespace "+ns)
	makeService(t, other, "next", pin("192.0.2.1"))
	await(t, other, "next", "Allocated", "192.0.2.1")
}

// A reservation that is not in effect explains why.
func TestReservationExplains(t *testing.T) {
	ns := namespace(t)
	start(t)
	apply(t, "LoadBalancerPool", "p", `{addresses: [192.0.2.1-192.0.2.2]}`)
	for _, c := range []struct{ name, spec, address, status, message string }{
		{
			name:    "first",
			spec:    "addresses: [192.0.2.1]",
			address: "192.0.2.1",
			status:  "True",
			message: "192.0.2.1 is kept for namespace " + ns,
		},
		{
			name:    "same",
			spec:    "addresses: [192.0.2.1]",
			status:  "False",
			message: "spec.addresses: 192.0.2.1 is kept by AddressReservation " + ns + "/first already; delete one of the two",
		},
		{
			name:    "any",
			spec:    "poolNames: [p], ipFamilies: [IPv4]",
			address: "192.0.2.2",
			status:  "True",
			message: "192.0.2.2 is kept for namespace " + ns,
		},
		{
			name:    "full",
			spec:    "poolNames: [p], ipFamilies: [IPv4]",
			status:  "False",
			message: "spec.poolNames: no IPv4 address is free in LoadBalancerPool p; widen it, or name another",
		},
		{
			name:    "four",
			spec:    "poolNames: [p], ipFamilies: [IPv6]",
			status:  "False",
			message: "spec.poolNames: no IPv6 address is free in LoadBalancerPool p; widen it, or name another",
		},
		{
			name:    "outside",
			spec:    "addresses: [203.0.113.1]",
			status:  "False",
			message: "spec.addresses: 203.0.113.1 is in no LoadBalancerPool; add it to one, or reserve an address that is",
		},
		{
			name:    "typo",
			spec:    "poolNames: [q], ipFamilies: [IPv4]",
			status:  "False",
			message: `spec.poolNames: no LoadBalancerPool "q" exists; create it, or name another`,
		},
	} {
		reserve(t, ns, c.name, c.spec)
		awaitReservation(t, ns, c.name, c.address, c.status, c.message)
	}
	// What was in the way goes, and the others have it at once.
	for _, c := range []struct{ goes, name, address string }{
		{"any", "full", "192.0.2.2"}, {"first", "same", "192.0.2.1"},
	} {
		_, err := scene.Kubectl(t.Context(), "", "delete", "addressreservation", "-n", ns, c.goes)
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
		p, err := scene.Berth.LoadBalancerPools.Get(ctx, pool, metav1.GetOptions{})
		if err != nil {
			return err
		}
		c := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionConflict)
		if c == nil || string(c.Status) != status || c.Message != message {
			return fmt.Errorf("LoadBalancerPool %s: condition %+v, want %s: %s", pool, c, status, message)
		}
		return nil
	}))
}

// awaitReservation waits until the reservation keeps these addresses, and is Ready or not, with
// this message.
func awaitReservation(t *testing.T, ns, name, addresses, status, message string) {
	t.Helper()
	must(t, stage.Eventually(t.Context(), patience, func(ctx context.Context) error {
		r, err := scene.Berth.AddressReservations(ns).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		var kept []string
		for _, a := range r.Status.Addresses {
			kept = append(kept, a.Address)
		}
		c := meta.FindStatusCondition(r.Status.Conditions, v1alpha1.ConditionReady)
		if strings.Join(kept, " ") != addresses || c == nil || string(c.Status) != status || c.Message != message {
			return fmt.Errorf("AddressReservation %s: addresses %v, condition %+v, want %s, %s: %s", name, kept, c, addresses, status, message)
		}
		return nil
	}))
}

// A pool reports when it is exhausted.
func TestPoolExhausted(t *testing.T) {
	ns := namespace(t)
	start(t)
	makePool(t, "p", "192.0.2.1", "2001:db8::1-2001:db8::9")
	awaitExhausted(t, "p", metav1.ConditionFalse, "an address of each family is free for a Service that names none")
	makeService(t, ns, "web", nil)
	await(t, ns, "web", "Allocated", "192.0.2.1")
	awaitExhausted(t, "p", metav1.ConditionTrue, "no IPv4 address is free for a Service that names none; widen spec.addresses, or add another pool")
	remove(t, ns, "web")
	awaitExhausted(t, "p", metav1.ConditionFalse, "an address of each family is free for a Service that names none")
}

func awaitExhausted(t *testing.T, pool string, status metav1.ConditionStatus, message string) {
	t.Helper()
	must(t, stage.Eventually(t.Context(), patience, func(ctx context.Context) error {
		p, err := scene.Berth.LoadBalancerPools.Get(ctx, pool, metav1.GetOptions{})
		if err != nil {
			return err
		}
		c := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionExhausted)
		if c == nil || c.Status != status || c.Message != message {
			return fmt.Errorf("LoadBalancerPool %s: condition %+v, want %s: %s", pool, c, status, message)
		}
		return nil
	}))
}
