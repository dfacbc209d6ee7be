package dashboard

import (
	"cmp"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-lb/berth/config/candidate"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/kubectl/cluster"
	"github.com/berth-lb/berth/kubectl/view"
	"github.com/berth-lb/berth/kubectl/why"
)

// Snapshot is what is shown of a cluster at one moment.
type Snapshot struct {
	Taken  time.Time   `json:"taken"`
	Status view.Status `json:"status"`
	// Problems are those of Status, and what only following each Service to the packet finds.
	Problems []string       `json:"problems"`
	Pools    []Pool         `json:"pools"`
	Services []Service      `json:"services"`
	Nodes    []Node         `json:"nodes"`
	Routers  []Router       `json:"routers"`
	Owners   []view.Owner   `json:"owners"`
	Sessions []view.Session `json:"sessions"`

	events []Entry
}

// Pool is a pool with the share of its addresses that is in use.
type Pool struct {
	view.Pool
	// PercentIPv4 and PercentIPv6 are from 0 to 100; -1: it has no such addresses.
	PercentIPv4 int `json:"percentIPv4"`
	PercentIPv6 int `json:"percentIPv6"`
}

// Service is a Service of type LoadBalancer with its health.
type Service struct {
	view.Service
	// Health is the worst grade of its way to the packet.
	Health why.Grade `json:"health"`
	// Problem is one sentence; empty: it has none.
	Problem string `json:"problem,omitempty"`
	// Next is the command to go on with, if it has a problem.
	Next string `json:"next,omitempty"`
}

// Node is a node with what its speaker does.
type Node struct {
	Name string `json:"name"`
	// State is the speaker's, such as Announcing, or Excluded, NotReady, or None without a speaker.
	State string `json:"state"`
	// Healthy: it announces, or is excluded on purpose.
	Healthy bool `json:"healthy"`
	// Problem is one sentence; empty: it has none.
	Problem  string         `json:"problem,omitempty"`
	Owned    int            `json:"owned"`
	Segments []view.Segment `json:"segments,omitempty"`
	Sessions view.Count     `json:"sessions"`
}

// Router is a BGPNeighbor.
type Router struct {
	Name    string `json:"name"`
	Address string `json:"address,omitempty"`
	ASN     int64  `json:"asn,omitempty"`
	// Sessions that are established, of those that nodes report.
	Sessions view.Count `json:"sessions"`
}

// judged is the most Services that are followed to the packet for a snapshot. Where there are more,
// their health is what their conditions say: the time to follow all grows by the square of their
// number.
const judged = 500

// ReadPods reads the Pods of a namespace. It is asked only when a Service lacks endpoints.
type ReadPods func(namespace string) why.Pods

// errUnread stands for Pods that nobody has asked for yet.
var errUnread = errors.New("not read")

// Of returns the Snapshot of a cluster.
func Of(s *cluster.State, pods ReadPods) *Snapshot {
	snapshot := &Snapshot{
		Taken:    s.Taken,
		Status:   view.StatusOf(s),
		Owners:   view.OwnersOf(s, "", "", ""),
		Sessions: view.SessionsOf(s, "", ""),
		events:   eventsOf(s),
	}
	for _, p := range snapshot.Status.Pools {
		snapshot.Pools = append(snapshot.Pools, Pool{p, percent(p.IPv4), percent(p.IPv6)})
	}
	rows := view.ServicesOf(s, "")
	for _, row := range rows {
		snapshot.Services = append(snapshot.Services, serviceOf(s, row, len(rows) <= judged, pods))
	}
	snapshot.Problems = problemsOf(snapshot)
	snapshot.Nodes = nodesOf(s, snapshot)
	snapshot.Routers = routersOf(s, snapshot.Sessions)
	return snapshot
}

func problemsOf(s *Snapshot) []string {
	hidden := 0
	for _, service := range s.Services {
		if service.Health == why.Failure && service.Reason == "" {
			hidden++
		}
	}
	switch hidden {
	case 0:
		return s.Status.Problems
	case 1:
		return append(slices.Clone(s.Status.Problems), "1 Service is announced, and no client gets through")
	}
	return append(slices.Clone(s.Status.Problems), fmt.Sprintf("%d Services are announced, and no client gets through", hidden))
}

// percent returns the share of addresses in use, rounded up: one used address of very many shows.
func percent(u *view.Usage) int {
	if u == nil {
		return -1
	}
	total, ok := new(big.Int).SetString(u.Total, 10)
	used, usedOK := new(big.Int).SetString(u.Assigned, 10)
	if !ok || !usedOK || total.Sign() <= 0 {
		return 0
	}
	used.Mul(used, big.NewInt(100)).Add(used, new(big.Int).Sub(total, big.NewInt(1)))
	return int(min(100, used.Div(used, total).Int64()))
}

func serviceOf(s *cluster.State, row view.Service, follow bool, pods ReadPods) Service {
	service := Service{Service: row, Health: why.OK}
	switch {
	case (row.Others || !follow) && row.Reason != "":
		service.Health, service.Problem = why.Failure, row.Message
		return service
	case row.Others:
		service.Health = why.Note
		return service
	case !follow:
		return service
	}
	report := why.Of(s, row.Namespace, row.Name, why.Pods{Err: errUnread})
	if i := slices.IndexFunc(report.Steps, func(x why.Step) bool { return x.Name == "Endpoints" }); i >= 0 &&
		report.Steps[i].Grade == why.Failure {
		report = why.Of(s, row.Namespace, row.Name, pods(row.Namespace))
	}
	for _, grade := range []why.Grade{why.Failure, why.Warning} {
		if slices.ContainsFunc(report.Steps, func(x why.Step) bool { return x.Grade == grade }) {
			service.Health, service.Problem, service.Next = grade, report.Verdict, report.Next
			break
		}
	}
	return service
}

func nodesOf(s *cluster.State, snapshot *Snapshot) []Node {
	nodes := map[string]*Node{}
	for _, n := range s.Nodes {
		node := &Node{Name: n.Name, State: "None"}
		nodes[n.Name] = node
		excluded := candidate.Exclusion(n)
		switch ready := candidate.ReadyStatus(n); {
		case excluded != "":
			node.State, node.Healthy, node.Problem = "Excluded", true, "it is taken out of load balancing"
		case ready != corev1.ConditionTrue:
			node.State, node.Problem = "NotReady", "the node is not ready"
		}
	}
	for _, speaker := range s.Speakers {
		node := nodes[speaker.Name]
		if node == nil { // Nodes are unread, or it is gone
			node = &Node{Name: speaker.Name, State: "None"}
			nodes[speaker.Name] = node
		}
		if node.State != "None" {
			continue
		}
		state, message := speaker.Status.State()
		node.State, node.Healthy, node.Problem = string(state), state == v1alpha1.SpeakerAnnouncing, message
		if node.Healthy && len(speaker.Status.Problems) > 0 {
			node.Healthy, node.Problem = false, speaker.Status.Problems[0].Message
		}
	}
	for _, segment := range view.SegmentsOf(s, "") {
		node := nodes[segment.Node]
		node.Segments = append(node.Segments, segment)
		if node.Healthy && segment.Problem != "" {
			node.Healthy, node.Problem = false, segment.Interface+": "+segment.Problem
		}
	}
	for _, owner := range snapshot.Owners {
		if node := nodes[owner.Node]; node != nil {
			node.Owned++
		}
	}
	for _, session := range snapshot.Sessions {
		nodes[session.Node].Sessions.Of++
		if established(session) {
			nodes[session.Node].Sessions.Are++
		}
	}
	var all []Node
	for _, node := range nodes {
		if node.State == "None" {
			node.Problem = cmp.Or(node.Problem, "it has no speaker")
		}
		all = append(all, *node)
	}
	slices.SortFunc(all, func(a, b Node) int { return natural(a.Name, b.Name) })
	return all
}

// natural orders n2 before n10.
func natural(a, b string) int {
	headA, headB := strings.TrimRight(a, "0123456789"), strings.TrimRight(b, "0123456789")
	if headA == headB {
		return cmp.Or(cmp.Compare(len(a), len(b)), strings.Compare(a, b))
	}
	return strings.Compare(a, b)
}

func routersOf(s *cluster.State, sessions []view.Session) []Router {
	var all []Router
	for _, n := range s.BGPNeighbors {
		router := Router{
			Name: n.Name, ASN: n.Spec.RemoteASN,
			Address: cmp.Or(n.Spec.Address, n.Spec.AddressPrefix, n.Spec.Interface),
		}
		for _, session := range sessions {
			if session.Neighbor != n.Name {
				continue
			}
			router.Sessions.Of++
			if established(session) {
				router.Sessions.Are++
			}
		}
		all = append(all, router)
	}
	slices.SortFunc(all, func(a, b Router) int { return natural(a.Name, b.Name) })
	return all
}

func established(s view.Session) bool { return s.State == string(v1alpha1.SessionEstablished) }
