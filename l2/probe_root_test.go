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
)

// probeWith runs a prober on a namespace's eth0 until it has judged the addresses, and returns what was heard of them.
func probeWith(t *testing.T, ns string, addrs []netip.Addr) (heard []sighting) {
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
		p.begin(time.Now(), addr)
	}
	for judged := 0; judged < len(addrs); {
		select {
		case x := <-seen:
			p.sighted(x)
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
		for _, x := range p.verdicts(now) {
			heard = append(heard, x.heard...)
			p.end(x.addr)
			judged++
		}
	}
	return heard
}

func TestProbesFindAKernelThatHoldsTheAddress(t *testing.T) {
	l := newSegmentLab(t)
	l.attach("probing", 1)
	client := linkMAC(t, l.prefix+"client", "eth0")
	for _, addr := range []string{"10.77.0.100", "fd77::100"} {
		got := probeWith(t, l.prefix+"probing", []netip.Addr{netip.MustParseAddr(vip4), netip.MustParseAddr(addr)})
		if want := []sighting{{netip.MustParseAddr(addr), [6]byte(mustMAC(t, client)), announced}}; !slices.Equal(got, want) {
			t.Errorf("of %s was heard %+v, want it announced by %s", addr, got, client)
		}
	}
	if got := probeWith(t, l.prefix+"probing", both()); got != nil {
		t.Errorf("of addresses that nobody holds was heard %+v", got)
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
