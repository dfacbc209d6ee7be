package steer

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/speaker/dataplane/podnat"
	"github.com/berth-lb/berth/speaker/dataplane/steering"
	"github.com/berth-lb/berth/speaker/dataplane/steering/table"
	"github.com/berth-lb/berth/speaker/plan"
)

// joinDelay is how long after its first endpoint became ready a node gets no connections of a
// Service that other nodes have endpoints of: until then kube-proxy there may have no rule for it,
// and drops them.
const joinDelay = 1500 * time.Millisecond

// ledger has all Services in the driver's terms. Each port is one of its own there, by a name that
// lasts: what is known of its connections does not get lost when the endpoints of one family or
// port are told of before those of another. It is pure.
type ledger struct {
	services map[string]steering.Service
	names    map[string][]string // of Services, by group
	owner    map[string]string   // its group, by name of a Service
	// encapsulates are the groups whose pools ask that all packets be encapsulated.
	encapsulates map[string]bool
	// joining says when a node gets connections of a Service, by name and node.
	joining map[string]map[string]time.Time
	// unready are the members without an endpoint that is ready or serves, by name and node.
	unready map[string]map[string]bool
	due     map[string]time.Time // when a group is to be set again, though nothing changed
	suspect map[string]bool      // nodes that are thought dead, and take no connections
}

func newLedger() *ledger {
	return &ledger{
		services: map[string]steering.Service{}, names: map[string][]string{}, owner: map[string]string{},
		encapsulates: map[string]bool{}, joining: map[string]map[string]time.Time{}, due: map[string]time.Time{},
		unready: map[string]map[string]bool{},
	}
}

// set replaces the ports of a group, and returns the names of Services that may be others now. A
// node without an address of a port's family cannot be reached by it, and is left out.
func (l *ledger) set(
	group string, ports []plan.SteeredPort, addresses map[string][]netip.Addr, now time.Time,
) (changed []string) {
	changed = l.names[group]
	delete(l.names, group)
	delete(l.encapsulates, group)
	delete(l.due, group)
	for _, p := range ports {
		at := netip.AddrPortFrom(p.Address, p.Port)
		name := fmt.Sprintf("%s %s/%d", p.Service, at, p.Protocol)
		counted, due := l.count(name, members(p.Members, p.Address.Is4(), addresses), now)
		if before, ok := l.due[group]; !due.IsZero() && (!ok || due.Before(before)) {
			l.due[group] = due
		}
		l.services[name] = steering.Service{
			Frontends: []steering.Frontend{{Address: at, Protocol: uint8(p.Protocol)}}, Members: counted,
			Affinity:  p.Affinity,
			TCPChance: p.How.SecondChance != v1alpha1.SecondChanceNever,
			UDPChance: p.How.SecondChance == v1alpha1.SecondChanceTCPAndUDP, SourceRanges: p.SourceRanges,
		}
		l.owner[name] = group
		l.names[group] = append(l.names[group], name)
		if p.How.Encapsulation == v1alpha1.EncapsulationIPIP {
			l.encapsulates[group] = true
		}
	}
	for _, name := range changed {
		if l.owner[name] == group && !slices.Contains(l.names[group], name) {
			delete(l.owner, name)
			delete(l.services, name)
			delete(l.joining, name)
			delete(l.unready, name)
		}
	}
	return slices.Concat(changed, l.names[group])
}

// count returns the members that count by now, and when the next one does; zero: all do. Nodes that
// join wait, as long as another one takes new connections; those whose endpoints were unready keep
// what they have for as long. A node whose endpoints were never ready has nothing to keep.
func (l *ledger) count(name string, all []member, now time.Time) (counted []table.Member, due time.Time) {
	before, known := l.services[name]
	had := func(node string) bool {
		return slices.ContainsFunc(before.Members, func(b table.Member) bool { return b.Node == node })
	}
	all = slices.DeleteFunc(all, func(m member) bool { return m.unready && known && !had(m.Node) })
	waiting, unready := map[string]time.Time{}, map[string]bool{}
	takes := false
	for _, m := range all {
		was := had(m.Node)
		wasUnready := was && l.unready[name][m.Node]
		if joins := known && !m.Draining && (!was || wasUnready && !m.unready); joins {
			at, ok := l.joining[name][m.Node]
			if !ok {
				at = now.Add(joinDelay)
			}
			if now.Before(at) {
				waiting[m.Node] = at
				if due.IsZero() || at.Before(due) {
					due = at
				}
				if !wasUnready {
					continue
				}
				m.Draining, m.unready = true, true
			}
		}
		takes = takes || !m.Draining && !l.suspect[m.Node]
		counted = append(counted, m.Member)
		if m.unready {
			unready[m.Node] = true
		}
	}
	if len(waiting) > 0 && takes {
		l.joining[name], l.unready[name] = waiting, unready
		return counted, due
	}
	counted = nil
	for _, m := range all {
		counted = append(counted, m.Member)
		if !m.unready {
			delete(unready, m.Node)
		}
	}
	delete(l.joining, name)
	l.unready[name] = unready
	return counted, time.Time{}
}

// next returns the groups that are due, and when the next one is; zero: never.
func (l *ledger) next(now time.Time) (groups []string, at time.Time) {
	for group, due := range l.due {
		switch {
		case !now.Before(due):
			groups = append(groups, group)
		case at.IsZero() || due.Before(at):
			at = due
		}
	}
	return groups, at
}

// frontends are those whose connections this node hands to its own Pods.
func frontends(ports []plan.SteeredPort) []podnat.Frontend {
	var found []podnat.Frontend
	for _, p := range ports {
		if len(p.Pods) > 0 {
			found = append(found, podnat.Frontend{
				Address: p.Address, Port: p.Port, Protocol: uint8(p.Protocol), Pods: p.Pods, Affinity: p.Affinity,
			})
		}
	}
	return found
}

// member is a node with endpoints, perhaps only such as are neither ready nor serve.
type member struct {
	table.Member
	unready bool
}

func members(steered []plan.SteeredMember, ipv4 bool, addresses map[string][]netip.Addr) []member {
	var found []member
	for _, m := range steered {
		if !slices.ContainsFunc(addresses[m.Node], func(a netip.Addr) bool { return a.Is4() == ipv4 }) {
			continue
		}
		found = append(found, member{
			table.Member{Node: m.Node, Weight: m.Endpoints, Draining: m.Draining}, m.Unready,
		})
	}
	return found
}
