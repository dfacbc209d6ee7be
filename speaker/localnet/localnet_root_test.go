//go:build root

package localnet

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"testing"

	"github.com/berth-lb/berth/speaker/dataplane/nft/nettest"
)

func TestMain(m *testing.M) { os.Exit(nettest.Main(m)) }

func TestWatcher_Run_kernel(t *testing.T) {
	w := New(slog.New(slog.NewTextHandler(t.Output(), nil)))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- w.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	for _, step := range []struct{ do, want string }{
		{"true", "[] []"},
		{"ip link add v0 type veth peer name v1; ip link set v0 up; ip link set v1 up; ip addr add 192.0.2.11/24 dev v0; ip -6 addr add 2001:db8::11/64 dev v0 nodad",
			"[192.0.2.11/24 on v0 2001:db8::11/64 on v0] []"},
		{"ip route add default via 192.0.2.1; ip -6 route add default via 2001:db8::1; ip -6 route add default via fe80::1 dev v0 metric 7",
			"[192.0.2.11/24 on v0 2001:db8::11/64 on v0] [192.0.2.1 2001:db8::1]"},
		{"ip route add default table 77 nexthop via 192.0.2.2 nexthop via 192.0.2.3; ip route add 198.51.100.0/24 via 192.0.2.4",
			"[192.0.2.11/24 on v0 2001:db8::11/64 on v0] [192.0.2.1 192.0.2.2 192.0.2.3 2001:db8::1]"},
		{"ip route del default; ip -6 route del default metric 1024; ip route del default table 77; ip addr add 192.0.2.50/32 dev v1",
			"[192.0.2.11/24 on v0 192.0.2.50/32 on v1 2001:db8::11/64 on v0] []"},
		// A route goes with its source address, which another interface has.
		{"ip route add default via 192.0.2.1 dev v0 src 192.0.2.50",
			"[192.0.2.11/24 on v0 192.0.2.50/32 on v1 2001:db8::11/64 on v0] [192.0.2.1]"},
		{"ip addr del 192.0.2.50/32 dev v1", "[192.0.2.11/24 on v0 2001:db8::11/64 on v0] []"},
		{"ip addr add 192.0.2.50/32 dev v1", "[192.0.2.11/24 on v0 192.0.2.50/32 on v1 2001:db8::11/64 on v0] []"},
		{"ip link set v1 name vip0", "[192.0.2.11/24 on v0 192.0.2.50/32 on vip0 2001:db8::11/64 on v0] []"},
		{"ip link del v0", "[] []"},
	} {
		nettest.Shell(t, "%s", step.do)
		var got string
		nettest.Eventually(t, step.want+" after "+step.do, func() bool {
			n := w.Current()
			got = fmt.Sprint(n.Addresses, n.Gateways)
			return got == step.want
		})
	}
}
