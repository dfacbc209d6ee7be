package view

import (
	"slices"
	"strings"
	"time"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/kubectl/cluster"
)

// Owner is who answers for an address on a segment.
type Owner struct {
	Address   string   `json:"address"`
	Segment   string   `json:"segment"`
	Node      string   `json:"node"`
	Interface string   `json:"interface"`
	MAC       string   `json:"mac"`
	Services  []string `json:"services,omitempty"`
	// Since is when the node took it.
	Since *time.Time `json:"since,omitempty"`
	// Reason of the last move, in CamelCase.
	Reason string `json:"reason,omitempty"`
	// Problem: the node is gone, or no Service has the address.
	Problem string `json:"problem,omitempty"`
}

// OwnersOf returns who answers for each address, by address and segment. An empty node, address or
// segment stands for all.
func OwnersOf(s *cluster.State, node, address, segment string) []Owner {
	var rows []Owner
	for _, o := range s.Owners {
		st := o.Status
		if node != "" && st.NodeName != node || address != "" && st.Address != address ||
			segment != "" && st.Segment != segment {
			continue
		}
		row := Owner{
			Address: st.Address, Segment: st.Segment, Node: st.NodeName, Interface: st.Interface, MAC: st.MAC,
			Reason: st.Reason,
		}
		for _, ref := range st.ServiceRefs {
			row.Services = append(row.Services, ref.Namespace+"/"+ref.Name)
		}
		if st.AcquireTime != nil {
			at := st.AcquireTime.UTC()
			row.Since = &at
		}
		if s.Node(st.NodeName) == nil && len(s.Lack(cluster.Nodes)) == 0 {
			row.Problem = "there is no such node"
		}
		rows = append(rows, row)
	}
	slices.SortFunc(rows, func(a, b Owner) int {
		return strings.Compare(a.Address+" "+a.Segment, b.Address+" "+b.Segment)
	})
	return rows
}

// Ownerless returns the addresses that nodes may answer for on a segment, and none does. It plans
// for each node, which takes longer than OwnersOf.
func Ownerless(s *cluster.State) []Owner {
	owned := map[string]bool{}
	for _, o := range s.Owners {
		if o.Status.NodeName != "" {
			owned[o.Status.Address+" "+o.Status.Segment] = true
		}
	}
	var rows []Owner
	for at, c := range s.Contenders() {
		row := Owner{
			Address: at.Address.String(), Segment: at.Segment,
			Problem: "nobody answers; these nodes may: " + strings.Join(c.Nodes, ", "),
		}
		if owned[row.Address+" "+row.Segment] {
			continue
		}
		for _, svc := range s.Holders(at.Address) {
			row.Services = append(row.Services, svc.Namespace+"/"+svc.Name)
		}
		rows = append(rows, row)
	}
	slices.SortFunc(rows, func(a, b Owner) int {
		return strings.Compare(a.Address+" "+a.Segment, b.Address+" "+b.Segment)
	})
	return rows
}

// Segment is a node's view of a segment.
type Segment struct {
	Node      string   `json:"node"`
	Interface string   `json:"interface"`
	State     string   `json:"state"`
	MAC       string   `json:"mac,omitempty"`
	Subnets   []string `json:"subnets,omitempty"`
	// Peers counts the other speakers that it hears there.
	Peers int `json:"peers"`
	// Owned counts the addresses that it answers for there.
	Owned      int    `json:"owned"`
	ReturnPath string `json:"returnPath,omitempty"`
	// Reason and Problem are what is wrong; empty: nothing.
	Reason  SegmentReason `json:"reason,omitempty"`
	Problem string        `json:"problem,omitempty"`
}

// SegmentReason is what is wrong with a node's view of a segment, in a word.
type SegmentReason string

const (
	// SegmentWaiting: the speaker does not announce there.
	SegmentWaiting SegmentReason = "Waiting"
	// SegmentAlone: it hears nobody, though others share the subnet.
	SegmentAlone SegmentReason = "Alone"
	// SegmentReturnPath: replies leave by another interface.
	SegmentReturnPath SegmentReason = "ReturnPath"
	// SegmentProxyARP: a router answers for every address.
	SegmentProxyARP SegmentReason = "ProxyARP"
)

// SegmentsOf returns each node's view of its segments, by node and interface.
func SegmentsOf(s *cluster.State, node string) []Segment {
	sharers := map[string]int{} // speakers with a subnet
	for _, speaker := range s.Speakers {
		for _, r := range speaker.Status.Segments {
			for _, subnet := range r.Subnets {
				sharers[subnet]++
			}
		}
	}
	var rows []Segment
	for _, speaker := range s.Speakers {
		if node != "" && speaker.Name != node {
			continue
		}
		for _, r := range speaker.Status.Segments {
			row := Segment{
				Node: speaker.Name, Interface: r.Interface, State: string(r.State), MAC: r.MAC, Subnets: r.Subnets,
				Peers: number(r.PeersAlive), Owned: number(r.AddressesOwned), ReturnPath: string(r.ReturnPath),
			}
			alone := row.Peers == 0 &&
				slices.ContainsFunc(r.Subnets, func(subnet string) bool { return sharers[subnet] > 1 })
			switch {
			case r.State == v1alpha1.SegmentWaiting:
				row.Reason, row.Problem = SegmentWaiting, "the link is down, or the speaker listens still"
			case alone:
				row.Reason, row.Problem = SegmentAlone, "it hears no other speaker, though others have an address of the same subnet: what is between them drops hellos (EtherType 0x88b5), or they are not on one segment"
			case r.ReturnPath == v1alpha1.ReturnPathOther:
				row.Reason, row.Problem = SegmentReturnPath, "replies to clients beyond the segment leave by another interface"
			case r.ProxyARPMAC != "":
				row.Reason, row.Problem = SegmentProxyARP, "router "+r.ProxyARPMAC+" answers ARP for every address (proxy ARP)"
			}
			rows = append(rows, row)
		}
	}
	slices.SortFunc(rows, func(a, b Segment) int {
		return strings.Compare(a.Node+" "+a.Interface, b.Node+" "+b.Interface)
	})
	return rows
}

// Session is a node's session with a router.
type Session struct {
	Node     string     `json:"node"`
	Neighbor string     `json:"neighbor"`
	Address  string     `json:"address,omitempty"`
	State    string     `json:"state"`
	Since    *time.Time `json:"since,omitempty"`
	Prefixes int        `json:"prefixes"`
	Families []string   `json:"families,omitempty"`
	BFD      string     `json:"bfd,omitempty"`
	// LastError is why it is down, or was last.
	LastError string `json:"lastError,omitempty"`
}

// SessionsOf returns the sessions, by neighbor and node. An empty node or neighbor stands for all.
func SessionsOf(s *cluster.State, node, neighbor string) []Session {
	var rows []Session
	for _, speaker := range s.Speakers {
		for _, r := range speaker.Status.Sessions {
			if node != "" && speaker.Name != node || neighbor != "" && r.NeighborName != neighbor {
				continue
			}
			row := Session{
				Node: speaker.Name, Neighbor: r.NeighborName, State: string(r.State), Prefixes: number(r.Prefixes),
				BFD: string(r.BFD), LastError: r.LastError,
			}
			if r.Address != nil {
				row.Address = *r.Address
			}
			if r.LastTransitionTime != nil {
				at := r.LastTransitionTime.UTC()
				row.Since = &at
			}
			for _, f := range r.Families {
				row.Families = append(row.Families, string(f))
			}
			rows = append(rows, row)
		}
	}
	slices.SortFunc(rows, func(a, b Session) int {
		return strings.Compare(a.Neighbor+" "+a.Node+" "+a.Address, b.Neighbor+" "+b.Node+" "+b.Address)
	})
	return rows
}
