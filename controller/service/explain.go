package service

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/controller/condition"
	"github.com/berth-lb/berth/ipam"
)

// Reasons of the condition berth.dev/Allocated.
const (
	ReasonAllocated      = "Allocated"           // True: the Service has what it asks for
	ReasonFamilyMissing  = "FamilyMissing"       // True: PreferDualStack, but only one family
	ReasonOutsidePools   = "OutsidePools"        // True: given before, but no longer in a pool
	ReasonInvalidAddress = "InvalidAddress"      // False: an address does not parse, or two are of one family
	ReasonContradiction  = "Contradiction"       // False: field and annotation disagree
	ReasonFamilyMismatch = "FamilyMismatch"      // False: an address is of a family that the Service does not have
	ReasonAddressOutside = "AddressOutsidePools" // False: an address is in no pool
	ReasonAddressInUse   = "AddressInUse"        // False: another Service has an address
	ReasonReserved       = "AddressReserved"     // False: an address is reserved for another namespace
	ReasonExcluded       = "AddressExcluded"     // False: an address is in use elsewhere, or excluded by its pool
	ReasonUnknownPool    = "UnknownPool"         // False: a pool does not exist
	ReasonPoolOutOfScope = "PoolOutOfScope"      // False: a pool does not serve the Service
	ReasonPoolDisabled   = "PoolDisabled"        // False: the pool of an address gives no addresses
	ReasonPoolExhausted  = "PoolExhausted"       // False: no address of a family is free
	ReasonNoPool         = "NoPool"              // False: no pool gives addresses of a family
	ReasonResting        = "Resting"             // False: an address that it names was freed a moment ago
	ReasonTakeOverWaits  = "TakeOverWaits"       // False: it is to be taken over, but an address is still in use
	// True: another controller keeps overwriting the status.
	ReasonStatusContested = "StatusContested"
)

// KnownReason reports whether it is a reason of the condition berth.dev/Allocated.
func KnownReason(reason string) bool { return slices.Contains(reasons, reason) }

var reasons = []string{
	ReasonAllocated, ReasonFamilyMissing, ReasonOutsidePools, ReasonInvalidAddress, ReasonContradiction,
	ReasonFamilyMismatch, ReasonAddressOutside, ReasonAddressInUse, ReasonReserved, ReasonExcluded, ReasonUnknownPool,
	ReasonPoolOutOfScope, ReasonPoolDisabled, ReasonPoolExhausted, ReasonNoPool, ReasonResting, ReasonTakeOverWaits,
	ReasonStatusContested,
}

// ReasonLeftAlone is the reason of the event on a Service that another implementation serves.
const ReasonLeftAlone = "LeftAlone"

// Allocated returns the condition Allocated for the outcome of an allocation.
func Allocated(asked Request, assignment ipam.Assignment, err error, outside []netip.Addr) condition.Condition {
	c := condition.Condition{Kind: v1alpha1.ServiceAllocated, OK: err == nil}
	switch {
	case err != nil:
		c.Reason, c.Message = Explain(asked, err)
	case len(outside) > 0:
		c.Reason = ReasonOutsidePools
		c.Message = fmt.Sprintf("%s is kept, but is in no LoadBalancerPool any more, so only announcements of all pools or of a pool that is gone announce it; add it to a pool, or release it with annotation %s: %q",
			condition.Join(outside, " and "), v1alpha1.AnnotationRelease, condition.Join(outside, ","))
	case len(assignment.Missing) > 0:
		c.Reason = ReasonFamilyMissing
		c.Message = fmt.Sprintf(
			"has %s; %v (ipFamilyPolicy PreferDualStack accepts one family)",
			condition.Join(assignment.Addresses, " and "), assignment.Missing[0],
		)
	default:
		c.Reason, c.Message = ReasonAllocated, "has "+condition.Join(assignment.Addresses, " and ")
	}
	if err == nil && asked.Unusable != nil {
		c.Warns = true
		c.Message += "; " + asked.Unusable.Message
	}
	return c
}

// Explain returns the reason and the message that say why a request was not met, where it was made,
// and what would help.
func Explain(asked Request, err error) (reason, message string) {
	var (
		invalid   *InvalidRequest
		taken     *ipam.TakenError
		outside   *ipam.OutsideError
		family    *ipam.FamilyError
		scope     *ipam.ScopeError
		disabled  *ipam.DisabledError
		edge      *ipam.EdgeError
		exhausted *ipam.ExhaustedError
		used      *ipam.UsedError
		resting   *ipam.RestingError
	)
	at := func(address netip.Addr) string { return asked.field[address] }
	switch {
	case errors.As(err, &invalid):
		return invalid.Reason, invalid.Message
	case errors.As(err, &used):
		return ReasonExcluded, fmt.Sprintf("%s: %v, so it is not given; ask for another", at(used.Address), used)
	case errors.As(err, &resting):
		return ReasonResting, fmt.Sprintf("%s: %v; it is given then", at(resting.Address), resting)
	case errors.As(err, &taken):
		return explainTaken(at(taken.Address), taken, asked.Terms.Key != "")
	case errors.As(err, &outside):
		return ReasonAddressOutside, fmt.Sprintf(
			"%s: %s is in no LoadBalancerPool; ask for an address of one (kubectl get loadbalancerpools.berth.dev), or add it to spec.addresses of one",
			at(outside.Address), outside.Address,
		)
	case errors.As(err, &family):
		return ReasonFamilyMismatch, fmt.Sprintf(
			"%s: %s is %s, and spec.ipFamilies has %v only", at(family.Address), family.Address,
			ipam.FamilyOf(family.Address), family.Families,
		)
	case errors.As(err, &scope) && scope.Named:
		return ReasonPoolOutOfScope, fmt.Sprintf(
			"%s: %s is in LoadBalancerPool %s, which annotation %s does not name; name it there, or ask for another address",
			at(scope.Address), scope.Address, scope.Pool, v1alpha1.AnnotationPools,
		)
	case errors.As(err, &scope):
		return ReasonPoolOutOfScope, fmt.Sprintf(
			"%s: %s is in LoadBalancerPool %s, which does not serve this Service (its spec.scopes); ask for another",
			at(scope.Address), scope.Address, scope.Pool,
		)
	case errors.As(err, &disabled):
		return ReasonPoolDisabled, fmt.Sprintf(
			"%s: %s is in LoadBalancerPool %s, whose allocation is Disabled; ask for another, or enable the pool",
			at(disabled.Address), disabled.Address, disabled.Pool,
		)
	case errors.As(err, &edge):
		return ReasonExcluded, fmt.Sprintf(
			"%s: %s is .0 or .255, which LoadBalancerPool %s excludes (spec.edgeAddresses); ask for another",
			at(edge.Address), edge.Address, edge.Pool,
		)
	case errors.As(err, &exhausted):
		return explainExhausted(asked, exhausted)
	}
	return ReasonInvalidAddress, err.Error()
}

// explainTaken explains that somebody else has the address that a field asks for. shares: the
// Service has a sharing key.
func explainTaken(field string, taken *ipam.TakenError, shares bool) (reason, message string) {
	switch {
	case taken.Owner == "":
		return ReasonReserved, fmt.Sprintf(
			"%s: %s is reserved by AddressReservation %s; ask for another", field, taken.Address, taken.Reservation,
		)
	case !shares:
		return ReasonAddressInUse, fmt.Sprintf(
			"%s: %s is held by Service %s; ask for another here, or have that Service ask for another", field, taken.Address, taken.Owner,
		)
	}
	return ReasonAddressInUse, fmt.Sprintf(
		"%s: %s is held by Service %s %s, so it cannot be shared; fix that or ask for another", field, taken.Address,
		taken.Owner, taken.Why,
	)
}

// explainExhausted explains that no pool gives an address.
func explainExhausted(asked Request, exhausted *ipam.ExhaustedError) (reason, message string) {
	switch {
	case len(exhausted.Full) > 0:
		if exhausted.Named {
			return ReasonPoolExhausted, fmt.Sprintf(
				"%v; add some to its spec.addresses, or name another pool in annotation %s", exhausted, v1alpha1.AnnotationPools,
			)
		}
		return ReasonPoolExhausted, exhausted.Error() + "; add some to its spec.addresses, or create another pool"
	case exhausted.Named:
		return ReasonNoPool, fmt.Sprintf(
			"annotation %s: none of the pools named (%s) gives %s addresses; see their addresses and condition Ready "+
				"(kubectl describe loadbalancerpools.berth.dev), or name another",
			v1alpha1.AnnotationPools, strings.Join(asked.Pools, ", "), exhausted.Family,
		)
	}
	return ReasonNoPool, fmt.Sprintf("no LoadBalancerPool gives %s addresses to this Service automatically; create one with allocation Automatic, or name one in annotation %s", exhausted.Family, v1alpha1.AnnotationPools)
}
