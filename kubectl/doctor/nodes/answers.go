package nodes

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/berth-lb/berth/internal/probe"
)

// host is somebody who answered, as a node saw it.
type host struct {
	mac, by, iface string
}

// answers judges who answered for addresses of pools.
func (j *judgement) answers() {
	owners := j.macs()
	strangers := map[host][]netip.Addr{}
	var order []host
	for _, by := range j.nodes() {
		r := j.Reports[by]
		for _, a := range j.ofPools(r) {
			at := host{a.MAC, by, a.Interface}
			if j.allowed(a, owners[a.MAC]) || j.proxy(r, a) || told(strangers, at.mac, a.Address) {
				continue
			}
			if strangers[at] == nil {
				order = append(order, at)
			}
			strangers[at] = append(strangers[at], a.Address)
		}
	}
	j.twice(owners)
	for _, at := range order {
		j.stranger(at, strangers[at], owners)
	}
}

// ofPools returns the answers but for those of nodes that are not asked.
func (j *judgement) ofPools(r probe.Report) []probe.Answer {
	return slices.DeleteFunc(
		slices.Clone(r.Answers),
		func(a probe.Answer) bool { return j.Plan.Silent[a.Address] != "" },
	)
}

// told reports whether another node saw the host answer for the address, too.
func told(strangers map[host][]netip.Addr, mac string, a netip.Addr) bool {
	for at, addresses := range strangers {
		if at.mac == mac && slices.Contains(addresses, a) {
			return true
		}
	}
	return false
}

func (j *judgement) stranger(at host, addresses []netip.Addr, owners map[string]string) {
	maybe := ""
	if unknown := j.withoutMACs(owners); len(unknown) > 0 {
		maybe = fmt.Sprintf(" (unless it is one of the nodes whose MAC addresses are not known: %s)", few(unknown))
	}
	node := owners[at.mac]
	pools := map[string][]string{}
	for _, a := range addresses {
		pools[j.poolOf(a)] = append(pools[j.poolOf(a)], a.String())
	}
	for _, object := range slices.Sorted(maps.Keys(pools)) {
		which := few(pools[object])
		if node == "" {
			j.find(
				AddressAnswered,
				object,
				"a host with MAC address %s answers for %s, as node %s sees on interface %s%s",
				at.mac,
				which,
				at.by,
				at.iface,
				maybe,
			)
			continue
		}
		j.find(AddressAnswered, object,
			"node %s (MAC address %s) answers for %s, as node %s sees on interface %s, and no Service has that",
			node, at.mac, which, at.by, at.iface)
	}
}

// allowed reports whether a node may answer for an address: because a Service has it, or because it
// is the node's, which is a finding that needs no probe.
func (j *judgement) allowed(a probe.Answer, node string) bool {
	if node == "" {
		return false
	}
	_, used := j.uses.Of(a.Address)
	return used || j.given[a.Address] || j.Plan.Given[a.Address]
}

func (j *judgement) proxy(r probe.Report, a probe.Answer) bool {
	return slices.ContainsFunc(r.Links, func(l probe.Link) bool {
		return l.Name == a.Interface && slices.Contains(l.Proxies, a.MAC)
	})
}

// reply is that a node answered for an address.
type reply struct {
	probe.Answer
	node, asker string
}

// twice finds addresses for which several nodes answered at the same time. Those that a stranger
// answers for are found already.
func (j *judgement) twice(owners map[string]string) {
	replies := map[netip.Addr][]reply{}
	for _, asker := range j.nodes() {
		for _, a := range j.ofPools(j.Reports[asker]) {
			if node := owners[a.MAC]; node != "" {
				replies[a.Address] = append(replies[a.Address], reply{a, node, asker})
			}
		}
	}
	type pair struct{ object, one, other string }
	found := map[pair][]string{}
	var order []pair
	for _, a := range slices.SortedFunc(maps.Keys(replies), netip.Addr.Compare) {
		for i, x := range replies[a] {
			for _, y := range replies[a][i+1:] {
				at := pair{j.poolOf(a), min(x.node, y.node), max(x.node, y.node)}
				if x.node == y.node || !j.together(x, y) || slices.Contains(found[at], a.String()) {
					continue
				}
				if found[at] == nil {
					order = append(order, at)
				}
				found[at] = append(found[at], a.String())
			}
		}
	}
	for _, at := range order {
		j.find(
			AddressTwice,
			at.object,
			"nodes %s and %s both answer for %s on one segment",
			at.one,
			at.other,
			few(found[at]),
		)
	}
}

// together reports whether two nodes answered at the same time, and not one after the other because
// the address moved. A node does not hear its own answers, so what two nodes heard counts if both
// were answered whenever they asked.
func (j *judgement) together(x, y reply) bool {
	const always = 1<<probe.Rounds - 1
	if x.asker == y.asker {
		return x.Interface == y.Interface && x.Rounds&y.Rounds != 0
	}
	return x.Rounds&y.Rounds == always && j.one(x, y)
}

// one reports whether two answers were heard on one segment.
func (j *judgement) one(x, y reply) bool {
	subnets := func(r reply) []netip.Prefix {
		for _, l := range j.Reports[r.asker].Links {
			if l.Name == r.Interface {
				return l.Subnets
			}
		}
		return nil
	}
	of := subnets(y)
	return slices.ContainsFunc(subnets(x), func(p netip.Prefix) bool { return slices.Contains(of, p) })
}

// poolOf returns the object that an address is in.
func (j *judgement) poolOf(a netip.Addr) string {
	if pool := j.Plan.Snapshot.PoolOf(a); pool != nil {
		return "LoadBalancerPool " + pool.Name
	}
	return ""
}

// macs returns which node has a MAC address, as the probes and the speakers say.
func (j *judgement) macs() map[string]string {
	owners := map[string]string{}
	for _, s := range j.Speakers {
		for _, x := range s.Status.Segments {
			owners[x.MAC] = s.Name
		}
	}
	for node, r := range j.Reports {
		for _, l := range r.Links {
			owners[l.MAC] = node
		}
	}
	for _, asker := range j.nodes() {
		r := j.Reports[asker]
		for _, a := range r.Answers {
			if node := j.Plan.Silent[a.Address]; node != "" && owners[a.MAC] == "" && !j.proxy(r, a) {
				owners[a.MAC] = node
			}
		}
	}
	return owners
}

// withoutMACs returns the nodes that no MAC address is known of, ascending.
func (j *judgement) withoutMACs(owners map[string]string) []string {
	known := map[string]bool{}
	for _, node := range owners {
		known[node] = true
	}
	var names []string
	for _, n := range j.Nodes {
		if !known[n.Name] {
			names = append(names, n.Name)
		}
	}
	slices.Sort(names)
	return names
}
