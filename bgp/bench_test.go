package bgp

import (
	"fmt"
	"log/slog"
	"net/netip"
	"testing"
)

// BenchmarkOneGroupChanges measures from Sync to the changed route at the peer, which must not depend on
// how many groups there are.
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
