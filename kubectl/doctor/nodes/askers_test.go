package nodes

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/internal/probe"
	"github.com/berth-lb/berth/kubectl/cluster"
)

// crowd is a cluster of n nodes in each of the networks, such as 192.0.2.
func crowd(n int, networks ...string) *cluster.State {
	s := world()
	s.Nodes = nil
	for i, network := range networks {
		for k := range n {
			s.Nodes = append(s.Nodes, node(fmt.Sprintf("n%d-%03d", i, k), fmt.Sprintf("%s.%d", network, k+1)))
		}
	}
	return s
}

// report has the speaker of a node say which subnets its segments have.
func report(s *cluster.State, n *corev1.Node, iface string, subnets ...string) {
	speaker := &v1alpha1.Speaker{ObjectMeta: named(n.Name)}
	speaker.Status.Segments = []v1alpha1.SegmentReport{{Interface: iface, Subnets: subnets}}
	s.Speakers = append(s.Speakers, speaker)
}

// load returns how many nodes of those ask, and how often in a second all together.
func load(p *Plan, of func(probe.Request) bool) (n int, rate float64) {
	for _, r := range p.Requests {
		if len(r.Asks) > 0 && of(r) {
			n++
			rate += float64(time.Second) / float64(r.Pause)
		}
	}
	return n, rate
}

func everybody(probe.Request) bool { return true }

func in(network string) func(probe.Request) bool {
	return func(r probe.Request) bool { return strings.HasPrefix(r.InternalIPs[0].String(), network+".") }
}

// However many nodes there are, and whatever is known of their segments, a segment has to bear the
// rate alone.
func TestRate(t *testing.T) {
	const some = 0.01
	t.Run("before an install", func(t *testing.T) {
		p := plan(t, crowd(100, "192.0.2"))
		if n, rate := load(p, everybody); n == 0 || n > blindAskers || rate > DefaultRate+some {
			t.Errorf("%d nodes ask, with %.1f questions a second", n, rate)
		}
		if p.Requests[0].Greet != time.Second || p.Hearing != 4*time.Second {
			t.Errorf("they greet each %s, and listen for %s", p.Requests[0].Greet, p.Hearing)
		}
		if text := strings.Join(p.Unknown, "\n"); !strings.Contains(text, "6 of 100 ask") {
			t.Errorf("not known: %s", text)
		}
	})
	t.Run("before an install, in several racks", func(t *testing.T) {
		p := plan(t, crowd(30, "192.0.2", "198.51.100", "203.0.113"))
		for _, network := range []string{"192.0.2", "198.51.100", "203.0.113"} {
			if n, _ := load(p, in(network)); n == 0 {
				t.Errorf("nobody asks in %s", network)
			}
		}
		if n, rate := load(p, everybody); n > blindAskers || rate > DefaultRate+some {
			t.Errorf("%d nodes ask, with %.1f questions a second", n, rate)
		}
		if len(p.Unknown) > 0 {
			t.Errorf("not known: %q", p.Unknown)
		}
	})
	t.Run("with speakers on one segment", func(t *testing.T) {
		s := crowd(100, "192.0.2")
		for i, n := range s.Nodes { // whose interfaces have other names
			report(s, n, fmt.Sprintf("eth%d", i%4), "192.0.2.0/24")
		}
		if n, rate := load(plan(t, s), everybody); n != askers || rate > DefaultRate+some || rate < DefaultRate-1 {
			t.Errorf("%d nodes ask, with %.1f questions a second", n, rate)
		}
	})
	t.Run("with speakers on two segments", func(t *testing.T) {
		s := crowd(20, "192.0.2", "198.51.100")
		for _, n := range s.Nodes {
			report(s, n, "eth0", strings.TrimRight(n.Status.Addresses[0].Address, "0123456789")+"0/24")
		}
		p := plan(t, s)
		for _, network := range []string{"192.0.2", "198.51.100"} {
			if n, rate := load(p, in(network)); n != askers || rate > DefaultRate+some || rate < DefaultRate-1 {
				t.Errorf("%s: %d nodes ask, with %.1f questions a second", network, n, rate)
			}
		}
	})
	t.Run("with speakers on some nodes", func(t *testing.T) {
		s := crowd(100, "192.0.2")
		for _, n := range s.Nodes[:50] {
			report(s, n, "eth0", "192.0.2.0/24")
		}
		if n, rate := load(plan(t, s), everybody); n > askers+blindAskers || rate > DefaultRate+some {
			t.Errorf("%d nodes ask, with %.1f questions a second", n, rate)
		}
	})
}

// What is asked for takes as long as the rate says, and few addresses of few nodes not long.
func TestTakes(t *testing.T) {
	s := world()
	s.Pools = []*v1alpha1.LoadBalancerPool{pool("rack", "192.0.2.128/27")}
	if p := plan(t, s); p.Takes > 2*time.Second || p.Takes == 0 {
		t.Errorf("32 addresses take %s", p.Takes)
	}
	s.Pools = []*v1alpha1.LoadBalancerPool{pool("rack", "10.0.0.0/16")}
	snapshot, _ := config.Compile(s.Objects())
	slow, fast := PlanOf(s, snapshot, []string{"rack"}, DefaultRate), PlanOf(s, snapshot, []string{"rack"}, MaxRate)
	want := MaxAddresses * probe.Rounds * 3 * time.Second / DefaultRate
	if slow.Takes != want || fast.Takes*MaxRate != want*DefaultRate {
		t.Errorf("%d addresses take %s, want %s; and %s at %d", MaxAddresses, slow.Takes, want, fast.Takes, MaxRate)
	}
	if !slices.ContainsFunc(slow.Facts, func(f string) bool {
		return f == "asked by n1, n2, n3, with 100 questions a second on a segment in all"
	}) {
		t.Errorf("facts: %q", slow.Facts)
	}
}
