package v1alpha1

import (
	"crypto/sha256"
	"encoding/hex"
)

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
	// ServiceRecord is Berth's signed record of the addresses that it gave the Service:
	// what is not in it is not announced. Package record has its form.
	ServiceRecord = "berth.dev/Record"
)

// ConditionReady is the condition type that configuration objects carry: True
// when the object is in effect, False with the reason and the remedy when all or
// a part of it is not.
const ConditionReady = "Ready"

// ConditionConflict is the condition type of an IPPool that tells whether another
// pool claims some of its addresses.
const ConditionConflict = "Conflict"

// ConditionExcluded is the condition type of an IPPool that tells whether some of its
// addresses are in use elsewhere, and are not given.
const ConditionExcluded = "AddressesExcluded"

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
	// AnnotationIPVSScheduler asks for a scheduler of IPVS, where an address is of a pool
	// with that dataplane; see IPVSSettings.
	AnnotationIPVSScheduler = "berth.dev/ipvs-scheduler"
)

// AnnotationRebalance on an L2Advertisement: each change of its value moves the groups
// that it announces to the nodes that come first for them, one after the other.
// Owners stay otherwise, also when a node comes back.
const AnnotationRebalance = "berth.dev/rebalance"

// AnnotationRouterID on a Node is the BGP router ID of its speaker, in place of the
// node's IPv4 address: an IPv4 address but 0.0.0.0, unique in the routing domain. A
// change starts the node's BGP sessions anew.
const AnnotationRouterID = "berth.dev/bgp-router-id"

// ExcludeLabel on a Node keeps it out of load balancing; its value does not
// matter (KEP-1143).
const ExcludeLabel = "node.kubernetes.io/exclude-from-external-load-balancers"

// HelloSecret is the name of the Secret, in Berth's namespace, with which speakers
// sign what they say to each other. The controller makes it. Its data are keys of 32
// random bytes.
const (
	HelloSecret = "berth-hello"
	// HelloKey is the key that signs. NextHelloKey will sign once every speaker accepts
	// it; PreviousHelloKey is accepted until no speaker signs with it. A speaker accepts
	// all three.
	HelloKey         = "key"
	NextHelloKey     = "next"
	PreviousHelloKey = "previous"
	// RecordKey is the key with which the controller signs what it gave Services (see
	// ServiceRecord). Speakers announce nothing that it did not sign.
	RecordKey = "record"
	// ShortestHelloKey is the least number of bytes of a key.
	ShortestHelloKey = 16
)

// Annotations of the HelloSecret.
const (
	// AnnotationRotate starts a rotation of the key whenever its value changes.
	AnnotationRotate = "berth.dev/rotate"
	// AnnotationRotated is the value of AnnotationRotate that was acted on last; the
	// controller's.
	AnnotationRotated = "berth.dev/rotated"
	// AnnotationRotation says what a rotation under way waits for; the controller's.
	AnnotationRotation = "berth.dev/rotation"
)

// Fingerprint names a key without telling it: the first 8 hexadecimal digits of its
// SHA-256.
func Fingerprint(key []byte) string {
	sum := sha256.Sum256(key)
	return hex.EncodeToString(sum[:4])
}
