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
	// ServiceAnnounced tells whether some announcement, and a speaker able to
	// act on it, covers the Service's addresses.
	ServiceAnnounced = "berth.dev/Announced"
	// ServiceRecord is Berth's signed record of the addresses that it gave the Service:
	// what is not in it is not announced. Package record has its form.
	ServiceRecord = "berth.dev/Record"
)

// Annotations of Services.
const (
	// AnnotationAddresses asks for addresses: one, or two of different families,
	// separated by a comma. It and spec.loadBalancerIP must agree.
	AnnotationAddresses = "berth.dev/load-balancer-ips"
	// AnnotationPools names the LoadBalancerPools to take addresses from, in order of
	// preference, separated by commas.
	AnnotationPools = "berth.dev/pools"
	// AnnotationSharingKey lets Services with the same key share addresses.
	AnnotationSharingKey = "berth.dev/sharing-key"
	// AnnotationRelease takes addresses that are in no pool any more away from the Service:
	// those that it names, separated by commas.
	AnnotationRelease = "berth.dev/release"
	// AnnotationIPVSScheduler asks for a scheduler of IPVS, where an address is of a pool
	// with that dataplane, in place of the pool's spec.ipvs.scheduler.
	AnnotationIPVSScheduler = "berth.dev/ipvs-scheduler"
)

// AnnotationRebalance on a SegmentAnnouncement: each change of its value moves the groups
// that it announces to the nodes that come first for them, one after the other.
// Owners stay otherwise, also when a node comes back.
const AnnotationRebalance = "berth.dev/rebalance"

// AnnotationReservedAddresses on an AddressReservation has the addresses that it got from pools, in
// ascending order, separated by commas. The controller writes it beside the status, because a
// restore from a backup brings annotations back, and not statuses.
const AnnotationReservedAddresses = "berth.dev/reserved-addresses"

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

// Annotations of Secret berth-hello, which has the keys of speakers.
const (
	// AnnotationRotate starts a rotation of the key whenever its value changes.
	AnnotationRotate = "berth.dev/rotate"
	// AnnotationRotated is the value of berth.dev/rotate that was acted on last. The controller
	// writes it.
	AnnotationRotated = "berth.dev/rotated"
	// AnnotationRotation says what a rotation under way waits for. The controller writes it.
	AnnotationRotation = "berth.dev/rotation"
)

// Fingerprint names a key without telling it: the first 8 hexadecimal digits of its
// SHA-256.
func Fingerprint(key []byte) string {
	sum := sha256.Sum256(key)
	return hex.EncodeToString(sum[:4])
}
