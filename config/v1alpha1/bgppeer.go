package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// BGPPeer is a router with which the speakers hold BGP sessions, most often the
// top-of-rack switch. Berth dials; it does not listen. It accepts no routes.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,shortName=bgpp,categories=berth
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Address",type=string,JSONPath=`.spec.address`
// +kubebuilder:printcolumn:name="Local ASN",type=integer,JSONPath=`.spec.localASN`
// +kubebuilder:printcolumn:name="Peer ASN",type=integer,JSONPath=`.spec.peerASN`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Ready")].message`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type BGPPeer struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// How to reach the peer.
	// +required
	Spec BGPPeerSpec `json:"spec"`
	// What the controller made of it. The sessions themselves are in the
	// SpeakerStatus of each node.
	// +optional
	Status BGPPeerStatus `json:"status,omitempty"`
}

// BGPPeerList is a list of peers.
//
// +kubebuilder:object:root=true
type BGPPeerList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []BGPPeer `json:"items"`
}

// BGPPeerSpec says how a speaker reaches a peer.
//
// +kubebuilder:validation:XValidation:rule="!has(self.keepaliveTime) || duration(self.keepaliveTime) < duration(has(self.holdTime) ? self.holdTime : '90s')",message="keepaliveTime is below holdTime (one third of it is usual)"
// +kubebuilder:validation:XValidation:rule="!has(self.ebgpMultihop) || self.localASN != self.peerASN",message="ebgpMultihop is for external peers: localASN and peerASN are equal here"
type BGPPeerSpec struct {
	// LocalASN is the autonomous system number of the nodes: 1 to 4294967294.
	// +required
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=4294967294
	LocalASN int64 `json:"localASN"`

	// PeerASN is the autonomous system number of the peer: 1 to 4294967294. Equal
	// to localASN it makes the session internal (iBGP).
	// +required
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=4294967294
	PeerASN int64 `json:"peerASN"`

	// Address of the peer, IPv4 or IPv6. Both families are announced over the one
	// session.
	// +required
	// +kubebuilder:validation:MinLength=2
	// +kubebuilder:validation:MaxLength=45
	// +kubebuilder:validation:XValidation:rule="isIP(self)",message="an IPv4 or IPv6 address such as 192.0.2.1"
	Address string `json:"address"`

	// Port of the peer. Default 179.
	// +optional
	// +default=179
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	Port int32 `json:"port,omitempty"`

	// HoldTime: the session is down when nothing was heard for this long (RFC 4271
	// section 4.2). 3s to 18h, in whole seconds; the shorter of the two sides' values
	// holds. Default 90s.
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$`
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('3s') && duration(self) <= duration('18h')",message="from 3s to 18h"
	HoldTime *metav1.Duration `json:"holdTime,omitempty"`

	// KeepaliveTime: how often to say that we are alive. 1s up to less than holdTime, in whole
	// seconds. Default one third of holdTime.
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$`
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1s')",message="at least 1s"
	KeepaliveTime *metav1.Duration `json:"keepaliveTime,omitempty"`

	// ConnectRetryTime: how long to wait between attempts to connect. 1s to 10m, in
	// whole seconds. Default 5s.
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$`
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1s') && duration(self) <= duration('10m')",message="from 1s to 10m"
	ConnectRetryTime *metav1.Duration `json:"connectRetryTime,omitempty"`

	// EBGPMultihop: the time to live of packets to an external peer that is not on
	// the same segment, 2 to 255. Unset: the peer is one hop away.
	// +optional
	// +kubebuilder:validation:Minimum=2
	// +kubebuilder:validation:Maximum=255
	EBGPMultihop *int32 `json:"ebgpMultihop,omitempty"`

	// NodeSelectors: a node peers when its labels match one of them (the entries are
	// ORed). Empty: all nodes.
	// +optional
	// +kubebuilder:validation:MaxItems=64
	// +listType=atomic
	NodeSelectors []metav1.LabelSelector `json:"nodeSelectors,omitempty"`
}

// BGPPeerStatus is what the controller made of a peer.
type BGPPeerStatus struct {
	// Conditions of the peer. Ready is False when the object is not in effect, with
	// the field at fault and the remedy. It does not tell whether sessions are up.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// ConditionList returns where the conditions of the object are kept.
func (o *BGPPeer) ConditionList() *[]metav1.Condition { return &o.Status.Conditions }
