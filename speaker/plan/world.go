package plan

import (
	"net/netip"
	"slices"

	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/config/inuse"
	"github.com/berth-lb/berth/l2/election"
)

// Node is what a plan needs to know of a node.
type Node struct {
	Labels map[string]string
	// Excluded says why the node announces nothing; empty: it may announce.
	Excluded string
}

// World is what all plans see besides their group.
type World struct {
	Self     string
	Nodes    map[string]Node
	Snapshot *config.Snapshot
	// Electorates of Nodes and Snapshot; nil: each group finds its own.
	Electorates *Electorates
	// Forwards: this node has a data plane of its own, even if that does not work for now.
	Forwards bool
	// Endpoints on Dead nodes get no new connections from here, even if Kubernetes calls them ready.
	Dead map[string]bool
	// Capabilities are the schedulers with which this node can forward by IPVS.
	Capabilities election.Capabilities
	// Used are addresses that are in use elsewhere.
	Used *inuse.Set
}

// zoneLabel is the well-known label of a node's zone.
const zoneLabel = "topology.kubernetes.io/zone"

// zone returns that of this node; empty: it is in none.
func (w World) zone() string { return w.Nodes[w.Self].Labels[zoneLabel] }

// UsedOtherwise reports whether an address, or an aggregate that it may be announced in, is in
// another use elsewhere than in the set of before.
func (w World) UsedOtherwise(address netip.Addr, before *inuse.Set) bool {
	was, _ := before.Of(address)
	is, _ := w.Used.Of(address)
	return was != is || slices.ContainsFunc(w.Snapshot.Aggregates(address), func(p netip.Prefix) bool {
		return before.Overlaps(p) != w.Used.Overlaps(p)
	})
}
