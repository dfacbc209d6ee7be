//go:build root

package l2

import (
	"net"
	"net/netip"
	"os/exec"
	"testing"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/packet"

	"github.com/berth-lb/berth/l2/neighbor"
)

func (l *segmentLab) sysctl(name, setting string) {
	l.t.Helper()
	if out, err := exec.Command("ip", "netns", "exec", l.prefix+
		name, "sysctl", "-qw", setting).CombinedOutput(); err != nil {
		l.t.Fatalf("%s: set %s: %v: %s", name, setting, err, out)
	}
}

func TestPeerKernelHasAddress(t *testing.T) {
	l := newSegmentLab(t, "a", "b")
	a, b := l.nodes["a"], l.nodes["b"]
	a.awaitSettled(1, false)
	for _, addr := range []string{"10.77.0.210/32", "fd77::210/128"} {
		ip(t, "-n", b.ns, "addr", "add", addr, "dev", "eth0", "nodad")
		vip := netip.MustParsePrefix(addr).Addr()
		l.syncAll(by("a"), vip)
		r := a.await("conflict", func(r report) bool { return r.Seen != nil && r.Seen.Kind == Conflict })
		if r.Seen.Node != "b" || r.Seen.MAC != b.mac {
			t.Errorf("conflict about %s with %s of node %q, want %s of b", addr, r.Seen.MAC, r.Seen.Node, b.mac)
		}
		if got := l.client.resolve(vip.String()); got != b.mac {
			t.Errorf("%s resolves to %q, want %s, whose kernel has it", addr, got, b.mac)
		}
		ip(t, "-n", b.ns, "addr", "del", addr, "dev", "eth0")
		a.awaitMove(AddressGained, vip.String())
		if got := l.client.resolve(vip.String()); got != a.mac {
			t.Errorf("%s resolves to %q, want %s, once the other's kernel has let go", addr, got, a.mac)
		}
		l.syncAll(Desired{}, vip)
		a.awaitMove(AddressLost, vip.String())
	}
}

// Linux as a proxy does not answer probes (RFC 5227). It answers hosts up to 0.8 s later.
func TestKernelAsProxy(t *testing.T) {
	l := newSegmentLab(t, "a")
	l.attach("router", 50)
	ip(t, "-n", l.prefix+"router", "link", "add", "beyond", "type", "veth", "peer", "name", "end")
	ip(t, "-n", l.prefix+"router", "link", "set", "end", "up")
	ip(t, "-n", l.prefix+"router", "link", "set", "beyond", "up")
	ip(t, "-n", l.prefix+"router", "route", "add", "default", "dev", "beyond")
	for _, s := range []string{
		"net.ipv4.ip_forward=1", "net.ipv4.conf.eth0.proxy_arp=1", "net.ipv4.conf.all.proxy_arp=1",
	} {
		l.sysctl("router", s)
	}
	router := linkMAC(t, l.prefix+"router", "eth0")
	beyond := "203.0.113.77"
	ip(t, "-n", l.prefix+"client", "route", "add", "203.0.113.0/24", "dev", "eth0")
	if got := l.client.resolve(beyond); got != router {
		t.Fatalf("%s resolves to %q, want the proxy, %s", beyond, got, router)
	}
	n := l.nodes["a"]
	l.syncAll(by("a"), netip.MustParseAddr(beyond))
	gained, told := false, ""
	n.await("gained, and the proxy reported", func(r report) bool {
		switch {
		case r.Seen == nil:
		case r.Seen.Kind == Conflict:
			t.Fatalf("conflict with %s", r.Seen.MAC)
		case r.Seen.Kind == AddressGained:
			gained = true
		case r.Seen.Kind == ProxyFound:
			told = r.Seen.MAC
		}
		return gained && told != ""
	})
	if told != router {
		t.Errorf("%s was reported to answer for everything, want %s", told, router)
	}
}

// answerAll has the client's interface answer each ARP request, probes included, as some routers
// do.
func (c *client) answerAll(mac net.HardwareAddr) {
	c.t.Helper()
	var conn *packet.Conn
	c.in(func() (err error) {
		conn, err = packet.Listen(&net.Interface{Index: c.index}, packet.Raw, neighbor.EtherTypeARP, nil)
		return err
	})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for b := make([]byte, 2048); ; {
			n, _, err := conn.ReadFrom(b)
			if err != nil {
				return
			}
			p, ok := neighbor.ParseARP(b[:n])
			if !ok || p.Operation != arp.OperationRequest || p.SenderIP == p.TargetIP ||
				net.HardwareAddr(b[6:12]).String() == mac.String() {
				continue
			}
			answer := neighbor.ARPFrame(p.SenderHardwareAddr, &arp.Packet{
				Operation:          arp.OperationReply,
				SenderHardwareAddr: mac,
				SenderIP:           p.TargetIP,
				TargetHardwareAddr: p.SenderHardwareAddr,
				TargetIP:           p.SenderIP,
			})
			_, _ = conn.WriteTo(answer, &packet.Addr{HardwareAddr: answer[:6]})
		}
	}()
	c.t.Cleanup(func() {
		_ = conn.Close()
		<-ended
	})
}

func TestRouterAnswersEveryProbe(t *testing.T) {
	l := newSegmentLab(t, "a")
	router := linkMAC(t, l.prefix+"client", "eth0")
	l.client.answerAll(mustMAC(t, router))
	n := l.nodes["a"]
	l.syncAll(by("a"), netip.MustParseAddr(vip4))
	found := false
	n.await("gained, no conflict", func(r report) bool {
		if r.Seen != nil && r.Seen.Kind == Conflict {
			t.Fatalf("conflict with %s", r.Seen.MAC)
		}
		found = found || r.Seen != nil && r.Seen.Kind == ProxyFound && r.Seen.MAC == router
		return r.Seen != nil && r.Seen.Kind == AddressGained
	})
	if !found {
		t.Errorf("that %s answers for everything was not reported", router)
	}
}
