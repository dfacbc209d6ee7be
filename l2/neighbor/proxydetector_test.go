package neighbor

import (
	"net/netip"
	"slices"
	"testing"
)

func TestDecoyPairs(t *testing.T) {
	subnets := []netip.Prefix{
		netip.MustParsePrefix("fe80::/64"),
		netip.MustParsePrefix("192.0.2.0/29"),
		netip.MustParsePrefix("2001:db8::/64"),
	}
	taken := func(a netip.Addr) bool {
		return slices.Contains([]string{"192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"}, a.String())
	}
	for range 100 {
		four, six := DecoyPairs(subnets, true, taken), DecoyPairs(subnets, false, taken)
		if len(four) != 2 || len(six) != 2 || !benchmark4.Contains(four[0][0]) ||
			!benchmark4.Contains(four[0][1]) || four[0][0] == four[0][1] {
			t.Fatalf("decoys %v and %v", four, six)
		}
		slices.SortFunc(four[1][:], netip.Addr.Compare)
		if four[1] != [2]netip.Addr{netip.MustParseAddr("192.0.2.5"), netip.MustParseAddr("192.0.2.6")} {
			t.Fatalf("decoys %v of the segment, of which only two are free", four[1])
		}
		if !benchmark6.Contains(six[0][0]) || !subnets[2].Contains(six[1][0]) || !subnets[2].Contains(six[1][1]) {
			t.Fatalf("decoys %v", six)
		}
	}
	subnets = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/30")}
	if got := DecoyPairs(subnets, true, taken); len(got) != 1 {
		t.Errorf("decoys %v, want none of a subnet that is too small", got)
	}
}
