//go:build bench || qemu

package rate_test

import (
	"maps"
	"slices"
	"testing"
	"time"
)

// The paths take many short turns, since what else the machine does varies; a ratio is the median
// of those of the rounds.
const (
	rounds = 7
	turns  = 6 // of each path in a round
	length = 100 * time.Millisecond
)

// path is one by which the client's packets reach pods.
type path struct {
	address string
	ports   *ports
}

// count is what a data plane has forwarded. One that keeps no connections counts packets only.
type count struct{ connections, packets int }

// comparison is of paths by what the client does by them.
type comparison struct {
	paths map[string]path
	// ratios are what is reported beside the rates. Of the first also the least and the most are.
	ratios [][2]string
	// counted returns what the data planes that count have, by path. They must have counted what
	// went by their path, and no connection of what did not.
	counted func(*testing.B) map[string]count
	before  func(*testing.B) // each round; nil: nothing
}

// run reports the medians of what the paths do, and of the ratios.
func (c comparison) run(b *testing.B, l load) {
	all, ratios := map[string][]float64{}, map[[2]string][]float64{}
	for b.Loop() {
		for range rounds {
			if c.before != nil {
				c.before(b)
			}
			rate := c.round(b, l)
			for name := range c.paths {
				all[name] = append(all[name], rate[name])
			}
			for _, r := range c.ratios {
				ratios[r] = append(ratios[r], rate[r[0]]/rate[r[1]])
			}
		}
	}
	b.ReportMetric(0, "ns/op") // it means nothing here
	for name, rates := range all {
		b.ReportMetric(median(rates), name+"-"+l.unit)
	}
	for i, r := range c.ratios {
		b.ReportMetric(median(ratios[r]), r[0]+"/"+r[1])
		if i == 0 {
			b.ReportMetric(slices.Min(ratios[r]), "least")
			b.ReportMetric(slices.Max(ratios[r]), "most")
		}
	}
}

// round measures all paths in turn, in alternating order, and returns the rate of each per second.
func (c comparison) round(b *testing.B, l load) map[string]float64 {
	names := slices.Sorted(maps.Keys(c.paths))
	number, seconds := map[string]float64{}, map[string]float64{}
	for range turns {
		for _, name := range names {
			n, took := c.turn(b, name, l)
			number[name] += float64(n)
			seconds[name] += took
		}
		slices.Reverse(names)
	}
	rate := map[string]float64{}
	for _, name := range names {
		rate[name] = number[name] / seconds[name]
	}
	return rate
}

// turn has a path take one turn.
func (c comparison) turn(b *testing.B, name string, l load) (int, float64) {
	p, before := c.paths[name], c.counted(b)
	n, seconds, err := l.run(p.address, p.ports)
	if err != nil {
		b.Fatalf("%s by %s to %s: %v", l.name, name, p.address, err)
	}
	for counter, after := range c.counted(b) {
		connections := after.connections - before[counter].connections
		packets := after.packets - before[counter].packets
		switch {
		case counter == name && (packets == 0 || l.each && packets < n):
			b.Fatalf("%d %s by %s: it counted %d packets", n, l.name, name, packets)
		case counter == name && after.connections > 0 && connections == 0:
			b.Fatalf("%d %s by %s: it counted no connection", n, l.name, name)
		case counter != name && connections != 0:
			b.Fatalf("%d %s by %s: %s counted %d connections", n, l.name, name, counter, connections)
		}
	}
	return n, seconds
}

func median(values []float64) float64 {
	values = slices.Sorted(slices.Values(values))
	return values[len(values)/2]
}
