package mirror

import (
	"context"
	"errors"
	"fmt"
	"math"
	"reflect"
	"time"

	"golang.org/x/time/rate"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/internal/liveness"
	"github.com/berth-lb/berth/l2"
)

// work writes what is in the queue until it is shut down.
func (m *Mirror) work(ctx context.Context) {
	pass := liveness.Of(ctx, "mirror", liveness.Limit)
	for {
		name, down := m.queue.Get()
		if down {
			return
		}
		pass.Begin()
		err := m.reconcile(ctx, name)
		pass.End()
		if err == nil {
			m.queue.Forget(name)
		} else {
			if !apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err) && !errors.Is(err, context.Canceled) {
				m.Logger.Warn("L2Owner was not written; will be tried again", "l2owner", name, "error", err)
			}
			m.queue.AddRateLimited(name)
		}
		m.queue.Done(name)
	}
}

// reconcile makes one L2Owner agree with this node's latest claim.
func (m *Mirror) reconcile(ctx context.Context, name string) error {
	whole := m.wholeFor() // before the claim is read: it is as old
	have, claimed := m.latest(name)
	found := m.cached(name)
	do := decide(m.Node, have, claimed, found)
	if do == remove {
		if wait := m.patience(have, claimed, whole); wait > 0 {
			m.queue.AddAfter(name, wait)
			return nil
		}
	}
	var err error
	switch do {
	case write:
		err = m.write(ctx, name, have, found)
	case remove:
		err = m.remove(ctx, found)
	case leave:
		if found != nil && have.claim.Node != "" && !m.Ready(found.Status.NodeName) {
			m.hear(found) // layer 2 has claimed without knowing the term: nobody on the segment did
		}
	}
	switch {
	case errors.Is(err, errPaced):
		return nil // it is queued again
	case err == nil:
		m.acted(name, have)
	}
	return err
}

// patience returns for how long an object that names this node, and is not its any longer, is left
// as it is. whole is for how long the claims have been whole.
func (m *Mirror) patience(have entry, claimed bool, whole time.Duration) time.Duration {
	switch {
	case !claimed:
		// This process may not know yet what layer 2 claims, and answers for. A layer 2 that was
		// restarted may be about to claim again what it had.
		return orphanAfter - whole
	case have.claim.Cause == l2.HandedOver && !m.departs.Load():
		return handedOverAfter - time.Since(have.since)
	}
	return 0
}

// errPaced means that a write waits for its turn.
var errPaced = errors.New("written a moment ago")

// turn returns how long to wait until an L2Owner may be written again; 0: it may be written now.
// Two nodes that each take an address from the other do not do so at the pace of the API server.
func (m *Mirror) turn(name string) time.Duration {
	pace, ok := m.paces[name]
	if !ok {
		pace = rate.NewLimiter(writesPerOwner, burstPerOwner)
		m.paces[name] = pace
	}
	turn := pace.Reserve()
	wait := turn.Delay()
	if wait > 0 {
		turn.Cancel()
	} else if len(m.paces) > mostPaces {
		clear(m.paces)
	}
	return wait
}

// action is what is to be done about an L2Owner.
type action uint8

const (
	leave action = iota
	write
	remove
)

// decide says what a node does about an L2Owner, nil if there is none. Over another node's claim
// only one of a higher term is written: layer 2, which hears of that one, then claims above it or
// gives the address up.
func decide(self string, have entry, claimed bool, found *v1alpha1.L2Owner) action {
	names := found != nil && found.Status.NodeName == self
	switch {
	case !claimed || have.claim.Node == "":
		if names {
			return remove
		}
		return leave
	case found == nil || names || have.claim.Term > uint64(max(found.Status.Term, 0)):
		return write
	}
	return leave
}

// maxTermStep is by how much the admission policy lets a speaker raise the term of an L2Owner, or
// begin above 0.
const maxTermStep = 1 << 20

// bounded returns the term that may be written now. Somebody with a stolen token can raise a term
// by as much, again and again, and then delete the object.
func bounded(term int64, found *v1alpha1.L2Owner) int64 {
	limit := int64(maxTermStep)
	if found != nil && found.Status.Term < math.MaxInt64-maxTermStep {
		limit += max(found.Status.Term, 0)
	} else if found != nil {
		limit = math.MaxInt64
	}
	return min(term, limit)
}

// write creates or updates the L2Owner, if it differs.
func (m *Mirror) write(ctx context.Context, name string, have entry, found *v1alpha1.L2Owner) error {
	desired := m.object(name, have)
	if uid, known := m.NodeUID(m.Node); known {
		desired.OwnerReferences = ownedBy(m.Node, uid)
	}
	// What is left is written when this one is seen.
	desired.Status.Term = bounded(desired.Status.Term, found)
	owners := m.Berth.L2Owners
	if found == nil {
		return m.paced(ctx, "create", name, func(ctx context.Context) error {
			_, err := owners.Create(ctx, desired, metav1.CreateOptions{})
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
	return m.paced(ctx, "update", name, func(ctx context.Context) error {
		_, err := owners.Update(ctx, desired, metav1.UpdateOptions{})
		return err
	})
}

// remove deletes the L2Owner, if it is still as the cache has it.
func (m *Mirror) remove(ctx context.Context, found *v1alpha1.L2Owner) error {
	return m.paced(ctx, "delete", found.Name, func(ctx context.Context) error {
		err := m.Berth.L2Owners.Delete(ctx, found.Name, metav1.DeleteOptions{
			Preconditions: &metav1.Preconditions{UID: &found.UID, ResourceVersion: &found.ResourceVersion},
		})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return err
	})
}

// paced makes one request when its turn has come. If that of the L2Owner has not, it is queued
// again, and the error is errPaced.
func (m *Mirror) paced(ctx context.Context, what, name string, request func(context.Context) error) error {
	if wait := m.turn(name); wait > 0 {
		m.queue.AddAfter(name, wait)
		return errPaced
	}
	if err := m.pace.Wait(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, writeAtMost)
	defer cancel()
	if err := request(ctx); err != nil {
		return fmt.Errorf("%s L2Owner %s: %w", what, name, err)
	}
	return nil
}

func (m *Mirror) cached(name string) *v1alpha1.L2Owner {
	o, exists, err := m.informer.GetStore().GetByKey(name)
	if err != nil || !exists {
		return nil
	}
	return ownerOf(o)
}
