package object

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-lb/berth/config/dialect"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/speaker/dataplane/ipvs"
	"github.com/berth-lb/berth/speaker/plan"
)

// Service returns what a plan needs to know of a Service of type LoadBalancer. Of the addresses in
// its status those count that are given, as by its record.
func Service(svc *corev1.Service, given []netip.Addr) plan.Service {
	s := plan.Service{
		Name: svc.Namespace + "/" + svc.Name, Labels: svc.Labels,
		SharingKeys: dialect.SharingKeys(svc.Annotations), Created: svc.CreationTimestamp.Time,
		Local: svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal,
		Bound: BoundByOthers(svc),
	}
	for _, ingress := range svc.Status.LoadBalancer.Ingress {
		// An address that the status lacks has no rules of kube-proxy; one that the record lacks is
		// somebody else's word.
		if address, err := netip.ParseAddr(ingress.IP); err == nil && slices.Contains(given, address.Unmap()) {
			s.Proxied = s.Proxied || Proxied(ingress)
			s.Addresses = append(s.Addresses, address.Unmap())
		}
	}
	ReadForwarding(&s, svc)
	return s
}

// Proxied reports whether kube-proxy leaves the address alone (KEP-1860), because Berth forwards.
func Proxied(i corev1.LoadBalancerIngress) bool {
	return i.IPMode != nil && *i.IPMode == corev1.LoadBalancerIPModeProxy
}

// ReadForwarding reads what it takes to forward for the Service. Ports are known only to nodes that
// do.
func ReadForwarding(s *plan.Service, svc *corev1.Service) {
	s.Scheduler = svc.Annotations[v1alpha1.AnnotationIPVSScheduler]
	for _, p := range svc.Spec.Ports {
		protocol, known := protocols[p.Protocol]
		if known && p.Port > 0 && p.Port <= 65535 {
			s.Ports = append(s.Ports, plan.Port{Name: p.Name, Protocol: protocol, Port: uint16(p.Port)})
		}
	}
	if svc.Spec.SessionAffinity == corev1.ServiceAffinityClientIP {
		s.Persistence = time.Duration(corev1.DefaultClientIPServiceAffinitySeconds) * time.Second
		if c := svc.Spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil {
			s.Persistence = time.Duration(*c.ClientIP.TimeoutSeconds) * time.Second
		}
	}
	for _, text := range svc.Spec.LoadBalancerSourceRanges {
		// As kube-proxy has it: spaces do not matter, nor do host bits.
		if prefix, err := netip.ParsePrefix(strings.TrimSpace(text)); err == nil {
			s.SourceRanges = append(s.SourceRanges, prefix.Masked())
		}
	}
	if len(svc.Spec.LoadBalancerSourceRanges) > 0 && len(s.SourceRanges) == 0 {
		s.SourceRanges = []netip.Prefix{} // none that can be read: nobody
	}
}

var protocols = map[corev1.Protocol]ipvs.Protocol{
	corev1.ProtocolTCP: ipvs.TCP, corev1.ProtocolUDP: ipvs.UDP, corev1.ProtocolSCTP: ipvs.SCTP, "": ipvs.TCP,
}

// BoundByOthers reports whether an implementation that puts the addresses of Services on interfaces
// of nodes serves this one, or did.
func BoundByOthers(svc *corev1.Service) bool {
	for key := range svc.Annotations {
		if strings.HasPrefix(key, "kube-vip.io/") || strings.HasPrefix(key, "purelb.io/") {
			return true
		}
	}
	return false
}

// InternalIPs returns the addresses of type InternalIP of a Node.
func InternalIPs(node *corev1.Node) []netip.Addr {
	var addresses []netip.Addr
	for _, a := range node.Status.Addresses {
		if ip, err := netip.ParseAddr(a.Address); err == nil && a.Type == corev1.NodeInternalIP {
			addresses = append(addresses, ip)
		}
	}
	return addresses
}
