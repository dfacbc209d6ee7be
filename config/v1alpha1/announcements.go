package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// SegmentAnnouncement announces the addresses of pools on the local segment: one node at a time
// answers ARP (IPv4) and NDP (IPv6) for each address.
//
// If several select an address, any node that one of them selects may answer for it. It does so on
// the interfaces of all those that select the node, and the weights of their preferredNodes add up.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,shortName=segann,categories=berth
// +kubebuilder:metadata:labels=app.kubernetes.io/part-of=berth
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Pools",type=integer,JSONPath=`.status.poolCount`
// +kubebuilder:printcolumn:name="First interface",type=string,priority=1,JSONPath=`.spec.interfaces[0]`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Accepted",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Accepted")].status`
// +kubebuilder:printcolumn:name="Message",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Ready")].message`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type SegmentAnnouncement struct {
	metav1.TypeMeta `json:",inline"`
	// metadata of the object.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitzero"`

	// spec says what is announced, and by whom.
	// +required
	Spec SegmentAnnouncementSpec `json:"spec,omitzero"`
	// status is what the controller made of it.
	// +optional
	// +kubebuilder:default={conditions: {{type: "Accepted", status: "Unknown", reason: "Pending", message: "no controller has looked at it yet", lastTransitionTime: "1970-01-01T00:00:00Z"},{type: "Ready", status: "Unknown", reason: "Pending", message: "no controller has looked at it yet", lastTransitionTime: "1970-01-01T00:00:00Z"}}}
	Status SegmentAnnouncementStatus `json:"status,omitzero"`
}

// SegmentAnnouncementList is a list of announcements.
//
// +kubebuilder:object:root=true
type SegmentAnnouncementList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []SegmentAnnouncement `json:"items"`
}

// SegmentAnnouncementSpec says what is announced on the segment, and by whom.
//
// +kubebuilder:validation:XValidation:rule="has(self.poolNames) != has(self.poolSelector)",message="write one of poolNames and poolSelector; all pools are poolSelector: {}"
type SegmentAnnouncementSpec struct {
	// poolNames are the LoadBalancerPools whose addresses are announced.
	// +optional
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:MaxLength=253
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')",messageExpression="self + ' is not the name of a LoadBalancerPool; write lower-case letters, digits, hyphens and dots'"
	// +listType=set
	PoolNames []string `json:"poolNames,omitempty"`

	// poolSelector matches the labels of the LoadBalancerPools whose addresses are announced, in
	// place of poolNames; {} matches all.
	// +optional
	PoolSelector *Selector `json:"poolSelector,omitempty"`

	// nodeSelector matches the labels of the nodes that may announce; {} matches all. Nodes with the
	// label node.kubernetes.io/exclude-from-external-load-balancers never announce.
	// +required
	NodeSelector *Selector `json:"nodeSelector,omitempty"`

	// serviceSelector matches the labels of Services; {} matches all. An address is announced if it
	// matches a Service that has the address. If several share it, one match announces it for all.
	// +required
	ServiceSelector *Selector `json:"serviceSelector,omitempty"`

	// interfaces on which to announce, by name or shell pattern ("eth0", "bond*"). If left out, they
	// are the interfaces that hold an InternalIP of the node. A pattern matches all interfaces with
	// an Ethernet address, those to pods too; not the loopback interface, tunnels without such an
	// address, and ports of bridges, bonds and teams.
	// +optional
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=64
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:XValidation:rule="self.matches('^[^[:space:]/,]+$')",messageExpression="self + ' is not an interface; write each name or pattern as an entry of its own, without spaces, commas and slashes'"
	// +listType=set
	Interfaces []string `json:"interfaces,omitempty"`

	// preferredNodes weigh the nodes. When an address needs an owner, the candidate with the
	// highest sum of matching weights gets it (0 if none matches; ties are spread evenly). A better
	// node that comes later does not take it over; see annotation berth.dev/rebalance.
	// +optional
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +listType=atomic
	PreferredNodes []PreferredNode `json:"preferredNodes,omitempty"`
}

// PreferredNode weighs the nodes that a selector matches.
type PreferredNode struct {
	// weight of the nodes, 1 to 100.
	// +required
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	Weight int32 `json:"weight,omitempty"`
	// nodeSelector matches the labels of nodes; {} matches all.
	// +required
	NodeSelector *Selector `json:"nodeSelector,omitempty"`
}

// SegmentAnnouncementStatus is what the controller made of an announcement.
//
// +kubebuilder:validation:MinProperties=1
type SegmentAnnouncementStatus struct {
	// conditions of the announcement. Accepted is True while at least a part of it is in effect;
	// PartiallyInvalid is True while a part is not. Ready is True while all of it is; otherwise
	// it has the field at fault and the remedy.
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
	// poolCount is the number of existing pools that the announcement selects.
	// +optional
	// +kubebuilder:validation:Minimum=0
	PoolCount *int32 `json:"poolCount,omitempty"`
}

// RouteAnnouncement announces the addresses of pools to BGP neighbors, as /32 and /128 routes or as
// aggregates, with the announcing node as next hop.
//
// If several announce a route to one neighbor, it carries the communities of all. If they differ in
// localPreference, med, prepend or weightBy, the value of the oldest one that sets it is used; of
// those of the same age, that of the one whose name comes first.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,shortName=routeann,categories=berth
// +kubebuilder:metadata:labels=app.kubernetes.io/part-of=berth
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Pools",type=integer,JSONPath=`.status.poolCount`
// +kubebuilder:printcolumn:name="Neighbors",type=integer,JSONPath=`.status.neighborCount`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Accepted",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Accepted")].status`
// +kubebuilder:printcolumn:name="Message",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Ready")].message`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type RouteAnnouncement struct {
	metav1.TypeMeta `json:",inline"`
	// metadata of the object.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitzero"`

	// spec says what is announced, to whom, and by which nodes.
	// +required
	Spec RouteAnnouncementSpec `json:"spec,omitzero"`
	// status is what the controller made of it.
	// +optional
	// +kubebuilder:default={conditions: {{type: "Accepted", status: "Unknown", reason: "Pending", message: "no controller has looked at it yet", lastTransitionTime: "1970-01-01T00:00:00Z"},{type: "Ready", status: "Unknown", reason: "Pending", message: "no controller has looked at it yet", lastTransitionTime: "1970-01-01T00:00:00Z"}}}
	Status RouteAnnouncementStatus `json:"status,omitzero"`
}

// RouteAnnouncementList is a list of announcements.
//
// +kubebuilder:object:root=true
type RouteAnnouncementList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []RouteAnnouncement `json:"items"`
}

// RouteAnnouncementSpec says what is announced by BGP, to whom, and by which nodes.
//
// +kubebuilder:validation:XValidation:rule="has(self.poolNames) != has(self.poolSelector)",message="write one of poolNames and poolSelector; all pools are poolSelector: {}"
// +kubebuilder:validation:XValidation:rule="has(self.neighborNames) != has(self.neighborSelector)",message="write one of neighborNames and neighborSelector; all neighbors are neighborSelector: {}"
// +kubebuilder:validation:XValidation:rule="has(self.communities) || size(dyn(self)) == [has(self.aggregation), has(self.localPreference), has(self.med), has(self.neighborNames), has(self.neighborSelector), has(self.nodeSelector), has(self.poolNames), has(self.poolSelector), has(self.prepend), has(self.serviceSelector), has(self.weightBy)].filter(is, is).size()",message="communities is null: leave it out, or write some"
type RouteAnnouncementSpec struct {
	// poolNames are the LoadBalancerPools whose addresses are announced.
	// +optional
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:MaxLength=253
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')",messageExpression="self + ' is not the name of a LoadBalancerPool; write lower-case letters, digits, hyphens and dots'"
	// +listType=set
	PoolNames []string `json:"poolNames,omitempty"`

	// poolSelector matches the labels of the LoadBalancerPools whose addresses are announced, in
	// place of poolNames; {} matches all.
	// +optional
	PoolSelector *Selector `json:"poolSelector,omitempty"`

	// neighborNames are the BGPNeighbors to which to announce.
	// +optional
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:MaxLength=253
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')",messageExpression="self + ' is not the name of a BGPNeighbor; write lower-case letters, digits, hyphens and dots'"
	// +listType=set
	NeighborNames []string `json:"neighborNames,omitempty"`

	// neighborSelector matches the labels of the BGPNeighbors to which to announce, in place of
	// neighborNames; {} matches all.
	// +optional
	NeighborSelector *Selector `json:"neighborSelector,omitempty"`

	// nodeSelector matches the labels of the nodes that may announce; {} matches all. Nodes with the
	// label node.kubernetes.io/exclude-from-external-load-balancers never announce.
	// +required
	NodeSelector *Selector `json:"nodeSelector,omitempty"`

	// serviceSelector matches the labels of Services; {} matches all. An address is announced if it
	// matches a Service that has the address. If several share it, one match announces it for all.
	// +required
	ServiceSelector *Selector `json:"serviceSelector,omitempty"`

	// aggregation announces prefixes in place of single addresses: ipv4PrefixLength: 28 announces
	// 192.0.2.0/28 while one of its addresses is announced. An address whose prefix is not wholly
	// in the pool, or contains an address that is in use elsewhere, is announced alone, even with
	// Suppress. If left out, each address is announced alone.
	// +optional
	Aggregation *Aggregation `json:"aggregation,omitempty"`

	// localPreference is the LOCAL_PREF towards internal neighbors, 0 to 4294967295; the higher is
	// preferred (RFC 4271 section 5.1.5). If left out, another announcement of the route may set
	// it; if none does, it is 100.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=4294967295
	LocalPreference *int64 `json:"localPreference,omitempty"`

	// med is the MULTI_EXIT_DISC, 0 to 4294967295; among routes from one AS the lower is preferred
	// (RFC 4271 section 5.1.4). If left out, another announcement of the route may set it; if none
	// does, it is absent.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=4294967295
	MED *int64 `json:"med,omitempty"`

	// communities of the routes: standard ones such as "65000:100" (RFC 1997), large ones such as
	// "65000:1:2" (RFC 8092), or well-known names: no-export, no-advertise, no-export-subconfed,
	// no-peer, blackhole, graceful-shutdown, accept-own.
	// +optional
	// +nullable
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=40
	// +kubebuilder:validation:items:XValidation:rule="self in ['no-export', 'no-advertise', 'no-export-subconfed', 'no-peer', 'blackhole', 'graceful-shutdown', 'accept-own'] || self.matches('^(0|[1-9][0-9]{0,4})(:(0|[1-9][0-9]{0,4}))$') && self.split(':').all(n, int(n) <= 65535) || self.matches('^(0|[1-9][0-9]{0,9})(:(0|[1-9][0-9]{0,9})){2}$') && self.split(':').all(n, int(n) <= 4294967295)",messageExpression="self + ' is not a valid community; write two numbers up to 65535 (65000:100), three up to 4294967295 (65000:1:2), or a name such as no-export'"
	// +listType=set
	Communities []string `json:"communities,omitempty"` //nolint:kubeapilinter // nullable, so that a rule refuses null

	// prepend is how many extra times our AS number is added to the AS path, 0 to 10, to make the
	// route less preferred. External neighbors only. If left out, another announcement of the route
	// may set it; if none does, it is 0.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=10
	Prepend *int32 `json:"prepend,omitempty"`

	// weightBy says which weight routes carry, as a link bandwidth extended community; routers that
	// support it spread connections evenly over endpoints, and not over nodes. LocalEndpoints:
	// routes for Services with externalTrafficPolicy: Local carry the node's number of ready
	// endpoints. None: no route does. If left out, another announcement of the route may set it; if
	// none does, it is None.
	// +optional
	WeightBy WeightBy `json:"weightBy,omitempty"`
}

// Specifics says what becomes of the single addresses beside their aggregate.
//
// +kubebuilder:validation:Enum=Suppress;Announce
type Specifics string

const (
	// SpecificsSuppress: they are not announced.
	SpecificsSuppress Specifics = "Suppress"
	// SpecificsAnnounce: they are announced, too.
	SpecificsAnnounce Specifics = "Announce"
)

// Aggregation says which prefixes are announced in place of single addresses.
//
// +kubebuilder:validation:MinProperties=0
// +kubebuilder:validation:XValidation:rule="has(self.ipv4PrefixLength) || has(self.ipv6PrefixLength)",message="write ipv4PrefixLength, ipv6PrefixLength or both; without aggregation, leave it out"
type Aggregation struct {
	// ipv4PrefixLength is the length of IPv4 prefixes, 8 to 31. If left out, IPv4 is not aggregated.
	// +optional
	// +kubebuilder:validation:Minimum=8
	// +kubebuilder:validation:Maximum=31
	IPv4PrefixLength int32 `json:"ipv4PrefixLength,omitempty"`

	// ipv6PrefixLength is the length of IPv6 prefixes, 16 to 127. If left out, IPv6 is not aggregated.
	// +optional
	// +kubebuilder:validation:Minimum=16
	// +kubebuilder:validation:Maximum=127
	IPv6PrefixLength int32 `json:"ipv6PrefixLength,omitempty"`

	// specifics says whether the single addresses are announced beside their prefix (Announce) or
	// not (Suppress).
	// +optional
	// +kubebuilder:default="Suppress"
	Specifics Specifics `json:"specifics,omitempty"`
}

// WeightBy says what a route weighs.
//
// +kubebuilder:validation:Enum=None;LocalEndpoints
type WeightBy string

const (
	// WeightByNone: routes have no weight.
	WeightByNone WeightBy = "None"
	// WeightByLocalEndpoints: the number of ready endpoints on the node.
	WeightByLocalEndpoints WeightBy = "LocalEndpoints"
)

// RouteAnnouncementStatus is what the controller made of an announcement.
//
// +kubebuilder:validation:MinProperties=1
type RouteAnnouncementStatus struct {
	// conditions of the announcement. Accepted is True while at least a part of it is in effect;
	// PartiallyInvalid is True while a part is not. Ready is True while all of it is; otherwise
	// it has the field at fault and the remedy.
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
	// poolCount is the number of existing pools that the announcement selects.
	// +optional
	// +kubebuilder:validation:Minimum=0
	PoolCount *int32 `json:"poolCount,omitempty"`
	// neighborCount is the number of neighbors in effect that the announcement selects.
	// +optional
	// +kubebuilder:validation:Minimum=0
	NeighborCount *int32 `json:"neighborCount,omitempty"`
}
