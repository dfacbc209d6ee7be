//go:build root

package api

import (
	"context"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/config/v1alpha1/v1alpha1test"
	"github.com/berth-lb/berth/e2e/stage"
)

// speaks writes what the speaker of n1 would report: see report.
func speaks(t *testing.T, status string) {
	t.Helper()
	report(t, "n1", status)
}

// report writes what the speaker of a node would: a status in YAML, with its state, a message about
// that, and what it lacks for IPVS in place of conditions.
func report(t *testing.T, node, text string) {
	t.Helper()
	var said struct {
		v1alpha1.SpeakerStatus `json:",inline"`
		State                  v1alpha1.SpeakerState `json:"state"`
		Message                string                `json:"message"`
		Lacks                  string                `json:"lacks"`
	}
	must(t, yaml.UnmarshalStrict([]byte("{"+text+"}"), &said))
	status := said.SpeakerStatus
	status.Conditions = v1alpha1test.InState(said.State)
	status.Conditions[0].Message = said.Message
	if said.Lacks != "" {
		status.Conditions = append(
			status.Conditions,
			metav1.Condition{
				Type:    v1alpha1.ConditionIPVSReady,
				Status:  metav1.ConditionFalse,
				Reason:  "Unable",
				Message: said.Lacks,
			},
		)
	}
	for i := range status.Conditions {
		status.Conditions[i].LastTransitionTime = metav1.Now()
	}
	must(t, stage.Eventually(t.Context(), patience, func(ctx context.Context) error {
		speaker, err := scene.Berth.Speakers.Get(ctx, node, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			speaker, err = scene.Berth.Speakers.Create(
				ctx, &v1alpha1.Speaker{TypeMeta: typeMeta("Speaker"), ObjectMeta: metav1.ObjectMeta{Name: node}},
				metav1.CreateOptions{},
			)
		}
		if err != nil {
			return err
		}
		speaker.TypeMeta, speaker.Status = typeMeta("Speaker"), status
		_, err = scene.Berth.Speakers.UpdateStatus(ctx, speaker, metav1.UpdateOptions{})
		return err
	}))
}

// eth0 is the report of a speaker that announces on eth0.
const eth0 = "state: Announcing, segments: [{interface: eth0, state: Announcing}]"

// silenced has no speaker report when the test ends.
func silenced(t *testing.T) {
	t.Cleanup(func() { _, _ = scene.Kubectl(context.Background(), "", "delete", "speakers", "--all") })
}

// excludes keeps n1 out of load balancing by a change to the Node, waits until the
// Service says so, and takes it back.
func excludes(t *testing.T, ns, change, back, rule string) {
	t.Helper()
	node := func(ctx context.Context, patch, subresource string) {
		t.Helper()
		_, err := scene.Kubernetes.CoreV1().Nodes().Patch(
			ctx, "n1", "application/strategic-merge-patch+json", []byte(patch), metav1.PatchOptions{}, subresource,
		)
		must(t, err)
	}
	subresource := ""
	if strings.HasPrefix(rule, "has the condition ") {
		subresource = "status"
	}
	node(t.Context(), change, subresource)
	t.Cleanup(func() { node(context.Background(), back, subresource) })
	awaitAnnounced(t, ns, "NoCandidate", "192.0.2.0 is selected by SegmentAnnouncement l2, but no selected node may announce it: n1 "+rule)
	node(t.Context(), back, subresource)
	awaitAnnounced(t, ns, "Announced", announcedByL2)
}

// The Services of these tests have no Pods.
const announcedByL2 = "by SegmentAnnouncement l2; it has no endpoint that is ready or serves, so connections are refused"

// The condition Announced says whether a Service is announced.
func TestAnnouncedCondition(t *testing.T) {
	ns := namespace(t)
	start(t)
	silenced(t)
	makePool(t, "p", "192.0.2.0/28")
	makeService(t, ns, "web", nil)
	awaitAnnounced(t, ns, "NoAnnouncement", "192.0.2.0 answers nowhere: no SegmentAnnouncement or RouteAnnouncement selects LoadBalancerPool p; create one, or have one select it")
	awaitEvent(t, ns, "web", "NoAnnouncement")
	must(t, scene.Apply(t.Context(), object("SegmentAnnouncement", "l2", `{}`)))
	awaitAnnounced(t, ns, "NoSpeaker", "192.0.2.0 is selected by SegmentAnnouncement l2, but no speaker on a selected node announces: n1 has no speaker; see kubectl get speakers.berth.dev")
	speaks(t, eth0)
	awaitAnnounced(t, ns, "Announced", announcedByL2)

	// Each rule that keeps a node from announcing is named.
	excludes(
		t, ns, `{"metadata":{"labels":{"`+v1alpha1.ExcludeLabel+`":""}}}`,
		`{"metadata":{"labels":{"`+v1alpha1.ExcludeLabel+`":null}}}`,
		"has the label "+v1alpha1.ExcludeLabel+"; take the label off, or select other nodes",
	)
	excludes(
		t, ns, `{"spec":{"taints":[{"key":"node.kubernetes.io/out-of-service","effect":"NoSchedule"}]}}`,
		`{"spec":{"taints":null}}`, "has the taint node.kubernetes.io/out-of-service",
	)
	excludes(
		t, ns, `{"spec":{"taints":[{"key":"ToBeDeletedByClusterAutoscaler","effect":"NoSchedule"}]}}`,
		`{"spec":{"taints":null}}`, "has the taint ToBeDeletedByClusterAutoscaler",
	)
	excludes(
		t, ns, `{"status":{"conditions":[{"type":"NetworkUnavailable","status":"True"}]}}`,
		`{"status":{"conditions":[{"type":"NetworkUnavailable","status":"False"}]}}`,
		"has the condition NetworkUnavailable",
	)
	speaks(t, `state: Leaving, message: kube-proxy on this node is unhealthy`)
	awaitAnnounced(t, ns, "NoCandidate", "192.0.2.0 is selected by SegmentAnnouncement l2, but no selected node may announce it: n1 leaves: kube-proxy on this node is unhealthy")

	// By BGP a session is needed too.
	must(t, scene.Apply(t.Context(), object("BGPNeighbor", "tor", `{localASN: 1, remoteASN: 2, address: 192.0.2.254}`)))
	must(t, scene.Apply(t.Context(), object("RouteAnnouncement", "bgp", `{neighborNames: [tor]}`)))
	_, err := scene.Kubectl(t.Context(), "", "delete", "segmentannouncement", "l2")
	must(t, err)
	speaks(t, eth0)
	awaitAnnounced(t, ns, "NoSession", "192.0.2.0 is selected by RouteAnnouncement bgp, but no selected node has a session for it: n1 has no established session with a neighbor selected there; see kubectl get speakers.berth.dev")
	awaitSessions(t, "tor", "0/1", "1 of 1 session not established: n1: its speaker does not report the session yet")
	const refused = "peer says AS 64513, configured 2"
	speaks(t, `state: Announcing, sessions: [{neighborName: tor, address: 192.0.2.254, state: Down, lastError: "`+refused+`"}]`)
	awaitAnnounced(
		t, ns, "NoSession",
		"192.0.2.0 is selected by RouteAnnouncement bgp, but no selected node has a session for it: n1 has no established session with a neighbor selected there (BGPNeighbor tor: "+refused+"); see kubectl get speakers.berth.dev",
	)
	awaitSessions(t, "tor", "0/1", "1 of 1 session not established: n1: "+refused)
	// Another reason is told, too, though nothing else changes.
	const unreached = "cannot connect: connection refused"
	speaks(t, `state: Announcing, sessions: [{neighborName: tor, address: 192.0.2.254, state: Down, lastError: "`+unreached+`"}]`)
	awaitAnnounced(
		t, ns, "NoSession",
		"192.0.2.0 is selected by RouteAnnouncement bgp, but no selected node has a session for it: n1 has no established session with a neighbor selected there (BGPNeighbor tor: "+unreached+"); see kubectl get speakers.berth.dev",
	)
	speaks(t, `state: Announcing, sessions: [{neighborName: tor, address: "", state: Established}]`)
	awaitAnnounced(t, ns, "Announced", "by RouteAnnouncement bgp; it has no endpoint that is ready or serves, so connections are refused")
	speaks(t, `state: Announcing, sessions: [{neighborName: other, address: "", state: Established}, {neighborName: tor, address: "", state: Established, families: [IPv4]}]`)
	speaks(t, `state: Announcing, sessions: [{neighborName: tor, address: "", state: Established, families: [IPv6]}]`)
	awaitAnnounced(t, ns, "NoSession", "192.0.2.0 is selected by RouteAnnouncement bgp, but no selected node has a session for it: n1 has no session there that carries IPv4; see kubectl get speakers.berth.dev")
	must(t, scene.Apply(t.Context(), object("BGPNeighbor", "tor2", `{localASN: 1, remoteASN: 2, address: 192.0.2.253}`)))
	must(t, scene.Apply(t.Context(), object("RouteAnnouncement", "bgp", `{neighborNames: [tor, tor2]}`)))
	speaks(t, `state: Announcing, sessions: [{neighborName: tor, address: "", state: Established}]`)
	awaitAnnounced(t, ns, "Announced", "by RouteAnnouncement bgp; it has no endpoint that is ready or serves, so connections are refused")
	// A session more changes nothing for the Service.
	before := get(t, ns, "web").ResourceVersion
	speaks(t, `state: Announcing, sessions: [{neighborName: tor, address: "", state: Established}, {neighborName: tor2, address: "", state: Established}]`)
	awaitSessions(t, "tor2", "1/1", "1 session established")
	if got := get(t, ns, "web").ResourceVersion; got != before {
		t.Error("the Service was written, though it is announced by the same announcements")
	}
	awaitSessions(t, "tor", "1/1", "1 session established")
}

// awaitSessions waits until the BGPNeighbor counts its sessions so, and says this of them.
func awaitSessions(t *testing.T, neighbor, summary, message string) {
	t.Helper()
	must(t, stage.Eventually(t.Context(), patience, func(ctx context.Context) error {
		o, err := scene.Berth.BGPNeighbors.Get(ctx, neighbor, metav1.GetOptions{})
		if err != nil {
			return err
		}
		c := meta.FindStatusCondition(o.Status.Conditions, v1alpha1.ConditionEstablished)
		if c == nil || c.Message != message || o.Status.SessionCounts.Summary != summary {
			return fmt.Errorf(
				"BGPNeighbor %s: sessions %s, condition %+v, want %s, %q", neighbor, o.Status.SessionCounts.Summary, c,
				summary, message,
			)
		}
		return nil
	}))
}

// The condition Announced warns, and only the Service that it is about is written.
func TestAnnouncedConditionWarns(t *testing.T) {
	ns := namespace(t)
	r := start(t)
	silenced(t)
	makePool(t, "p", "192.0.2.0/28")
	must(t, scene.Apply(t.Context(), object("SegmentAnnouncement", "l2", `{}`)))
	speaks(t, eth0)
	makeService(t, ns, "web", nil)
	awaitAnnounced(t, ns, "Announced", announcedByL2)
	makeService(t, ns, "other", nil)
	awaitAnnouncedOf(t, ns, "other", "Announced", announcedByL2)

	const refused = "; it has no endpoint that is ready or serves, so connections are refused"
	// Clients beyond the segment get their replies by another way, or not at all.
	speaks(t, "state: Announcing, segments: [{interface: eth0, state: Announcing, returnPath: OtherInterface}]")
	awaitAnnounced(t, ns, "Announced", "by SegmentAnnouncement l2"+refused+"; clients beyond the segment may get no reply from some nodes, whose routes to them leave by another interface (spec.nodeSelector can leave those out; see returnPath in kubectl get speakers.berth.dev -o yaml)")
	speaks(t, `state: Announcing, segments: [{interface: eth0, state: Announcing, proxyARPMAC: "02:00:00:00:00:fe"}]`)
	awaitAnnounced(t, ns, "Announced", "by SegmentAnnouncement l2"+refused+"; some clients may not reach it, since a router answers ARP for every address on a segment (proxy ARP); turn that off there (see proxyARPMAC in kubectl get speakers.berth.dev -o yaml)")
	speaks(t, eth0)
	awaitAnnounced(t, ns, "Announced", announcedByL2)
	awaitAnnouncedOf(t, ns, "other", "Announced", announcedByL2)
	before, looked := get(t, ns, "other").ResourceVersion, r.writes(t)

	// A foreign host has the address.
	speaks(t, eth0+`, conflicts: [{address: 192.0.2.0, mac: "02:00:00:00:00:99", interface: eth0}]`)
	awaitAnnounced(t, ns, "AddressConflict", "192.0.2.0 is announced by 02:00:00:00:00:99 too, heard on eth0 of node n1: a host that is not Berth's has the address; take it from that host, or exclude it with spec.reserved of its LoadBalancerPool and ask for another")
	awaitEvent(t, ns, "web", "AddressConflict")
	if got := get(t, ns, "other").ResourceVersion; got != before {
		t.Error("another Service was written too")
	}
	if got := r.writes(t) - looked; got != 1 {
		t.Errorf("%v writes, want 1", got)
	}
	speaks(t, eth0)
	awaitAnnounced(t, ns, "Announced", announcedByL2)
}

// makeEndpoint makes an EndpointSlice of the Service web, with an endpoint on a node.
func makeEndpoint(t *testing.T, ns, name, node string, ready bool) {
	t.Helper()
	conditions := discoveryv1.EndpointConditions{Ready: &ready}
	_, err := scene.Kubernetes.DiscoveryV1().EndpointSlices(ns).Create(t.Context(), &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: ns,
			Name:      name,
			Labels:    map[string]string{discoveryv1.LabelServiceName: "web"},
		},
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
	must(t, scene.Apply(t.Context(), object("SegmentAnnouncement", "l2", `{}`)))
	speaks(t, eth0)
	makeService(
		t,
		ns,
		"web",
		func(s *corev1.ServiceSpec) { s.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal },
	)
	const nowhere = "192.0.2.0 is selected by SegmentAnnouncement l2, but no node has an endpoint of the Service that is ready, or terminating and serving (externalTrafficPolicy Local); see its EndpointSlices"
	awaitAnnounced(t, ns, "NoEndpoints", nowhere)
	makeEndpoint(t, ns, "web-unready", "n1", false)
	makeEndpoint(t, ns, "web-elsewhere", "n2", true)
	awaitAnnounced(t, ns, "NoCandidate", "192.0.2.0 is selected by SegmentAnnouncement l2, but no selected node may announce it: n1 has no ready endpoint")
	makeEndpoint(t, ns, "web-here", "n1", true)
	awaitAnnounced(t, ns, "Announced", "by SegmentAnnouncement l2, from nodes with a ready Pod (externalTrafficPolicy Local)")
	must(
		t,
		scene.Kubernetes.DiscoveryV1().EndpointSlices(
			ns,
		).DeleteCollection(
			t.Context(), metav1.DeleteOptions{},
			metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=web"},
		),
	)
	awaitAnnounced(t, ns, "NoEndpoints", nowhere)
}

func TestAnAddressIsAnnouncedWhenTheLabelsOfAServiceThatHasItAreSelected(t *testing.T) {
	ns := namespace(t)
	start(t)
	silenced(t)
	makePool(t, "p", "192.0.2.0/28")
	must(t, scene.Apply(t.Context(), object("SegmentAnnouncement", "l2", `{serviceSelector: {matchLabels: {tier: web}}}`)))
	speaks(t, eth0)
	shared := map[string]string{v1alpha1.AnnotationSharingKey: "k"}
	annotated(t, ns, "web", shared, on(80))
	annotated(t, ns, "too", shared, func(s *corev1.ServiceSpec) { on(81)(s); pin("192.0.2.0")(s) })
	await(t, ns, "too", "Allocated", "192.0.2.0")
	awaitAnnounced(t, ns, "NoAnnouncement", "192.0.2.0 answers nowhere: SegmentAnnouncement l2 selects LoadBalancerPool p, but not this Service, by its serviceSelector; change that, or the labels of the Service")
	patch(t, ns, "too", `{"metadata":{"labels":{"tier":"web"}}}`)
	awaitAnnounced(t, ns, "Announced", announcedByL2)
	patch(t, ns, "too", `{"metadata":{"labels":{"tier":"db"}}}`)
	awaitAnnounced(t, ns, "NoAnnouncement", "192.0.2.0 answers nowhere: SegmentAnnouncement l2 selects LoadBalancerPool p, but not this Service, by its serviceSelector; change that, or the labels of the Service")
}
