//go:build vm

package ipvs_test

import (
	"fmt"
	"maps"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-lb/berth/speaker/dataplane/ipvs"
)

// services makes n Services with one port and five endpoints each.
func services(n int) ipvs.Table {
	table := ipvs.Table{}
	for i := range n {
		v := simple("rr", nil)
		for e := range 5 {
			pod := netip.AddrFrom4([4]byte{10, byte(64 + e), byte(i >> 8), byte(i)})
			v.RealServers = append(v.RealServers, ipvs.RealServer{Address: pod, Port: 8080, Weight: 1})
		}
		table[ipvs.Frontend{
			Address: netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}), Port: 80, Protocol: ipvs.TCP,
		}] = v
	}
	return table
}

// BenchmarkProgram1000 brings 1 000 Services × 5 endpoints into an empty kernel, and reads them
// back.
func BenchmarkProgram1000(b *testing.B) {
	table := services(1000)
	for b.Loop() {
		b.StopTimer()
		s := newSite(b)
		b.StartTimer()
		_, stop := s.direct(b, table)
		b.StopTimer()
		stop()
		b.StartTimer()
	}
}

// BenchmarkChange changes one endpoint among so many Services, and reads it back: it must not grow
// with them.
func BenchmarkChange(b *testing.B) {
	for _, n := range []int{1, 100, 1000} {
		b.Run(fmt.Sprint("services=", n), func(b *testing.B) {
			s := newSite(b)
			table := services(n)
			d, _ := s.direct(b, table)
			changing := ipvs.Frontend{Address: netip.MustParseAddr("198.18.0.0"), Port: 80, Protocol: ipvs.TCP}
			// A group of its own, as each Service has.
			v := table[changing]
			rest := maps.Clone(table)
			delete(rest, changing)
			d.Sync("one", ipvs.Table{changing: v})
			d.Sync("test", rest)
			one := &running{d.Driver, "one", ipvs.Table{changing: v}}
			settled(b)
			i := 0
			for b.Loop() {
				i++
				last := v.RealServers[4]
				last.Address = netip.AddrFrom4([4]byte{10, 99, byte(i >> 8), byte(i)})
				next := simple("rr", append(v.RealServers[:4:4], last))
				apply(b, one, ipvs.Table{changing: next})
			}
		})
	}
}

// BenchmarkRead reads 1 000 Services × 5 endpoints, as every comparison does.
func BenchmarkRead(b *testing.B) {
	s := newSite(b)
	d, _ := s.direct(b, services(1000))
	for b.Loop() {
		all, err := in(s.director, d.Statistics)
		if err != nil || len(all) != 1000 {
			b.Fatalf("%d virtual servers, %v", len(all), err)
		}
	}
}

// BenchmarkIdle measures the processor's time that a second takes at 1 000 Services × 5 endpoints
// when nothing changes, with the usual comparison every two seconds.
func BenchmarkIdle(b *testing.B) {
	s := newSite(b)
	s.direct(b, services(1000))
	settled(b)
	ticks := time.NewTicker(time.Second)
	defer ticks.Stop()
	before := used(b)
	for b.Loop() {
		<-ticks.C
	}
	b.ReportMetric(float64((used(b)-before).Microseconds())/1e3/float64(b.N), "cpu-ms/s")
}

// settled waits until all has been read that is read after many changes at once.
func settled(b *testing.B) {
	b.Helper()
	timer := time.NewTimer(5 * time.Second)
	defer timer.Stop()
	<-timer.C
}

func used(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
