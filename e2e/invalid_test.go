//go:build root

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/e2e/lab"
)

// testInvalidObjects keeps sending requests to a Service that existed before.
func testInvalidObjects(t *testing.T, r *rack) {
	served := r.address(t, r.serve(t), corev1.IPv4Protocol)
	r.answers(t, lab.Client, served)
	stop := r.probe(t, lab.Client, served, probeTimeout, false)

	const everybody = "[{namespaceSelector: {}, serviceSelector: {}}]"
	for _, c := range []struct{ name, kind, spec, message string }{
		{
			name:    "a pool of no prefix",
			kind:    "LoadBalancerPool",
			spec:    "{addresses: [300.1.2.0/24], scopes: " + everybody + "}",
			message: "300.1.2.0/24 is not an address (192.0.2.1), a prefix (192.0.2.0/24) or a range (192.0.2.10-192.0.2.20: no spaces, both ends in full)",
		},
		{
			name:    "a pool of a prefix with host bits",
			kind:    "LoadBalancerPool",
			spec:    "{addresses: [192.0.2.7/24], scopes: " + everybody + "}",
			message: "192.0.2.7/24 has host bits set; write the first address of the prefix in front of the slash, or an address without a slash",
		},
		{
			name:    "a pool of a range of two families",
			kind:    "LoadBalancerPool",
			spec:    `{addresses: ["192.0.2.1-2001:db8::1"], scopes: ` + everybody + "}",
			message: "192.0.2.1-2001:db8::1 has ends of two families; write one range for each",
		},
		{
			name:    "a pool of nothing",
			kind:    "LoadBalancerPool",
			spec:    "{addresses: [], scopes: " + everybody + "}",
			message: "should have at least 1 items",
		},
		{
			name:    "a pool that does not say for whom",
			kind:    "LoadBalancerPool",
			spec:    "{addresses: [192.0.2.1]}",
			message: "spec.scopes: Required value",
		},
		{
			name:    "a pool for nobody",
			kind:    "LoadBalancerPool",
			spec:    "{addresses: [192.0.2.1], scopes: []}",
			message: "should have at least 1 items",
		},
		{
			name:    "a neighbor without a valid address",
			kind:    "BGPNeighbor",
			spec:    "{localASN: 1, remoteASN: 2, address: tor.example, nodeSelector: {}}",
			message: "tor.example is not an IPv4 or IPv6 address such as 192.0.2.1",
		},
		{
			name:    "a neighbor of AS 0",
			kind:    "BGPNeighbor",
			spec:    "{localASN: 1, remoteASN: 0, address: 192.0.2.1, nodeSelector: {}}",
			message: "should be greater than or equal to 1",
		},
		{
			name:    "a neighbor with a hold time of a second",
			kind:    "BGPNeighbor",
			spec:    "{localASN: 1, remoteASN: 2, address: 192.0.2.1, holdTime: 1s, nodeSelector: {}}",
			message: "1s is not a time in whole seconds from 3s to 18h, such as 90s or 1m30s",
		},
		{
			name:    "a neighbor that hears too seldom that we are alive",
			kind:    "BGPNeighbor",
			spec:    "{localASN: 1, remoteASN: 2, address: 192.0.2.1, holdTime: 9s, keepaliveTime: 10s, nodeSelector: {}}",
			message: "keepaliveTime: 10s is not below holdTime, 9s",
		},
		{
			name:    "a neighbor of no nodes",
			kind:    "BGPNeighbor",
			spec:    "{localASN: 1, remoteASN: 2, address: 192.0.2.1}",
			message: "spec.nodeSelector: Required value",
		},
		{
			name:    "an announcement of a pool without a name",
			kind:    "SegmentAnnouncement",
			spec:    `{poolNames: [""], nodeSelector: {}, serviceSelector: {}}`,
			message: "should be at least 1 chars long",
		},
		{
			name:    "an announcement of one pool twice",
			kind:    "RouteAnnouncement",
			spec:    "{poolNames: [rack, rack], neighborNames: [tor], nodeSelector: {}, serviceSelector: {}}",
			message: "Duplicate value",
		},
		{
			name:    "an announcement with an unknown operator",
			kind:    "SegmentAnnouncement",
			spec:    "{poolNames: [rack], nodeSelector: {matchExpressions: [{key: a, operator: Near, values: [b]}]}, serviceSelector: {}}",
			message: `spec.nodeSelector.matchExpressions[0].operator: Unsupported value: "Near"`,
		},
		{
			name:    "an announcement of no pools",
			kind:    "SegmentAnnouncement",
			spec:    "{nodeSelector: {}, serviceSelector: {}}",
			message: "all pools are poolSelector: {}",
		},
	} {
		t.Run(c.name+" is refused", func(t *testing.T) {
			_, err := r.Kubectl(t.Context(), object(c.kind, "invalid", c.spec), "create", "-f", "-")
			if err == nil || !strings.Contains(err.Error(), c.message) {
				t.Errorf("creating it says %v, want %q", err, c.message)
			}
		})
	}

	for _, c := range []struct{ name, kind, spec, reason, message string }{
		{
			name:    "a pool of a reversed range",
			kind:    "LoadBalancerPool",
			spec:    "{addresses: [192.0.2.9-192.0.2.1], scopes: " + everybody + "}",
			reason:  "InvalidAddresses",
			message: "is reversed; write 192.0.2.1-192.0.2.9",
		},
		{
			name:    "a pool that overlaps an older one",
			kind:    "LoadBalancerPool",
			spec:    "{addresses: [172.30.0.250-172.30.0.253], scopes: " + everybody + "}",
			reason:  "Conflict",
			message: "is in the older LoadBalancerPool rack too, which keeps it",
		},
		{
			name:    "an announcement of an unknown pool",
			kind:    "SegmentAnnouncement",
			spec:    "{poolNames: [nowhere], nodeSelector: {}, serviceSelector: {}}",
			reason:  "UnknownPool",
			message: `no LoadBalancerPool "nowhere" exists; create it or take the name out`,
		},
		{
			name:    "an announcement to an unknown neighbor",
			kind:    "RouteAnnouncement",
			spec:    "{poolNames: [routed], neighborNames: [nobody], nodeSelector: {}, serviceSelector: {}}",
			reason:  "UnknownNeighbor",
			message: `no BGPNeighbor "nobody" exists; create it or take the name out`,
		},
		{
			name:    "a neighbor at a multicast address",
			kind:    "BGPNeighbor",
			spec:    "{localASN: 1, remoteASN: 2, address: 224.0.0.1, nodeSelector: {}}",
			reason:  "InvalidNeighbor",
			message: "is not the address of a router",
		},
		{
			name:    "a neighbor that is there already",
			kind:    "BGPNeighbor",
			spec:    "{localASN: 1, remoteASN: 2, address: 172.30.0.1, nodeSelector: {}}",
			reason:  "Conflict",
			message: "is that of the older BGPNeighbor tor already",
		},
	} {
		t.Run(c.name+" says so", func(t *testing.T) {
			r.apply(t, object(c.kind, "invalid", c.spec))
			r.awaitNotReady(t, c.kind, "invalid", c.reason, c.message)
			r.answers(t, lab.Client, r.address(t, r.serve(t), corev1.IPv4Protocol))
		})
	}
	seen := stop()
	r.unfailed(t, "the Service that was there before", seen)
	if len(seen.broken) > 0 {
		t.Errorf("connections broke: %s", seen)
	}
}

func object(kind, name, spec string) string {
	return fmt.Sprintf("{apiVersion: berth.dev/v1alpha1, kind: %s, metadata: {name: %s}, spec: %s}", kind, name, spec)
}

// awaitNotReady waits until the object's condition says why it is not in effect.
func (r *rack) awaitNotReady(t *testing.T, kind, name, reason, message string) {
	t.Helper()
	eventually(t, func(ctx context.Context) error {
		out, err := r.Kubectl(ctx, "", "get", kind, name, "-o", "jsonpath={.status.conditions}")
		if err != nil {
			return err
		}
		var conditions []metav1.Condition
		if out != "" {
			if err := json.Unmarshal([]byte(out), &conditions); err != nil {
				return fmt.Errorf("conditions of %s %s: %w in %q", kind, name, err, out)
			}
		}
		for _, c := range conditions {
			if c.Type == "Ready" && c.Status == metav1.ConditionFalse && c.Reason == reason &&
				strings.Contains(c.Message, message) {
				return nil
			}
		}
		return fmt.Errorf("%s %s has conditions %+v, want Ready False %s %q", kind, name, conditions, reason, message)
	})
}
