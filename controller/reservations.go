package controller

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"

	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/config/client"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/controller/condition"
	"github.com/berth-lb/berth/controller/service"
	"github.com/berth-lb/berth/controller/verdict"
	"github.com/berth-lb/berth/ipam"
)

// Reasons of the conditions of an AddressReservation.
const (
	ReasonKept    = "Reserved"            // True: the addresses are kept
	ReasonTooMany = "TooManyReservations" // False: the namespace has as many as it may
	// False: ReasonAddressInUse, ReasonAddressOutside, ReasonInvalidAddress,
	// ReasonPoolExhausted, ReasonNoPool, ReasonReserved, ReasonUnknownPool, ReasonPoolOutOfScope, ReasonPoolDisabled,
	// ReasonExcluded, ReasonResting.
)

// reservation is what the controller knows of an AddressReservation that is in effect.
type reservation struct {
	addresses []netip.Addr // one of a family, ascending
	service   string       // namespace/name, "" for any of the namespace
}

func (r reservation) equal(other reservation) bool {
	return r.service == other.service && slices.Equal(r.addresses, other.addresses)
}

// reconcileReservation makes the allocator keep what one AddressReservation asks for, and
// the object say so.
func (c *Controller) reconcileReservation(ctx context.Context, key string) error {
	o, exists, err := c.informers.reservation.GetStore().GetByKey(key)
	if err != nil {
		return fmt.Errorf("get AddressReservation %s: %w", key, err)
	}
	object, ok := o.(*v1alpha1.AddressReservation)
	if !exists || !ok {
		c.unreserve(key)
		return nil
	}
	kept, problem := c.reserve(key, object)
	if err := c.remember(ctx, object, kept); err != nil {
		return err
	}
	result := verdict.Verdict{Accepted: len(kept) > 0, Reason: ReasonKept, Message: fmt.Sprintf("%s kept for namespace %s", isOrAre(kept), object.Namespace)}
	if problem != nil {
		result.Wrong = true
		result.Reason, result.Message = explainReservation(object, problem)
	}
	desired := object.DeepCopy()
	desired.Status.Addresses = nil
	for _, address := range kept {
		desired.Status.Addresses = append(desired.Status.Addresses, v1alpha1.ReservedAddress{Family: v1alpha1.Family(ipam.FamilyOf(address).String()), Address: address.String()})
	}
	changed, news := result.Apply(desired)
	if !changed && slices.Equal(desired.Status.Addresses, object.Status.Addresses) {
		return nil
	}
	if _, err := c.Berth.AddressReservations(object.Namespace).UpdateStatus(ctx, desired, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("write status of AddressReservation %s: %w", key, err)
	}
	if news && result.Wrong {
		c.Events.Eventf(object, nil, corev1.EventTypeWarning, result.Reason, "Reserve", "%s", result.Message)
	}
	return nil
}

func isOrAre(addresses []netip.Addr) string {
	verb := " is"
	if len(addresses) > 1 {
		verb = " are"
	}
	return condition.Join(addresses, " and ") + verb
}

// remember writes the addresses that were taken from pools to an annotation: a backup holds that, and not the status. One
// that cannot be kept now stays there.
func (c *Controller) remember(ctx context.Context, object *v1alpha1.AddressReservation, kept []netip.Addr) error {
	all := slices.Clone(kept)
	for _, address := range hadBefore(object, reservation{}) {
		same := func(a netip.Addr) bool { return ipam.FamilyOf(a) == ipam.FamilyOf(address) }
		if slices.Contains(object.Spec.IPFamilies, v1alpha1.Family(ipam.FamilyOf(address).String())) && !slices.ContainsFunc(all, same) {
			all = append(all, address)
		}
	}
	slices.SortFunc(all, netip.Addr.Compare)
	text := condition.Join(all, ",")
	if len(object.Spec.PoolNames) == 0 || text == object.Annotations[v1alpha1.AnnotationReservedAddresses] {
		return nil
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]string{v1alpha1.AnnotationReservedAddresses: text}}})
	if err != nil {
		return fmt.Errorf("annotation of AddressReservation %s/%s: %w", object.Namespace, object.Name, err)
	}
	_, err = c.Berth.AddressReservations(object.Namespace).Patch(ctx, object.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("write annotation of AddressReservation %s/%s: %w", object.Namespace, object.Name, err)
	}
	return nil
}

// want is one address that a reservation asks for: that one, or one of the family from the pools.
type want struct {
	address netip.Addr
	family  ipam.Family
	err     error // what it asks for is none
}

// wants returns what the reservation asks for. Of what it got from its pools before, it asks again.
func (c *Controller) wants(object *v1alpha1.AddressReservation, before reservation) []want {
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
		for _, address := range hadBefore(object, before) {
			// An address whose pool is gone is waited for; one of a pool that is not asked for any more is given up.
			pool := c.allocator.PoolOf(address)
			if ipam.FamilyOf(address) == w.family && (pool == "" || slices.Contains(object.Spec.PoolNames, pool)) {
				w.address = address
				break
			}
		}
		wants = append(wants, w)
	}
	return wants
}

// hadBefore returns which addresses a reservation had, as far as anybody remembers: this process, the status, the
// annotation.
func hadBefore(object *v1alpha1.AddressReservation, before reservation) []netip.Addr {
	had := slices.Clone(before.addresses)
	for _, a := range object.Status.Addresses {
		had = append(had, parsed(a.Address))
	}
	for _, text := range service.AnnotationList(object.Annotations, v1alpha1.AnnotationReservedAddresses) {
		had = append(had, parsed(text))
	}
	return slices.DeleteFunc(had, func(a netip.Addr) bool { return !a.IsValid() })
}

// reserve has the allocator keep the addresses of the reservation, or some of its pools. It returns what is kept, in
// ascending order, and what kept the first from it that is not.
func (c *Controller) reserve(key string, object *v1alpha1.AddressReservation) (kept []netip.Addr, problem error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before, known := c.reservations[key]
	now := reservation{}
	if object.Spec.ServiceName != "" {
		now.service = object.Namespace + "/" + object.Spec.ServiceName
	}
	for _, w := range c.wants(object, before) {
		address, err := c.reserveOne(key, object, w, now.service, known)
		if err == nil {
			now.addresses = append(now.addresses, address)
		} else if problem == nil {
			problem = err
		}
	}
	slices.SortFunc(now.addresses, netip.Addr.Compare)
	for _, address := range before.addresses {
		if !slices.Contains(now.addresses, address) {
			c.allocator.Unreserve(address)
			c.retryWaiting("")
		}
	}
	if c.unkept[key] = true; problem == nil {
		delete(c.unkept, key)
	}
	switch {
	case len(now.addresses) == 0 && known:
		c.dropReservation(key)
	case len(now.addresses) > 0 && !known:
		c.reservedBy[object.Namespace]++
	}
	if len(now.addresses) > 0 {
		c.reservations[key] = now
	}
	if !now.equal(before) {
		for _, service := range []string{before.service, now.service} {
			if service != "" {
				c.services.Add(service)
			}
		}
		c.settings.AddAfter(publishUsage, usageInterval)
	}
	return now.addresses, problem
}

// reserveOne has the allocator keep one address. The mutex is held.
func (c *Controller) reserveOne(key string, object *v1alpha1.AddressReservation, w want, service string, known bool) (netip.Addr, error) {
	switch {
	case w.err != nil:
		return netip.Addr{}, w.err
	case w.address.IsValid():
		if err := c.mayReserve(key, object, c.allocator.PoolOf(w.address), known || inEffect(object)); err != nil {
			return netip.Addr{}, outsideError(err, w.address)
		}
		return w.address, c.allocator.Reserve(key, w.address)
	}
	full := &ipam.ExhaustedError{Family: w.family}
	var first error
	for _, pool := range object.Spec.PoolNames {
		if err := c.mayReserve(key, object, pool, false); err != nil {
			first = cmp.Or(first, err)
			continue
		}
		address, err := c.allocator.ReserveAny(key, pool, w.family, service)
		if err == nil {
			return address, nil
		}
		var exhausted *ipam.ExhaustedError
		if !errors.As(err, &exhausted) {
			return netip.Addr{}, err
		}
		full.Full = append(full.Full, exhausted.Full...)
		full.Resting = cmp.Or(full.Resting, exhausted.Resting)
	}
	if len(full.Full) == 0 && first != nil {
		return netip.Addr{}, first
	}
	return netip.Addr{}, full
}

// outsideError says of which address it is that no pool holds it.
func outsideError(err error, address netip.Addr) error {
	if errors.Is(err, errNoPool) {
		return &ipam.OutsideError{Address: address}
	}
	return err
}

var errNoPool = errors.New("there is no such pool")

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
func (c *Controller) mayReserve(key string, object *v1alpha1.AddressReservation, pool string, known bool) error {
	p := c.snapshot.Load().Pool(pool)
	switch {
	case pool == "":
		return errNoPool
	case p == nil:
		return service.Invalid(service.ReasonUnknownPool, "spec.poolNames: no LoadBalancerPool %s exists; create it, or name another", config.Quote(pool))
	case known:
		return nil // the allocator says what is wrong
	case !p.ServesNamespace(object.Namespace, c.namespaceLabels(object.Namespace)):
		return service.Invalid(service.ReasonPoolOutOfScope, "LoadBalancerPool %s does not serve namespace %s (its spec.scopes); reserve an address of another pool", pool, object.Namespace)
	case p.Allocation == v1alpha1.AllocationDisabled:
		return service.Invalid(service.ReasonPoolDisabled, "LoadBalancerPool %s gives no more addresses (its spec.allocation is Disabled); reserve an address of another pool, or enable it", pool)
	}
	has := c.reservedBy[object.Namespace]
	if _, counted := c.reservations[key]; counted {
		has--
	}
	if has >= c.ReservationsPerNamespace {
		return service.Invalid(ReasonTooMany, "namespace %s has %d AddressReservations in effect, and may have no more (the controller's --reservations-per-namespace); delete one", object.Namespace, has)
	}
	return nil
}

// inEffect reports whether a former leader kept an address of the reservation.
func inEffect(object *v1alpha1.AddressReservation) bool {
	return meta.IsStatusConditionTrue(object.Status.Conditions, v1alpha1.ConditionAccepted)
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
		for _, address := range before.addresses {
			c.allocator.Unreserve(address)
		}
		c.dropReservation(key)
		c.retryWaiting("")
		c.settings.AddAfter(publishUsage, usageInterval)
	}
}

// reserveKnown has the allocator keep what the reservations of the cache have: before
// the first allocation, so that nobody else gets it.
func (c *Controller) reserveKnown() {
	known := client.Stored[*v1alpha1.AddressReservation](c.informers.reservation)
	slices.SortFunc(known, func(a, b *v1alpha1.AddressReservation) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	for _, o := range known {
		if len(o.Spec.Addresses) > 0 || len(hadBefore(o, reservation{})) > 0 {
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
		r, ok := o.(*v1alpha1.AddressReservation)
		if !ok || r.Spec.ServiceName != service {
			continue
		}
		key := r.Namespace + "/" + r.Name
		for _, address := range c.addressesReserved(key) {
			found[address] = key
		}
		for _, text := range r.Spec.Addresses {
			if address := parsed(text); address.IsValid() {
				found[address] = key
			}
		}
	}
	return found
}

// addressesReserved returns what is kept for a reservation.
func (c *Controller) addressesReserved(key string) []netip.Addr {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reservations[key].addresses
}

// explainReservation says why an address is not kept, and what would help.
func explainReservation(object *v1alpha1.AddressReservation, err error) (reason, message string) {
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
		return service.ReasonReserved, fmt.Sprintf("%s: %s is kept by AddressReservation %s already; delete one of the two", field, taken.Address, taken.Reservation)
	case errors.As(err, &taken):
		return service.ReasonAddressInUse, fmt.Sprintf("%s: %s is held by Service %s of another namespace; it is kept as soon as that gives it back", field, taken.Address, taken.Owner)
	case errors.As(err, &outside):
		return service.ReasonAddressOutside, fmt.Sprintf("%s: %s is in no LoadBalancerPool; add it to one, or reserve an address that is", field, outside.Address)
	case errors.As(err, &exhausted) && len(exhausted.Full) > 0:
		return service.ReasonPoolExhausted, fmt.Sprintf("spec.poolNames: %v; widen it, or name another", err)
	case errors.As(err, &exhausted):
		return service.ReasonNoPool, fmt.Sprintf("spec.poolNames: none of the pools named gives %s addresses; name another, or add some to one of them", exhausted.Family)
	}
	return service.ReasonNoPool, "spec.poolNames: " + err.Error()
}
