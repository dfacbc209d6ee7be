package speaker

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-lb/berth/bgp"
	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/ipvs"
)

// This file is the planner's part in what Berth forwards.

// carried is what is remembered of groups that this node forwards for, from plan to plan. Only the planner's goroutine uses it.
type carried struct {
	drains *drains
	marks  *marks
	trust  trust
	handed map[string]handover // what is forwarded, by group
}

func newCarried(overdue func(service string)) *carried {
	return &carried{newDrains(overdue), newMarks(), trust{}, map[string]handover{}}
}

// review returns the backends of the Services of a group that Berth is to forward for, and gives the group its marks.
func (c *carried) review(group *Group, backendsOf func(service string) []Backend, snapshot *config.Snapshot) map[string][]Backend {
	if c == nil {
		return nil
	}
	backends := map[string][]Backend{}
	for _, s := range group.Services {
		if schedulerOf(s, snapshot) != "" {
			backends[s.Name] = backendsOf(s.Name)
		}
		c.drains.review(s.Name, backends[s.Name], snapshot.DrainTimeout(s.Addresses))
	}
	group.Marks = c.marks.assign(group.ID, needMarks(group.Services, snapshot))
	return backends
}

// forget forgets a group that is no more.
func (c *carried) forget(group string) {
	if c != nil {
		c.marks.assign(group, nil)
		delete(c.trust, group)
		delete(c.handed, group)
	}
}

// forgetService forgets a Service that is no more.
func (c *carried) forgetService(name string) {
	if c != nil {
		c.drains.review(name, nil, 0)
	}
}

// overdue has a Service planned anew of which an endpoint has terminated for as long as it may.
func (p *planner) overdue(service string) {
	p.Logger.Info("an endpoint has terminated for as long as it may keep connections (drainTimeout)", "service", service)
	p.tasks.Add(task{serviceChanged, service})
}

// forward has the node forward what is desired, and for a while what kube-proxy is taking over.
func (p *planner) forward(group Group, desired Forwarding) {
	if p.forwarder == nil {
		return
	}
	next, again := p.carried.handed[group.ID].next(desired, group.Services, time.Now())
	p.carried.handed[group.ID] = next
	p.forwarder.sync(group.ID, next.Forwarding)
	if again > 0 {
		p.later(group, again)
	}
}

// later plans a group anew when the time has passed; too late does no harm.
func (p *planner) later(group Group, after time.Duration) {
	time.AfterFunc(after, func() { p.tasks.Add(task{serviceChanged, group.Services[0].Name}) })
}

// minds has this node announce nothing of a group for which its kernel does not forward yet, or cannot: no routes, and on the
// segments it is no candidate. What it owns there others may take; until they do it goes on to answer.
func (p *planner) minds(group Group, plan *Plan) {
	if p.forwarder == nil {
		return
	}
	err := p.forwarder.serves(plan.Forwarding)
	carries := p.carried.trust.carries(group.ID, err, time.Now(), func(after time.Duration) { p.later(group, after) })
	complaint := ""
	if err != nil && !errors.Is(err, ipvs.ErrPending) && !p.forwarder.fails() { // else the report says it once
		complaint = fmt.Sprintf("IPVS: %v", err)
	}
	p.reporter.complain(reasonIPVS, group.ID, complaint)
	if carries || needed(group.Services, p.world.Snapshot) == 0 {
		return
	}
	plan.BGP = bgp.Desired{}
	for id, part := range plan.L2 {
		part.Candidates = slices.DeleteFunc(slices.Clone(part.Candidates), func(node string) bool { return node == p.Node })
		plan.L2[id] = part
	}
}

// followForwarder has it looked at again what this node can forward.
func (p *planner) followForwarder(address netip.Addr) {
	t := task{kind: forwarderChanged}
	if address.IsValid() {
		t = task{forwardedChanged, address.String()}
	}
	p.tasks.Add(t)
}

// reviewPods takes in which addresses the pods of this node have, for what they reach of their own.
func (p *planner) reviewPods() {
	if p.forwarder == nil {
		return
	}
	prefixes, complaint := p.PodCIDRs, ""
	if node := p.sources.nodeObject(p.Node); node != nil && len(prefixes) == 0 {
		prefixes = podCIDRs(node)
	}
	if len(prefixes) == 0 {
		complaint = "IPVS: this Node has no spec.podCIDRs, so its pods are not known: under externalTrafficPolicy Local they reach endpoints as clients from outside do, and not themselves; give speakers --pod-cidrs"
	}
	p.reporter.complain(reasonPodsUnknown, "", complaint)
	p.forwarder.setPods(prefixes)
}

// podCIDRs are the ranges that pods of the node have their addresses from, as far as the API says.
func podCIDRs(node *corev1.Node) []netip.Prefix {
	var found []netip.Prefix
	for _, text := range node.Spec.PodCIDRs {
		if prefix, err := netip.ParsePrefix(text); err == nil {
			found = append(found, prefix.Masked())
		}
	}
	return found
}

// reaches tells whether the kernel of a node answers at its InternalIPs. Of a node that is no more nobody wants to know.
func (p *planner) reaches(ctx context.Context, name string) bool {
	node := p.sources.nodeObject(name)
	return node != nil && reachable(ctx, internalIPs(node))
}

// reviewForwarder takes in with which schedulers this node can forward.
func (p *planner) reviewForwarder() {
	able, lacking := p.forwarder.schedulers()
	p.reporter.ability(lacking)
	p.world.Capabilities = capability(able...)
	p.l2.SetCapabilities(p.world.Capabilities)
}
