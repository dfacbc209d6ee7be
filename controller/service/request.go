package service

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/config/dialect"
	"github.com/berth-lb/berth/config/record"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/controller/condition"
	"github.com/berth-lb/berth/ipam"
)

// Request is what a Service asks for, and where it says so.
type Request struct {
	ipam.Request
	field map[netip.Addr]string // the field that names each pinned address
	// Digest is that of the pools that the annotation names: see record.RequestOf.
	Digest string
	// Unusable says what is wrong with a pool that the annotation names; nil: nothing. The Service
	// gets no addresses then, but keeps those that it has.
	Unusable *InvalidRequest
}

// InvalidRequest says what the user must fix in the object.
type InvalidRequest struct{ Reason, Message string }

func (e *InvalidRequest) Error() string { return e.Message }

// Invalid returns an InvalidRequest with this reason and message.
func Invalid(reason, format string, args ...any) *InvalidRequest {
	return &InvalidRequest{reason, fmt.Sprintf(format, args...)}
}

// RequestOf returns what the Service asks for, in a namespace with these labels and with these
// reservations made for it. Annotations of the honored load balancers stand for Berth's own where
// those are missing. The error is an *InvalidRequest.
func RequestOf(
	svc *corev1.Service,
	namespace labels.Set,
	snapshot *config.Snapshot,
	reserved map[netip.Addr]string,
	honored dialect.Honored,
) (Request, error) {
	r := Request{field: map[netip.Addr]string{}}
	r.All = svc.Spec.IPFamilyPolicy != nil && *svc.Spec.IPFamilyPolicy == corev1.IPFamilyPolicyRequireDualStack
	for _, family := range svc.Spec.IPFamilies {
		if family == corev1.IPv6Protocol {
			r.Families = append(r.Families, ipam.IPv6)
		} else {
			r.Families = append(r.Families, ipam.IPv4)
		}
	}
	if len(r.Families) == 0 { // an API server before dual-stack
		r.Families = []ipam.Family{ipam.IPv4}
	}
	r.Terms = TermsOf(svc, honored)
	r.choosePools(svc, namespace, snapshot, honored)
	if err := r.pin(svc, honored); err != nil {
		return r, err
	}
	r.pinReserved(reserved)
	return r, nil
}

// pinReserved asks for the addresses that are reserved for the Service, in those families that it
// wants and names no address of.
func (r *Request) pinReserved(reserved map[netip.Addr]string) {
	for _, address := range slices.SortedFunc(maps.Keys(reserved), netip.Addr.Compare) {
		same := func(a netip.Addr) bool { return ipam.FamilyOf(a) == ipam.FamilyOf(address) }
		if slices.Contains(r.Families, ipam.FamilyOf(address)) && !slices.ContainsFunc(r.Pinned, same) {
			r.Pinned = append(r.Pinned, address)
			r.field[address] = "AddressReservation " + reserved[address]
		}
	}
}

// choosePools sets the pools that may give to the Service. Pools that it names and that cannot are
// left out.
func (r *Request) choosePools(
	svc *corev1.Service,
	namespace labels.Set,
	snapshot *config.Snapshot,
	honored dialect.Honored,
) {
	annotation, text := honored.Lookup(svc.Annotations, v1alpha1.AnnotationPools)
	names := items(text)
	r.Digest = record.RequestOf(names)
	r.Named = len(names) > 0
	if !r.Named {
		for _, p := range snapshot.Pools {
			if p.Serves(svc.Namespace, namespace, svc.Labels) {
				r.Pools = append(r.Pools, p.Name)
			}
		}
		return
	}
	seen := map[string]bool{}
	for _, name := range names {
		if seen[name] {
			continue
		}
		seen[name] = true
		p := snapshot.Pool(name)
		switch usable := p != nil && p.Serves(svc.Namespace, namespace, svc.Labels); {
		case usable:
			r.Pools = append(r.Pools, name)
		case r.Unusable != nil: // the message is about the first one
		case p == nil:
			r.Unusable = Invalid(
				ReasonUnknownPool, "annotation %s: no LoadBalancerPool %s exists; %s",
				annotation, config.Quote(name), snapshot.MeantPool(name, names),
			)
		default:
			r.Unusable = Invalid(
				ReasonPoolOutOfScope,
				"annotation %s: no entry of spec.scopes of LoadBalancerPool %s matches this Service in namespace %s; add one that does, or name another pool",
				annotation, name, svc.Namespace,
			)
		}
	}
}

// pin sets the addresses that the Service names.
func (r *Request) pin(svc *corev1.Service, honored dialect.Honored) error {
	const field = "spec.loadBalancerIP"
	annotation, list := honored.Lookup(svc.Annotations, v1alpha1.AnnotationAddresses)
	annotation = "annotation " + annotation
	named := items(list)
	annotated := len(named) > 0
	for _, text := range named {
		if err := r.pinOne(annotation, text); err != nil {
			return err
		}
	}
	text := svc.Spec.LoadBalancerIP
	if text == "" {
		return nil
	}
	if address, err := netip.ParseAddr(text); annotated && err == nil && !slices.Contains(r.Pinned, address.Unmap()) {
		return Invalid(ReasonContradiction, "%s is %s, and %s says %s; make them agree, or take one of them out",
			field, address, annotation, condition.Join(r.Pinned, ","))
	} else if annotated && err == nil {
		return nil
	}
	return r.pinOne(field, text)
}

func (r *Request) pinOne(where, text string) error {
	address, err := netip.ParseAddr(text)
	if err != nil || address.Zone() != "" {
		return Invalid(ReasonInvalidAddress, "%s: %s is not an IP address; write one such as 192.0.2.1, or take it out", where, config.Quote(text))
	}
	address = address.Unmap()
	for _, other := range r.Pinned {
		if ipam.FamilyOf(other) == ipam.FamilyOf(address) {
			return Invalid(
				ReasonInvalidAddress, "%s: %s and %s are both %s; a Service has one address of each family", where, other,
				address, ipam.FamilyOf(address),
			)
		}
	}
	r.Pinned = append(r.Pinned, address)
	r.field[address] = where
	return nil
}

// InTurn sorts Services by who gets addresses first where all are looked at: those that have some,
// then those that ask for one by name, then the rest; older ones first, then by name.
func InTurn(services []*corev1.Service, honored dialect.Honored) {
	var has, names, others []*corev1.Service
	for _, svc := range services {
		_, named := honored.Lookup(svc.Annotations, v1alpha1.AnnotationAddresses)
		switch {
		case len(svc.Status.LoadBalancer.Ingress) > 0:
			has = append(has, svc)
		case svc.Spec.LoadBalancerIP != "" || named != "":
			names = append(names, svc)
		default:
			others = append(others, svc)
		}
	}
	sorted := services[:0]
	for _, alike := range [][]*corev1.Service{has, names, others} {
		slices.SortFunc(alike, Older)
		sorted = append(sorted, alike...)
	}
}

// Older compares Services by age, then by name.
func Older(a, b *corev1.Service) int {
	return cmp.Or(
		a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Namespace, b.Namespace),
		cmp.Compare(a.Name, b.Name),
	)
}

// Pins returns the addresses named that are kept for the Service: those of pools that serve it.
func (r Request) Pins(snapshot *config.Snapshot) (pins []netip.Addr) {
	for _, a := range r.Pinned {
		if p := snapshot.PoolOf(a); p != nil && slices.Contains(r.Pools, p.Name) {
			pins = append(pins, a)
		}
	}
	return pins
}

// Release sets the held addresses that are in no pool and that the Service, or the operator's
// policy, releases.
func (r *Request) Release(svc *corev1.Service, outside []netip.Addr, releaseAll bool) {
	named := AnnotationList(svc.Annotations, v1alpha1.AnnotationRelease)
	for _, address := range outside {
		if releaseAll || slices.ContainsFunc(named, func(text string) bool {
			a, err := netip.ParseAddr(text)
			return err == nil && a.Unmap() == address
		}) {
			r.Drop = append(r.Drop, address)
		}
	}
}

// TermsOf returns the terms on which the Service shares addresses.
func TermsOf(svc *corev1.Service, honored dialect.Honored) ipam.Terms {
	_, key := honored.Lookup(svc.Annotations, v1alpha1.AnnotationSharingKey)
	terms := ipam.Terms{
		Key:       key,
		Local:     svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal,
		Endpoints: labels.Set(svc.Spec.Selector).String(),
	}
	if terms.Key == "" {
		return ipam.Terms{} // nothing else matters
	}
	if len(svc.Spec.Selector) == 0 { // nobody else has its endpoints
		terms.Endpoints = svc.Namespace + "/" + svc.Name
	}
	for _, p := range svc.Spec.Ports {
		terms.Ports = append(terms.Ports, ipam.Port{Protocol: string(p.Protocol), Number: p.Port})
	}
	return terms
}

// AnnotationList splits a comma-separated annotation. It leaves out empty items.
func AnnotationList(annotations map[string]string, key string) []string {
	return items(annotations[key])
}

// PoolsDigest returns the digest of the pools that the Service names: see record.RequestOf.
func PoolsDigest(svc *corev1.Service, honored dialect.Honored) string {
	_, text := honored.Lookup(svc.Annotations, v1alpha1.AnnotationPools)
	return record.RequestOf(items(text))
}

func items(text string) []string {
	var all []string
	for item := range strings.SplitSeq(text, ",") {
		if item = strings.TrimSpace(item); item != "" {
			all = append(all, item)
		}
	}
	return all
}

// AddressesIn returns the addresses of a Service's status, without those that do not parse.
func AddressesIn(svc *corev1.Service) []netip.Addr {
	var addresses []netip.Addr
	for _, ingress := range svc.Status.LoadBalancer.Ingress {
		if address, err := netip.ParseAddr(ingress.IP); err == nil && address.Zone() == "" {
			addresses = append(addresses, address.Unmap())
		}
	}
	return addresses
}
