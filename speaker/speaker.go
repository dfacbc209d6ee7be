package speaker

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/berth-lb/berth/config/retain"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/internal/async"
	"github.com/berth-lb/berth/internal/footprint"
	"github.com/berth-lb/berth/internal/steerquery"
	"github.com/berth-lb/berth/speaker/bgpd"
	"github.com/berth-lb/berth/speaker/heart"
	"github.com/berth-lb/berth/speaker/object"
	"github.com/berth-lb/berth/speaker/steer"
)

// Speaker is a speaker. Make one with New.
type Speaker struct {
	Options
	sources *sources
	ready   atomic.Bool
	heart   atomic.Pointer[heart.Remote] // nil until the node is known
	bgp     atomic.Pointer[bgpd.Remote]  // nil also while this process speaks BGP
	// routeOf says where this node steers a client's packets; nil until the node is known.
	routeOf atomic.Pointer[func(steerquery.Query) steerquery.Answer]
}

// New returns a speaker that does nothing yet.
func New(o Options) (*Speaker, error) {
	switch o.OnRestart {
	case "", HandOver, Hold:
	default:
		return nil, fmt.Errorf("--on-restart=%s: want %s or %s", o.OnRestart, HandOver, Hold)
	}
	s, err := newSources(o)
	if err != nil {
		return nil, err
	}
	return &Speaker{Options: o, sources: s}, nil
}

// Ready reports whether the speaker announces what it should: it has listened on its segments, and
// its BGP sessions are up. Half a minute after its start, those are enough that the process before
// had; ten minutes after it, none is waited for. A rolling update goes on to the next node only
// then, so that a version that reaches no router stops at the first.
func (s *Speaker) Ready() bool { return s.ready.Load() }

// Gather implements prometheus.Gatherer: the metrics of layer 2 and BGP, which have processes of
// their own.
func (s *Speaker) Gather() ([]*dto.MetricFamily, error) {
	var others prometheus.Gatherers
	if layer2 := s.heart.Load(); layer2 != nil {
		others = append(others, layer2)
	}
	if routes := s.bgp.Load(); routes != nil {
		others = append(others, routes)
	}
	return others.Gather() //nolint:wrapcheck // it says whose they are
}

// RouteOf says where this node steers a client's packets. The query must be right.
func (s *Speaker) RouteOf(q steerquery.Query) steerquery.Answer {
	if answer := s.routeOf.Load(); answer != nil {
		return (*answer)(q)
	}
	return steerquery.Answer{Lacking: "the speaker has just started: ask again in a few seconds"}
}

// Run announces until the context ends, then leaves cleanly, which takes up
// to DrainTime, LeaveDelay and five seconds.
func (s *Speaker) Run(ctx context.Context) error {
	// What runs must outlive ctx: leaving needs it.
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	group, life := errgroup.WithContext(life)
	group.Go(func() error { return s.sources.run(life) })
	stop := func() error {
		end()
		return group.Wait()
	}
	waiting, known := context.WithCancel(life)
	defer known()
	if s.Steering {
		group.Go(func() error { steer.Prolong(waiting, s.Logger); return nil })
	}
	if !s.sources.fill(ctx) {
		return stop()
	}
	node, err := s.waitForNode(ctx)
	if err != nil {
		return errors.Join(err, stop())
	}
	planner, reporter, err := s.assemble(node, s.cluster(ctx))
	if err != nil {
		return errors.Join(err, stop())
	}
	group.Go(func() error { return planner.mirror.Run(life) })
	former := establishedBefore(s.sources.self(s.Node))
	s.awaitMirror(ctx, planner)
	planner.bgp.Meet(ctx)
	planner.served = retain.Ask(life, s.Kubernetes.Discovery().RESTClient())
	planner.begin()
	known()
	for _, run := range planner.runs() {
		group.Go(func() error { return run(life) })
	}
	group.Go(func() error { planner.run(life); return nil })
	group.Go(func() error { return reporter.run(life) })
	group.Go(func() error { s.settle(ctx, planner, former); return nil })
	if s.Contact != nil {
		planner.l2.Confirm(time.Now()) // the caches are filled
		group.Go(func() error {
			return s.Contact.Run(life, s.askAPI, &freshness{
				drivers: planner.drivers, logger: s.Logger, complain: reporter.complain,
			})
		})
	}
	s.Logger.Info("announcing", "node", s.Node, "addresses", object.InternalIPs(node))

	select {
	case <-ctx.Done():
		s.leave(life, planner, reporter)
	case <-life.Done(): // something failed
	}
	return stop()
}

// Bounds of the waits for what a start needs: the drivers do not say when it is done,
// so they are asked.
const (
	settleAtMost = 30 * time.Second // for sessions that the process before did not have
	resumeAtMost = 10 * time.Minute // for those that it had, and segments
	askEvery     = 100 * time.Millisecond
	mirrorAtMost = 5 * time.Second
)

// awaitMirror waits until it is known what others claim, so that this node claims nothing against
// that. The mirror is only the second channel, so the wait is short.
func (s *Speaker) awaitMirror(ctx context.Context, p *planner) {
	ctx, cancel := context.WithTimeout(ctx, mirrorAtMost)
	defer cancel()
	if !cache.WaitForCacheSync(ctx.Done(), p.mirror.Synced) {
		s.Logger.Warn(
			"what other nodes claim is not yet known from the API server (are L2Owners installed, and may the speaker list them?); going on without",
		)
	}
}

// settle makes the speaker ready once it is. The process before had sessions with the former
// neighbors.
func (s *Speaker) settle(ctx context.Context, p *planner, former map[string]bool) {
	begun, told := time.Now(), false
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	for !p.settled() {
		if lasts := time.Since(begun); lasts >= settleAtMost {
			missing := p.missing(former)
			if len(missing) == 0 || lasts >= resumeAtMost {
				break
			}
			if !told {
				s.Logger.Warn(
					"not ready yet: the process before had what this one lacks",
					"missing",
					missing,
					"readyWithin",
					resumeAtMost-lasts,
				)
				told = true
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
	s.ready.Store(true)
	if err := footprint.Trim(); err != nil { // of lists and the like, which only a start needs
		s.Logger.Warn("the memory that the start took stays taken", "error", err)
	}
}

// establishedBefore are the neighbors that the process before had sessions with.
func establishedBefore(speaker *v1alpha1.Speaker) map[string]bool {
	up := map[string]bool{}
	for _, session := range speaker.Status.Sessions {
		if session.State == v1alpha1.SessionEstablished {
			up[session.NeighborName] = true
		}
	}
	return up
}

// askAPI returns an error unless the API server and its storage are ready. Every user may ask that.
func (s *Speaker) askAPI(ctx context.Context) error {
	if err := s.Kubernetes.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error(); err != nil {
		return fmt.Errorf("ask the API server whether it is ready: %w", err)
	}
	return nil
}

// Refused says which resources the API server does not show. What is known of them stays in effect.
func (f *freshness) Refused(resources map[string]int) {
	for resource := range f.refused {
		if _, still := resources[resource]; !still {
			f.logger.Info("the API server shows a resource again", "resource", resource)
			f.complain(reasonAPIRefuses, resource, "")
		}
	}
	for resource, status := range resources {
		f.complain(reasonAPIRefuses, resource, refusal(resource, status))
	}
	f.refused = resources
}

// refusal says what it means that the API server does not show a resource, and what helps.
func refusal(resource string, status int) string {
	why := "has the ServiceAccount of the speakers the right to list and watch them?"
	switch status {
	case http.StatusNotFound:
		why = "is their CustomResourceDefinition installed?"
	case http.StatusUnauthorized:
		why = "was the ServiceAccount of the speakers deleted, or made again?"
	}
	return fmt.Sprintf(
		"the API server does not show %s (HTTP status %d): %s; what the speaker knew of them stays in effect",
		resource,
		status,
		why,
	)
}

// cluster returns what distinguishes this cluster from others on the same segment.
func (s *Speaker) cluster(ctx context.Context) string {
	for {
		ns, err := s.Kubernetes.CoreV1().Namespaces().Get(ctx, metav1.NamespaceSystem, metav1.GetOptions{})
		switch {
		case err == nil:
			return string(ns.UID)
		case ctx.Err() != nil:
			return ""
		}
		s.Logger.Warn(
			"waiting for the UID of namespace "+metav1.NamespaceSystem+", which is the cluster's name on its segments",
			"error",
			err,
		)
		if async.Sleep(ctx, time.Second) != nil { // it is not watched: one reading is enough
			return ""
		}
	}
}

// waitForNode waits until the API knows an InternalIP of this node.
func (s *Speaker) waitForNode(ctx context.Context) (*corev1.Node, error) {
	changed := async.NewSignal()
	defer s.sources.node.OnChange(func(_, _ *corev1.Node) { changed.Notify() })()
	for {
		if node := s.sources.node.Get(s.Node); node != nil && len(object.InternalIPs(node)) > 0 {
			return node, nil
		}
		s.Logger.Info("waiting for the Node object and its InternalIP", "node", s.Node)
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("no Node %s with an InternalIP: is the flag --node right?", s.Node)
		}
	}
}
