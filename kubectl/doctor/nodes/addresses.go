package nodes

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"go4.org/netipx"

	"github.com/berth-lb/berth/config"
)

// MaxAddresses is how many addresses are asked for on a segment at most, and maxRanges in how many
// ranges: an argument of a program has 128 KiB at most.
const (
	MaxAddresses = 4096
	maxRanges    = 1024
)

// sample is the part of a pool's range that is asked for.
type sample struct {
	pool  *config.Pool
	whole netipx.IPRange
	size  int // of the range, at most MaxAddresses+1
	taken int
}

// sampled returns the first addresses of each range, so many that all together are MaxAddresses at
// most, and small ranges are whole.
func sampled(pools []*config.Pool) []sample {
	var all []sample
	for _, p := range pools {
		for _, r := range p.Ranges {
			all = append(all, sample{pool: p, whole: r, size: sizeOf(r)})
		}
	}
	bySize := make([]*sample, len(all))
	for i := range all {
		bySize[i] = &all[i]
	}
	slices.SortStableFunc(bySize, func(a, b *sample) int { return cmp.Compare(a.size, b.size) })
	left := MaxAddresses
	bySize = bySize[:min(len(bySize), maxRanges)]
	for i, s := range bySize {
		s.taken = min(s.size, left/(len(bySize)-i))
		left -= s.taken
	}
	return all
}

func sizeOf(r netipx.IPRange) int {
	n := 0
	for a := r.From(); a.IsValid() && !r.To().Less(a) && n <= MaxAddresses; a = a.Next() {
		n++
	}
	return n
}

// part returns what is asked for; the zero range: nothing.
func (s sample) part() netipx.IPRange {
	if s.taken == 0 {
		return netipx.IPRange{}
	}
	last := s.whole.From()
	for range s.taken - 1 {
		last = last.Next()
	}
	return netipx.IPRangeFrom(s.whole.From(), last)
}

// scope says what is asked for, and what is left out.
func scope(all []sample) (facts []string) {
	n := 0
	var cut []string
	for _, s := range all {
		n += s.taken
		if s.taken < s.size {
			cut = append(cut, fmt.Sprintf("%s of pool %s but for its first %d", s.whole, s.pool.Name, s.taken))
		}
	}
	facts = append(facts, fmt.Sprintf("%s of pools asked for by ARP and NDP", counted(n, "address")))
	if len(cut) > 0 {
		facts = append(facts, fmt.Sprintf("left out, since %d are asked for at most: %s", MaxAddresses, few(cut)))
	}
	return facts
}

func few(texts []string) string {
	if len(texts) > 4 {
		return fmt.Sprintf("%s and %d more", strings.Join(texts[:3], ", "), len(texts)-3)
	}
	return strings.Join(texts, ", ")
}

func counted(n int, what string) string {
	switch {
	case n == 1:
		return "1 " + what
	case strings.HasSuffix(what, "s"):
		return fmt.Sprintf("%d %ses", n, what)
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// neighborhood is a network that an address is likely to share with its segment.
func neighborhood(a netip.Addr) netip.Prefix {
	bits := 28
	if a.Is6() {
		bits = 64
	}
	return netip.PrefixFrom(a, bits).Masked()
}
