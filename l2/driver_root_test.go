//go:build root

package l2

import (
	"maps"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mdlayher/ndp"

	"github.com/berth-lb/berth/l2/election"
	"github.com/berth-lb/berth/l2/neighbor"
)

const (
	vip4 = "10.77.0.200"
	vip6 = "fd77::200"
)

func both() []netip.Addr { return []netip.Addr{netip.MustParseAddr(vip4), netip.MustParseAddr(vip6)} }

func TestOneNodeAnswersKernel(t *testing.T) {
	l, nodes := settled(t, "a", "b", "c")
	l.syncAll(Desired{}, both()...)
	nodes[0].awaitMove(AddressLost, vip4)
	for _, addr := range []string{vip4, vip6} {
		if got := l.client.resolve(addr); got != "" {
			t.Errorf("%s still resolves to %s", addr, got)
		}
	}
}

func TestKilledOwnerIsReplaced(t *testing.T) {
	l, nodes := settled(t, "a", "b")
	l.client.forget()
	nodes[0].signal(syscall.SIGKILL)
	killed := time.Now()
	// The client does not ask: it hears the announcement.
	l.client.learns(vip4, nodes[1].mac, time.Second)
	t.Logf("%s was taken over after %s", vip4, time.Since(killed))
	for _, addr := range []string{vip4, vip6} {
		if got := l.client.resolve(addr); got != nodes[1].mac {
			t.Errorf("%s resolves to %q, want %s", addr, got, nodes[1].mac)
		}
	}
	if took := time.Since(killed); took > time.Second {
		t.Errorf("the other node answered after %s, want less than 1 s", took)
	}
}

// settled starts a lab whose addresses are owned by the first of the returned nodes, all being
// ready. The others follow in the order in which they would take them.
func settled(t *testing.T, names ...string) (*segmentLab, []*node) {
	t.Helper()
	l := newSegmentLab(t, names...)
	for _, n := range l.nodes {
		n.awaitSettled(len(names)-1, false)
	}
	l.syncAll(by(names...), both()...)
	var owner string
	for owner == "" {
		owner = l.client.resolve(vip4) // within the client's own patience
	}
	nodes := slices.SortedFunc(maps.Values(l.nodes), func(a, b *node) int {
		switch {
		case a.mac == owner, b.mac != owner && election.RanksBefore("test", nil, a.name, b.name):
			return -1
		case b.mac == owner, election.RanksBefore("test", nil, b.name, a.name):
			return 1
		}
		return 0
	})
	for i, n := range nodes {
		n.awaitSettled(len(names)-1, i == 0)
	}
	for _, addr := range []string{vip4, vip6} {
		if got := l.client.resolve(addr); got != nodes[0].mac {
			t.Fatalf("%s resolves to %q, want %s, the MAC of %s", addr, got, nodes[0].mac, nodes[0].name)
		}
	}
	return l, nodes
}

func TestLeavingOwnerHandsOverWithoutGap(t *testing.T) {
	for _, state := range []State{Leaving, Restarting} {
		t.Run(state.String(), func(t *testing.T) {
			l, nodes := settled(t, "a", "b", "c")
			nodes[0].setState(state)
			nodes[0].order(order{Drain: true})
			asked := 0
			ask := func() {
				for _, addr := range []string{vip4, vip6} {
					if got := l.client.resolve(addr); got != nodes[0].mac && got != nodes[1].mac {
						t.Errorf("question %d: %s resolves to %q, want %s or %s",
							asked, addr, got, nodes[0].mac, nodes[1].mac)
					}
					asked++
				}
			}
			for drained := false; !drained; ask() {
				select {
				case r, ok := <-nodes[0].reports:
					if !ok {
						t.Fatal("the leaving node ended before it had drained")
					}
					drained = r.Drained
				default:
				}
			}
			nodes[0].end()
			for range 20 {
				ask()
			}
			for _, addr := range []string{vip4, vip6} {
				if got := l.client.resolve(addr); got != nodes[1].mac {
					t.Errorf("%s resolves to %q, want %s", addr, got, nodes[1].mac)
				}
			}
			t.Logf("%d questions", asked)
		})
	}
}

func TestLeavingNodeAnswersUntilItEnds(t *testing.T) {
	l, nodes := settled(t, "a")
	nodes[0].setState(Leaving)
	nodes[0].order(order{Drain: true})
	nodes[0].await("drained", func(r report) bool { return r.Drained })
	for _, addr := range []string{vip4, vip6} {
		if got := l.client.resolve(addr); got != nodes[0].mac {
			t.Errorf("%s resolves to %q, want %s", addr, got, nodes[0].mac)
		}
	}
	nodes[0].end()
	if got := l.client.resolve(vip4); got != "" {
		t.Errorf("%s resolves to %s after the only node ended", vip4, got)
	}
}

func TestFrozenOwnerIsSilentWhenItWakes(t *testing.T) {
	l, nodes := settled(t, "a", "b")
	frozen, other := nodes[0], nodes[1]
	frozen.signal(syscall.SIGSTOP)
	other.awaitMove(AddressGained, vip4)
	// These requests wait in the frozen node's socket.
	for range 20 {
		if got := l.client.resolve(vip4); got != other.mac {
			t.Fatalf("%s resolves to %q, want %s", vip4, got, other.mac)
		}
	}
	frozen.signal(syscall.SIGCONT)
	frozen.awaitMove(AddressLost, vip4)
	for range 20 {
		for _, addr := range []string{vip4, vip6} {
			if got := l.client.resolve(addr); got != other.mac {
				t.Errorf("%s resolves to %q after the former owner woke, want %s still", addr, got, other.mac)
			}
		}
	}
}

func TestFlappingInterface(t *testing.T) {
	l, nodes := settled(t, "a", "b")
	ip(t, "-n", nodes[0].ns, "link", "set", "eth0", "down")
	nodes[0].awaitMove(AddressLost, vip4)
	nodes[1].awaitMove(AddressGained, vip4)
	ip(t, "-n", nodes[0].ns, "link", "set", "eth0", "up")
	nodes[0].awaitSettled(1, false) // the owner stays
	nodes[1].setState(Leaving)
	nodes[0].awaitMove(AddressGained, vip4)
	nodes[1].awaitMove(AddressLost, vip4)
	for _, addr := range []string{vip4, vip6} {
		if got := l.client.resolve(addr); got != nodes[0].mac {
			t.Errorf("%s resolves to %q, want %s", addr, got, nodes[0].mac)
		}
	}
	if got := ip(t, "-n", nodes[0].ns, "maddr", "show", "dev", "eth0"); !strings.Contains(got, "ff02::1:ff00:200") {
		t.Errorf("the solicited-node group is not joined after the flap:\n%s", got)
	}
	if got := ip(t, "-n", nodes[1].ns, "maddr", "show", "dev", "eth0"); strings.Contains(got, "ff02::1:ff00:200") {
		t.Errorf("the solicited-node group is still joined on the node that gave the address up:\n%s", got)
	}
}

func TestNewMACIsAnnounced(t *testing.T) {
	l, nodes := settled(t, "a")
	l.client.forget()
	const mac = "02:00:00:00:77:01"
	began := time.Now()
	ip(t, "-n", nodes[0].ns, "link", "set", "eth0", "address", mac)
	l.client.learns(vip4, mac, time.Second)
	t.Logf("announced after %s", time.Since(began))
	for _, addr := range []string{vip4, vip6} {
		if got := l.client.resolve(addr); got != mac {
			t.Errorf("%s resolves to %q, want %s", addr, got, mac)
		}
	}
}

func TestLateInterfaceIsServed(t *testing.T) {
	l := newSegmentLab(t, "a")
	n := l.nodes["a"]
	n.order(order{
		Addresses: both(),
		Desired:   &Desired{Announced: true, Interfaces: []string{"late*"}, Candidates: []string{"a"}},
	})
	sw := l.prefix + "sw"
	ip(t, "-n", sw, "link", "add", "p-late", "type", "veth", "peer", "name", "late0", "netns", n.ns)
	ip(t, "-n", sw, "link", "set", "p-late", "master", "br0", "up")
	ip(t, "-n", n.ns, "link", "set", "late0", "up")
	r := n.awaitMove(AddressGained, vip4)
	if r.Seen.Interface != "late0" {
		t.Errorf("gained on %s, want late0", r.Seen.Interface)
	}
	late := linkMAC(t, n.ns, "late0")
	for _, addr := range []string{vip4, vip6} {
		if got := l.client.resolve(addr); got != late {
			t.Errorf("%s resolves to %q, want %s", addr, got, late)
		}
	}
	ip(t, "-n", n.ns, "link", "del", "late0")
	n.awaitMove(AddressLost, vip4)
}

func TestIPv6ThroughSnoopingSwitch(t *testing.T) {
	l, nodes := settled(t, "a", "b")
	// With a querier the bridge forwards solicitations only to members of their group.
	ip(t, "-n", l.prefix+"sw", "link", "set", "br0", "type", "bridge", "mcast_snooping", "1", "mcast_querier", "1",
		"mcast_query_response_interval", "10", "mcast_startup_query_interval", "10")
	l.awaitListener("ff02::1:ff00:200", nodes[0].name)
	if got := l.client.resolve(vip6); got != nodes[0].mac {
		t.Errorf("%s resolves to %q, want %s", vip6, got, nodes[0].mac)
	}
}

func TestIPv4WithoutIPv6(t *testing.T) {
	l := newSegmentLab(t, "a")
	n := l.nodes["a"]
	if out, err := exec.Command("ip", "netns", "exec", n.ns, "sysctl", "-qw",
		"net.ipv6.conf.eth0.disable_ipv6=1").CombinedOutput(); err != nil {
		t.Fatalf("switch IPv6 off: %v: %s", err, out)
	}
	l.syncAll(by("a"), both()...)
	n.awaitMove(AddressGained, vip4)
	if got := l.client.resolve(vip4); got != n.mac {
		t.Errorf("%s resolves to %q, want %s", vip4, got, n.mac)
	}
}

func TestReachabilityProbeIsAnswered(t *testing.T) {
	l, nodes := settled(t, "a")
	// The entry is probed: the kernel sends unicast solicitations to the address itself.
	nd := l.client.capture(neighbor.EtherTypeIPv6)
	l.client.probe(vip6)
	for {
		p, ok := neighbor.ParseNDP(nd.first(t, nodes[0].mac))
		if !ok {
			continue // MLD reports and the like
		}
		if a, is := p.Message.(*ndp.NeighborAdvertisement); is && a.Solicited &&
			a.TargetAddress == netip.MustParseAddr(vip6) {
			return
		}
	}
}

func TestOtherHostIsConflict(t *testing.T) {
	l, nodes := settled(t, "a")
	mac := linkMAC(t, l.prefix+"client", "eth0")
	l.client.send(neighbor.GratuitousARP(mustMAC(t, mac), netip.MustParseAddr(vip4))[0])
	r := nodes[0].await("conflict", func(r report) bool { return r.Seen != nil && r.Seen.Kind == Conflict })
	if r.Seen.MAC != mac {
		t.Errorf("conflict with %s, want %s", r.Seen.MAC, mac)
	}
}
