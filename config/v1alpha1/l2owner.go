package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// L2Owner says which node answers for an address on a segment. The object mirrors what the speakers
// agree on there; the owner writes it, and nothing else does. Its name has the address and the
// segment. It goes with the Node of the owner. It has no spec: nobody asks for an owner.
//
// It has no status subresource either, so that one write publishes a new owner, and not two: with
// thousands of addresses that counts. The generation therefore grows with each write, and
// observedGeneration is the generation after the write.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,shortName=l2o,categories=berth
// +kubebuilder:metadata:labels=app.kubernetes.io/part-of=berth
// +kubebuilder:printcolumn:name="Address",type=string,JSONPath=`.status.address`
// +kubebuilder:printcolumn:name="Service",type=string,JSONPath=`.status.serviceRefs[0].name`
// +kubebuilder:printcolumn:name="Node",type=string,JSONPath=`.status.nodeName`
// +kubebuilder:printcolumn:name="Segment",type=string,JSONPath=`.status.segment`
// +kubebuilder:printcolumn:name="Interface",type=string,JSONPath=`.status.interface`
// +kubebuilder:printcolumn:name="Acquired",type=date,JSONPath=`.status.acquireTime`
// +kubebuilder:printcolumn:name="Term",type=integer,priority=1,JSONPath=`.status.term`
// +kubebuilder:printcolumn:name="MAC",type=string,priority=1,JSONPath=`.status.mac`
// +kubebuilder:printcolumn:name="Reason",type=string,priority=1,JSONPath=`.status.reason`
type L2Owner struct { //nolint:kubeapilinter // one write for a new owner, not two: see above
	metav1.TypeMeta `json:",inline"`
	// metadata of the object.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitzero"`

	// status says who answers for what, and where.
	// +optional
	// +kubebuilder:default={conditions: {{type: "Ready", status: "Unknown", reason: "Pending", message: "no speaker has written it yet", lastTransitionTime: "1970-01-01T00:00:00Z"}}}
	Status L2OwnerStatus `json:"status,omitzero"`
}

// L2OwnerList is a list of owners.
//
// +kubebuilder:object:root=true
type L2OwnerList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []L2Owner `json:"items"`
}

// L2OwnerStatus says who answers for what, and where.
//
// +kubebuilder:validation:MinProperties=1
// +kubebuilder:validation:XValidation:rule="!has(oldSelf.address) || has(self.address) && self.address == oldSelf.address",message="address: is not changed; an L2Owner is of one address"
// +kubebuilder:validation:XValidation:rule="!has(oldSelf.segment) || has(self.segment) && self.segment == oldSelf.segment",message="segment: is not changed; an L2Owner is of one segment"
type L2OwnerStatus struct {
	// conditions of the owner. Ready is True once a node has said that it answers.
	// +optional
	// +kubebuilder:default={{type: "Ready", status: "Unknown", reason: "Pending", message: "no speaker has written it yet", lastTransitionTime: "1970-01-01T00:00:00Z"}}
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// observedGeneration is the generation of the object after the write of this status.
	// +optional
	// +kubebuilder:validation:Minimum=1
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// serviceRefs are the Services that have the address, in ascending order; of very many the
	// first 64.
	// +optional
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +listType=map
	// +listMapKey=namespace
	// +listMapKey=name
	ServiceRefs []ServiceReference `json:"serviceRefs,omitempty"`
	// announcementNames are the SegmentAnnouncements that select the address, in ascending order.
	// +optional
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=253
	// +listType=set
	AnnouncementNames []string `json:"announcementNames,omitempty"`
	// address that the node answers for.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	Address string `json:"address,omitempty"`
	// nodeName is the node that answers.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	NodeName string `json:"nodeName,omitempty"`
	// segment is the first subnet of the segment, such as 192.0.2.0/24.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	Segment string `json:"segment,omitempty"`
	// interface of the node on the segment.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	Interface string `json:"interface,omitempty"`
	// mac is the MAC address that answers.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	MAC string `json:"mac,omitempty"`
	// term grows each time that the address is claimed again. If two claims are equally witnessed,
	// the one of the higher term wins.
	// +optional
	// +kubebuilder:validation:Minimum=1
	Term int64 `json:"term,omitempty"`
	// witnessed is true if the node heard another speaker on the segment when it claimed the address,
	// or had none to hear. Such a claim wins over one that is not witnessed.
	// +optional
	Witnessed bool `json:"witnessed,omitempty"` //nolint:kubeapilinter // of the protocol
	// tentative is true while the node does not answer yet. On a segment that carries no messages of
	// speakers, it asks by this claim whether another node answers.
	// +optional
	Tentative bool `json:"tentative,omitempty"` //nolint:kubeapilinter // of the protocol
	// reason of the claim, in CamelCase.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	Reason string `json:"reason,omitempty"`
	// acquireTime is when the node took the address over in this term.
	// +optional
	AcquireTime *metav1.Time `json:"acquireTime,omitempty"`
}

// ServiceReference names a Service.
type ServiceReference struct {
	// namespace of the Service.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Namespace string `json:"namespace,omitempty"`
	// name of the Service.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name,omitempty"`
}
