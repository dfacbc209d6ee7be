package announcement

import (
	"cmp"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/berth-lb/berth/controller/condition"
)

// Forwarder says what forwards connections to the addresses of a Service: IPVS on Berth's nodes, or
// kube-proxy, on the node that a client's packets come to or on the one to which they are steered.
type Forwarder struct {
	// scheduler is the IPVS scheduler; empty: kube-proxy forwards.
	scheduler string
	// steers: nodes steer connections, to those with endpoints.
	steers bool
	// pods: on those, Berth forwards (policy Cluster).
	pods bool
	// complaint says what is wrong with what the Service asks for; empty: nothing.
	complaint string
	// Fallback says why kube-proxy forwards although IPVS should, or why connections are not steered
	// although they should be; otherwise empty.
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
	case f.pods:
		return "the nodes forward to which connections are steered"
	case f.steers:
		return "kube-proxy forwards, on the nodes to which connections are steered"
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

// Forwarding returns what forwards: IPVS, or kube-proxy with steering, if the pools and the Service
// ask for it and at least one node can.
func (s Service) Forwarding(asked string) Forwarder {
	scheduler, complaint := s.Snapshot.Scheduler(s.Addresses, asked)
	if scheduler != "" {
		lacking, able := s.lacking("scheduler "+scheduler, func(n Node) string { return n.incapacity(scheduler) })
		if able {
			return Forwarder{scheduler: scheduler, complaint: complaint}
		}
		return Forwarder{complaint: complaint, Fallback: "kube-proxy forwards, since no node can by IPVS: " + lacking}
	}
	how, refused := s.Snapshot.Steered(s.Addresses, s.Local)
	complaint = cmp.Or(complaint, refused)
	if how == nil {
		return Forwarder{complaint: complaint}
	}
	lacking, able := s.lacking("steering", Node.blindness)
	if able {
		return Forwarder{steers: true, pods: !s.Local, complaint: complaint}
	}
	fallback := "connections are not steered, and only nodes with a ready endpoint announce it, since no node steers: "
	if !s.Local {
		fallback = "connections are not steered, and clients are hidden, since no node steers: "
	}
	return Forwarder{complaint: complaint, Fallback: fallback + lacking}
}

// lacking says what keeps each of the nodes that an announcement selects from what is asked of one;
// able: one has no obstacle.
func (s Service) lacking(what string, obstacle func(Node) string) (text string, able bool) {
	var ways []way
	for _, address := range s.Addresses {
		ways = append(ways, s.ways(address)...)
	}
	a := s.remember(what, ways, false, func() answer { return s.lackingOn(ways, obstacle) })
	return a.message, a.able
}

func (s Service) lackingOn(ways []way, obstacle func(Node) string) answer {
	var unfit []string
	for name, n := range s.Nodes {
		if !slices.ContainsFunc(ways, func(w way) bool { return w.nodes.Matches(labels.Set(n.Labels)) }) {
			continue
		}
		text := cmp.Or(n.absence().text, obstacle(n))
		if text == "" {
			return answer{able: true}
		}
		unfit = append(unfit, name+" "+text)
	}
	if len(unfit) == 0 {
		return answer{message: "no announcement selects a node"}
	}
	slices.Sort(unfit)
	return answer{message: condition.Few(unfit)}
}

// blindness says why the node does not steer, in words that follow its name. Empty: it does.
func (n Node) blindness() string {
	if n.steers {
		return ""
	}
	return fmt.Sprintf("does not steer (%s)", cmp.Or(n.noSteering, "its speaker has not said so yet"))
}
