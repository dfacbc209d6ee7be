package plan

import (
	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/config/inuse"
	"github.com/berth-lb/berth/l2"
)

// Node is what a plan needs to know of a node.
type Node struct {
	Labels map[string]string
	// Excluded tells why the node announces nothing; empty: it may.
	Excluded string
}

// World is what every plan of a moment sees besides its group. It is immutable.
type World struct {
	Self     string
	Nodes    map[string]Node
	Snapshot *config.Snapshot
	// Unfit: this node cannot forward for now, and announces no routes. On the
	// segments its state says so.
	Unfit bool
	// Forwards: this node has a data plane of its own, even if that does not work for now.
	Forwards bool
	// Dead nodes are those whose endpoints get no new connections from here, whatever Kubernetes says
	// of them.
	Dead map[string]bool
	// Capabilities are the schedulers with which this node can forward by IPVS.
	Capabilities l2.Capabilities
	// Used are addresses that are somebody else's.
	Used *inuse.Set
}
