package speaker

import (
	"context"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/internal/async"
)

// Bounds of the steps of leaving.
const (
	askAtMost   = time.Second     // for what the API server says
	drainAtMost = 2 * time.Second // for the others to take over
)

// leave hands everything over: first others announce, then this node withdraws,
// and all the while it forwards what still arrives. A speaker that is replaced can have the
// others wait for its return (OnRestart), and the routers that know graceful restart.
func (s *Speaker) leave(ctx context.Context, p *planner, r *reporter) {
	state, reason := s.departure(ctx, p)
	restarts := state == v1alpha1.SpeakerRestarting
	stays := restarts && !p.bgp.Ends(ctx) // and so do the routes
	departed := time.Now()
	p.depart(state, reason, restarts && s.OnRestart == Hold, stays)
	s.report(ctx, r)
	s.drain(ctx, p)
	if !restarts || !stays && !p.kept.Load() {
		s.withdraw(ctx, p, r, departed)
	}
	if !restarts {
		if err := p.unserved.Remove(); err != nil {
			s.Logger.Warn("the nftables table was left behind", "error", err)
		}
		if err := p.steering.Remove(); err != nil {
			s.Logger.Warn("programs that steer were left behind", "error", err)
		}
		if err := p.dataplane.Remove(); err != nil {
			s.Logger.Warn("rules of forwarding were left behind", "error", err)
		}
	}
	r.stop(reason, restarts)
	s.report(ctx, r)
}

// withdraw waits until the routers have found other routes, withdraws ours, and waits
// until they know.
func (s *Speaker) withdraw(ctx context.Context, p *planner, r *reporter, departed time.Time) {
	if r.sessionsUp() > 0 && p.bgp.Status().Announced > 0 {
		_ = async.Sleep(ctx, s.DrainTime-time.Since(departed))
	}
	bounded, cancel := context.WithTimeout(ctx, drainAtMost)
	defer cancel()
	if err := p.bgp.Withdraw(bounded); err != nil {
		s.Logger.Warn("routes were not withdrawn", "error", err)
	}
	if r.sessionsUp() > 0 {
		_ = async.Sleep(ctx, s.LeaveDelay)
	}
}

// drain waits until others answer for what this node answered for.
func (s *Speaker) drain(ctx context.Context, p *planner) {
	atMost := time.NewTimer(drainAtMost)
	defer atMost.Stop()
	select {
	case <-p.l2.Drained():
	case <-atMost.C:
		s.Logger.Warn("some addresses were not taken over in time")
	case <-ctx.Done():
	}
}

// report writes the status now. A failure does not stop the speaker from leaving.
func (s *Speaker) report(ctx context.Context, r *reporter) {
	ctx, cancel := context.WithTimeout(ctx, askAtMost)
	defer cancel()
	if err := r.flush(ctx); err != nil {
		s.Logger.Info("last status was not written", "error", err)
	}
}

// selected reports whether the DaemonSet wants a speaker on this node, by its nodeSelector and
// required affinity. A node that is not known counts as selected.
func (s *Speaker) selected(set *appsv1.DaemonSet, p *planner) bool {
	node := p.sources.node.Get(s.Node)
	return node == nil || places(set, node)
}

// places reports whether the DaemonSet places a pod on the node. It is also true if the selector
// cannot be understood.
func places(set *appsv1.DaemonSet, node *corev1.Node) bool {
	wanted, err := nodeaffinity.GetRequiredNodeAffinity(&corev1.Pod{Spec: set.Spec.Template.Spec}).Match(node)
	return wanted || err != nil
}

const uninstalled = "Berth is being uninstalled"

// departure returns why this process was told to end: the node leaves load balancing for good, or
// the process is being replaced. The signal alone does not say, so it asks the API. Only a
// DaemonSet that was there and is deleted is an uninstall. What the API does not say, or refuses to
// say, is none.
func (s *Speaker) departure(ctx context.Context, p *planner) (v1alpha1.SpeakerState, string) {
	if state, reason := p.reporter.state(); state == v1alpha1.SpeakerLeaving {
		return state, reason
	}
	if s.sources.daemonSetGone() {
		return v1alpha1.SpeakerLeaving, uninstalled
	}
	ctx, cancel := context.WithTimeout(ctx, askAtMost)
	defer cancel()
	set, err := s.Kubernetes.AppsV1().DaemonSets(s.Namespace).Get(ctx, s.DaemonSet, metav1.GetOptions{})
	name := "DaemonSet " + s.Namespace + "/" + s.DaemonSet
	switch {
	case err == nil && set.DeletionTimestamp != nil,
		apierrors.IsNotFound(err) && s.sources.daemonSetSeen.Load():
		return v1alpha1.SpeakerLeaving, uninstalled
	case err == nil && !s.selected(set, p):
		return v1alpha1.SpeakerLeaving, "DaemonSet " + s.DaemonSet + " does not select the node any more"
	case apierrors.IsNotFound(err):
		return v1alpha1.SpeakerRestarting, "told to end, and there is no " + name + ": are --namespace and --daemonset right?"
	case (apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err)) && s.sources.awaitDaemonSetGone(ctx):
		return v1alpha1.SpeakerLeaving, uninstalled
	case apierrors.IsForbidden(err), apierrors.IsUnauthorized(err):
		return v1alpha1.SpeakerRestarting, "told to end, and the API server refuses to show " + name + ", which would say why"
	case err != nil:
		return v1alpha1.SpeakerRestarting, "told to end, and the API server does not say why"
	}
	return v1alpha1.SpeakerRestarting, "the process is being replaced"
}
