package nodes

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config/digest"
)

// heard is the last heartbeat.
type heard struct {
	digest.Heartbeat
	late bool // it is too old, and there is no newer one
}

// note notes the heartbeat that there is.
func (h *heard) note(now digest.Heartbeat, at time.Time) {
	switch age, known := now.Age(at); {
	case now.Renewed == h.Renewed:
	case h.Renewed == "":
		// Only the clock of the controller says how long it has been there. If it is too far from ours,
		// the next heartbeat tells.
		h.late = !known || age >= digest.Patience
	default:
		h.late = false
	}
	h.Heartbeat = now
}

// published is what there is of Nodes in ConfigMaps.
type published struct {
	nodes  map[string]digested
	shares map[string]bool // names of ConfigMaps; false: it has something that cannot be read
}

// digested is a Node, and where it is from.
type digested struct {
	node *corev1.Node
	from string // the ConfigMap
	text string
}

func newPublished() *published {
	return &published{nodes: map[string]digested{}, shares: map[string]bool{}}
}

// put replaces what is known by a ConfigMap, and returns the names of Nodes that this concerns.
// What cannot be read is left as it was, with an error.
func (p *published) put(m *corev1.ConfigMap) (names []string, err error) {
	if !digest.IsShare(m.Name) {
		return nil, nil // somebody took our labels
	}
	p.shares[m.Name] = true
	for name, text := range m.Data {
		before, known := p.nodes[name]
		if known && before.text == text {
			before.from = m.Name
			p.nodes[name] = before
			continue
		}
		node, bad := digest.Decode(name, text)
		if bad != nil {
			err, p.shares[m.Name] = bad, false
			continue
		}
		node.ResourceVersion = m.ResourceVersion
		p.nodes[name] = digested{node: node, from: m.Name, text: text}
		names = append(names, name)
	}
	for name, its := range p.nodes {
		// A Node may have come to be in another one.
		if _, still := m.Data[name]; !still && its.from == m.Name {
			delete(p.nodes, name)
			names = append(names, name)
		}
	}
	return names, err
}

// keep forgets the ConfigMaps that are none of these and are gone, and returns the names of Nodes
// that go with them.
func (p *published) keep(shares []string, there func(share string) bool) (names []string) {
	for share := range p.shares {
		if slices.Contains(shares, share) || there(share) {
			continue
		}
		gone, _ := p.put(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: share}}) // it has nothing to read
		names = append(names, gone...)
		delete(p.shares, share)
	}
	return names
}

// complete reports whether all of these ConfigMaps were read.
func (p *published) complete(shares []string) bool {
	return !slices.ContainsFunc(shares, func(share string) bool { return !p.shares[share] })
}
