package controller

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"

	"github.com/berth-lb/berth/config/retain"
	"github.com/berth-lb/berth/internal/async"
	"github.com/berth-lb/berth/internal/liveness"
)

// Watch fills the caches until the context ends, also for a standby.
func (c *Controller) Watch(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return c.watchServiceCIDRs(ctx) })
	c.informers.factory.StartWithContext(ctx)
	c.informers.ownFactory.StartWithContext(ctx)
	for _, i := range c.informers.own() {
		group.Go(func() error { i.RunWithContext(ctx); return nil })
	}
	group.Go(func() error { return c.digests.Watch(ctx) })
	if c.fencer != nil {
		group.Go(func() error { return c.fencer.Watch(ctx) })
	}
	<-ctx.Done()
	c.informers.factory.Shutdown()
	c.informers.ownFactory.Shutdown()
	return group.Wait()
}

// Synced reports whether the caches are complete.
func (c *Controller) Synced() bool {
	all := append(c.informers.own(), c.informers.service, c.informers.namespace, c.informers.node,
		c.informers.slice, c.informers.secret)
	for _, i := range all {
		if !i.HasSynced() {
			return false
		}
	}
	return c.knowsServiceCIDRs()
}

// Lead does the work of the leader until the context ends. Watch must be running.
func (c *Controller) Lead(ctx context.Context) error { return c.lead(ctx, c.reconcile) }

var errLed = errors.New("a Controller leads once, by its own reconcilers or as a cloud provider")

// lead does the work of the leader until the context ends, with this reconciler of Services, and
// runs the functions of beside along with it.
func (c *Controller) lead(
	ctx context.Context,
	reconcile func(context.Context, string) error,
	beside ...func(context.Context) error,
) error {
	if !c.led.CompareAndSwap(false, true) {
		return errLed
	}
	if !cache.WaitForCacheSync(ctx.Done(), c.Synced) {
		return ctx.Err()
	}
	if err := c.ensureHelloKey(ctx); err != nil {
		return err
	}
	c.served = retain.Ask(ctx, c.Kubernetes.Discovery().RESTClient())
	c.missing.Resource = "addressreservations"
	c.compile()
	c.reviewNodes()
	if err := c.rebuild(ctx); err != nil {
		return err
	}
	c.reviewUsed() // after rebuild: an address may be on an interface because a Service has it
	if err := c.restore(ctx); err != nil {
		return err
	}
	c.leads = time.Now()
	c.tasks.Add(compileAll)
	c.enqueueAll()

	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		work(ctx, "configuration", c.tasks, c.configure, retried[task](c, "configuration"))
		return nil
	})
	group.Go(func() error {
		work(ctx, "publications", c.publishing, c.publish, retried[publication](c, "publication"))
		return nil
	})
	group.Go(func() error {
		work(ctx, "reservations", c.reserving, c.reconcileReservation, retried[string](c, "reservation"))
		return nil
	})
	group.Go(func() error { return c.pace.Run(ctx, c.services.Add) })
	for i := range c.Workers {
		name := fmt.Sprintf("services %d", i)
		group.Go(func() error { work(ctx, name, c.services, reconcile, retried[string](c, "service")); return nil })
	}
	group.Go(func() error { return c.digests.Lead(ctx) })
	if c.fencer != nil {
		group.Go(func() error { return c.fencer.Lead(ctx) })
	}
	for _, run := range beside {
		group.Go(func() error { return run(ctx) })
	}
	c.Logger.Info("started to lead", "services", len(c.informers.service.GetStore().ListKeys()))
	<-ctx.Done()
	c.services.ShutDown()
	c.tasks.ShutDown()
	c.publishing.ShutDown()
	c.reserving.ShutDown()
	err := group.Wait()
	c.publishLast(ctx)
	return err
}

// publishLastAtMost is how long the lease is kept for it, and publishLastAgain how long after a
// failure it is tried again.
const (
	publishLastAtMost = 2 * time.Second
	publishLastAgain  = 100 * time.Millisecond
)

// publishLast publishes usage that is due, before the lease is given back: the next leader learns
// from it what was freed a moment ago.
func (c *Controller) publishLast(ctx context.Context) {
	if !c.usageDue.Load() {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), publishLastAtMost)
	defer cancel()
	for {
		err := c.publishObjects(ctx, nil)
		if err == nil {
			return
		}
		// The cache may lag behind a write of a moment ago.
		if async.Sleep(ctx, publishLastAgain) != nil {
			c.Logger.Warn("did not publish the usage of pools at the end", "error", err)
			return
		}
	}
}

// passAtMost is how long a worker may take between two answers of the API server, which gives up on
// a request after a minute.
const passAtMost = 2 * time.Minute

// work handles keys from the queue until it is shut down. A key whose work failed comes back with a
// growing delay.
func work[T comparable](
	ctx context.Context,
	name string,
	queue workqueue.TypedRateLimitingInterface[T],
	do func(context.Context, T) error,
	failed func(T, error),
) {
	pass := liveness.Of(ctx, name, passAtMost)
	ctx = pass.Context(ctx)
	for {
		key, down := queue.Get()
		if down {
			return
		}
		pass.Begin()
		err := do(ctx, key)
		pass.End()
		if err != nil {
			failed(key, err)
			queue.AddRateLimited(key)
		} else {
			queue.Forget(key)
		}
		queue.Done(key)
	}
}

// retried returns a function that counts and logs work that failed.
func retried[T comparable](c *Controller, what string) func(T, error) {
	return func(key T, err error) {
		if conflict(err) || errors.Is(err, context.Canceled) {
			return // the cache lags a moment, or the controller ends
		}
		c.metrics.failures.Inc()
		c.Logger.Warn("work failed; will be tried again", what, key, "error", err)
	}
}
