package nodes

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/berth-lb/berth/config/inuse"
	"github.com/berth-lb/berth/internal/probe"
	"github.com/berth-lb/berth/kubectl/cluster"
)

// Found is a finding: its ID, what it is about, and what it says.
type Found struct{ ID, Object, What string }

// IDs of findings; those that others have too are among them.
const (
	AddressAnswered   = "pool-address-answered"
	AddressTwice      = "pool-address-answered-twice"
	FramesLost        = "frames-lost"
	RouterUnreachable = "router-unreachable"
	RouterPassword    = "router-password"
	ReversePath       = "rp-filter"
	ReturnPath        = "return-path"
	ProxyARP          = "proxy-arp"
	PathMTU           = "path-mtu"
	KernelFeature     = "kernel-feature"
)

// Seen is what the probes saw.
type Seen struct {
	Plan *Plan
	// Reports by node. A node that has none is in Failures.
	Reports map[string]probe.Report
	// Failures are why a node has no report, by node.
	Failures map[string]string
}

// Conclusion is what follows.
type Conclusion struct {
	Found []Found
	// Facts are what was seen and is not wrong, and Unknown what could not be looked at.
	Facts, Unknown []string
}

// Judge concludes from what the probes saw.
func Judge(s *cluster.State, seen *Seen) Conclusion {
	j := &judgement{State: s, Seen: seen, uses: s.Uses(seen.Plan.Snapshot), given: given(s)}
	j.Facts, j.Unknown = slices.Clone(seen.Plan.Facts), slices.Clone(seen.Plan.Unknown)
	for _, node := range slices.Sorted(maps.Keys(seen.Failures)) {
		j.Unknown = append(j.Unknown, fmt.Sprintf(
			"node %s: nothing was looked at from there: %s", node, seen.Failures[node],
		))
	}
	j.answers()
	j.frames()
	for _, node := range j.nodes() {
		r := seen.Reports[node]
		j.links(r)
		j.routers(r)
		j.paths(r)
		j.kernel(r)
		for _, text := range r.Failures {
			j.Unknown = append(j.Unknown, fmt.Sprintf("node %s: %s", node, text))
		}
	}
	return j.Conclusion
}

// Settled reports whether every probe has seen all that it can but messages of other nodes, and
// whether all of those arrived.
func (s *Seen) Settled() (done, heard bool) {
	done = len(s.Reports)+len(s.Failures) == len(s.Plan.Requests)
	for _, r := range s.Reports {
		done = done && r.Done
	}
	return done, len(s.lost()) == 0
}

type judgement struct {
	*cluster.State
	*Seen
	Conclusion
	uses  *inuse.Set
	given map[netip.Addr]bool
}

func (j *judgement) find(id, object, format string, args ...any) {
	j.Found = append(j.Found, Found{id, object, fmt.Sprintf(format, args...)})
}

// nodes returns the names of those with a report.
func (s *Seen) nodes() []string { return slices.Sorted(maps.Keys(s.Reports)) }

// silence is that a node's messages do not arrive at another one.
type silence struct{ to, iface, from string }

// lost returns the messages that should have arrived: of each node that has an address in the same
// subnet on an interface that is a segment.
func (s *Seen) lost() []silence {
	var all []silence
	for _, to := range s.nodes() {
		for _, l := range s.Reports[to].Links {
			if !l.Segment || !l.Up {
				continue
			}
			for _, from := range s.nodes() {
				if from != to && s.on(from, l.Subnets) && !slices.Contains(l.Hears, from) {
					all = append(all, silence{to, l.Name, from})
				}
			}
		}
	}
	return all
}

// on reports whether a segment of the node has one of the subnets.
func (s *Seen) on(node string, subnets []netip.Prefix) bool {
	return slices.ContainsFunc(s.Reports[node].Links, func(l probe.Link) bool {
		return l.Segment && l.Up && slices.ContainsFunc(l.Subnets, func(p netip.Prefix) bool {
			return slices.Contains(subnets, p)
		})
	})
}

func (j *judgement) frames() {
	type place struct{ to, iface string }
	var order []place
	from := map[place][]string{}
	for _, l := range j.lost() {
		at := place{l.to, l.iface}
		if from[at] == nil {
			order = append(order, at)
		}
		from[at] = append(from[at], l.from)
	}
	for _, at := range order {
		j.find(FramesLost, "Node "+at.to,
			"on interface %s no multicast frame of EtherType 0x88b5 arrives from %s, though they share a subnet",
			at.iface, few(from[at]))
	}
}

// links judges the routing of the interfaces on segments.
func (j *judgement) links(r probe.Report) {
	object := "Node " + r.Node
	for _, l := range r.Links {
		if !l.Segment {
			continue
		}
		elsewhere := func(by []string) bool {
			return slices.ContainsFunc(by, func(name string) bool { return name != l.Name })
		}
		const strict = 1
		switch away := elsewhere(l.Replies4); {
		case away && l.ReversePath == strict:
			j.find(
				ReversePath,
				object,
				"interface %s: rp_filter is 1 (strict), and replies to clients beyond the segment leave by %s: the kernel drops what these clients send",
				l.Name,
				few(l.Replies4),
			)
		case away || elsewhere(l.Replies6):
			j.find(
				ReturnPath,
				object,
				"interface %s: replies to clients beyond the segment leave by another interface (%s)",
				l.Name,
				few(slices.Compact(slices.Concat(l.Replies4, l.Replies6))),
			)
		}
		for _, mac := range l.Proxies {
			j.find(
				ProxyARP,
				object,
				"interface %s: router %s answers for every address that it is asked for (proxy ARP)",
				l.Name,
				mac,
			)
		}
	}
}

func (j *judgement) routers(r probe.Report) {
	for _, k := range r.Routers {
		object := "BGPNeighbor " + k.Neighbor
		i := slices.IndexFunc(j.Plan.Requests, func(x probe.Request) bool { return x.Node == r.Node })
		port := uint16(0)
		for _, x := range j.Plan.Requests[i].Routers {
			if x.Neighbor == k.Neighbor {
				port = x.Port
			}
		}
		at := netip.AddrPortFrom(k.Address, cmp.Or(port, 179))
		switch {
		case k.Established:
		case k.Failure == "" && k.Untried:
			j.find(
				RouterPassword,
				object,
				"%s takes connections from node %s without a password, and the BGPNeighbor has one",
				at,
				r.Node,
			)
		case k.Failure == "":
		case k.Signature:
			j.find(RouterPassword, object, "from node %s, %s: %s", r.Node, at, k.Failure)
		case k.Untried:
			j.Unknown = append(j.Unknown, fmt.Sprintf(
				"whether node %s reaches %s (%s), which has a password that was not tried: without it, %s",
				r.Node, at, object, k.Failure,
			))
		default:
			j.find(RouterUnreachable, object, "from node %s, %s: %s", r.Node, at, k.Failure)
		}
	}
}

func (j *judgement) paths(r probe.Report) {
	for _, p := range r.Paths {
		if p.Largest > 0 && p.Largest < p.MTU {
			j.find(
				PathMTU,
				"Node "+r.Node,
				"interface %s sends packets of %d bytes, and of those to node %s (%s) none above about %d is answered",
				p.Interface,
				p.MTU,
				p.Node,
				p.Address,
				p.Largest,
			)
		}
	}
}

// kernel judges what the kernel lacks. What only is not loaded may be there when it is needed.
func (j *judgement) kernel(r probe.Report) {
	for _, part := range []struct {
		name, purpose string
		is            probe.Presence
		needed        bool
	}{
		{"nftables", "Berth's rules and kube-proxy's", r.Kernel.NFTables, true},
		{"conntrack", "kube-proxy", r.Kernel.Conntrack, true},
		{"IPVS (ip_vs)", "pools with the dataplane IPVS", r.Kernel.IPVS, j.Plan.IPVS},
	} {
		switch {
		case !part.needed:
		case part.is == probe.Absent:
			j.find(
				KernelFeature,
				"Node "+r.Node,
				"kernel %s has no %s, which %s need",
				r.Kernel.Release,
				part.name,
				part.purpose,
			)
		case part.is == probe.NotLoaded:
			j.Facts = append(j.Facts, fmt.Sprintf(
				"node %s: %s is not loaded; whether kernel %s has it shows when it is needed",
				r.Node,
				part.name,
				r.Kernel.Release,
			))
		}
	}
}
