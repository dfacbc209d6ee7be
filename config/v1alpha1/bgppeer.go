package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// BGPPeer is a router with which the speakers hold BGP sessions, most often the
// top-of-rack switch. Berth dials, unless the peer is passive or given by its prefix.
// It accepts no routes.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,shortName=bgpp,categories=berth
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Address",type=string,JSONPath=`.spec.address`
// +kubebuilder:printcolumn:name="Interface",type=string,JSONPath=`.spec.interface`
// +kubebuilder:printcolumn:name="Prefix",type=string,priority=1,JSONPath=`.spec.addressPrefix`
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
// +kubebuilder:validation:XValidation:rule="!has(self.ebgpMultihop) || (has(self.peerASN) ? (has(self.localASOverride) ? self.localASOverride : self.localASN) != self.peerASN : self.peerType == 'External')",message="ebgpMultihop is for external peers: the session is internal here"
// +kubebuilder:validation:XValidation:rule="has(self.peerASN) != has(self.peerType)",message="one of peerASN and peerType says which AS the peer is in"
// +kubebuilder:validation:XValidation:rule="[has(self.address), has(self.interface), has(self.addressPrefix)].filter(is, is).size() == 1",message="one of address, interface and addressPrefix says where the peer is"
// +kubebuilder:validation:XValidation:rule="!has(self.ebgpMultihop) || !has(self.ttlSecurity) || !self.ttlSecurity",message="ttlSecurity is for peers one hop away: leave out ebgpMultihop or ttlSecurity"
// +kubebuilder:validation:XValidation:rule="!has(self.interface) || !has(self.sourceAddress) && !has(self.ebgpMultihop)",message="a peer on an interface is reached by link-local addresses: leave out sourceAddress and ebgpMultihop"
// +kubebuilder:validation:XValidation:rule="!has(self.sourceAddress) || !has(self.address) || !isIP(self.sourceAddress) || !isIP(self.address) || ip(self.sourceAddress).family() == ip(self.address).family()",message="sourceAddress and address are of one family"
// +kubebuilder:validation:XValidation:rule="!has(self.passive) || !self.passive || has(self.address)",message="a passive peer has an address: on an interface both sides connect, and with addressPrefix all routers do anyway"
// +kubebuilder:validation:XValidation:rule="!has(self.addressPrefix) || has(self.peerASN)",message="routers of addressPrefix are known by peerASN: give it, and not peerType"
// +kubebuilder:validation:XValidation:rule="!has(self.addressPrefix) || !has(self.sourceAddress) && !has(self.gracefulRestart) && !has(self.bfd)",message="routers of addressPrefix have no sourceAddress, gracefulRestart or bfd: give each that needs them a BGPPeer with its address"
// +kubebuilder:validation:XValidation:rule="!(has(self.addressPrefix) || has(self.passive) && self.passive) || (!has(self.port) || self.port == 179) && !has(self.connectRetryTime) && !has(self.vrf)",message="the peer connects to us: leave out port, connectRetryTime and vrf"
// +kubebuilder:validation:XValidation:rule="!(has(self.ttlSecurity) && self.ttlSecurity) || !(has(self.addressPrefix) && self.addressPrefix.contains(':') || has(self.passive) && self.passive && has(self.address) && self.address.contains(':'))",message="ttlSecurity does not work with peers that connect to us over IPv6: use their IPv4 addresses, or leave it out"
type BGPPeerSpec struct {
	// LocalASN is the autonomous system number of the nodes: 1 to 4294967294.
	// +required
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=4294967294
	LocalASN int64 `json:"localASN"`

	// PeerASN is the autonomous system number of the peer: 1 to 4294967294. Equal
	// to localASN it makes the session internal (iBGP). Instead of it peerType can say
	// which of the two it is.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=4294967294
	PeerASN int64 `json:"peerASN,omitempty"`

	// PeerType, in place of peerASN: External accepts a peer of whichever AS but
	// localASN, Internal one of localASN.
	// +optional
	PeerType PeerType `json:"peerType,omitempty"`

	// LocalASOverride: the autonomous system number that this peer is told, in place of
	// localASN, and the only one it sees in the AS path (RFC 7705, "Replace Old AS"):
	// for a router that is not moved to the new number yet.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=4294967294
	LocalASOverride int64 `json:"localASOverride,omitempty"`

	// Address of the peer, IPv4 or IPv6. Both families are announced over the one
	// session, unless families says otherwise.
	// +optional
	// +kubebuilder:validation:MinLength=2
	// +kubebuilder:validation:MaxLength=45
	// +kubebuilder:validation:XValidation:rule="isIP(self)",message="an IPv4 or IPv6 address such as 192.0.2.1"
	Address string `json:"address,omitempty"`

	// Interface, in place of address: the peer is the router on the other end of this
	// interface of the node, found by its IPv6 link-local address ("BGP unnumbered").
	// IPv4 routes have an IPv6 next hop then (RFC 8950).
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=15
	Interface string `json:"interface,omitempty"`

	// AddressPrefix, in place of address: any router in it that connects to the node and
	// is in peerASN is a peer, up to 64 at a time on a node. The speaker must listen, as
	// with passive. Each router has a session of its own in the SpeakerStatus. It
	// overlaps the address or addressPrefix of no other BGPPeer of the node.
	// +optional
	// +kubebuilder:validation:MinLength=3
	// +kubebuilder:validation:MaxLength=49
	// +kubebuilder:validation:XValidation:rule="isCIDR(self) && cidr(self) == cidr(self).masked()",message="a prefix such as 10.0.0.0/24, without host bits"
	AddressPrefix string `json:"addressPrefix,omitempty"`

	// Passive: the peer connects to the node, and the speaker does not dial. For that
	// the speaker must listen, which it does not by default, since others often have
	// port 179: see manifests/bgp-passive. The report of a speaker that does not
	// listen says so.
	// +optional
	Passive bool `json:"passive,omitempty"`

	// SourceAddress of the node from which to open the session, or for a passive peer to
	// which it connects. Default: the one that the kernel chooses, or any.
	// +optional
	// +kubebuilder:validation:MinLength=2
	// +kubebuilder:validation:MaxLength=45
	// +kubebuilder:validation:XValidation:rule="isIP(self)",message="an IPv4 or IPv6 address such as 192.0.2.11"
	SourceAddress string `json:"sourceAddress,omitempty"`

	// VRF is the Linux VRF device through which the peer is reached; not for peers that
	// connect to us. Default: none.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=15
	VRF string `json:"vrf,omitempty"`

	// Families announced over the session. Default: IPv4 and IPv6.
	// +optional
	// +kubebuilder:validation:MaxItems=2
	// +listType=set
	Families []Family `json:"families,omitempty"`

	// PasswordSecretRef names a Secret of type kubernetes.io/basic-auth in Berth's own
	// namespace. Its password, of at most 80 bytes, is the key of TCP MD5 signatures
	// (RFC 2385). A change resets this session only.
	// +optional
	PasswordSecretRef *SecretReference `json:"passwordSecretRef,omitempty"`

	// TTLSecurity: packets of the peer count only if they cannot have crossed a router
	// (RFC 5082, GTSM). The peer needs the same setting ("ttl-security hops 1").
	// +optional
	TTLSecurity bool `json:"ttlSecurity,omitempty"`

	// GracefulRestart asks the peer to keep the routes while the speaker is replaced
	// (RFC 4724). Default: off, since without BFD it keeps them for a node that died,
	// too.
	// +optional
	GracefulRestart *GracefulRestart `json:"gracefulRestart,omitempty"`

	// BFD watches the peer in fractions of a second (RFC 5880): one hop away by RFC
	// 5881, with ebgpMultihop, or for an internal peer beyond the node's networks, by RFC 5883. Default: off.
	// +optional
	BFD *BFD `json:"bfd,omitempty"`

	// Port of the peer. Default 179. Not for peers that connect to us.
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
	// whole seconds. Default 5s. Not for peers that connect to us.
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

// PeerType tells external from internal peers.
//
// +kubebuilder:validation:Enum=External;Internal
type PeerType string

// The types of peers.
const (
	PeerExternal PeerType = "External"
	PeerInternal PeerType = "Internal"
)

// Family is an address family.
//
// +kubebuilder:validation:Enum=IPv4;IPv6
type Family string

// The families.
const (
	IPv4 Family = "IPv4"
	IPv6 Family = "IPv6"
)

// SecretReference names a Secret in Berth's namespace.
type SecretReference struct {
	// Name of the Secret.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
}

// GracefulRestart says for how long routes are kept.
type GracefulRestart struct {
	// RestartTime: how long the peer keeps the routes after the session ended without a
	// word, for the speaker to come back. 1s to 4095s, in whole seconds. Default 120s.
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$`
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1s') && duration(self) <= duration('4095s')",message="from 1s to 4095s"
	RestartTime *metav1.Duration `json:"restartTime,omitempty"`
}

// BFD has the timers of a BFD session. The peer's bear on what is used.
type BFD struct {
	// ReceiveInterval: the shortest time between packets that we ask of the peer, 10ms
	// to 60s. Default 300ms.
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$`
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('10ms') && duration(self) <= duration('60s')",message="from 10ms to 60s"
	ReceiveInterval *metav1.Duration `json:"receiveInterval,omitempty"`

	// TransmitInterval: the time between our packets that we would like, 10ms to 60s;
	// the peer's wish counts if it is longer. Default 300ms.
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$`
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('10ms') && duration(self) <= duration('60s')",message="from 10ms to 60s"
	TransmitInterval *metav1.Duration `json:"transmitInterval,omitempty"`

	// Multiplier: after so many of our intervals without a packet the peer calls us
	// dead, 2 to 50. Default 3.
	// +optional
	// +kubebuilder:validation:Minimum=2
	// +kubebuilder:validation:Maximum=50
	Multiplier int32 `json:"multiplier,omitempty"`
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
