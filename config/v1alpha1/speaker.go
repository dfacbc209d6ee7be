package v1alpha1

import (
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Speaker is what the speaker of one node is told, and what it sees and does; it has the name of
// the node. That speaker alone writes its status. The status is bounded: it counts
// addresses, it does not list them.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,shortName=spk,categories=berth
// +kubebuilder:metadata:labels=app.kubernetes.io/part-of=berth
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Version",type=string,JSONPath=`.status.version`
// +kubebuilder:printcolumn:name="L2 addresses",type=integer,JSONPath=`.status.addressesOwned`
// +kubebuilder:printcolumn:name="Sessions",type=string,JSONPath=`.status.sessionCounts.summary`
// +kubebuilder:printcolumn:name="Prefixes",type=integer,JSONPath=`.status.prefixesAnnounced`
// +kubebuilder:printcolumn:name="Message",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Ready")].message`
// +kubebuilder:printcolumn:name="Problem",type=string,priority=1,JSONPath=`.status.problems[0].message`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type Speaker struct {
	metav1.TypeMeta `json:",inline"`
	// metadata of the object.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitzero"`

	// spec says what is special about the node. It may be empty: the speaker makes its object
	// itself, if nobody has.
	// +optional
	Spec SpeakerSpec `json:"spec,omitzero"` //nolint:kubeapilinter // {} is the same as none
	// status is what the speaker reports.
	// +optional
	// +kubebuilder:default={conditions: {{type: "Ready", status: "Unknown", reason: "Pending", message: "no speaker of this node has reported yet", lastTransitionTime: "1970-01-01T00:00:00Z"}}}
	Status SpeakerStatus `json:"status,omitzero"`
}

// SpeakerList is a list of speakers.
//
// +kubebuilder:object:root=true
type SpeakerList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Speaker `json:"items"`
}

// SpeakerSpec says what is special about a node.
//
// +kubebuilder:validation:MinProperties=0
type SpeakerSpec struct {
	// bgp has the settings of the node's BGP.
	// +optional
	BGP SpeakerBGP `json:"bgp,omitzero"`
}

// SpeakerBGP has the settings of a node's BGP.
type SpeakerBGP struct {
	// routerID is the BGP router ID of the speaker, in place of the node's IPv4 address: a unicast
	// IPv4 address that is unique in the routing domain. A change resets the node's BGP sessions.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=15
	// +kubebuilder:validation:XValidation:rule="isIP(self) && ip(self).family() == 4 && !self.startsWith('0.') && !ip(self).isLoopback() && !self.matches('^(22[4-9]|2[3-5][0-9])[.]')",messageExpression="self + ' is not a router ID; write a unicast IPv4 address such as 10.0.0.1'"
	RouterID string `json:"routerID,omitempty"`
}

// SpeakerState is a state of a speaker's life: the reason of its condition Ready.
type SpeakerState string

const (
	// SpeakerPending: it has not reported yet.
	SpeakerPending SpeakerState = ReasonPending
	// SpeakerStarting: it does not announce yet.
	SpeakerStarting SpeakerState = "Starting"
	// SpeakerAnnouncing: it is ready, and announces.
	SpeakerAnnouncing SpeakerState = "Announcing"
	// SpeakerLeaving: its node is excluded or deleted, or Berth is being uninstalled; it hands over
	// and withdraws, and forwards what still arrives.
	SpeakerLeaving SpeakerState = "Leaving"
	// SpeakerRestarting: the process is being replaced and will be back.
	SpeakerRestarting SpeakerState = "Restarting"
	// SpeakerReplaced: the process has ended to be replaced, and the kernel keeps forwarding. For two
	// minutes the controller counts on the next process.
	SpeakerReplaced SpeakerState = "Replaced"
	// SpeakerStopped: the process has ended cleanly.
	SpeakerStopped SpeakerState = "Stopped"
)

// Ended reports whether the process has ended.
func (s SpeakerState) Ended() bool { return s == SpeakerStopped || s == SpeakerReplaced }

// State returns the state of the speaker, and the reason for it in a sentence.
func (s *SpeakerStatus) State() (state SpeakerState, message string) {
	ready := meta.FindStatusCondition(s.Conditions, ConditionReady)
	if ready == nil {
		return SpeakerPending, ""
	}
	return SpeakerState(ready.Reason), ready.Message
}

// SpeakerStatus is what a speaker reports. What changes is written at once, except for numbers that
// change by less than an eighth, such as peersAlive when one of many nodes restarts: they may be
// behind for ten minutes.
//
// +kubebuilder:validation:MinProperties=1
type SpeakerStatus struct {
	// conditions of the speaker. Ready is True while it announces (reason Announcing), and False
	// while it is Starting, Leaving, Restarting, Replaced or Stopped. IPVSReady, if the speaker was
	// asked to forward by IPVS, reports whether it can with every scheduler. SteeringReady, if it was
	// asked to steer, reports whether it does. ReturnPath is False
	// when replies to clients beyond a segment do not leave the node by the interface on that
	// segment.
	// +optional
	// +kubebuilder:default={{type: "Ready", status: "Unknown", reason: "Pending", message: "no speaker of this node has reported yet", lastTransitionTime: "1970-01-01T00:00:00Z"}}
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// observedGeneration is the generation of the object that the status is about.
	// +optional
	// +kubebuilder:validation:Minimum=1
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// version of the speaker.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	Version string `json:"version,omitempty"`
	// problems say what is wrong; of very many the first 16.
	// +optional
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +listType=atomic
	Problems []SpeakerProblem `json:"problems,omitempty"`
	// segments on which the speaker announces by ARP and NDP; of very many the first 64.
	// +optional
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +listType=map
	// +listMapKey=interface
	Segments []SegmentReport `json:"segments,omitempty"`
	// addressesOwned counts the addresses that this node answers for. One that is wanted on several
	// segments counts on each of them.
	// +optional
	// +kubebuilder:validation:Minimum=0
	AddressesOwned *int32 `json:"addressesOwned,omitempty"`
	// routerID is the BGP router ID in use.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=15
	RouterID string `json:"routerID,omitempty"`
	// sessions with BGP neighbors: one with each, and one with each router of a BGPNeighbor with an
	// addressPrefix, or one that waits for the first. Of very many the first 256.
	// +optional
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=256
	// +listType=map
	// +listMapKey=neighborName
	// +listMapKey=address
	Sessions []SessionReport `json:"sessions,omitempty"`
	// sessionCounts counts the sessions, and those that are established.
	// +optional
	SessionCounts SessionCounts `json:"sessionCounts,omitzero"`
	// prefixesAnnounced counts the prefixes that this node announces by BGP.
	// +optional
	// +kubebuilder:validation:Minimum=0
	PrefixesAnnounced *int32 `json:"prefixesAnnounced,omitempty"`
	// addresses on the node's own interfaces that are in a pool; of very many the first 64.
	// +optional
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +listType=atomic
	Addresses []LocalAddress `json:"addresses,omitempty"`
	// gateways are the next hops of the node's default routes; of very many the first 16.
	// +optional
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=64
	// +listType=set
	Gateways []string `json:"gateways,omitempty"`
	// conflicts are addresses that other hosts use too, as far as this speaker heard them in the
	// last minute; of very many the first 64.
	// +optional
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +listType=atomic
	Conflicts []ConflictReport `json:"conflicts,omitempty"`
	// ipvs reports how far this node can forward by IPVS. Not set: the speaker was not asked to.
	// +optional
	IPVS IPVSReport `json:"ipvs,omitzero"`
	// steering reports how far this node can steer connections. Not set: the speaker was not asked to.
	// +optional
	Steering SteeringReport `json:"steering,omitzero"`
	// silentNodes are nodes that this speaker heard before, on whatever segment, and hears on none
	// now, without a word of farewell: of very many those that fell silent last. Only with
	// --report-silent-nodes.
	// +optional
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +listType=map
	// +listMapKey=nodeName
	SilentNodes []SilentNodeReport `json:"silentNodes,omitempty"`
	// signingKey is the fingerprint of the key with which the speaker signs its hellos:
	// the first 8 hexadecimal digits of the key's SHA-256. Not set: it has none.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=8
	SigningKey string `json:"signingKey,omitempty"`
	// acceptedKeys are the fingerprints of the keys with which others may sign, the
	// speaker's own included, ascending.
	// +optional
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=4
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=8
	// +listType=set
	AcceptedKeys []string `json:"acceptedKeys,omitempty"`
}

// SpeakerProblem is something wrong on a node.
type SpeakerProblem struct {
	// reason in CamelCase.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	Reason string `json:"reason,omitempty"`
	// message with what is wrong and the remedy, in a sentence.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	Message string `json:"message,omitempty"`
}

// IPVSReport is how far a node can forward by IPVS. Condition IPVSReady says what it lacks.
type IPVSReport struct {
	// schedulers that the node's kernel showed to have; none: it cannot forward.
	// +optional
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=16
	// +listType=set
	Schedulers []string `json:"schedulers,omitempty"`
	// virtualServers that the kernel showed as they are desired.
	// +required
	// +kubebuilder:validation:Minimum=0
	VirtualServers *int32 `json:"virtualServers,omitempty"`
}

// SteeringFeature is something that a kernel can do for steering, but need not.
//
// +kubebuilder:validation:Enum=Link;SecondChance
type SteeringFeature string

const (
	// FeatureLink: programs are attached as links of tcx (Linux 6.6), else as filters of tc.
	FeatureLink SteeringFeature = "Link"
	// FeatureSecondChance: programs can ask conntrack for a connection (Linux 5.18).
	FeatureSecondChance SteeringFeature = "SecondChance"
)

// SteeringReport is how far a node can steer. Condition SteeringReady says what it lacks.
type SteeringReport struct {
	// features that the node's kernel has, of those that steering can do without.
	// +optional
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=8
	// +listType=set
	Features []SteeringFeature `json:"features,omitempty"`
	// ports is the number of addresses with a port and a protocol whose connections it steers.
	// +required
	// +kubebuilder:validation:Minimum=0
	Ports *int32 `json:"ports,omitempty"`
}

// LocalAddress is an address on an interface of a node.
type LocalAddress struct {
	// address on the interface.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	Address string `json:"address,omitempty"`
	// interface that has it.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	Interface string `json:"interface,omitempty"`
}

// SegmentState says whether a speaker announces on a segment.
//
// +kubebuilder:validation:Enum=Announcing;Waiting
type SegmentState string

const (
	// SegmentAnnouncing: the link is up, and the speaker has listened long enough to answer.
	SegmentAnnouncing SegmentState = "Announcing"
	// SegmentWaiting: the link is down, or the speaker listens still.
	SegmentWaiting SegmentState = "Waiting"
)

// ReturnPath says by which interface replies to clients beyond a segment leave the node.
//
// +kubebuilder:validation:Enum=SameInterface;OtherInterface
type ReturnPath string

const (
	// ReturnPathSame: by the interface on the segment.
	ReturnPathSame ReturnPath = "SameInterface"
	// ReturnPathOther: by another one, so that what comes in here is not answered the way it came.
	ReturnPathOther ReturnPath = "OtherInterface"
)

// SegmentReport is the speaker's view of one segment.
type SegmentReport struct {
	// interface on the segment.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	Interface string `json:"interface,omitempty"`
	// state says whether the speaker announces on it: Announcing, or Waiting while the link is
	// down or the speaker has not listened long enough to answer.
	// +optional
	State SegmentState `json:"state,omitempty"`
	// mac is the MAC address that the speaker answers with.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	MAC string `json:"mac,omitempty"`
	// subnets of the interface's addresses, of very many the first 16. Their network, broadcast and
	// subnet-router anycast addresses are not given.
	// +optional
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=64
	// +listType=set
	Subnets []string `json:"subnets,omitempty"`
	// proxyARPMAC is the MAC address of a router on the segment that answers for every address
	// it is asked for (proxy ARP). Not set: none was noticed.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	ProxyARPMAC string `json:"proxyARPMAC,omitempty"`
	// peersAlive counts the other speakers heard on the segment.
	// +optional
	// +kubebuilder:validation:Minimum=0
	PeersAlive *int32 `json:"peersAlive,omitempty"`
	// addressesOwned counts the addresses that this node answers for on this segment.
	// +optional
	// +kubebuilder:validation:Minimum=0
	AddressesOwned *int32 `json:"addressesOwned,omitempty"`
	// returnPath says by which interface replies to clients beyond the segment leave the node.
	// Not set: the node has no such route, or the speaker cannot tell.
	// +optional
	ReturnPath ReturnPath `json:"returnPath,omitempty"`
}

// ConflictReport is an address that another host uses too.
type ConflictReport struct {
	// address that both announce.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	Address string `json:"address,omitempty"`
	// nodeName is the node that uses it, if the MAC address is a node's: something else on that
	// node has the address.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	NodeName string `json:"nodeName,omitempty"`
	// mac is the MAC address of the host.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	MAC string `json:"mac,omitempty"`
	// interface on which it was heard.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	Interface string `json:"interface,omitempty"`
}

// SilentNodeReport is a node that is not heard any more. It is taken off when the node is heard
// again, or its kernel answers.
type SilentNodeReport struct {
	// nodeName is the node.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	NodeName string `json:"nodeName,omitempty"`
	// since is when it was last lost, by the clock of the speaker's node.
	// +optional
	Since *metav1.Time `json:"since,omitempty"`
	// interfaces on which it was heard before, of very many the first 16. Not set: an earlier process
	// of this speaker heard it.
	// +optional
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=64
	// +listType=set
	Interfaces []string `json:"interfaces,omitempty"`
	// probe says what became of the question to its kernel: Pending, or Unanswered if it neither took
	// nor refused a TCP connection.
	// +required
	Probe SilentNodeProbe `json:"probe,omitempty"`
}

// SilentNodeProbe says what became of a question to the kernel of a node.
//
// +kubebuilder:validation:Enum=Pending;Unanswered
type SilentNodeProbe string

const (
	// ProbePending: there is no answer yet, and there is time for one still.
	ProbePending SilentNodeProbe = "Pending"
	// ProbeUnanswered: the kernel neither took nor refused a connection.
	ProbeUnanswered SilentNodeProbe = "Unanswered"
)

// SessionState is the state of a BGP session.
//
// +kubebuilder:validation:Enum=Established;Down
type SessionState string

const (
	// SessionEstablished: routes are announced.
	SessionEstablished SessionState = "Established"
	// SessionDown: any other state of RFC 4271, which follow one another in each attempt.
	SessionDown SessionState = "Down"
)

// GracefulRestartState says whether a peer keeps routes.
//
// +kubebuilder:validation:Enum=Negotiated;NotNegotiated
type GracefulRestartState string

const (
	// GracefulRestartNegotiated: the neighbor keeps the routes while this speaker is replaced.
	GracefulRestartNegotiated GracefulRestartState = "Negotiated"
	// GracefulRestartNotNegotiated: it does not.
	GracefulRestartNotNegotiated GracefulRestartState = "NotNegotiated"
)

// BFDState is the state of the path to a neighbor, as RFC 5880 names it.
//
// +kubebuilder:validation:Enum=Up;Down;AdminDown
type BFDState string

// SessionReport is the speaker's view of one BGP session.
type SessionReport struct {
	// neighborName is the BGPNeighbor.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	NeighborName string `json:"neighborName,omitempty"`
	// address of the router. While none is known: the addressPrefix, or nothing for a neighbor
	// on an interface.
	// +optional
	// +kubebuilder:default=""
	// +kubebuilder:validation:MinLength=0
	// +kubebuilder:validation:MaxLength=64
	Address *string `json:"address,omitempty"`
	// state of the session: Established, or Down.
	// +optional
	State SessionState `json:"state,omitempty"`
	// lastTransitionTime is when the session came into this state.
	// +optional
	LastTransitionTime *metav1.Time `json:"lastTransitionTime,omitempty"`
	// prefixes announced to the neighbor.
	// +optional
	// +kubebuilder:validation:Minimum=0
	Prefixes *int32 `json:"prefixes,omitempty"`
	// families that both sides agreed on; while the session is up.
	// +optional
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=2
	// +listType=set
	Families []Family `json:"families,omitempty"`
	// bfd is the state of the path to the neighbor, as RFC 5880 names it: Up, Down, or AdminDown where
	// the neighbor has stopped watching. Not set: it is not watched, or nothing is known yet.
	// +optional
	BFD BFDState `json:"bfd,omitempty"`
	// gracefulRestart says, while the session is up, whether the neighbor keeps the routes while
	// this speaker is replaced.
	// +optional
	GracefulRestart GracefulRestartState `json:"gracefulRestart,omitempty"`
	// lastError is why the session last went down, or does not come up.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	LastError string `json:"lastError,omitempty"`
}

// Asked reports whether the speaker was asked to steer.
func (r SteeringReport) Asked() bool { return r.Ports != nil }

// Asked reports whether the speaker was asked to forward by IPVS.
func (r IPVSReport) Asked() bool { return r.VirtualServers != nil }
