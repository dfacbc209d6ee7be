package announcement

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/berth-lb/berth/controller/condition"
)

// Forwarder says what forwards connections to the addresses of a Service: IPVS on Berth's nodes, or
// kube-proxy.
type Forwarder struct {
	// scheduler is the IPVS scheduler; empty: kube-proxy forwards.
	scheduler string
	// complaint says what is wrong with what the Service asks for; empty: nothing.
	complaint string
	// Fallback says why kube-proxy forwards although IPVS should; otherwise empty.
	Fallback string
}

// Mode returns the ipMode, which tells kube-proxy whether to forward (KEP-1860).
func (f Forwarder) Mode() corev1.LoadBalancerIPMode {
	if f.scheduler != "" {
		return corev1.LoadBalancerIPModeProxy
	}
	return corev1.LoadBalancerIPModeVIP
}

func (f Forwarder) String() string {
	switch {
	case f.scheduler != "":
		return "IPVS forwards, by scheduler " + f.scheduler
	case f.Fallback != "":
		return f.Fallback
	}
	return "kube-proxy forwards"
}

// remarks returns what the reader of the Service should know, as the end of a message.
func (f Forwarder) remarks() string {
	var remarks string
	for _, remark := range []string{f.Fallback, f.complaint} {
		if remark != "" {
			remarks += "; " + remark
		}
	}
	return remarks
}

// Forwarding returns what forwards: IPVS, if the pools and the Service ask for it and at least one
// node can.
func (s Service) Forwarding(asked string) Forwarder {
	scheduler, complaint := s.Snapshot.Scheduler(s.Addresses, asked)
	if scheduler == "" {
		return Forwarder{complaint: complaint}
	}
	selectors := s.selectors()
	var unfit []string
	for name, n := range s.Nodes {
		if !slices.ContainsFunc(selectors, func(s labels.Selector) bool { return s.Matches(labels.Set(n.Labels)) }) {
			continue
		}
		obstacle := n.absence().text
		if obstacle == "" {
			obstacle = n.incapacity(scheduler)
		}
		if obstacle == "" {
			return Forwarder{scheduler: scheduler, complaint: complaint}
		}
		unfit = append(unfit, name+" "+obstacle)
	}
	why := "no announcement selects a node"
	if len(unfit) > 0 {
		slices.Sort(unfit)
		why = condition.Few(unfit)
	}
	return Forwarder{complaint: complaint, Fallback: "kube-proxy forwards, since no node can by IPVS: " + why}
}

// selectors returns the node selectors of the announcements that select one of the addresses.
func (s Service) selectors() []labels.Selector {
	var found []labels.Selector
	for _, address := range s.Addresses {
		for _, a := range s.Snapshot.L2For(address, s.Labels[address]...) {
			found = append(found, a.Nodes)
		}
		for _, a := range s.Snapshot.BGPFor(address, s.Labels[address]...) {
			found = append(found, a.Nodes)
		}
	}
	return found
}
