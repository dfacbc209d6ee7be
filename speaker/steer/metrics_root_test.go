//go:build root

package steer

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/berth-lb/berth/speaker/dataplane/ipvs"
	"github.com/berth-lb/berth/speaker/dataplane/nft/nettest"
	"github.com/berth-lb/berth/speaker/plan"
)

func TestMain(m *testing.M) { os.Exit(nettest.Main(m)) }

// scrape returns what the registry has, by name and labels.
func scrape(t *testing.T, r *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			labels := []string{strings.TrimPrefix(f.GetName(), "berth_steering_")}
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetValue())
			}
			found[strings.Join(labels, " ")] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return found
}

// Real packets of a client are counted by the program, and are in the metrics. A process that
// follows counts from its own start.
func TestMetrics(t *testing.T) {
	pins := t.TempDir()
	nettest.Shell(t, "mount -t bpf bpffs %s", pins)
	t.Cleanup(func() { nettest.Shell(t, "umount -l %s", pins) })
	client := nettest.Namespace(t)
	nettest.Shell(t, `ip link add uplink type veth peer name uplink netns %[1]s
ip link set uplink up; ip addr add 10.0.0.1/24 dev uplink
%[2]s bash -ec 'ip link set uplink up; ip addr add 10.0.0.9/24 dev uplink; ip addr add 10.0.0.2/24 dev uplink
ip route add 192.0.2.1 via 10.0.0.1'`, nettest.PID(client), client)
	t.Cleanup(func() { nettest.Shell(t, "ip link del uplink") })
	send := func(packets int) {
		t.Helper()
		nettest.Within(t, client, func() {
			c, err := net.Dial("udp", "192.0.2.1:53")
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			for range packets {
				if _, err := c.Write([]byte("hello")); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for _, packets := range []int{20, 5} {
		t.Run(fmt.Sprint(packets, " packets"), func(t *testing.T) {
			s := New(Config{
				Logger: slog.New(slog.DiscardHandler), Node: "n1", Pins: filepath.Join(pins, "berth"),
				Refused: func() string { return "" }, Doubt: func(string) {},
			})
			r := prometheus.NewPedanticRegistry()
			if err := s.Register(r, true); err != nil {
				t.Fatal(err)
			}
			s.SetSeed([16]byte{1})
			s.SetNodes(map[string][]netip.Addr{"n1": {address("10.0.0.1")}, "n2": {address("10.0.0.2")}})
			s.SetInterfaces([]string{"uplink"}, nil)
			s.Sync("d/dns", []plan.SteeredPort{{
				Service: "d/dns", Address: address("192.0.2.1"), Port: 53, Protocol: ipvs.UDP,
				Members: []plan.SteeredMember{{Node: "n2", Endpoints: 1}},
			}})
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error)
			go func() { done <- s.Run(ctx) }()
			defer func() {
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
			}()
			nettest.Eventually(t, "it steers", func() bool { return scrape(t, r)["ports"] == 1 })
			send(packets)
			nettest.Eventually(t, "all packets are counted", func() bool {
				return scrape(t, r)["packets_total first"] >= float64(packets)
			})
			got := scrape(t, r)
			if at := got["synced_timestamp_seconds"]; at == 0 {
				t.Error("it does not say when the kernel was up to date")
			}
			for name, want := range map[string]float64{
				"up": 1, "services": 1, "ports": 1, "tables": 1, "nodes_suspected": 0, "sync_failures_total": 0,
				"packets_total first": float64(packets), "series_omitted": 0,
				"service_packets_total d first dns n2": float64(packets),
			} {
				if have, there := got[name]; !there || have != want {
					t.Errorf("%s is %v (%v), want %v", name, have, there, want)
				}
			}
			s.Suspect(map[string]bool{"n2": true}, nil)
			nettest.Eventually(t, "n2 is suspected", func() bool { return scrape(t, r)["nodes_suspected"] == 1 })
			s.Suspect(map[string]bool{}, nil)
			nettest.Eventually(t, "n2 is trusted again", func() bool { return scrape(t, r)["nodes_suspected"] == 0 })
		})
	}
}
