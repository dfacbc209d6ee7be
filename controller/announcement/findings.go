package announcement

import (
	"sync"

	"github.com/berth-lb/berth/config"
)

// View is what the nodes and their speakers report at a moment, and what was found about that.
type View struct {
	Nodes    map[string]Node
	Errors   SessionErrors
	Findings Findings
}

// Findings remember what was found about the nodes of one moment: most Services are announced the
// same way as many others, and to look at all nodes and their sessions for each again would cost
// Services × nodes at every change of a node. The zero value is ready for use. Nil remembers
// nothing.
type Findings struct {
	mu       sync.Mutex
	snapshot *config.Snapshot    // has the announcements; guarded by mu
	found    map[question]answer // guarded by mu
}

// question is all that an answer depends on beside the nodes, their errors and the Snapshot.
type question struct {
	about     string
	ways      string // the announcements
	ipv6      bool
	scheduler string // of the Forwarder, as steers
	steers    bool
}

// answer is the one to a question. Which fields it has depends on what the question is about.
type answer struct {
	by              []string // announcements
	reason, message string
	hazards         hazards
	able            bool
	nodes           map[string][]string // that an announcement selects, by what keeps them from it
}

// remember returns the answer to a question, which find finds if it was not asked before.
func (f *Findings) remember(snapshot *config.Snapshot, q question, find func() answer) answer {
	if f == nil {
		return find()
	}
	f.mu.Lock()
	if f.snapshot != snapshot {
		f.snapshot, f.found = snapshot, map[question]answer{}
	}
	known, ok := f.found[q]
	f.mu.Unlock()
	if ok {
		return known
	}
	known = find()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.snapshot == snapshot {
		f.found[q] = known
	}
	return known
}
