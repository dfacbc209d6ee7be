package v1alpha1

import (
	"crypto/sha256"
	"encoding/hex"
)

// LoadBalancerClass is the value of a Service's spec.loadBalancerClass that asks for Berth by name.
const LoadBalancerClass = "berth.dev/lb"

// Condition types of Services, written by the controller only.
const (
	// ServiceAllocated is True if the Service has the addresses it asks for.
	ServiceAllocated = "berth.dev/Allocated"
	// ServiceAnnounced is True if an announcement selects the Service's addresses, and a speaker can
	// act on it.
	ServiceAnnounced = "berth.dev/Announced"
	// ServiceRecord is Berth's signed record of the addresses that it gave the Service: an address
	// that is not in it is not announced. Package record has its form.
	ServiceRecord = "berth.dev/Record"
)

// Annotations of Services.
const (
	// AnnotationAddresses asks for addresses: one, or two of different families, separated by a
	// comma. If spec.loadBalancerIP is there too, they must agree.
	AnnotationAddresses = "berth.dev/load-balancer-ips"
	// AnnotationPools names the LoadBalancerPools to take addresses from, in order of preference,
	// separated by commas.
	AnnotationPools = "berth.dev/pools"
	// AnnotationSharingKey lets Services with the same key share addresses, if they have no port and
	// protocol in common. The pool's spec.sharing says whether they may be of different namespaces.
	AnnotationSharingKey = "berth.dev/sharing-key"
	// AnnotationRelease takes addresses away from the Service that are in no pool any longer: those
	// that it names, separated by commas.
	AnnotationRelease = "berth.dev/release"
	// AnnotationIPVSScheduler asks for another scheduler than the pool's spec.ipvs.scheduler, for
	// addresses of pools with dataplane IPVS.
	AnnotationIPVSScheduler = "berth.dev/ipvs-scheduler"
)

// AnnotationRebalance on a SegmentAnnouncement: each change of its value, such as to the time
// (2026-01-02T15:04:05Z), moves the addresses that it announces to the nodes that come first for
// them, one after the other. Otherwise owners stay, even if a node comes back.
const AnnotationRebalance = "berth.dev/rebalance"

// AnnotationReservedAddresses on an AddressReservation has the addresses that it got from pools, in
// ascending order, separated by commas. The controller writes it beside the status, because a
// restore from a backup brings annotations back, and not statuses.
const AnnotationReservedAddresses = "berth.dev/reserved-addresses"

// ValuesOfLabel on a LoadBalancerPool, BGPNeighbor, SegmentAnnouncement or RouteAnnouncement names
// the Helm release whose values it comes from. The chart's hooks set it, and change or delete no
// object of these kinds without it.
const ValuesOfLabel = "berth.dev/values-of"

// ExcludeLabel on a Node keeps it out of load balancing; its value does not matter (KEP-1143).
const ExcludeLabel = "node.kubernetes.io/exclude-from-external-load-balancers"

// HelloSecret is the name of the Secret, in Berth's namespace, with which speakers sign what they
// send to each other. The controller creates it. Its data are keys of 32 random bytes.
const (
	HelloSecret = "berth-hello"
	// HelloKey is the key that signs. NextHelloKey will sign once every speaker accepts it;
	// PreviousHelloKey is accepted until no speaker signs with it. A speaker accepts all three.
	HelloKey         = "key"
	NextHelloKey     = "next"
	PreviousHelloKey = "previous"
	// RecordKey is the key with which the controller signs which addresses it gave Services (see
	// ServiceRecord). Speakers announce only addresses that are signed.
	RecordKey = "record"
	// ShortestHelloKey is the minimum length of a key, in bytes.
	ShortestHelloKey = 16
)

// SteeringDisabled is the value of AnnotationSteering that turns it off.
const SteeringDisabled = "Disabled"

// Annotations of Secret berth-hello, which has the keys of speakers.
const (
	// AnnotationSteering turns steering off on all nodes at once while it is Disabled.
	AnnotationSteering = "berth.dev/steering"
	// AnnotationRotate starts a rotation of the key whenever its value changes, such as to the time
	// (2026-01-02T15:04:05Z).
	AnnotationRotate = "berth.dev/rotate"
	// AnnotationRotated is the value of berth.dev/rotate that the controller acted on last. The
	// controller writes it.
	AnnotationRotated = "berth.dev/rotated"
	// AnnotationRotation says what a rotation in progress waits for. The controller writes it.
	AnnotationRotation = "berth.dev/rotation"
)

// Fingerprint identifies a key without disclosing it: the first 8 hexadecimal digits of its
// SHA-256.
func Fingerprint(key []byte) string {
	sum := sha256.Sum256(key)
	return hex.EncodeToString(sum[:4])
}
