package plan

import "slices"

// Hints are those of EndpointSlices that a node chooses endpoints by.
type Hints uint8

// The hints, which Kubernetes writes for spec.trafficDistribution of a Service.
const (
	NoHints   Hints = iota
	NodeHints       // of PreferSameNode
	ZoneHints       // of PreferSameZone, and of PreferSameNode on nodes without an endpoint
)

// hinted narrows down which backends get new connections, as kube-proxy does by hints: to those
// that are hinted for this node, or else for its zone. A kind of hints counts only if every
// endpoint that is ready has one, and one of them is for here; none counts if nothing is ready.
//
// An endpoint on a dead node is not ready in this. So what is near and dead never stands in the way
// of what is far and alive.
func hinted(backends []Backend, takes func(Backend) bool, node, zone string) (func(Backend) bool, Hints) {
	ready := func(b Backend) bool { return b.takes() && takes(b) }
	for _, kind := range []struct {
		hints Hints
		of    func(Backend) []string
		here  string
	}{
		{NodeHints, func(b Backend) []string { return b.ForNodes }, node},
		{ZoneHints, func(b Backend) []string { return b.ForZones }, zone},
	} {
		near := func(b Backend) bool { return ready(b) && slices.Contains(kind.of(b), kind.here) }
		silent := func(b Backend) bool { return ready(b) && len(kind.of(b)) == 0 }
		if slices.ContainsFunc(backends, near) && !slices.ContainsFunc(backends, silent) {
			return near, kind.hints
		}
	}
	return takes, NoHints
}
