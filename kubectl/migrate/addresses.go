package migrate

import (
	"net/netip"
	"slices"
	"strings"

	"go4.org/netipx"

	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/config/v1alpha1"
)

// addressesOf returns entries of a pool as Berth writes them, without those that are in an earlier
// pool already. Entries that cannot be given are reported. Without ends, the first and the last
// address of each prefix are left out.
func (c *converter) addressesOf(from, field string, entries []string, ends bool) []v1alpha1.AddressRange {
	taken, err := c.taken.IPSet()
	if err != nil { // only valid ranges are added
		return nil
	}
	var all []v1alpha1.AddressRange
	for _, entry := range entries {
		text := strings.ReplaceAll(entry, " ", "")
		if prefix, err := netip.ParsePrefix(text); err == nil {
			text = prefix.Masked().String()
		}
		r, err := config.ParseRange(text)
		if err != nil {
			c.lacks(from, field, entry, err.Error())
			continue
		}
		if !ends {
			r, text = withoutEnds(r, text)
		}
		var free netipx.IPSetBuilder
		free.AddRange(r)
		free.RemoveSet(taken)
		set, err := free.IPSet()
		if err != nil {
			continue
		}
		written := []v1alpha1.AddressRange{v1alpha1.AddressRange(text)}
		if taken.OverlapsRange(r) {
			written = nil
			for _, rest := range set.Ranges() {
				written = append(written, rangeText(rest))
			}
			c.note(from, field, entry, "some of it is in an earlier pool, and left out here")
		}
		for _, w := range written {
			if !slices.Contains(all, w) {
				all = append(all, w)
			}
		}
		c.taken.AddRange(r)
	}
	return all
}

// withoutEnds returns a prefix without its first and last address, if something is left.
func withoutEnds(r netipx.IPRange, text string) (netipx.IPRange, string) {
	inner := netipx.IPRangeFrom(r.From().Next(), r.To().Prev())
	if !strings.Contains(text, "/") || !inner.IsValid() {
		return r, text
	}
	return inner, string(rangeText(inner))
}

// rangeText writes a range as shortly as it can be.
func rangeText(r netipx.IPRange) v1alpha1.AddressRange {
	prefix, is := r.Prefix()
	switch {
	case r.From() == r.To():
		return v1alpha1.AddressRange(r.From().String())
	case is:
		return v1alpha1.AddressRange(prefix.String())
	}
	return v1alpha1.AddressRange(r.From().String() + "-" + r.To().String())
}

// everyService is the scope of a pool for all Services.
func everyService() []v1alpha1.PoolScope {
	return []v1alpha1.PoolScope{{NamespaceSelector: everything(), ServiceSelector: everything()}}
}

// addPool puts out a pool that takes over the Services that have its addresses, unless none of its
// addresses can be given.
func (c *converter) addPool(i item, pool *v1alpha1.LoadBalancerPool) {
	if len(pool.Spec.Addresses) == 0 {
		c.lacks(i.from, "", "", "it has no address that Berth can give, so there is no pool for it")
		return
	}
	pool.Spec.TakeOver = v1alpha1.TakeOverAlways
	c.add(i.from, "LoadBalancerPool", pool, "which takes over the Services that have its addresses")
}
