package controller

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"

	"github.com/berth-lb/berth/config/client"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/controller/allocation"
	"github.com/berth-lb/berth/controller/condition"
	"github.com/berth-lb/berth/controller/verdict"
	"github.com/berth-lb/berth/ipam"
)

// reconcileReservation keeps what one AddressReservation asks for, and writes its status.
func (c *Controller) reconcileReservation(ctx context.Context, key string) error {
	o, exists, err := c.informers.reservation.GetStore().GetByKey(key)
	if err != nil {
		return fmt.Errorf("get AddressReservation %s: %w", key, err)
	}
	object, ok := o.(*v1alpha1.AddressReservation)
	if !exists || !ok {
		if pause := c.missing.Keep(key, time.Now(), c.served); pause > 0 {
			c.reserving.AddAfter(key, pause)
			return nil
		}
		c.allocations.Unreserve(key)
		return nil
	}
	c.missing.Found(key)
	kept, problem := c.allocations.Reserve(key, object, c.rules(object.Namespace))
	if err := c.remember(ctx, object, kept); err != nil {
		return err
	}
	result := verdict.Verdict{Accepted: len(kept) > 0, Wrong: problem != nil}
	result.Reason, result.Message = allocation.Judgement(object, kept, problem)
	desired := object.DeepCopy()
	desired.Status.Addresses = nil
	for _, address := range kept {
		desired.Status.Addresses = append(
			desired.Status.Addresses,
			v1alpha1.ReservedAddress{
				Family:  v1alpha1.Family(ipam.FamilyOf(address).String()),
				Address: address.String(),
			},
		)
	}
	changed, news := result.Apply(desired)
	if !changed && slices.Equal(desired.Status.Addresses, object.Status.Addresses) {
		return nil
	}
	_, err = c.Berth.AddressReservations(object.Namespace).UpdateStatus(ctx, desired, metav1.UpdateOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("write status of AddressReservation %s: %w", key, err)
	}
	if news && result.Wrong && !c.deleted(object) {
		c.Events.Eventf(object, nil, corev1.EventTypeWarning, result.Reason, "Reserve", "%s", result.Message)
	}
	return nil
}

// remember writes the addresses that were taken from pools to an annotation: backups contain
// annotations, but not the status. An address that cannot be kept now stays in the annotation.
func (c *Controller) remember(ctx context.Context, object *v1alpha1.AddressReservation, kept []netip.Addr) error {
	all := slices.Clone(kept)
	for _, address := range allocation.HadBefore(object, nil) {
		same := func(a netip.Addr) bool { return ipam.FamilyOf(a) == ipam.FamilyOf(address) }
		wanted := slices.Contains(object.Spec.IPFamilies, v1alpha1.Family(ipam.FamilyOf(address).String()))
		if wanted && !slices.ContainsFunc(all, same) {
			all = append(all, address)
		}
	}
	slices.SortFunc(all, netip.Addr.Compare)
	text := condition.Join(all, ",")
	if len(object.Spec.PoolNames) == 0 || text == object.Annotations[v1alpha1.AnnotationReservedAddresses] {
		return nil
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"annotations": map[string]string{v1alpha1.AnnotationReservedAddresses: text}},
	})
	if err != nil {
		return fmt.Errorf("annotation of AddressReservation %s/%s: %w", object.Namespace, object.Name, err)
	}
	reservations := c.Berth.AddressReservations(object.Namespace)
	_, err = reservations.Patch(ctx, object.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("write annotation of AddressReservation %s/%s: %w", object.Namespace, object.Name, err)
	}
	return nil
}

// rules returns the rules for the reservations of the namespace.
func (c *Controller) rules(namespace string) allocation.Rules {
	return allocation.Rules{Snapshot: c.snapshot.Load(), Namespace: c.namespaceLabels(namespace)}
}

// restore is rebuild for what AddressReservations have, and for what rests, as the pools say. It
// reads them from the API server for the same reason.
func (c *Controller) restore(ctx context.Context) error {
	known, err := live[*v1alpha1.AddressReservation](ctx, c.Berth.AddressReservations(""), c.informers.reservation)
	if err != nil {
		return fmt.Errorf("rebuild the allocator: list AddressReservations: %w", err)
	}
	pools, err := live[*v1alpha1.LoadBalancerPool](ctx, c.Berth.LoadBalancerPools, c.informers.pool)
	if err != nil {
		return fmt.Errorf("rebuild the allocator: list LoadBalancerPools: %w", err)
	}
	c.reserveKnown(known)
	c.allocations.RestoreResting(pools, time.Now())
	return nil
}

// live lists the objects of a kind. If the kind is gone, what the cache has of it still counts: see
// package retain.
func live[T any, L runtime.Object](
	ctx context.Context, source client.Source[L], cached cache.SharedIndexInformer,
) ([]T, error) {
	list, err := source.List(ctx, metav1.ListOptions{})
	if apierrors.IsNotFound(err) {
		return client.Stored[T](cached), nil
	}
	if err != nil {
		return nil, err
	}
	var objects []T
	err = meta.EachListItem(list, func(o runtime.Object) error {
		if t, ok := o.(T); ok {
			objects = append(objects, t)
		}
		return nil
	})
	return objects, err
}

// reserveKnown reserves what the AddressReservations have, before the first allocation, so that
// nobody else gets it.
func (c *Controller) reserveKnown(known []*v1alpha1.AddressReservation) {
	slices.SortFunc(known, func(a, b *v1alpha1.AddressReservation) int {
		return cmp.Or(
			a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Namespace, b.Namespace),
			cmp.Compare(a.Name, b.Name),
		)
	})
	for _, o := range known {
		if len(o.Spec.Addresses) > 0 || len(allocation.HadBefore(o, nil)) > 0 {
			// A failure is reported when the reservation is reconciled.
			_, _ = c.allocations.Reserve(o.Namespace+"/"+o.Name, o, c.rules(o.Namespace))
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
		for _, address := range c.allocations.Reserved(key) {
			found[address] = key
		}
		for _, text := range r.Spec.Addresses {
			if address, err := netip.ParseAddr(text); err == nil {
				found[address.Unmap()] = key
			}
		}
	}
	return found
}
