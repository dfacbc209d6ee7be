package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// IPReservation keeps an address for its namespace, whether or not a Service uses
// it: across deletion and re-creation of the Service, and across a restore from
// backup, which loses the statuses of Services. Services of other namespaces do not
// get the address.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Namespaced,shortName=ipres,categories=berth
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Address",type=string,JSONPath=`.spec.address`
// +kubebuilder:printcolumn:name="Pool",type=string,JSONPath=`.spec.pool`
// +kubebuilder:printcolumn:name="Service",type=string,JSONPath=`.spec.service`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Ready")].message`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type IPReservation struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// What is kept, and for whom.
	// +required
	Spec IPReservationSpec `json:"spec"`
	// What the controller made of it.
	// +optional
	Status IPReservationStatus `json:"status,omitempty"`
}

// IPReservationList is a list of reservations.
//
// +kubebuilder:object:root=true
type IPReservationList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []IPReservation `json:"items"`
}

// IPReservationSpec says what is kept, and for whom.
//
// +kubebuilder:validation:XValidation:rule="has(self.address) || has(self.pool)",message="give an address, or a pool to take one from"
// +kubebuilder:validation:XValidation:rule="!has(oldSelf.address) || has(self.address) && self.address == oldSelf.address",message="the address of a reservation does not change: delete it and make another"
type IPReservationSpec struct {
	// Address that is kept, IPv4 or IPv6. If it is left out, the controller takes a
	// free one of the pool and writes it here, so that a backup of the object holds it.
	// +optional
	// +kubebuilder:validation:MinLength=2
	// +kubebuilder:validation:MaxLength=45
	// +kubebuilder:validation:XValidation:rule="isIP(self)",message="an IPv4 or IPv6 address such as 192.0.2.1"
	Address string `json:"address,omitempty"`

	// Pool to take an address from, by name of the IPPool.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Pool string `json:"pool,omitempty"`

	// Family of the address to take from the pool: IPv4 (the default) or IPv6.
	// +optional
	// +kubebuilder:validation:Enum=IPv4;IPv6
	Family string `json:"family,omitempty"`

	// Service of this namespace, by name, that gets the address whenever it exists.
	// Empty: any Service of the namespace may ask for the address, by
	// spec.loadBalancerIP or annotation berth.dev/load-balancer-ips.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	Service string `json:"service,omitempty"`
}

// IPReservationStatus is what the controller made of a reservation.
type IPReservationStatus struct {
	// Conditions of the reservation. Ready is True while the address is kept.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// ConditionList returns where the conditions of the object are kept.
func (o *IPReservation) ConditionList() *[]metav1.Condition { return &o.Status.Conditions }
