package stored

import (
	"crypto/sha256"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/berth-lb/berth/config/dialect"
	"github.com/berth-lb/berth/config/record"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/speaker/object"
	"github.com/berth-lb/berth/speaker/plan"
)

// Service is a Service of type LoadBalancer. It can be what an event is about.
type Service struct {
	identity
	plan    plan.Service // but for its addresses
	ingress []ingress
	record  string // the signed text of what the controller gave
}

// ingress is an address in the status.
type ingress struct {
	address netip.Addr
	proxied bool // kube-proxy leaves it alone
}

// NewService returns what is kept of the Service. Only of one that this node may forward for,
// ports and the like count.
func NewService(svc *corev1.Service, forwards bool) *Service {
	bare := &corev1.Service{ObjectMeta: metav1.ObjectMeta{
		Namespace: svc.Namespace, Name: svc.Name, Labels: sharedKeys(svc.Labels), CreationTimestamp: svc.CreationTimestamp,
	}}
	bare.Annotations = dialect.SharingAnnotations(svc.Annotations)
	for name, key := range bare.Annotations {
		bare.Annotations[name] = short(key)
	}
	if asked, ok := svc.Annotations[v1alpha1.AnnotationIPVSScheduler]; ok {
		bare.Annotations[v1alpha1.AnnotationIPVSScheduler] = short(asked)
	}
	bare.Spec.ExternalTrafficPolicy = svc.Spec.ExternalTrafficPolicy
	if forwards {
		bare.Spec.Ports, bare.Spec.LoadBalancerSourceRanges = svc.Spec.Ports, svc.Spec.LoadBalancerSourceRanges
		bare.Spec.SessionAffinity, bare.Spec.SessionAffinityConfig = svc.Spec.SessionAffinity, svc.Spec.SessionAffinityConfig
	}
	s := &Service{identity: identityOf(&svc.ObjectMeta), plan: object.Service(bare, nil)}
	s.plan.Name, s.plan.Bound = s.key, object.BoundByOthers(svc)
	for _, c := range svc.Status.Conditions {
		if c.Type == v1alpha1.ServiceRecord {
			s.record = c.Message
		}
	}
	if svc.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return s // its status may still show what it was given
	}
	s.ingress = make([]ingress, 0, len(svc.Status.LoadBalancer.Ingress))
	for _, i := range svc.Status.LoadBalancer.Ingress {
		if address, err := netip.ParseAddr(i.IP); err == nil {
			s.ingress = append(s.ingress, ingress{address.Unmap(), object.Proxied(i)})
		}
	}
	return s
}

// View returns what a plan needs to know of the Service, without addresses if Berth does not serve
// it: only what the controller gave is announced, by the record that one of the keys signed.
func (s *Service) View(recordKeys [][]byte) plan.Service {
	view := s.plan
	given := s.given(recordKeys)
	for _, i := range s.ingress {
		// An address that the status lacks has no rules of kube-proxy; one that the record lacks is
		// somebody else's word.
		if slices.Contains(given, i.address) {
			view.Proxied = view.Proxied || i.proxied
			view.Addresses = append(view.Addresses, i.address)
		}
	}
	return view
}

// given returns the addresses that the controller gave the Service.
func (s *Service) given(recordKeys [][]byte) []netip.Addr {
	for _, key := range recordKeys {
		if given, err := record.Read(s.record, s.uid, key); err == nil {
			return given.Addresses
		}
	}
	return nil
}

// Local reports whether its policy is Local: who serves it depends on where its endpoints are.
func (s *Service) Local() bool { return s.plan.Local }

// Proxied reports whether kube-proxy leaves one of these addresses alone.
func (s *Service) Proxied(addresses []netip.Addr) bool {
	return slices.ContainsFunc(s.ingress, func(i ingress) bool {
		return i.proxied && slices.Contains(addresses, i.address)
	})
}

// GetObjectKind implements runtime.Object.
func (*Service) GetObjectKind() schema.ObjectKind {
	return &metav1.TypeMeta{APIVersion: "v1", Kind: "Service"}
}

// DeepCopyObject implements runtime.Object. Nobody changes what is kept.
func (s *Service) DeepCopyObject() runtime.Object { return s }

// sharedKeys returns the labels with keys that all Services share.
func sharedKeys(labels map[string]string) map[string]string {
	if labels == nil {
		return nil
	}
	shared := make(map[string]string, len(labels))
	for name, value := range labels {
		shared[Shared(name)] = value
	}
	return shared
}

// short is a text that is only compared, in few bytes: an annotation may have 256 KiB.
func short(text string) string {
	if len(text) <= sha256.Size {
		return text
	}
	sum := sha256.Sum256([]byte(text))
	return string(sum[:])
}
