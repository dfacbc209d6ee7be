//go:build root

package steering

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/berth-lb/berth/speaker/dataplane/steering/decide"
	"github.com/berth-lb/berth/speaker/dataplane/steering/table"
)

// cluster has 10 000 Services on 100 nodes, each with two ports, and endpoints on three nodes that
// no other one has.
func cluster() Desired {
	d := Desired{
		Enabled:  true,
		Seed:     decide.Seed{1},
		Self:     "n1",
		Nodes:    map[string]Node{},
		Services: map[string]Service{},
	}
	for i := range 100 {
		d.Nodes[fmt.Sprint("n", i+1)] = Node{IPv4: netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)}), Interface: 1}
	}
	for i := range 10_000 {
		a := netip.AddrFrom4([4]byte{10, 9, byte(i >> 8), byte(i)})
		d.Services[fmt.Sprint("s", i)] = Service{
			Frontends: []Frontend{{netip.AddrPortFrom(a, 80), decide.TCP}, {netip.AddrPortFrom(a, 443), decide.TCP}},
			Members: []table.Member{
				{Node: fmt.Sprint("n", i%100+1), Weight: 1}, {Node: fmt.Sprint("n", (i/100+i+1)%100+1), Weight: 2},
				{Node: fmt.Sprint("n", (i*7+3)%100+1), Weight: 1 + i%5},
			},
			TCPChance: true,
		}
	}
	return d
}

func opened(b *testing.B) *Driver {
	b.Helper()
	dir := b.TempDir()
	if err := unix.Mount("bpffs", dir, "bpf", 0, ""); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	d, err := New(Config{Pins: filepath.Join(dir, "steering")})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { d.Close() })
	return d
}

// BenchmarkSync_all is from nothing, as after a start.
func BenchmarkSync_all(b *testing.B) {
	desired := cluster()
	for b.Loop() {
		d := opened(b)
		if err := d.Sync(desired); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(memory(b, d), "MiB-in-kernel")
		runtime.GC()
		var heap runtime.MemStats
		runtime.ReadMemStats(&heap)
		b.ReportMetric(float64(heap.HeapAlloc)/(1<<20), "MiB-heap")
		if err := d.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkUpdate is a change of one Service's endpoints, until the kernel has it: beside it, the
// same where all is compared.
func BenchmarkUpdate(b *testing.B) {
	desired, d := cluster(), opened(b)
	if err := d.Sync(desired); err != nil {
		b.Fatal(err)
	}
	for name, bring := range map[string]func(Service) error{
		"one": func(s Service) error { return d.Update(map[string]Service{"s77": s}, nil) },
		"all": func(s Service) error { desired.Services["s77"] = s; return d.Sync(desired) },
	} {
		b.Run(name, func(b *testing.B) {
			s := desired.Services["s77"]
			for i := 0; b.Loop(); i++ {
				s.Members = []table.Member{{Node: "n1", Weight: 1}, {Node: "n2", Weight: 1 + i%2}}
				if err := bring(s); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkSuspect is a death, until the kernel has it.
func BenchmarkSuspect(b *testing.B) {
	desired, d := cluster(), opened(b)
	if err := d.Sync(desired); err != nil {
		b.Fatal(err)
	}
	for i := 0; b.Loop(); i++ {
		if err := d.Suspect(map[string]bool{"n7": i%2 == 0}, nil); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkRefresh compares all with what is in the kernel.
func BenchmarkRefresh(b *testing.B) {
	desired, d := cluster(), opened(b)
	if err := d.Sync(desired); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := d.Refresh(); err != nil {
			b.Fatal(err)
		}
	}
}

// memory is what the kernel says that the maps take, in MiB.
func memory(b *testing.B, d *Driver) float64 {
	b.Helper()
	maps := []*ebpf.Map{
		d.kernel.Services, d.kernel.Tables, d.kernel.Nodes, d.kernel.NodeByAddr, d.kernel.SourceRanges, d.kernel.Fragments,
	}
	for _, p := range d.kernel.pages {
		maps = append(maps, p.Map)
	}
	total := 0
	for _, m := range maps {
		info, err := os.ReadFile(fmt.Sprint("/proc/self/fdinfo/", m.FD()))
		if err != nil {
			b.Fatal(err)
		}
		found := regexp.MustCompile(`memlock:\s*(\d+)`).FindSubmatch(info)
		n, err := strconv.Atoi(string(found[1]))
		if err != nil {
			b.Fatal(err)
		}
		total += n
	}
	return float64(total) / (1 << 20)
}
