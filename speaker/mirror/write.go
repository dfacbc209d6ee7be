package mirror

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config/v1alpha1"
)

// work writes what is in the queue until it is shut down.
func (m *Mirror) work(ctx context.Context) {
	for {
		key, down := m.queue.Get()
		if down {
			return
		}
		if err := m.reconcile(ctx, key); err == nil {
			m.queue.Forget(key)
		} else {
			if !apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err) && !errors.Is(err, context.Canceled) {
				m.Logger.Warn("L2Owner was not written; will be tried again", "l2owner", key, "error", err)
			}
			m.queue.AddRateLimited(key)
		}
		m.queue.Done(key)
	}
}

// reconcile makes one L2Owner agree with this node's latest claim.
func (m *Mirror) reconcile(ctx context.Context, key string) error {
	have, claimed := m.latest(key)
	found := m.cached(key)
	do := decide(m.Node, have, claimed, found)
	if do == remove && !claimed {
		// Layer 2 may be about to claim again what it had before it was restarted.
		if wait := orphanAfter - time.Since(m.began); wait > 0 {
			m.queue.AddAfter(key, wait)
			return nil
		}
	}
	var err error
	switch do {
	case write:
		err = m.write(ctx, key, have, found)
	case remove:
		err = m.remove(ctx, found)
	case leave:
	}
	if err == nil {
		m.acted(key, have)
	}
	return err
}

// action is what is to be done about an L2Owner.
type action uint8

const (
	leave action = iota
	write
	remove
)

// decide says what a node does about an L2Owner, nil if there is none. Over another
// node's claim only one of a higher term is written: layer 2, which
// hears of that one, then claims above it or gives the group up.
func decide(self string, have entry, claimed bool, found *v1alpha1.L2Owner) action {
	names := found != nil && found.Status.NodeName == self
	switch {
	case !claimed || have.claim.Node == "":
		if names {
			return remove
		}
		return leave
	case found == nil || names || have.claim.Term > claimOf(found).Term:
		return write
	}
	return leave
}

// write creates or updates the L2Owner, if it differs.
func (m *Mirror) write(ctx context.Context, key string, have entry, found *v1alpha1.L2Owner) error {
	service := serviceOf(have.claim.Group)
	uid, exists := m.ServiceUID(service)
	if !exists {
		return nil // it goes, and its L2Owners with it
	}
	desired := m.object(key, have)
	desired.OwnerReferences = ownedBy(service, uid)
	owners := m.Berth.L2Owners(desired.Namespace)
	if found == nil {
		return m.paced(ctx, "create", key, func(ctx context.Context) error {
			_, err := owners.Create(ctx, desired, metav1.CreateOptions{})
			if apierrors.IsNotFound(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
				return nil // the namespace goes
			}
			return err
		})
	}
	if found.Status.NodeName == desired.Status.NodeName && found.Status.Term == desired.Status.Term &&
		found.Status.AcquireTime != nil {
		desired.Status.AcquireTime = found.Status.AcquireTime
	}
	said(&desired.Status, found.Generation)
	if reflect.DeepEqual(found.Status, desired.Status) &&
		reflect.DeepEqual(found.OwnerReferences, desired.OwnerReferences) {
		return nil
	}
	said(&desired.Status, found.Generation+1) // the update makes it so
	desired.UID, desired.ResourceVersion = found.UID, found.ResourceVersion
	return m.paced(ctx, "update", key, func(ctx context.Context) error {
		_, err := owners.Update(ctx, desired, metav1.UpdateOptions{})
		return err
	})
}

// remove deletes the L2Owner, if it is still as the cache has it.
func (m *Mirror) remove(ctx context.Context, found *v1alpha1.L2Owner) error {
	return m.paced(ctx, "delete", found.Namespace+"/"+found.Name, func(ctx context.Context) error {
		err := m.Berth.L2Owners(found.Namespace).Delete(ctx, found.Name, metav1.DeleteOptions{
			Preconditions: &metav1.Preconditions{UID: &found.UID, ResourceVersion: &found.ResourceVersion},
		})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return err
	})
}

// paced makes one request when its turn has come.
func (m *Mirror) paced(ctx context.Context, what, key string, request func(context.Context) error) error {
	if err := m.pace.Wait(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, writeAtMost)
	defer cancel()
	if err := request(ctx); err != nil {
		return fmt.Errorf("%s L2Owner %s: %w", what, key, err)
	}
	return nil
}

func (m *Mirror) cached(key string) *v1alpha1.L2Owner {
	o, exists, err := m.informer.GetStore().GetByKey(key)
	owner, ok := o.(*v1alpha1.L2Owner)
	if err != nil || !exists || !ok {
		return nil
	}
	return owner
}
