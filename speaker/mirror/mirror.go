// Package mirror keeps the claims of a node's layer 2 in L2Owner objects, and passes on the claims
// of other nodes from there. It is the second channel for claims besides the segment, and what an
// operator sees of them. Begin with Mirror (mirror.go); write.go writes L2Owners.
package mirror

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"

	"github.com/berth-lb/berth/config/client"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/l2"
)

// Config of a Mirror. All fields are needed.
type Config struct {
	Berth  *client.Interface
	Logger *slog.Logger
	// Node whose claims are written.
	Node string
	// NodeUID returns the UID of a Node; false: there is none.
	NodeUID func(node string) (types.UID, bool)
	// Ready reports whether the API calls a Node ready. The claims of other Nodes are not passed on:
	// claims outlive their node.
	Ready func(node string) bool
	// Claims to mirror.
	Claims *Claims
	// To is where claims of L2Owners go.
	To Listener
}

// Listener is layer 2, which hears of claims by the mirror. It is called while Run runs, and must
// not block.
type Listener interface {
	// Mirrored is called for each change of an L2Owner, this node's own included. The Node is empty
	// when its Node is not ready, and when the object is gone. In the latter case the term is 0.
	Mirrored(l2.Claim)
}

const (
	// writesPerSecond bounds what a node that takes over thousands of addresses asks of the API
	// server.
	writesPerSecond = 50
	// writesPerOwner and burstPerOwner bound what a node asks for one L2Owner.
	writesPerOwner = 1
	burstPerOwner  = 4
	// mostPaces is of how many L2Owners it is remembered when they were written.
	mostPaces = 4096
	// writeAtMost is how long one request may take.
	writeAtMost = 5 * time.Second
	// orphanAfter is how long an object that names this node may wait for its claim once layer 2 has
	// said what it claims: one that began a moment ago listens first.
	orphanAfter = 10 * time.Second
	// handedOverAfter is how long an object that names this node may wait for the claim of the node
	// that has the address by now: one write of that node's, instead of three by both.
	handedOverAfter = time.Second
)

// Mirror writes the claims of one node, and passes on those of others. Its methods may be called
// from any goroutine, and do not wait for the API server.
type Mirror struct {
	Config
	*Claims
	informer cache.SharedIndexInformer
	pace     *rate.Limiter
	paces    map[string]*rate.Limiter // by name of the L2Owner; of the goroutine that writes
	departs  atomic.Bool              // it ends soon, and no other process follows on this node

	passing sync.Mutex // held while a claim is read and passed on; the listener does not wait
}

// New returns a Mirror that does nothing yet.
func New(c Config) (*Mirror, error) {
	m := &Mirror{
		Config: c,
		Claims: c.Claims,
		paces:  map[string]*rate.Limiter{},
		pace:   rate.NewLimiter(writesPerSecond, writesPerSecond),
	}
	var err error
	if m.informer, err = (client.Compact[*v1alpha1.L2Owner]{
		Client: c.Berth.L2Owners.GetClient(), Resource: "l2owners",
		New: func() *v1alpha1.L2Owner { return &v1alpha1.L2Owner{} }, Keep: m.keep,
	}).Informer(nil); err != nil {
		return nil, err
	}
	_, err = m.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    m.saw,
		UpdateFunc: func(_, o any) { m.saw(o) },
		DeleteFunc: m.gone,
	})
	if err != nil {
		return nil, fmt.Errorf("watch L2Owners: %w", err)
	}
	return m, nil
}

// Synced reports whether every L2Owner that existed at the start was passed on.
func (m *Mirror) Synced() bool { return m.informer.HasSynced() }

// Run watches and writes until the context ends.
func (m *Mirror) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { m.informer.RunWithContext(ctx); return nil })
	group.Go(func() error {
		// Before the cache is filled every claim would look like a new one.
		if cache.WaitForCacheSync(ctx.Done(), m.informer.HasSynced) {
			m.work(ctx)
		}
		return nil
	})
	<-ctx.Done()
	m.queue.ShutDown()
	return group.Wait()
}

// saw handles an L2Owner that was added or changed.
func (m *Mirror) saw(o any) {
	owner := ownerOf(o)
	if owner == nil {
		return
	}
	m.hear(owner)
	if owner.Status.NodeName == m.Node || m.concerns(owner.Name) {
		m.queue.Add(owner.Name)
	}
}

// hear passes on what the cache has of an L2Owner: the order of these calls is that of the cache.
func (m *Mirror) hear(owner *v1alpha1.L2Owner) {
	m.passing.Lock()
	defer m.passing.Unlock()
	present := m.cached(owner.Name)
	if present != nil {
		owner = present
	}
	claim, ok := claimOf(owner)
	if !ok {
		return
	}
	if present == nil || !m.Ready(claim.Node) {
		claim.Node = ""
	}
	if present == nil {
		claim.Term = 0
	}
	m.To.Mirrored(claim)
}

// Depart says that this process ends soon, and that none follows on this node: what names the node
// is not left to others.
func (m *Mirror) Depart() { m.departs.Store(true) }

// Reconsider passes the claims of a Node on again, whose readiness changed.
func (m *Mirror) Reconsider(node string) {
	m.owners(node, m.hear)
}

// Refresh passes the claims of all L2Owners on again, after the listener has forgotten them.
func (m *Mirror) Refresh() {
	m.owners("", m.hear)
}

// gone handles an L2Owner that was deleted.
func (m *Mirror) gone(o any) {
	if tombstone, ok := o.(cache.DeletedFinalStateUnknown); ok {
		o = tombstone.Obj
	}
	owner := ownerOf(o)
	if owner == nil {
		return
	}
	m.hear(owner)
	if m.concerns(owner.Name) {
		m.queue.Add(owner.Name)
	}
}
