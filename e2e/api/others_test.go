//go:build root

package api

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/controller"
	"github.com/berth-lb/berth/e2e/stage"
)

// writeStatus writes addresses into the status of a Service as another controller would.
func writeStatus(t *testing.T, manager, ns, name string, ingress ...string) {
	t.Helper()
	var entries []string
	for _, i := range ingress {
		if strings.ContainsAny(i, "lz") { // a host name
			entries = append(entries, fmt.Sprintf(`{"hostname":%q}`, i))
		} else {
			entries = append(entries, fmt.Sprintf(`{"ip":%q}`, i))
		}
	}
	_, err := scene.Kubernetes.CoreV1().Services(ns).Patch(
		t.Context(),
		name,
		types.MergePatchType,
		[]byte(
			`{"status":{"loadBalancer":{"ingress":[`+strings.Join(entries, ",")+`]}}}`,
		),
		metav1.PatchOptions{FieldManager: manager},
		"status",
	)
	must(t, err)
}

// shown returns what the status of the Service shows.
func shown(svc *corev1.Service) []string {
	var all []string
	for _, i := range svc.Status.LoadBalancer.Ingress {
		all = append(all, i.IP+i.Hostname)
	}
	return all
}

// awaitNote waits for an event about the Service with that text.
func awaitNote(t *testing.T, ns, name, reason, text string) {
	t.Helper()
	must(t, stage.Eventually(t.Context(), patience, func(ctx context.Context) error {
		list, err := scene.Kubernetes.EventsV1().Events(ns).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		var notes []string
		for _, e := range list.Items {
			if e.Regarding.Name == name && e.Reason == reason {
				notes = append(notes, e.Note)
			}
		}
		if !slices.ContainsFunc(notes, func(n string) bool { return strings.Contains(n, text) }) {
			return fmt.Errorf("events %s of Service %s: %q, want one with %q", reason, name, notes, text)
		}
		return nil
	}))
}

// Statuses that other controllers wrote are kept.
func TestStatusesOfOthersAreKept(t *testing.T) {
	ns := namespace(t)
	for _, name := range []string{"foreign", "empty"} {
		makeService(t, ns, name, nil)
	}
	writeStatus(t, "other-lb", ns, "foreign", "203.0.113.7", "lb.example.com")
	before := get(t, ns, "foreign")
	r := start(t)
	// Without any pool, and with one.
	awaitMessage(t, ns, "empty", "NoPool", "no LoadBalancerPool gives IPv4 addresses to this Service automatically; create one with allocation Automatic, or name one in annotation berth.dev/pools")
	awaitNote(t, ns, "foreign", "LeftAlone", "field manager other-lb wrote status.loadBalancer, so Berth leaves this Service alone")
	makePool(t, "p", "192.0.2.0/24", "203.0.113.0/24")
	await(t, ns, "empty", "Allocated", "192.0.2.0")
	if after := get(t, ns, "foreign"); after.ResourceVersion != before.ResourceVersion {
		t.Errorf("the Service of another implementation was written: %+v", after.Status)
	}
	// Nobody else gets its address.
	makeService(t, ns, "thief", pin("203.0.113.7"))
	awaitMessage(
		t, ns, "thief", "AddressExcluded",
		"spec.loadBalancerIP: 203.0.113.7 is an address of Service "+ns+"/foreign, which field manager other-lb serves, so it is not given; ask for another",
	)
	if got := r.writes(t); got != 3 {
		t.Errorf("%v writes, want 3: a condition, an address, a refusal", got)
	}
	// When the other one gives it up, Berth serves it.
	writeStatus(t, "other-lb", ns, "foreign")
	await(t, ns, "foreign", "Allocated", "192.0.2.1")
	await(t, ns, "thief", "Allocated", "203.0.113.7")
}

// A copied or extended record does not make an address Berth's.
func TestRecordIsVerified(t *testing.T) {
	ns := namespace(t)
	first := start(t)
	makePool(t, "p", "192.0.2.1-192.0.2.9")
	makeService(t, ns, "web", nil)
	record := meta.FindStatusCondition(
		await(t, ns, "web", "Allocated", "192.0.2.1").Status.Conditions,
		v1alpha1.ServiceRecord,
	)
	if record == nil {
		t.Fatal("there is no record of what was given")
	}
	first.stop()
	makeService(t, ns, "copy", nil)
	patch(t, ns, "copy", fmt.Sprintf(`{"status":{"loadBalancer":{"ingress":[{"ip":"192.0.2.5"}]},"conditions":[{"type":"berth.dev/Record","status":"True","reason":"Given","message":%q,"lastTransitionTime":"2026-01-01T00:00:00Z"}]}}`, record.Message), "status")
	writeStatus(t, "k3s", ns, "web", "192.0.2.1", "172.30.0.11")
	start(t)
	await(t, ns, "web", "Allocated", "192.0.2.1")
	awaitNote(t, ns, "copy", "LeftAlone", "wrote status.loadBalancer")
	if got := shown(get(t, ns, "copy")); !slices.Equal(got, []string{"192.0.2.5"}) {
		t.Errorf("the copy has %v", got)
	}
}

// An uninstallation takes the key and the pools, and leaves the statuses.
func TestFormerInstallation(t *testing.T) {
	ns := namespace(t)
	first := start(t)
	makePool(t, "p", "192.0.2.1-192.0.2.9")
	makeService(t, ns, "web", pin("192.0.2.5"))
	before := await(t, ns, "web", "Allocated", "192.0.2.5")
	first.stop()
	must(t, scene.Berth.LoadBalancerPools.Delete(t.Context(), "p", metav1.DeleteOptions{}))
	must(
		t,
		scene.Kubernetes.CoreV1().Secrets(stage.Namespace).Delete(t.Context(), v1alpha1.HelloSecret, metav1.DeleteOptions{}),
	)
	start(t)
	awaitNote(t, ns, "web", "LeftAlone", "a former installation of Berth gave this Service what its status shows")
	makeService(t, ns, "any", nil)
	await(t, ns, "any", "NoPool")
	if now := get(t, ns, "web"); now.ResourceVersion != before.ResourceVersion {
		t.Errorf("the Service was written before there is a pool: %+v", now.Status)
	}
	makePool(t, "again", "192.0.2.1-192.0.2.9")
	await(t, ns, "any", "Allocated", "192.0.2.1")
	was := meta.FindStatusCondition(before.Status.Conditions, v1alpha1.ServiceRecord)
	must(t, stage.Eventually(t.Context(), patience, func(context.Context) error {
		is := meta.FindStatusCondition(get(t, ns, "web").Status.Conditions, v1alpha1.ServiceRecord)
		if was == nil || is == nil || was.Message == is.Message {
			return fmt.Errorf("the record is %+v, was %+v, want it signed again", is, was)
		}
		return nil
	}))
	await(t, ns, "web", "Allocated", "192.0.2.5")
}

// A pool with takeOver adopts the Services of other implementations.
func TestTakeOver(t *testing.T) {
	ns := namespace(t)
	start(t)
	silenced(t)
	for _, name := range []string{"one", "bound", "host"} {
		makeService(t, ns, name, nil)
	}
	writeStatus(t, "metallb", ns, "one", "192.0.2.5")
	writeStatus(t, "kube-vip", ns, "bound", "192.0.2.6")
	writeStatus(t, "metallb", ns, "host", "192.0.2.7", "lb.example.com")
	makePool(t, "p", "192.0.2.0/24")
	speaks(t, `state: Announcing, addresses: [{address: 192.0.2.6, interface: eth0}]`)
	awaitExcluded(t, "p", "not given: 192.0.2.6 is on interface eth0 of node n1")
	apply(t, "LoadBalancerPool", "p", `{addresses: [192.0.2.0/24], takeOver: Always}`)
	await(t, ns, "one", "Allocated", "192.0.2.5")
	awaitMessage(t, ns, "bound", "TakeOverWaits", "192.0.2.6 is on interface eth0 of node n1; the Service is taken over from field manager kube-vip once nobody else has the address")
	if got := shown(get(t, ns, "bound")); !slices.Equal(got, []string{"192.0.2.6"}) {
		t.Errorf("while it waits the Service has %v", got)
	}
	speaks(t, `state: Announcing, addresses: []`)
	await(t, ns, "bound", "Allocated", "192.0.2.6")
	if got := shown(get(t, ns, "host")); !slices.Equal(got, []string{"192.0.2.7", "lb.example.com"}) {
		t.Errorf("a Service with a host name has %v", got)
	}
}

// awaitExcluded waits for the condition of a pool that tells which addresses are in use elsewhere.
func awaitExcluded(t *testing.T, pool, message string) *v1alpha1.LoadBalancerPool {
	t.Helper()
	var p *v1alpha1.LoadBalancerPool
	must(t, stage.Eventually(t.Context(), patience, func(ctx context.Context) error {
		var err error
		if p, err = scene.Berth.LoadBalancerPools.Get(ctx, pool, metav1.GetOptions{}); err != nil {
			return err
		}
		c := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionExcluded)
		if c == nil || c.Status != metav1.ConditionTrue || c.Message != message {
			return fmt.Errorf("condition of LoadBalancerPool %s: %+v, want %q", pool, c, message)
		}
		return nil
	}))
	return p
}

// Addresses in use are not given to Services, and their pool reports them.
func TestAddressesInUse(t *testing.T) {
	ns := namespace(t)
	start(t)
	silenced(t)
	speaks(t, `state: Announcing, gateways: [172.30.0.1], addresses: [{address: 172.30.0.5, interface: eth0}], segments: [{interface: eth0, state: Announcing, subnets: ["172.30.0.0/24", "fd00:30::/64"]}]`)
	makePool(t, "p", "172.30.0.0-172.30.0.12", "172.30.0.255/32", "fd00:30::/124")
	apply(t, "BGPNeighbor", "tor", `{localASN: 64513, remoteASN: 64512, address: 172.30.0.3}`)
	p := awaitExcluded(t, "p", excludedOfP)
	if p.Status.IPv4.Excluded != "7" || p.Status.IPv4.Total != "14" || p.Status.IPv4.Free != "7" {
		t.Errorf("usage %+v, want 7 of 14 excluded", p.Status.IPv4)
	}
	for i, want := range []string{"172.30.0.4", "172.30.0.6"} {
		name := fmt.Sprintf("any%d", i)
		makeService(t, ns, name, nil)
		await(t, ns, name, "Allocated", want)
	}
	makeService(t, ns, "six", families(corev1.IPFamilyPolicySingleStack, corev1.IPv6Protocol))
	await(t, ns, "six", "Allocated", "fd00:30::1")
	for address, whose := range map[string]string{
		"172.30.0.11":  "the InternalIP of node n1",
		"172.30.0.2":   "an address of the API server",
		"172.30.0.1":   "a default gateway of node n1",
		"172.30.0.3":   "the address of BGPNeighbor tor",
		"172.30.0.5":   "on interface eth0 of node n1",
		"172.30.0.255": "the broadcast address of 172.30.0.0/24, a segment of node n1",
	} {
		name := "pin" + address[len("172.30.0."):]
		makeService(t, ns, name, pin(address))
		awaitMessage(
			t, ns, name, "AddressExcluded",
			"spec.loadBalancerIP: "+address+" is "+whose+", so it is not given; ask for another",
		)
	}
	// Ranges of the cluster's own.
	apply(t, "LoadBalancerPool", "inside", `{addresses: [10.96.0.200-10.96.0.210, 10.244.0.1-10.244.1.1], allocation: OnRequest}`)
	makeService(t, ns, "cluster", pin("10.96.0.205"))
	awaitMessage(t, ns, "cluster", "AddressExcluded", "spec.loadBalancerIP: 10.96.0.205 is in the Service CIDR 10.96.0.0/16, so it is not given; ask for another")
	// One that becomes used is taken out of service; who can have another gets it.
	makeService(t, ns, "named", pin("172.30.0.10"))
	await(t, ns, "named", "Allocated", "172.30.0.10")
	makeNode(t, "joins")
	_, err := scene.Kubernetes.CoreV1().Nodes().Patch(t.Context(), "joins", types.MergePatchType,
		[]byte(`{"status":{"addresses":[{"type":"InternalIP","address":"172.30.0.4"},{"type":"ExternalIP","address":"172.30.0.10"}]}}`), metav1.PatchOptions{}, "status")
	must(t, err)
	await(t, ns, "any0", "Allocated", "172.30.0.7")
	awaitMessage(t, ns, "named", "AddressExcluded", "spec.loadBalancerIP: 172.30.0.10 is the ExternalIP of node joins, so it is not given; ask for another")
}

// excludedOfP is what LoadBalancerPool p of the test above says.
const excludedOfP = "not given: 172.30.0.2 is an address of the API server, 172.30.0.11 is the InternalIP of node n1, 172.30.0.1 is a default gateway of node n1, 172.30.0.3 is the address of BGPNeighbor tor, 172.30.0.5 is on interface eth0 of node n1 and 3 more"

// A Service keeps its address even if the address comes into use elsewhere.
func TestAddressInUseAfterAllocation(t *testing.T) {
	ns := namespace(t)
	start(t)
	silenced(t)
	makePool(t, "p", "192.0.2.1-192.0.2.9")
	annotated(t, ns, "vip", map[string]string{"kube-vip.io/vipHost": "n1"}, nil)
	await(t, ns, "vip", "Allocated", "192.0.2.1")
	makeService(t, ns, "plain", nil)
	await(t, ns, "plain", "Allocated", "192.0.2.2")
	speaks(t, `state: Announcing, addresses: [{address: 192.0.2.1, interface: eth0}, {address: 192.0.2.2, interface: eth0}]`)
	await(t, ns, "plain", "Allocated", "192.0.2.3")
	await(t, ns, "vip", "Allocated", "192.0.2.1")
}

// No edit of a pool takes an address away from a Service that requests it by name.
func TestPoolEditsKeepNamedAddresses(t *testing.T) {
	ns := namespace(t)
	r := start(t)
	apply(t, "LoadBalancerPool", "p1", `{addresses: [192.0.2.1-192.0.2.9]}`)
	apply(t, "LoadBalancerPool", "p2", `{addresses: [198.51.100.1-198.51.100.9]}`)
	names := map[string]string{v1alpha1.AnnotationPools: "p1,p2"}
	annotated(t, ns, "web", names, nil)
	annotated(t, ns, "pinned", names, pin("192.0.2.5"))
	both := func(reason string) {
		t.Helper()
		await(t, ns, "web", reason, "192.0.2.1")
		await(t, ns, "pinned", reason, "192.0.2.5")
	}
	both("Allocated")
	gone := func(name string) {
		t.Helper()
		must(t, scene.Berth.LoadBalancerPools.Delete(t.Context(), name, metav1.DeleteOptions{}))
	}
	gone("p2") // it was not used
	awaitMessage(t, ns, "web", "Allocated", `has 192.0.2.1; annotation berth.dev/pools: no LoadBalancerPool "p2" exists; create it or take the name out`)
	both("Allocated")
	apply(t, "LoadBalancerPool", "p1", `{addresses: [192.0.2.1-192.0.2.9], scopes: [{namespaceNames: [elsewhere], serviceSelector: {}}]}`)
	awaitMessage(t, ns, "web", "Allocated", "has 192.0.2.1; annotation berth.dev/pools: "+
		"no entry of spec.scopes of LoadBalancerPool p1 matches this Service in namespace "+ns+"; "+
		"add one that does, or name another pool")
	apply(t, "LoadBalancerPool", "p1", `{addresses: [192.0.2.8-192.0.2.9]}`)
	both("OutsidePools")
	gone("p1")
	both("OutsidePools")
	apply(t, "LoadBalancerPool", "renamed", `{addresses: [192.0.2.0/24]}`)
	both("Allocated")
	apply(t, "LoadBalancerPool", "p1", `{addresses: [203.0.113.0/24]}`)
	apply(t, "LoadBalancerPool", "p2", `{addresses: [198.51.100.1-198.51.100.9]}`)
	awaitMessage(t, ns, "web", "Allocated", "has 192.0.2.1")
	both("Allocated")
	r.stop()
	start(t)
	annotated(t, ns, "last", map[string]string{v1alpha1.AnnotationPools: "renamed"}, nil)
	await(t, ns, "last", "Allocated", "192.0.2.0")
	both("Allocated")
	// An edit of the annotation is a request.
	patch(t, ns, "web", `{"metadata":{"annotations":{"berth.dev/pools":""}}}`)
	awaitMessage(t, ns, "web", "Allocated", "has 192.0.2.1")
	patch(t, ns, "web", `{"metadata":{"annotations":{"berth.dev/pools":"p2"}}}`)
	await(t, ns, "web", "Allocated", "198.51.100.1")
	patch(t, ns, "pinned", `{"metadata":{"annotations":{"berth.dev/pools":"p2"}}}`)
	awaitMessage(t, ns, "pinned", "PoolOutOfScope", "spec.loadBalancerIP: 192.0.2.5 is in LoadBalancerPool renamed, which annotation berth.dev/pools does not name; name it there, or ask for another address")
}

// If two controllers write a status, Berth backs off and names the other one.
func TestStatusContested(t *testing.T) {
	ns := namespace(t)
	r := start(t)
	makePool(t, "p", "192.0.2.1-192.0.2.9")
	makeService(t, ns, "web", nil)
	await(t, ns, "web", "Allocated", "192.0.2.1")
	before := r.writes(t)
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
	if got := r.writes(t) - before; got < 3 || got > 6 {
		t.Errorf("%v writes against another controller in 8 s, want 3 at once and then fewer and fewer", got)
	}
	if got := r.count(t, "berth_service_status_overwritten_total"); int(got) != fights {
		t.Errorf("%v overwritten statuses were counted, want %d", got, fights)
	}
	awaitNote(t, ns, "web", "StatusContested", "field manager k3s overwrites status.loadBalancer of this Service, which Berth serves, again and again")
	await(t, ns, "web", "StatusContested", "192.0.2.1")
}

// Services of each listed class are served.
func TestLoadBalancerClasses(t *testing.T) {
	ns := namespace(t)
	startAs(t, (*controller.Controller).Lead, func(o *controller.Options) {
		o.Classes, o.Classless = []string{"example.com/a", "example.com/b"}, false
	})
	makePool(t, "p", "192.0.2.1-192.0.2.9")
	for name, class := range map[string]string{"a": "example.com/a", "b": "example.com/b", "berth": "berth.dev/lb"} {
		makeService(t, ns, name, func(s *corev1.ServiceSpec) { s.LoadBalancerClass = &class })
	}
	makeService(t, ns, "none", nil)
	for _, name := range []string{"a", "b"} {
		wait(t, ns, name, "served", func(svc *corev1.Service) bool { return len(svc.Status.LoadBalancer.Ingress) == 1 })
	}
	for _, name := range []string{"berth", "none"} {
		if got := get(t, ns, name).Status; len(got.LoadBalancer.Ingress)+len(got.Conditions) > 0 {
			t.Errorf("Service %s has %+v", name, got)
		}
	}
}

// A freed address rests, even if the leader changes.
func TestFreedAddressRests(t *testing.T) {
	ns, other := namespace(t), namespace(t)
	rest := func(o *controller.Options) { o.Rest = 8 * time.Second } // 20 s after a leader began
	first := startAs(t, (*controller.Controller).Lead, rest)
	makePool(t, "p", "192.0.2.1-192.0.2.2")
	for i, name := range []string{"one", "two"} {
		makeService(t, ns, name, nil)
		await(t, ns, name, "Allocated", fmt.Sprintf("192.0.2.%d", i+1))
	}
	remove(t, ns, "one")
	makeService(t, other, "any", nil)
	await(t, other, "any", "PoolExhausted")
	makeService(t, other, "named", pin("192.0.2.1"))
	await(t, other, "named", "Resting")
	makeService(t, ns, "one", nil) // who had it gets it back at once
	await(t, ns, "one", "Allocated", "192.0.2.1")
	remove(t, ns, "two")
	must(t, stage.Eventually(t.Context(), patience, func(ctx context.Context) error {
		p, err := scene.Berth.LoadBalancerPools.Get(ctx, "p", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if len(p.Status.Resting) != 1 || p.Status.Resting[0].Address != "192.0.2.2" ||
			p.Status.Resting[0].Service != ns+"/two" {
			return fmt.Errorf("resting %+v", p.Status.Resting)
		}
		return nil
	}))
	first.stop()
	remove(t, ns, "one") // nobody looks
	startAs(t, (*controller.Controller).Lead, rest)
	began := time.Now()
	must(t, stage.Eventually(t.Context(), 2*patience, func(context.Context) error {
		if len(get(t, other, "any").Status.LoadBalancer.Ingress)+len(get(t, other, "named").Status.LoadBalancer.Ingress) < 2 {
			return errors.New("an address rests still")
		}
		return nil
	}))
	if took := time.Since(began); took < 5*time.Second {
		t.Errorf("the addresses were given %s after the change of leaders", took)
	}
	await(t, other, "named", "Allocated", "192.0.2.1")
	await(t, other, "any", "Allocated", "192.0.2.2")
}

// Requests for a certain address come before requests for any address.
func TestRequestsByNameComeFirst(t *testing.T) {
	ns := namespace(t)
	start(t)
	for i := range 9 {
		makeService(t, ns, fmt.Sprintf("any%d", i), nil)
		await(t, ns, fmt.Sprintf("any%d", i), "NoPool")
	}
	makeService(t, ns, "pinned", pin("192.0.2.1"))
	await(t, ns, "pinned", "AddressOutsidePools")
	makePool(t, "p", "192.0.2.1-192.0.2.10")
	await(t, ns, "pinned", "Allocated", "192.0.2.1")
	for i := range 9 {
		wait(
			t,
			ns,
			fmt.Sprintf("any%d", i),
			"served",
			func(svc *corev1.Service) bool { return len(svc.Status.LoadBalancer.Ingress) == 1 },
		)
	}
}

// Messages truncate what users wrote.
func TestMessagesTruncateInput(t *testing.T) {
	ns := namespace(t)
	start(t)
	makePool(t, "p", "192.0.2.1-192.0.2.9")
	annotated(t, ns, "web", map[string]string{v1alpha1.AnnotationAddresses: strings.Repeat("x", 200_000)}, nil)
	awaitMessage(
		t,
		ns,
		"web",
		"InvalidAddress",
		`annotation berth.dev/load-balancer-ips: "`+strings.Repeat(
			"x",
			64,
		)+`"… is not an IP address; write one such as 192.0.2.1, or take it out`,
	)
	annotated(t, ns, "pool", map[string]string{v1alpha1.AnnotationPools: strings.Repeat("y", 200_000)}, nil)
	awaitMessage(
		t,
		ns,
		"pool",
		"UnknownPool",
		`annotation berth.dev/pools: no LoadBalancerPool "`+strings.Repeat(
			"y",
			64,
		)+`"… exists; create it or take the name out`,
	)
	awaitEvent(t, ns, "pool", "UnknownPool")
}

// Reservations obey the scopes of pools, and their number is limited.
func TestReservationScopesAndLimit(t *testing.T) {
	ns := namespace(t)
	startAs(t, (*controller.Controller).Lead, func(o *controller.Options) { o.ReservationsPerNamespace = 2 })
	apply(t, "LoadBalancerPool", "theirs", `{addresses: [192.0.2.1-192.0.2.9], scopes: [{namespaceNames: [elsewhere], serviceSelector: {}}]}`)
	apply(t, "LoadBalancerPool", "ours", `{addresses: [198.51.100.1-198.51.100.9]}`)
	reserve(t, ns, "byname", "addresses: [192.0.2.5]")
	awaitReservation(
		t, ns, "byname", "", "False",
		"LoadBalancerPool theirs does not serve namespace "+ns+" (its spec.scopes); reserve an address of another pool",
	)
	reserve(t, ns, "bypool", "poolNames: [theirs], ipFamilies: [IPv4]")
	awaitReservation(
		t, ns, "bypool", "", "False",
		"LoadBalancerPool theirs does not serve namespace "+ns+" (its spec.scopes); reserve an address of another pool",
	)
	for i, name := range []string{"one", "two"} {
		reserve(t, ns, name, "poolNames: [ours], ipFamilies: [IPv4]")
		awaitReservation(
			t, ns, name, fmt.Sprintf("198.51.100.%d", i+1), "True",
			fmt.Sprintf("198.51.100.%d is kept for namespace %s", i+1, ns),
		)
	}
	reserve(t, ns, "three", "poolNames: [ours], ipFamilies: [IPv4]")
	awaitReservation(t, ns, "three", "", "False", "namespace "+ns+" has 2 AddressReservations in effect, which is the limit (--reservations-per-namespace of the controller); delete one")
	_, err := scene.Kubectl(t.Context(), "", "delete", "addressreservation", "-n", ns, "one")
	must(t, err)
	awaitReservation(t, ns, "three", "198.51.100.1", "True", "198.51.100.1 is kept for namespace "+ns)
}

func TestProviderLeavesStatusAndFinalizerOfOthers(t *testing.T) {
	ns := namespace(t)
	class := "example.com/other"
	for _, name := range []string{"classed", "foreign"} {
		makeService(t, ns, name, func(s *corev1.ServiceSpec) {
			if name == "classed" {
				s.LoadBalancerClass = &class
			}
		})
		writeStatus(t, "other-lb", ns, name, "203.0.113.7")
		_, err := scene.Kubernetes.CoreV1().Services(ns).Patch(t.Context(), name, types.MergePatchType,
			[]byte(`{"metadata":{"finalizers":["`+finalizer+`"]}}`), metav1.PatchOptions{FieldManager: "other-lb"})
		must(t, err)
	}
	// The other implementation lets go in the end.
	t.Cleanup(func() {
		for _, name := range []string{"classed", "foreign"} {
			_, _ = scene.Kubectl(
				context.Background(), "", "patch", "service", name, "-n", ns, "--type=merge", "-p",
				`{"metadata":{"finalizers":null}}`,
			)
		}
	})
	startProvider(t, ns)
	makePool(t, "p", "192.0.2.1-192.0.2.9")
	for _, name := range []string{"classed", "foreign"} {
		must(t, scene.Kubernetes.CoreV1().Services(ns).Delete(t.Context(), name, metav1.DeleteOptions{}))
	}
	makeService(t, ns, "ours", nil)
	await(t, ns, "ours", "Allocated", "192.0.2.1")
	for _, name := range []string{"classed", "foreign"} {
		svc := get(t, ns, name)
		if !slices.Equal(svc.Finalizers, []string{finalizer}) || !slices.Equal(shown(svc), []string{"203.0.113.7"}) {
			t.Errorf("Service %s has finalizers %v and %v", name, svc.Finalizers, shown(svc))
		}
		_, err := scene.Kubectl(
			t.Context(), "", "patch", "service", name, "-n", ns, "--type=merge", "-p",
			`{"metadata":{"finalizers":null}}`,
		)
		must(t, err)
	}
}

// reasons counts events by reason.
type reasons struct {
	mu    sync.Mutex
	count map[string]int // guarded by mu
}

func (r *reasons) Eventf(_, _ runtime.Object, _, reason, _, _ string, _ ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.count[reason]++
}

// A Service of another implementation with a host name gets one event.
func TestServiceOfOthersWithHostname(t *testing.T) {
	ns := namespace(t)
	makeService(t, ns, "elb", nil)
	writeStatus(t, "cloud", ns, "elb", "lb.example.com")
	r := &reasons{count: map[string]int{}}
	startAs(t, (*controller.Controller).Lead, func(o *controller.Options) { o.Events = r })
	for i := range 3 { // each has all Services looked at
		makePool(t, fmt.Sprintf("p%d", i), fmt.Sprintf("192.0.%d.0/24", i))
		name := fmt.Sprintf("s%d", i)
		makeService(t, ns, name, pin(fmt.Sprintf("192.0.%d.9", i)))
		await(t, ns, name, "Allocated", fmt.Sprintf("192.0.%d.9", i))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.count["LeftAlone"] != 1 {
		t.Errorf("%d events, want 1", r.count["LeftAlone"])
	}
}

func TestTakeOverSharedAddress(t *testing.T) {
	ns := namespace(t)
	for i, name := range []string{"dns-tcp", "dns-udp"} {
		annotated(
			t,
			ns,
			name,
			map[string]string{v1alpha1.AnnotationSharingKey: "dns"},
			func(s *corev1.ServiceSpec) { s.Ports[0].Port += int32(i) },
		)
		writeStatus(t, "metallb", ns, name, "192.0.2.5")
	}
	startAs(t, (*controller.Controller).Lead, func(o *controller.Options) { o.Workers = 1 })
	makePool(t, "p", "192.0.2.0/24")
	awaitNote(t, ns, "dns-tcp", "LeftAlone", "metallb")
	awaitNote(t, ns, "dns-udp", "LeftAlone", "metallb")
	apply(t, "LoadBalancerPool", "p", `{addresses: [192.0.2.0/24], takeOver: Always}`)
	await(t, ns, "dns-tcp", "Allocated", "192.0.2.5")
	await(t, ns, "dns-udp", "Allocated", "192.0.2.5")
}

// An address that another implementation gave up goes to a Service that waits for it.
func TestAddressOfOthersIsReused(t *testing.T) {
	ns := namespace(t)
	start(t)
	makePool(t, "p", "192.0.2.0/24")
	makeService(t, ns, "theirs", nil)
	await(t, ns, "theirs", "Allocated", "192.0.2.0")
	remove(t, ns, "theirs")
	class := "example.com/other"
	makeService(t, ns, "theirs", func(s *corev1.ServiceSpec) { s.LoadBalancerClass = &class })
	writeStatus(t, "metallb", ns, "theirs", "192.0.2.7")
	makeService(t, ns, "waits", pin("192.0.2.7"))
	await(t, ns, "waits", "AddressExcluded")
	writeStatus(t, "metallb", ns, "theirs", "203.0.113.7")
	await(t, ns, "waits", "Allocated", "192.0.2.7")
}

// A Service that asks for an address just after another implementation gave it to another Service
// does not get it, whichever of the two is looked at first.
func TestAddressThatOthersHaveJustGiven(t *testing.T) {
	const pairs = 40
	ns := namespace(t)
	start(t)
	makePool(t, "p", "192.0.2.0/24")
	class := "example.com/other"
	for i := range pairs {
		makeService(t, ns, fmt.Sprint("theirs", i), func(s *corev1.ServiceSpec) { s.LoadBalancerClass = &class })
	}
	for i := range pairs {
		address := fmt.Sprint("192.0.2.", 100+i)
		writeStatus(t, "metallb", ns, fmt.Sprint("theirs", i), address)
		makeService(t, ns, fmt.Sprint("waits", i), pin(address))
	}
	for i := range pairs {
		await(t, ns, fmt.Sprint("waits", i), "AddressExcluded")
	}
}

// When a pool appears, reservations come before requests for any address.
func TestReservationComesFirst(t *testing.T) {
	ns, other := namespace(t), namespace(t)
	start(t)
	for i := range 12 {
		makeService(t, ns, fmt.Sprintf("any%d", i), nil)
	}
	for i := range 12 {
		await(t, ns, fmt.Sprintf("any%d", i), "NoPool")
	}
	for i := range 8 {
		name := fmt.Sprintf("kept%d", i)
		reserve(t, other, name, fmt.Sprintf("addresses: [192.0.2.%d]", i))
	}
	for i := range 8 {
		awaitReservation(
			t, other, fmt.Sprintf("kept%d", i), "", "False",
			fmt.Sprintf("spec.addresses: 192.0.2.%d is in no LoadBalancerPool; add it to one, or reserve an address that is", i),
		)
	}
	makePool(t, "p", "192.0.2.0/24")
	for i := range 8 {
		awaitReservation(
			t, other, fmt.Sprintf("kept%d", i), fmt.Sprintf("192.0.2.%d", i), "True",
			fmt.Sprintf("192.0.2.%d is kept for namespace %s", i, other),
		)
	}
}

// Without a pool, a Service of another's class that has an address has no conditions of Berth, as
// before and after a migration. With one, it is Berth's, with its address.
func TestClassOfAnotherWithoutPool(t *testing.T) {
	ns := namespace(t)
	class := "metallb.io/lb"
	startAs(t, (*controller.Controller).Lead, func(o *controller.Options) { o.Classes = []string{class} })
	makeService(t, ns, "web", func(s *corev1.ServiceSpec) { s.LoadBalancerClass = &class })
	await(t, ns, "web", "NoPool")
	writeStatus(t, "metallb", ns, "web", "203.0.113.7")
	wait(t, ns, "web", "left alone", func(svc *corev1.Service) bool { return len(svc.Status.Conditions) == 0 })
	if got := shown(get(t, ns, "web")); !slices.Equal(got, []string{"203.0.113.7"}) {
		t.Errorf("it has %v", got)
	}
	makePool(t, "p", "203.0.113.0/24")
	await(t, ns, "web", "Allocated", "203.0.113.7")
}

// Without a pool, the status of a Service of Berth's class is kept, too.
func TestStatusIsKeptWithoutPool(t *testing.T) {
	ns := namespace(t)
	class := "berth.dev/lb"
	makeService(t, ns, "web", func(s *corev1.ServiceSpec) { s.LoadBalancerClass = &class })
	makeService(t, ns, "next", func(s *corev1.ServiceSpec) { s.LoadBalancerClass = &class })
	writeStatus(t, "someone", ns, "web", "203.0.113.7")
	start(t)
	await(t, ns, "next", "NoPool")
	wait(t, ns, "web", "told", func(svc *corev1.Service) bool { return len(svc.Status.Conditions) > 0 })
	if got := shown(get(t, ns, "web")); !slices.Equal(got, []string{"203.0.113.7"}) {
		t.Errorf("it has %v", got)
	}
}
