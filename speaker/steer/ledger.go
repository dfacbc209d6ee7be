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
	due     map[string]time.Time // when a group is to be set again, though nothing changed
	suspect map[string]bool      // nodes that are thought dead, and take no connections
}

func newLedger() *ledger {
	return &ledger{
		services: map[string]steering.Service{}, names: map[string][]string{}, owner: map[string]string{},
		encapsulates: map[string]bool{}, joining: map[string]map[string]time.Time{}, due: map[string]time.Time{},
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
		}
	}
	return slices.Concat(changed, l.names[group])
}

// count returns the members that count by now, and when the next one does; zero: all do. Nodes that
// join wait, as long as another one takes new connections.
func (l *ledger) count(name string, all []table.Member, now time.Time) (counted []table.Member, due time.Time) {
	before, known := l.services[name]
	waiting := map[string]time.Time{}
	takes := false
	for _, m := range all {
		joins := known && !m.Draining && !slices.ContainsFunc(before.Members, func(b table.Member) bool {
			return b.Node == m.Node
		})
		if joins {
			at, ok := l.joining[name][m.Node]
			if !ok {
				at = now.Add(joinDelay)
			}
			if now.Before(at) {
				waiting[m.Node] = at
				if due.IsZero() || at.Before(due) {
					due = at
				}
				continue
			}
		}
		takes = takes || !m.Draining && !l.suspect[m.Node]
		counted = append(counted, m)
	}
	if len(waiting) == 0 || !takes {
		delete(l.joining, name)
		return all, time.Time{}
	}
	l.joining[name] = waiting
	return counted, due
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

func members(steered []plan.SteeredMember, ipv4 bool, addresses map[string][]netip.Addr) []table.Member {
	var found []table.Member
	for _, m := range steered {
		if !slices.ContainsFunc(addresses[m.Node], func(a netip.Addr) bool { return a.Is4() == ipv4 }) {
			continue
		}
		found = append(found, table.Member{Node: m.Node, Weight: m.Endpoints, Draining: m.Draining})
	}
	return found
}
