package ipam

import (
	"fmt"
	"net/netip"
	"testing"

	"go4.org/netipx"
)

// BenchmarkAssignAndRelease measures a Service that comes and goes, which must cost
// about the same however large the pool is and however much of it is taken.
func BenchmarkAssignAndRelease(b *testing.B) {
	for _, c := range []struct {
		name, pool string
		family     Family
		taken      int
		scattered  bool // every other address is taken: as many gaps as there can be
	}{
		{"IPv4-24-254-taken", "192.0.2.0/24", IPv4, 254, false},
		{"IPv4-8-1000-taken", "10.0.0.0/8", IPv4, 1000, false},
		{"IPv4-8-100000-taken", "10.0.0.0/8", IPv4, 100_000, false},
		{"IPv4-8-100000-scattered", "10.0.0.0/8", IPv4, 100_000, true},
		{"IPv6-64-1000-taken", "2001:db8::/64", IPv6, 1000, false},
		{"IPv6-64-100000-taken", "2001:db8::/64", IPv6, 100_000, false},
		{"IPv6-64-100000-scattered", "2001:db8::/64", IPv6, 100_000, true},
	} {
		b.Run(c.name, func(b *testing.B) {
			a := New()
			prefix := netip.MustParsePrefix(c.pool)
			a.SetPools([]Pool{{Name: "p", Ranges: []netipx.IPRange{netipx.RangeOfPrefix(prefix)}, Automatic: true}})
			address := prefix.Addr()
			for i := range c.taken {
				if err := a.Hold(fmt.Sprintf("owner-%d", i), address); err != nil {
					b.Fatal(err)
				}
				if address = address.Next(); c.scattered {
					address = address.Next()
				}
			}
			request := Request{Families: []Family{c.family}}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := a.Assign("one more", request); err != nil {
					b.Fatal(err)
				}
				if !a.Release("one more") {
					b.Fatal("nothing was released")
				}
			}
		})
	}
}

// BenchmarkFill fills a pool from empty to its last address.
func BenchmarkFill(b *testing.B) {
	for _, pool := range []string{"192.0.2.0/24", "198.18.0.0/16"} {
		b.Run(pool, func(b *testing.B) {
			prefix := netip.MustParsePrefix(pool)
			size := 1 << (32 - prefix.Bits())
			owners := make([]string, size)
			for i := range owners {
				owners[i] = fmt.Sprintf("owner-%d", i)
			}
			request := Request{Families: []Family{IPv4}}
			for b.Loop() {
				a := New()
				a.SetPools([]Pool{{Name: "p", Ranges: []netipx.IPRange{netipx.RangeOfPrefix(prefix)}, Automatic: true}})
				for _, owner := range owners {
					if _, err := a.Assign(owner, request); err != nil {
						b.Fatal(err)
					}
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*size), "ns/address")
		})
	}
}
