package controller

import (
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/berth-lb/berth/config/v1alpha1"
)

// forwarder is who forwards connections to the addresses of a Service.
type forwarder struct {
	// scheduler of IPVS, by which Berth's nodes do; empty: kube-proxy does.
	scheduler string
	// complaint about what the Service asks for; empty: none.
	complaint string
	// fallback says why kube-proxy forwards, where IPVS should; otherwise empty.
	fallback string
}

// mode is what tells kube-proxy whether to forward (KEP-1860).
func (f forwarder) mode() corev1.LoadBalancerIPMode {
	if f.scheduler != "" {
		return corev1.LoadBalancerIPModeProxy
	}
	return corev1.LoadBalancerIPModeVIP
}

func (f forwarder) String() string {
	switch {
	case f.scheduler != "":
		return "IPVS forwards, by scheduler " + f.scheduler
	case f.fallback != "":
		return f.fallback
	}
	return "kube-proxy forwards"
}

// remarks are what the reader of the Service should know of it, for the end of a message.
func (f forwarder) remarks() string {
	var remarks string
	for _, remark := range []string{f.fallback, f.complaint} {
		if remark != "" {
			remarks += "; " + remark
		}
	}
	return remarks
}

// forwarding returns who forwards: IPVS, if the pools and the Service ask for it and one node can.
func (o outlook) forwarding(asked string) forwarder {
	scheduler, complaint := o.snapshot.Scheduler(o.addresses, asked)
	if scheduler == "" {
		return forwarder{complaint: complaint}
	}
	selectors := o.selectors()
	var unfit []string
	for name, n := range o.nodes {
		if !slices.ContainsFunc(selectors, func(s labels.Selector) bool { return s.Matches(labels.Set(n.labels)) }) {
			continue
		}
		obstacle := n.absence().text
		if obstacle == "" {
			obstacle = n.incapacity(scheduler)
		}
		if obstacle == "" {
			return forwarder{scheduler: scheduler, complaint: complaint}
		}
		unfit = append(unfit, name+" "+obstacle)
	}
	why := "no announcement selects a node"
	if len(unfit) > 0 {
		slices.Sort(unfit)
		why = few(unfit)
	}
	return forwarder{complaint: complaint, fallback: "kube-proxy forwards, since no node can by IPVS: " + why}
}

// selectors are those of the announcements that select one of the addresses.
func (o outlook) selectors() []labels.Selector {
	var found []labels.Selector
	for _, address := range o.addresses {
		for _, a := range o.snapshot.L2For(address, o.labels[address]...) {
			found = append(found, a.Nodes)
		}
		for _, a := range o.snapshot.BGPFor(address, o.labels[address]...) {
			found = append(found, a.Nodes)
		}
	}
	return found
}

// successors are the speakers that have ended to be replaced, by node, and when that was seen.
type successors map[string]time.Time

// successorWithin is for how long the next process of a speaker is expected: an image may have to be pulled.
const successorWithin = 2 * time.Minute

// expected takes in what the speaker of a node says, and returns for how long the next one is expected still. Zero: it is not, since
// the speaker has not ended, or has ended for good, or its time is over.
func (s successors) expected(node string, r v1alpha1.SpeakerStatus, now time.Time) time.Duration {
	if state, _ := r.State(); state != v1alpha1.SpeakerReplaced || !r.IPVS.Asked() {
		delete(s, node)
		return 0
	}
	if _, known := s[node]; !known {
		s[node] = now
	}
	return max(0, s[node].Add(successorWithin).Sub(now))
}

// absence is what keeps a node from doing anything for any Service, now and soon. A speaker
// that starts or is replaced is about to be back: an upgrade does not change who forwards.
func (n nodeView) absence() obstacle {
	switch {
	case n.excluded != "":
		return obstacle{text: n.excluded, rule: true}
	case !n.alive:
		return obstacle{text: "is not ready"}
	case n.speaker == "" || n.speaker == v1alpha1.SpeakerPending:
		return obstacle{text: "has no speaker"}
	case n.speaker == v1alpha1.SpeakerLeaving:
		return obstacle{text: "leaves: " + n.leaves, rule: true}
	case n.speaker.Ended() && !n.awaited:
		return obstacle{text: "has a speaker that is " + string(n.speaker)}
	}
	return obstacle{}
}

// incapacity says why the node cannot forward by this scheduler, in words that follow its
// name. Empty: it can.
func (n nodeView) incapacity(scheduler string) string {
	if slices.Contains(n.schedulers, scheduler) {
		return ""
	}
	why := n.noIPVS
	if why == "" {
		why = "its kernel did not show scheduler " + scheduler
	}
	return fmt.Sprintf("cannot forward by IPVS (%s)", why)
}

// reportIPVS takes in how far the node can forward by IPVS. How many virtual servers it has is left
// out: each change of the view has every Service looked at.
func (n *nodeView) reportIPVS(r v1alpha1.SpeakerStatus) {
	if !r.IPVS.Asked() {
		n.noIPVS = "its speaker was not asked to"
		return
	}
	n.schedulers = slices.Sorted(slices.Values(r.IPVS.Schedulers))
	if ready := meta.FindStatusCondition(r.Conditions, v1alpha1.ConditionIPVSReady); ready != nil && ready.Status == metav1.ConditionFalse {
		n.noIPVS = ready.Message
	}
}

// tellForwarder makes an event and a log line of a change of who forwards.
func (c *Controller) tellForwarder(svc *corev1.Service, f forwarder) {
	kind := corev1.EventTypeNormal
	if f.fallback != "" {
		kind = corev1.EventTypeWarning
	}
	c.Events.Eventf(svc, nil, kind, "Forwarder", "Forward", "%s (ipMode %s)", f, f.mode())
	c.Logger.Info("service", "service", svc.Namespace+"/"+svc.Name, "ipMode", f.mode(), "message", f.String())
}
