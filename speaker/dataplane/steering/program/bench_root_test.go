//go:build root

package program

import (
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/berth-lb/berth/speaker/dataplane/steering/decide"
)

// BenchmarkSteer is the time that the kernel says the program takes, its own measuring included.
func BenchmarkSteer(b *testing.B) {
	stats, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { stats.Close() })
	r := load(b)
	elsewhere, here := usual().slot, decide.NoSlot.With(0, self, false).With(1, 2, false)
	for _, c := range []struct {
		name  string
		slot  decide.Slot
		flags uint32
		frame []byte
	}{
		{"another's packet", elsewhere, 0, ethernet(ip(client4, node4(self), decide.TCP, 64, tcp(40000, 80, ack)))},
		{"steers", elsewhere, TCPChance, ethernet(packet(flow4(decide.TCP), 64, tcp(40000, port, ack)))},
		{"steers IPv6", elsewhere, TCPChance, ethernet(packet(flow6(decide.TCP), 64, tcp(40000, port, ack)))},
		{"is first", here, TCPChance | Local, ethernet(packet(flow4(decide.TCP), 24, tcp(40000, port, ack)))},
		{
			"is first, and moved", here.WithMoved(true), TCPChance | Local,
			ethernet(packet(flow4(decide.TCP), 24, tcp(40000, port, ack))),
		},
	} {
		b.Run(c.name, func(b *testing.B) {
			s := usual()
			s.slot, s.service.Flags = c.slot, c.flags
			r.write(s)
			before, err := r.Steer.Stats()
			r.must(err)
			options := ebpf.RunOptions{Data: c.frame}
			for b.Loop() {
				_, err := r.Steer.Run(&options)
				r.must(err)
			}
			after, err := r.Steer.Stats()
			r.must(err)
			b.ReportMetric(
				float64(after.Runtime-before.Runtime)/float64(after.RunCount-before.RunCount),
				"ns-in-kernel/op",
			)
		})
	}
}
