package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// BGPNeighbor is a router with which the speakers have BGP sessions, most often the top-of-rack
// switch. The speakers connect to it, unless it has connect: Accept or an addressPrefix. They
// accept no routes.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,shortName=bgpn,categories=berth
// +kubebuilder:metadata:labels=app.kubernetes.io/part-of=berth
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Address",type=string,JSONPath=`.spec.address`
// +kubebuilder:printcolumn:name="Interface",type=string,JSONPath=`.spec.interface`
// +kubebuilder:printcolumn:name="Prefix",type=string,priority=1,JSONPath=`.spec.addressPrefix`
// +kubebuilder:printcolumn:name="Local ASN",type=integer,JSONPath=`.spec.localASN`
// +kubebuilder:printcolumn:name="Remote ASN",type=integer,JSONPath=`.spec.remoteASN`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Sessions",type=string,JSONPath=`.status.sessionCounts.summary`
// +kubebuilder:printcolumn:name="Accepted",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Accepted")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Message",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Ready")].message`
// +kubebuilder:printcolumn:name="Session message",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Established")].message`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type BGPNeighbor struct {
	metav1.TypeMeta `json:",inline"`
	// metadata of the object.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitzero"`

	// spec says how to reach the neighbor.
	// +required
	Spec BGPNeighborSpec `json:"spec,omitzero"`
	// status is what the controller made of it, and how many sessions are established. Each
	// session is in the Speaker of its node.
	// +optional
	// +kubebuilder:default={conditions: {{type: "Accepted", status: "Unknown", reason: "Pending", message: "no controller has looked at it yet", lastTransitionTime: "1970-01-01T00:00:00Z"},{type: "Ready", status: "Unknown", reason: "Pending", message: "no controller has looked at it yet", lastTransitionTime: "1970-01-01T00:00:00Z"}}}
	Status BGPNeighborStatus `json:"status,omitzero"`
}

// BGPNeighborList is a list of neighbors.
//
// +kubebuilder:object:root=true
type BGPNeighborList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []BGPNeighbor `json:"items"`
}

// BGPNeighborSpec says how a speaker reaches a neighbor.
//
// +kubebuilder:validation:XValidation:rule="!has(self.keepaliveTime) || !has(self.holdTime) || ![self.keepaliveTime, self.holdTime].all(t, t.matches('^([0-9]{1,5}(h|m|s)){1,3}$')) || duration(self.keepaliveTime) < duration(self.holdTime)",messageExpression="'keepaliveTime: ' + self.keepaliveTime + ' is not below holdTime, ' + self.holdTime + ' (one third of it is usual)'"
// +kubebuilder:validation:XValidation:rule="!has(self.ebgpMultihop) || (has(self.remoteASN) ? (has(self.localASNOverride) ? self.localASNOverride : self.localASN) != self.remoteASN : !has(self.remoteType) || self.remoteType == 'External')",message="ebgpMultihop is for external neighbors: the session is internal here"
// +kubebuilder:validation:XValidation:rule="!has(self.localASNOverride) || self.localASNOverride != self.localASN",message="localASNOverride is localASN: write the other number that the neighbor knows, or leave it out"
// +kubebuilder:validation:XValidation:rule="!has(self.localASNOverride) || !has(self.remoteType) || self.remoteType == 'External'",message="localASNOverride is for external neighbors: leave it out, or write remoteType: External"
// +kubebuilder:validation:XValidation:rule="has(self.remoteASN) != has(self.remoteType)",message="write one of remoteASN and remoteType, to say which AS the neighbor is in"
// +kubebuilder:validation:XValidation:rule="[has(self.address), has(self.interface), has(self.addressPrefix)].filter(is, is).size() == 1",message="write one of address, interface and addressPrefix, to say where the neighbor is"
// +kubebuilder:validation:XValidation:rule="!has(self.ebgpMultihop) || !has(self.ttlSecurityHops)",message="ttlSecurityHops says how far the neighbor is already: leave out ebgpMultihop or ttlSecurityHops"
// +kubebuilder:validation:XValidation:rule="!has(self.interface) || !has(self.sourceAddress) && !has(self.ebgpMultihop) && (!has(self.ttlSecurityHops) || self.ttlSecurityHops == 1)",message="a neighbor on an interface is reached by link-local addresses: leave out sourceAddress, ebgpMultihop and ttlSecurityHops above 1"
// +kubebuilder:validation:XValidation:rule="!has(self.interface) || !has(self.nextHop) || self.nextHop == 'SessionAddress'",message="a neighbor on an interface knows the way to the link-local address only: leave out nextHop"
// +kubebuilder:validation:XValidation:rule="!has(self.sourceAddress) || !has(self.address) || !isIP(self.sourceAddress) || !isIP(self.address) || ip(self.sourceAddress).family() == ip(self.address).family()",messageExpression="'sourceAddress: ' + self.sourceAddress + ' and address: ' + self.address + ' are not of one family'"
// +kubebuilder:validation:XValidation:rule="!has(self.connect) || self.connect == 'Dial' || has(self.address)",message="connect: Accept is for a neighbor with an address: on an interface both sides connect, and with addressPrefix all routers do anyway"
// +kubebuilder:validation:XValidation:rule="!has(self.addressPrefix) || has(self.remoteASN)",message="routers of addressPrefix are known by remoteASN: write it, and not remoteType"
// +kubebuilder:validation:XValidation:rule="!has(self.addressPrefix) || !has(self.sourceAddress) && !has(self.gracefulRestart) && !has(self.bfd)",message="routers of addressPrefix have no sourceAddress, gracefulRestart or bfd: give each that needs them a BGPNeighbor with its address"
// +kubebuilder:validation:XValidation:rule="!(has(self.addressPrefix) || has(self.connect) && self.connect == 'Accept') || !has(self.port) && !has(self.connectRetryTime) && !has(self.vrf)",message="the neighbor connects to us: leave out port, connectRetryTime and vrf"
// +kubebuilder:validation:XValidation:rule="!has(self.ttlSecurityHops) || !(has(self.addressPrefix) && self.addressPrefix.contains(':') || has(self.connect) && self.connect == 'Accept' && has(self.address) && self.address.contains(':'))",message="ttlSecurityHops does not work with neighbors that connect to us over IPv6: use their IPv4 addresses, or leave it out"
type BGPNeighborSpec struct {
	// localASN is the autonomous system number of the nodes: 1 to 4294967294.
	// +required
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=4294967294
	LocalASN int64 `json:"localASN,omitempty"`

	// remoteASN is the autonomous system number of the neighbor: 1 to 4294967294. The session is
	// internal (iBGP) if it is our own number: localASNOverride, or else localASN. In place of it,
	// remoteType can say whether the session is internal or external.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=4294967294
	RemoteASN int64 `json:"remoteASN,omitempty"`

	// remoteType is in place of remoteASN. External accepts a neighbor in any AS but our own
	// (localASNOverride, or else localASN), Internal one in localASN.
	// +optional
	RemoteType RemoteType `json:"remoteType,omitempty"`

	// localASNOverride is the autonomous system number that this neighbor is told, in place of
	// localASN, and the only one that it sees in the AS path (RFC 7705, "Replace Old AS"): for a
	// router that still knows the nodes by another number. Not with remoteType: Internal.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=4294967294
	LocalASNOverride int64 `json:"localASNOverride,omitempty"`

	// address of the neighbor, IPv4 or IPv6. Both families are announced in the one session, unless
	// families says otherwise.
	// +optional
	// +kubebuilder:validation:MinLength=2
	// +kubebuilder:validation:MaxLength=45
	// +kubebuilder:validation:XValidation:rule="isIP(self)",messageExpression="self + ' is not an IPv4 or IPv6 address such as 192.0.2.1'"
	Address string `json:"address,omitempty"`

	// interface is in place of address: the neighbor is the router on the other end of this
	// interface of the node, found by its IPv6 link-local address ("BGP unnumbered").
	// IPv4 routes have an IPv6 next hop then (RFC 8950). It is a name, not a pattern.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=15
	// +kubebuilder:validation:XValidation:rule="self.matches('^[^[:space:]/*?[]+$')",messageExpression="self + ' is not the name of an interface; write one name, not a pattern'"
	Interface string `json:"interface,omitempty"`

	// addressPrefix is in place of address: any router in it that connects to the node and is in
	// remoteASN is a neighbor, up to 64 at a time on a node. IPv4 prefixes are /8 or longer, those of
	// IPv6 /32 or longer. The speaker must listen, as with connect: Accept. Each router has a session
	// of its own in the Speaker. The prefix must not overlap the address or addressPrefix of another
	// BGPNeighbor of the node.
	// +optional
	// +kubebuilder:validation:MinLength=3
	// +kubebuilder:validation:MaxLength=49
	// +kubebuilder:validation:XValidation:rule="isCIDR(self)",messageExpression="self + ' is not a prefix such as 10.0.0.0/24'"
	// +kubebuilder:validation:XValidation:rule="!isCIDR(self) || cidr(self) == cidr(self).masked()",messageExpression="self + ' has host bits set; write the first address of the prefix in front of the slash'"
	// +kubebuilder:validation:XValidation:rule="!isCIDR(self) || cidr(self).prefixLength() >= (cidr(self).ip().family() == 4 ? 8 : 32)",messageExpression="self + ' is too wide; write the prefix of the routers, /8 or longer (IPv6: /32)'"
	// +kubebuilder:validation:XValidation:rule="!isCIDR(self) || cidr(self).ip().isGlobalUnicast() || cidr(self).prefixLength() == 0",messageExpression="self + ' does not hold addresses of routers; write a prefix of unicast addresses that are not link-local'"
	AddressPrefix string `json:"addressPrefix,omitempty"`

	// connect says who opens the session: the speaker (Dial), or the neighbor (Accept). To accept,
	// the speaker must listen, which it does only if told to (manifests/bgp-passive), since other
	// programs often have port 179. If it does not listen, its Speaker says so.
	// +optional
	// +kubebuilder:default="Dial"
	Connect Connect `json:"connect,omitempty"`

	// sourceAddress is the local address of the session. If left out, the kernel chooses it with
	// connect: Dial, and any is accepted with connect: Accept. One value fits one node only, unless
	// it is an anycast address that each of the nodes has.
	// +optional
	// +kubebuilder:validation:MinLength=2
	// +kubebuilder:validation:MaxLength=45
	// +kubebuilder:validation:XValidation:rule="isIP(self)",messageExpression="self + ' is not an IPv4 or IPv6 address such as 192.0.2.11'"
	SourceAddress string `json:"sourceAddress,omitempty"`

	// vrf is the Linux VRF device through which the neighbor is reached; not for neighbors that
	// connect to us. If left out, none.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=15
	// +kubebuilder:validation:XValidation:rule="self.matches('^[^[:space:]/*?[]+$')",messageExpression="self + ' is not the name of a VRF device; write one name, not a pattern'"
	VRF string `json:"vrf,omitempty"`

	// families announced over the session.
	// +optional
	// +kubebuilder:default={"IPv4","IPv6"}
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=2
	// +listType=set
	Families []Family `json:"families,omitempty"`

	// authentication of the session's packets. If left out, packets are not authenticated. A change
	// resets this session only.
	// +optional
	Authentication Authentication `json:"authentication,omitzero"`

	// ttlSecurityHops is how many hops away the neighbor is at most, 1 to 254: packets that may
	// have come from farther away are dropped (RFC 5082, GTSM). 1 is a neighbor on the same
	// segment. The neighbor needs the same setting ("ttl-security hops 1"). If left out, hops are
	// not checked.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=254
	TTLSecurityHops int32 `json:"ttlSecurityHops,omitempty"`

	// gracefulRestart asks the neighbor to keep the routes while the speaker is replaced (RFC
	// 4724). If left out, off. Use it with bfd: otherwise routes to a dead node stay for
	// restartTime.
	// +optional
	GracefulRestart *GracefulRestart `json:"gracefulRestart,omitempty"`

	// bfd watches the neighbor in fractions of a second (RFC 5880): one hop away by RFC 5881; with
	// ebgpMultihop, ttlSecurityHops above 1, or for an internal neighbor beyond the node's
	// networks, by RFC 5883. If left out, off.
	// +optional
	BFD *BFD `json:"bfd,omitempty"`

	// port of the neighbor. If left out, 179. Not for neighbors that connect to us.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	Port int32 `json:"port,omitempty"`

	// holdTime is how long the session stays up without a message from the neighbor (RFC 4271
	// section 4.2), 3s to 18h, in whole seconds. The shorter of the two sides' values is used.
	// +optional
	// +kubebuilder:default="90s"
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9]{1,5}(h|m|s)){1,3}$') && duration(self) >= duration('3s') && duration(self) <= duration('18h')",messageExpression="self + ' is not a time in whole seconds from 3s to 18h, such as 90s or 1m30s'"
	HoldTime Duration `json:"holdTime,omitempty"`

	// keepaliveTime is how often we send a message to keep the session up, in whole seconds, 1s up
	// to less than holdTime. If left out, one third of holdTime.
	// +optional
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9]{1,5}(h|m|s)){1,3}$') && duration(self) >= duration('1s')",messageExpression="self + ' is not a time in whole seconds of 1s or more, such as 90s or 1m30s'"
	KeepaliveTime Duration `json:"keepaliveTime,omitempty"`

	// connectRetryTime is how long to wait at most between attempts to connect to a neighbor that
	// refuses, 1s to 10m, in whole seconds; one that is silent is called every second. If left out,
	// 5s. Not for neighbors that connect to us.
	// +optional
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9]{1,5}(h|m|s)){1,3}$') && duration(self) >= duration('1s') && duration(self) <= duration('10m')",messageExpression="self + ' is not a time in whole seconds from 1s to 10m, such as 90s or 1m30s'"
	ConnectRetryTime Duration `json:"connectRetryTime,omitempty"`

	// ebgpMultihop is the time to live of packets to an external neighbor that is not on the same
	// segment, 2 to 255. If left out, the neighbor is one hop away.
	// +optional
	// +kubebuilder:validation:Minimum=2
	// +kubebuilder:validation:Maximum=255
	EBGPMultihop int32 `json:"ebgpMultihop,omitempty"`

	// nextHop is where the neighbor sends packets for our routes: SessionAddress is our end of the
	// session, which the neighbor can reach (RFC 4271 section 5.1.3); InternalIP is the address of
	// that type of the Node, in the family of the route. With SessionAddress, routes of the other
	// family than the session's point to an address of the interface that the session runs on, if
	// it has one, and else to the InternalIP; those to a neighbor on an interface point to the
	// link-local address. A change starts a new session.
	// +optional
	// +kubebuilder:default=SessionAddress
	NextHop NextHop `json:"nextHop,omitempty"`

	// nodeSelector matches the labels of the nodes that have the neighbor; {} matches all. Nodes
	// with the label node.kubernetes.io/exclude-from-external-load-balancers keep their sessions,
	// and announce no routes in them.
	// +required
	NodeSelector *Selector `json:"nodeSelector,omitempty"`
}

// NextHop says where routes point to.
//
// +kubebuilder:validation:Enum=SessionAddress;InternalIP
type NextHop string

const (
	// NextHopSessionAddress is the local end of the session.
	NextHopSessionAddress NextHop = "SessionAddress"
	// NextHopInternalIP is the node's address.
	NextHopInternalIP NextHop = "InternalIP"
)

// RemoteType says whether a neighbor is external or internal.
//
// +kubebuilder:validation:Enum=External;Internal
type RemoteType string

// The types of neighbors.
const (
	RemoteExternal RemoteType = "External"
	RemoteInternal RemoteType = "Internal"
)

// Connect says who opens a session.
//
// +kubebuilder:validation:Enum=Dial;Accept
type Connect string

const (
	// ConnectDial: the speaker does.
	ConnectDial Connect = "Dial"
	// ConnectAccept: the neighbor does.
	ConnectAccept Connect = "Accept"
)

// AuthenticationType is a way of authenticating the packets of a session.
//
// +kubebuilder:validation:Enum=TCPMD5
type AuthenticationType string

// AuthenticationTCPMD5 signs each packet with a password (RFC 2385).
const AuthenticationTCPMD5 AuthenticationType = "TCPMD5"

// Authentication of the packets of a session. It has the member of its type.
//
// +kubebuilder:validation:XValidation:rule="!has(self.type) || self.type != 'TCPMD5' || has(self.tcpMD5)",message="write tcpMD5: {secretName: NAME}"
// +union
type Authentication struct {
	// type says which member is set: TCPMD5 signs packets with a password (RFC 2385).
	// +required
	// +unionDiscriminator
	Type AuthenticationType `json:"type,omitempty"`
	// tcpMD5 has the settings of type TCPMD5.
	// +optional
	TCPMD5 TCPMD5 `json:"tcpMD5,omitzero"`
}

// TCPMD5 has the password of a session.
type TCPMD5 struct {
	// secretName is the name of a Secret of type kubernetes.io/basic-auth in Berth's namespace; its
	// key "password" (1 to 80 bytes, not counting a final newline) is the MD5 key.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')",messageExpression="self + ' is not the name of a Secret; write lower-case letters, digits, hyphens and dots'"
	SecretName string `json:"secretName,omitempty"`
}

// GracefulRestart says how long routes are kept.
//
// +kubebuilder:validation:MinProperties=0
type GracefulRestart struct {
	// restartTime is how long the neighbor keeps the routes after the session ended without a
	// message, for the speaker to come back: 1s to 4095s, in whole seconds.
	// +optional
	// +kubebuilder:default="120s"
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9]{1,5}(h|m|s)){1,3}$') && duration(self) >= duration('1s') && duration(self) <= duration('4095s')",messageExpression="self + ' is not a time in whole seconds from 1s to 4095s, such as 90s or 1m30s'"
	RestartTime Duration `json:"restartTime,omitempty"`
}

// BFD has the timers of a BFD session. Those of the neighbor also affect the times in use.
//
// +kubebuilder:validation:MinProperties=0
type BFD struct {
	// receiveInterval is the shortest time between packets that we ask of the neighbor, 10ms to
	// 60s.
	// +optional
	// +kubebuilder:default="300ms"
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9]{1,5}(h|m|s|ms)){1,4}$') && duration(self) >= duration('10ms') && duration(self) <= duration('60s')",messageExpression="self + ' is not a time from 10ms to 60s, such as 300ms'"
	ReceiveInterval Duration `json:"receiveInterval,omitempty"`

	// transmitInterval is the time between our packets that we ask for, 10ms to 60s; the neighbor's
	// receive interval is used if it is longer.
	// +optional
	// +kubebuilder:default="300ms"
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9]{1,5}(h|m|s|ms)){1,4}$') && duration(self) >= duration('10ms') && duration(self) <= duration('60s')",messageExpression="self + ' is not a time from 10ms to 60s, such as 300ms'"
	TransmitInterval Duration `json:"transmitInterval,omitempty"`

	// multiplier is the number of transmit intervals in use without a packet after which the neighbor
	// declares us down, 2 to 50. How soon we declare it down is its multiplier. With 300ms and 3:
	// 0.9s.
	// +optional
	// +kubebuilder:default=3
	// +kubebuilder:validation:Minimum=2
	// +kubebuilder:validation:Maximum=50
	Multiplier int32 `json:"multiplier,omitempty"`

	// authentication signs the packets of both ends. Without it they are not signed, and only packets
	// with the right TTL count.
	// +optional
	Authentication BFDAuthentication `json:"authentication,omitzero"`
}

// BFDAuthenticationType is a way of signing BFD packets (RFC 5880 section 6.7).
//
// +kubebuilder:validation:Enum=KeyedSHA1;MeticulousKeyedSHA1
type BFDAuthenticationType string

const (
	// BFDKeyedSHA1 signs packets with a key.
	BFDKeyedSHA1 BFDAuthenticationType = "KeyedSHA1"
	// BFDMeticulousKeyedSHA1 does, and numbers each.
	BFDMeticulousKeyedSHA1 BFDAuthenticationType = "MeticulousKeyedSHA1"
)

// BFDAuthentication has the key of a BFD session. The neighbor must have the same type, number and
// key.
type BFDAuthentication struct {
	// type is KeyedSHA1, or MeticulousKeyedSHA1, by which no packet can be sent again by somebody
	// else.
	// +required
	Type BFDAuthenticationType `json:"type,omitempty"`

	// keyID is the number of the key, 0 to 255.
	// +optional
	// +kubebuilder:default=1
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=255
	KeyID *int32 `json:"keyID,omitempty"`

	// secretName is the name of a Secret of type kubernetes.io/basic-auth in Berth's namespace; its
	// key "password" (1 to 20 bytes, not counting a final newline) is the key.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')",messageExpression="self + ' is not the name of a Secret; write lower-case letters, digits, hyphens and dots'"
	SecretName string `json:"secretName,omitempty"`
}

// BGPNeighborStatus is what the controller made of a neighbor.
//
// +kubebuilder:validation:MinProperties=1
type BGPNeighborStatus struct {
	// conditions of the neighbor. Accepted and Ready are True while the object is in effect;
	// otherwise they have the field at fault and the remedy. They say nothing about sessions:
	// Established is True while all are established, and otherwise has the last error of those that
	// are not.
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
	// sessionCounts has the number of sessions that there should be with the neighbor, one for each
	// node or router, and of those that are established.
	// +optional
	SessionCounts SessionCounts `json:"sessionCounts,omitzero"`
}
