package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// IPPool is a set of addresses that Berth may give to Services of type
// LoadBalancer. The addresses must be free for Berth alone: outside every DHCP
// range, used by no host. An address of a pool is announced only if an
// L2Advertisement or a BGPAdvertisement selects the pool.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,shortName=ipp,categories=berth
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Addresses",type=string,JSONPath=`.spec.addresses`
// +kubebuilder:printcolumn:name="Allocation",type=string,JSONPath=`.spec.allocation`
// +kubebuilder:printcolumn:name="Priority",type=integer,priority=1,JSONPath=`.spec.priority`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="IPv4 used",type=integer,JSONPath=`.status.ipv4.assigned`
// +kubebuilder:printcolumn:name="IPv4 free",type=string,JSONPath=`.status.ipv4.free`
// +kubebuilder:printcolumn:name="IPv6 used",type=integer,JSONPath=`.status.ipv6.assigned`
// +kubebuilder:printcolumn:name="Reason",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Ready")].message`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type IPPool struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// What the pool holds.
	// +required
	Spec IPPoolSpec `json:"spec"`
	// What the controller made of it.
	// +optional
	Status IPPoolStatus `json:"status,omitempty"`
}

// IPPoolList is a list of pools.
//
// +kubebuilder:object:root=true
type IPPoolList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []IPPool `json:"items"`
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
	// AllocationDisabled: no more. What is given stays.
	AllocationDisabled Allocation = "Disabled"
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
// +kubebuilder:validation:Enum=KubeProxy;IPVS
type Dataplane string

const (
	// DataplaneKubeProxy: kube-proxy does, as it does for NodePorts.
	DataplaneKubeProxy Dataplane = "KubeProxy"
	// DataplaneIPVS: Berth's speakers do, by IPVS.
	DataplaneIPVS Dataplane = "IPVS"
)

// IPVSScheduler names a scheduler of IPVS, by its name in the kernel
// (Documentation/networking/ipvs-sysctl.rst, ipvsadm(8)).
//
// +kubebuilder:validation:Enum=rr;wrr;lc;wlc;dh;sh;sed;nq;mh
type IPVSScheduler string

// IPVSSettings are those of a pool with dataplane IPVS.
type IPVSSettings struct {
	// Scheduler chooses the pod for a new connection: round robin (rr, wrr), least connections
	// (lc, wlc), a hash of the destination or the source (dh, sh), shortest expected delay (sed),
	// never queue (nq), or Maglev (mh), by which all nodes choose the same pod for a client's address and port. Default
	// rr. A Service may ask for another with the annotation berth.dev/ipvs-scheduler.
	// +optional
	// +default="rr"
	Scheduler IPVSScheduler `json:"scheduler,omitempty"`

	// DrainTimeout: how long an endpoint that terminates keeps its connections at most. Then they are
	// reset, even if it still runs. Endpoints that terminate and still get new connections, because none
	// is ready, are spared. 1s to 24h; default 1h.
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$`
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1s') && duration(self) <= duration('24h')",message="from 1s to 24h"
	DrainTimeout *metav1.Duration `json:"drainTimeout,omitempty"`
}

// PoolScope selects Services. All its fields must match; a field left out matches
// everything.
type PoolScope struct {
	// Namespaces of the Services, by name.
	// +optional
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:MaxLength=63
	// +kubebuilder:validation:items:MinLength=1
	// +listType=set
	Namespaces []string `json:"namespaces,omitempty"`
	// NamespaceSelector matches the labels of the Services' namespaces.
	// +optional
	NamespaceSelector *metav1.LabelSelector `json:"namespaceSelector,omitempty"`
	// ServiceSelector matches the labels of the Services.
	// +optional
	ServiceSelector *metav1.LabelSelector `json:"serviceSelector,omitempty"`
}

// IPPoolSpec is what a pool holds.
//
// +kubebuilder:validation:XValidation:rule="!has(self.ipvs) || self.dataplane == 'IPVS'",message="ipvs is for dataplane: IPVS"
type IPPoolSpec struct {
	// Addresses of the pool: prefixes ("192.0.2.0/24", "2001:db8::/64") and
	// inclusive ranges ("192.0.2.10-192.0.2.20"), IPv4 and IPv6 in any mix. A
	// single address is a /32 or a /128. A prefix has no host bits set. Loopback,
	// multicast, link-local and unspecified addresses are refused.
	// +required
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:MinLength=2
	// +kubebuilder:validation:items:MaxLength=96
	// +kubebuilder:validation:XValidation:rule="self.all(a, a.contains('-') ? (size(a.split('-')) == 2 && a.split('-').all(e, isIP(e))) : isCIDR(a))",message="each entry is a prefix such as 192.0.2.0/24 or a range such as 192.0.2.10-192.0.2.20; write a single address as 192.0.2.1/32"
	// +kubebuilder:validation:XValidation:rule="self.all(a, !a.contains('-') || size(a.split('-')) != 2 || !a.split('-').all(e, isIP(e)) || ip(a.split('-')[0]).family() == ip(a.split('-')[1]).family())",message="both ends of a range are of one family"
	// +kubebuilder:validation:XValidation:rule="self.all(a, !isCIDR(a) || cidr(a) == cidr(a).masked())",message="a prefix has no host bits set: write 192.0.2.0/24, not 192.0.2.7/24"
	// +listType=atomic
	Addresses []string `json:"addresses"`

	// Allocation says when addresses are given: Automatic (to any Service in scope,
	// lowest free address first; the default), OnRequest (only to a Service that names
	// the pool in annotation berth.dev/pools, or an address of it), or Disabled (no
	// more; what is given stays).
	// +optional
	// +default="Automatic"
	Allocation Allocation `json:"allocation,omitempty"`

	// ExcludeEdgeAddresses keeps back the addresses .0 and .255 of IPv4 /24s, which
	// some old clients and routers refuse to talk to.
	// +optional
	ExcludeEdgeAddresses bool `json:"excludeEdgeAddresses,omitempty"`

	// Priority among the pools that could serve a Service: the highest is used
	// first, then the oldest. Default 0.
	// +optional
	// +kubebuilder:validation:Minimum=-1000000
	// +kubebuilder:validation:Maximum=1000000
	Priority int32 `json:"priority,omitempty"`

	// Scopes select the Services that the pool serves; one of them must match. Empty:
	// all Services.
	// +optional
	// +kubebuilder:validation:MaxItems=64
	// +listType=atomic
	Scopes []PoolScope `json:"scopes,omitempty"`

	// Reserved addresses are parts of the pool, written like addresses, that are given
	// only to a Service that names the address.
	// +optional
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:MinLength=2
	// +kubebuilder:validation:items:MaxLength=96
	// +kubebuilder:validation:XValidation:rule="self.all(a, a.contains('-') ? (size(a.split('-')) == 2 && a.split('-').all(e, isIP(e))) : isCIDR(a))",message="each entry is a prefix such as 192.0.2.0/28 or a range such as 192.0.2.10-192.0.2.20; write a single address as 192.0.2.1/32"
	// +listType=atomic
	Reserved []string `json:"reserved,omitempty"`

	// TakeOver makes Berth adopt Services without a loadBalancerClass whose addresses,
	// written into their status by another load balancer, are all of this pool. The
	// Services keep their addresses. Otherwise Berth leaves such Services alone.
	// +optional
	TakeOver bool `json:"takeOver,omitempty"`

	// Sharing says which Services may share an address by the same annotation
	// berth.dev/sharing-key: those of one namespace (WithinNamespace, the default), or
	// of any namespaces (AcrossNamespaces).
	// +optional
	// +default="WithinNamespace"
	Sharing Sharing `json:"sharing,omitempty"`

	// Dataplane says who forwards connections for the pool's addresses to the pods: kube-proxy
	// (KubeProxy, the default), or Berth itself by IPVS, on the nodes whose speakers may (see
	// manifests/ipvs) and whose kernel has it. The status of the Services says ipMode Proxy then, by
	// which kube-proxy leaves their addresses alone. If no node can, kube-proxy serves them.
	// +optional
	// +default="KubeProxy"
	Dataplane Dataplane `json:"dataplane,omitempty"`

	// IPVS settings; with dataplane IPVS only.
	// +optional
	IPVS *IPVSSettings `json:"ipvs,omitempty"`
}

// IPPoolStatus is what the controller made of a pool.
type IPPoolStatus struct {
	// Conditions of the pool. Ready is False when a part of it is not in effect,
	// with the entry at fault and the remedy. Conflict is True when another pool
	// claims some of the same addresses, and names it. AddressesExcluded is True when
	// addresses of the pool are in use elsewhere and are not given; it names the first
	// few, and whose they are.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// IPv4 addresses: how many there are and are in use.
	// +optional
	IPv4 *AddressUsage `json:"ipv4,omitempty"`
	// IPv6 addresses: how many there are and are in use.
	// +optional
	IPv6 *AddressUsage `json:"ipv6,omitempty"`
	// Resting addresses were freed a moment ago; only the Service that had them gets them
	// back before their time is over. Of very many those that rest longest.
	// +optional
	// +kubebuilder:validation:MaxItems=64
	// +listType=map
	// +listMapKey=address
	Resting []RestingAddress `json:"resting,omitempty"`
	// Recent ranges hold every address that a Service has or that rests, and perhaps
	// some between them: a new leader lets those of them rest that no Service has any more.
	// +optional
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=96
	// +listType=atomic
	Recent []string `json:"recent,omitempty"`
}

// RestingAddress is an address that was freed a moment ago.
type RestingAddress struct {
	// Address that rests.
	// +required
	// +kubebuilder:validation:MaxLength=64
	Address string `json:"address"`
	// Service that had it, as namespace/name; it gets the address back at once.
	// +optional
	// +kubebuilder:validation:MaxLength=320
	Service string `json:"service,omitempty"`
	// Until when it rests.
	// +required
	Until metav1.Time `json:"until"`
}

// AddressUsage counts the addresses of one family in a pool. Counts that may pass
// 2^63 are decimal strings.
type AddressUsage struct {
	// Total number of addresses, in decimal.
	Total string `json:"total"`
	// Assigned to Services.
	Assigned int64 `json:"assigned"`
	// Kept by IPReservations and held by no Service.
	// +optional
	Kept int64 `json:"kept,omitempty"`
	// Excluded addresses, in decimal: they are in use elsewhere, and no Service has them.
	// +optional
	Excluded string `json:"excluded,omitempty"`
	// Resting addresses were freed a moment ago.
	// +optional
	Resting int64 `json:"resting,omitempty"`
	// Free addresses, in decimal; reserved and edge addresses are among them.
	Free string `json:"free"`
}

// ConditionList returns where the conditions of the object are kept.
func (o *IPPool) ConditionList() *[]metav1.Condition { return &o.Status.Conditions }
