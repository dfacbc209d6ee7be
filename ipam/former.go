package ipam

import (
	"net/netip"
	"slices"
	"time"
)

// remembered is how many former addresses of a pool and family are kept. Those freed longest ago
// are forgotten. It limits the memory for a large pool whose owners come and go.
const remembered = 1 << 16

// Rested is an address that rests.
type Rested struct {
	Address netip.Addr
	// Owner had it, and gets it back. Empty: not known.
	Owner string
	Until time.Time
}

// Rest makes an address that nobody holds rest, as if the owner, which may be unknown (""), had
// freed it: for a new leader. It has no effect if the address is held or already rests as long.
func (a *Allocator) Rest(address netip.Addr, owner string, until time.Time) {
	if _, held := a.holders[address]; held || !until.After(a.resting[address].until) {
		return
	}
	a.recall(address)
	a.retire(address, owner, until)
	a.mark(address)
}

// Wake ends the rest of the addresses whose time has come. It returns these, and when the next one
// wakes: zero if none rests.
func (a *Allocator) Wake(now time.Time) (woke []netip.Addr, next time.Time) {
	wake := func(s *stock) {
		for first, ok := s.resting.Min(); ok; first, ok = s.resting.Min() {
			if first.until.After(now) {
				if next.IsZero() || first.until.Before(next) {
					next = first.until
				}
				break
			}
			woke = append(woke, first.address)
			s.resting.PopMin()
			a.unrest(first.address, a.resting[first.address].owner)
			a.shelve(first.address)
		}
	}
	for _, p := range a.pools.byName {
		wake(&p.stocks[0])
		wake(&p.stocks[1])
	}
	wake(&a.outside[0])
	wake(&a.outside[1])
	return woke, next
}

// Resting returns at most that many of the resting addresses of a pool, those that rest longest
// first.
func (a *Allocator) Resting(pool string, most int) []Rested {
	p := a.pools.byName[pool]
	if p == nil {
		return nil
	}
	var all []Rested
	for i := range p.stocks {
		n := 0
		p.stocks[i].resting.Reverse(func(r restAddress) bool {
			if n++; n > most {
				return false
			}
			all = append(all, Rested{r.address, a.resting[r.address].owner, r.until})
			return true
		})
	}
	slices.SortStableFunc(all, func(x, y Rested) int { return y.Until.Compare(x.Until) })
	return all[:min(len(all), max(most, 0))]
}

// settle updates where an address is filed after what is known of it changed.
func (a *Allocator) settle(address netip.Addr) {
	a.mark(address)
	a.shelve(address)
}

// stock returns the stock that the address belongs to.
func (a *Allocator) stock(address netip.Addr) *stock {
	family := FamilyOf(address)
	if p := a.pools.of(address); p != nil {
		return p.stock(family)
	}
	return &a.outside[family.index()]
}

// retire notes that the owner freed the address, and that it rests until then.
func (a *Allocator) retire(address netip.Addr, owner string, until time.Time) {
	a.freed++
	a.former[address] = a.freed
	if !until.IsZero() {
		a.resting[address] = rest{owner, until}
		if owner != "" {
			a.restingOf[owner] = append(a.restingOf[owner], address)
		}
	}
	a.place(address, a.freed, a.claimed(address)) // it is not held
}

// recall undoes retire: the address is about to be held, or to be freed again.
func (a *Allocator) recall(address netip.Addr) {
	order, ok := a.former[address]
	if !ok {
		return
	}
	s, key := a.stock(address), pastAddress{order, address}
	if p := a.pools.of(address); p != nil {
		a.renew(p)
	}
	if r, rests := a.resting[address]; rests {
		s.resting.Delete(restAddress{r.until, key})
		a.unrest(address, r.owner)
	} else {
		s.past.Delete(key)
	}
	delete(a.former, address)
}

// unrest notes that the address no longer rests.
func (a *Allocator) unrest(address netip.Addr, owner string) {
	delete(a.resting, address)
	left := slices.DeleteFunc(a.restingOf[owner], func(r netip.Addr) bool { return r == address })
	if len(left) > 0 {
		a.restingOf[owner] = left
	} else {
		delete(a.restingOf, owner)
	}
}

// shelve updates where an address is filed, if it is a former one.
func (a *Allocator) shelve(address netip.Addr) {
	if order, ok := a.former[address]; ok {
		a.place(address, order, a.blocked(address))
	}
}

// place files a former address among those of its stock that rest, or among those that can be given
// again, or among neither.
func (a *Allocator) place(address netip.Addr, order uint64, blocked bool) {
	key := pastAddress{order, address}
	p := a.pools.of(address)
	if p != nil {
		a.renew(p)
	}
	if r, ok := a.resting[address]; ok {
		a.stock(address).resting.Set(restAddress{r.until, key})
		return
	}
	if p == nil {
		return
	}
	s := p.stock(FamilyOf(address))
	if !blocked && p.offers(address) && len(a.pinned.of[address]) == 0 {
		s.past.Set(key)
		a.forget(s)
	} else {
		s.past.Delete(key)
	}
}

// forget drops the address freed longest ago if there are too many.
func (a *Allocator) forget(s *stock) {
	if s.past.Len() > remembered {
		oldest, _ := s.past.PopMin()
		delete(a.former, oldest.address)
		a.taken.remove(oldest.address) // nothing else is known of it
	}
}
