//go:build root

package l2

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

// Segments with jumbo frames, and with interfaces of different MTUs, have one owner per address,
// and one after a node has left.
func TestMTUs(t *testing.T) {
	for name, mtus := range map[string][3]string{"jumbo": {"9000", "9000", "9000"}, "mixed": {"9000", "1500", "1280"}} {
		t.Run(name, func(t *testing.T) {
			names := []string{"a", "b", "c"}
			l := newSegmentLab(t)
			for i, node := range names {
				l.attach(node, i+1)
				ip(t, "-n", l.prefix+node, "link", "set", "eth0", "mtu", mtus[i])
				ip(t, "-n", l.prefix+"sw", "link", "set", "p-"+node, "mtu", mtus[i])
				l.start(node, i+1)
			}
			for _, node := range names {
				l.nodes[node].awaitSettled(len(names)-1, false)
			}
			const count = 600
			addrs := make([]netip.Addr, count)
			for i := range addrs {
				addrs[i] = netip.AddrFrom4([4]byte{10, 78, byte(i >> 8), byte(i)})
			}
			wanted := Desired{Announced: true, Candidates: names}
			l.syncAll(wanted, addrs...)
			l.awaitOwned(count, names...)
			// All claims are asked for again by a node that begins.
			l.nodes["a"].end()
			l.awaitOwned(count, "b", "c")
			if mtus[1] == "1500" {
				ip(t, "-n", l.prefix+"c", "link", "set", "eth0", "mtu", "1000") // below what messages need otherwise
			}
			l.start("a", 1).awaitSettled(2, false)
			l.nodes["a"].order(order{Addresses: addrs, Desired: &wanted})
			l.awaitOwned(count, names...)
		})
	}
}

// awaitOwned waits until the nodes together own so many addresses, and do so for a second.
func (l *segmentLab) awaitOwned(want int, nodes ...string) {
	l.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	var since time.Time
	for {
		sum, text := 0, ""
		for _, name := range nodes {
			l.nodes[name].order(order{Status: true})
			l.nodes[name].await("status", func(r report) bool {
				if r.Status == nil {
					return false
				}
				owned := r.Status.Segments[0].Owned
				sum += owned
				text += fmt.Sprintf(" %s %d", name, owned)
				return true
			})
		}
		switch now := time.Now(); {
		case sum != want:
			since = time.Time{}
		case since.IsZero():
			since = now
		case now.Sub(since) > time.Second:
			return
		}
		if time.Now().After(deadline) {
			l.t.Fatalf("nodes own%s addresses, together %d, want %d", text, sum, want)
		}
	}
}
