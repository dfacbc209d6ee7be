package announcement

import (
	"cmp"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-lb/berth/config/candidate"
	"github.com/berth-lb/berth/config/v1alpha1"
)

// Observed is what the nodes and their speakers report.
type Observed struct {
	Nodes map[string]Node
	// Conflicts are addresses that other hosts use, too.
	Conflicts map[netip.Addr]Holder
	Errors    SessionErrors
}

// Observe evaluates Nodes and Speakers. awaited reports whether the speaker has ended to be
// replaced, and the next one is still expected.
func Observe(nodes []*corev1.Node, speakers []*v1alpha1.Speaker, awaited func(*v1alpha1.Speaker) bool) Observed {
	seen := Observed{Nodes: map[string]Node{}, Conflicts: map[netip.Addr]Holder{}, Errors: SessionErrors{}}
	for _, n := range nodes {
		seen.Nodes[n.Name] = Node{
			Labels: n.Labels, Excluded: candidate.Exclusion(n), Alive: candidate.ReadyStatus(n) == corev1.ConditionTrue,
		}
	}
	speakers = slices.SortedFunc(
		slices.Values(speakers),
		func(a, b *v1alpha1.Speaker) int { return cmp.Compare(a.Name, b.Name) },
	)
	for _, s := range speakers {
		view, ok := seen.Nodes[s.Name]
		if !ok {
			continue
		}
		view.Report(s.Status)
		for _, session := range s.Status.Sessions {
			if session.State != v1alpha1.SessionEstablished && session.LastError != "" {
				seen.Errors.Note(session.NeighborName, s.Name, session.LastError)
			}
		}
		view.Awaited = awaited(s)
		seen.Nodes[s.Name] = view
		if !view.Alive || view.Speaker.Ended() {
			continue // the report of a speaker that is gone is the last one it wrote
		}
		for _, x := range s.Status.Conflicts {
			address, err := netip.ParseAddr(x.Address)
			if _, known := seen.Conflicts[address]; err == nil && !known {
				seen.Conflicts[address] = Holder{MAC: x.MAC, Owner: x.NodeName, Node: s.Name, Interface: x.Interface}
			}
		}
	}
	return seen
}
