//go:build root

package api

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/e2e/stage"
)

// A fault in one object, and in one part of it, keeps nothing else from effect. What the objects
// say is in testdata/inputs.txtar.
func TestInvalidObjectLeavesOthersInEffect(t *testing.T) {
	ns := namespace(t)
	start(t)
	apply(t, "LoadBalancerPool", "good", `{addresses: [192.0.2.0/28]}`)
	apply(t, "LoadBalancerPool", "reversed", `{addresses: [198.51.100.9-198.51.100.1, 198.51.100.32/28]}`)
	apply(t, "RouteAnnouncement", "typo", `{neighborNames: [tor]}`)
	apply(t, "BGPNeighbor", "secret", `{localASN: 1, remoteASN: 2, address: 192.0.2.1, authentication: {type: TCPMD5, tcpMD5: {secretName: nobody}}}`)
	awaitReady(t, "loadbalancerpool", "reversed", "False", `spec.addresses[0]: "198.51.100.9-198.51.100.1" is reversed; write 198.51.100.1-198.51.100.9`)
	makeService(t, ns, "web", nil)
	await(t, ns, "web", "Allocated", "192.0.2.0")
	makeService(t, ns, "rest", pin("198.51.100.33"))
	await(t, ns, "rest", "Allocated", "198.51.100.33")

	// Fixed, it is in effect, and says so.
	apply(t, "LoadBalancerPool", "reversed", `{addresses: [198.51.100.1-198.51.100.9, 198.51.100.32/28]}`)
	awaitReady(t, "loadbalancerpool", "reversed", "True", "all of the object is in effect")
	apply(t, "BGPNeighbor", "tor", `{localASN: 1, remoteASN: 2, address: 192.0.2.254}`)
	awaitReady(t, "routeannouncement", "typo", "True", "all of the object is in effect")
	const missing = `spec.authentication.tcpMD5.secretName: there is no Secret "nobody" of type kubernetes.io/basic-auth in Berth's namespace; create it there, with the key "password"; until then speakers that knew a password go on with it, and others have no session`
	awaitReady(t, "bgpneighbor", "secret", "False", missing)
	password := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "nobody", Namespace: stage.Namespace}, Type: corev1.SecretTypeBasicAuth,
		StringData: map[string]string{corev1.BasicAuthUsernameKey: "", corev1.BasicAuthPasswordKey: "a secret"},
	}
	_, err := scene.Kubernetes.CoreV1().Secrets(stage.Namespace).Create(t.Context(), password, metav1.CreateOptions{})
	must(t, err)
	awaitReady(t, "bgpneighbor", "secret", "True", "all of the object is in effect")
	must(t, scene.Kubernetes.CoreV1().Secrets(stage.Namespace).Delete(t.Context(), "nobody", metav1.DeleteOptions{}))
	awaitReady(t, "bgpneighbor", "secret", "False", missing)
}

// A label of a pool or of a neighbor may be what an announcement selects it by.
func TestSelectorsFollowLabels(t *testing.T) {
	ns := namespace(t)
	start(t)
	silenced(t)
	makePool(t, "p", "192.0.2.0/28")
	apply(t, "BGPNeighbor", "tor", `{localASN: 1, remoteASN: 2, address: 192.0.2.254}`)
	apply(t, "RouteAnnouncement", "gold", `{poolSelector: {matchLabels: {tier: gold}}, neighborSelector: {matchLabels: {tier: gold}}}`)
	awaitReady(t, "routeannouncement", "gold", "False", "spec.poolSelector: no LoadBalancerPool has these labels; label one so, or change the selector; spec.neighborSelector: no BGPNeighbor that is in effect has these labels; label one so, or change the selector")
	makeService(t, ns, "web", nil)
	awaitAnnounced(t, ns, "NoAnnouncement", "192.0.2.0 answers nowhere: no SegmentAnnouncement or RouteAnnouncement selects LoadBalancerPool p; create one, or have one select it")
	label := func(kind, name string) {
		t.Helper()
		_, err := scene.Kubectl(t.Context(), "", "label", kind, name, "tier=gold")
		must(t, err)
	}
	label("loadbalancerpools.berth.dev", "p")
	label("bgpneighbors.berth.dev", "tor")
	awaitReady(t, "routeannouncement", "gold", "True", "all of the object is in effect")
	speaks(t, "state: Announcing, sessions: [{neighborName: tor, address: 192.0.2.254, state: Established}]")
	awaitAnnounced(t, ns, "Announced", "by RouteAnnouncement gold; it has no endpoint that is ready or serves, so connections are refused")
}

// awaitAnnounced waits until the Service web is announced so, or not.
func awaitAnnounced(t *testing.T, ns, reason, message string) {
	t.Helper()
	awaitAnnouncedOf(t, ns, "web", reason, message)
}

func awaitAnnouncedOf(t *testing.T, ns, name, reason, message string) {
	t.Helper()
	must(t, stage.Eventually(t.Context(), patience, func(context.Context) error {
		c := meta.FindStatusCondition(get(t, ns, name).Status.Conditions, v1alpha1.ServiceAnnounced)
		if c == nil || c.Reason != reason || c.Message != message {
			return fmt.Errorf("condition %+v, want %s: %s", c, reason, message)
		}
		return nil
	}))
}

// awaitReady waits until the object's condition Ready is as wanted.
func awaitReady(t *testing.T, kind, name, status, message string) {
	t.Helper()
	must(t, stage.Eventually(t.Context(), patience, func(ctx context.Context) error {
		out, err := scene.Kubectl(ctx, "", "get", kind, name, "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].status} {.status.conditions[?(@.type=="Ready")].message}`)
		if err == nil && out != status+" "+message {
			err = fmt.Errorf("%s %s is Ready %q, want %q", kind, name, out, status+" "+message)
		}
		return err
	}))
}

func TestKubectlExplain(t *testing.T) {
	for field, phrase := range map[string]string{
		"loadbalancerpool.spec":                   "addresses of the pool: prefixes",
		"loadbalancerpool.spec.scopes":            "serviceSelector matches the labels of the Services",
		"loadbalancerpool.status.ipv4":            "addresses were freed a moment ago",
		"segmentannouncement.spec":                "interfaces on which to announce",
		"segmentannouncement.spec.preferredNodes": "weight of the nodes, 1 to 100",
		"routeannouncement.spec":                  "BGPNeighbors to which to announce",
		"bgpneighbor.spec":                        "localASN is the autonomous system number",
		"bgpneighbor.spec.authentication":         "signs packets with a password",
		"addressreservation.spec":                 "that gets the addresses whenever it exists",
		"speaker.spec.bgp":                        "BGP router ID of the speaker",
		"speaker.status":                          "sessions with BGP neighbors",
		"speaker.status.segments":                 "interface on the segment",
		"l2owner.status":                          "segment is the first subnet of the segment",
	} {
		out, err := scene.Kubectl(t.Context(), "", "explain", field)
		if err != nil || !strings.Contains(strings.Join(strings.Fields(out), " "), phrase) {
			t.Errorf("kubectl explain %s: %v\n%s\nwants %q", field, err, out, phrase)
		}
	}
}

// The examples of docs/reference, put together, are in effect.
func TestReferenceExamples(t *testing.T) {
	namespace(t)
	start(t)
	silenced(t)
	manifest, err := stage.Manifest()
	must(t, err)
	dir := filepath.Join(filepath.Dir(filepath.Dir(manifest)), "docs", "reference", "examples")
	_, err = scene.Kubectl(t.Context(), "", "apply", "-f", dir)
	must(t, err)
	t.Cleanup(func() { _, _ = scene.Kubectl(context.Background(), "", "delete", "-f", dir) })
	for _, kind := range []string{
		"loadbalancerpool/office", "segmentannouncement/office", "bgpneighbor/tor-a", "routeannouncement/public",
	} {
		kind, name, _ := strings.Cut(kind, "/")
		awaitReady(t, kind, name, "True", "all of the object is in effect")
	}
	awaitReady(t, "addressreservation", "front", "True", "192.0.2.17 and 2001:db8:1:: are kept for namespace default")
}
