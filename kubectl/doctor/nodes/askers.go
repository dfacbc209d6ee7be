package nodes

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"go4.org/netipx"

	"github.com/berth-lb/berth/internal/probe"
	"github.com/berth-lb/berth/kubectl/cluster"
)

const (
	// DefaultRate and MaxRate are how many questions for addresses all nodes together send on a
	// segment, in a second: each is a broadcast, which every host there has to look at.
	DefaultRate = 100
	MaxRate     = 1000
	// askers is how many nodes of a segment ask for addresses: of fewer one may not hear an answer, or
	// give it itself.
	askers = 3
	// blindAskers is how many nodes ask whose segment is not known: all may be on one.
	blindAskers = 6
)

// asker is a node that may ask.
type asker struct {
	*probe.Request
	asks []probe.Ask
	// subnets are those of its segments, as its speaker reports them; nil: they are not known.
	subnets []string
}

// askerOf returns the asker that a node may be.
func askerOf(s *cluster.State, r *probe.Request, asks []probe.Ask) asker {
	a := asker{Request: r, asks: asks}
	if speaker := s.Speaker(r.Node); speaker != nil {
		for _, x := range speaker.Status.Segments {
			a.subnets = append(a.subnets, x.Subnets...)
		}
	}
	return a
}

// appoint has few of the nodes ask, so that all of them on a segment keep to the rate.
func appoint(all []asker, rate int) (facts, unknown []string) {
	known := onSegments(all)
	blind := slices.DeleteFunc(slices.Clone(all), func(a asker) bool { return a.subnets != nil })
	chosen, left := ofPlaces(blind)
	on, most := map[string]int{}, 0 // how many ask, by subnet
	for _, a := range known {
		for _, subnet := range a.subnets {
			on[subnet]++
			most = max(most, on[subnet])
		}
	}
	for _, a := range known {
		n := 0
		for _, subnet := range a.subnets {
			n = max(n, on[subnet])
		}
		a.ask(n+len(chosen), rate)
	}
	for _, a := range chosen {
		a.ask(most+len(chosen), rate)
	}
	var names []string
	for _, a := range all {
		if len(a.Asks) > 0 {
			names = append(names, a.Node)
		}
	}
	if len(names) > 0 {
		facts = append(
			facts,
			fmt.Sprintf("asked by %s, with %d questions a second on a segment in all", few(names), rate),
		)
	}
	if len(left) > 0 {
		unknown = append(unknown, fmt.Sprintf(
			"which nodes share a segment, before speakers report it: %d of %d ask, and who answers on the segments of others, such as %s, is not known if none of those is there",
			len(chosen),
			len(blind),
			few(left),
		))
	}
	return facts, unknown
}

// ask has the node ask, as one of n that share the rate.
func (a asker) ask(n, rate int) {
	a.Asks, a.Pause = a.asks, time.Duration(n)*time.Second/time.Duration(rate)
}

// onSegments returns those that ask of nodes with known segments: some in each subnet for the same
// addresses.
func onSegments(all []asker) (chosen []asker) {
	asking := map[string]int{}
	for _, a := range all {
		keys := make([]string, len(a.subnets))
		for i, subnet := range a.subnets {
			keys[i] = subnet + " " + a.what()
		}
		if slices.ContainsFunc(keys, func(k string) bool { return asking[k] < askers }) {
			chosen = append(chosen, a)
			for _, k := range keys {
				asking[k]++
			}
		}
	}
	return chosen
}

// what tells nodes apart that ask for different addresses.
func (a asker) what() string {
	var ranges []netipx.IPRange
	for _, x := range a.asks {
		ranges = append(ranges, x.Ranges...)
	}
	text, err := json.Marshal(ranges)
	if err != nil { // no range fails
		return err.Error()
	}
	return string(text)
}

// ofPlaces returns those that ask of nodes with unknown segments, from as many places as may be,
// and of the places without one the first node.
func ofPlaces(blind []asker) (chosen []asker, left []string) {
	byWhat := map[string][]asker{}
	for _, a := range blind {
		key := a.what() + fmt.Sprint(a.Interfaces)
		byWhat[key] = append(byWhat[key], a)
	}
	for _, key := range slices.Sorted(maps.Keys(byWhat)) {
		at := map[string][]asker{}
		for _, a := range byWhat[key] {
			at[a.place()] = append(at[a.place()], a)
		}
		places := slices.Sorted(maps.Keys(at))
		room := blindAskers
		for turn := range askers {
			var next []asker
			for _, p := range places {
				if turn < len(at[p]) {
					next = append(next, at[p][turn])
				}
			}
			picked := spread(next, room)
			room -= len(picked)
			chosen = append(chosen, picked...)
			for _, a := range next {
				if turn == 0 && !slices.ContainsFunc(picked, func(x asker) bool { return x.Node == a.Node }) {
					left = append(left, a.Node)
				}
			}
		}
	}
	return chosen, left
}

// spread returns n of them, evenly spaced.
func spread(all []asker, n int) []asker {
	if len(all) <= n {
		return all
	}
	var some []asker
	for i := range n {
		some = append(some, all[i*len(all)/n])
	}
	return some
}

// place sorts nodes by where their addresses are; nodes at one place are likely to be on one
// segment, and those at two may be.
func (a asker) place() string {
	var networks []string
	for _, ip := range a.InternalIPs {
		networks = append(networks, netip.PrefixFrom(ip, neighborhood(ip).Bits()).Masked().Addr().StringExpanded())
	}
	return strings.Join(networks, " ")
}

// takes returns how long the asking takes at least.
func takes(requests []probe.Request) time.Duration {
	var longest time.Duration
	for _, r := range requests {
		n := 0
		for _, a := range r.Asks {
			for _, x := range a.Ranges {
				n += sizeOf(x)
			}
		}
		longest = max(longest, time.Duration(n*probe.Rounds)*r.Pause)
	}
	return longest
}
