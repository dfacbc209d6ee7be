//go:build root

package api

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/e2e/stage"
)

// Reports of a speaker that announces on eth0, and can forward by IPVS or not.
const (
	canForward    = eth0 + ", ipvs: {schedulers: [rr, mh], virtualServers: 0}"
	cannotForward = eth0 + ", lacks: the kernel has no IPVS, ipvs: {virtualServers: 0}"
	notAsked      = eth0
)

const noEndpoint = "; it has no endpoint that is ready or serves, so connections are refused"

// awaitForwarder waits until the status of the Service web shows the ipMode for all its addresses,
// and the condition Announced has the message.
func awaitForwarder(t *testing.T, ns string, mode corev1.LoadBalancerIPMode, message string) *corev1.Service {
	t.Helper()
	var svc *corev1.Service
	must(t, stage.Eventually(t.Context(), patience, func(context.Context) error {
		svc = get(t, ns, "web")
		if len(svc.Status.LoadBalancer.Ingress) == 0 {
			return fmt.Errorf("the Service has no address")
		}
		for _, i := range svc.Status.LoadBalancer.Ingress {
			if i.IPMode == nil || *i.IPMode != mode {
				return fmt.Errorf("ingress %+v, want ipMode %s", i, mode)
			}
		}
		if c := meta.FindStatusCondition(svc.Status.Conditions, v1alpha1.ServiceAnnounced); c == nil || c.Message != message {
			return fmt.Errorf("condition %+v, want %s", c, message)
		}
		return nil
	}))
	return svc
}

// awaitTold waits for an event about the Service web with this reason, type and message.
func awaitTold(t *testing.T, ns, reason, kind, message string) {
	t.Helper()
	must(t, stage.Eventually(t.Context(), patience, func(ctx context.Context) error {
		list, err := scene.Kubernetes.CoreV1().Events(
			ns,
		).List(
			ctx,
			metav1.ListOptions{FieldSelector: "involvedObject.name=web,reason=" + reason},
		)
		if err != nil {
			return err
		}
		var told []string
		for _, e := range list.Items {
			if e.Type == kind && e.Message == message {
				return nil
			}
			told = append(told, e.Type+": "+e.Message)
		}
		return fmt.Errorf("events %q, want %s: %s", told, kind, message)
	}))
}

// forwards plays a speaker that can forward, then cannot, to a controller that was started, and a
// Service web.
func forwards(t *testing.T, ns string, r *running) {
	t.Helper()
	silenced(t)
	apply(t, "LoadBalancerPool", "p", `{addresses: [192.0.2.0/28], dataplane: IPVS}`)
	apply(t, "SegmentAnnouncement", "l2", `{}`)
	speaks(t, canForward)
	makeService(t, ns, "web", nil)
	const byIPVS = "by SegmentAnnouncement l2" + noEndpoint
	awaitForwarder(t, ns, corev1.LoadBalancerIPModeProxy, byIPVS)
	awaitTold(t, ns, "Forwarder", "Normal", "IPVS forwards, by scheduler rr (ipMode Proxy)")

	// A speaker that is replaced is back in a moment, and how many virtual servers it has is no news.
	writes := r.writes(t)
	speaks(t, strings.Replace(canForward, "virtualServers: 0", "virtualServers: 7", 1))
	speaks(t, strings.Replace(canForward, "state: Announcing, segments", "state: Restarting, segments", 1))
	awaitForwarder(t, ns, corev1.LoadBalancerIPModeProxy, "192.0.2.0 is selected by SegmentAnnouncement l2, but no speaker on a selected node announces: n1 has a speaker that is Restarting; see kubectl get speakers.berth.dev")
	const stopped = "192.0.2.0 is selected by SegmentAnnouncement l2, but no speaker on a selected node announces: n1 has a speaker that is Stopped; see kubectl get speakers.berth.dev"
	speaks(t, strings.Replace(canForward, "state: Announcing, segments", "state: Replaced, segments", 1))
	awaitForwarder(t, ns, corev1.LoadBalancerIPModeProxy, strings.Replace(stopped, "Stopped", "Replaced", 1))
	speaks(t, canForward)
	awaitForwarder(t, ns, corev1.LoadBalancerIPModeProxy, byIPVS)
	if got := r.writes(t) - writes; got != 3 {
		t.Errorf("%v writes while the speaker restarts, want those of the condition, 3", got)
	}
	// One that has ended for good is not.
	speaks(t, strings.Replace(canForward, "state: Announcing, segments", "state: Stopped, segments", 1))
	awaitForwarder(t, ns, corev1.LoadBalancerIPModeVIP, stopped)
	speaks(t, canForward)
	awaitForwarder(t, ns, corev1.LoadBalancerIPModeProxy, byIPVS)

	// Another scheduler is one that the node lacks.
	patch(t, ns, "web", `{"metadata":{"annotations":{"berth.dev/ipvs-scheduler":"wlc"}}}`)
	const lacks = "kube-proxy forwards, since no node can by IPVS: n1 cannot forward by IPVS (its kernel did not show scheduler wlc)"
	awaitForwarder(t, ns, corev1.LoadBalancerIPModeVIP, byIPVS+"; "+lacks)
	awaitTold(t, ns, "Forwarder", "Warning", lacks+" (ipMode VIP)")
	// One that does not exist is told, and the pool's serves.
	patch(t, ns, "web", `{"metadata":{"annotations":{"berth.dev/ipvs-scheduler":"best"}}}`)
	const none = `; annotation berth.dev/ipvs-scheduler: "best" is not a valid scheduler, so rr of LoadBalancerPool p serves; write one of rr, wrr, lc, wlc, dh, sh, sed, nq, mh`
	awaitForwarder(t, ns, corev1.LoadBalancerIPModeProxy, byIPVS+none)
	awaitTold(t, ns, "Announced", "Warning", byIPVS+none)
	patch(t, ns, "web", `{"metadata":{"annotations":{"berth.dev/ipvs-scheduler":"mh"}}}`)
	awaitForwarder(t, ns, corev1.LoadBalancerIPModeProxy, byIPVS)

	speaks(t, cannotForward)
	const nobody = "kube-proxy forwards, since no node can by IPVS: n1 cannot forward by IPVS (the kernel has no IPVS)"
	awaitForwarder(t, ns, corev1.LoadBalancerIPModeVIP, byIPVS+"; "+nobody)
	awaitTold(t, ns, "Forwarder", "Warning", nobody+" (ipMode VIP)")
	speaks(t, notAsked)
	awaitForwarder(t, ns, corev1.LoadBalancerIPModeVIP, byIPVS+"; kube-proxy forwards, since no node can by IPVS: n1 cannot forward by IPVS (its speaker was not asked to)")
	speaks(t, canForward)
	awaitForwarder(t, ns, corev1.LoadBalancerIPModeProxy, byIPVS)
	// An ipMode that somebody changed is put back.
	patch(t, ns, "web", `{"status":{"loadBalancer":{"ingress":[{"ip":"192.0.2.0"}]}}}`, "status")
	awaitForwarder(t, ns, corev1.LoadBalancerIPModeProxy, byIPVS)
	// The pool is kube-proxy's again.
	apply(t, "LoadBalancerPool", "p", `{addresses: [192.0.2.0/28]}`)
	awaitForwarder(t, ns, corev1.LoadBalancerIPModeVIP, byIPVS+`; annotation berth.dev/ipvs-scheduler: "mh" has no effect: 192.0.2.0 is of LoadBalancerPool p (dataplane KubeProxy); take it out, or ask for a pool with dataplane IPVS with annotation berth.dev/pools`)
	awaitTold(t, ns, "Forwarder", "Normal", "kube-proxy forwards (ipMode VIP)")
}

// The status has ipMode Proxy as long as a node can forward by IPVS.
func TestIPModeFollowsNodes(t *testing.T) {
	ns := namespace(t)
	forwards(t, ns, start(t))
}

// The status has ipMode Proxy as long as a node can forward by IPVS.
func TestProviderIPModeFollowsNodes(t *testing.T) {
	ns := namespace(t)
	forwards(t, ns, startProvider(t, ns))
}

// A restart of the controller does not change ipMode.
func TestRestartKeepsIPMode(t *testing.T) {
	for _, c := range []struct {
		name  string
		start func(*testing.T, string) *running
	}{
		{"own reconciler", func(t *testing.T, _ string) *running { return start(t) }},
		{"cloud provider", startProvider},
	} {
		t.Run(c.name, func(t *testing.T) {
			ns := namespace(t)
			first := c.start(t, ns)
			silenced(t)
			apply(t, "LoadBalancerPool", "p", `{addresses: [192.0.2.0/28], dataplane: IPVS, ipvs: {scheduler: mh}}`)
			apply(t, "SegmentAnnouncement", "l2", `{}`)
			speaks(t, canForward)
			makeService(t, ns, "web", nil)
			before := awaitForwarder(t, ns, corev1.LoadBalancerIPModeProxy, "by SegmentAnnouncement l2"+noEndpoint)
			first.stop()
			second := c.start(t, ns)
			makeService(t, ns, "next", nil)
			await(t, ns, "next", "Allocated", "192.0.2.1")
			if after := get(t, ns, "web"); after.ResourceVersion != before.ResourceVersion {
				t.Errorf("the Service was written: %+v", after.ManagedFields)
			}
			if n := second.writes(t); n != 1 {
				t.Errorf("%v writes after the restart, want that of the new Service", n)
			}
		})
	}
}

// All addresses of a Service have the same dataplane.
func TestOneDataplanePerService(t *testing.T) {
	ns := namespace(t)
	start(t)
	silenced(t)
	apply(t, "LoadBalancerPool", "four", `{addresses: [192.0.2.0/28], dataplane: IPVS}`)
	apply(t, "LoadBalancerPool", "six", `{addresses: ["2001:db8::/124"]}`)
	apply(t, "SegmentAnnouncement", "l2", `{}`)
	speaks(t, canForward)
	makeService(t, ns, "web", families(corev1.IPFamilyPolicyRequireDualStack, corev1.IPv4Protocol, corev1.IPv6Protocol))
	awaitForwarder(
		t, ns, corev1.LoadBalancerIPModeVIP,
		"by SegmentAnnouncement l2"+noEndpoint+"; kube-proxy forwards, since a Service has one dataplane: 192.0.2.0 is of LoadBalancerPool four (dataplane IPVS), 2001:db8:: is of LoadBalancerPool six (dataplane KubeProxy); give these pools the same spec.dataplane, or ask for others with annotation berth.dev/pools",
	)
	apply(t, "LoadBalancerPool", "six", `{addresses: ["2001:db8::/124"], dataplane: IPVS}`)
	awaitForwarder(t, ns, corev1.LoadBalancerIPModeProxy, "by SegmentAnnouncement l2"+noEndpoint)
	// As docs/guides/ipvs.md says.
	modes, err := scene.Kubectl(t.Context(), "", "get", "services", "-n", ns, "--no-headers", "-o",
		"custom-columns=NAMESPACE:.metadata.namespace,NAME:.metadata.name,MODE:.status.loadBalancer.ingress[*].ipMode")
	must(t, err)
	if got, want := strings.Fields(modes), []string{ns, "web", "Proxy,Proxy"}; !slices.Equal(got, want) {
		t.Errorf("modes %q, want %q", got, want)
	}
}
