//go:build root

package l2

import (
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/arp"

	"github.com/berth-lb/berth/l2/internal/frametest"
	"github.com/berth-lb/berth/l2/neighbor"
	"github.com/berth-lb/berth/l2/packet"
)

// snoop makes the switch forward multicasts only to ports that joined their group.
func (l *segmentLab) snoop() {
	ip(l.t, "-n", l.prefix+"sw", "link", "set", "br0", "type", "bridge", "mcast_snooping", "1", "mcast_querier", "1",
		"mcast_hash_max", "65536", "mcast_query_response_interval", "10", "mcast_startup_query_interval", "10")
}

// awaitListeners waits until the switch knows a node as a listener of so many solicited-node
// groups.
func (l *segmentLab) awaitListeners(node string, n int) {
	l.t.Helper()
	look := time.NewTicker(50 * time.Millisecond)
	defer look.Stop()
	deadline := time.After(30 * time.Second)
	for {
		out, err := exec.Command("bridge", "-n", l.prefix+"sw", "mdb", "show").Output()
		if err != nil {
			l.t.Fatal(err)
		}
		got := 0
		for line := range strings.Lines(string(out)) {
			if strings.Contains(line, "p-"+node+" ") && strings.Contains(line, "ff02::1:ff") {
				got++
			}
		}
		if got >= n {
			return
		}
		select {
		case <-look.C:
		case <-deadline:
			l.t.Fatalf("the switch knows %s as a listener of %d groups, want %d", node, got, n)
		}
	}
}

func TestManyIPv6AddressesThroughSnoopingSwitch(t *testing.T) {
	l := newSegmentLab(t, "a")
	l.snoop()
	n := l.nodes["a"]
	const count = 5000
	var addrs []netip.Addr
	addr := netip.MustParseAddr("fd77::1:0")
	for range count {
		addr = addr.Next()
		addrs = append(addrs, addr)
	}
	l.syncAll(by("a"), addrs...)
	check := func(mac string) {
		t.Helper()
		began := time.Now()
		l.awaitListeners("a", count)
		t.Logf("the switch knew all groups after %s", time.Since(began))
		for k := 0; k < count; k += 499 {
			if got := l.client.resolve(addrs[k].String()); got != mac {
				t.Errorf("%s resolves to %q, want %s", addrs[k], got, mac)
			}
		}
	}
	n.awaitMove(AddressGained, addrs[count-1].String())
	check(n.mac)
	// A switch that has forgotten asks.
	for _, version := range []string{"2", "1", "2"} {
		ip(t, "-n", l.prefix+"sw", "link", "set", "br0", "type", "bridge", "mcast_mld_version", version)
		ip(t, "-n", l.prefix+"sw", "link", "set", "p-a", "nomaster")
		ip(t, "-n", l.prefix+"sw", "link", "set", "p-a", "master", "br0")
		check(n.mac)
	}
	// A port that goes down takes what the switch knows about it along.
	ip(t, "-n", n.ns, "link", "set", "eth0", "down")
	n.awaitMove(AddressLost, addrs[count-1].String())
	ip(t, "-n", n.ns, "link", "set", "eth0", "up")
	n.awaitMove(AddressGained, addrs[count-1].String())
	check(n.mac)
	const mac = "02:00:00:00:77:05"
	l.client.forget()
	ip(t, "-n", n.ns, "link", "set", "eth0", "address", mac)
	l.client.learns(addrs[0].String(), mac, 10*time.Second)
	check(mac)
}

// served waits until vip4 is answered for on an interface, and checks which node the client
// resolves it to.
func (l *segmentLab) served(n *node, ifname string) {
	l.t.Helper()
	r := n.awaitMove(AddressGained, vip4)
	if r.Seen.Interface != ifname {
		l.t.Errorf("gained on %s, want %s", r.Seen.Interface, ifname)
	}
	mac := linkMAC(l.t, n.ns, ifname)
	for _, addr := range []string{vip4, vip6} {
		if got := l.client.resolve(addr); got != mac {
			l.t.Errorf("%s resolves to %q, want %s, the MAC of %s", addr, got, mac, ifname)
		}
	}
}

func TestRenamedInterface(t *testing.T) {
	l := newSegmentLab(t, "a")
	n := l.nodes["a"]
	l.syncAll(by("a"), both()...)
	l.served(n, "eth0")
	ip(t, "-n", n.ns, "link", "set", "eth0", "name", "lan0") // since Linux 6.4 while it is up
	l.served(n, "lan0")
}

// The interface is gone, and served again when it comes back.
func TestInterfaceMovesToAnotherNamespace(t *testing.T) {
	l := newSegmentLab(t, "a")
	n := l.nodes["a"]
	l.syncAll(Desired{Announced: true, Interfaces: []string{"eth0"}, Candidates: []string{"a"}}, both()...)
	l.served(n, "eth0")
	l.addNS("away")
	ip(t, "-n", n.ns, "link", "set", "eth0", "netns", l.prefix+"away")
	n.awaitMove(AddressLost, vip4)
	ip(t, "-n", l.prefix+"away", "link", "set", "eth0", "up")
	for _, addr := range []string{vip4, vip6} {
		if got := l.client.resolve(addr); got != "" {
			t.Errorf("%s resolves to %s in a namespace that is not the speaker's", addr, got)
		}
	}
	ip(t, "-n", l.prefix+"away", "link", "set", "eth0", "netns", n.ns)
	ip(t, "-n", n.ns, "link", "set", "eth0", "up")
	l.served(n, "eth0")
}

func TestBridgeIsServedInPlaceOfPorts(t *testing.T) {
	l := newSegmentLab(t, "a")
	n := l.nodes["a"]
	l.syncAll(Desired{Announced: true, Interfaces: []string{"eth0", "top0"}, Candidates: []string{"a"}}, both()...)
	l.served(n, "eth0")
	ip(t, "-n", n.ns, "link", "add", "top0", "type", "bridge")
	ip(t, "-n", n.ns, "link", "set", "eth0", "master", "top0")
	n.awaitMove(AddressLost, vip4)
	ip(t, "-n", n.ns, "link", "set", "top0", "up")
	l.served(n, "top0")
	n.order(order{Status: true})
	r := n.await("status", func(r report) bool { return r.Status != nil })
	if len(r.Status.Segments) != 1 {
		t.Errorf("segments %+v, want one", r.Status.Segments)
	}
	ip(t, "-n", n.ns, "link", "set", "eth0", "nomaster")
	l.served(n, "eth0")
}

// whoHas is a frame in which the client asks for vip4.
func (l *segmentLab) whoHas(from string) []byte {
	l.t.Helper()
	client := mustMAC(l.t, linkMAC(l.t, l.prefix+"client", "eth0"))
	return frametest.ARP(l.t, arp.OperationRequest, client, netip.MustParseAddr(from), netip.MustParseAddr(vip4))
}

// unanswered expects no answer to a frame, by the answers to others before and after it.
func (l *segmentLab) unanswered(n *node, frame []byte) {
	l.t.Helper()
	heard := l.client.capture(neighbor.EtherTypeARP)
	const before, after = "10.77.0.101", "10.77.0.102"
	for _, f := range [][]byte{l.whoHas(before), frame, l.whoHas(after)} {
		l.client.send(f)
	}
	for _, want := range []string{before, after} {
		p, ok := neighbor.ParseARP(heard.first(l.t, n.mac))
		if !ok || p.Operation != arp.OperationReply || p.TargetIP.String() != want {
			l.t.Errorf("%+v, want the answer to %s", p, want)
		}
	}
}

// The kernel removes a tag even if there is no interface for its VLAN, and lets packet sockets see
// the rest.
func TestOtherVLANIsNotAnswered(t *testing.T) {
	l, nodes := settled(t, "a")
	l.unanswered(nodes[0], frametest.Tagged(l.whoHas("10.77.0.100")))
}

// A promiscuous interface also receives requests to other stations.
func TestPromiscuousInterface(t *testing.T) {
	l, nodes := settled(t, "a")
	ip(t, "-n", nodes[0].ns, "link", "set", "eth0", "promisc", "on")
	elsewhere := l.whoHas("10.77.0.100")
	copy(elsewhere, mustMAC(t, "02:00:00:00:00:77")) // the switch does not know it, and floods
	l.unanswered(nodes[0], elsewhere)
}

func TestLinks(t *testing.T) {
	l := newSegmentLab(t, "a")
	ns := l.nodes["a"].ns
	for _, line := range []string{
		"link add br7 type bridge", "link add v0 type veth peer name v1", "link set v0 master br7",
	} {
		ip(t, append([]string{"-n", ns}, strings.Fields(line)...)...)
	}
	var names []string
	l.nodes["a"].inNS(func() error {
		links, err := packet.Links()
		for _, k := range links {
			names = append(names, k.Name)
		}
		return err
	})
	slices.Sort(names)
	if want := []string{"br7", "eth0", "v1"}; !slices.Equal(names, want) {
		t.Errorf("links %v, want %v", names, want)
	}
}

func TestSocketsReceiveOnlyJoined(t *testing.T) {
	for _, family := range []int{4, 6} {
		p := newPair(t, fmt.Sprint("s", family))
		a := p.serve()
		a.order(joinOrder{Family: family, Join: 10})
		ours, others := p.questions(family, 0, 10), p.questions(family, 1000, 1000)
		// When ours are seen, the others have been there before.
		p.once(others)
		p.once(ours)
		a.awaitFrames(10)
		// Others may have been seen before the filter was narrowed, so repeat until none is.
		for seen := int64(0); seen != 10; {
			before := a.order(joinOrder{}).Frames
			p.once(others)
			p.once(ours)
			seen = a.awaitFrames(before+10) - before
		}
		// An address that was left is like any other.
		a.order(joinOrder{Family: family, Leave: 5})
		for seen := int64(0); seen != 5; {
			before := a.order(joinOrder{}).Frames
			p.once(ours[:5])
			p.once(ours[5:])
			seen = a.awaitFrames(before+5) - before
		}
	}
}
