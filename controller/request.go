package controller

import (
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/ipam"
)

// serves tells whether Berth gives addresses to the Service: it is of type
// LoadBalancer, and of Berth's class or, if classless is set, of none.
func serves(svc *corev1.Service, classless bool) bool {
	if svc.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return false
	}
	if class := svc.Spec.LoadBalancerClass; class != nil {
		return *class == v1alpha1.LoadBalancerClass
	}
	return classless
}

// requestOf says what the Service asks for. The error tells the user what to mend.
func requestOf(svc *corev1.Service) (ipam.Request, error) {
	request := ipam.Request{All: svc.Spec.IPFamilyPolicy != nil && *svc.Spec.IPFamilyPolicy == corev1.IPFamilyPolicyRequireDualStack}
	for _, family := range svc.Spec.IPFamilies {
		if family == corev1.IPv6Protocol {
			request.Families = append(request.Families, ipam.IPv6)
		} else {
			request.Families = append(request.Families, ipam.IPv4)
		}
	}
	if len(request.Families) == 0 { // an API server before dual-stack
		request.Families = []ipam.Family{ipam.IPv4}
	}
	if pin := svc.Spec.LoadBalancerIP; pin != "" {
		address, err := netip.ParseAddr(pin)
		if err != nil || address.Zone() != "" {
			return request, fmt.Errorf("spec.loadBalancerIP: %q is no IP address; write one such as 192.0.2.1, or leave the field out", pin)
		}
		request.Pinned = []netip.Addr{address.Unmap()}
	}
	return request, nil
}

// addressesIn returns the addresses of a Service's status, without those that do
// not parse.
func addressesIn(svc *corev1.Service) []netip.Addr {
	var addresses []netip.Addr
	for _, ingress := range svc.Status.LoadBalancer.Ingress {
		if address, err := netip.ParseAddr(ingress.IP); err == nil {
			addresses = append(addresses, address)
		}
	}
	return addresses
}
