package fence

import (
	"slices"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"

	"github.com/berth-lb/berth/config/v1alpha1"
)

// mostReported is how many nodes a Speaker reports at most.
const mostReported = 16

// history remembers when this process saw what others say. Its methods may be called from any
// goroutine.
type history struct {
	mu      sync.Mutex
	leases  map[string]renewal           // guarded by mu; by node
	reports map[string]map[string]Report // guarded by mu; by reporter and node
	since   map[[2]string]time.Time      // guarded by mu; what a report says of when, by both
}

// renewal is when a Lease was renewed: as it says, and as it was seen.
type renewal struct {
	said string
	seen time.Time
}

func newHistory() *history {
	return &history{
		leases: map[string]renewal{}, reports: map[string]map[string]Report{}, since: map[[2]string]time.Time{},
	}
}

// lease notes the Lease of a node.
func (h *history) lease(l *coordinationv1.Lease, now time.Time) {
	if l.Spec.RenewTime == nil {
		return
	}
	said := l.Spec.RenewTime.Format(time.RFC3339Nano)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.leases[l.Name].said != said {
		h.leases[l.Name] = renewal{said, now}
	}
}

// noLease notes that a node has no Lease.
func (h *history) noLease(node string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.leases, node)
}

// renewed returns when the Lease of a node was last seen renewed; zero: it has none.
func (h *history) renewed(node string) time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.leases[node].seen
}

// speaker notes what the speaker of a node reports of others, and returns whether that changed.
func (h *history) speaker(reporter string, silent []v1alpha1.SilentNodeReport, now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	before, reports := h.reports[reporter], map[string]Report{}
	for _, s := range silent[:min(len(silent), mostReported)] {
		key := [2]string{reporter, s.NodeName}
		var since time.Time
		if s.Since != nil {
			since = s.Since.Time
		}
		r := Report{
			Reporter: reporter, Node: s.NodeName, Seen: now,
			Unanswered: s.Probe == v1alpha1.ProbeUnanswered, Full: len(silent) >= mostReported,
		}
		if known, ok := before[s.NodeName]; ok && h.since[key].Equal(since) {
			r.Seen = known.Seen
		}
		reports[s.NodeName], h.since[key] = r, since
	}
	changed := len(before) != len(reports)
	for node, r := range before {
		if _, still := reports[node]; !still {
			delete(h.since, [2]string{reporter, node})
		}
		changed = changed || r != reports[node]
	}
	if len(reports) == 0 {
		delete(h.reports, reporter)
	} else {
		h.reports[reporter] = reports
	}
	return changed
}

// all returns the reports, in no order.
func (h *history) all() []Report {
	h.mu.Lock()
	defer h.mu.Unlock()
	var found []Report
	for _, reports := range h.reports {
		for _, r := range reports {
			found = append(found, r)
		}
	}
	return found
}

// askedOfEach is how many of those that report a node are asked whether they live themselves.
const askedOfEach = 8

// reported returns the nodes that are reported and that Kubernetes calls ready still, ascending,
// and of each some of those that report it.
func reported(s Snapshot) (nodes, reporters []string) {
	by := map[string][]string{}
	for _, r := range s.Reports {
		if s.Nodes[r.Node].Ready && s.Nodes[r.Reporter].Ready {
			by[r.Node] = append(by[r.Node], r.Reporter)
		}
	}
	for node, all := range by {
		slices.Sort(all)
		nodes, reporters = append(nodes, node), append(reporters, all[:min(len(all), askedOfEach)]...)
	}
	slices.Sort(nodes)
	return nodes, reporters
}
