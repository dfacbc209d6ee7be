//go:build root

package steering

import (
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/berth-lb/berth/speaker/dataplane/nft/nettest"
	"github.com/berth-lb/berth/speaker/dataplane/steering/decide"
)

// askFrom asks the Service from a port of the client, and returns the node that answered.
func (r rack) askFrom(t *testing.T, client, to netip.AddrPort) (node string) {
	t.Helper()
	nettest.Within(t, r.client, func() {
		c, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(client), net.UDPAddrFromAddrPort(to))
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		b := make([]byte, 64)
		if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
			t.Error(err)
		}
		if _, err := c.Write([]byte("who")); err != nil {
			t.Error(err)
		}
		n, err := c.Read(b)
		if err != nil {
			t.Errorf("%s gets no answer: %v", client, err)
		}
		node, _, _ = strings.Cut(string(b[:n]), " ")
	})
	return node
}

// What RouteOf says of a client's packets is where they end.
func TestDriver_RouteOf(t *testing.T) {
	r := newRack(t)
	d := r.start(t)
	flow := func(n int, of netip.Addr) decide.Flow {
		client := netip.MustParseAddr("10.0.0.9")
		if of.Is6() {
			client = netip.MustParseAddr("fd00::9")
		}
		return decide.Flow{
			Client: netip.AddrPortFrom(client, uint16(40000+n)), Service: netip.AddrPortFrom(of, port),
			Protocol: decide.UDP,
		}
	}
	if _, err := d.RouteOf(flow(0, vip4)); err == nil {
		t.Error("there is an answer before the first Sync")
	}
	desired := r.desired(t, "one", "two")
	mustSync(t, d, desired)
	routes := func(name string, of ...netip.Addr) map[string]int {
		t.Helper()
		ends := map[string]int{}
		for n := range 50 {
			f := flow(n, of[n%len(of)])
			want, err := d.RouteOf(f)
			if err != nil {
				t.Fatal(err)
			}
			if got := r.askFrom(t, f.Client, f.Service); got != want.Node {
				t.Errorf(
					"%s: the packets of %s end on %s, and should on %s: %+v",
					name,
					f.Client,
					got,
					want.Node,
					want,
				)
			}
			ends[want.Node]++
		}
		return ends
	}
	if ends := routes("both have endpoints", vip4, vip6); len(ends) != 2 || ends["one"]+ends["two"] != 50 {
		t.Errorf("packets end on %v", ends)
	}
	affine := r.desired(t, "one", "two")
	web := affine.Services["default/web"]
	web.Affinity = true
	affine.Services["default/web"] = web
	mustSync(t, d, affine)
	if ends := routes("with affinity", vip4); len(ends) != 1 {
		t.Errorf("with affinity packets of one client end on %v", ends)
	}
	mustSync(t, d, desired)
	if err := d.Suspect(map[string]bool{"one": true}, nil); err != nil {
		t.Fatal(err)
	}
	if ends := routes("one is thought dead", vip4, vip6); ends["two"] != 50 {
		t.Errorf("packets end on %v", ends)
	}
	got, err := d.RouteOf(flow(0, vip4))
	if err != nil || got.Reason != decide.First || got.Slots != 4096 || len(got.Ranks) != 2 {
		t.Errorf("got %+v, %v", got, err)
	}
	for _, rank := range got.Ranks {
		if rank.Draining || rank.Dead != (rank.Node == "one") {
			t.Errorf("%+v", rank)
		}
	}
	tcp := flow(0, vip4)
	tcp.Protocol = decide.TCP
	if got, err := d.RouteOf(tcp); err != nil || got.Node != "two" || got.Asks != "one" {
		t.Errorf("a connection that two does not know: %+v, %v", got, err)
	}
	elsewhere := flow(0, vip4)
	elsewhere.Service = netip.AddrPortFrom(vip4, port+1)
	if _, err := d.RouteOf(elsewhere); !errors.Is(err, ErrNotSteered) {
		t.Errorf("of another port: %v", err)
	}
	web.Affinity, web.SourceRanges = false, []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}
	desired.Services["default/web"] = web
	mustSync(t, d, desired)
	if got, err := d.RouteOf(flow(0, vip4)); err != nil || got.Reason != decide.Source || got.Node != "owner" {
		t.Errorf("a client that the source ranges do not have: %+v, %v", got, err)
	}
}
