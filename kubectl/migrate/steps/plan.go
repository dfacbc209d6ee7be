package steps

import (
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-lb/berth/config/v1alpha1"
)

// stay is longer than a speaker probes an address that it has claimed, or a router takes to get the
// routes of a new session.
const stay = 3 * time.Second

// Step is a part of the migration that is done and undone as a whole.
type Step struct {
	// Name of the step; for one of a node it is part of it: segment/n1.
	Name string
	// Text says what it does.
	Text string
	// Do are the phases that do it, in order, and Undo those that undo it.
	Do, Undo []Phase
}

// Phase is some actions and what must hold after them, before the next phase may begin.
type Phase struct {
	// Actions bring about what must hold. There may be none: then it comes by itself.
	Actions []Action
	// Check says how to see that it holds.
	Check string
	// Pending is what does not hold yet; empty: all does.
	Pending string
	// Stay is how long it must have held before the next phase may begin.
	Stay time.Duration
}

func phase(actions []Action, check, pending string) Phase {
	return Phase{Actions: actions, Check: check, Pending: pending}
}

// Holds reports whether the phase is over.
func (p Phase) Holds() bool { return p.Pending == "" }

func holds(phases []Phase) bool {
	return !slices.ContainsFunc(phases, func(p Phase) bool { return !p.Holds() })
}

// Done reports whether the step is done.
func (s Step) Done() bool { return holds(s.Do) }

// Undone reports whether nothing of the step is left.
func (s Step) Undone() bool { return holds(s.Undo) }

// State of the step in a word or two.
func (s Step) State() string {
	switch {
	case s.Done():
		return "done"
	case s.Undone():
		return "to do"
	}
	return "begun"
}

// Next returns the step that is to be done next: the first that is not done.
func Next(all []Step) (Step, bool) {
	for _, s := range all {
		if !s.Done() {
			return s, true
		}
	}
	return Step{}, false
}

// Back returns the step that is to be undone next: the last that is not wholly undone.
func Back(all []Step) (Step, bool) {
	for _, s := range slices.Backward(all) {
		if !s.Undone() {
			return s, true
		}
	}
	return Step{}, false
}

// Plan returns the steps of the migration, in the order in which they are done.
func Plan(s *Snapshot) ([]Step, error) {
	if s.daemonSet() == nil || s.controller() == nil {
		return nil, errors.New(
			"there is no MetalLB in this cluster: no DaemonSet with the label component=speaker or no Deployment with " +
				"component=controller (or app.kubernetes.io/component) of app metallb",
		)
	}
	if s.Uninstalled {
		return nil, errors.New("this cluster has no Berth: install it first, without any pool")
	}
	if d := s.berthDeployment(); d != nil && d.Namespace != s.Namespace {
		return nil, fmt.Errorf("the Deployment %s of Berth's controller is in namespace %s, and not in %s: "+
			"write --berth-namespace=%s", d.Name, d.Namespace, s.Namespace, d.Namespace)
	}
	if len(s.peers()) > 0 {
		if mode := s.mode(); mode != "native" {
			return nil, fmt.Errorf("MetalLB speaks BGP in mode %s; this plan is for mode native and for layer 2: "+
				"let a pool take over and stop MetalLB, as the guide on migration says under Move Services to Berth", mode)
		}
	}
	for _, o := range s.advertisements() {
		if nowhereOnly(o) && !annotated(o) {
			return nil, fmt.Errorf(
				"L2Advertisement %s/%s has lost the annotation %s, which says what spec.nodeSelectors "+
					"was: write the field as it was before the migration",
				o.GetNamespace(),
				o.GetName(),
				WasAnnotation,
			)
		}
	}
	all := []Step{s.stopController()}
	names := s.nodeNames()
	layer2 := s.hasLayer2()
	if layer2 {
		all = append(all, s.pin())
	}
	all = append(all, s.configure())
	if layer2 {
		for _, node := range names {
			all = append(all, s.segment(node))
		}
		all = append(all, s.settleSegments())
	}
	if s.hasBGP() {
		all = append(all, s.loosenSpeakers())
		for _, node := range s.metalLBNodes() {
			all = append(all, s.routes(node))
		}
		all = append(all, s.settleNeighbors())
	}
	return all, nil
}

// hasLayer2 reports whether MetalLB announces by layer 2, or the migration has left a trace
// of that.
func (s *Snapshot) hasLayer2() bool {
	return len(s.of("L2Advertisement")) > 0 || len(s.onNode("")) > 0 ||
		slices.ContainsFunc(s.SegmentAnnouncements, func(a *v1alpha1.SegmentAnnouncement) bool {
			return a.Labels[MadeLabel] == madeFrom
		})
}

// hasBGP reports whether MetalLB speaks BGP, or the migration has left a trace of that.
func (s *Snapshot) hasBGP() bool {
	_, loosened := s.daemonSet().Annotations[WasAnnotation]
	return len(s.peers()) > 0 || loosened || slices.ContainsFunc(s.Nodes, func(n *corev1.Node) bool {
		return n.Labels[SpeaksLabel] != ""
	})
}
