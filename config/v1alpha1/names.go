package v1alpha1

// LoadBalancerClass is the value of a Service's spec.loadBalancerClass that asks
// for Berth by name.
const LoadBalancerClass = "berth.dev/lb"

// Condition types of Services, written by the controller only.
const (
	// ServiceAllocated tells whether the Service has the addresses it asks for.
	ServiceAllocated = "berth.dev/Allocated"
	// ServiceAnnounced tells whether some advertisement, and a speaker able to
	// act on it, covers the Service's addresses.
	ServiceAnnounced = "berth.dev/Announced"
)

// ConditionReady is the condition type that configuration objects carry: True
// when the object is in effect, False with the reason and the remedy when all or
// a part of it is not.
const ConditionReady = "Ready"

// ConditionConflict is the condition type of an IPPool that tells whether another
// pool claims some of its addresses.
const ConditionConflict = "Conflict"

// Annotations of Services.
const (
	// AnnotationAddresses asks for addresses: one, or two of different families,
	// separated by a comma. It and spec.loadBalancerIP must agree.
	AnnotationAddresses = "berth.dev/load-balancer-ips"
	// AnnotationPools names the IPPools to take addresses from, in order of
	// preference, separated by commas.
	AnnotationPools = "berth.dev/pools"
	// AnnotationSharingKey lets Services with the same key share addresses.
	AnnotationSharingKey = "berth.dev/sharing-key"
	// AnnotationRelease, with the addresses to release separated by commas, takes
	// addresses that are in no pool any more away from the Service.
	AnnotationRelease = "berth.dev/release"
)

// ExcludeLabel on a Node keeps it out of load balancing; its value does not
// matter (KEP-1143).
const ExcludeLabel = "node.kubernetes.io/exclude-from-external-load-balancers"

// HelloSecret is the name of the Secret, in Berth's namespace, with which speakers
// sign what they say to each other; HelloKey is the key of its data: 32 random
// bytes. The controller makes it.
const (
	HelloSecret = "berth-hello"
	HelloKey    = "key"
	// ShortestHelloKey is the least number of bytes of a key, in either.
	ShortestHelloKey = 16
)
