package service

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/controller/condition"
)

// WithStatus returns the Service with the status that it should have, and the conditions that are
// news to its reader; the Service itself if nothing differs. signed is the record of what it was
// given (nil: nothing).
func WithStatus(
	svc *corev1.Service,
	ingress []corev1.LoadBalancerIngress,
	conditions []condition.Condition,
	signed *metav1.Condition,
	now metav1.Time,
) (*corev1.Service, []condition.Condition) {
	desired := svc.DeepCopy()
	changed := putRecord(desired, signed)
	if !Shows(svc, ingress) {
		changed = true
		desired.Status.LoadBalancer.Ingress = ingress
	}
	var news []condition.Condition
	for _, c := range conditions {
		// No observedGeneration: it would cost a write for every edit of the Service.
		differs, isNews := c.Apply(&desired.Status.Conditions, 0, now)
		changed = changed || differs
		if isNews {
			news = append(news, c)
		}
	}
	if !changed {
		return svc, nil
	}
	return desired, news
}

// OnlyTells reports whether the desired status differs from that of the Service in nothing but
// conditions that it has already: it has an address, and nothing is given or taken.
func OnlyTells(svc, desired *corev1.Service) bool {
	before, after := svc.Status.Conditions, desired.Status.Conditions
	return len(svc.Status.LoadBalancer.Ingress) > 0 && essence(svc) == essence(desired) &&
		slices.EqualFunc(before, after, func(a, b metav1.Condition) bool { return a.Type == b.Type })
}

// putRecord sets or removes the record in the status, and reports whether that changed anything.
func putRecord(svc *corev1.Service, signed *metav1.Condition) bool {
	list := &svc.Status.Conditions
	i := slices.IndexFunc(*list, func(c metav1.Condition) bool { return c.Type == v1alpha1.ServiceRecord })
	switch {
	case signed == nil && i < 0,
		signed != nil && i >= 0 && (*list)[i].Message == signed.Message && (*list)[i].Status == signed.Status:
		return false
	case signed == nil:
		*list = slices.Delete(*list, i, i+1)
	case i < 0:
		*list = append(*list, *signed)
	default:
		(*list)[i] = *signed
	}
	return true
}

// IngressOf returns the entries of the status for the addresses. The mode says what forwards
// (KEP-1860).
func IngressOf(addresses []netip.Addr, mode corev1.LoadBalancerIPMode) []corev1.LoadBalancerIngress {
	var list []corev1.LoadBalancerIngress
	for _, a := range addresses {
		list = append(list, corev1.LoadBalancerIngress{IP: a.String(), IPMode: &mode})
	}
	return list
}

// Shows reports whether the status of the Service has exactly these entries.
func Shows(svc *corev1.Service, ingress []corev1.LoadBalancerIngress) bool {
	return slices.EqualFunc(svc.Status.LoadBalancer.Ingress, ingress, func(a, b corev1.LoadBalancerIngress) bool {
		return a.IP == b.IP && a.Hostname == b.Hostname && len(a.Ports)+len(b.Ports) == 0 && ipMode(a) == ipMode(b)
	})
}

// ipMode returns the ipMode of an entry. The API server's default is VIP.
func ipMode(i corev1.LoadBalancerIngress) corev1.LoadBalancerIPMode {
	if i.IPMode == nil {
		return corev1.LoadBalancerIPModeVIP
	}
	return *i.IPMode
}

// ModeOf returns the ipMode that the status of the Service shows.
func ModeOf(svc *corev1.Service) corev1.LoadBalancerIPMode {
	for _, i := range svc.Status.LoadBalancer.Ingress {
		return ipMode(i)
	}
	return corev1.LoadBalancerIPModeVIP
}

// Local reports whether only nodes with endpoints of the Service announce it.
func Local(svc *corev1.Service) bool {
	return svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

// Marked reports whether the Service has conditions of Berth: it was served.
func Marked(svc *corev1.Service) bool { return slices.ContainsFunc(svc.Status.Conditions, ours) }

// IsOthersWithoutPool reports, of a Service that Berth gave nothing, whether it is another
// implementation's until there is a pool: it has addresses, and a class that is not Berth's own,
// which that one serves, too, as before a migration.
func IsOthersWithoutPool(svc *corev1.Service, snapshot *config.Snapshot) bool {
	class := svc.Spec.LoadBalancerClass
	return len(snapshot.Pools) == 0 && class != nil && *class != v1alpha1.LoadBalancerClass &&
		len(svc.Status.LoadBalancer.Ingress) > 0
}

// WithoutStatus returns the Service without Berth's conditions and without the addresses that Berth
// gave. Those of other controllers stay.
func WithoutStatus(svc *corev1.Service, gave []netip.Addr) *corev1.Service {
	clean := svc.DeepCopy()
	given := func(i corev1.LoadBalancerIngress) bool {
		address, err := netip.ParseAddr(i.IP)
		return err == nil && slices.Contains(gave, address.Unmap())
	}
	clean.Status.LoadBalancer.Ingress = slices.DeleteFunc(clean.Status.LoadBalancer.Ingress, given)
	clean.Status.Conditions = slices.DeleteFunc(clean.Status.Conditions, ours)
	return clean
}

// ours reports whether a condition is one of Berth's.
func ours(c metav1.Condition) bool {
	return c.Type == v1alpha1.ServiceAllocated || c.Type == v1alpha1.ServiceAnnounced ||
		c.Type == v1alpha1.ServiceRecord
}
