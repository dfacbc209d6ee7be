package service

import (
	"encoding/json"
	"errors"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/config/record"
	"github.com/berth-lb/berth/ipam"
)

// Ownership says to whom a Service belongs.
type Ownership uint8

const (
	// NotServed: it is of another type or class, which Berth does not serve.
	NotServed Ownership = iota
	// Others: another implementation gave it the addresses in its status. Berth writes nothing to it.
	Others
	// TakenOver: another implementation gave it addresses, all from pools that take over. Berth adopts
	// it.
	TakenOver
	// Own: Berth serves it.
	Own
)

// Classes are the classes of Services that Berth serves. Classless says that Berth also serves
// Services without a class.
type Classes struct {
	Names     []string
	Classless bool
}

// Selects reports whether Berth may serve the Service, by its type and class.
func (c Classes) Selects(svc *corev1.Service) bool {
	if svc.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return false
	}
	if class := svc.Spec.LoadBalancerClass; class != nil {
		return slices.Contains(c.Names, *class)
	}
	return c.Classless
}

// RecordOf returns the record in the status of what Berth gave the Service, and whether there is
// one. The record may be signed by a former installation, whose key is lost. It then counts only if
// the status shows the same addresses and, unless the Service is of one of Berth's classes, they
// are in pools that serve the Service.
func RecordOf(svc *corev1.Service, key []byte, namespace labels.Set, snapshot *config.Snapshot) (record.Record, bool) {
	r, err := record.Of(svc, key)
	if err == nil {
		return r, true
	}
	former, is := FormerRecord(svc, key)
	if !is {
		return record.Record{}, false
	}
	if svc.Spec.LoadBalancerClass != nil {
		return former, true // nobody else serves the class
	}
	for _, a := range AddressesIn(svc) {
		if p := snapshot.PoolOf(a); p == nil || !p.Serves(svc.Namespace, namespace, svc.Labels) {
			return record.Record{}, false
		}
	}
	return former, true
}

// FormerRecord returns what a former installation, whose key is lost, recorded for the Service. It
// reports false if the status shows anything else.
func FormerRecord(svc *corev1.Service, key []byte) (record.Record, bool) {
	var unknown *record.UnknownKeyError
	addresses := AddressesIn(svc)
	if len(addresses) == 0 || len(addresses) != len(svc.Status.LoadBalancer.Ingress) {
		return record.Record{}, false
	}
	if _, err := record.Of(svc, key); !errors.As(err, &unknown) {
		return record.Record{}, false
	}
	another := func(a netip.Addr) bool { return !slices.Contains(unknown.Record.Addresses, a) }
	return unknown.Record, !slices.ContainsFunc(addresses, another)
}

// OwnershipOf returns to whom a Service belongs that the classes select. recorded says that there
// is a record of what Berth gave it, held that this controller remembers that it gave it something,
// whatever its status says now.
func OwnershipOf(svc *corev1.Service, recorded, held bool, namespace labels.Set, snapshot *config.Snapshot) Ownership {
	switch ingress := svc.Status.LoadBalancer.Ingress; {
	case svc.Spec.LoadBalancerClass != nil, recorded, held, len(ingress) == 0:
		return Own
	case TakesOver(svc, namespace, snapshot):
		return TakenOver
	}
	return Others
}

// TakesOver reports whether the status shows only addresses of pools that take over and serve the
// Service.
func TakesOver(svc *corev1.Service, namespace labels.Set, snapshot *config.Snapshot) bool {
	addresses := AddressesIn(svc)
	if len(addresses) != len(svc.Status.LoadBalancer.Ingress) { // a host name, say
		return false
	}
	seen := map[ipam.Family]bool{}
	for _, a := range addresses {
		p := snapshot.PoolOf(a)
		if p == nil || !p.TakeOver || !p.Serves(svc.Namespace, namespace, svc.Labels) || seen[ipam.FamilyOf(a)] {
			return false
		}
		seen[ipam.FamilyOf(a)] = true
	}
	return true
}

// LastWriter returns the field manager that last wrote status.loadBalancer of the Service, other
// than Berth's own; "" if the object does not say.
func LastWriter(svc *corev1.Service) string {
	var name string
	var last metav1.Time
	for _, m := range svc.ManagedFields {
		if strings.HasPrefix(m.Manager, FieldManager) || m.FieldsV1 == nil || m.Time == nil ||
			name != "" && m.Time.Before(&last) {
			continue
		}
		var fields struct {
			Status struct {
				LoadBalancer json.RawMessage `json:"f:loadBalancer"`
			} `json:"f:status"`
		}
		if json.Unmarshal(m.FieldsV1.GetRawBytes(), &fields) == nil && fields.Status.LoadBalancer != nil {
			name, last = m.Manager, *m.Time
		}
	}
	return strings.ToValidUTF8(name[:min(len(name), config.LongestQuote)], "")
}

// FieldManager is the prefix of the names of Berth's field managers, which the API server derives
// from the user agents.
const FieldManager = "berth-"

// WriterOf says in words who wrote the status of the Service.
func WriterOf(svc *corev1.Service) string {
	if name := LastWriter(svc); name != "" {
		return "field manager " + name
	}
	return "another controller"
}
