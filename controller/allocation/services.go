package allocation

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-lb/berth/config/record"
	"github.com/berth-lb/berth/controller/service"
	"github.com/berth-lb/berth/ipam"
)

// Gave reports whether this process remembers that it gave the Service addresses, some of which the
// Service still holds.
func (a *Allocations) Gave(svc *corev1.Service) bool {
	key := svc.Namespace + "/" + svc.Name
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.given[key].UID == svc.UID && len(a.allocator.Holdings(key)) > 0
}

// Given returns what the Service was given, and for which request. Zero: nothing.
func (a *Allocations) Given(key string) record.Record {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.given[key]
}

// Adopt makes the Service hold what it was given according to its record. Without a record, a
// Service of one of Berth's classes keeps those addresses of its status that are in a pool.
func (a *Allocations) Adopt(key string, svc *corev1.Service, given record.Record) {
	a.mu.Lock()
	lost := a.adopt(key, svc, given)
	a.mu.Unlock()
	a.reportLost(key, lost)
}

// adopt is Adopt with the mutex held. It returns why addresses that were given are lost.
func (a *Allocations) adopt(key string, svc *corev1.Service, given record.Record) (lost []error) {
	addresses := given.Addresses
	if len(addresses) == 0 && svc.Spec.LoadBalancerClass != nil {
		outside := func(address netip.Addr) bool { return a.allocator.PoolOf(address) == "" }
		addresses = slices.DeleteFunc(service.AddressesIn(svc), outside)
	}
	if len(addresses) == 0 {
		return nil
	}
	if given.Request == "" {
		given.Request = service.PoolsDigest(svc, a.config.Honored)
	}
	given.UID = svc.UID
	a.given[key] = given
	for _, address := range addresses {
		if err := a.allocator.Hold(key, address, service.TermsOf(svc, a.config.Honored)); err != nil {
			lost = append(lost, fmt.Errorf("%s: %w", address, err))
		}
	}
	return lost
}

func (a *Allocations) reportLost(key string, lost []error) {
	for _, err := range lost {
		a.config.Logger.Warn("lost an address of a Service", "service", key, "error", err)
	}
}

// Outcome is the result of Assign.
type Outcome struct {
	ipam.Assignment
	Outside []netip.Addr // its addresses that are no longer in a pool
	Changed bool         // whether it holds other addresses than before
	Err     error        // why it does not have what it asks for
}

// Assign gives the Service what it asks for; invalid says why the request is not valid. A Service
// that holds nothing first adopts what it was given. It keeps what it is to lose (Surplus) until
// Free.
func (a *Allocations) Assign(
	key string,
	svc *corev1.Service,
	asked *service.Request,
	invalid error,
	given record.Record,
) Outcome {
	a.mu.Lock()
	outcome, lost := a.assign(key, svc, asked, invalid, given)
	a.mu.Unlock()
	a.reportLost(key, lost)
	return outcome
}

// assign is Assign with the mutex held.
func (a *Allocations) assign(
	key string,
	svc *corev1.Service,
	asked *service.Request,
	invalid error,
	given record.Record,
) (o Outcome, lost []error) {
	before := a.allocator.Holdings(key)
	if len(before) == 0 {
		lost = a.adopt(key, svc, given)
		before = a.allocator.Holdings(key)
	}
	if invalid == nil && asked.Unusable != nil && len(before) == 0 {
		invalid = asked.Unusable
	}
	if invalid != nil {
		a.await(key, true, nil)
		delete(a.given, key)
		o.Surplus, o.Err = a.allocator.Surrender(key), invalid
		return o, lost
	}
	if slices.ContainsFunc(before, a.isLocal) {
		a.passOverUsed() // annotations of the Service may now explain why the address is on an interface
	}
	asked.Release(svc, a.outsidePools(before), a.config.ReleaseOutside)
	// An edit of the annotation may take an address away, an edit of a pool may not.
	asked.Strict = asked.Named && asked.Unusable == nil && len(before) > 0 && a.given[key].Request != asked.Digest
	o.Assignment, o.Err = a.allocator.Assign(key, asked.Request)
	a.note(key, svc, asked, o.Addresses)
	o.Outside = a.outsidePools(o.Addresses)
	a.await(key, o.Err != nil || len(o.Missing) > 0, givers(asked, o))
	if delete(a.outside, key); len(o.Outside) > 0 {
		a.outside[key] = true
	}
	if o.Renewed {
		a.retryWaiting(before...)
	}
	if o.Regained { // others were told until when it rests
		a.retryNaming()
	}
	if o.Changed = !slices.Equal(before, a.allocator.Holdings(key)); o.Changed {
		a.config.Queue.UsageChanged()
	}
	return o, lost
}

// givers returns the pools that can give the Service what it lacks; nil: it may also share an
// address, or keep one that it has.
func givers(asked *service.Request, o Outcome) []string {
	if len(asked.Pinned)+len(o.Surplus) > 0 || asked.Terms.Key != "" || asked.Unusable != nil {
		return nil
	}
	return append([]string{}, asked.Pools...)
}

// note remembers what the Service was given, and for which request. A request for a pool that
// cannot be used is not met before that pool exists, so the request before it stays. The mutex is
// held.
func (a *Allocations) note(key string, svc *corev1.Service, asked *service.Request, addresses []netip.Addr) {
	if len(addresses) == 0 {
		delete(a.given, key)
		return
	}
	given := record.Record{UID: svc.UID, Request: asked.Digest, Addresses: addresses}
	if before, known := a.given[key]; known && asked.Unusable != nil {
		given.Request = before.Request
	}
	a.given[key] = given
}

// outsidePools returns the addresses that are in no pool. The mutex is held.
func (a *Allocations) outsidePools(addresses []netip.Addr) []netip.Addr {
	var outside []netip.Addr
	for _, address := range addresses {
		if a.allocator.PoolOf(address) == "" {
			outside = append(outside, address)
		}
	}
	return outside
}

// Free frees addresses of a Service. They may rest first. Services that wait for an address by
// name, or share, are requeued even so: they are told something else now, or share on other terms.
func (a *Allocations) Free(key string, addresses []netip.Addr) {
	if a.free(key, addresses) {
		a.config.Logger.Info("freed addresses", "service", key, "addresses", addresses)
	}
}

func (a *Allocations) free(key string, addresses []netip.Addr) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	var until time.Time
	if a.config.Rest > 0 {
		until = later(now.Add(a.config.Rest), a.settled)
	}
	if !a.allocator.Free(key, addresses, until) {
		return false
	}
	if a.config.Rest > 0 {
		a.retryNaming()
		a.config.Queue.WakeAfter(until.Sub(now))
	} else {
		a.retryWaiting(addresses...)
	}
	a.config.Queue.UsageChanged()
	return true
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// Release forgets a Service that is no longer served, and frees what it holds.
func (a *Allocations) Release(key string) {
	a.mu.Lock()
	a.forget(key)
	held := a.allocator.Holdings(key)
	unpinned := slices.DeleteFunc(
		a.allocator.SetPins(key, nil), func(pin netip.Addr) bool { return slices.Contains(held, pin) },
	)
	if len(unpinned) > 0 {
		a.retryWaiting(unpinned...)
	}
	a.mu.Unlock()
	a.Free(key, held)
}

// Surrender marks everything that the Service holds as to be freed, once no status shows it.
func (a *Allocations) Surrender(key string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.allocator.Surrender(key)
	a.forget(key)
}

// forget forgets everything about a Service but its addresses. The mutex is held.
func (a *Allocations) forget(key string) {
	a.await(key, false, nil)
	delete(a.outside, key)
	delete(a.given, key)
}

// SetPins keeps the addresses that a Service asks for by name from being given automatically to
// other Services.
func (a *Allocations) SetPins(key string, pins []netip.Addr) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if unpinned := a.allocator.SetPins(key, pins); len(unpinned) > 0 {
		a.retryWaiting(unpinned...)
	}
}

// Occupy keeps the addresses in the status of another implementation's Service from everybody else.
// If waits is set, the Service is requeued when something is freed.
func (a *Allocations) Occupy(key string, svc *corev1.Service, waits bool) {
	var addresses []netip.Addr
	var by string
	if svc.Spec.Type == corev1.ServiceTypeLoadBalancer {
		addresses = service.AddressesIn(svc)
	}
	if len(addresses) > 0 { // it costs much to learn, and most Services have none
		by = fmt.Sprintf("an address of Service %s, which %s serves", key, service.WriterOf(svc))
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	gaveUp := a.allocator.Occupy(key, by, addresses)
	if gaveUp {
		a.retryWaiting()
	}
	if gaveUp || len(addresses) > 0 {
		a.config.Queue.UsageChanged()
	}
	if waits {
		a.await(key, true, nil)
	}
}

// Vacate undoes Occupy.
func (a *Allocations) Vacate(key string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.vacate(key)
}

// vacate is Vacate with the mutex held.
func (a *Allocations) vacate(key string) {
	if a.allocator.Vacate(key) {
		a.retryWaiting()
		a.config.Queue.UsageChanged()
	}
}

// TakeOver makes the Service hold what another implementation gave it. The error says who else
// still has an address. Services that share an address do not wait for each other if all are taken
// over.
func (a *Allocations) TakeOver(key string, svc *corev1.Service, isTakenOver func(key string) bool) error {
	given := record.Record{
		UID:       svc.UID,
		Request:   service.PoolsDigest(svc, a.config.Honored),
		Addresses: service.AddressesIn(svc),
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, address := range given.Addresses {
		if use, found := a.used.Of(address); found {
			return &ipam.UsedError{Address: address, By: use.By}
		}
	}
	if err := a.allocator.TakeOver(key, given.Addresses, service.TermsOf(svc, a.config.Honored), isTakenOver); err != nil {
		return err
	}
	a.vacate(key)
	a.given[key] = given
	return nil
}
