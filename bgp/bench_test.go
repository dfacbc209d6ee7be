package bgp

import (
	"fmt"
	"log/slog"
	"net/netip"
	"testing"
)

// BenchmarkOneGroupChanges measures from Sync to the changed route at the peer, which must not
// depend on how many groups there are.
func BenchmarkOneGroupChanges(b *testing.B) {
	for _, groups := range []int{100, 1000, 10000} {
		b.Run(fmt.Sprintf("of-%d", groups), func(b *testing.B) {
			tor := newRouter(b, "127.0.0.2", 64513, nodeASN)
			d := run(b, func(c *Config) { c.Logger = slog.New(slog.DiscardHandler) })
			d.SyncPeers([]Peer{tor.peer("tor1", nodeASN)})
			for i := range groups {
				d.Sync(fmt.Sprintf("group-%d", i), routes(nil, fmt.Sprintf("198.18.%d.%d/32", i/250, i%250)))
			}
			arrived := func(n int) {
				await(b, tor.changed, func() bool {
					tor.mu.Lock()
					defer tor.mu.Unlock()
					return len(tor.routes) == n
				}, func() string { return "routes did not arrive" })
			}
			arrived(groups)
			tor.forget()
			prefix := [2]netip.Prefix{netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("192.0.2.2/32")}
			n := 0
			for b.Loop() {
				want := prefix[n%2]
				d.Sync("group-0", Desired{Routes: []Route{{Prefix: want}}})
				await(b, tor.changed, func() bool {
					tor.mu.Lock()
					defer tor.mu.Unlock()
					return tor.routes[want] != nil
				}, func() string { return "route did not arrive" })
				n++
			}
			b.StopTimer()
			arrived(groups)
			// One announcement and one withdrawal a change, and nothing else.
			if heard := len(tor.heard()); heard != 2*n {
				b.Errorf("%d changes on the wire, want %d", heard, 2*n)
			}
		})
	}
}

// BenchmarkOneGroupOfAnAggregate measures what it costs that one group more, or less, wants a
// prefix that 10 000 others want: it must not depend on how many do.
func BenchmarkOneGroupOfAnAggregate(b *testing.B) {
	w := newDesiredRoutes()
	aggregate := netip.MustParsePrefix("198.18.0.0/15")
	want := func(i int) Desired {
		weight := Attributes{Weight: uint32(i % 7)}
		return Desired{Routes: []Route{{Prefix: aggregate, Peers: []string{"tor1", "tor2"}, Attributes: weight}}}
	}
	for i := range 10000 {
		w.replace(fmt.Sprintf("group-%d", i), want(i))
	}
	for n := 0; b.Loop(); n++ {
		desired := Desired{}
		if n%2 == 0 {
			desired = want(3)
		}
		for _, prefix := range w.replace("group", desired) {
			if _, ok := w.announcement(prefix); !ok {
				b.Fatal("nobody wants it")
			}
		}
	}
}

// BenchmarkPolicies measures what it costs to have the export policy know another set of
// attributes, with 10 peers and 50 sets.
func BenchmarkPolicies(b *testing.B) {
	d, err := New(Config{RouterID: netip.MustParseAddr("10.0.0.9")})
	must(b, err)
	o := newLoop(d)
	o.server, err = startServer(b.Context(), d.config.RouterID, nil, o.gobgpLog)
	must(b, err)
	defer o.server.stop(b.Context(), false)
	var peers []recipient
	for i := range 10 {
		peers = append(peers, o.recipient(Peer{Name: fmt.Sprintf("tor%d", i), LocalASN: nodeASN, RemoteASN: 64513,
			Address: netip.AddrFrom4([4]byte{10, 0, 0, byte(1 + i)})}, false))
	}
	for i := range 50 {
		o.sets.learn(of(Route{Attributes: Attributes{Prepend: 1, MED: &[]uint32{uint32(i)}[0]}}))
	}
	for b.Loop() {
		must(b, o.server.setPeers(b.Context(), peers, o.sets))
	}
}

// BenchmarkManyRoutesWithAttributes measures from Sync of 5 000 groups to the last route at the
// last of two routers, with as many sets of attributes.
func BenchmarkManyRoutesWithAttributes(b *testing.B) {
	const n = 5000
	for _, sets := range []int{1, 10, 50} {
		b.Run(fmt.Sprintf("sets-%d", sets), func(b *testing.B) {
			tor1, tor2 := newRouter(b, "127.0.0.2", 64513, nodeASN), newRouter(b, "127.0.0.3", 64514, nodeASN)
			d := run(b, quiet)
			d.SyncPeers([]Peer{tor1.peer("tor1", nodeASN), tor2.peer("tor2", nodeASN)})
			d.up(b, "tor1", "tor2")
			round := 0
			for b.Loop() {
				round++
				for i := range n {
					set := uint32(round%2*sets + i%sets)
					prefix := netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 18, byte(i / 250), byte(i % 250)}), 32)
					d.Sync(fmt.Sprintf("group-%d", i), Desired{Routes: []Route{
						{Prefix: prefix, Peers: []string{"tor1"}, Attributes: Attributes{MED: &set, Prepend: 1}},
						{Prefix: prefix, Peers: []string{"tor2"}, Attributes: Attributes{MED: &set}},
					}})
				}
				for _, r := range []*router{tor1, tor2} {
					await(b, r.changed, func() bool {
						r.mu.Lock()
						defer r.mu.Unlock()
						return len(r.log) == round*n
					}, func() string { return fmt.Sprintf("%d of %d routes arrived", len(r.heard()), round*n) })
				}
			}
		})
	}
}
