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

// mostAddresses is how many addresses an L2Owner shows.
const mostAddresses = 256

// serviceOf returns namespace/name of the first Service of a group: it begins the
// group's name.
func serviceOf(group string) string {
	service, _, _ := strings.Cut(group, " ")
	return service
}

// keyOf returns namespace/name of the L2Owner for a group on a segment, the same on
// every node: the Service's name, and a hash that tells apart what is of one Service.
func keyOf(group, segment string) string {
	sum := sha256.Sum256([]byte(group + "\x00" + segment))
	return serviceOf(group) + "-" + hex.EncodeToString(sum[:5])
}

// object is the L2Owner for a claim, but for whom it belongs to.
func (m *Mirror) object(key string, have entry) *v1alpha1.L2Owner {
	c := have.claim
	namespace, name, _ := strings.Cut(key, "/")
	since := metav1.NewTime(have.since.UTC()).Rfc3339Copy()
	m.mu.Lock()
	addresses := m.shown[c.Group]
	m.mu.Unlock()
	var shown []string
	for _, a := range addresses[:min(len(addresses), mostAddresses)] {
		shown = append(shown, a.String())
	}
	return &v1alpha1.L2Owner{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "L2Owner"},
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: v1alpha1.L2OwnerSpec{
			Group: c.Group, Addresses: slices.Clip(shown), Node: c.Node, Segment: c.Segment,
			Interface: c.Interface, MAC: c.MAC.String(), Term: int64(min(c.Term, math.MaxInt64)),
			Witnessed: c.Witnessed, Cause: string(c.Cause), Since: &since,
		},
	}
}

// ownedBy makes an object go with a Service.
func ownedBy(service string, uid types.UID) []metav1.OwnerReference {
	_, name, _ := strings.Cut(service, "/")
	return []metav1.OwnerReference{{APIVersion: "v1", Kind: "Service", Name: name, UID: uid}}
}

// claimOf returns the claim that an L2Owner mirrors.
func claimOf(o *v1alpha1.L2Owner) l2.Claim {
	mac, err := net.ParseMAC(o.Spec.MAC)
	if err != nil {
		mac = nil // for readers only
	}
	return l2.Claim{
		Group: o.Spec.Group, Segment: o.Spec.Segment, Node: o.Spec.Node, Term: uint64(max(o.Spec.Term, 0)), Witnessed: o.Spec.Witnessed,
		Interface: o.Spec.Interface, MAC: mac, Cause: l2.Cause(o.Spec.Cause),
	}
}
