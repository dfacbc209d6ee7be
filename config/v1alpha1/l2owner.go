package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// L2Owner says which node answers for a group of addresses on one segment. It
// mirrors what the speakers agree on there; its owner writes it, and nobody else.
// It lives with the first Service of the group, and goes with it.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Namespaced,shortName=l2o,categories=berth
// +kubebuilder:printcolumn:name="Addresses",type=string,JSONPath=`.spec.addresses`
// +kubebuilder:printcolumn:name="Node",type=string,JSONPath=`.spec.node`
// +kubebuilder:printcolumn:name="Segment",type=string,JSONPath=`.spec.segment`
// +kubebuilder:printcolumn:name="Interface",type=string,JSONPath=`.spec.interface`
// +kubebuilder:printcolumn:name="Term",type=integer,JSONPath=`.spec.term`
// +kubebuilder:printcolumn:name="Since",type=date,JSONPath=`.spec.since`
// +kubebuilder:printcolumn:name="MAC",type=string,priority=1,JSONPath=`.spec.mac`
// +kubebuilder:printcolumn:name="Cause",type=string,priority=1,JSONPath=`.spec.cause`
type L2Owner struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Who answers for what, and where.
	// +required
	Spec L2OwnerSpec `json:"spec"`
}

// L2OwnerList is a list of owners.
//
// +kubebuilder:object:root=true
type L2OwnerList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []L2Owner `json:"items"`
}

// L2OwnerSpec says who answers for what, and where.
type L2OwnerSpec struct {
	// Group of addresses, as the speakers name it: namespace and name of its first
	// Service, and the advertisements that select the addresses.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=4096
	Group string `json:"group"`
	// Addresses of the group, ascending; of very many the first 256.
	// +optional
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:MaxLength=64
	// +listType=set
	Addresses []string `json:"addresses,omitempty"`
	// Node that answers.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Node string `json:"node"`
	// Segment, by its first subnet.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	Segment string `json:"segment"`
	// Interface of the node on the segment.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	Interface string `json:"interface,omitempty"`
	// MAC address that answers.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	MAC string `json:"mac,omitempty"`
	// Term grows each time that the group is claimed anew. Of two claims that are
	// witnessed alike the one of the higher term holds.
	// +optional
	// +kubebuilder:validation:Minimum=0
	Term int64 `json:"term"`
	// Witnessed: the node heard another speaker on the segment when it claimed the
	// group, or was to hear none. Such a claim holds against one that is not.
	// +optional
	Witnessed bool `json:"witnessed"`
	// Cause of the claim, in a word.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	Cause string `json:"cause,omitempty"`
	// Since when the node owns the group in this term.
	// +optional
	Since *metav1.Time `json:"since,omitempty"`
}
