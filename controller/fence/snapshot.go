package fence

import "time"

// Snapshot is what is known at one moment. All times are of the clock of this process: when it saw
// something, not when others say that it was.
type Snapshot struct {
	Now time.Time
	// Nodes are all Nodes, by name.
	Nodes map[string]Node
	// Reports are what speakers say of other nodes.
	Reports []Report
	// Fenced are the nodes whose pods were written to, and how that went on.
	Fenced map[string]Fenced
	// Pods are the ready pods of the nodes that reports are about.
	Pods []Pod
	// Services have endpoints, by namespace/name.
	Services map[string]Service
}

// Node is what is known of a node.
type Node struct {
	// Ready is what the API says of it.
	Ready bool
	// Renewed is when its Lease was last seen renewed; zero: it has none.
	Renewed time.Time
	Probe   Probe
}

// Probe is what became of this process's own questions to a node.
type Probe struct {
	// Asked is when the last question was decided; zero: it was never asked.
	Asked time.Time
	// Answered is when it last answered; zero: it never did.
	Answered time.Time
	// SilentSince is when it first did not answer, after it had or ever; zero: it did the last time.
	SilentSince time.Time
}

// Report says that a speaker heard a node and does not hear it any longer.
type Report struct {
	// Reporter is the node of the speaker.
	Reporter, Node string
	// Seen is when this silence was first reported.
	Seen time.Time
	// Unanswered: the node did not answer the speaker's question either.
	Unanswered bool
	// Full: the speaker reports as many nodes as it can, and may know of more.
	Full bool
}

// Fenced is a node whose pods were written to.
type Fenced struct {
	Began time.Time
	// Ended is when it was found alive; zero: it is dead still.
	Ended time.Time
	// Pods were written to, by UID. None is written to a second time: only the kubelet calls a pod
	// ready again, and it lives if it does.
	Pods map[string]bool
}

// Pod is a ready pod that does not terminate.
type Pod struct {
	Namespace, Name, UID, ResourceVersion, Node string
}

// Key returns namespace/name.
func (p Pod) Key() string { return p.Namespace + "/" + p.Name }

// Service is a Service with its ready endpoints.
type Service struct {
	// First: it has addresses of Berth's.
	First     bool
	Endpoints []Endpoint
}

// Endpoint is a ready endpoint of a Service.
type Endpoint struct {
	// Node that it is on; empty: that is not known.
	Node string
	// Pod is the UID of the pod; empty: it is none.
	Pod string
}
