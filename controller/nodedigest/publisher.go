package nodedigest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"

	"github.com/berth-lb/berth/config/digest"
	"github.com/berth-lb/berth/internal/async"
	"github.com/berth-lb/berth/internal/liveness"
)

const (
	// spacing is the least time between two writes of a ConfigMap, after the first few: all speakers
	// get each.
	spacing = time.Second
	atOnce  = 5
	// passAtMost is how long a write may take.
	passAtMost = 2 * time.Minute
	// behind is how old what is published may be at a heartbeat. Without it, Nodes that change all the
	// time would leave no moment for one.
	behind = 5 * time.Second
	// blind is for how long the watch of Nodes may have brought nothing: bookmarks come each minute.
	blind = 3 * time.Minute
)

// Config of a Publisher. The informer of Nodes is run by the caller.
type Config struct {
	Kubernetes kubernetes.Interface
	Namespace  string // that of Berth's own objects
	Nodes      cache.SharedIndexInformer
	Logger     *slog.Logger
}

// Publisher writes the digests of Nodes while it leads.
type Publisher struct {
	Config
	factory informers.SharedInformerFactory // of maps alone
	maps    cache.SharedIndexInformer
	queue   workqueue.TypedRateLimitingInterface[string] // of names of ConfigMaps

	mu      sync.Mutex
	pending map[string]pending       // what differs from the Nodes, or may
	paces   map[string]*rate.Limiter // of writes

	beats []heartbeat // of beat: those written lately
}

// pending is for how long a ConfigMap has been pending, and how often it was asked for.
type pending struct {
	since time.Time
	asked int
}

// heartbeat is when one was written, and the version that it got.
type heartbeat struct {
	at      time.Time
	version uint64
}

// byShare indexes Nodes by the ConfigMap that they are in.
const byShare = "share"

// New returns a Publisher that has published nothing.
func New(c Config) (*Publisher, error) {
	own := informers.NewSharedInformerFactoryWithOptions(c.Kubernetes, 0, informers.WithNamespace(c.Namespace),
		informers.WithTweakListOptions(func(l *metav1.ListOptions) { l.LabelSelector = digest.Selector() }))
	p := &Publisher{
		Config:  c,
		factory: own,
		maps:    own.Core().V1().ConfigMaps().Informer(),
		queue: workqueue.NewTypedRateLimitingQueueWithConfig(
			workqueue.NewTypedItemExponentialFailureRateLimiter[string](10*time.Millisecond, 30*time.Second),
			workqueue.TypedRateLimitingQueueConfig[string]{Name: "node-digests"},
		),
		pending: map[string]pending{},
		paces:   map[string]*rate.Limiter{},
	}
	return p, p.follow()
}

// follow has what changes written, and what others changed written again.
func (p *Publisher) follow() error {
	if err := p.Nodes.AddIndexers(cache.Indexers{byShare: func(o any) ([]string, error) {
		if node, ok := o.(*corev1.Node); ok {
			return []string{digest.Share(node.Name)}, nil
		}
		return nil, nil
	}}); err != nil {
		return fmt.Errorf("publish Nodes: %w", err)
	}
	node := func(o any) {
		if key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(o); err == nil {
			p.enqueue(digest.Share(key))
		}
	}
	if _, err := p.Nodes.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: node, DeleteFunc: node,
		UpdateFunc: func(before, after any) {
			b, okB := before.(*corev1.Node)
			a, okA := after.(*corev1.Node)
			if okA && okB && text(b) != text(a) {
				node(after)
			}
		},
	}); err != nil {
		return fmt.Errorf("publish Nodes: watch: %w", err)
	}
	published := func(o any) {
		key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(o)
		if err != nil {
			return
		}
		if _, name, err := cache.SplitMetaNamespaceKey(key); err == nil && name != digest.Name {
			p.enqueue(name)
		}
	}
	stored := func(o any) {
		if !p.echoes(o) {
			published(o)
		}
	}
	if _, err := p.maps.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: stored, UpdateFunc: func(_, after any) { stored(after) }, DeleteFunc: published,
	}); err != nil {
		return fmt.Errorf("publish Nodes: watch: %w", err)
	}
	return nil
}

// echoes reports whether a ConfigMap has what it is to have, mostly since we just wrote that.
func (p *Publisher) echoes(o any) bool {
	m, ok := o.(*corev1.ConfigMap)
	if !ok || !slices.Contains(digest.Shares(), m.Name) {
		return false
	}
	data, err := p.data(m.Name)
	return err == nil && is(m, data)
}

// is reports whether a ConfigMap has the data and nothing else.
func is(m *corev1.ConfigMap, data map[string]string) bool {
	return maps.Equal(m.Data, data) && len(m.BinaryData) == 0
}

// text returns the digest of a Node.
func text(node *corev1.Node) string {
	encoded, err := digest.Encode(node)
	if err != nil {
		return err.Error() // strings and times are always encoded
	}
	return encoded
}

func (p *Publisher) enqueue(name string) {
	p.mu.Lock()
	its, known := p.pending[name]
	if !known {
		its.since = time.Now()
	}
	its.asked++
	p.pending[name] = its
	p.mu.Unlock()
	p.queue.Add(name)
}

// Watch watches what is published until the context ends, also for a standby.
func (p *Publisher) Watch(ctx context.Context) error {
	p.factory.StartWithContext(ctx)
	<-ctx.Done()
	p.factory.Shutdown()
	return nil
}

// Lead publishes until the context ends. Watch, and the informer of Nodes, must be running.
func (p *Publisher) Lead(ctx context.Context) error {
	defer p.queue.ShutDown()
	if !cache.WaitForCacheSync(ctx.Done(), p.Nodes.HasSynced, p.maps.HasSynced) {
		return nil
	}
	for _, name := range digest.Shares() {
		p.enqueue(name)
	}
	group, ctx := errgroup.WithContext(ctx)
	// One worker for each, which is paced by itself: while the API server is slow, none waits for
	// others until it is so old that there is no heartbeat.
	for i := range digest.Shares() {
		group.Go(func() error { p.work(ctx, fmt.Sprintf("node digests %d", i)); return nil })
	}
	group.Go(func() error { return p.beat(ctx) })
	<-ctx.Done()
	p.queue.ShutDown()
	return group.Wait()
}

func (p *Publisher) work(ctx context.Context, name string) {
	pass := liveness.Of(ctx, name, passAtMost)
	ctx = pass.Context(ctx)
	for {
		share, down := p.queue.Get()
		if down {
			return
		}
		pass.Begin()
		wait, err := p.publish(ctx, share)
		pass.End()
		switch {
		case err != nil:
			p.failed(ctx, share, err)
			p.queue.AddRateLimited(share)
		case wait > 0:
			p.queue.AddAfter(share, wait)
		default:
			p.queue.Forget(share)
		}
		p.queue.Done(share)
	}
}

// failed says that a write failed, unless that ends by itself.
func (p *Publisher) failed(ctx context.Context, name string, err error) {
	if ctx.Err() == nil && !apierrors.IsConflict(err) {
		p.Logger.Warn(
			"what speakers need of Nodes was not published; will be tried again",
			"configMap",
			name,
			"error",
			err,
		)
	}
}

// publish has the ConfigMap say what is known of its Nodes, unless it was written too often just
// now: then it returns how long that is to wait.
func (p *Publisher) publish(ctx context.Context, name string) (time.Duration, error) {
	before, pace := p.begin(name)
	if pace.Tokens() < 1 {
		return spacing / 10, nil
	}
	begun := time.Now()
	wrote, err := p.write(ctx, name)
	if wrote {
		pace.Allow()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch now := p.pending[name]; {
	case err != nil:
	case now.asked == before.asked:
		delete(p.pending, name)
	default: // it was asked for again in the meantime, and is in the queue again
		p.pending[name] = pending{since: begun, asked: now.asked}
	}
	return 0, err
}

// begin returns since when a ConfigMap is pending, and the pace of its writes.
func (p *Publisher) begin(name string) (pending, *rate.Limiter) {
	p.mu.Lock()
	defer p.mu.Unlock()
	pace, known := p.paces[name]
	if !known {
		pace = rate.NewLimiter(rate.Every(spacing), atOnce)
		p.paces[name] = pace
	}
	return p.pending[name], pace
}

// write writes a ConfigMap if it has to, and reports whether it did.
func (p *Publisher) write(ctx context.Context, name string) (bool, error) {
	before, err := p.stored(name)
	if err != nil {
		return false, err
	}
	if !slices.Contains(digest.Shares(), name) {
		if before == nil || !digest.IsShare(name) {
			return false, nil // gone, or somebody's who took our labels
		}
		err := p.Kubernetes.CoreV1().ConfigMaps(p.Namespace).Delete(ctx, name, metav1.DeleteOptions{})
		return true, ignoreNotFound(err) // another version has spread Nodes over more
	}
	data, err := p.data(name)
	if err != nil {
		return false, err
	}
	after, err := p.put(ctx, before, name, data)
	return after != nil, err
}

// put writes a ConfigMap unless it is so already, and returns what it wrote.
func (p *Publisher) put(
	ctx context.Context, before *corev1.ConfigMap, name string, data map[string]string,
) (*corev1.ConfigMap, error) {
	its := p.Kubernetes.CoreV1().ConfigMaps(p.Namespace)
	switch {
	case before == nil && len(data) == 0:
		return nil, nil
	case before == nil:
		fresh := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: digest.Labels()}, Data: data}
		created, err := its.Create(ctx, fresh, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) { // somebody took its labels away
			return its.Update(ctx, fresh, metav1.UpdateOptions{})
		}
		return created, err
	case is(before, data):
		return nil, nil
	}
	after := before.DeepCopy()
	after.Data, after.BinaryData = data, nil
	if before.Immutable != nil && *before.Immutable { // somebody made it so
		err := its.Delete(
			ctx,
			name,
			metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(before.UID))},
		)
		return before, errors.Join(err, errAgain)
	}
	return its.Update(ctx, after, metav1.UpdateOptions{})
}

// errAgain has a ConfigMap made again that was deleted to be changed.
var errAgain = errors.New("it was immutable, and is made again")

// stored returns the ConfigMap as the cache has it, or nil.
func (p *Publisher) stored(name string) (*corev1.ConfigMap, error) {
	o, exists, err := p.maps.GetStore().GetByKey(p.Namespace + "/" + name)
	if err != nil || !exists {
		return nil, err
	}
	found, ok := o.(*corev1.ConfigMap)
	if !ok {
		return nil, fmt.Errorf("the cache has %T for ConfigMap %s", o, name)
	}
	return found, nil
}

// data returns what a ConfigMap is to have.
func (p *Publisher) data(name string) (map[string]string, error) {
	found, err := p.Nodes.GetIndexer().ByIndex(byShare, name)
	if err != nil {
		return nil, fmt.Errorf("read the Nodes of ConfigMap %s: %w", name, err)
	}
	data := map[string]string{}
	for _, o := range found {
		if node, ok := o.(*corev1.Node); ok {
			if data[node.Name], err = digest.Encode(node); err != nil {
				return nil, err
			}
		}
	}
	return data, nil
}

// beat writes the heartbeat from time to time, if everything is published.
func (p *Publisher) beat(ctx context.Context) error {
	for {
		next := digest.Every
		if now := time.Now(); !p.settled(now) || !p.sees(now) {
			next = spacing
		} else if err := p.renew(ctx, now); err != nil {
			next = spacing
			p.failed(ctx, digest.Name, err)
		}
		if async.Sleep(ctx, next) != nil {
			return nil
		}
	}
}

// settled reports whether everything is published that is not quite new; at first, everything.
func (p *Publisher) settled(now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, its := range p.pending {
		if len(p.beats) == 0 || now.Sub(its.since) >= behind {
			return false
		}
	}
	return true
}

// sees reports whether the watch of Nodes brings what is new: its version is past that of a
// heartbeat of some minutes ago. Versions of different resources are compared, which one storage
// allows; where that is not so, or they are no numbers, this cannot be told.
func (p *Publisher) sees(now time.Time) bool {
	version, err := strconv.ParseUint(p.Nodes.LastSyncResourceVersion(), 10, 64)
	if err != nil {
		return true
	}
	sees := true
	for _, b := range p.beats {
		if now.Sub(b.at) >= blind {
			sees = b.version <= version
		}
	}
	return sees
}

// renew writes the heartbeat.
func (p *Publisher) renew(ctx context.Context, now time.Time) error {
	before, err := p.stored(digest.Name)
	if err != nil {
		return err
	}
	var shares []string
	for _, name := range digest.Shares() {
		if m, err := p.stored(name); err == nil && m != nil {
			shares = append(shares, name)
		}
	}
	after, err := p.put(ctx, before, digest.Name, digest.NewHeartbeat(now, shares).Data())
	if err != nil {
		return err
	}
	version, err := strconv.ParseUint(after.ResourceVersion, 10, 64)
	if err != nil {
		version = 0 // it is before any
	}
	p.beats = append(p.beats, heartbeat{now, version})
	p.beats = p.beats[max(0, len(p.beats)-int(2*blind/digest.Every)):]
	return nil
}

func ignoreNotFound(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
