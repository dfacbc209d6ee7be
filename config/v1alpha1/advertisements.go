package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// L2Advertisement announces the addresses of pools on the local segment: one node
// at a time answers ARP (IPv4) and NDP (IPv6) for each address.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,shortName=l2adv,categories=berth
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Pools",type=string,JSONPath=`.spec.pools`
// +kubebuilder:printcolumn:name="Interfaces",type=string,JSONPath=`.spec.interfaces`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Ready")].message`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type L2Advertisement struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// What is announced, and by whom. An empty spec announces every pool, from
	// every node that is not excluded.
	// +optional
	Spec L2AdvertisementSpec `json:"spec,omitempty"`
	// What the controller made of it.
	// +optional
	Status AdvertisementStatus `json:"status,omitempty"`
}

// L2AdvertisementList is a list of advertisements.
//
// +kubebuilder:object:root=true
type L2AdvertisementList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []L2Advertisement `json:"items"`
}

// L2AdvertisementSpec says what is announced on the segment, and by whom.
type L2AdvertisementSpec struct {
	// Pools, by name, whose addresses are announced. Empty: all pools.
	// +optional
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:MaxLength=253
	// +kubebuilder:validation:items:MinLength=1
	// +listType=set
	Pools []string `json:"pools,omitempty"`

	// NodeSelectors: a node may announce when its labels match one of them (the
	// entries are ORed). Empty: all nodes. Nodes that carry the label
	// node.kubernetes.io/exclude-from-external-load-balancers never announce.
	// +optional
	// +kubebuilder:validation:MaxItems=64
	// +listType=atomic
	NodeSelectors []metav1.LabelSelector `json:"nodeSelectors,omitempty"`

	// Interfaces on which to announce, by name or shell pattern ("eth0", "bond*").
	// Empty: the interfaces that hold an InternalIP of the node.
	// +optional
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=64
	// +kubebuilder:validation:items:MinLength=1
	// +listType=set
	Interfaces []string `json:"interfaces,omitempty"`

	// ServiceSelectors: an address is announced when the labels of a Service that has
	// it match one of them (the entries are ORed). Empty: all Services. An address that
	// several Services share is announced for all of them when one matches.
	// +optional
	// +kubebuilder:validation:MaxItems=64
	// +listType=atomic
	ServiceSelectors []metav1.LabelSelector `json:"serviceSelectors,omitempty"`

	// PreferredNodes are asked first: an address that is free to be taken goes to the
	// candidate of highest weight, the sum of the weights of all entries that match it.
	// A node that none matches has weight 0. Among candidates of the same weight the
	// choice is spread evenly. An owner stays where it is when a preferred node comes
	// back.
	// +optional
	// +kubebuilder:validation:MaxItems=64
	// +listType=atomic
	PreferredNodes []PreferredNode `json:"preferredNodes,omitempty"`
}

// PreferredNode weighs the nodes that a selector matches.
type PreferredNode struct {
	// Weight of the nodes, 1 to 100.
	// +required
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	Weight int32 `json:"weight"`
	// NodeSelector matches the labels of nodes; an empty one matches all.
	// +required
	NodeSelector metav1.LabelSelector `json:"nodeSelector"`
}

// AdvertisementStatus is what the controller made of an advertisement.
type AdvertisementStatus struct {
	// Conditions of the advertisement. Ready is False when a part of it is not in
	// effect, with the field at fault and the remedy.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// BGPAdvertisement announces the addresses of pools to BGP peers, as /32 and /128
// routes or as aggregates, with the announcing node as next hop. Where several select
// an address for one peer their communities are united, and of what else they say the
// older one's word counts.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,shortName=bgpadv,categories=berth
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Pools",type=string,JSONPath=`.spec.pools`
// +kubebuilder:printcolumn:name="Peers",type=string,JSONPath=`.spec.peers`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Ready")].message`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type BGPAdvertisement struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// What is announced, to whom, and by which nodes. An empty spec announces every
	// pool to every peer, from every node that is not excluded.
	// +optional
	Spec BGPAdvertisementSpec `json:"spec,omitempty"`
	// What the controller made of it.
	// +optional
	Status AdvertisementStatus `json:"status,omitempty"`
}

// BGPAdvertisementList is a list of advertisements.
//
// +kubebuilder:object:root=true
type BGPAdvertisementList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []BGPAdvertisement `json:"items"`
}

// BGPAdvertisementSpec says what is announced by BGP, to whom, and by which nodes.
type BGPAdvertisementSpec struct {
	// Pools, by name, whose addresses are announced. Empty: all pools.
	// +optional
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:MaxLength=253
	// +kubebuilder:validation:items:MinLength=1
	// +listType=set
	Pools []string `json:"pools,omitempty"`

	// ServiceSelectors: an address is announced when the labels of a Service that has
	// it match one of them (the entries are ORed). Empty: all Services.
	// +optional
	// +kubebuilder:validation:MaxItems=64
	// +listType=atomic
	ServiceSelectors []metav1.LabelSelector `json:"serviceSelectors,omitempty"`

	// AggregationLength: IPv4 addresses are announced as the prefix of this length that
	// holds them, while any address in it is, 8 to 32. An address whose prefix is not
	// all in its pool is announced by itself. Default 32: each by itself.
	// +optional
	// +kubebuilder:validation:Minimum=8
	// +kubebuilder:validation:Maximum=32
	AggregationLength *int32 `json:"aggregationLength,omitempty"`

	// AggregationLengthV6 is the same for IPv6, 16 to 128. Default 128.
	// +optional
	// +kubebuilder:validation:Minimum=16
	// +kubebuilder:validation:Maximum=128
	AggregationLengthV6 *int32 `json:"aggregationLengthV6,omitempty"`

	// WithSpecifics: beside the aggregate each address is announced by itself.
	// +optional
	WithSpecifics bool `json:"withSpecifics,omitempty"`

	// LocalPref is the LOCAL_PREF that internal peers are told, 0 to 4294967295; the
	// higher is preferred (RFC 4271 section 5.1.5). Default 100.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=4294967295
	LocalPref *int64 `json:"localPref,omitempty"`

	// MED is the MULTI_EXIT_DISC, 0 to 4294967295; of routes from one AS the lower is
	// preferred (RFC 4271 section 5.1.4). Default: none.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=4294967295
	MED *int64 `json:"med,omitempty"`

	// Communities of the routes: standard ones such as "65000:100" (RFC 1997), large
	// ones such as "65000:1:2" (RFC 8092), or well-known names: no-export,
	// no-advertise, no-export-subconfed, no-peer, blackhole, graceful-shutdown,
	// accept-own.
	// +optional
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=40
	// +listType=set
	Communities []string `json:"communities,omitempty"`

	// Prepend: how often our AS number is in the AS path besides the once that it
	// always is, towards external peers, 0 to 10: to be preferred less. Default 0.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=10
	Prepend *int32 `json:"prepend,omitempty"`

	// WeightBy LocalEndpoints: each node tells the number of its ready endpoints as a
	// link bandwidth extended community, so that a router that supports it spreads
	// connections evenly over endpoints and not over nodes. It is for Services of
	// policy Local; routes of others have no weight. Default: no weight.
	// +optional
	WeightBy WeightBy `json:"weightBy,omitempty"`

	// Peers, by the name of their BGPPeer, to which to announce. Empty: all peers.
	// +optional
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:MaxLength=253
	// +kubebuilder:validation:items:MinLength=1
	// +listType=set
	Peers []string `json:"peers,omitempty"`

	// NodeSelectors: a node announces when its labels match one of them (the
	// entries are ORed). Empty: all nodes. Nodes that carry the label
	// node.kubernetes.io/exclude-from-external-load-balancers never announce.
	// +optional
	// +kubebuilder:validation:MaxItems=64
	// +listType=atomic
	NodeSelectors []metav1.LabelSelector `json:"nodeSelectors,omitempty"`
}

// WeightBy says what a route weighs.
//
// +kubebuilder:validation:Enum=LocalEndpoints
type WeightBy string

// WeightByLocalEndpoints: the number of ready endpoints on the node.
const WeightByLocalEndpoints WeightBy = "LocalEndpoints"

// ConditionList returns where the conditions of the object are kept.
func (o *L2Advertisement) ConditionList() *[]metav1.Condition { return &o.Status.Conditions }

// ConditionList returns where the conditions of the object are kept.
func (o *BGPAdvertisement) ConditionList() *[]metav1.Condition { return &o.Status.Conditions }
