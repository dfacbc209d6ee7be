package ipam

import (
	"net/netip"
	"slices"
	"time"

	"github.com/tidwall/btree"
)

// remembered is how many addresses of a pool and family are known to have been held
// once; the longest ago freed are forgotten. It bounds the memory that a large pool
// costs whose owners come and go.
const remembered = 1 << 16

// former is what is known of an address that nobody holds any more.
type former struct {
	owner string    // who had it last
	until time.Time // when its rest ends; zero: it does not rest
	order uint64    // in which addresses were freed
}

func (f former) rests() bool { return !f.until.IsZero() }

// formerTree is a set of such addresses, by the end of their rest, then by the order in
// which they were freed.
type formerTree = btree.BTreeG[formerAddress]

type formerAddress struct {
	until   time.Time
	order   uint64
	address netip.Addr
}

func newFormerTree() *formerTree {
	less := func(a, b formerAddress) bool {
		if c := a.until.Compare(b.until); c != 0 {
			return c < 0
		}
		return a.order < b.order
	}
	return btree.NewBTreeGOptions(less, btree.Options{NoLocks: true})
}

// stock returns the one that the address belongs to.
func (a *Allocator) stock(address netip.Addr) *stock {
	family := FamilyOf(address)
	if p := a.pools.of(address); p != nil {
		return p.stock(family)
	}
	return &a.outside[family.index()]
}

// retire notes that an address was freed by its owner, and rests until the time.
func (a *Allocator) retire(address netip.Addr, owner string, until time.Time) {
	a.freed++
	f := former{owner: owner, until: until, order: a.freed}
	a.former[address] = f
	if f.rests() && owner != "" {
		a.restingOf[owner] = append(a.restingOf[owner], address)
	}
	a.shelve(address)
	a.forget(a.stock(address))
}

// recall is the reverse of retire: the address is about to be held, or freed anew.
func (a *Allocator) recall(address netip.Addr) {
	f, ok := a.former[address]
	if !ok {
		return
	}
	s, key := a.stock(address), formerAddress{f.until, f.order, address}
	if f.rests() {
		s.resting.Delete(key)
		a.unrest(f.owner, address)
	} else {
		s.past.Delete(key)
	}
	delete(a.former, address)
}

// unrest notes that the address does not rest for the owner any more.
func (a *Allocator) unrest(owner string, address netip.Addr) {
	if owner == "" {
		return
	}
	left := slices.DeleteFunc(a.restingOf[owner], func(r netip.Addr) bool { return r == address })
	if len(left) > 0 {
		a.restingOf[owner] = left
	} else {
		delete(a.restingOf, owner)
	}
}

// shelve puts a former address among those of its stock that rest or can be given
// again, or takes it out of the latter.
func (a *Allocator) shelve(address netip.Addr) {
	f, ok := a.former[address]
	if !ok {
		return
	}
	p, key := a.pools.of(address), formerAddress{f.until, f.order, address}
	switch {
	case f.rests() && p == nil:
		a.outside[FamilyOf(address).index()].resting.Set(key)
	case f.rests():
		p.stock(FamilyOf(address)).resting.Set(key)
	case p == nil:
	case p.volunteers(address) && len(a.pinned.of[address]) == 0 && !a.blocked(address):
		p.stock(FamilyOf(address)).past.Set(key)
	default:
		p.stock(FamilyOf(address)).past.Delete(key)
	}
}

// forget drops the longest ago freed addresses that are too many to remember.
func (a *Allocator) forget(s *stock) {
	for s.past.Len() > remembered {
		oldest, _ := s.past.PopMin()
		delete(a.former, oldest.address)
		a.taken.remove(oldest.address) // nothing else is known of it
	}
}

// Rest makes an address rest that nobody holds, as if the owner, which may be unknown
// (""), had freed it: for a new leader. It has no effect if the address is held or rests
// as long already.
func (a *Allocator) Rest(address netip.Addr, owner string, until time.Time) {
	if _, held := a.holders[address]; held || !until.After(a.former[address].until) {
		return
	}
	a.recall(address)
	a.retire(address, owner, until)
	a.mark(address)
}

// Wake ends the rest of addresses whose time has come, and reports whether any did, and
// when the next one does: zero if none rests.
func (a *Allocator) Wake(now time.Time) (woke bool, next time.Time) {
	wake := func(s *stock) {
		for first, ok := s.resting.Min(); ok; first, ok = s.resting.Min() {
			if first.until.After(now) {
				if next.IsZero() || first.until.Before(next) {
					next = first.until
				}
				break
			}
			woke = true
			s.resting.PopMin()
			f := a.former[first.address]
			a.unrest(f.owner, first.address)
			f.until = time.Time{}
			a.former[first.address] = f
			a.shelve(first.address)
		}
		a.forget(s)
	}
	for _, p := range a.pools.byName {
		wake(&p.stocks[0])
		wake(&p.stocks[1])
	}
	wake(&a.outside[0])
	wake(&a.outside[1])
	return woke, next
}

// Rested is an address that rests.
type Rested struct {
	Address netip.Addr
	// Owner had it, and gets it back. Empty: not known.
	Owner string
	Until time.Time
}

// Resting returns the resting addresses of a pool, the longest-resting first, at most
// that many.
func (a *Allocator) Resting(pool string, most int) []Rested {
	p := a.pools.byName[pool]
	if p == nil {
		return nil
	}
	var all []Rested
	for i := range p.stocks {
		n := 0
		p.stocks[i].resting.Reverse(func(r formerAddress) bool {
			if n++; n > most {
				return false
			}
			all = append(all, Rested{r.address, a.former[r.address].owner, r.until})
			return true
		})
	}
	slices.SortStableFunc(all, func(x, y Rested) int { return y.Until.Compare(x.Until) })
	return all[:min(len(all), max(most, 0))]
}
