// Package v1alpha1 holds the API of group berth.dev: which addresses Berth may
// give to Services of type LoadBalancer, how it announces them, and what its
// speakers see.
//
// All kinds but AddressReservation are cluster-scoped. What one object can say about itself is
// checked by the API server (patterns and CEL rules in the CRDs); what only the whole set can say
// is found by the compiler in package config and reported as a condition on the object at fault.
//
// Each kind has a file of its own, but for the two announcements (announcements.go). common.go has
// what kinds share, selector.go selectors, names.go the names of annotations, labels and Secrets.
// register.go adds all kinds to a scheme.
//
// A field that selects says what it selects: by name, by a label selector, or everything, which is
// the selector {}. A list or a selector that is written but empty is refused. See
// docs/design/decisions/0007-the-api-that-stays.md.
//
// +kubebuilder:object:generate=true
// +groupName=berth.dev
package v1alpha1
