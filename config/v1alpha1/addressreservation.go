package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// AddressReservation keeps addresses for its namespace, whether or not a Service uses them: while
// the Service is deleted and created again, and through a restore from backup, which loses the
// statuses of Services. Services of other namespaces do not get the addresses.
//
// The pools of the addresses must serve the namespace (their spec.scopes). A namespace has at most
// 64 reservations in effect, or what the controller's --reservations-per-namespace says.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Namespaced,shortName=addrres,categories=berth
// +kubebuilder:metadata:labels=app.kubernetes.io/part-of=berth
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="IPv4",type=string,JSONPath=`.status.addresses[?(@.family=="IPv4")].address`
// +kubebuilder:printcolumn:name="IPv6",type=string,JSONPath=`.status.addresses[?(@.family=="IPv6")].address`
// +kubebuilder:printcolumn:name="Service",type=string,JSONPath=`.spec.serviceName`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Accepted",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Accepted")].status`
// +kubebuilder:printcolumn:name="Message",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Ready")].message`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type AddressReservation struct {
	metav1.TypeMeta `json:",inline"`
	// metadata of the object.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitzero"`

	// spec says what to keep, and for which Services.
	// +required
	Spec AddressReservationSpec `json:"spec,omitzero"` //nolint:kubeapilinter // rules refuse {}, and say what to write
	// status is what is kept.
	// +optional
	// +kubebuilder:default={conditions: {{type: "Accepted", status: "Unknown", reason: "Pending", message: "no controller has looked at it yet", lastTransitionTime: "1970-01-01T00:00:00Z"},{type: "Ready", status: "Unknown", reason: "Pending", message: "no controller has looked at it yet", lastTransitionTime: "1970-01-01T00:00:00Z"}}}
	Status AddressReservationStatus `json:"status,omitzero"`
}

// AddressReservationList is a list of reservations.
//
// +kubebuilder:object:root=true
type AddressReservationList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []AddressReservation `json:"items"`
}

// AddressReservationSpec says what to keep, and for which Services: one address, or one of each
// family.
//
// +kubebuilder:validation:MinProperties=0
// +kubebuilder:validation:XValidation:rule="has(self.addresses) || has(self.poolNames)",message="write one of addresses and poolNames"
// +kubebuilder:validation:XValidation:rule="!has(self.addresses) || !has(self.poolNames)",message="write one of addresses and poolNames, not both"
// +kubebuilder:validation:XValidation:rule="!has(self.poolNames) || has(self.ipFamilies)",message="write ipFamilies, such as [IPv4]: the families of the addresses to take from poolNames"
// +kubebuilder:validation:XValidation:rule="!has(self.ipFamilies) || !has(self.addresses) || has(self.poolNames)",message="leave out ipFamilies, which goes with poolNames: addresses have their families"
type AddressReservationSpec struct {
	// addresses to keep: one, or one of each family.
	// +optional
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=2
	// +kubebuilder:validation:items:MinLength=2
	// +kubebuilder:validation:items:MaxLength=45
	// +kubebuilder:validation:items:XValidation:rule="isIP(self)",messageExpression="self + ' is not an IPv4 or IPv6 address such as 192.0.2.1'"
	// +kubebuilder:validation:XValidation:rule="size(self) < 2 || !self.all(a, isIP(a)) || ip(self[0]).family() != ip(self[1]).family()",message="two addresses are of two families; make a reservation for each address of one family"
	// +listType=set
	Addresses []string `json:"addresses,omitempty"`

	// poolNames are LoadBalancerPools to take addresses from, in order of preference, in place of
	// addresses. The addresses taken are in the status, and stay while their pool is named.
	// +optional
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=253
	// +kubebuilder:validation:items:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')",messageExpression="self + ' is not the name of a LoadBalancerPool; write lower-case letters, digits, hyphens and dots'"
	// +kubebuilder:validation:XValidation:rule="self.all(name, self.exists_one(other, other == name))",message="write each pool once, in order of preference"
	// +listType=atomic
	PoolNames []string `json:"poolNames,omitempty"`

	// ipFamilies of the addresses to take from poolNames, one address of each. An edit takes an
	// address of a family that is added, and gives up that of a family that is taken out.
	// +optional
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=2
	// +listType=set
	IPFamilies []Family `json:"ipFamilies,omitempty"`

	// serviceName is the Service of this namespace that gets the addresses whenever it exists. If
	// left out, any Service of the namespace may ask for them, by annotation
	// berth.dev/load-balancer-ips or spec.loadBalancerIP.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",messageExpression="self + ' is not the name of a Service; write lower-case letters, digits and hyphens'"
	ServiceName string `json:"serviceName,omitempty"`
}

// AddressReservationStatus is what is kept.
//
// +kubebuilder:validation:MinProperties=1
type AddressReservationStatus struct {
	// conditions of the reservation. Accepted is True while an address is kept, Ready while all
	// addresses that it asks for are; otherwise it has the field at fault and the remedy.
	// +optional
	// +kubebuilder:default={{type: "Accepted", status: "Unknown", reason: "Pending", message: "no controller has looked at it yet", lastTransitionTime: "1970-01-01T00:00:00Z"},{type: "Ready", status: "Unknown", reason: "Pending", message: "no controller has looked at it yet", lastTransitionTime: "1970-01-01T00:00:00Z"}}
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// observedGeneration is the generation of the object that the status is about.
	// +optional
	// +kubebuilder:validation:Minimum=1
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// addresses that are kept, one of a family.
	// +optional
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=2
	// +listType=map
	// +listMapKey=family
	Addresses []ReservedAddress `json:"addresses,omitempty"`
}

// ReservedAddress is an address that a reservation keeps.
type ReservedAddress struct {
	// family of the address.
	// +required
	Family Family `json:"family,omitempty"`
	// address that is kept.
	// +required
	// +kubebuilder:validation:MinLength=2
	// +kubebuilder:validation:MaxLength=45
	Address string `json:"address,omitempty"`
}
