package fence

import (
	"cmp"
	"maps"
	"slices"
	"time"
)

// Reason says why a node that is reported silent is not fenced.
type Reason string

// Reasons, in the order in which they are looked at.
const (
	// ReasonTooFewWitnesses: fewer than two speakers of live nodes report it.
	ReasonTooFewWitnesses Reason = "TooFewWitnesses"
	// ReasonNoLease: its kubelet has no Lease.
	ReasonNoLease Reason = "NoLease"
	// ReasonLeaseRenewed: its kubelet renewed its Lease since.
	ReasonLeaseRenewed Reason = "LeaseRenewed"
	// ReasonPending: a question to its kernel is not decided yet.
	ReasonPending Reason = "Pending"
	// ReasonKernelAnswers: it answers the controller.
	ReasonKernelAnswers Reason = "KernelAnswers"
	// ReasonNeverAnswered: it did not answer the controller within the minute before either.
	ReasonNeverAnswered Reason = "NeverAnswered"
	// ReasonRecentlyFenced: it was fenced a short while ago, and lived.
	ReasonRecentlyFenced Reason = "RecentlyFenced"
	// ReasonCutOff: so few other nodes answer the controller that it may be the one that is cut off.
	ReasonCutOff Reason = "ControllerCutOff"
	// ReasonTooMany: with it more than a third of the nodes would be out.
	ReasonTooMany Reason = "TooManyNodes"
)

// Reasons are all of them.
func Reasons() []Reason {
	return []Reason{
		ReasonTooFewWitnesses, ReasonNoLease, ReasonLeaseRenewed, ReasonPending, ReasonKernelAnswers,
		ReasonNeverAnswered, ReasonRecentlyFenced, ReasonCutOff, ReasonTooMany,
	}
}

// Bounds of evidence.
const (
	witnesses = 2
	// reportsCount is how long a report counts. Kubernetes has noticed by then.
	reportsCount = 2 * time.Minute
	// answeredWithin is how long before its silence a node must have answered the controller.
	answeredWithin = time.Minute
	// askedWithin is how old the last question may be.
	askedWithin = 3 * time.Second
	// onceIn is how long a node is not fenced again that was fenced and lived.
	onceIn = 10 * time.Minute
	// outAtMost is the part of the nodes that may be out, fenced or not: one of so many.
	outAtMost = 3
)

// Verdict says which nodes are dead.
type Verdict struct {
	// Dead are to be fenced, ascending.
	Dead []string
	// Spared are reported by some speaker, and are not to be fenced.
	Spared map[string]Reason
	// Witnesses are the nodes whose speakers report a node and count, ascending.
	Witnesses map[string][]string
	// Out are the nodes that may not serve: dead ones, those that Kubernetes calls not ready, and
	// undecided ones.
	Out map[string]bool
}

// Judge says which of the nodes are dead that speakers report silent. Nodes that Kubernetes calls
// not ready already are none of its business.
func Judge(s Snapshot) Verdict {
	v := Verdict{Spared: map[string]Reason{}, Witnesses: map[string][]string{}, Out: map[string]bool{}}
	for name, node := range s.Nodes {
		if !node.Ready {
			v.Out[name] = true
		}
	}
	full := map[string]bool{}
	for name, reports := range s.counted() {
		if !s.Nodes[name].Ready {
			continue
		}
		for _, r := range reports {
			v.Witnesses[name] = append(v.Witnesses[name], r.Reporter)
			if r.Full {
				full[r.Reporter] = true
			}
		}
		reason := s.doubt(name, reports)
		switch reason {
		case "":
			v.Dead = append(v.Dead, name)
		default:
			v.Spared[name] = reason
		}
		// One that renews its Lease lives, but if it does not answer either the network is at fault.
		if !clears(reason) || reason == ReasonLeaseRenewed && !s.Nodes[name].Probe.SilentSince.IsZero() {
			v.Out[name] = true
		}
	}
	for _, r := range s.Reports {
		if _, counts := v.Witnesses[r.Node]; !counts && s.Nodes[r.Node].Ready {
			v.Spared[r.Node] = ReasonTooFewWitnesses
		}
	}
	switch {
	case len(v.Dead) == 0:
	case s.cutOff(v.Out):
		v.spareAll(ReasonCutOff)
	case len(v.Out)*outAtMost > len(s.Nodes) || len(full) >= witnesses:
		v.spareAll(ReasonTooMany)
	}
	slices.Sort(v.Dead)
	return v
}

func (v *Verdict) spareAll(why Reason) {
	for _, name := range v.Dead {
		v.Spared[name] = why
	}
	v.Dead = nil
}

// clears reports whether a reason says that the node lives.
func clears(why Reason) bool {
	return slices.Contains([]Reason{ReasonTooFewWitnesses, ReasonKernelAnswers, ReasonLeaseRenewed}, why)
}

// counted returns, for each node that has enough of them, the reports that count, by reporter: one
// of each, of a node that is ready and answered the controller just now.
func (s Snapshot) counted() map[string][]Report {
	byNode := map[string]map[string]Report{}
	for _, r := range s.Reports {
		reporter, known := s.Nodes[r.Reporter]
		if _, exists := s.Nodes[r.Node]; !exists || !known || r.Reporter == r.Node ||
			!reporter.Ready || !s.answersNow(reporter) || s.Now.Sub(r.Seen) > reportsCount {
			continue
		}
		if byNode[r.Node] == nil {
			byNode[r.Node] = map[string]Report{}
		}
		byNode[r.Node][r.Reporter] = r
	}
	found := map[string][]Report{}
	for name, reports := range byNode {
		if len(reports) >= witnesses {
			found[name] = slices.SortedFunc(maps.Values(reports), func(a, b Report) int {
				return cmp.Compare(a.Reporter, b.Reporter)
			})
		}
	}
	return found
}

// answersNow reports whether a node answered the last question, and that was just now.
func (s Snapshot) answersNow(n Node) bool {
	return !n.Probe.Asked.IsZero() && s.Now.Sub(n.Probe.Asked) <= askedWithin && n.Probe.SilentSince.IsZero()
}

// doubt returns why a node is not dead that enough speakers report; empty: it is. A report is
// refuted by a Lease that was renewed after it, so an old one of somebody else's does no harm.
func (s Snapshot) doubt(name string, reports []Report) Reason {
	node := s.Nodes[name]
	standing := slices.DeleteFunc(slices.Clone(reports), func(r Report) bool { return !r.Seen.After(node.Renewed) })
	var first time.Time
	if len(standing) > 0 {
		first = slices.MinFunc(standing, func(a, b Report) int { return a.Seen.Compare(b.Seen) }).Seen
	}
	unanswered := 0
	for _, r := range standing {
		if r.Unanswered {
			unanswered++
		}
	}
	fenced := s.Fenced[name]
	switch probe := node.Probe; {
	case node.Renewed.IsZero():
		return ReasonNoLease
	case len(standing) < witnesses:
		return ReasonLeaseRenewed
	case probe.Asked.Before(first) || s.Now.Sub(probe.Asked) > askedWithin:
		return ReasonPending
	case probe.SilentSince.IsZero():
		return ReasonKernelAnswers
	case unanswered < witnesses:
		return ReasonPending
	case probe.Answered.IsZero() || probe.SilentSince.Sub(probe.Answered) > answeredWithin:
		return ReasonNeverAnswered
	case !fenced.Ended.IsZero() && s.Now.Sub(fenced.Ended) < onceIn:
		return ReasonRecentlyFenced
	}
	return ""
}

// cutOff reports whether the controller cannot rule out that it is with a minority: more than half
// of the nodes that it asked just now, without those that are out, must have answered.
func (s Snapshot) cutOff(out map[string]bool) bool {
	asked, answered := 0, 0
	for name, node := range s.Nodes {
		if out[name] || node.Probe.Asked.IsZero() || s.Now.Sub(node.Probe.Asked) > askedWithin {
			continue
		}
		asked++
		if s.answersNow(node) {
			answered++
		}
	}
	return answered*2 <= asked
}
