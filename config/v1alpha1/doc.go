// Package v1alpha1 holds the API of group berth.dev: which addresses Berth may
// give to Services of type LoadBalancer, how it announces them, and what its
// speakers see.
//
// All kinds but AddressReservation and L2Owner are cluster-scoped. What one object can say
// about itself is checked by the API server (patterns and CEL rules in the CRDs); what only the
// whole set can say is found by the compiler in package config and reported as a condition on
// the object at fault.
//
// A field that selects says what it selects: by name, by a label selector, or everything, which is
// the selector {}. A list or a selector that is written but empty is refused. See
// docs/design/decisions/0007-the-api-that-stays.md.
//
// +kubebuilder:object:generate=true
// +groupName=berth.dev
package v1alpha1
