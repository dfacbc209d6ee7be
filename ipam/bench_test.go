package ipam

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"go4.org/netipx"
)

// filled returns an allocator with one pool, that many of whose addresses are taken.
func filled(b *testing.B, prefix string, taken int, scattered bool) *Allocator {
	b.Helper()
	a := New()
	p := netip.MustParsePrefix(prefix)
	a.SetPools([]Pool{{Name: "p", Ranges: []netipx.IPRange{netipx.RangeOfPrefix(p)}}})
	address := p.Addr()
	for i := range taken {
		if err := a.Hold(fmt.Sprintf("n/s-%d", i), address, Terms{}); err != nil {
			b.Fatal(err)
		}
		if address = address.Next(); scattered { // as many gaps as there can be
			address = address.Next()
		}
	}
	return a
}

// BenchmarkAssignAndRelease measures a Service that comes and goes. It costs about the same however
// large the pool is and however many addresses are taken.
func BenchmarkAssignAndRelease(b *testing.B) {
	for _, taken := range []int{1_000, 100_000, 1_000_000} {
		for _, c := range []struct {
			full      string
			prefix    string
			scattered bool
		}{
			{
				full:   "1%",
				prefix: fmt.Sprintf("0.0.0.0/%d", bitsFor(taken*100)),
			},
			{
				full:      "50%",
				prefix:    fmt.Sprintf("0.0.0.0/%d", bitsFor(taken*2)),
				scattered: true,
			},
			{
				full:   "99.9%",
				prefix: fmt.Sprintf("0.0.0.0/%d", bitsFor(taken)),
			},
			{
				full:   "IPv6-64",
				prefix: "2001:db8::/64",
			},
		} {
			family := IPv4
			if c.full == "IPv6-64" {
				family = IPv6
			}
			b.Run(fmt.Sprintf("taken-%d/%s", taken, c.full), func(b *testing.B) {
				fill := taken
				if c.full == "99.9%" {
					fill = 1<<(32-bitsFor(taken)) - max(1, taken/1000)
				}
				a := filled(b, c.prefix, fill, c.scattered)
				request := Request{Families: []Family{family}, Pools: []string{"p"}}
				b.ReportAllocs()
				for b.Loop() {
					if _, err := a.Assign("n/one-more", request); err != nil {
						b.Fatal(err)
					}
					a.Release("n/one-more")
				}
			})
		}
	}
}

// bitsFor returns the length of the longest IPv4 prefix with at least n addresses.
func bitsFor(n int) int {
	bits := 32
	for 1<<(32-bits) < n && bits > 0 {
		bits--
	}
	return bits
}

// BenchmarkAssignFromAFullPool measures a request that fails.
func BenchmarkAssignFromAFullPool(b *testing.B) {
	a := filled(b, "10.0.0.0/16", 1<<16, false)
	request := Request{Families: []Family{IPv4}, Pools: []string{"p"}}
	for b.Loop() {
		if _, err := a.Assign("n/one-more", request); err == nil {
			b.Fatal("a full pool gave an address")
		}
	}
}

// BenchmarkSetUsed replaces what is in use elsewhere, as when a node joins: 5000 single addresses
// in a pool with that many held ones.
func BenchmarkSetUsed(b *testing.B) {
	for _, held := range []int{0, 100_000} {
		b.Run(fmt.Sprintf("held-%d", held), func(b *testing.B) {
			a := filled(b, "10.0.0.0/8", held, true)
			var used []Used
			for address := netip.MustParseAddr("10.0.0.0"); len(used) < 5000; address = address.Next().Next().Next() {
				used = append(used, Used{netipx.IPRangeFrom(address, address), "an address of a node"})
			}
			for n := 0; b.Loop(); n++ {
				a.SetUsed(used[:len(used)-n%2])
			}
		})
	}
}

// BenchmarkAssignAndRest measures a Service that comes and goes while its addresses rest,
// thousands of them at a time.
func BenchmarkAssignAndRest(b *testing.B) {
	a := filled(b, "10.0.0.0/16", 1_000, false)
	request := Request{Families: []Family{IPv4}, Pools: []string{"p"}}
	now := time.Unix(0, 0)
	for n := 0; b.Loop(); n++ {
		name := fmt.Sprintf("n/more-%d", n)
		got, err := a.Assign(name, request)
		if err != nil {
			b.Fatal(err)
		}
		now = now.Add(10 * time.Millisecond)
		a.Free(name, got.Addresses, now.Add(time.Minute))
		a.Wake(now)
	}
}

// BenchmarkRebuild rebuilds the allocator from 100,000 statuses, and reports the memory per
// address.
func BenchmarkRebuild(b *testing.B) {
	const n = 100_000
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("n/s-%d", i)
	}
	var before, after runtime.MemStats
	for b.Loop() {
		runtime.GC()
		runtime.ReadMemStats(&before)
		a := New()
		a.SetPools([]Pool{{Name: "p", Ranges: []netipx.IPRange{netipx.RangeOfPrefix(netip.MustParsePrefix("10.0.0.0/8"))}}})
		address := netip.MustParseAddr("10.0.0.0")
		for _, name := range names {
			if err := a.Hold(name, address, Terms{}); err != nil {
				b.Fatal(err)
			}
			address = address.Next()
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		runtime.KeepAlive(a)
	}
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/n, "B/address")
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/address")
}
