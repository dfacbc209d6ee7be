package controller

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/config/client"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/ipam"
)

// Reasons of the condition Ready of an IPReservation.
const (
	ReasonKept    = "Kept"                // True: the address is kept
	ReasonTooMany = "TooManyReservations" // False: the namespace has as many as it may
	// False: ReasonAddressInUse, ReasonAddressOutside, ReasonInvalidAddress,
	// ReasonPoolExhausted, ReasonNoPool, ReasonReserved.
)

// reservation is what the controller knows of an IPReservation that is in effect.
type reservation struct {
	address netip.Addr
	service string // namespace/name, "" for any of the namespace
}

// reconcileReservation makes the allocator keep what one IPReservation asks for, and
// the object say so.
func (c *Controller) reconcileReservation(ctx context.Context, key string) error {
	o, exists, err := c.informers.reservation.GetStore().GetByKey(key)
	if err != nil {
		return fmt.Errorf("get IPReservation %s: %w", key, err)
	}
	object, ok := o.(*v1alpha1.IPReservation)
	if !exists || !ok {
		c.unreserve(key)
		return nil
	}
	address, problem := c.reserve(key, object)
	if problem == nil && object.Spec.Address == "" {
		desired := object.DeepCopy()
		desired.Spec.Address = address.String()
		// Its update brings the key back, for the condition.
		if _, err := c.Berth.IPReservations(object.Namespace).Update(ctx, desired, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("write address %s into IPReservation %s: %w", address, key, err)
		}
		return nil
	}
	ready := condition{kind: v1alpha1.ConditionReady, ok: problem == nil, reason: ReasonKept, message: fmt.Sprintf("%s is kept for namespace %s", address, object.Namespace)}
	if problem != nil {
		ready.reason, ready.message = explainReservation(object, problem)
	}
	desired := object.DeepCopy()
	changed, news := ready.apply(desired.ConditionList(), object.Generation, metav1.Now())
	if !changed {
		return nil
	}
	if _, err := c.Berth.IPReservations(object.Namespace).UpdateStatus(ctx, desired, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("write status of IPReservation %s: %w", key, err)
	}
	if news && !ready.ok {
		c.Events.Eventf(object, nil, corev1.EventTypeWarning, ready.reason, "Reserve", "%s", ready.message)
	}
	return nil
}

// reserve has the allocator keep the address of the reservation, or one of its pool.
func (c *Controller) reserve(key string, object *v1alpha1.IPReservation) (netip.Addr, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before, known := c.reservations[key]
	now := reservation{}
	if object.Spec.Service != "" {
		now.service = object.Namespace + "/" + object.Spec.Service
	}
	var err error
	switch {
	case object.Spec.Address != "":
		if now.address, err = netip.ParseAddr(object.Spec.Address); err != nil {
			err = invalid(ReasonInvalidAddress, "spec.address: %s is no IP address; delete the reservation and make another", config.Quote(object.Spec.Address))
			break
		}
		now.address = now.address.Unmap()
		if err = c.mayReserve(key, object, c.allocator.PoolOf(now.address), known || inEffect(object)); err != nil {
			break
		}
		err = c.allocator.Reserve(key, now.address)
	case known:
		now.address = before.address // chosen, and on its way into the object
	default:
		if err = c.mayReserve(key, object, object.Spec.Pool, false); err != nil {
			break
		}
		family := ipam.IPv4
		if object.Spec.Family == ipam.IPv6.String() {
			family = ipam.IPv6
		}
		now.address, err = c.allocator.ReserveAny(key, object.Spec.Pool, family, now.service)
	}
	if known && (err != nil || before.address != now.address) {
		c.allocator.Unreserve(before.address)
		c.dropReservation(key)
		c.retryWaiting("")
	}
	if err != nil {
		c.unkept[key] = true
		return netip.Addr{}, err
	}
	delete(c.unkept, key)
	if _, counted := c.reservations[key]; !counted {
		c.reservedBy[object.Namespace]++
	}
	c.reservations[key] = now
	if now != before {
		for _, service := range []string{before.service, now.service} {
			if service != "" {
				c.services.Add(service)
			}
		}
		c.settings.AddAfter(publishUsage, usageInterval)
	}
	return now.address, nil
}

// dropReservation forgets a reservation that was in effect. The mutex is held.
func (c *Controller) dropReservation(key string) {
	delete(c.reservations, key)
	namespace := namespaceOf(key)
	if c.reservedBy[namespace]--; c.reservedBy[namespace] == 0 {
		delete(c.reservedBy, namespace)
	}
}

// mayReserve says why a reservation may not keep an address of the pool. One that is in effect is not asked again: no edit of a
// pool takes it away. The mutex is held.
func (c *Controller) mayReserve(key string, object *v1alpha1.IPReservation, pool string, known bool) error {
	p := c.snapshot.Load().Pool(pool)
	switch {
	case p == nil && object.Spec.Address != "":
		return &ipam.OutsideError{Address: parsed(object.Spec.Address)}
	case p == nil, known:
		return nil // the allocator says what is wrong
	case !p.ServesNamespace(object.Namespace, c.namespaceLabels(object.Namespace)):
		return invalid(ReasonPoolOutOfScope, "IPPool %s does not serve namespace %s (its spec.scopes); reserve an address of another pool", pool, object.Namespace)
	case p.Allocation == v1alpha1.AllocationDisabled:
		return invalid(ReasonPoolDisabled, "IPPool %s gives no more addresses (its spec.allocation is Disabled); reserve an address of another pool, or enable it", pool)
	}
	has := c.reservedBy[object.Namespace]
	if _, counted := c.reservations[key]; counted {
		has--
	}
	if has >= c.ReservationsPerNamespace {
		return invalid(ReasonTooMany, "namespace %s has %d IPReservations in effect, and may have no more (the controller's --reservations-per-namespace); delete one", object.Namespace, has)
	}
	return nil
}

// inEffect reports whether a former leader kept the address of the reservation.
func inEffect(object *v1alpha1.IPReservation) bool {
	return meta.IsStatusConditionTrue(object.Status.Conditions, v1alpha1.ConditionReady)
}

// parsed returns the address that a text says, or none.
func parsed(text string) netip.Addr {
	address, _ := netip.ParseAddr(text)
	return address.Unmap()
}

// unreserve ends a reservation that was deleted.
func (c *Controller) unreserve(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.unkept, key)
	if before, known := c.reservations[key]; known {
		c.allocator.Unreserve(before.address)
		c.dropReservation(key)
		c.retryWaiting("")
		c.settings.AddAfter(publishUsage, usageInterval)
	}
}

// reserveKnown has the allocator keep what the reservations of the cache name: before
// the first allocation, so that nobody else gets it.
func (c *Controller) reserveKnown() {
	known := client.Stored[*v1alpha1.IPReservation](c.informers.reservation)
	slices.SortFunc(known, func(a, b *v1alpha1.IPReservation) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	for _, o := range known {
		if o.Spec.Address != "" {
			// What fails is said when its turn comes.
			_, _ = c.reserve(o.Namespace+"/"+o.Name, o)
		}
	}
}

// reservedFor returns the reservations that name the Service, by address.
func (c *Controller) reservedFor(namespace, service string) map[netip.Addr]string {
	objects, err := c.informers.reservation.GetIndexer().ByIndex(cache.NamespaceIndex, namespace)
	if err != nil {
		return nil
	}
	found := map[netip.Addr]string{}
	for _, o := range objects {
		r, ok := o.(*v1alpha1.IPReservation)
		if !ok || r.Spec.Service != service {
			continue
		}
		if address, err := netip.ParseAddr(r.Spec.Address); err == nil {
			found[address.Unmap()] = r.Namespace + "/" + r.Name
		}
	}
	return found
}

// explainReservation says why an address is not kept, and what would help.
func explainReservation(object *v1alpha1.IPReservation, err error) (reason, message string) {
	var (
		invalid   *invalidRequest
		taken     *ipam.TakenError
		outside   *ipam.OutsideError
		exhausted *ipam.ExhaustedError
		used      *ipam.UsedError
		resting   *ipam.RestingError
	)
	switch {
	case errors.As(err, &invalid):
		return invalid.reason, invalid.message
	case errors.As(err, &used):
		return ReasonExcluded, fmt.Sprintf("spec.address: %v, so it is not kept; reserve another", used)
	case errors.As(err, &resting):
		return ReasonResting, fmt.Sprintf("spec.address: %v; it is kept then", resting)
	case errors.As(err, &taken) && taken.Owner == "":
		return ReasonReserved, fmt.Sprintf("spec.address: %s is kept by IPReservation %s already; delete one of the two", taken.Address, taken.Reservation)
	case errors.As(err, &taken):
		return ReasonAddressInUse, fmt.Sprintf("spec.address: %s is held by Service %s of another namespace; it is kept as soon as that gives it back", taken.Address, taken.Owner)
	case errors.As(err, &outside):
		return ReasonAddressOutside, fmt.Sprintf("spec.address: %s is in no IPPool; add it to one, or make a reservation of an address that is", outside.Address)
	case errors.As(err, &exhausted) && len(exhausted.Full) > 0:
		return ReasonPoolExhausted, fmt.Sprintf("spec.pool: %v; widen it", err)
	}
	return ReasonNoPool, fmt.Sprintf("spec.pool: no IPPool %q gives addresses; create it, enable it, or name another", object.Spec.Pool)
}
