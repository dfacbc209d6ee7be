package ipam

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"go4.org/netipx"
)

// model is the allocator as one would write it without a care for cost: it looks at
// every address, every time.
type model struct {
	pools    []Pool
	owners   map[string]*modelOwner
	order    map[netip.Addr][]string // holders, the longest-standing first
	reserved map[netip.Addr]string
}

type modelOwner struct {
	terms   Terms
	held    map[netip.Addr]bool
	leaving map[netip.Addr]bool
}

func newModel() *model {
	return &model{owners: map[string]*modelOwner{}, order: map[netip.Addr][]string{}, reserved: map[netip.Addr]string{}}
}

func (m *model) pool(a netip.Addr) *Pool {
	for i := range m.pools {
		for _, r := range m.pools[i].Ranges {
			if r.Contains(a) {
				return &m.pools[i]
			}
		}
	}
	return nil
}

func (m *model) named(name string) *Pool {
	for i := range m.pools {
		if m.pools[i].Name == name {
			return &m.pools[i]
		}
	}
	return nil
}

func (m *model) mayHold(name string, a netip.Addr, terms Terms) bool {
	if by := m.reserved[a]; by != "" && namespaceOf(by) != namespaceOf(name) {
		return false
	}
	mine := m.owners[name] != nil && m.owners[name].held[a]
	for other, o := range m.owners {
		if other == name || !o.held[a] {
			continue
		}
		if o.leaving[a] {
			if mine {
				continue
			}
			return false
		}
		p := m.pool(a)
		near := p != nil && p.ShareAcross || namespaceOf(other) == namespaceOf(name)
		shares := terms.Key != "" && terms.Key == o.terms.Key && near && (!terms.Local && !o.terms.Local || terms.Endpoints == o.terms.Endpoints)
		for _, port := range terms.Ports {
			shares = shares && !slices.Contains(o.terms.Ports, port)
		}
		if !shares {
			return false
		}
	}
	return true
}

func (m *model) hold(name string, a netip.Addr) {
	if !m.owners[name].held[a] {
		m.owners[name].held[a] = true
		m.order[a] = append(m.order[a], name)
	}
}

func (m *model) free(name string, addresses []netip.Addr) {
	o := m.owners[name]
	if o == nil {
		return
	}
	for _, a := range addresses {
		if o.held[a] {
			delete(o.held, a)
			delete(o.leaving, a)
			m.order[a] = slices.DeleteFunc(m.order[a], func(n string) bool { return n == name })
		}
	}
	if len(o.held) == 0 {
		delete(m.owners, name)
	}
}

// assign returns the addresses wanted of the allocator, and whether it should fail.
func (m *model) assign(name string, r Request, universe []netip.Addr) ([]netip.Addr, bool) {
	if m.owners[name] == nil {
		m.owners[name] = &modelOwner{held: map[netip.Addr]bool{}}
	}
	o := m.owners[name]
	o.terms = r.Terms
	var got []netip.Addr
	fail := false
	for _, pin := range r.Pinned {
		p := m.pool(pin)
		ok := slices.Contains(r.Families, FamilyOf(pin)) && m.mayHold(name, pin, r.Terms)
		if !o.held[pin] {
			ok = ok && p != nil && slices.Contains(r.Pools, p.Name) && p.Allocation != Disabled && !(p.SkipEdges && edge(pin))
		}
		fail = fail || !ok
	}
	before := map[netip.Addr]bool{}
	for a := range o.held {
		before[a] = true
	}
	if !fail {
		for _, pin := range r.Pinned {
			m.hold(name, pin)
			got = append(got, pin)
		}
		missing := 0
		for _, f := range r.Families {
			if slices.ContainsFunc(got, of(f)) {
				continue
			}
			if a, ok := m.pick(name, f, r, universe, before); ok {
				m.hold(name, a)
				got = append(got, a)
			} else {
				missing++
			}
		}
		fail = len(got) == 0 || r.All && missing > 0
	}
	if fail {
		got = nil
		for a := range o.held {
			if !before[a] {
				delete(o.held, a)
				m.order[a] = slices.DeleteFunc(m.order[a], func(n string) bool { return n == name })
			}
		}
	}
	o.leaving = map[netip.Addr]bool{}
	for a := range o.held {
		if !slices.Contains(got, a) {
			o.leaving[a] = true
		}
	}
	if len(o.held) == 0 {
		delete(m.owners, name)
	}
	slices.SortFunc(got, func(a, b netip.Addr) int {
		return slices.Index(r.Families, FamilyOf(a)) - slices.Index(r.Families, FamilyOf(b))
	})
	return got, fail
}

func (m *model) pick(name string, f Family, r Request, universe []netip.Addr, before map[netip.Addr]bool) (netip.Addr, bool) {
	for _, a := range universe { // ascending
		if before[a] && FamilyOf(a) == f && m.mayHold(name, a, r.Terms) {
			p := m.pool(a)
			if !r.Named || p != nil && slices.Contains(r.Pools, p.Name) {
				return a, true
			}
		}
	}
	for _, shared := range []bool{true, false} {
		for _, pool := range r.Pools {
			p := m.named(pool)
			if p == nil || p.Allocation == Disabled || p.Allocation == OnRequest && !r.Named {
				continue
			}
			for _, a := range universe {
				if FamilyOf(a) != f || m.pool(a) != p {
					continue
				}
				if shared && r.Terms.Key != "" && len(m.order[a]) > 0 && m.mayHold(name, a, r.Terms) {
					return a, true
				}
				reserved := slices.ContainsFunc(p.Reserved, func(x netipx.IPRange) bool { return x.Contains(a) })
				if !shared && len(m.order[a]) == 0 && m.reserved[a] == "" && !reserved && !(p.SkipEdges && edge(a)) {
					return a, true
				}
			}
		}
	}
	return netip.Addr{}, false
}

// The universe of the histories: few addresses, so that they are fought over.
var universeRanges = []string{"192.0.2.252-192.0.3.4", "198.51.100.0-198.51.100.5", "2001:db8::-2001:db8::7"}

func ascending(ranges ...string) []netip.Addr {
	var all []netip.Addr
	for _, s := range ranges {
		r := netipx.MustParseIPRange(s)
		for a := r.From(); r.Contains(a); a = a.Next() {
			all = append(all, a)
		}
	}
	return all
}

type history struct {
	*rand.Rand
	universe []netip.Addr
	a        *Allocator
	m        *model
}

func pickOne[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

func (h *history) name() string {
	return fmt.Sprintf("%s/%c", pickOne(h.Rand, "x", "y"), 'a'+rune(h.IntN(7)))
}

func (h *history) address() netip.Addr { return h.universe[h.IntN(len(h.universe))] }

// somePools cuts the universe into pools at random places, and leaves gaps.
func (h *history) somePools() []Pool {
	var pools []Pool
	for i, s := range universeRanges {
		r := netipx.MustParseIPRange(s)
		cut := netipx.MustParseIPRange(s).From()
		for range h.IntN(6) {
			cut = cut.Next()
		}
		parts := []netipx.IPRange{netipx.IPRangeFrom(r.From(), cut)}
		if cut.Less(r.To()) {
			parts = append(parts, netipx.IPRangeFrom(cut.Next(), r.To()))
		}
		for j, part := range parts {
			if h.IntN(6) == 0 {
				continue
			}
			p := Pool{Name: fmt.Sprintf("p%d", (i*2+j)%4), Ranges: []netipx.IPRange{part},
				Allocation: pickOne(h.Rand, Automatic, Automatic, Automatic, OnRequest, Disabled),
				SkipEdges:  h.IntN(3) == 0, ShareAcross: h.IntN(3) == 0}
			if h.IntN(3) == 0 {
				p.Reserved = []netipx.IPRange{netipx.IPRangeFrom(part.From(), part.From())}
			}
			if at := slices.IndexFunc(pools, func(o Pool) bool { return o.Name == p.Name }); at >= 0 {
				pools[at].Ranges = append(pools[at].Ranges, part)
				slices.SortFunc(pools[at].Ranges, func(a, b netipx.IPRange) int { return a.From().Compare(b.From()) })
			} else {
				pools = append(pools, p)
			}
		}
	}
	return pools
}

func (h *history) request() Request {
	r := Request{
		Families: pickOne(h.Rand, []Family{IPv4}, []Family{IPv4}, []Family{IPv6}, []Family{IPv4, IPv6}, []Family{IPv6, IPv4}),
		All:      h.IntN(2) == 0,
		Named:    h.IntN(3) == 0,
		Terms:    Terms{Key: pickOne(h.Rand, "", "", "k", "l"), Local: h.IntN(3) == 0, Endpoints: pickOne(h.Rand, "s", "t")},
	}
	for _, p := range h.Perm(4)[:1+h.IntN(4)] {
		r.Pools = append(r.Pools, fmt.Sprintf("p%d", p))
	}
	for range h.IntN(3) {
		r.Terms.Ports = append(r.Terms.Ports, Port{pickOne(h.Rand, "TCP", "UDP"), int32(80 + h.IntN(2))})
	}
	if h.IntN(3) == 0 {
		r.Pinned = append(r.Pinned, h.address())
		if second := h.address(); h.IntN(2) == 0 && FamilyOf(second) != FamilyOf(r.Pinned[0]) {
			r.Pinned = append(r.Pinned, second)
		}
	}
	return r
}

func (h *history) step(t *testing.T) {
	switch name := h.name(); h.IntN(20) {
	default: // assign
		r := h.request()
		got, err := h.a.Assign(name, r)
		want, fails := h.m.assign(name, r, h.universe)
		if fails != (err != nil) || !slices.Equal(got.Addresses, want) {
			t.Fatalf("assign %s %+v: %v, %v; the model says %v, fails %v", name, r, got.Addresses, err, want, fails)
		}
		if len(got.Surplus) > 0 && h.IntN(3) == 0 {
			return // not freed for now
		}
		h.a.Free(name, got.Surplus)
		h.m.free(name, got.Surplus)
	case 0, 1:
		all := h.a.Holdings(name)
		h.a.Release(name)
		h.m.free(name, all)
	case 2:
		if h.IntN(5) == 0 {
			pools := h.somePools()
			h.a.SetPools(pools)
			h.m.pools = pools
		}
	case 3:
		address, reservation := h.address(), name+"-reservation"
		err := h.a.Reserve(reservation, address)
		ok := h.m.reserved[address] == "" || h.m.reserved[address] == reservation
		for _, other := range h.m.order[address] {
			ok = ok && namespaceOf(other) == namespaceOf(reservation)
		}
		if ok != (err == nil) {
			t.Fatalf("reserve %s for %s: %v, the model says %v", address, reservation, err, ok)
		}
		if ok {
			h.m.reserved[address] = reservation
		}
	case 4:
		address := h.address()
		h.a.Unreserve(address)
		delete(h.m.reserved, address)
	case 5:
		if h.IntN(10) == 0 {
			h.restart(t)
		}
	}
}

// restart rebuilds the allocator from what is held, as a controller does from the
// statuses. What was surplus is not in a status any more.
func (h *history) restart(t *testing.T) {
	for name, o := range h.m.owners {
		var surplus []netip.Addr
		for a := range o.leaving {
			surplus = append(surplus, a)
		}
		h.m.free(name, surplus)
	}
	h.a = New()
	h.a.SetPools(h.m.pools)
	for address, by := range h.m.reserved {
		if err := h.a.Reserve(by, address); err != nil {
			t.Fatalf("restart: reserve %s for %s: %v", address, by, err)
		}
	}
	for address, names := range h.m.order {
		for _, name := range slices.Clone(names) {
			if err := h.a.Hold(name, address, h.m.owners[name].terms); err != nil {
				var taken *TakenError
				// Pools changed: those who shared across namespaces may not any more.
				if !errors.As(err, &taken) || h.m.mayHold(name, address, h.m.owners[name].terms) {
					t.Fatalf("restart: hold %s for %s: %v", address, name, err)
				}
				h.m.free(name, []netip.Addr{address})
			}
		}
	}
}

// agree checks everything that can be seen of the allocator against the model.
func (h *history) agree(t *testing.T) {
	t.Helper()
	taken := 0
	for _, address := range h.universe {
		want := h.m.order[address]
		if len(want) > 0 {
			taken++
		}
		if got := h.a.Holders(address); !slices.Equal(got, want) {
			t.Fatalf("%s is held by %v, the model says %v", address, got, want)
		}
		if got := h.a.Reservation(address); got != h.m.reserved[address] {
			t.Fatalf("%s is reserved by %q, the model says %q", address, got, h.m.reserved[address])
		}
		_, in := h.a.taken.around(address)
		if must := len(want) > 0 || h.m.reserved[address] != "" || h.a.skipped[address]; in != must {
			t.Fatalf("%s is marked as taken: %v, want %v", address, in, must)
		}
	}
	if h.a.Addresses() != taken {
		t.Fatalf("%d addresses held, the model says %d", h.a.Addresses(), taken)
	}
	if len(h.a.owners) != len(h.m.owners) {
		t.Fatalf("%d owners, the model says %d", len(h.a.owners), len(h.m.owners))
	}
	for i := range h.m.pools {
		p := &h.m.pools[i]
		want := map[Family]int64{}
		for _, address := range h.universe {
			if len(h.m.order[address]) > 0 && h.m.pool(address) == p {
				want[FamilyOf(address)]++
			}
		}
		got := map[Family]int64{}
		for f, u := range h.a.Usage(p.Name) {
			if u.Assigned != 0 {
				got[f] = u.Assigned
			}
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("pool %s has %v assigned, the model says %v", p.Name, got, want)
		}
	}
}

// A million operations, restarts and edits of pools among them: no address twice,
// none leaked, every outcome the model's. A failure names the seed of its history.
func TestTheAllocatorAgreesWithANaiveModel(t *testing.T) {
	const histories, steps = 500, 2000
	for seed := range uint64(histories) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			h := &history{Rand: rand.New(rand.NewPCG(seed, 0)), universe: ascending(universeRanges...), a: New(), m: newModel()}
			slices.SortFunc(h.universe, netip.Addr.Compare)
			h.m.pools = h.somePools()
			h.a.SetPools(h.m.pools)
			for i := range steps {
				h.step(t)
				if i%25 == 0 {
					h.agree(t)
				}
			}
			h.agree(t)
		})
	}
}
