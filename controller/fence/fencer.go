package fence

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/events"

	"github.com/berth-lb/berth/config/candidate"
	"github.com/berth-lb/berth/config/client"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/internal/async"
	"github.com/berth-lb/berth/internal/liveness"
)

// Config of a Fencer. The informers are run by the caller.
type Config struct {
	Kubernetes                kubernetes.Interface
	Nodes, Speakers, Services cache.SharedIndexInformer
	// Serves reports whether a Service is Berth's. The pods of these are written to first.
	Serves  func(*corev1.Service) bool
	Events  events.EventRecorder
	Logger  *slog.Logger
	Metrics prometheus.Registerer // nil: none
	// DryRun: say what would be done, and do nothing.
	DryRun bool
}

// Pace of a Fencer.
const (
	// podsAtOnce are those of one node: a kubelet runs so many by default. More go by podsPerSecond.
	podsAtOnce    = 110
	podsPerSecond = 100
	// podsBetween is how many are written to at most between two judgements.
	podsBetween = 40
	// lookEvery is how often evidence is gathered again while a node is reported.
	lookEvery = time.Second
	// controls is how many nodes that nobody reports are asked with those that are.
	controls = 16
	// passAtMost is how long a pass may take.
	passAtMost = 2 * time.Minute
)

// Fencer takes the pods of dead nodes out of Services while it leads.
type Fencer struct {
	Config
	history *history
	prober  *prober
	cluster *cluster
	metrics *metrics
	changed async.Signal
	pace    *rate.Limiter

	// What follows is of Lead.
	fenced  map[string]Fenced
	told    map[string]map[Reason]bool // why nodes were spared that are reported still
	asked   time.Time                  // when urgent questions were last wanted
	after   time.Time                  // when writing is tried again after a failure
	failure string                     // that the log has told
}

// New returns a Fencer that has seen nothing.
func New(c Config) (*Fencer, error) {
	f := &Fencer{
		Config: c, history: newHistory(), changed: async.NewSignal(), pace: rate.NewLimiter(podsPerSecond, podsAtOnce),
		fenced: map[string]Fenced{}, told: map[string]map[Reason]bool{},
	}
	var err error
	if f.cluster, err = newCluster(c.Kubernetes); err != nil {
		return nil, err
	}
	f.prober = newProber(f.addresses)
	if f.metrics, err = newMetrics(c.Metrics, f.unwatched); err != nil {
		return nil, err
	}
	return f, f.follow()
}

// follow has the history kept.
func (f *Fencer) follow() error {
	speaker := func(o any) {
		if s, ok := o.(*v1alpha1.Speaker); ok && f.history.speaker(s.Name, s.Status.SilentNodes, time.Now()) {
			f.changed.Notify()
		}
	}
	lease := func(o any) {
		if l, ok := o.(*coordinationv1.Lease); ok {
			f.history.lease(l, time.Now())
		}
	}
	_, errSpeakers := f.Speakers.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: speaker, UpdateFunc: func(_, after any) { speaker(after) },
		DeleteFunc: func(o any) {
			if s, ok := last(o).(*v1alpha1.Speaker); ok && f.history.speaker(s.Name, nil, time.Now()) {
				f.changed.Notify()
			}
		},
	})
	_, errLeases := f.cluster.leases.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: lease, UpdateFunc: func(_, after any) { lease(after) },
		DeleteFunc: func(o any) {
			if l, ok := last(o).(*coordinationv1.Lease); ok {
				f.history.noLease(l.Name)
			}
		},
	})
	if err := errors.Join(errSpeakers, errLeases); err != nil {
		return fmt.Errorf("fence dead nodes: watch: %w", err)
	}
	return nil
}

// last returns the last known state of a deleted object.
func last(o any) any {
	if tombstone, ok := o.(cache.DeletedFinalStateUnknown); ok {
		return tombstone.Obj
	}
	return o
}

// Watch gathers evidence until the context ends, also for a standby: the leader may be on the node
// that dies.
func (f *Fencer) Watch(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return f.prober.run(ctx) })
	group.Go(func() error { f.cluster.run(ctx); return nil })
	return group.Wait()
}

// Lead fences until the context ends. Watch must be running.
func (f *Fencer) Lead(ctx context.Context) error {
	if !cache.WaitForCacheSync(ctx.Done(), f.cluster.synced) {
		return nil
	}
	f.Logger.Info("started to fence dead nodes", "dryRun", f.DryRun)
	look := time.NewTimer(0)
	defer look.Stop()
	pass := liveness.Of(ctx, "fence", passAtMost)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-f.changed:
		case <-f.prober.decided:
		case <-look.C:
		}
		pass.Begin()
		next := f.pass(ctx)
		pass.End()
		look.Stop()
		if next > 0 {
			look.Reset(next)
		}
	}
}

// pass looks once, does what is to be done, and returns when to look again; zero: when something
// changes.
func (f *Fencer) pass(ctx context.Context) time.Duration {
	s := f.snapshot()
	suspects, reporters := reported(s)
	f.settle(s)
	if len(suspects) == 0 {
		clear(f.told)
		if len(f.fenced) > 0 {
			f.gather(s, slices.Collect(maps.Keys(f.fenced)), nil)
			return lookEvery
		}
		return 0
	}
	f.gather(s, suspects, reporters)
	verdict := Judge(s)
	f.tell(s, verdict)
	if len(verdict.Dead) == 0 || s.Now.Before(f.after) {
		return lookEvery
	}
	s.Pods, s.Services = f.cluster.of(verdict.Dead, f.served())
	return f.act(ctx, s, verdict, Choose(s, verdict))
}

// snapshot returns what is known now but for pods and Services.
func (f *Fencer) snapshot() Snapshot {
	s := Snapshot{
		Now: time.Now(), Nodes: map[string]Node{}, Reports: f.history.all(), Fenced: f.fenced,
	}
	for _, n := range client.Stored[*corev1.Node](f.Nodes) {
		s.Nodes[n.Name] = Node{
			Ready:   candidate.ReadyStatus(n) == corev1.ConditionTrue,
			Renewed: f.history.renewed(n.Name), Probe: f.prober.probe(n.Name),
		}
	}
	return s
}

// gather has those asked by whom it is to be judged, unless that was done a moment ago or all of
// the suspects are asked since they are.
func (f *Fencer) gather(s Snapshot, suspects, reporters []string) {
	fresh := slices.ContainsFunc(s.Reports, func(r Report) bool { return r.Seen.After(f.asked) })
	if !fresh && s.Now.Sub(f.asked) < lookEvery {
		return
	}
	wanted := append(slices.Clone(suspects), reporters...)
	more := 0
	for _, name := range slices.Sorted(maps.Keys(s.Nodes)) {
		if more < controls && s.Nodes[name].Ready && !slices.Contains(wanted, name) {
			wanted = append(wanted, name)
			more++
		}
	}
	slices.Sort(wanted)
	wanted = slices.DeleteFunc(slices.Compact(wanted), func(n string) bool { _, is := s.Nodes[n]; return !is })
	f.asked = s.Now
	f.prober.want(wanted)
}

// settle notes which nodes that were fenced live. Those that Kubernetes calls not ready by now are
// forgotten: they did die.
func (f *Fencer) settle(s Snapshot) {
	for name, fenced := range f.fenced {
		node, exists := s.Nodes[name]
		switch {
		case !exists || !node.Ready || !fenced.Ended.IsZero() && s.Now.Sub(fenced.Ended) > onceIn:
			delete(f.fenced, name)
		case fenced.Ended.IsZero() && (s.answersNow(node) || node.Renewed.After(fenced.Began)):
			fenced.Ended = s.Now
			f.fenced[name] = fenced
			f.Logger.Warn("a node that was fenced lives; its kubelet calls its pods ready again", "node", name)
		}
	}
}

// addresses returns the InternalIPs of all nodes.
func (f *Fencer) addresses() map[string][]netip.Addr {
	all := map[string][]netip.Addr{}
	for _, n := range client.Stored[*corev1.Node](f.Nodes) {
		all[n.Name] = nil
		for _, a := range n.Status.Addresses {
			if ip, err := netip.ParseAddr(a.Address); err == nil && a.Type == corev1.NodeInternalIP {
				all[n.Name] = append(all[n.Name], ip)
			}
		}
	}
	return all
}

// served returns the Services with addresses of Berth's, by namespace/name.
func (f *Fencer) served() map[string]bool {
	found := map[string]bool{}
	for _, svc := range client.Stored[*corev1.Service](f.Services) {
		if f.Serves(svc) && len(svc.Status.LoadBalancer.Ingress) > 0 {
			found[svc.Namespace+"/"+svc.Name] = true
		}
	}
	return found
}

// unwatched counts the nodes that no two other speakers hear on one segment.
func (f *Fencer) unwatched() float64 {
	watched := map[string]bool{}
	for _, s := range client.Stored[*v1alpha1.Speaker](f.Speakers) {
		watched[s.Name] = slices.ContainsFunc(s.Status.Segments, func(r v1alpha1.SegmentReport) bool {
			return r.PeersAlive != nil && *r.PeersAlive >= witnesses
		})
	}
	n := 0
	for _, node := range client.Stored[*corev1.Node](f.Nodes) {
		if !watched[node.Name] {
			n++
		}
	}
	return float64(n)
}

// newFactory returns informers of one namespace, of all with "".
func newFactory(kube kubernetes.Interface, namespace string) informers.SharedInformerFactory {
	return informers.NewSharedInformerFactoryWithOptions(kube, 0, informers.WithNamespace(namespace))
}
