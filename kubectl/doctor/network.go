package doctor

import (
	"maps"
	"slices"
	"strings"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/kubectl/view"
)

// network looks at what speakers report of segments and routers.
func (e *examination) network() {
	for _, s := range view.SegmentsOf(e.State, "") {
		if e.Node(s.Node) == nil || s.Problem == "" {
			continue
		}
		id := map[view.SegmentReason]string{
			view.SegmentWaiting: "segment-waiting", view.SegmentAlone: "segment-alone",
			view.SegmentReturnPath: "return-path", view.SegmentProxyARP: "proxy-arp",
		}[s.Reason]
		e.find(id, "Node "+s.Node, "interface %s: %s", s.Interface, s.Problem)
	}
	for _, s := range view.SessionsOf(e.State, "", "") {
		if e.Node(s.Node) == nil || s.State == string(v1alpha1.SessionEstablished) {
			continue
		}
		why := "no reason is known yet"
		if s.LastError != "" {
			why = s.LastError
		}
		e.find(
			"session-down",
			"BGPNeighbor "+s.Neighbor,
			"node %s has no session with %s: %s",
			s.Node,
			or(s.Address, "a router"),
			why,
		)
	}
	for _, s := range e.Speakers {
		for _, c := range s.Status.Conflicts {
			e.find(
				"address-conflict",
				"Node "+s.Name,
				"it hears another host (%s) use %s on interface %s",
				c.MAC,
				c.Address,
				c.Interface,
			)
		}
	}
	e.keys()
}

// keys looks for speakers that do not accept each other's hellos.
func (e *examination) keys() {
	refusing := map[string][]string{} // nodes by the key that they do not accept
	signing := map[string][]string{}
	for _, s := range e.Speakers {
		if e.Node(s.Name) == nil || s.Status.SigningKey == "" {
			continue
		}
		signing[s.Status.SigningKey] = append(signing[s.Status.SigningKey], s.Name)
	}
	for key, signers := range signing {
		for _, s := range e.Speakers {
			if e.Node(s.Name) != nil && len(s.Status.AcceptedKeys) > 0 && !slices.Contains(s.Status.AcceptedKeys, key) {
				refusing[key] = append(refusing[key], s.Name)
			}
		}
		slices.Sort(signers)
	}
	for _, key := range slices.Sorted(maps.Keys(refusing)) {
		slices.Sort(refusing[key])
		e.find(
			"hello-keys",
			"Node "+signing[key][0],
			"%s with the key %s, which %s not accept: they take each other for dead",
			sign(signing[key]),
			key,
			do(refusing[key]),
		)
	}
}

func sign(nodes []string) string {
	if len(nodes) == 1 {
		return nodes[0] + " signs hellos"
	}
	return few(nodes) + " sign hellos"
}

func do(nodes []string) string {
	if len(nodes) == 1 {
		return nodes[0] + " does"
	}
	return strings.TrimSpace(few(nodes)) + " do"
}

func or(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}
