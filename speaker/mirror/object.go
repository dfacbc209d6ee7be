package mirror

import (
	"crypto/sha256"
	"encoding/hex"
	"math"
	"net"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/l2"
)

// How many Services and addresses an L2Owner shows.
const (
	mostServices  = 64
	mostAddresses = 256
)

// serviceOf returns namespace/name of the first Service of a group: it begins the
// group's name.
func serviceOf(group string) string {
	service, _, _ := strings.Cut(group, " ")
	return service
}

// announcementsOf returns the announcements that select a group: they end its name.
func announcementsOf(group string) []string {
	_, names, _ := strings.Cut(group, " ")
	return strings.Split(names, ",")
}

// keyOf returns namespace/name of the L2Owner for a group on a segment, the same on every node: the
// Service's name, and a hash to distinguish several of one Service.
func keyOf(group, segment string) string {
	sum := sha256.Sum256([]byte(group + "\x00" + segment))
	return serviceOf(group) + "-" + hex.EncodeToString(sum[:5])
}

// object returns the L2Owner for a claim, without owner references.
func (m *Mirror) object(key string, have entry) *v1alpha1.L2Owner {
	c := have.claim
	namespace, name, _ := strings.Cut(key, "/")
	m.mu.Lock()
	has := m.shown[c.Group]
	m.mu.Unlock()
	status := v1alpha1.L2OwnerStatus{
		AnnouncementNames: announcementsOf(c.Group),
		NodeName:          c.Node,
		Segment:           c.Segment,
		Interface:         c.Interface,
		MAC:               net.HardwareAddr(c.MAC).String(),
		Term:              int64(min(c.Term, math.MaxInt64)),
		Witnessed:         c.Witnessed,
		Reason:            c.Cause.Reason(),
		AcquireTime:       new(metav1.NewTime(have.since.UTC()).Rfc3339Copy()),
	}
	first := serviceOf(c.Group) // it names the group, so it is there whatever is shown
	others := slices.DeleteFunc(slices.Clone(has.services), func(s string) bool { return s == first })
	for _, service := range append([]string{first}, others...) {
		namespace, name, _ := strings.Cut(service, "/")
		status.ServiceRefs = append(status.ServiceRefs, v1alpha1.ServiceReference{Namespace: namespace, Name: name})
	}
	status.ServiceRefs = slices.Clip(status.ServiceRefs[:min(len(status.ServiceRefs), mostServices)])
	for _, a := range has.addresses[:min(len(has.addresses), mostAddresses)] {
		status.Addresses = append(status.Addresses, a.String())
	}
	said(&status, 1)
	return &v1alpha1.L2Owner{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "L2Owner"},
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Status:     status,
	}
}

// said sets the generation that the status is of. Its condition is as old as the claim.
func said(status *v1alpha1.L2OwnerStatus, generation int64) {
	status.ObservedGeneration = generation
	status.Conditions = []metav1.Condition{{
		Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, Reason: "Answering",
		Message:            "node " + status.NodeName + " answers",
		ObservedGeneration: generation, LastTransitionTime: *status.AcquireTime,
	}}
}

// ownedBy makes an object go with a Service.
func ownedBy(service string, uid types.UID) []metav1.OwnerReference {
	_, name, _ := strings.Cut(service, "/")
	return []metav1.OwnerReference{{APIVersion: "v1", Kind: "Service", Name: name, UID: uid}}
}

// claimOf returns the claim that an L2Owner mirrors; one that names no Service is of no group.
func claimOf(o *v1alpha1.L2Owner) l2.Claim {
	mac, err := net.ParseMAC(o.Status.MAC)
	if err != nil {
		mac = nil // for readers only
	}
	claim := l2.Claim{
		Segment: o.Status.Segment, Node: o.Status.NodeName,
		Term: uint64(max(o.Status.Term, 0)), Witnessed: o.Status.Witnessed,
		Interface: o.Status.Interface, MAC: mac,
	}
	if len(o.Status.ServiceRefs) > 0 {
		first := o.Status.ServiceRefs[0]
		claim.Group = first.Namespace + "/" + first.Name + " " + strings.Join(o.Status.AnnouncementNames, ",")
	}
	return claim
}
