package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// LoadBalancerPool is a set of addresses that Berth may give to Services of type
// LoadBalancer. The addresses must be free for Berth alone: outside every DHCP
// range, used by no host. An address of a pool is announced only if a
// SegmentAnnouncement or a RouteAnnouncement selects the pool.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,shortName=lbpool,categories=berth
// +kubebuilder:metadata:labels=app.kubernetes.io/part-of=berth
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Addresses",type=string,JSONPath=`.status.summary`
// +kubebuilder:printcolumn:name="Allocation",type=string,JSONPath=`.spec.allocation`
// +kubebuilder:printcolumn:name="Priority",type=integer,priority=1,JSONPath=`.spec.priority`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="IPv4 used",type=string,JSONPath=`.status.ipv4.assigned`
// +kubebuilder:printcolumn:name="IPv4 free",type=string,JSONPath=`.status.ipv4.free`
// +kubebuilder:printcolumn:name="IPv6 used",type=string,JSONPath=`.status.ipv6.assigned`
// +kubebuilder:printcolumn:name="IPv6 free",type=string,priority=1,JSONPath=`.status.ipv6.free`
// +kubebuilder:printcolumn:name="Exhausted",type=string,JSONPath=`.status.conditions[?(@.type=="Exhausted")].status`
// +kubebuilder:printcolumn:name="Accepted",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Accepted")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Message",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Ready")].message`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type LoadBalancerPool struct {
	metav1.TypeMeta `json:",inline"`
	// metadata of the object.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitzero"`

	// spec says what the pool contains, and which Services it serves.
	// +required
	Spec LoadBalancerPoolSpec `json:"spec,omitzero"`
	// status is what the controller made of it.
	// +optional
	// +kubebuilder:default={conditions: {{type: "Accepted", status: "Unknown", reason: "Pending", message: "no controller has looked at it yet", lastTransitionTime: "1970-01-01T00:00:00Z"},{type: "Ready", status: "Unknown", reason: "Pending", message: "no controller has looked at it yet", lastTransitionTime: "1970-01-01T00:00:00Z"}}}
	Status LoadBalancerPoolStatus `json:"status,omitzero"`
}

// LoadBalancerPoolList is a list of pools.
//
// +kubebuilder:object:root=true
type LoadBalancerPoolList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []LoadBalancerPool `json:"items"`
}

// Allocation says when addresses of a pool are given.
//
// +kubebuilder:validation:Enum=Automatic;OnRequest;Disabled
type Allocation string

const (
	// AllocationAutomatic: to any Service, lowest free address first.
	AllocationAutomatic Allocation = "Automatic"
	// AllocationOnRequest: only to a Service that names the pool or an address of it.
	AllocationOnRequest Allocation = "OnRequest"
	// AllocationDisabled: not at all. Services keep what they have.
	AllocationDisabled Allocation = "Disabled"
)

// EdgeAddresses says whether .0 and .255 of IPv4 /24s are given.
//
// +kubebuilder:validation:Enum=Allow;Exclude
type EdgeAddresses string

const (
	// EdgeAddressesAllow: they are.
	EdgeAddressesAllow EdgeAddresses = "Allow"
	// EdgeAddressesExclude: they are not.
	EdgeAddressesExclude EdgeAddresses = "Exclude"
)

// TakeOver says whether Services that another load balancer serves are taken over.
//
// +kubebuilder:validation:Enum=Never;Always
type TakeOver string

const (
	// TakeOverNever: they are left alone.
	TakeOverNever TakeOver = "Never"
	// TakeOverAlways: they are taken over, with the addresses that they have.
	TakeOverAlways TakeOver = "Always"
)

// Sharing says between whom addresses of a pool may be shared.
//
// +kubebuilder:validation:Enum=WithinNamespace;AcrossNamespaces
type Sharing string

const (
	// SharingWithinNamespace: Services of one namespace.
	SharingWithinNamespace Sharing = "WithinNamespace"
	// SharingAcrossNamespaces: Services of any namespaces.
	SharingAcrossNamespaces Sharing = "AcrossNamespaces"
)

// Dataplane says who forwards connections to the pods.
//
// +kubebuilder:validation:Enum=KubeProxy;IPVS;Steering
type Dataplane string

const (
	// DataplaneKubeProxy: kube-proxy does, as it does for NodePorts.
	DataplaneKubeProxy Dataplane = "KubeProxy"
	// DataplaneIPVS: Berth's speakers do, by IPVS.
	DataplaneIPVS Dataplane = "IPVS"
	// DataplaneSteering: kube-proxy does, on the node to which Berth's speakers steer a connection.
	DataplaneSteering Dataplane = "Steering"
)

// SecondChance says for which connections a node asks another one whether it has them.
//
// +kubebuilder:validation:Enum=TCP;TCPAndUDP;Never
type SecondChance string

const (
	// SecondChanceTCP: for those of TCP.
	SecondChanceTCP SecondChance = "TCP"
	// SecondChanceTCPAndUDP: for those of TCP and the flows of UDP.
	SecondChanceTCPAndUDP SecondChance = "TCPAndUDP"
	// SecondChanceNever: for none.
	SecondChanceNever SecondChance = "Never"
)

// Encapsulation says how a packet gets to the node to which it is steered.
//
// +kubebuilder:validation:Enum=Auto;IPIP
type Encapsulation string

const (
	// EncapsulationAuto: as it is on a segment that both nodes are on, else in a packet of IPIP.
	EncapsulationAuto Encapsulation = "Auto"
	// EncapsulationIPIP: always in a packet of IPIP (RFC 2003), or of IPv6 (RFC 2473).
	EncapsulationIPIP Encapsulation = "IPIP"
)

// ClusterPolicy says what becomes of Services of externalTrafficPolicy Cluster.
//
// +kubebuilder:validation:Enum=KubeProxy;Steer
type ClusterPolicy string

const (
	// ClusterByKubeProxy: kube-proxy forwards on the node that answers, and hides the client's
	// address.
	ClusterByKubeProxy ClusterPolicy = "KubeProxy"
	// ClusterSteered: they are steered, too, and the nodes with Pods forward to their own.
	ClusterSteered ClusterPolicy = "Steer"
)

// SteeringSettings are the settings of a pool with dataplane Steering.
//
// +kubebuilder:validation:MinProperties=0
type SteeringSettings struct {
	// secondChance says for which connections a node that does not know one, in a slot whose first
	// node changed lately, hands it to the node that comes next before its own Pods get it.
	// +optional
	// +kubebuilder:default="TCPAndUDP"
	SecondChance SecondChance `json:"secondChance,omitempty"`

	// encapsulation says how a packet gets to the node to which it is steered. Auto: as it is, by the
	// node's MAC address, on a segment that both are on, else in a packet of IPIP, which leaves 20
	// bytes less (IPv6: 40). IPIP: always so.
	// +optional
	// +kubebuilder:default="Auto"
	Encapsulation Encapsulation `json:"encapsulation,omitempty"`

	// externalTrafficPolicyCluster says what becomes of Services of that policy. KubeProxy: it
	// forwards on the node that answers, and hides the client's address. Steer: they are steered, too;
	// Berth forwards on the nodes with Pods, to their own, which see the client's address. With
	// loadBalancerSourceRanges kube-proxy forwards there.
	// +optional
	// +kubebuilder:default="KubeProxy"
	ClusterPolicy ClusterPolicy `json:"externalTrafficPolicyCluster,omitempty"`
}

// IPVSScheduler names a scheduler of IPVS, by its name in the kernel
// (Documentation/networking/ipvs-sysctl.rst, ipvsadm(8)).
//
// +kubebuilder:validation:Enum=rr;wrr;lc;wlc;dh;sh;sed;nq;mh
type IPVSScheduler string

// IPVSSettings are the settings of a pool with dataplane IPVS.
//
// +kubebuilder:validation:MinProperties=0
type IPVSSettings struct {
	// scheduler chooses the pod for a new connection: round robin (rr, wrr), least connections (lc,
	// wlc), a hash of the destination or the source (dh, sh), shortest expected delay (sed), never
	// queue (nq), or Maglev (mh), by which all nodes choose the same pod for a client's address and
	// port. A Service may ask for another one by annotation berth.dev/ipvs-scheduler.
	// +optional
	// +kubebuilder:default="rr"
	Scheduler IPVSScheduler `json:"scheduler,omitempty"`

	// drainTimeout is the longest time that a terminating endpoint keeps its connections, 1s to
	// 24h; after it they are reset. Terminating endpoints that still receive traffic, because none
	// is ready, are exempt.
	// +optional
	// +kubebuilder:default="1h"
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9]{1,5}(h|m|s|ms)){1,4}$') && duration(self) >= duration('1s') && duration(self) <= duration('24h')",messageExpression="self + ' is not a time from 1s to 24h, such as 90s or 1m30s'"
	DrainTimeout Duration `json:"drainTimeout,omitempty"`
}

// PoolScope selects Services, by their namespace and by their own labels. Both must match.
//
// +kubebuilder:validation:XValidation:rule="has(self.namespaceNames) != has(self.namespaceSelector)",message="write one of namespaceNames and namespaceSelector; all namespaces are namespaceSelector: {}"
type PoolScope struct {
	// namespaceNames are the namespaces of the Services.
	// +optional
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:MaxLength=63
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",messageExpression="self + ' is not the name of a namespace; write lower-case letters, digits and hyphens'"
	// +listType=set
	NamespaceNames []string `json:"namespaceNames,omitempty"`
	// namespaceSelector matches the labels of the Services' namespaces, in place of
	// namespaceNames; {} matches all.
	// +optional
	NamespaceSelector *Selector `json:"namespaceSelector,omitempty"`
	// serviceSelector matches the labels of the Services; {} matches all.
	// +required
	ServiceSelector *Selector `json:"serviceSelector,omitempty"`
}

// LoadBalancerPoolSpec says what a pool contains, and which Services it serves.
//
// +kubebuilder:validation:XValidation:rule="!has(self.ipvs) || has(self.dataplane) && self.dataplane == 'IPVS'",message="write dataplane: IPVS, or leave out ipvs"
// +kubebuilder:validation:XValidation:rule="!has(self.steering) || has(self.dataplane) && self.dataplane == 'Steering'",message="write dataplane: Steering, or leave out steering"
type LoadBalancerPoolSpec struct {
	// addresses of the pool: prefixes ("192.0.2.0/24", "2001:db8::/64"), inclusive ranges
	// ("192.0.2.10-192.0.2.20") and single addresses ("192.0.2.1"), IPv4 and IPv6 in any mix. A
	// prefix has no host bits set. Loopback, multicast, link-local and unspecified addresses are
	// accepted by the API server, but not used: see condition Ready. An address that an older pool
	// also contains belongs to the older pool; both then have condition Conflict. Of pools of the
	// same age, the one whose name comes first counts as the older.
	// +required
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=256
	// +listType=set
	Addresses []AddressRange `json:"addresses,omitempty"`

	// scopes select the Services that the pool serves; one of them must match. A pool for all
	// Services has one scope, {namespaceSelector: {}, serviceSelector: {}}. An AddressReservation
	// needs a scope that selects its namespace.
	// +required
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +listType=atomic
	Scopes []PoolScope `json:"scopes,omitempty"`

	// allocation says when addresses are given: Automatic (to any Service in scope, lowest free
	// address first), OnRequest (only to a Service that names the pool in annotation
	// berth.dev/pools, or an address of it), or Disabled (not at all; Services keep what they
	// have).
	// +optional
	// +kubebuilder:default="Automatic"
	Allocation Allocation `json:"allocation,omitempty"`

	// edgeAddresses says whether IPv4 addresses that end in .0 or .255 are given, which some old
	// clients and routers refuse to talk to. Exclude: never, not on request either. Allow: like any
	// other.
	// +optional
	// +kubebuilder:default="Allow"
	EdgeAddresses EdgeAddresses `json:"edgeAddresses,omitempty"`

	// priority among the pools that could serve a Service: the highest is used first, then the
	// oldest, then the one whose name comes first. From -1000000 to 1000000.
	// +optional
	// +kubebuilder:default=0
	// +kubebuilder:validation:Minimum=-1000000
	// +kubebuilder:validation:Maximum=1000000
	Priority *int32 `json:"priority,omitempty"`

	// onRequestAddresses are parts of the pool, written like addresses, that are given only to a
	// Service that names the address, by annotation berth.dev/load-balancer-ips or
	// spec.loadBalancerIP.
	// +optional
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=256
	// +listType=set
	OnRequestAddresses []AddressRange `json:"onRequestAddresses,omitempty"`

	// takeOver says what becomes of Services without a loadBalancerClass to which another load
	// balancer gave addresses. Always: if all addresses in the status of a Service are of pools
	// with takeOver: Always whose scopes match it, Berth takes the Service over, and it keeps them.
	// Never: it is left alone.
	// +optional
	// +kubebuilder:default="Never"
	TakeOver TakeOver `json:"takeOver,omitempty"`

	// sharing says which Services may share an address by the same annotation
	// berth.dev/sharing-key, if no two of them have a port and protocol in common: those of one
	// namespace (WithinNamespace), or of any namespaces (AcrossNamespaces).
	// +optional
	// +kubebuilder:default="WithinNamespace"
	Sharing Sharing `json:"sharing,omitempty"`

	// dataplane says who forwards connections for the pool's addresses to the pods. KubeProxy:
	// kube-proxy. IPVS: Berth, on nodes where IPVS is enabled (manifests/ipvs) and the kernel
	// supports it. Services then get ipMode: Proxy, so that kube-proxy ignores their addresses. If
	// no node can, kube-proxy forwards. Steering: kube-proxy, on the node that Berth chooses for each
	// connection among those with ready endpoints, so that connections outlive the node that answers,
	// and clients keep their address: for Services with externalTrafficPolicy Local, on nodes where
	// steering is enabled (manifests/steering).
	// +optional
	// +kubebuilder:default="KubeProxy"
	Dataplane Dataplane `json:"dataplane,omitempty"`

	// ipvs has the settings of dataplane IPVS.
	// +optional
	IPVS *IPVSSettings `json:"ipvs,omitempty"`

	// steering has the settings of dataplane Steering.
	// +optional
	Steering *SteeringSettings `json:"steering,omitempty"`
}

// LoadBalancerPoolStatus is what the controller made of a pool.
//
// +kubebuilder:validation:MinProperties=1
type LoadBalancerPoolStatus struct {
	// conditions of the pool. Accepted is True while at least a part of it is in effect;
	// PartiallyInvalid is True while a part is not. Ready is True while all of it is; otherwise it
	// has the entry at fault and the remedy. Exhausted is True when no address of a family is free.
	// Conflict is True when another pool has some of the same addresses; it names that pool.
	// AddressesExcluded is True when addresses of the pool are in use elsewhere and are not given;
	// it has the first few, and where they are used.
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
	// summary of spec.addresses, for people.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	Summary string `json:"summary,omitempty"`
	// ipv4 addresses: how many there are and are in use.
	// +optional
	IPv4 AddressUsage `json:"ipv4,omitzero"`
	// ipv6 addresses: how many there are and are in use.
	// +optional
	IPv6 AddressUsage `json:"ipv6,omitzero"`
	// resting addresses were freed a moment ago. Until untilTime, which is 1m later by default (the
	// controller's --rest), and more soon after a controller began to lead, only the Service that
	// had an address gets it back. At most 64 are listed, those with the latest untilTime.
	// +optional
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +listType=map
	// +listMapKey=address
	Resting []RestingAddress `json:"resting,omitempty"`
	// recent are address ranges that may still be in use. A new leader of the controllers reads
	// them. Not for users.
	// +optional
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=96
	// +listType=atomic
	Recent []string `json:"recent,omitempty"`
}

// RestingAddress is an address that was freed a moment ago.
type RestingAddress struct {
	// address that rests.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	Address string `json:"address,omitempty"`
	// service that had it, as namespace/name; it gets the address back at once.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=320
	Service string `json:"service,omitempty"`
	// untilTime is when it is free again.
	// +required
	UntilTime *metav1.Time `json:"untilTime,omitempty"`
}

// Count is a number of addresses, in decimal: of an IPv6 prefix there may be more than 2^63.
//
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=40
// +kubebuilder:validation:Pattern=`^[0-9]+$`
type Count string

// AddressUsage counts the addresses of one family in a pool, in decimal strings.
type AddressUsage struct {
	// total number of addresses.
	// +required
	Total Count `json:"total,omitempty"`
	// assigned to Services.
	// +required
	Assigned Count `json:"assigned,omitempty"`
	// reserved by AddressReservations and held by no Service.
	// +required
	Reserved Count `json:"reserved,omitempty"`
	// excluded addresses are in use elsewhere, and no Service has them.
	// +required
	Excluded Count `json:"excluded,omitempty"`
	// resting addresses were freed a moment ago.
	// +required
	Resting Count `json:"resting,omitempty"`
	// free addresses; those of spec.onRequestAddresses and edge addresses are among them.
	// +required
	Free Count `json:"free,omitempty"`
	// next is the address that a new Service gets from the pool if it names none. Speakers ask for it
	// beforehand, so that it answers at once. It is left out if no address is free, or the pool gives
	// none.
	// +optional
	// +kubebuilder:validation:MinLength=2
	// +kubebuilder:validation:MaxLength=45
	// +kubebuilder:validation:XValidation:rule="isIP(self)",messageExpression="self + ' is not an IPv4 or IPv6 address such as 192.0.2.1'"
	Next string `json:"next,omitempty"`
}
