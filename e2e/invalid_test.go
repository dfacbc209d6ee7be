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

// testInvalidObjects asks all the while from a Service that was there before.
func testInvalidObjects(t *testing.T, r *rack) {
	served := r.address(t, r.serve(t), corev1.IPv4Protocol)
	r.answers(t, lab.Client, served)
	stop := r.probe(t, lab.Client, served, probeTimeout, false)

	for _, c := range []struct{ name, kind, spec, message string }{
		{"a pool of no prefix", "IPPool", "{addresses: [300.1.2.0/24]}", "each entry is a prefix such as 192.0.2.0/24"},
		{"a pool of a single address", "IPPool", "{addresses: [192.0.2.1]}", "write a single address as 192.0.2.1/32"},
		{"a pool of a prefix with host bits", "IPPool", "{addresses: [192.0.2.7/24]}", "a prefix has no host bits set"},
		{"a pool of a range of two families", "IPPool", `{addresses: ["192.0.2.1-2001:db8::1"]}`, "both ends of a range are of one family"},
		{"a pool of nothing", "IPPool", "{addresses: []}", "should have at least 1 items"},
		{"a peer without a valid address", "BGPPeer", "{localASN: 1, peerASN: 2, address: tor.example}", "an IPv4 or IPv6 address such as 192.0.2.1"},
		{"a peer of AS 0", "BGPPeer", "{localASN: 1, peerASN: 0, address: 192.0.2.1}", "should be greater than or equal to 1"},
		{"a peer with a hold time of a second", "BGPPeer", "{localASN: 1, peerASN: 2, address: 192.0.2.1, holdTime: 1s}", "from 3s to 18h"},
		{"a peer that says too seldom that it is alive", "BGPPeer", "{localASN: 1, peerASN: 2, address: 192.0.2.1, holdTime: 9s, keepaliveTime: 10s}", "keepaliveTime is below holdTime"},
		{"an advertisement of a pool without a name", "L2Advertisement", `{pools: [""]}`, "should be at least 1 chars long"},
		{"an advertisement of one pool twice", "BGPAdvertisement", "{pools: [rack, rack]}", "Duplicate value"},
	} {
		t.Run(c.name+" is refused", func(t *testing.T) {
			_, err := r.Kubectl(t.Context(), object(c.kind, "invalid", c.spec), "create", "-f", "-")
			if err == nil || !strings.Contains(err.Error(), c.message) {
				t.Errorf("creating it says %v, want %q", err, c.message)
			}
		})
	}

	for _, c := range []struct{ name, kind, spec, reason, message string }{
		{"a pool of a reversed range", "IPPool", "{addresses: [192.0.2.9-192.0.2.1]}", "InvalidAddresses", "is reversed; write 192.0.2.1-192.0.2.9"},
		{"a pool that overlaps an older one", "IPPool", "{addresses: [172.30.0.250-172.30.0.253]}", "Conflict", "is in the older IPPool rack too, which keeps it"},
		{"an advertisement of an unknown pool", "L2Advertisement", "{pools: [nowhere]}", "UnknownPool", `no IPPool "nowhere" exists; create it or take the name out`},
		{"an advertisement to an unknown peer", "BGPAdvertisement", "{pools: [routed], peers: [nobody]}", "UnknownPeer", `no BGPPeer "nobody" is in effect`},
		{"an advertisement with an unknown operator", "L2Advertisement", "{pools: [rack], nodeSelectors: [{matchExpressions: [{key: a, operator: Near, values: [b]}]}]}", "InvalidSelector", "spec.nodeSelectors[0]"},
		{"a peer at a multicast address", "BGPPeer", "{localASN: 1, peerASN: 2, address: 224.0.0.1}", "InvalidPeer", "is not the address of a router"},
		{"a peer that is there already", "BGPPeer", "{localASN: 1, peerASN: 2, address: 172.30.0.1}", "Conflict", "is that of the older BGPPeer tor already"},
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

// awaitNotReady waits until the object says why it is not in effect.
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
			if c.Type == "Ready" && c.Status == metav1.ConditionFalse && c.Reason == reason && strings.Contains(c.Message, message) {
				return nil
			}
		}
		return fmt.Errorf("%s %s has conditions %+v, want Ready False %s %q", kind, name, conditions, reason, message)
	})
}
