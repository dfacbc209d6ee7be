package config

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"

	"github.com/berth-lb/berth/bgp/community"
	"github.com/berth-lb/berth/config/v1alpha1"
)

// routeAnnouncement compiles a RouteAnnouncement. An invalid selector or community keeps it from
// effect; the rest of its problems do not.
func (c *compiler) routeAnnouncement(o *v1alpha1.RouteAnnouncement) {
	key := c.begin("RouteAnnouncement", o)
	a := &RouteAnnouncement{
		Name:        o.Name,
		AggregateV4: 32,
		AggregateV6: 128,
		WeightBy:    o.Spec.WeightBy,
		LocalPref:   number[uint32](o.Spec.LocalPreference),
		MED:         number[uint32](o.Spec.MED),
		Prepend:     number[uint8](o.Spec.Prepend),
	}
	var okPools, okNodes, okServices bool
	a.pools, okPools = c.poolSet(key, o.Spec.PoolNames, o.Spec.PoolSelector)
	a.Nodes, okNodes = c.selector(key, "nodeSelector", o.Spec.NodeSelector, noEffect)
	a.services, okServices = c.selector(key, "serviceSelector", o.Spec.ServiceSelector, noEffect)
	if okNeighbors := c.neighborsOf(key, o.Spec, a); !okPools || !okNeighbors || !okNodes || !okServices {
		return
	}
	if g := o.Spec.Aggregation; g != nil {
		a.AggregateV4, a.AggregateV6 = length(g.IPv4PrefixLength, 32), length(g.IPv6PrefixLength, 128)
		a.Specifics = g.Specifics == v1alpha1.SpecificsAnnounce
	}
	for i, text := range o.Spec.Communities {
		parsed, err := community.Parse(text)
		if err != nil {
			// Without it, a route could go where it is not meant to: no-export is one.
			c.report(key, ReasonInvalidRoute, "spec.communities[%d]: %v; %s", i, err, noEffect)
			return
		}
		a.Communities = append(a.Communities, parsed)
	}
	slices.SortFunc(a.Communities, community.Compare)
	a.Communities = slices.Compact(a.Communities)
	c.checkAggregates(key, a)
	for i, other := range c.snapshot.routes {
		c.checkMeeting(key, o, a, c.announcements[i], other)
	}
	c.snapshot.routes = append(c.snapshot.routes, a)
	c.announcements = append(c.announcements, o)
}

// neighborsOf compiles to which neighbors a RouteAnnouncement announces.
func (c *compiler) neighborsOf(key Key, spec v1alpha1.RouteAnnouncementSpec, a *RouteAnnouncement) bool {
	if (len(spec.NeighborNames) > 0) == (spec.NeighborSelector != nil) {
		c.report(
			key,
			ReasonInvalidSelector,
			"spec.neighborNames and spec.neighborSelector: write one of them, neighborSelector: {} for all neighbors; %s",
			noEffect,
		)
		return false
	}
	selects := func(n *Neighbor) bool { return slices.Contains(spec.NeighborNames, n.Name) }
	if spec.NeighborSelector != nil {
		selector, ok := c.selector(key, "neighborSelector", spec.NeighborSelector, noEffect)
		if !ok {
			return false
		}
		a.AllNeighbors = selector.Empty()
		selects = func(n *Neighbor) bool { return selector.Matches(n.labels) }
	}
	for _, n := range c.snapshot.Neighbors {
		if selects(n) {
			a.neighbors = append(a.neighbors, n.Name)
		}
	}
	slices.Sort(a.neighbors)
	for i, name := range spec.NeighborNames {
		if a.To(name) {
			continue
		}
		if _, exists := c.problems[Key{"BGPNeighbor", name}]; exists {
			a.Idle = append(a.Idle, name)
			c.report(
				key,
				ReasonUnknownNeighbor,
				"spec.neighborNames[%d]: BGPNeighbor %q is not in effect; fix what its condition Ready says, or take the name out",
				i,
				name,
			)
		} else {
			c.report(
				key,
				ReasonUnknownNeighbor,
				"spec.neighborNames[%d]: no BGPNeighbor %q exists; %s",
				i,
				name,
				c.snapshot.meantNeighbor(name, spec.NeighborNames),
			)
		}
	}
	if spec.NeighborSelector != nil && !a.AllNeighbors && len(a.neighbors) == 0 {
		c.report(
			key,
			ReasonNothingSelected,
			"spec.neighborSelector: no BGPNeighbor that is in effect has these labels; label one so, or change the selector",
		)
	}
	return true
}

// checkAggregates reports pools that do not contain the aggregates of their addresses.
func (c *compiler) checkAggregates(key Key, a *RouteAnnouncement) {
	for _, pool := range c.snapshot.Pools {
		if !a.pools.selects(pool) {
			continue
		}
		for _, r := range pool.Ranges {
			for _, end := range []netip.Addr{r.From(), r.To()} {
				field, bits := "ipv4PrefixLength", a.AggregateV4
				if end.Is6() {
					field, bits = "ipv6PrefixLength", a.AggregateV6
				}
				if prefix := netip.PrefixFrom(end, bits).Masked(); bits < end.BitLen() && !pool.holds(prefix) {
					c.report(
						key,
						ReasonInvalidRoute,
						"spec.aggregation.%s: %s is not all in LoadBalancerPool %s, which has %s there; addresses in it are announced by themselves; choose a longer prefix, or a pool that holds whole ones",
						field,
						prefix,
						pool.Name,
						formatRange(r),
					)
					break
				}
			}
		}
	}
}

// checkMeeting reports where a younger announcement differs from an older one for the same routes,
// as far as the selectors show that there are such routes.
func (c *compiler) checkMeeting(
	key Key,
	o *v1alpha1.RouteAnnouncement,
	a *RouteAnnouncement,
	older *v1alpha1.RouteAnnouncement,
	b *RouteAnnouncement,
) {
	if !a.meets(b) || !surelyOverlap(o.Spec.NodeSelector, older.Spec.NodeSelector) ||
		!surelyOverlap(o.Spec.ServiceSelector, older.Spec.ServiceSelector) {
		return
	}
	other := Key{"RouteAnnouncement", b.Name}
	counts, not := ", which counts", ", which does not count"
	if c.undated(key, other) {
		counts, not = ", and only one of them can count", ", and only one of them can count"
	}
	for _, f := range []struct {
		field        string
		differ       bool
		ours, theirs any
	}{
		{"localPreference", differ(a.LocalPref, b.LocalPref), said(a.LocalPref), said(b.LocalPref)},
		{"med", differ(a.MED, b.MED), said(a.MED), said(b.MED)},
		{"prepend", differ(a.Prepend, b.Prepend), said(a.Prepend), said(b.Prepend)},
		{"weightBy", a.WeightBy != "" && b.WeightBy != "" && a.WeightBy != b.WeightBy, a.WeightBy, b.WeightBy},
	} {
		if f.differ {
			c.report(
				key,
				ReasonConflict,
				"spec.%s: %v, where %s says %v for the same routes%s; make them equal, or select other pools, neighbors, nodes or Services",
				f.field,
				f.ours,
				c.elder(other, key),
				f.theirs,
				counts,
			)
			c.problems[other] = append(c.problems[other], Problem{Reason: ReasonConflict, Harmless: true,
				Message: fmt.Sprintf(
					"spec.%s: %s says %v for the same routes%s; make them equal, or select other pools, neighbors, nodes or Services",
					f.field,
					c.younger(other, key),
					f.ours,
					not,
				)})
		}
	}
}

// meets reports whether the two announce prefixes of one length of one pool to one neighbor.
func (a *RouteAnnouncement) meets(b *RouteAnnouncement) bool {
	if a.AggregateV4 != b.AggregateV4 && a.AggregateV6 != b.AggregateV6 || !slices.ContainsFunc(a.neighbors, b.To) {
		return false
	}
	for name := range a.pools.names {
		if b.pools.names[name] {
			return true
		}
	}
	return false
}

// surelyOverlap reports whether two selectors match something in common, whatever labels there are.
func surelyOverlap(a, b *v1alpha1.Selector) bool {
	return a.Everything() || b.Everything() || reflect.DeepEqual(a, b)
}

func differ[T comparable](a, b *T) bool { return a != nil && b != nil && *a != *b }

func said[T any](n *T) any {
	if n == nil {
		return nil
	}
	return *n
}

func length(bits int32, all int) int {
	if bits == 0 {
		return all
	}
	return int(bits)
}

// number converts a number that the CRD has checked.
func number[T uint8 | uint32, F int32 | int64](n *F) *T {
	if n == nil {
		return nil
	}
	converted := T(*n)
	return &converted
}
