package nodes

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/berth-lb/berth/config/digest"
)

// heard is the last heartbeat.
type heard struct {
	digest.Heartbeat
	at time.Time // when it was new, by this node's clock; zero: it was old when it was first seen
}

// note notes the heartbeat that there is.
func (h *heard) note(now digest.Heartbeat, at time.Time) {
	if now.Renewed == h.Renewed {
		h.Nodes = now.Nodes
		return
	}
	first := h.Renewed == ""
	h.Heartbeat, h.at = now, at
	if !first {
		return
	}
	// Nobody knows how long it has been there but the clock of the controller. If it is too far from
	// ours, the next heartbeat tells.
	if age, ok := now.Age(at); ok {
		h.at = at.Add(-age)
	} else {
		h.at = time.Time{}
	}
}

// late reports whether the next one should have come by now.
func (h *heard) late(now time.Time, patience time.Duration) bool { return now.Sub(h.at) >= patience }

// published is what there is of Nodes in ConfigMaps.
type published struct {
	nodes  map[string]digested
	unread map[string]bool // names of ConfigMaps with something that cannot be read
}

// digested is a Node, and where it is from.
type digested struct {
	node *corev1.Node
	from string // the ConfigMap
	text string
}

func newPublished() *published {
	return &published{nodes: map[string]digested{}, unread: map[string]bool{}}
}

// put replaces what is known by a ConfigMap, and returns the events of Nodes that this makes. What
// cannot be read is left as it was, with an error.
func (p *published) put(m *corev1.ConfigMap) (events []watch.Event, err error) {
	delete(p.unread, m.Name)
	for name, text := range m.Data {
		before, known := p.nodes[name]
		if known && before.text == text {
			before.from = m.Name
			p.nodes[name] = before
			continue
		}
		node, bad := digest.Decode(name, text)
		if bad != nil {
			err, p.unread[m.Name] = bad, true
			continue
		}
		node.ResourceVersion = m.ResourceVersion
		p.nodes[name] = digested{node: node, from: m.Name, text: text}
		kind := watch.Added
		if known {
			kind = watch.Modified
		}
		events = append(events, watch.Event{Type: kind, Object: node})
	}
	for name, its := range p.nodes {
		// A Node may have come to be in another one.
		if _, still := m.Data[name]; !still && its.from == m.Name {
			delete(p.nodes, name)
			events = append(events, watch.Event{Type: watch.Deleted, Object: its.node})
		}
	}
	return events, err
}
