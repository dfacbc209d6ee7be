//go:build root

package l2

import (
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netns"

	"github.com/berth-lb/berth/l2/neighbor"
	"github.com/berth-lb/berth/l2/packet"
)

// ignoredCounter is a counter that nobody reads.
type ignoredCounter struct{}

func (*ignoredCounter) Inc() {}

// probeWith runs a prober on a namespace's eth0 until it has judged the addresses, and returns what
// was heard of them.
func probeWith(t *testing.T, ns string, addrs []netip.Addr) (heard []neighbor.Sighting) {
	t.Helper()
	handle, err := netns.GetFromName(ns)
	if err != nil {
		t.Fatal(err)
	}
	defer handle.Close()
	a, seen := neighbor.NewAddressTable(time.Now), make(chan neighbor.Sighting, 16)
	for _, addr := range addrs {
		a.SetWanted(addr, true)
	}
	sighted := func(x neighbor.Sighting) { trySend(seen, x) }
	var s *packet.Sockets
	var mac net.HardwareAddr
	if err := inside(handle, func() error {
		l, err := awaitLink()
		if err != nil {
			return err
		}
		mac = l.HardwareAddr()
		s, err = packet.Open(l, packet.Handlers{
			Hello: func([]byte) {},
			ARP: (&neighbor.ARPResponder{
				MAC:      mac,
				Table:    a,
				Requests: new(ignoredCounter),
				Replies:  new(ignoredCounter),
				Sighted:  sighted,
			}).Respond,
			NDP: (&neighbor.NDPResponder{
				MAC:            mac,
				Table:          a,
				Solicitations:  new(ignoredCounter),
				Advertisements: new(ignoredCounter),
				Sighted:        sighted,
			}).Respond,
			Broken: func(err error) { t.Error(err) },
			Failed: func(error) {},
		})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer s.Wait()
	defer s.Close()
	p := neighbor.NewProber()
	for _, addr := range addrs {
		s.Join(addr)
		p.Begin(time.Now(), addr)
	}
	for judged := 0; judged < len(addrs); {
		select {
		case x := <-seen:
			p.Sighted(x)
		case <-time.After(time.Until(p.Next())):
		}
		now := time.Now()
		for _, addr := range p.Due(now, 10) {
			if addr.Is4() {
				err = s.SendARP(neighbor.ARPProbe(mac, addr))
			} else {
				err = s.SendNDP(neighbor.NDPProbe(mac, addr))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		for _, x := range p.Verdicts(now) {
			heard = append(heard, x.Heard...)
			p.End(x.Addr)
			judged++
		}
	}
	return heard
}

func TestProbeFindsKernel(t *testing.T) {
	l := newSegmentLab(t)
	l.attach("probing", 1)
	client := linkMAC(t, l.prefix+"client", "eth0")
	for _, addr := range []string{"10.77.0.100", "fd77::100"} {
		got := probeWith(t, l.prefix+"probing", []netip.Addr{netip.MustParseAddr(vip4), netip.MustParseAddr(addr)})
		if want := []neighbor.Sighting{{
			Addr: netip.MustParseAddr(addr),
			MAC:  [6]byte(mustMAC(t, client)),
			Use:  neighbor.Announced,
		}}; !slices.Equal(got, want) {
			t.Errorf("of %s was heard %+v, want it announced by %s", addr, got, client)
		}
	}
	if got := probeWith(t, l.prefix+"probing", both()); got != nil {
		t.Errorf("of addresses that nobody holds was heard %+v", got)
	}
}

func TestKernelProbeIsAnswered(t *testing.T) {
	l, _ := settled(t, "a")
	client := l.prefix + "client"
	ip(t, "-n", client, "addr", "add", vip6+"/64", "dev", "eth0")
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	deadline := time.After(10 * time.Second)
	for {
		out, err := exec.Command("ip", "-n", client, "-6", "addr", "show", "dev", "eth0", "dadfailed").CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if strings.Contains(string(out), vip6+"/") {
			return
		}
		select {
		case <-look.C:
		case <-deadline:
			t.Fatal("the kernel believes that the address is free")
		}
	}
}

// probers returns the MACs that probed for an IPv4 address since the last call, one for each probe.
func (x *capture) probers(addr string) (macs []string) {
	for range len(x.frames) {
		f := <-x.frames
		if p, ok := neighbor.ParseARP(f); ok && p.SenderIP.IsUnspecified() && p.TargetIP.String() == addr {
			macs = append(macs, p.SenderHardwareAddr.String())
		}
	}
	return macs
}

// An address that was probed beforehand is answered for without a probe, unless another host has
// taken it since.
func TestNextAddressIsProbedBeforehand(t *testing.T) {
	l := newSegmentLab(t, "a", "b")
	next := by("a", "b")
	heard := l.client.capture(neighbor.EtherTypeARP)
	for _, n := range l.nodes {
		n.awaitSettled(1, false)
		n.order(order{Addresses: both(), Next: &next})
	}
	var probed []string
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	deadline := time.After(10 * time.Second)
	for len(probed) < 3 {
		select {
		case <-look.C:
			probed = append(probed, heard.probers(vip4)...)
		case <-deadline:
			t.Fatalf("%s was probed by %v, want three probes", vip4, probed)
		}
	}
	for _, addr := range []string{vip4, vip6} {
		if got := l.client.resolve(addr); got != "" {
			t.Errorf("%s resolves to %s before it is wanted", addr, got)
		}
	}
	if probed = slices.Compact(append(probed, heard.probers(vip4)...)); len(probed) != 1 {
		t.Fatalf("%v probed for %s, want one of the nodes", probed, vip4)
	}
	ip(t, "-n", l.prefix+"client", "addr", "add", vip6+"/64", "dev", "eth0")
	for tentative := true; tentative; {
		select {
		case <-look.C:
			tentative = ip(t, "-n", l.prefix+"client", "-6", "addr", "show", "dev", "eth0", "tentative") != ""
		case <-time.After(10 * time.Second):
			t.Fatal("the client does not get its address")
		}
	}
	begun := time.Now()
	l.syncAll(next, both()...)
	for _, n := range l.nodes {
		if n.mac != probed[0] {
			continue
		}
		n.awaitMove(AddressGained, vip4)
		t.Logf("%s was answered for after %s", vip4, time.Since(begun))
		if again := heard.probers(vip4); again != nil {
			t.Errorf("it was probed again by %v", again)
		}
		n.await("conflict about "+vip6, func(r report) bool {
			if r.Seen != nil && r.Seen.Kind == AddressGained {
				t.Fatalf("%s is answered for, which another host has", r.Seen.Address)
			}
			return r.Seen != nil && r.Seen.Kind == Conflict && r.Seen.Address.String() == vip6
		})
	}
}
