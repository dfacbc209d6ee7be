package v1alpha1

import (
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// Conditions that configuration objects carry.
const (
	// ConditionReady is True while all of the object, as its generation says, is in effect. It is
	// Unknown until the controller has seen the object, and otherwise False with what is wrong and the
	// remedy. Tools that wait for objects (kubectl wait, Flux, Argo CD) use it.
	ConditionReady = "Ready"
	// ConditionAccepted is True while at least a part of the object is in effect.
	ConditionAccepted = "Accepted"
	// ConditionPartiallyInvalid is True while a part of an accepted object is not in effect.
	ConditionPartiallyInvalid = "PartiallyInvalid"
	// ConditionEstablished is True while all sessions with a BGPNeighbor are established.
	ConditionEstablished = "Established"
	// ConditionExhausted is True while no address of a family is free in a LoadBalancerPool.
	ConditionExhausted = "Exhausted"
	// ConditionConflict is True while another pool has some of the addresses of a LoadBalancerPool.
	ConditionConflict = "Conflict"
	// ConditionExcluded is True while some addresses of a LoadBalancerPool are in use elsewhere, and
	// are not given.
	ConditionExcluded = "AddressesExcluded"
	// ConditionIPVSReady of a Speaker is True if its node can forward by IPVS with every scheduler.
	ConditionIPVSReady = "IPVSReady"
	// ConditionSteeringReady of a Speaker is True if its node steers connections.
	ConditionSteeringReady = "SteeringReady"
	// ConditionReturnPath of a Speaker is False if replies do not leave its node the way that
	// requests come in.
	ConditionReturnPath = "ReturnPath"
)

// ReasonPending is the reason of the conditions of an object that no controller has seen: the
// default in the schema.
const ReasonPending = "Pending"

// Object is an object with conditions.
//
// +kubebuilder:object:generate=false
type Object interface {
	runtime.Object
	metav1.Object
	// ConditionList returns the conditions of the object, to read and change.
	ConditionList() *[]metav1.Condition
	// Observed sets the generation of the object that its status is about, and reports whether that
	// changed it.
	Observed(generation int64) bool
}

func observe(at *int64, generation int64) bool {
	changed := *at != generation
	*at = generation
	return changed
}

// ConditionList implements Object.
func (o *LoadBalancerPool) ConditionList() *[]metav1.Condition { return &o.Status.Conditions }

// Observed implements Object.
func (o *LoadBalancerPool) Observed(g int64) bool { return observe(&o.Status.ObservedGeneration, g) }

// ConditionList implements Object.
func (o *SegmentAnnouncement) ConditionList() *[]metav1.Condition { return &o.Status.Conditions }

// Observed implements Object.
func (o *SegmentAnnouncement) Observed(g int64) bool { return observe(&o.Status.ObservedGeneration, g) }

// ConditionList implements Object.
func (o *RouteAnnouncement) ConditionList() *[]metav1.Condition { return &o.Status.Conditions }

// Observed implements Object.
func (o *RouteAnnouncement) Observed(g int64) bool { return observe(&o.Status.ObservedGeneration, g) }

// ConditionList implements Object.
func (o *BGPNeighbor) ConditionList() *[]metav1.Condition { return &o.Status.Conditions }

// Observed implements Object.
func (o *BGPNeighbor) Observed(g int64) bool { return observe(&o.Status.ObservedGeneration, g) }

// ConditionList implements Object.
func (o *AddressReservation) ConditionList() *[]metav1.Condition { return &o.Status.Conditions }

// Observed implements Object.
func (o *AddressReservation) Observed(g int64) bool { return observe(&o.Status.ObservedGeneration, g) }

// ConditionList implements Object.
func (o *Speaker) ConditionList() *[]metav1.Condition { return &o.Status.Conditions }

// Observed implements Object.
func (o *Speaker) Observed(g int64) bool { return observe(&o.Status.ObservedGeneration, g) }

// AddressRange is a prefix, an inclusive range "a-b", or a single address.
//
// +kubebuilder:validation:MinLength=2
// +kubebuilder:validation:MaxLength=96
// +kubebuilder:validation:XValidation:rule="self.startsWith('::ffff:') || (self.contains('-') ? size(self.split('-')) == 2 && self.split('-').all(e, isIP(e)) : isCIDR(self) || isIP(self))",messageExpression="self + ' is not an address (192.0.2.1), a prefix (192.0.2.0/24) or a range (192.0.2.10-192.0.2.20: no spaces, both ends in full)'"
// +kubebuilder:validation:XValidation:rule="!self.startsWith('::ffff:') || (self.contains('-') ? size(self.split('-')) == 2 && self.split('-').all(e, isIP(e)) : isCIDR(self) || isIP(self))",messageExpression="self + ' is IPv4-mapped, or not an address; write the IPv4 address, such as 192.0.2.1'"
// +kubebuilder:validation:XValidation:rule="!self.contains('-') || size(self.split('-')) != 2 || !self.split('-').all(e, isIP(e)) || ip(self.split('-')[0]).family() == ip(self.split('-')[1]).family()",messageExpression="self + ' has ends of two families; write one range for each'"
// +kubebuilder:validation:XValidation:rule="!isCIDR(self) || cidr(self) == cidr(self).masked()",messageExpression="self + ' has host bits set; write the first address of the prefix in front of the slash, or an address without a slash'"
type AddressRange string

// Family is an address family.
//
// +kubebuilder:validation:Enum=IPv4;IPv6
type Family string

// The families.
const (
	IPv4 Family = "IPv4"
	IPv6 Family = "IPv6"
)

// Duration is a time in hours, minutes, seconds and milliseconds, such as "90s" or "1m30s"
// (Gateway API, GEP-2257). The rules of a field say which times it takes, and whether milliseconds
// are among them.
//
// +kubebuilder:validation:MinLength=2
// +kubebuilder:validation:MaxLength=32
type Duration string

// Parse returns the duration, 0 for an empty text. It fails for a text that is not a duration.
func (d Duration) Parse() (time.Duration, error) {
	if d == "" {
		return 0, nil
	}
	parsed, err := time.ParseDuration(string(d))
	if err != nil {
		return 0, fmt.Errorf("%q is not a duration such as 90s or 1m30s", string(d))
	}
	return parsed, nil
}

// SessionCounts counts BGP sessions.
type SessionCounts struct {
	// desired is how many sessions there should be.
	// +required
	// +kubebuilder:validation:Minimum=0
	Desired *int32 `json:"desired,omitempty"`
	// established is how many of them are established.
	// +required
	// +kubebuilder:validation:Minimum=0
	Established *int32 `json:"established,omitempty"`
	// summary is "established/desired", for people.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=32
	Summary string `json:"summary,omitempty"`
}

// Counted returns the counts of these numbers of sessions.
func Counted(established, desired int) SessionCounts {
	return SessionCounts{
		Desired:     new(int32(desired)),
		Established: new(int32(established)),
		Summary:     fmt.Sprintf("%d/%d", established, desired),
	}
}
