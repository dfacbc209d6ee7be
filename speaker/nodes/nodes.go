package nodes

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/berth-lb/berth/config/candidate"
	"github.com/berth-lb/berth/config/client"
	"github.com/berth-lb/berth/config/digest"
	"github.com/berth-lb/berth/internal/async"
	"github.com/berth-lb/berth/speaker/contact"
)

// Config of Nodes.
type Config struct {
	Kubernetes kubernetes.Interface
	Namespace  string // that of Berth's own objects
	Node       string // the speaker's own
	Logger     *slog.Logger
}

// Nodes are the Nodes of the cluster, as candidate.SlimNode has them. The methods may be called
// from any goroutine.
type Nodes struct {
	Config
	own         cache.SharedIndexInformer
	digests     cache.SharedIndexInformer
	digestsRead cache.InformerSynced // what there was of them at first
	newAll      func() (cache.SharedIndexInformer, error)
	decides     async.Signal // something changed that decides where Nodes are from

	telling sync.Mutex // held while handlers are called, so that they hear of changes in their order

	mu        sync.Mutex // guards what follows
	published *published
	heard     heard
	refused   bool                      // the API server does not show ConfigMaps
	all       cache.SharedIndexInformer // nil: not all Nodes are watched
	inFull    bool                      // the view is of all
	filled    bool
	view      map[string]*corev1.Node
	handlers  map[int]Handler
	handler   int // the last number
}

// Handler is told of a change of a Node. One of both is nil if it came or went.
type Handler func(before, after *corev1.Node)

// New returns Nodes that knows none.
func New(c Config) (*Nodes, error) {
	core := c.Kubernetes.CoreV1().RESTClient()
	all := client.Compact[*corev1.Node]{
		Client: core, Resource: "nodes", New: func() *corev1.Node { return &corev1.Node{} },
		Keep: func(node *corev1.Node) runtime.Object { return candidate.SlimNode(node) },
	}
	own := all
	own.Select = func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, c.Node).String()
	}
	ownInformer, err := own.Informer(nil)
	if err != nil {
		return nil, err
	}
	digests, err := client.Compact[*corev1.ConfigMap]{
		Client: core, Resource: "configmaps", Namespace: c.Namespace,
		New:    func() *corev1.ConfigMap { return &corev1.ConfigMap{} },
		Select: func(o *metav1.ListOptions) { o.LabelSelector = digest.Selector() },
		Keep: func(m *corev1.ConfigMap) runtime.Object {
			m.ManagedFields = nil
			return m
		},
	}.Informer(nil)
	if err != nil {
		return nil, err
	}
	n := newNodes(c, ownInformer, digests, func() (cache.SharedIndexInformer, error) { return all.Informer(nil) })
	return n, n.follow()
}

func newNodes(
	c Config, own, digests cache.SharedIndexInformer, newAll func() (cache.SharedIndexInformer, error),
) *Nodes {
	return &Nodes{
		Config: c, own: own, digests: digests, newAll: newAll, decides: async.NewSignal(), published: newPublished(),
		view: map[string]*corev1.Node{}, handlers: map[int]Handler{},
	}
}

// OnChange has a handler told of changes from now on, one after the other, until the function that
// it returns is called.
func (n *Nodes) OnChange(h Handler) (stop func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.handler++
	number := n.handler
	n.handlers[number] = h
	return func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.handlers, number)
	}
}

// Get returns a Node, or nil.
func (n *Nodes) Get(name string) *corev1.Node {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.view[name]
}

// All returns all Nodes, in no order.
func (n *Nodes) All() []*corev1.Node {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Collect(maps.Values(n.view))
}

// HasSynced reports whether the Nodes that there were at first are known.
func (n *Nodes) HasSynced() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.filled
}

// follow has changes of what is watched noted.
func (n *Nodes) follow() error {
	if err := n.notify(n.own); err != nil {
		return err
	}
	if err := n.digests.SetWatchErrorHandlerWithContext(func(ctx context.Context, r *cache.Reflector, err error) {
		if apierrors.IsForbidden(err) || apierrors.IsNotFound(err) || apierrors.IsUnauthorized(err) {
			n.mu.Lock()
			n.refused = true
			n.mu.Unlock()
			n.decides.Notify()
		}
		cache.DefaultWatchErrorHandler(ctx, r, err)
	}); err != nil {
		return fmt.Errorf("watch what is published of Nodes: %w", err)
	}
	put := func(o any) {
		if m, ok := o.(*corev1.ConfigMap); ok {
			n.refresh(n.read(m)...)
		}
	}
	// One that is deleted says nothing: what is published goes with the next heartbeat that is without
	// it, and not because somebody deleted a ConfigMap.
	registration, err := n.digests.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: put, UpdateFunc: func(_, after any) { put(after) }, DeleteFunc: func(any) { n.decides.Notify() },
	})
	if err != nil {
		return fmt.Errorf("watch what is published of Nodes: %w", err)
	}
	n.digestsRead = registration.HasSynced
	return nil
}

// notify has changes in an informer of Nodes noted.
func (n *Nodes) notify(informer cache.SharedIndexInformer) error {
	changed := func(o any) {
		if key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(o); err == nil {
			n.refresh(key)
		}
	}
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: changed, UpdateFunc: func(_, after any) { changed(after) }, DeleteFunc: changed,
	})
	if err != nil {
		return fmt.Errorf("watch Nodes: %w", err)
	}
	return nil
}

// read notes what a ConfigMap says, and returns the names of Nodes that this concerns.
func (n *Nodes) read(m *corev1.ConfigMap) []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	defer n.decides.Notify()
	n.refused = false
	if m.Name != digest.Name {
		names, err := n.published.put(m)
		if err != nil {
			n.Logger.Warn("what the controller publishes of Nodes cannot be read", "configMap", m.Name, "error", err)
		}
		return names
	}
	h, err := digest.HeartbeatIn(m.Data)
	if err != nil {
		n.Logger.Warn("what the controller publishes of Nodes cannot be read", "error", err)
		n.heard.late = true
		return nil
	}
	n.heard.note(h, time.Now())
	return n.published.keep(h.Shares, func(share string) bool {
		_, exists, err := n.digests.GetStore().GetByKey(m.Namespace + "/" + share)
		return exists || err != nil
	})
}

// refresh has handlers told of Nodes that are not as they were.
func (n *Nodes) refresh(names ...string) {
	n.telling.Lock()
	defer n.telling.Unlock()
	for _, name := range names {
		n.mu.Lock()
		before, after := n.view[name], n.now(name)
		if after == nil {
			delete(n.view, name)
		} else {
			n.view[name] = after
		}
		handlers := slices.Collect(maps.Values(n.handlers))
		n.mu.Unlock()
		for _, handle := range handlers {
			if before != after {
				handle(before, after)
			}
		}
	}
}

// now returns a Node from where it is to come from. It needs the lock.
func (n *Nodes) now(name string) *corev1.Node {
	switch {
	case name == n.Node:
		return stored(n.own, name)
	case n.inFull:
		return stored(n.all, name)
	}
	return n.published.nodes[name].node
}

func stored(informer cache.SharedIndexInformer, name string) *corev1.Node {
	o, _, err := informer.GetStore().GetByKey(name)
	if node, ok := o.(*corev1.Node); ok && err == nil {
		return node
	}
	return nil
}

// Run watches Nodes until the context ends.
func (n *Nodes) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	running.Go(func() { n.own.RunWithContext(ctx) })
	// Aside: how old these are their heartbeat says.
	running.Go(func() { n.digests.RunWithContext(contact.Aside(ctx)) })
	return n.decide(ctx, &running)
}

// patience is how long a heartbeat may be missing before the API server is asked. It differs from
// node to node, since those who do without list all Nodes.
func patience() time.Duration { return digest.Patience + rand.N(digest.Every) }
