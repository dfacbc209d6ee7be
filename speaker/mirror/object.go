package mirror

import (
	"crypto/sha256"
	"encoding/hex"
	"math"
	"net"
	"net/netip"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/l2"
)

// mostServices is how many Services an L2Owner shows.
const mostServices = 64

// nameOf returns the name of the L2Owner for an address on a segment, the same on every node: both
// written out, with hyphens for what a name cannot have, such as 192.0.2.10.192.0.2.0-24. A segment
// that is named by an interface can have any name, so its hash stands for it.
func nameOf(address netip.Addr, segment string) string {
	subnet, err := netip.ParsePrefix(segment)
	if err != nil {
		sum := sha256.Sum256([]byte(segment))
		return label(address) + ".interface-" + hex.EncodeToString(sum[:5])
	}
	return label(address) + "." + label(subnet.Addr()) + "-" + strconv.Itoa(subnet.Bits())
}

// label returns an address as part of an object's name. It expands IPv6, since a label may not end
// with a hyphen.
func label(address netip.Addr) string { return strings.ReplaceAll(address.StringExpanded(), ":", "-") }

// object returns the L2Owner for a claim, without owner references.
func (m *Mirror) object(name string, have entry) *v1alpha1.L2Owner {
	c := have.claim
	m.mu.Lock()
	told := m.shown[c.Address]
	m.mu.Unlock()
	status := v1alpha1.L2OwnerStatus{
		Address:           c.Address.String(),
		AnnouncementNames: told.announcements,
		NodeName:          c.Node,
		Segment:           c.Segment,
		Interface:         c.Interface,
		MAC:               net.HardwareAddr(c.MAC).String(),
		Term:              int64(min(c.Term, math.MaxInt64)),
		Witnessed:         c.Witnessed,
		Tentative:         c.Tentative,
		Reason:            c.Cause.Reason(),
		AcquireTime:       new(metav1.NewTime(have.since.UTC()).Rfc3339Copy()),
	}
	for _, service := range told.services[:min(len(told.services), mostServices)] {
		namespace, name, _ := strings.Cut(service, "/")
		status.ServiceRefs = append(status.ServiceRefs, v1alpha1.ServiceReference{Namespace: namespace, Name: name})
	}
	said(&status, 1)
	return &v1alpha1.L2Owner{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "L2Owner"},
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Status:     status,
	}
}

// said sets the generation that the status is of. Its condition is as old as the claim.
func said(status *v1alpha1.L2OwnerStatus, generation int64) {
	status.ObservedGeneration = generation
	ready := metav1.Condition{
		Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, Reason: "Answering",
		Message:            "node " + status.NodeName + " answers",
		ObservedGeneration: generation, LastTransitionTime: *status.AcquireTime,
	}
	if status.Tentative {
		ready.Status, ready.Reason = metav1.ConditionFalse, "Tentative"
		ready.Message = "node " + status.NodeName + " is about to answer, unless another node claims the address"
	}
	status.Conditions = []metav1.Condition{ready}
}

// ownedBy makes an object go with a Node.
func ownedBy(node string, uid types.UID) []metav1.OwnerReference {
	return []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node, UID: uid}}
}

// claimOf returns the claim that an L2Owner mirrors, and whether it mirrors one: its name must be
// the one of its address and segment, so that one object speaks for each.
func claimOf(o *v1alpha1.L2Owner) (l2.Claim, bool) {
	address, err := netip.ParseAddr(o.Status.Address)
	if err != nil || o.Name != nameOf(address, o.Status.Segment) {
		return l2.Claim{}, false
	}
	mac, err := net.ParseMAC(o.Status.MAC)
	if err != nil {
		mac = nil // for readers only
	}
	return l2.Claim{
		Address:   address,
		Segment:   o.Status.Segment,
		Node:      o.Status.NodeName,
		Term:      uint64(max(o.Status.Term, 0)),
		Witnessed: o.Status.Witnessed,
		Tentative: o.Status.Tentative,
		Interface: o.Status.Interface,
		MAC:       mac,
	}, true
}
