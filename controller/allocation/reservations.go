package allocation

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/controller/condition"
	"github.com/berth-lb/berth/controller/service"
	"github.com/berth-lb/berth/ipam"
)

// Reasons of the conditions of an AddressReservation. If one is not in effect, the reason may also
// be ReasonAddressInUse, ReasonAddressOutside, ReasonInvalidAddress, ReasonPoolExhausted,
// ReasonNoPool, ReasonReserved, ReasonUnknownPool, ReasonPoolOutOfScope, ReasonPoolDisabled,
// ReasonExcluded or ReasonResting of package service.
const (
	ReasonKept    = "Reserved"            // in effect
	ReasonTooMany = "TooManyReservations" // not in effect: the namespace has as many as it may have
)

// reservation is an AddressReservation in effect.
type reservation struct {
	addresses []netip.Addr // at most one of a family, ascending
	service   string       // namespace/name; "": any of the namespace
}

func (r reservation) equal(other reservation) bool {
	return r.service == other.service && slices.Equal(r.addresses, other.addresses)
}

// Rules are what decides whether a reservation may have an address: the pools, and the labels of
// its namespace.
type Rules struct {
	Snapshot  *config.Snapshot
	Namespace labels.Set
}

// want is one address that a reservation asks for: a certain one, or any of the family from its
// pools.
type want struct {
	address netip.Addr
	family  ipam.Family
	err     error // why it is not valid
}

// wants returns what the reservation asks for. It asks again for what it got from its pools before.
func (a *Allocations) wants(object *v1alpha1.AddressReservation, before reservation) []want {
	var wants []want
	for i, text := range object.Spec.Addresses {
		address, err := netip.ParseAddr(text)
		if err != nil {
			err = service.Invalid(service.ReasonInvalidAddress, "spec.addresses[%d]: %s is not an IP address; write one such as 192.0.2.1", i, config.Quote(text))
		}
		wants = append(wants, want{address: address.Unmap(), err: err})
	}
	for _, family := range object.Spec.IPFamilies {
		w := want{family: ipam.IPv4}
		if family == v1alpha1.IPv6 {
			w.family = ipam.IPv6
		}
		for _, address := range HadBefore(object, before.addresses) {
			// Wait for an address whose pool is gone; give up one whose pool is no longer asked for.
			pool := a.allocator.PoolOf(address)
			if ipam.FamilyOf(address) == w.family && (pool == "" || slices.Contains(object.Spec.PoolNames, pool)) {
				w.address = address
				break
			}
		}
		wants = append(wants, w)
	}
	return wants
}

// HadBefore returns which addresses a reservation had before, as far as this process (kept), the
// status and the annotation remember.
func HadBefore(object *v1alpha1.AddressReservation, kept []netip.Addr) []netip.Addr {
	had := slices.Clone(kept)
	for _, a := range object.Status.Addresses {
		had = append(had, parsed(a.Address))
	}
	for _, text := range service.AnnotationList(object.Annotations, v1alpha1.AnnotationReservedAddresses) {
		had = append(had, parsed(text))
	}
	return slices.DeleteFunc(had, func(a netip.Addr) bool { return !a.IsValid() })
}

// Reserve keeps the addresses that the reservation names, or addresses of its pools. It returns
// what is kept, in ascending order, and why the first address that is not kept is not.
func (a *Allocations) Reserve(
	key string,
	object *v1alpha1.AddressReservation,
	rules Rules,
) (kept []netip.Addr, problem error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	before, known := a.reservations[key]
	now := reservation{}
	if object.Spec.ServiceName != "" {
		now.service = object.Namespace + "/" + object.Spec.ServiceName
	}
	for _, w := range a.wants(object, before) {
		address, err := a.reserveOne(key, object, w, now.service, known, rules)
		if err == nil {
			now.addresses = append(now.addresses, address)
		} else if problem == nil {
			problem = err
		}
	}
	slices.SortFunc(now.addresses, netip.Addr.Compare)
	for _, address := range before.addresses {
		if !slices.Contains(now.addresses, address) {
			a.allocator.Unreserve(address)
			a.retryWaiting(address)
		}
	}
	if a.failed[key] = true; problem == nil {
		delete(a.failed, key)
	}
	switch {
	case len(now.addresses) == 0 && known:
		a.dropReservation(key)
	case len(now.addresses) > 0 && !known:
		a.reservedBy[object.Namespace]++
	}
	if len(now.addresses) > 0 {
		a.reservations[key] = now
	}
	if !now.equal(before) {
		for _, service := range []string{before.service, now.service} {
			if service != "" {
				a.config.Queue.Service(service)
			}
		}
		a.config.Queue.UsageChanged()
	}
	return now.addresses, problem
}

// reserveOne keeps one address. The mutex is held.
func (a *Allocations) reserveOne(
	key string,
	object *v1alpha1.AddressReservation,
	w want,
	service string,
	known bool,
	rules Rules,
) (netip.Addr, error) {
	switch {
	case w.err != nil:
		return netip.Addr{}, w.err
	case w.address.IsValid():
		if err := a.mayReserve(key, object, a.allocator.PoolOf(w.address), known || inEffect(object), rules); err != nil {
			return netip.Addr{}, outsideError(err, w.address)
		}
		return w.address, a.allocator.Reserve(key, w.address)
	}
	full := &ipam.ExhaustedError{Family: w.family}
	var first error
	for _, pool := range object.Spec.PoolNames {
		if err := a.mayReserve(key, object, pool, false, rules); err != nil {
			first = cmp.Or(first, err)
			continue
		}
		address, err := a.allocator.ReserveAny(key, pool, w.family, service)
		if err == nil {
			return address, nil
		}
		var exhausted *ipam.ExhaustedError
		if !errors.As(err, &exhausted) {
			return netip.Addr{}, err
		}
		full.Full = append(full.Full, exhausted.Full...)
	}
	if len(full.Full) == 0 && first != nil {
		return netip.Addr{}, first
	}
	return netip.Addr{}, full
}

// outsideError adds the address to an error that says that no pool contains it.
func outsideError(err error, address netip.Addr) error {
	if errors.Is(err, errNoPool) {
		return &ipam.OutsideError{Address: address}
	}
	return err
}

var errNoPool = errors.New("there is no such pool")

// dropReservation forgets a reservation that was in effect. The mutex is held.
func (a *Allocations) dropReservation(key string) {
	delete(a.reservations, key)
	namespace, _, _ := strings.Cut(key, "/")
	if a.reservedBy[namespace]--; a.reservedBy[namespace] == 0 {
		delete(a.reservedBy, namespace)
	}
}

// mayReserve returns why a reservation may not keep an address of the pool. known says that it is
// already in effect: no edit of a pool takes its address away. The mutex is held.
func (a *Allocations) mayReserve(
	key string,
	object *v1alpha1.AddressReservation,
	pool string,
	known bool,
	rules Rules,
) error {
	p := rules.Snapshot.Pool(pool)
	switch {
	case pool == "":
		return errNoPool
	case p == nil:
		return service.Invalid(service.ReasonUnknownPool, "spec.poolNames: no LoadBalancerPool %s exists; create it, or name another", config.Quote(pool))
	case known:
		return nil // the allocator says what is wrong
	case !p.ServesNamespace(object.Namespace, rules.Namespace):
		return service.Invalid(service.ReasonPoolOutOfScope, "LoadBalancerPool %s does not serve namespace %s (its spec.scopes); reserve an address of another pool", pool, object.Namespace)
	case p.Allocation == v1alpha1.AllocationDisabled:
		return service.Invalid(service.ReasonPoolDisabled, "LoadBalancerPool %s gives no more addresses (its spec.allocation is Disabled); reserve an address of another pool, or enable it", pool)
	}
	has := a.reservedBy[object.Namespace]
	if _, counted := a.reservations[key]; counted {
		has--
	}
	if has >= a.config.ReservationsPerNamespace {
		return service.Invalid(ReasonTooMany, "namespace %s has %d AddressReservations in effect, which is the limit (--reservations-per-namespace of the controller); delete one", object.Namespace, has)
	}
	return nil
}

// inEffect reports whether a former leader kept an address for the reservation.
func inEffect(object *v1alpha1.AddressReservation) bool {
	return meta.IsStatusConditionTrue(object.Status.Conditions, v1alpha1.ConditionAccepted)
}

// Unreserve ends a reservation that was deleted.
func (a *Allocations) Unreserve(key string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.failed, key)
	if before, known := a.reservations[key]; known {
		for _, address := range before.addresses {
			a.allocator.Unreserve(address)
		}
		a.dropReservation(key)
		a.retryWaiting(before.addresses...)
		a.config.Queue.UsageChanged()
	}
}

// Reserved returns the addresses that are kept for a reservation.
func (a *Allocations) Reserved(key string) []netip.Addr {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.reservations[key].addresses
}

// parsed parses an address. The result is not valid if the text is not.
func parsed(text string) netip.Addr {
	address, _ := netip.ParseAddr(text)
	return address.Unmap()
}

// Judgement returns the reason and the message of a reservation's conditions: which addresses are
// kept, or why the first that is not kept is not.
func Judgement(object *v1alpha1.AddressReservation, kept []netip.Addr, problem error) (reason, message string) {
	if problem != nil {
		return Explain(object, problem)
	}
	verb := "is"
	if len(kept) > 1 {
		verb = "are"
	}
	return ReasonKept, fmt.Sprintf("%s %s kept for namespace %s", condition.Join(kept, " and "), verb, object.Namespace)
}

// Explain returns the reason and the message that say why an address is not kept, and what would
// help.
func Explain(object *v1alpha1.AddressReservation, err error) (reason, message string) {
	var (
		invalid   *service.InvalidRequest
		taken     *ipam.TakenError
		outside   *ipam.OutsideError
		exhausted *ipam.ExhaustedError
		used      *ipam.UsedError
		resting   *ipam.RestingError
	)
	field := "spec.addresses"
	if len(object.Spec.PoolNames) > 0 {
		field = "annotation " + v1alpha1.AnnotationReservedAddresses
	}
	switch {
	case errors.As(err, &invalid):
		return invalid.Reason, invalid.Message
	case errors.As(err, &used):
		return service.ReasonExcluded, fmt.Sprintf("%s: %v, so it is not kept; reserve another", field, used)
	case errors.As(err, &resting):
		return service.ReasonResting, fmt.Sprintf("%s: %v; it is kept then", field, resting)
	case errors.As(err, &taken) && taken.Owner == "":
		return service.ReasonReserved, fmt.Sprintf(
			"%s: %s is kept by AddressReservation %s already; delete one of the two", field, taken.Address,
			taken.Reservation,
		)
	case errors.As(err, &taken):
		return service.ReasonAddressInUse, fmt.Sprintf(
			"%s: %s is held by Service %s of another namespace; it is kept as soon as that Service frees it", field,
			taken.Address, taken.Owner,
		)
	case errors.As(err, &outside):
		return service.ReasonAddressOutside, fmt.Sprintf("%s: %s is in no LoadBalancerPool; add it to one, or reserve an address that is", field, outside.Address)
	case errors.As(err, &exhausted) && len(exhausted.Full) > 0:
		return service.ReasonPoolExhausted, fmt.Sprintf("spec.poolNames: %v; widen it, or name another", err)
	case errors.As(err, &exhausted):
		return service.ReasonNoPool, fmt.Sprintf("spec.poolNames: none of the pools named gives %s addresses; name another, or add some to one of them", exhausted.Family)
	}
	return service.ReasonNoPool, "spec.poolNames: " + err.Error()
}
