//go:build root

package l2

import (
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netns"
)

// probeWith runs a prober on a namespace's eth0 until it has judged group g.
func probeWith(t *testing.T, ns string, addrs []netip.Addr) verdict {
	t.Helper()
	handle, err := netns.GetFromName(ns)
	if err != nil {
		t.Fatal(err)
	}
	defer handle.Close()
	a, counts, seen := newAnswers(), counted(t), make(chan sighting, 16)
	a.set("g", addrs)
	sighted := func(x sighting) { offer(seen, x) }
	var s *sockets
	var mac net.HardwareAddr
	if err := inside(handle, func() error {
		l, err := awaitLink()
		if err != nil {
			return err
		}
		mac = l.hardware()
		s, err = openSockets(l, ingress{
			hello:  func([]byte) {},
			arp:    (&arpResponder{mac: mac, answers: a, counts: counts, sighted: sighted}).respond,
			ndp:    (&ndpResponder{mac: mac, answers: a, counts: counts, sighted: sighted}).respond,
			broken: func(err error) { t.Error(err) },
			failed: func(error) {},
		})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer s.wait()
	defer s.close()
	p := newProber()
	for _, addr := range addrs {
		if err := s.passageOf(addr).open(addr); err != nil {
			t.Fatal(err)
		}
	}
	p.begin(time.Now(), "g", addrs)
	for {
		select {
		case x := <-seen:
			p.sighted(time.Now(), x)
		case <-time.After(time.Until(p.next())):
		}
		now := time.Now()
		for _, addr := range p.due(now, 10) {
			if addr.Is4() {
				err = s.sendARP(arpProbe(mac, addr))
			} else {
				err = s.sendNDP(ndpProbe(mac, addr))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		for _, v := range p.verdicts(now) {
			return v
		}
	}
}

func TestProbesFindAKernelThatHoldsTheAddress(t *testing.T) {
	l := newSegmentLab(t)
	l.attach("probing", 1)
	client := linkMAC(t, l.prefix+"client", "eth0")
	for _, addr := range []string{"10.77.0.100", "fd77::100"} {
		v := probeWith(t, l.prefix+"probing", []netip.Addr{netip.MustParseAddr(vip4), netip.MustParseAddr(addr)})
		if v.free || v.foe.addr.String() != addr || net.HardwareAddr(v.foe.mac[:]).String() != client || v.foe.use != announced {
			t.Errorf("the verdict on %s is %+v, want it announced by %s", addr, v, client)
		}
	}
	if v := probeWith(t, l.prefix+"probing", both()); !v.free {
		t.Errorf("the verdict on addresses that nobody holds is %+v", v)
	}
}

func TestAKernelThatWantsAnAnsweredAddressIsToldThatItIsTaken(t *testing.T) {
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
