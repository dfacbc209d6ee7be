package steering

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/berth-lb/berth/internal/steerquery"
)

// Report is where the packets of a client go.
type Report struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	steerquery.Query
	// Steered: a node steers this connection.
	Steered bool `json:"steered"`
	// To is the node that gets a new connection, whichever node its packets come to; empty: it is not
	// steered, or nodes differ.
	To string `json:"to,omitempty"`
	// Verdict is one sentence: where a new connection goes, or why it is not steered.
	Verdict string `json:"verdict"`
	// Nodes are those whose speakers were asked, by name.
	Nodes []Node `json:"nodes,omitempty"`
}

// Node is what the speaker of a node says. The Answer's Node is where packets that come to it go.
type Node struct {
	By string `json:"by"`
	// Owner: it answers for the address by ARP or NDP.
	Owner bool `json:"owner,omitempty"`
	steerquery.Answer
}

// NotSteered returns the report on a Service that no node should steer, and why.
func NotSteered(namespace, name string, q steerquery.Query, why string) *Report {
	return &Report{Namespace: namespace, Name: name, Query: q, Verdict: why}
}

// Of returns the report on a Service from what the speakers say. Owners count before others, since
// clients' packets come to them; if there are none, routers send packets to any node.
func Of(namespace, name string, q steerquery.Query, nodes []Node) *Report {
	r := &Report{Namespace: namespace, Name: name, Query: q, Nodes: nodes}
	slices.SortFunc(r.Nodes, func(a, b Node) int { return cmp.Compare(a.By, b.By) })
	var lacking []string
	lacks := func(n Node) bool { return n.Lacking != "" }
	steering := slices.DeleteFunc(slices.Clone(r.Nodes), lacks)
	for _, n := range r.Nodes {
		if n.Lacking != "" {
			lacking = append(lacking, n.By+": "+n.Lacking)
		}
	}
	if len(steering) == 0 {
		r.Verdict = "no node steers it; " + strings.Join(lacking, "; ")
		return r
	}
	r.Steered = true
	deciding := slices.DeleteFunc(slices.Clone(r.Nodes), func(n Node) bool { return !n.Owner })
	if len(deciding) == 0 {
		deciding = steering
	}
	if i := slices.IndexFunc(deciding, lacks); i >= 0 {
		r.Verdict = deciding[i].By + " answers for the address and does not steer: " + deciding[i].Lacking
		return r
	}
	r.conclude(deciding)
	return r
}

// conclude says what the nodes come to that packets come to.
func (r *Report) conclude(deciding []Node) {
	first := deciding[0]
	same := !slices.ContainsFunc(deciding, func(n Node) bool { return n.Node != first.Node })
	switch {
	case slices.ContainsFunc(deciding, func(n Node) bool { return n.Reason == "source" }):
		r.Verdict = fmt.Sprintf("kube-proxy drops it, since loadBalancerSourceRanges do not have %s", r.Client.Addr())
	case !same:
		r.Verdict = "it depends on the node that its packets come to: tables differ, as for a moment after a change"
	default:
		r.To = first.Node
		r.Verdict = "a new connection goes to " + first.Node
		if first.Asks != "" {
			r.Verdict += fmt.Sprintf("; of a connection that it does not know, it asks %s", first.Asks)
		}
	}
}

// Words says in words why a node does what it does with the packets.
func (n Node) Words() string {
	switch n.Reason {
	case "first":
		return "first in rank of those that get new connections"
	case "local":
		return "stays: first in rank of those that get new connections"
	case "source":
		return "stays, and kube-proxy drops it: loadBalancerSourceRanges do not have the client"
	case "no_path":
		return "stays: there is no way to the first in rank"
	case "no_table":
		return "stays: no node is in rank"
	}
	return n.Reason
}

// Ranking is a slot as some nodes have it.
type Ranking struct {
	Nodes       []string // that have it so
	Slot, Slots int
	BySource    bool
	Ranks       []Ranked
}

// Ranked is a node of a slot.
type Ranked struct {
	Node string
	// Gets says whether it gets new connections, and why not.
	Gets string
}

// Rankings returns the slot as the nodes have it, once if they agree.
func (r *Report) Rankings() []Ranking {
	var all []Ranking
	for _, n := range r.Nodes {
		if len(n.Ranks) == 0 {
			continue
		}
		now := Ranking{[]string{n.By}, n.Slot, n.Slots, n.BySource, ranked(n.Answer)}
		i := slices.IndexFunc(all, func(o Ranking) bool {
			return o.Slot == now.Slot && o.Slots == now.Slots && slices.Equal(o.Ranks, now.Ranks)
		})
		if i < 0 {
			all = append(all, now)
		} else {
			all[i].Nodes = append(all[i].Nodes, n.By)
		}
	}
	return all
}

func ranked(a steerquery.Answer) []Ranked {
	var all []Ranked
	for _, n := range a.Ranks {
		gets := "if those before do not"
		switch {
		case n.Node == a.Node && (n.Dead || n.Draining):
			gets = "yes, since no other can" // all are thought dead
		case n.Node == a.Node:
			gets = "yes"
		case n.Draining:
			gets = "no: it drains, since no Pod on it is ready"
		case n.Dead:
			gets = "no: it is thought dead, since nothing is heard of it"
		}
		all = append(all, Ranked{n.Node, gets})
	}
	return all
}
