package ipam

import (
	"cmp"
	"encoding/binary"
	"math/bits"
	"net/netip"
	"slices"

	"go4.org/netipx"
)

// Recent are the addresses of a pool that are held or rest.
type Recent struct {
	addresses []netip.Addr
	pool      []netipx.IPRange
}

// Recent returns those of the pool. It costs as much as their number.
func (a *Allocator) Recent(pool string) Recent {
	p := a.pools.byName[pool]
	if p == nil {
		return Recent{}
	}
	r := Recent{pool: p.Ranges}
	for i := range p.stocks {
		s := &p.stocks[i]
		r.addresses = slices.Grow(r.addresses, len(s.held)+s.resting.Len())
		for address := range s.held {
			r.addresses = append(r.addresses, address)
		}
		s.resting.Scan(func(rests restAddress) bool {
			r.addresses = append(r.addresses, rests.address)
			return true
		})
	}
	return r
}

// Ranges returns at most that many ranges, ascending, that contain all of the addresses, and as few
// others as possible. No range crosses the border of two ranges of the pool. If more ranges of the
// pool than that are in use, the last ones are left out.
func (r Recent) Ranges(most int) []netipx.IPRange {
	slices.SortFunc(r.addresses, netip.Addr.Compare)
	return merged(spansOf(r.addresses, r.pool), most)
}

// span is an interval inside one range of a pool, given by its index.
type span struct {
	interval
	of int
}

// spansOf returns the addresses as the fewest spans that contain no others. Both lists are
// ascending.
func spansOf(addresses []netip.Addr, ranges []netipx.IPRange) []span {
	var spans []span
	of := 0
	for _, address := range addresses {
		for ranges[of].To().Less(address) {
			of++
		}
		if n := len(spans); n > 0 && spans[n-1].of == of && spans[n-1].to.Next() == address {
			spans[n-1].to = address
		} else {
			spans = append(spans, span{interval{address, address}, of})
		}
	}
	return spans
}

// merged returns the spans as at most that many ranges, by closing the narrowest gaps.
func merged(spans []span, most int) []netipx.IPRange {
	var gaps []int // each before the span of this index
	for i := 1; i < len(spans); i++ {
		if spans[i].of == spans[i-1].of {
			gaps = append(gaps, i)
		}
	}
	slices.SortStableFunc(gaps, func(i, j int) int {
		return compareWidths(spans[i-1].to, spans[i].from, spans[j-1].to, spans[j].from)
	})
	closed := map[int]bool{}
	for _, i := range gaps[:min(len(gaps), max(0, len(spans)-most))] {
		closed[i] = true
	}
	var ranges []netipx.IPRange
	for i, s := range spans {
		if n := len(ranges); closed[i] {
			ranges[n-1] = netipx.IPRangeFrom(ranges[n-1].From(), s.to)
		} else {
			ranges = append(ranges, netipx.IPRangeFrom(s.from, s.to))
		}
	}
	return ranges[:min(len(ranges), max(most, 0))]
}

// compareWidths compares the distance of the first two addresses to that of the other two.
func compareWidths(from, to, otherFrom, otherTo netip.Addr) int {
	high, low := distance(from, to)
	otherHigh, otherLow := distance(otherFrom, otherTo)
	return cmp.Or(cmp.Compare(high, otherHigh), cmp.Compare(low, otherLow))
}

// distance returns the distance of two addresses of one family, as a number of 128 bits.
func distance(from, to netip.Addr) (high, low uint64) {
	f, t := from.As16(), to.As16()
	low, borrow := bits.Sub64(binary.BigEndian.Uint64(t[8:]), binary.BigEndian.Uint64(f[8:]), 0)
	high, _ = bits.Sub64(binary.BigEndian.Uint64(t[:8]), binary.BigEndian.Uint64(f[:8]), borrow)
	return high, low
}
