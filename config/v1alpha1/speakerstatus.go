package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// SpeakerStatus is what the speaker of one node sees and does; it has the name of
// the node and is written by that speaker alone. Its size is bounded: it counts
// addresses, it does not list them.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,path=speakerstatuses,shortName=spk,categories=berth
// +kubebuilder:printcolumn:name="State",type=string,JSONPath=`.status.state`
// +kubebuilder:printcolumn:name="Version",type=string,JSONPath=`.status.version`
// +kubebuilder:printcolumn:name="L2 owned",type=integer,JSONPath=`.status.groupsOwned`
// +kubebuilder:printcolumn:name="BGP up",type=integer,JSONPath=`.status.sessionsEstablished`
// +kubebuilder:printcolumn:name="BGP prefixes",type=integer,JSONPath=`.status.prefixesAnnounced`
// +kubebuilder:printcolumn:name="Message",type=string,priority=1,JSONPath=`.status.messages[*]`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type SpeakerStatus struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// What the speaker reports.
	// +optional
	Status SpeakerReport `json:"status,omitempty"`
}

// SpeakerStatusList is a list of speakers' reports.
//
// +kubebuilder:object:root=true
type SpeakerStatusList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []SpeakerStatus `json:"items"`
}

// SpeakerState is a state of a speaker's life.
//
// +kubebuilder:validation:Enum=Starting;Ready;Leaving;Restarting;Stopped
type SpeakerState string

const (
	// SpeakerStarting: it does not announce yet.
	SpeakerStarting SpeakerState = "Starting"
	// SpeakerReady: it announces.
	SpeakerReady SpeakerState = "Ready"
	// SpeakerLeaving: its node is excluded or deleted, or Berth is being
	// uninstalled; it hands over and withdraws, and forwards what still arrives.
	SpeakerLeaving SpeakerState = "Leaving"
	// SpeakerRestarting: the process is being replaced and will be back.
	SpeakerRestarting SpeakerState = "Restarting"
	// SpeakerStopped: the process has ended in good order.
	SpeakerStopped SpeakerState = "Stopped"
)

// SpeakerReport is what a speaker reports.
type SpeakerReport struct {
	// State of the speaker: Starting, Ready, Leaving, Restarting or Stopped.
	// +optional
	State SpeakerState `json:"state,omitempty"`
	// Reason for the state, in a sentence.
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	Reason string `json:"reason,omitempty"`
	// Version of the speaker.
	// +optional
	// +kubebuilder:validation:MaxLength=128
	Version string `json:"version,omitempty"`
	// Segments on which the speaker announces by ARP and NDP.
	// +optional
	// +kubebuilder:validation:MaxItems=64
	// +listType=map
	// +listMapKey=interface
	Segments []SegmentReport `json:"segments,omitempty"`
	// GroupsOwned counts the groups of addresses that this node answers for.
	// +optional
	GroupsOwned int32 `json:"groupsOwned"`
	// Sessions with BGP peers: one with each, and one with each router of a BGPPeer with
	// an addressPrefix, or one that waits for the first.
	// +optional
	// +kubebuilder:validation:MaxItems=256
	// +listType=map
	// +listMapKey=peer
	// +listMapKey=address
	Sessions []SessionReport `json:"sessions,omitempty"`
	// SessionsEstablished counts the sessions that are up.
	// +optional
	SessionsEstablished int32 `json:"sessionsEstablished"`
	// PrefixesAnnounced counts the prefixes that this node announces by BGP.
	// +optional
	PrefixesAnnounced int32 `json:"prefixesAnnounced"`
	// Addresses on the node's own interfaces that are in a pool; at most 64.
	// +optional
	// +kubebuilder:validation:MaxItems=64
	// +listType=atomic
	Addresses []LocalAddress `json:"addresses,omitempty"`
	// Gateways are the next hops of the node's default routes; at most 16.
	// +optional
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MaxLength=64
	// +listType=set
	Gateways []string `json:"gateways,omitempty"`
	// Conflicts are addresses that other hosts use too, as far as this speaker heard them in
	// the last minute; at most 64.
	// +optional
	// +kubebuilder:validation:MaxItems=64
	// +listType=atomic
	Conflicts []ConflictReport `json:"conflicts,omitempty"`
	// IPVS tells how far this node can forward by IPVS. Not set: the speaker was not asked to.
	// +optional
	IPVS *IPVSReport `json:"ipvs,omitempty"`
	// SigningKey is the fingerprint of the key with which the speaker signs its hellos:
	// the first 8 hexadecimal digits of the key's SHA-256. Empty: it has none.
	// +optional
	// +kubebuilder:validation:MaxLength=8
	SigningKey string `json:"signingKey,omitempty"`
	// AcceptedKeys are the fingerprints of the keys with which others may sign, the
	// speaker's own included, ascending.
	// +optional
	// +kubebuilder:validation:MaxItems=4
	// +kubebuilder:validation:items:MaxLength=8
	// +listType=set
	AcceptedKeys []string `json:"acceptedKeys,omitempty"`
	// Messages tell what is wrong, one sentence each, at most 16.
	// +optional
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MaxLength=1024
	// +listType=atomic
	Messages []string `json:"messages,omitempty"`
}

// IPVSReport is how far a node can forward by IPVS.
type IPVSReport struct {
	// Schedulers that the node's kernel showed to have; none: it cannot forward.
	// +optional
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MaxLength=16
	// +listType=set
	Schedulers []string `json:"schedulers,omitempty"`
	// Reason why it cannot, or what it lacks.
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	Reason string `json:"reason,omitempty"`
	// VirtualServers that the kernel showed as they are desired.
	// +optional
	VirtualServers int32 `json:"virtualServers"`
	// Kept: the process has ended to be replaced, and the kernel goes on to forward as it was
	// told. For two minutes the controller counts on the next process.
	// +optional
	Kept bool `json:"kept,omitempty"`
}

// LocalAddress is an address on an interface of a node.
type LocalAddress struct {
	// Address on the interface.
	// +required
	// +kubebuilder:validation:MaxLength=64
	Address string `json:"address"`
	// Interface that has it.
	// +required
	// +kubebuilder:validation:MaxLength=64
	Interface string `json:"interface"`
}

// SegmentReport is the speaker's view of one segment.
type SegmentReport struct {
	// Interface on the segment.
	// +required
	// +kubebuilder:validation:MaxLength=64
	Interface string `json:"interface"`
	// MAC address that the speaker answers with.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	MAC string `json:"mac,omitempty"`
	// Announcing: the link is up, and the speaker has listened long enough to answer.
	// +optional
	Announcing bool `json:"announcing"`
	// Subnets of the interface's addresses: their network, broadcast and subnet-router
	// anycast addresses are nobody's to give. At most 16.
	// +optional
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MaxLength=64
	// +listType=set
	Subnets []string `json:"subnets,omitempty"`
	// ProxyARP is the MAC address of a router on the segment that answers for every address
	// it is asked for (proxy ARP). Empty: none was noticed.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	ProxyARP string `json:"proxyARP,omitempty"`
	// PeersAlive counts the other speakers heard on the segment.
	// +optional
	PeersAlive int32 `json:"peersAlive"`
	// GroupsOwned counts the groups answered for on this segment.
	// +optional
	GroupsOwned int32 `json:"groupsOwned"`
	// ReturnPath is false when the node's routes to clients beyond the segment leave by
	// another interface: what comes in here is not answered the way it came. Not set:
	// the node has no such route, or the speaker cannot tell.
	// +optional
	ReturnPath *bool `json:"returnPath,omitempty"`
}

// ConflictReport is an address that another host uses too.
type ConflictReport struct {
	// Address that both announce.
	// +required
	// +kubebuilder:validation:MaxLength=64
	Address string `json:"address"`
	// Node that uses it, if the MAC address is a node's: something else on that node
	// has the address.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	Node string `json:"node,omitempty"`
	// MAC address of the host.
	// +required
	// +kubebuilder:validation:MaxLength=64
	MAC string `json:"mac"`
	// Interface on which it was heard.
	// +required
	// +kubebuilder:validation:MaxLength=64
	Interface string `json:"interface"`
}

// SessionReport is the speaker's view of one BGP session.
type SessionReport struct {
	// Peer is the name of the BGPPeer.
	// +required
	// +kubebuilder:validation:MaxLength=253
	Peer string `json:"peer"`
	// Address of the router. While none is known: the addressPrefix, or nothing for a peer
	// on an interface.
	// +optional
	// +kubebuilder:default=""
	// +kubebuilder:validation:MaxLength=64
	Address string `json:"address"`
	// State of the session as RFC 4271 names it: Idle, Connect, Active, OpenSent,
	// OpenConfirm or Established.
	// +optional
	// +kubebuilder:validation:MaxLength=32
	State string `json:"state,omitempty"`
	// Since when the session is in this state.
	// +optional
	Since *metav1.Time `json:"since,omitempty"`
	// Prefixes announced to the peer.
	// +optional
	Prefixes int32 `json:"prefixes"`
	// Families that both sides agreed on; while the session is up.
	// +optional
	// +kubebuilder:validation:MaxItems=2
	// +listType=set
	Families []Family `json:"families,omitempty"`
	// BFD is the state of the path to the peer, as RFC 5880 names it: Up, Down, or AdminDown where
	// the peer has stopped watching. Empty: it is not watched, or nothing is known yet.
	// +optional
	// +kubebuilder:validation:MaxLength=16
	BFD string `json:"bfd,omitempty"`
	// GracefulRestart: the peer keeps the routes while this speaker is replaced.
	// +optional
	GracefulRestart bool `json:"gracefulRestart,omitempty"`
	// LastError: why the session last went down, or does not come up.
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	LastError string `json:"lastError,omitempty"`
}
