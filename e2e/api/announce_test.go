//go:build root

package api

import (
	"context"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config/v1alpha1"
)

// speaks writes what the speaker of n1 would report, as a status in YAML.
func speaks(t *testing.T, status string) {
	t.Helper()
	must(t, scene.Apply(t.Context(), "apiVersion: berth.dev/v1alpha1\nkind: SpeakerStatus\nmetadata: {name: n1}\nstatus: {groupsOwned: 0, prefixesAnnounced: 0, "+status+"}\n"))
}

// eth0 is the report of a speaker that announces on eth0.
const eth0 = "state: Ready, segments: [{interface: eth0, announcing: true, peersAlive: 0, groupsOwned: 0}]"

// silenced has no speaker report when the test ends.
func silenced(t *testing.T) {
	t.Cleanup(func() { _, _ = scene.Kubectl(context.Background(), "", "delete", "speakerstatuses", "--all") })
}

// excludes keeps n1 out of load balancing by a change to the Node, waits until the
// Service says so, and takes it back.
func excludes(t *testing.T, ns, change, back, rule string) {
	t.Helper()
	node := func(ctx context.Context, patch, subresource string) {
		t.Helper()
		_, err := scene.Kubernetes.CoreV1().Nodes().Patch(ctx, "n1", "application/strategic-merge-patch+json", []byte(patch), metav1.PatchOptions{}, subresource)
		must(t, err)
	}
	subresource := ""
	if rule == "has the condition NetworkUnavailable" {
		subresource = "status"
	}
	node(t.Context(), change, subresource)
	t.Cleanup(func() { node(context.Background(), back, subresource) })
	awaitAnnounced(t, ns, "NoCandidate", "192.0.2.0 is selected by L2Advertisement l2, but no selected node may announce it: n1 "+rule)
	node(t.Context(), back, subresource)
	awaitAnnounced(t, ns, "Announced", announcedByL2)
}

// The Services of these tests have no Pods.
const announcedByL2 = "by L2Advertisement l2; it has no endpoint that is ready or serves, so connections are refused"

func TestAServiceSaysWhetherItIsAnnounced(t *testing.T) {
	ns := namespace(t)
	start(t)
	silenced(t)
	makePool(t, "p", "192.0.2.0/28")
	makeService(t, ns, "web", nil)
	awaitAnnounced(t, ns, "NoAdvertisement", "192.0.2.0 answers nowhere: no L2Advertisement or BGPAdvertisement selects IPPool p; create one")
	awaitEvent(t, ns, "web", "NoAdvertisement")
	must(t, scene.Apply(t.Context(), object("L2Advertisement", "l2", `{}`)))
	awaitAnnounced(t, ns, "NoSpeaker", "192.0.2.0 is selected by L2Advertisement l2, but no speaker on a selected node announces: n1 has no speaker; see kubectl get speakerstatuses")
	speaks(t, eth0)
	awaitAnnounced(t, ns, "Announced", announcedByL2)

	// Each rule that keeps a node from announcing is named.
	excludes(t, ns, `{"metadata":{"labels":{"`+v1alpha1.ExcludeLabel+`":""}}}`, `{"metadata":{"labels":{"`+v1alpha1.ExcludeLabel+`":null}}}`, "has the label "+v1alpha1.ExcludeLabel)
	excludes(t, ns, `{"spec":{"taints":[{"key":"node.kubernetes.io/out-of-service","effect":"NoSchedule"}]}}`, `{"spec":{"taints":null}}`, "has the taint node.kubernetes.io/out-of-service")
	excludes(t, ns, `{"spec":{"taints":[{"key":"ToBeDeletedByClusterAutoscaler","effect":"NoSchedule"}]}}`, `{"spec":{"taints":null}}`, "has the taint ToBeDeletedByClusterAutoscaler")
	excludes(t, ns, `{"status":{"conditions":[{"type":"NetworkUnavailable","status":"True"}]}}`, `{"status":{"conditions":[{"type":"NetworkUnavailable","status":"False"}]}}`, "has the condition NetworkUnavailable")
	speaks(t, `state: Leaving, reason: kube-proxy on this node is unhealthy`)
	awaitAnnounced(t, ns, "NoCandidate", "192.0.2.0 is selected by L2Advertisement l2, but no selected node may announce it: n1 leaves: kube-proxy on this node is unhealthy")

	// By BGP a session is needed too.
	must(t, scene.Apply(t.Context(), object("BGPPeer", "tor", `{localASN: 1, peerASN: 2, address: 192.0.2.254}`)))
	must(t, scene.Apply(t.Context(), object("BGPAdvertisement", "bgp", `{peers: [tor]}`)))
	_, err := scene.Kubectl(t.Context(), "", "delete", "l2advertisement", "l2")
	must(t, err)
	speaks(t, eth0)
	awaitAnnounced(t, ns, "NoSession", "192.0.2.0 is selected by BGPAdvertisement bgp, but no selected node has a session for it: n1 has no established session with a peer named there; see kubectl get speakerstatuses")
	speaks(t, "state: Ready, sessions: [{peer: tor, state: Established}]")
	awaitAnnounced(t, ns, "Announced", "by BGPAdvertisement bgp: 1 node, 1 session; it has no endpoint that is ready or serves, so connections are refused")
	speaks(t, "state: Ready, sessions: [{peer: other, state: Established}, {peer: tor, state: Established, families: [IPv4]}]")
	speaks(t, "state: Ready, sessions: [{peer: tor, state: Established, families: [IPv6]}]")
	awaitAnnounced(t, ns, "NoSession", "192.0.2.0 is selected by BGPAdvertisement bgp, but no selected node has a session for it: n1 has no session with a peer named there that carries IPv4; see kubectl get speakerstatuses")
	must(t, scene.Apply(t.Context(), object("BGPPeer", "tor2", `{localASN: 1, peerASN: 2, address: 192.0.2.253}`)))
	must(t, scene.Apply(t.Context(), object("BGPAdvertisement", "bgp", `{peers: [tor, tor2]}`)))
	speaks(t, "state: Ready, sessions: [{peer: tor, state: Established}]")
	awaitAnnounced(t, ns, "Announced", "by BGPAdvertisement bgp: 1 node, 1 session; it has no endpoint that is ready or serves, so connections are refused")
	// Mere numbers are written when they have been the same for a while.
	speaks(t, "state: Ready, sessions: [{peer: tor, state: Established}, {peer: tor2, state: Established}]")
	awaitAnnounced(t, ns, "Announced", "by BGPAdvertisement bgp: 1 node, 2 sessions; it has no endpoint that is ready or serves, so connections are refused")
}

func TestAServiceSaysWhichNodeAnswersAndOnlyThatServiceIsWrittenWhenItMoves(t *testing.T) {
	ns := namespace(t)
	r := start(t)
	silenced(t)
	makePool(t, "p", "192.0.2.0/28")
	must(t, scene.Apply(t.Context(), object("L2Advertisement", "l2", `{}`)))
	speaks(t, eth0)
	makeService(t, ns, "web", nil)
	awaitAnnounced(t, ns, "Announced", announcedByL2)
	makeService(t, ns, "other", nil)
	awaitAnnouncedOf(t, ns, "other", "Announced", announcedByL2)

	owner := func(node, segment string) {
		t.Helper()
		must(t, scene.Apply(t.Context(), fmt.Sprintf("apiVersion: berth.dev/v1alpha1\nkind: L2Owner\nmetadata: {name: web-1, namespace: %s}\nspec: {group: %s/web l2, addresses: [192.0.2.0], node: %s, segment: %s, interface: eth0}\n", ns, ns, node, segment)))
	}
	const refused = "; it has no endpoint that is ready or serves, so connections are refused"
	owner("n1", "172.30.0.0/24")
	awaitAnnounced(t, ns, "Announced", "by L2Advertisement l2: n1 answers on 172.30.0.0/24"+refused)
	before, looked := get(t, ns, "other").ResourceVersion, r.writes(t)
	owner("n1", "172.31.0.0/24")
	awaitAnnounced(t, ns, "Announced", "by L2Advertisement l2: n1 answers on 172.31.0.0/24"+refused)
	if got := get(t, ns, "other").ResourceVersion; got != before {
		t.Error("another Service was written too")
	}
	if got := r.writes(t) - looked; got != 1 {
		t.Errorf("%v writes, want 1", got)
	}
	// Clients beyond the segment get their replies by another way, or not at all.
	speaks(t, "state: Ready, segments: [{interface: eth0, announcing: true, peersAlive: 0, groupsOwned: 0, returnPath: false}]")
	awaitAnnounced(t, ns, "Announced", "by L2Advertisement l2: n1 answers on 172.31.0.0/24 (clients beyond the segment may get no reply: its routes to them do not leave by eth0)"+refused)
	speaks(t, eth0)
	must(t, scene.Berth.L2Owners(ns).Delete(t.Context(), "web-1", metav1.DeleteOptions{}))
	awaitAnnounced(t, ns, "Announced", "by L2Advertisement l2"+refused)

	// A foreign host has the address.
	speaks(t, eth0+`, conflicts: [{address: 192.0.2.0, mac: "02:00:00:00:00:99", interface: eth0}]`)
	awaitAnnounced(t, ns, "AddressConflict", "192.0.2.0 is announced by 02:00:00:00:00:99 too, heard on eth0 of node n1: a host that is not Berth's has the address; take it from that host, or exclude it with spec.reserved of its IPPool and ask for another")
	awaitEvent(t, ns, "web", "AddressConflict")
	if got := get(t, ns, "other").ResourceVersion; got != before {
		t.Error("another Service was written too")
	}
	speaks(t, eth0)
	awaitAnnounced(t, ns, "Announced", announcedByL2)
}

// makeEndpoint makes an EndpointSlice of the Service web, with an endpoint on a node.
func makeEndpoint(t *testing.T, ns, name, node string, ready bool) {
	t.Helper()
	conditions := discoveryv1.EndpointConditions{Ready: &ready}
	_, err := scene.Kubernetes.DiscoveryV1().EndpointSlices(ns).Create(t.Context(), &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: ns, Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{"10.0.0.1"}, NodeName: &node, Conditions: conditions}},
	}, metav1.CreateOptions{})
	must(t, err)
}

func TestAServiceOfPolicyLocalSaysWhenNoNodeHasAnEndpoint(t *testing.T) {
	ns := namespace(t)
	start(t)
	silenced(t)
	makePool(t, "p", "192.0.2.0/28")
	must(t, scene.Apply(t.Context(), object("L2Advertisement", "l2", `{}`)))
	speaks(t, eth0)
	makeService(t, ns, "web", func(s *corev1.ServiceSpec) { s.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal })
	const nowhere = "192.0.2.0 is selected by L2Advertisement l2, but no node has an endpoint of the Service that is ready, or terminating and serving (externalTrafficPolicy Local); see its EndpointSlices"
	awaitAnnounced(t, ns, "NoEndpoints", nowhere)
	makeEndpoint(t, ns, "web-unready", "n1", false)
	makeEndpoint(t, ns, "web-elsewhere", "n2", true)
	awaitAnnounced(t, ns, "NoCandidate", "192.0.2.0 is selected by L2Advertisement l2, but no selected node may announce it: n1 has no ready endpoint")
	makeEndpoint(t, ns, "web-here", "n1", true)
	awaitAnnounced(t, ns, "Announced", "by L2Advertisement l2, from nodes with a ready Pod (externalTrafficPolicy Local)")
	must(t, scene.Kubernetes.DiscoveryV1().EndpointSlices(ns).DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=web"}))
	awaitAnnounced(t, ns, "NoEndpoints", nowhere)
}

func TestAnAddressIsAnnouncedWhenTheLabelsOfAServiceThatHasItAreSelected(t *testing.T) {
	ns := namespace(t)
	start(t)
	silenced(t)
	makePool(t, "p", "192.0.2.0/28")
	must(t, scene.Apply(t.Context(), object("L2Advertisement", "l2", `{serviceSelectors: [{matchLabels: {tier: web}}]}`)))
	speaks(t, eth0)
	shared := map[string]string{v1alpha1.AnnotationSharingKey: "k"}
	annotated(t, ns, "web", shared, on(80))
	annotated(t, ns, "too", shared, func(s *corev1.ServiceSpec) { on(81)(s); pin("192.0.2.0")(s) })
	await(t, ns, "too", "Allocated", "192.0.2.0")
	awaitAnnounced(t, ns, "NoAdvertisement", "192.0.2.0 answers nowhere: an L2Advertisement selects IPPool p, but its serviceSelectors do not match the labels of this Service; mend either")
	patch(t, ns, "too", `{"metadata":{"labels":{"tier":"web"}}}`)
	awaitAnnounced(t, ns, "Announced", announcedByL2)
	patch(t, ns, "too", `{"metadata":{"labels":{"tier":"db"}}}`)
	awaitAnnounced(t, ns, "NoAdvertisement", "192.0.2.0 answers nowhere: an L2Advertisement selects IPPool p, but its serviceSelectors do not match the labels of this Service; mend either")
}
