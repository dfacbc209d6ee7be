package speaker

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/speaker/dataplane/ipvs"
	"github.com/berth-lb/berth/speaker/plan"
)

// This file is the planner's part in what Berth forwards.

// carried is what is remembered of groups that this node forwards for, from plan to plan. Only the planner's goroutine uses it.
type carried struct {
	drains *drains
	marks  *marks
	ready  readiness
	handed map[string]handover // what is forwarded, by group
}

func newCarried(overdue func(service string)) *carried {
	return &carried{newDrains(overdue), newMarks(), readiness{}, map[string]handover{}}
}

// review returns the backends of the Services of a group that Berth forwards for.
func (c *carried) review(group plan.Group, services []plan.ClassifiedService, backendsOf func(service string) []plan.Backend, snapshot *config.Snapshot) map[string][]plan.Backend {
	backends := map[string][]plan.Backend{}
	for _, s := range services {
		if s.IPVSScheduler != "" {
			backends[s.Name] = backendsOf(s.Name)
		}
	}
	for _, s := range group.Services {
		c.drains.review(s.Name, backends[s.Name], snapshot.DrainTimeout(s.Addresses))
	}
	return backends
}

// forget forgets a group that is no more.
func (c *carried) forget(group string) {
	if c != nil {
		c.marks.assign(group, nil)
		delete(c.ready, group)
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

// forward has the node forward for a group, and returns what its kernel shows of that.
func (p *planner) forward(group plan.Group, services []plan.ClassifiedService) plan.Readiness {
	if p.forwarder == nil {
		return plan.Readiness{Shown: true} // other nodes compare capabilities: there is nothing to withhold
	}
	backends := p.carried.review(group, services, p.sources.backends, p.world.Snapshot)
	marks := p.carried.marks.assign(group.ID, plan.MarkedFrontends(services))
	desired := plan.PlanForwarding(services, backends, marks, p.world)
	next, again := p.carried.handed[group.ID].next(desired, group.Services, time.Now())
	p.carried.handed[group.ID] = next
	p.forwarder.sync(group.ID, next.Forwarding)
	if again > 0 {
		p.later(group, again)
	}
	err := p.forwarder.serves(desired)
	complaint := ""
	if err != nil && !errors.Is(err, ipvs.ErrPending) && !p.forwarder.fails() { // else the report says it once
		complaint = fmt.Sprintf("IPVS: %v", err)
	}
	p.reporter.complain(reasonIPVS, group.ID, complaint)
	ready, again := p.carried.ready.review(group.ID, err, time.Now())
	if again > 0 {
		p.later(group, again)
	}
	return ready
}

// later plans a group anew when the time has passed; too late does no harm.
func (p *planner) later(group plan.Group, after time.Duration) {
	time.AfterFunc(after, func() { p.tasks.Add(task{serviceChanged, group.Services[0].Name}) })
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
	p.world.Capabilities = plan.Capability(able...)
	p.l2.SetCapabilities(p.world.Capabilities)
}
