//go:build root

package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/e2e/lab"
	"github.com/berth-lb/berth/e2e/stage"
)

// TestBerthDoesNoHarm installs Berth on a rack with many other users of addresses, with careless
// pools. It checks what clients and pods see, and which hosts claim addresses on the segment. Berth
// is installed as in the manifest, so freed addresses rest for a minute, and each part uses
// addresses of its own.
func TestBerthDoesNoHarm(t *testing.T) {
	r := raise(t, lab.Options{Name: "e2eharm", Nodes: 3, Router: "none", DualStack: true})
	if err := r.Deploy(t.Context(), r.web); err != nil {
		t.Fatal(err)
	}
	for _, part := range []struct {
		name string
		run  func(*testing.T, *rack)
	}{
		{"installing Berth leaves the statuses of others as they are", testForeignStatus},
		{"a node's address is not given, and the node goes on", testNodeAddress},
		{"pods reach the API server even if a Service asks for its address", testAPIServerAddress},
		{"what somebody writes into a status is not announced", testWrittenStatus},
		{"of two who write a status Berth is the one that gives way", testStatusContested},
		{"no Service gets an address that no client can reach", testSegmentEdges},
		{"no edit of a pool takes an address away from a Service that names it", testPoolEdits},
		{"a printer keeps its address, however a Service comes by it", testPrinter},
		{"what keepalived puts on a node is the node's", testKeepalived},
		{"a router that answers for everything has nothing", testProxyARP},
		{"a planned move and a node that is cut off are no conflict", testMovesWithoutConflict},
	} {
		if !r.part(t, part.name, func(t *testing.T) { part.run(t, r) }) && r.AwaitBerth(t.Context()) != nil {
			return // nothing of the rest can be told
		}
	}
}

// pool applies a pool with a SegmentAnnouncement of all pools, until the end of the test.
func (r *rack) pool(t *testing.T, name, addresses string) {
	t.Helper()
	r.apply(t, fmt.Sprintf(`
apiVersion: berth.dev/v1alpha1
kind: LoadBalancerPool
metadata: {name: %[1]s}
spec: {addresses: [%[2]s], scopes: [{namespaceSelector: {}, serviceSelector: {}}]}
---
apiVersion: berth.dev/v1alpha1
kind: SegmentAnnouncement
metadata: {name: %[1]s}
spec: {poolSelector: {}, nodeSelector: {}, serviceSelector: {}}
`, name, addresses))
}

// rackAddress returns the IPv4 address of a host on the segment.
func (r *rack) rackAddress(t *testing.T, host string) netip.Addr {
	t.Helper()
	return r.addressOf(t, host, netip.IPv4Unspecified())
}

// reasons returns the reasons of a Service's events.
func (r *rack) reasons(t *testing.T, svc *corev1.Service) []string {
	t.Helper()
	events, err := r.Kubernetes.EventsV1().Events(svc.Namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var reasons []string
	for _, e := range events.Items {
		if e.Regarding.Name == svc.Name {
			reasons = append(reasons, e.Reason)
		}
	}
	return reasons
}

// overwrite writes the addresses in a status, as another controller does.
func (r *rack) overwrite(
	t *testing.T,
	svc *corev1.Service,
	manager string,
	ingress ...corev1.LoadBalancerIngress,
) *corev1.Service {
	t.Helper()
	eventually(t, func(ctx context.Context) error {
		now, err := r.Kubernetes.CoreV1().Services(svc.Namespace).Get(ctx, svc.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		now.Status.LoadBalancer.Ingress = ingress
		svc, err = r.Kubernetes.CoreV1().Services(
			svc.Namespace,
		).UpdateStatus(ctx, now, metav1.UpdateOptions{FieldManager: manager})
		return err
	})
	return svc
}

func ingress(addresses ...netip.Addr) []corev1.LoadBalancerIngress {
	var all []corev1.LoadBalancerIngress
	for _, a := range addresses {
		all = append(all, corev1.LoadBalancerIngress{IP: a.String()})
	}
	return all
}

// testForeignStatus installs Berth beside another implementation, while a client of the latter
// keeps sending requests.
func testForeignStatus(t *testing.T, r *rack) {
	foreign := netip.MustParseAddr("203.0.113.7")
	old, waiting := r.ask(t), r.ask(t)
	before := r.overwrite(
		t,
		old,
		"other-lb",
		append(ingress(foreign), corev1.LoadBalancerIngress{Hostname: "lb.example.com"})...)
	route := []string{"ip", "route", "replace", foreign.String(), "via", r.rackAddress(t, "n1").String()}
	if out, err := r.Exec(t.Context(), lab.Client, route...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %v: %s", route, err, out)
	}
	r.answers(t, lab.Client, foreign)
	end := r.probe(t, lab.Client, foreign, probeTimeout, false)

	if err := r.Install(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := r.AwaitSpeakers(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	r.awaitCondition(t, waiting, v1alpha1.ServiceAllocated, metav1.ConditionFalse, "NoPool")
	r.awaitEvent(t, old, "LeftAlone")
	r.pool(t, "careless", "172.30.0.24/29, 203.0.113.0/24, \"fd00:30::20/124\"")
	r.awaitCondition(t, waiting, v1alpha1.ServiceAllocated, metav1.ConditionTrue, "Allocated")
	r.unfailed(t, "a client of the other implementation", end())
	if now := r.get(t, old); now.ResourceVersion != before.ResourceVersion {
		t.Errorf("the Service of another implementation was written: %+v", now)
	}
	if hosts, err := r.Answerers(t.Context(), foreign); err != nil || len(hosts) > 0 {
		t.Errorf("%v answer for %s (%v)", hosts, foreign, err)
	}
}

func testNodeAddress(t *testing.T, r *rack) {
	defer r.watchOver(t)()
	r.pool(t, "careless", "172.30.0.0/24")
	var asked []*corev1.Service
	for _, node := range r.Nodes() { // another node would answer for one of them at least
		asked = append(asked, r.ask(t, only(corev1.IPv4Protocol), pinned(r.rackAddress(t, node).String())))
	}
	for i, want := range []string{
		"172.30.0.11 is the InternalIP of node n1", "172.30.0.12 is the InternalIP of node n2",
		"172.30.0.13 is the InternalIP of node n3",
	} {
		_, message := r.awaitCondition(t, asked[i], v1alpha1.ServiceAllocated, metav1.ConditionFalse, "AddressExcluded")
		if want = "spec.loadBalancerIP: " + want + ", so it is not given; ask for another"; message != want {
			t.Errorf("the Service says %q, want %q", message, want)
		}
	}
	for _, want := range []string{"172.30.0.3", "172.30.0.4"} {
		svc := r.serve(t, only(corev1.IPv4Protocol))
		if got := soleAddress(svc).String(); got != want {
			t.Errorf("a Service that takes any address got %s, want %s", got, want)
		}
		r.answers(t, lab.Client, soleAddress(svc))
		r.answers(t, lab.Remote, soleAddress(svc))
	}
	eventually(t, func(ctx context.Context) error {
		pool, err := r.Berth.LoadBalancerPools.Get(ctx, "careless", metav1.GetOptions{})
		if err == nil && pool.Status.IPv4.Excluded != "7" {
			err = fmt.Errorf("the pool's status %+v, want 7 addresses excluded: .0, .1, .2, .11, .12, .13, .255", pool.Status.IPv4)
		}
		return err
	})
	lasts(t, 7*time.Second) // a node is called NotReady when it was silent for 6 s
}

func testAPIServerAddress(t *testing.T, r *rack) {
	defer r.watchOver(t)()
	r.pool(t, "slip", "172.30.0.2, 172.30.0.210")
	server := r.rackAddress(t, lab.ControlPlane)
	_, message := r.awaitCondition(
		t, r.ask(t, only(corev1.IPv4Protocol), pinned(server.String())), v1alpha1.ServiceAllocated,
		metav1.ConditionFalse, "AddressExcluded",
	)
	if !strings.Contains(message, "172.30.0.2 is an address of the API server") {
		t.Errorf("the Service says %q, want whose the address is", message)
	}
	svc := r.serve(t, only(corev1.IPv4Protocol))
	address := soleAddress(svc)
	if address.String() != "172.30.0.210" {
		t.Errorf("a Service that takes any address got %s, want 172.30.0.210", address)
	}
	owner := r.owner(t, address)
	eventually(t, func(ctx context.Context) error {
		if dropped, err := r.dropped(ctx, owner, address); err != nil || !dropped {
			return fmt.Errorf("%s, which answers for %s, does not drop what nothing serves there (%w)", owner, address, err)
		}
		return nil
	})
	r.notDropped(t, server)
}

// testWrittenStatus writes into statuses what k3s' ServiceLB would, and an address of the pool,
// once each.
func testWrittenStatus(t *testing.T, r *rack) {
	defer r.watchOver(t)()
	r.pool(t, "office", "172.30.0.200-172.30.0.209")
	svc := r.serve(t, only(corev1.IPv4Protocol))
	address, free := soleAddress(svc), netip.MustParseAddr("172.30.0.209")
	r.answers(t, lab.Client, address)
	owner := r.owner(t, address)
	defer r.claimedOnlyBy(t, owner, address)()
	defer r.claimedOnlyBy(t, "", free)()
	end := r.probe(t, lab.Client, address, probeTimeout, true)
	for _, written := range [][]netip.Addr{
		{address, r.rackAddress(t, r.others(owner)[0]), r.rackAddress(t, lab.ControlPlane)},
		{address, free},
	} {
		r.overwrite(t, svc, "k3s", ingress(written...)...)
		eventually(t, func(context.Context) error {
			if got := stage.Addresses(r.get(t, svc)); !slices.Equal(got, []netip.Addr{address}) {
				return fmt.Errorf("the status shows %v, want %s", got, address)
			}
			return nil
		})
		lasts(t, time.Second)
		for _, a := range written[1:] {
			r.notDropped(t, a)
		}
	}
	r.unfailed(t, "a client of the Service", end())
}

// testStatusContested has another controller overwrite a status again and again. While the status
// does not show the address, kube-proxy does not serve it, so failed requests are only logged; in
// the end the address must be served.
func testStatusContested(t *testing.T, r *rack) {
	defer r.watchOver(t)()
	r.pool(t, "office", "172.30.0.212-172.30.0.215")
	svc := r.serve(t, only(corev1.IPv4Protocol))
	address := soleAddress(svc)
	r.answers(t, lab.Client, address)
	var nodes []netip.Addr
	for _, node := range r.Nodes() {
		nodes = append(nodes, r.rackAddress(t, node))
	}
	end := r.probe(t, lab.Client, address, 500*time.Millisecond, false)
	writer, err := r.StartStatusWriter(
		t.Context(),
		stage.StatusWriterOptions{Namespace: svc.Namespace, Service: svc.Name, Addresses: nodes},
	)
	if err != nil {
		t.Fatal(err)
	}
	_, message := r.awaitCondition(t, svc, v1alpha1.ServiceAllocated, metav1.ConditionTrue, "StatusContested")
	if !strings.Contains(message, "k3s-servicelb") {
		t.Errorf("the Service says %q, want who else writes", message)
	}
	r.awaitEvent(t, svc, "StatusContested")
	lasts(t, 3*time.Second)
	n, err := writer.Stop()
	if err != nil || n > 8 {
		t.Errorf("the other one wrote %d times (%v), want Berth to leave it alone after three, for longer and longer", n, err)
	}
	r.answers(t, lab.Client, address)
	t.Logf("the other one wrote %d times; a client of the Service: %s", n, end())
}

func testSegmentEdges(t *testing.T, r *rack) {
	// fd00:30::2 belongs to the control plane's host, which is not a node.
	r.apply(t, `
apiVersion: berth.dev/v1alpha1
kind: LoadBalancerPool
metadata: {name: edges}
spec: {addresses: [172.30.0.254-172.30.0.255, "fd00:30::/120"], onRequestAddresses: ["fd00:30::2"], scopes: [{namespaceSelector: {}, serviceSelector: {}}]}
---
apiVersion: berth.dev/v1alpha1
kind: SegmentAnnouncement
metadata: {name: edges}
spec: {poolSelector: {}, nodeSelector: {}, serviceSelector: {}}
`)
	for _, c := range []struct {
		family corev1.IPFamily
		want   string
	}{{corev1.IPv4Protocol, "172.30.0.254"}, {corev1.IPv6Protocol, "fd00:30::3"}} {
		svc := r.serve(t, only(c.family))
		if got := soleAddress(svc).String(); got != c.want {
			t.Errorf("the Service got %s, want %s", got, c.want)
		}
		r.answers(t, lab.Client, soleAddress(svc))
		r.answers(t, lab.Remote, soleAddress(svc))
	}
	r.awaitCondition(
		t, r.ask(t, only(corev1.IPv4Protocol)), v1alpha1.ServiceAllocated, metav1.ConditionFalse, "PoolExhausted",
	)
	for address, what := range map[string]string{
		"172.30.0.255": "the broadcast address of 172.30.0.0/24",
		"fd00:30::":    "the subnet-router anycast address (RFC 4291 section 2.6.1) of fd00:30::/64",
	} {
		family := corev1.IPv4Protocol
		if strings.Contains(address, ":") {
			family = corev1.IPv6Protocol
		}
		_, message := r.awaitCondition(
			t, r.ask(t, only(family), pinned(address)), v1alpha1.ServiceAllocated, metav1.ConditionFalse,
			"AddressExcluded",
		)
		if !strings.Contains(message, address+" is "+what) {
			t.Errorf("who asks for %s is told %q, want %q", address, message, what)
		}
	}
}

// testPoolEdits edits the pools of two Services that name theirs: one is announced by the pool's
// name, one by an announcement of all pools.
func testPoolEdits(t *testing.T, r *rack) {
	r.apply(t, `
apiVersion: berth.dev/v1alpha1
kind: SegmentAnnouncement
metadata: {name: named}
spec: {poolNames: [named, renamed], nodeSelector: {}, serviceSelector: {matchLabels: {announce: named}}}
---
apiVersion: berth.dev/v1alpha1
kind: SegmentAnnouncement
metadata: {name: all}
spec: {poolSelector: {}, nodeSelector: {}, serviceSelector: {matchLabels: {announce: all}}}
`)
	edit := func(name, spec string) {
		t.Helper()
		object := fmt.Sprintf("{apiVersion: berth.dev/v1alpha1, kind: LoadBalancerPool, metadata: {name: %s}, spec: %s}", name, spec)
		if spec == "" {
			if _, err := r.Kubectl(t.Context(), "", "delete", "loadbalancerpool", name); err != nil {
				t.Fatal(err)
			}
			return
		}
		r.apply(t, object)
	}
	const named, all = "172.30.0.220-172.30.0.224", "172.30.0.230-172.30.0.234"
	const everybody, elsewhere = "{namespaceSelector: {}, serviceSelector: {}}", "{namespaceNames: [elsewhere], serviceSelector: {}}"
	holds := func(addresses, scope string) string {
		return fmt.Sprintf("{addresses: [%s], scopes: [%s]}", addresses, scope)
	}
	edit("named", holds(named, everybody))
	edit("all", holds(all, everybody))
	names := func(pool string, labels map[string]string) change {
		return func(svc *corev1.Service) {
			svc.Labels, svc.Annotations = labels, map[string]string{v1alpha1.AnnotationPools: pool}
		}
	}
	services := []*corev1.Service{
		r.serve(t, only(corev1.IPv4Protocol), names("named", map[string]string{"announce": "named"})),
		r.serve(t, only(corev1.IPv4Protocol), names("all", map[string]string{"announce": "all"})),
	}
	ends := map[string]func() probe{}
	for i, want := range []string{"172.30.0.220", "172.30.0.230"} {
		address := soleAddress(services[i])
		if address.String() != want {
			t.Fatalf("Service %d got %s, want %s", i, address, want)
		}
		r.answers(t, lab.Remote, address)
		defer r.claimedOnlyBy(t, r.owner(t, address), address)()
		ends[want] = r.probe(t, lab.Remote, address, probeTimeout, false)
	}
	// both waits for the reasons of both Services, which must keep their addresses.
	both := func(reasons ...string) {
		t.Helper()
		for i, reason := range reasons {
			now, _ := r.awaitCondition(t, services[i], v1alpha1.ServiceAllocated, metav1.ConditionTrue, reason)
			if soleAddress(now) != soleAddress(services[i]) {
				t.Errorf("%s: the Service has %s, had %s", reason, soleAddress(now), soleAddress(services[i]))
			}
			r.announced(t, now)
		}
		lasts(t, 500*time.Millisecond)
	}
	both("Allocated", "Allocated")
	edit("named", "")
	edit("all", holds("172.30.0.234", everybody))
	both("OutsidePools", "OutsidePools")
	edit("named", holds(named, elsewhere))
	edit("all", holds(all, elsewhere))
	both("Allocated", "Allocated")
	for _, pool := range []string{"named", "all"} {
		edit(pool, "")
	}
	both("OutsidePools", "OutsidePools")
	edit("renamed", holds(named, everybody))
	edit("all-renamed", holds(all, everybody))
	both("Allocated", "Allocated")
	for what, end := range ends {
		r.unfailed(t, "a client of "+what, end())
	}
}

// testPrinter gives a host of the segment addresses of the pool. One is requested by a new Service,
// one by a Service that is announced already with another address, and one as the second family.
func testPrinter(t *testing.T, r *rack) {
	defer r.watchOver(t)()
	addresses := []netip.Addr{
		netip.MustParseAddr("172.30.0.141"),
		netip.MustParseAddr("172.30.0.142"),
		netip.MustParseAddr("172.30.0.143"),
	}
	for _, a := range addresses {
		r.hasAddress(t, lab.Client, netip.AddrPortFrom(a, 9100))
	}
	mac, err := r.NodeMAC(lab.Client)
	if err != nil {
		t.Fatal(err)
	}
	r.pool(t, "office", "172.30.0.140-172.30.0.149, \"fd00:30::140-fd00:30::149\"")
	moved := r.serve(t, only(corev1.IPv4Protocol), pinned("172.30.0.148"))
	second := r.serve(t, only(corev1.IPv6Protocol))
	six := soleAddress(second)
	r.answers(t, lab.Remote, soleAddress(moved))
	r.answers(t, lab.Remote, six)

	defer r.claimedOnlyBy(t, lab.Client, addresses...)()
	end := r.probe(t, lab.Remote, six, probeTimeout, false)
	fresh := r.serve(t, only(corev1.IPv4Protocol), pinned("172.30.0.141"))
	r.patch(t, moved, `{"spec":{"loadBalancerIP":"172.30.0.142"}}`)
	r.patch(t, second, `{"spec":{"ipFamilyPolicy":"RequireDualStack","ipFamilies":["IPv6","IPv4"]},"metadata":{"annotations":{"berth.dev/load-balancer-ips":"172.30.0.143"}}}`)
	for i, svc := range []*corev1.Service{fresh, moved, second} {
		_, message := r.awaitCondition(t, svc, v1alpha1.ServiceAnnounced, metav1.ConditionFalse, "AddressConflict")
		if !strings.Contains(message, addresses[i].String()+" is announced by "+mac.String()) {
			t.Errorf("the Service says %q, want the hardware address %s", message, mac)
		}
	}
	for _, address := range addresses {
		r.notDropped(t, address)
		r.podsReach(t, netip.AddrPortFrom(address, 9100))
	}
	r.unfailed(t, "the other family of a Service in conflict", end())
}

// patch changes a Service.
func (r *rack) patch(t *testing.T, svc *corev1.Service, text string) {
	t.Helper()
	if _, err := r.Kubernetes.CoreV1().Services(svc.Namespace).Patch(
		t.Context(), svc.Name, types.MergePatchType, []byte(text), metav1.PatchOptions{},
	); err != nil {
		t.Fatal(err)
	}
}

// testKeepalived adds addresses to a node: one before a Service requests it, and two that Services
// have.
func testKeepalived(t *testing.T, r *rack) {
	defer r.watchOver(t)()
	r.pool(t, "office", "172.30.0.150-172.30.0.159")
	vip, pin := netip.MustParseAddr("172.30.0.156"), netip.MustParseAddr("172.30.0.157")
	const port = 9100
	r.hasAddress(t, "n2", netip.AddrPortFrom(vip, port))
	endVIP := r.claimedOnlyBy(t, "n2", vip)
	asked := r.ask(t, only(corev1.IPv4Protocol), pinned(vip.String()))
	excluded := func(svc *corev1.Service, address netip.Addr) {
		t.Helper()
		_, message := r.awaitCondition(t, svc, v1alpha1.ServiceAllocated, metav1.ConditionFalse, "AddressExcluded")
		if !strings.Contains(message, address.String()+" is on interface eth0 of node n2") {
			t.Errorf("the Service says %q, want where the address is", message)
		}
	}
	excluded(asked, vip)

	named, any := r.serve(t, only(corev1.IPv4Protocol), pinned(pin.String())), r.serve(t, only(corev1.IPv4Protocol))
	before := soleAddress(any)
	r.answers(t, lab.Client, pin)
	r.answers(t, lab.Client, before)
	for _, address := range []netip.Addr{pin, before} {
		r.hasAddress(t, "n2", netip.AddrPortFrom(address, port))
		if err := r.AnnounceAddress("n2", address); err != nil {
			t.Fatal(err)
		}
	}
	excluded(named, pin)
	if got := stage.Addresses(r.get(t, named)); len(got) > 0 {
		t.Errorf("the Service has %v still", got)
	}
	eventually(t, func(context.Context) error {
		any = r.get(t, any)
		if got := stage.Addresses(any); len(got) != 1 || got[0] == before {
			return fmt.Errorf("the Service that takes any address has %v, want another than %s", got, before)
		}
		return nil
	})
	r.answers(t, lab.Client, soleAddress(any))
	for _, address := range []netip.Addr{vip, pin, before} {
		if owner := r.owner(t, address); owner != "n2" {
			t.Errorf("%s answers for %s, which n2 has", owner, address)
		}
		r.notDropped(t, address)
		r.podsReach(t, netip.AddrPortFrom(address, port))
	}
	endVIP()
	if err := r.RemoveAddress("n2", pin); err != nil {
		t.Fatal(err)
	}
	r.awaitCondition(t, named, v1alpha1.ServiceAllocated, metav1.ConditionTrue, "Allocated")
	r.answers(t, lab.Client, pin)
}

// testProxyARP makes the router answer for the pool, and for an unused prefix.
func testProxyARP(t *testing.T, r *rack) {
	for _, prefix := range []string{"172.30.0.192/26", "198.18.0.0/15"} {
		p := netip.MustParsePrefix(prefix)
		t.Cleanup(func() {
			if err := r.StopProxyARP(p); err != nil {
				t.Error(err)
			}
		})
		if err := r.StartProxyARP(p); err != nil {
			t.Fatal(err)
		}
	}
	mac, err := r.NodeMAC(lab.Router)
	if err != nil {
		t.Fatal(err)
	}
	r.pool(t, "office", "172.30.0.240-172.30.0.249")
	svc := r.serve(t, only(corev1.IPv4Protocol))
	eventually(t, func(context.Context) error {
		_, message := r.awaitCondition(t, svc, v1alpha1.ServiceAnnounced, metav1.ConditionTrue, "Announced")
		if !strings.Contains(message, "a router answers ARP for every address on a segment (proxy ARP)") {
			return fmt.Errorf("the Service says %q, want that a router answers for every address", message)
		}
		return nil
	})
	eventually(t, func(ctx context.Context) error {
		speakers, err := r.Berth.Speakers.List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, s := range speakers.Items {
			for _, segment := range s.Status.Segments {
				if segment.ProxyARPMAC == mac.String() {
					return nil
				}
			}
		}
		return fmt.Errorf("no speaker names the router's %s as proxyARPMAC", mac)
	})
	r.answers(t, lab.Client, soleAddress(svc))
}

func testMovesWithoutConflict(t *testing.T, r *rack) {
	r.pool(t, "office", "172.30.0.160-172.30.0.169, \"fd00:30::160-fd00:30::169\"")
	svc, owner := r.away(t)
	t.Cleanup(func() {
		if err := r.Heal(owner); err != nil {
			t.Error(err)
		}
	})
	if err := r.Cut(owner); err != nil { // it has no pod of the Service
		t.Fatal(err)
	}
	r.successor(t, svc, owner)
	if err := r.Heal(owner); err != nil {
		t.Fatal(err)
	}
	r.recovered(t, svc)

	address := r.address(t, svc, corev1.IPv4Protocol)
	next := r.owner(t, address)
	label := func(change string) {
		t.Helper()
		if _, err := r.Kubectl(
			context.WithoutCancel(t.Context()), "", "label", "--overwrite", "node", next, v1alpha1.ExcludeLabel+change,
		); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(func() { label("-") })
	end := r.probe(t, lab.Client, address, probeTimeout, true)
	label("=")
	r.successor(t, svc, next)
	label("-")
	r.unfailed(t, "a client during the planned move", end())
	r.announced(t, svc)
	if reasons := r.reasons(t, svc); slices.Contains(reasons, "AddressConflict") {
		t.Errorf("the events of the Service are %v, want no conflict", reasons)
	}
}
