package ipam

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go4.org/netipx"
)

// model is the allocator without any care for cost: it looks at every address, every time.
type model struct {
	universe     []netip.Addr // ascending
	pools        []Pool
	owners       map[string]*modelOwner
	order        map[netip.Addr][]string // holders, the longest-standing first
	reservations map[netip.Addr]string
	used         []Used
	occupied     map[string][]netip.Addr
	pins         map[string][]netip.Addr
	freed        map[netip.Addr]int // of those that were held once and are not now: in which order
	rests        map[netip.Addr]modelRest
	count        int
}

type modelOwner struct {
	terms   Terms
	held    map[netip.Addr]bool
	leaving map[netip.Addr]bool
}

type modelRest struct {
	owner string
	until time.Time
}

func newModel(universe []netip.Addr) *model {
	return &model{
		universe: universe, owners: map[string]*modelOwner{}, order: map[netip.Addr][]string{},
		reservations: map[netip.Addr]string{},
		occupied:     map[string][]netip.Addr{}, pins: map[string][]netip.Addr{}, freed: map[netip.Addr]int{},
		rests: map[netip.Addr]modelRest{},
	}
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

func (m *model) usedBy(a netip.Addr) string {
	for _, u := range m.used {
		if u.Contains(a) {
			return u.By
		}
	}
	return ""
}

func (m *model) isOccupied(a netip.Addr) bool {
	for _, addresses := range m.occupied {
		if slices.Contains(addresses, a) {
			return true
		}
	}
	return false
}

func (m *model) pinnedBut(name string, a netip.Addr) bool {
	for by, addresses := range m.pins {
		if by != name && slices.Contains(addresses, a) {
			return true
		}
	}
	return false
}

// The outcomes of the model: the names of the errors, or "" for none.
func outcome(err error) string {
	if err == nil {
		return ""
	}
	return strings.TrimPrefix(fmt.Sprintf("%T", err), "*ipam.")
}

func (m *model) mayHold(name string, a netip.Addr, terms Terms, restored bool) string {
	mine := m.owners[name] != nil && m.owners[name].held[a]
	switch {
	case m.usedBy(a) != "":
		return "UsedError"
	case !m.shares(name, a, terms):
		return "TakenError"
	case !restored && !m.rests[a].until.IsZero() && m.rests[a].owner != name:
		return "RestingError"
	case m.isOccupied(a) && !mine:
		return "UsedError"
	}
	return ""
}

func (m *model) shares(name string, a netip.Addr, terms Terms) bool {
	if by := m.reservations[a]; by != "" && namespaceOf(by) != namespaceOf(name) {
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
		shares := terms.Key != "" && terms.Key == o.terms.Key && near &&
			(!terms.Local && !o.terms.Local || terms.Endpoints == o.terms.Endpoints)
		for _, port := range terms.Ports {
			shares = shares && !slices.Contains(o.terms.Ports, port)
		}
		if !shares {
			return false
		}
	}
	return true
}

func (m *model) owner(name string, terms Terms) *modelOwner {
	if m.owners[name] == nil {
		m.owners[name] = &modelOwner{held: map[netip.Addr]bool{}, leaving: map[netip.Addr]bool{}}
	}
	m.owners[name].terms = terms
	return m.owners[name]
}

func (m *model) hold(name string, a netip.Addr) {
	if !m.owners[name].held[a] {
		m.owners[name].held[a] = true
		m.order[a] = append(m.order[a], name)
		delete(m.freed, a)
		delete(m.rests, a)
	}
}

func (m *model) free(name string, addresses []netip.Addr, until time.Time) {
	o := m.owners[name]
	if o == nil {
		return
	}
	for _, a := range addresses {
		if !o.held[a] {
			continue
		}
		delete(o.held, a)
		delete(o.leaving, a)
		m.order[a] = slices.DeleteFunc(m.order[a], func(n string) bool { return n == name })
		if len(m.order[a]) == 0 {
			m.retire(a, name, until)
		}
	}
	if len(o.held) == 0 {
		delete(m.owners, name)
	}
}

func (m *model) retire(a netip.Addr, owner string, until time.Time) {
	m.count++
	m.freed[a] = m.count
	if !until.IsZero() {
		m.rests[a] = modelRest{owner, until}
	}
}

func (m *model) rest(a netip.Addr, owner string, until time.Time) {
	if len(m.order[a]) == 0 && m.rests[a].until.Before(until) {
		m.retire(a, owner, until)
	}
}

func (m *model) wake(now time.Time) (woke bool, next time.Time) {
	for a, r := range m.rests {
		switch {
		case !r.until.After(now):
			delete(m.rests, a)
			woke = true
		case next.IsZero() || r.until.Before(next):
			next = r.until
		}
	}
	return woke, next
}

func (m *model) reserve(reservation string, a netip.Addr) string {
	switch {
	case m.usedBy(a) != "":
		return "UsedError"
	case m.reservations[a] == reservation:
		return ""
	case m.reservations[a] != "" || slices.ContainsFunc(
		m.order[a], func(o string) bool { return namespaceOf(o) != namespaceOf(reservation) },
	):
		return "TakenError"
	case !m.rests[a].until.IsZero() && namespaceOf(m.rests[a].owner) != namespaceOf(reservation):
		return "RestingError"
	case m.isOccupied(a):
		return "UsedError"
	}
	m.reservations[a] = reservation
	return ""
}

func (m *model) reserveAny(reservation, pool string, f Family, owner string) (netip.Addr, string) {
	p := m.named(pool)
	if p == nil || p.Allocation == Disabled {
		return netip.Addr{}, "ExhaustedError"
	}
	for _, a := range m.universe {
		if o := m.owners[owner]; o != nil && o.held[a] && FamilyOf(a) == f && m.pool(a) == p &&
			m.reserve(reservation, a) == "" {
			return a, ""
		}
	}
	a, ok := m.next(owner, p, f)
	if !ok {
		return a, "ExhaustedError"
	}
	m.reservations[a] = reservation
	return a, ""
}

func (m *model) mayPin(name string, pin netip.Addr, r Request) string {
	p := m.pool(pin)
	named := p != nil && slices.Contains(r.Pools, p.Name)
	if !slices.Contains(r.Families, FamilyOf(pin)) {
		return "FamilyError"
	}
	if m.owners[name].held[pin] {
		if r.Strict && p != nil && !named {
			return "ScopeError"
		}
		return m.mayHold(name, pin, r.Terms, false)
	}
	switch {
	case p == nil:
		return "OutsideError"
	case !named:
		return "ScopeError"
	case m.usedBy(pin) != "":
		return "UsedError"
	case p.Allocation == Disabled:
		return "DisabledError"
	case p.ExcludeEdges && edge(pin):
		return "EdgeError"
	}
	return m.mayHold(name, pin, r.Terms, false)
}

// assign returns the addresses that the allocator should give, and the outcome.
func (m *model) assign(name string, r Request) ([]netip.Addr, string) {
	o := m.owner(name, r.Terms)
	var got []netip.Addr
	failure := ""
	for _, pin := range r.Pinned {
		if failure == "" {
			failure = m.mayPin(name, pin, r)
		}
	}
	if failure == "" {
		got = append(got, r.Pinned...)
		missing := false
		for _, f := range r.Families {
			if slices.ContainsFunc(got, of(f)) {
				continue
			}
			if a, ok := m.pick(name, f, r); ok {
				got = append(got, a)
			} else {
				missing = true
			}
		}
		if len(got) == 0 || r.All && missing {
			failure = "ExhaustedError"
		}
	}
	if failure != "" {
		got = nil
	}
	for _, a := range got {
		m.hold(name, a)
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
	return got, failure
}

func gives(p *Pool, r Request) bool {
	return p != nil && slices.Contains(r.Pools, p.Name) &&
		(p.Allocation == Automatic || p.Allocation == OnRequest && r.Named)
}

func offers(p *Pool, a netip.Addr) bool {
	return !(p.ExcludeEdges && edge(a)) &&
		!slices.ContainsFunc(p.OnRequest, func(x netipx.IPRange) bool { return x.Contains(a) })
}

func (m *model) pick(name string, f Family, r Request) (netip.Addr, bool) {
	held := false
	for _, a := range m.universe {
		if FamilyOf(a) != f || !m.owners[name].held[a] {
			continue
		}
		held = true
		p := m.pool(a)
		left := r.Strict && p != nil && !slices.Contains(r.Pools, p.Name)
		if !left && !slices.Contains(r.Drop, a) && m.mayHold(name, a, r.Terms, false) == "" {
			return a, true
		}
	}
	var own netip.Addr
	for _, a := range m.universe {
		p := m.pool(a)
		if FamilyOf(a) == f && !held && !m.rests[a].until.IsZero() && m.rests[a].owner == name &&
			gives(p, r) && offers(p, a) &&
			!slices.Contains(r.Drop, a) &&
			m.mayHold(name, a, r.Terms, false) == "" &&
			m.freed[a] > m.freed[own] {
			own = a
		}
	}
	if own.IsValid() {
		return own, true
	}
	for _, pool := range r.Pools {
		for _, a := range m.universe {
			if p := m.named(pool); gives(p, r) && FamilyOf(a) == f && m.pool(a) == p && r.Terms.Key != "" &&
				len(m.order[a]) > 0 &&
				m.mayHold(name, a, r.Terms, false) == "" &&
				!m.awaited(name, a) {
				return a, true
			}
		}
	}
	for _, pool := range r.Pools {
		if p := m.named(pool); gives(p, r) {
			if a, ok := m.next(name, p, f); ok {
				return a, true
			}
		}
	}
	return netip.Addr{}, false
}

// awaited reports whether another owner names the address and does not have it.
func (m *model) awaited(name string, a netip.Addr) bool {
	for by, addresses := range m.pins {
		if by != name && slices.Contains(addresses, a) && !slices.Contains(m.order[a], by) {
			return true
		}
	}
	return false
}

// available reports whether nobody has the address, resting or not.
func (m *model) available(name string, p *Pool, f Family, a netip.Addr) bool {
	return FamilyOf(a) == f && m.pool(a) == p && len(m.order[a]) == 0 && m.reservations[a] == "" && offers(p, a) &&
		m.usedBy(a) == "" && !m.isOccupied(a) && !m.pinnedBut(name, a)
}

// next returns the lowest address that was never held, or else the one freed longest ago.
func (m *model) next(name string, p *Pool, f Family) (oldest netip.Addr, found bool) {
	for _, a := range m.universe {
		if !m.available(name, p, f, a) || !m.rests[a].until.IsZero() {
			continue
		}
		if m.freed[a] == 0 {
			return a, true
		}
		if !found || m.freed[a] < m.freed[oldest] {
			oldest, found = a, true
		}
	}
	return oldest, found
}

// The universe of the histories: so few addresses that owners compete for them.
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
	now      time.Time
	shown    map[uint64]string // what a pool showed, by its version
}

func pickOne[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

func (h *history) name() string {
	return fmt.Sprintf("%s/%c", pickOne(h.Rand, "x", "y"), 'a'+rune(h.IntN(7)))
}

func (h *history) address() netip.Addr { return h.universe[h.IntN(len(h.universe))] }

// addresses are a few, or none.
func (h *history) addresses() (some []netip.Addr) {
	for range h.IntN(4) {
		some = append(some, h.address())
	}
	return some
}

// until is a time when a rest ends: zero, past or to come.
func (h *history) until() time.Time {
	if h.IntN(3) == 0 {
		return time.Time{}
	}
	return h.now.Add(time.Duration(h.IntN(5)) * time.Second)
}

// someUsed are ranges that may overlap.
func (h *history) someUsed() (used []Used) {
	for i := range h.IntN(5) {
		from := h.IntN(len(h.universe))
		to := from
		for h.IntN(2) == 0 && to+1 < len(h.universe) && h.universe[to].Next() == h.universe[to+1] {
			to++
		}
		used = append(
			used,
			Used{netipx.IPRangeFrom(h.universe[from], h.universe[to]), fmt.Sprintf("address %d of a node", i%3)},
		)
	}
	return used
}

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
				Allocation:   pickOne(h.Rand, Automatic, Automatic, Automatic, OnRequest, Disabled),
				ExcludeEdges: h.IntN(3) == 0, ShareAcross: h.IntN(3) == 0}
			if h.IntN(3) == 0 {
				p.OnRequest = []netipx.IPRange{netipx.IPRangeFrom(part.From(), part.From())}
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
		Strict:   h.IntN(3) == 0,
		Terms:    Terms{Key: pickOne(h.Rand, "", "", "k", "l"), Local: h.IntN(3) == 0, Endpoints: pickOne(h.Rand, "s", "t")},
	}
	for _, p := range h.Perm(4)[:h.IntN(5)] {
		r.Pools = append(r.Pools, fmt.Sprintf("p%d", p))
	}
	for range h.IntN(3) {
		r.Terms.Ports = append(r.Terms.Ports, Port{pickOne(h.Rand, "TCP", "UDP"), int32(80 + h.IntN(2))})
	}
	if h.IntN(5) == 0 {
		r.Drop = h.addresses()
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
	switch h.IntN(24) {
	default:
		h.assign(t)
	case 0, 1:
		name, until := h.name(), h.until()
		all := h.a.Holdings(name)
		if freed := h.a.Free(name, all, until); freed != (len(all) > 0) {
			t.Fatalf("free %v of %s: %v", all, name, freed)
		}
		h.m.free(name, all, until)
	case 2:
		if h.IntN(5) == 0 {
			h.m.pools = h.somePools()
			h.a.SetPools(h.m.pools)
		}
	case 3:
		h.reserve(t)
	case 4:
		address := h.address()
		h.a.Unreserve(address)
		delete(h.m.reservations, address)
	case 5:
		if h.IntN(10) == 0 {
			h.restart(t)
		}
	case 6:
		h.now = h.now.Add(time.Duration(h.IntN(3)) * time.Second)
		woke, next := h.a.Wake(h.now)
		if wantWoke, wantNext := h.m.wake(h.now); len(woke) > 0 != wantWoke || !next.Equal(wantNext) {
			t.Fatalf("wake at %v: %v, the next at %v; the model says %v, %v", h.now, woke, next, wantWoke, wantNext)
		}
	case 7:
		address, owner, until := h.address(), pickOne(h.Rand, "", h.name()), h.until()
		h.a.Rest(address, owner, until)
		h.m.rest(address, owner, until)
	case 8:
		if h.IntN(3) == 0 {
			h.m.used = h.someUsed()
			h.a.SetUsed(h.m.used)
		}
	case 9:
		h.occupy(t)
	case 10:
		h.pin(t, h.name(), h.addresses())
	case 11:
		h.takeOver(t)
	}
}

func (h *history) assign(t *testing.T) {
	name, r := h.name(), h.request()
	if h.IntN(2) == 0 {
		h.pin(t, name, r.Pinned)
	}
	got, err := h.a.Assign(name, r)
	want, failure := h.m.assign(name, r)
	if outcome(err) != failure || !slices.Equal(got.Addresses, want) {
		t.Fatalf("assign %s %+v: %v, %v; the model says %v, %s", name, r, got.Addresses, err, want, failure)
	}
	if len(got.Surplus) > 0 && h.IntN(3) == 0 {
		return // not freed for now
	}
	until := h.until()
	h.a.Free(name, got.Surplus, until)
	h.m.free(name, got.Surplus, until)
}

func (h *history) reserve(t *testing.T) {
	name, address := h.name(), h.address()
	reservation := name + "-reservation"
	if h.IntN(2) == 0 {
		err := h.a.Reserve(reservation, address)
		if want := h.m.reserve(reservation, address); outcome(err) != want {
			t.Fatalf("reserve %s for %s: %v, the model says %s", address, reservation, err, want)
		}
		return
	}
	pool, family := fmt.Sprintf("p%d", h.IntN(4)), pickOne(h.Rand, IPv4, IPv6)
	got, err := h.a.ReserveAny(reservation, pool, family, name)
	want, failure := h.m.reserveAny(reservation, pool, family, name)
	if outcome(err) != failure || got != want {
		t.Fatalf("reserve any of %s for %s: %v, %v; the model says %v, %s", pool, reservation, got, err, want, failure)
	}
}

func (h *history) occupy(t *testing.T) {
	who, addresses := fmt.Sprintf("foreign/%d", h.IntN(3)), h.addresses()
	if h.IntN(2) == 0 {
		if got, want := h.a.Vacate(who), len(h.m.occupied[who]) > 0; got != want {
			t.Fatalf("vacate %s: %v, the model says %v", who, got, want)
		}
		delete(h.m.occupied, who)
		return
	}
	h.a.Occupy(who, "an address of Service "+who, addresses)
	h.m.occupied[who] = addresses
}

func (h *history) pin(t *testing.T, name string, addresses []netip.Addr) {
	t.Helper()
	want := slices.ContainsFunc(h.m.pins[name], func(a netip.Addr) bool { return !slices.Contains(addresses, a) })
	h.m.pins[name] = addresses
	if got := h.a.SetPins(name, addresses); len(got) > 0 != want {
		t.Fatalf("set the pins %v of %s: %v, the model says %v", addresses, name, got, want)
	}
}

// takeOver holds an address that a status shows, if possible.
func (h *history) takeOver(t *testing.T) {
	name, address, terms := h.name(), h.address(), h.request().Terms
	err := h.a.Hold(name, address, terms)
	want := h.m.mayHold(name, address, terms, true)
	if outcome(err) != want {
		t.Fatalf("hold %s for %s: %v, the model says %s", address, name, err, want)
	}
	if want == "" {
		h.m.owner(name, terms)
		h.m.hold(name, address)
	}
}

// restart rebuilds the allocator from what is held, as a controller does from the statuses. Surplus
// addresses are no longer in a status, and which addresses were held before is forgotten, except
// for those that rest.
func (h *history) restart(t *testing.T) {
	for name, o := range h.m.owners {
		var surplus []netip.Addr
		for a := range o.leaving {
			surplus = append(surplus, a)
		}
		h.m.free(name, surplus, time.Time{})
	}
	h.a, h.shown = New(), nil
	h.a.SetPools(h.m.pools)
	for address, by := range h.m.reservations {
		if err := h.a.Reserve(by, address); err != nil {
			t.Fatalf("restart: reserve %s for %s: %v", address, by, err)
		}
	}
	used := h.m.used
	occupied := h.m.occupied
	h.m.used, h.m.occupied = nil, nil
	for address, names := range h.m.order {
		for _, name := range slices.Clone(names) {
			if err := h.a.Hold(name, address, h.m.owners[name].terms); err != nil {
				var taken *TakenError
				// Pools changed: owners that shared across namespaces may no longer do so.
				if !errors.As(err, &taken) || h.m.mayHold(name, address, h.m.owners[name].terms, true) == "" {
					t.Fatalf("restart: hold %s for %s: %v", address, name, err)
				}
				h.m.free(name, []netip.Addr{address}, time.Time{})
			}
		}
	}
	clear(h.m.freed)
	for address, r := range h.m.rests {
		h.a.Rest(address, r.owner, r.until)
		h.m.retire(address, r.owner, r.until)
	}
	h.m.used, h.m.occupied = used, occupied
	h.a.SetUsed(used)
	for who, addresses := range occupied {
		h.a.Occupy(who, "an address of Service "+who, addresses)
	}
	for name, addresses := range h.m.pins {
		h.a.SetPins(name, addresses)
	}
}

// agree compares everything visible of the allocator with the model.
func (h *history) agree(t *testing.T) {
	t.Helper()
	taken := 0
	var heldUsed []string
	for _, address := range h.universe {
		want := h.m.order[address]
		if len(want) > 0 {
			taken++
		}
		if h.m.usedBy(address) != "" {
			heldUsed = append(heldUsed, want...)
		}
		if got := h.a.Holders(address); !slices.Equal(got, want) {
			t.Fatalf("%s is held by %v, the model says %v", address, got, want)
		}
		if got := h.a.Reservation(address); got != h.m.reservations[address] {
			t.Fatalf("%s is reserved by %q, the model says %q", address, got, h.m.reservations[address])
		}
		if got, want := h.a.UsedBy(address), h.m.usedBy(address); got != want {
			t.Fatalf("%s is used by %q, the model says %q", address, got, want)
		}
		_, in := h.a.taken.around(address)
		must := len(want) > 0 || h.m.reservations[address] != "" || h.m.usedBy(address) != "" || h.m.isOccupied(address) ||
			h.m.pinnedBut("", address) || h.m.freed[address] > 0 || h.a.skipped[address]
		if in != must {
			t.Fatalf("%s is marked as taken: %v, want %v", address, in, must)
		}
	}
	slices.Sort(heldUsed)
	if got, want := h.a.HeldUsed(), slices.Compact(heldUsed); !slices.Equal(got, want) {
		t.Fatalf("%v hold addresses in use, the model says %v", got, want)
	}
	if h.a.Addresses() != taken {
		t.Fatalf("%d addresses held, the model says %d", h.a.Addresses(), taken)
	}
	if len(h.a.owners) != len(h.m.owners) {
		t.Fatalf("%d owners, the model says %d", len(h.a.owners), len(h.m.owners))
	}
	for i := range h.m.pools {
		h.agreeOnUsage(t, &h.m.pools[i])
		h.agreeOnResting(t, &h.m.pools[i])
		h.agreeOnRecent(t, &h.m.pools[i])
		h.agreeOnVersion(t, h.m.pools[i].Name)
	}
}

// agreeOnVersion compares what a pool shows with what it showed when it had the same version.
func (h *history) agreeOnVersion(t *testing.T, pool string) {
	t.Helper()
	const all = 1 << 10
	recent := h.a.Recent(pool).Ranges(all)
	shows := fmt.Sprint(h.a.Usage(pool), h.a.Full(pool), h.a.Resting(pool, all), recent)
	version := h.a.Version(pool)
	if before, known := h.shown[version]; known && before != pool+shows || version == 0 {
		t.Fatalf("version %d shows %s, and showed %s", version, pool+shows, before)
	}
	if h.shown == nil {
		h.shown = map[uint64]string{}
	}
	h.shown[version] = pool + shows
}

func (h *history) agreeOnUsage(t *testing.T, p *Pool) {
	t.Helper()
	want := map[Family][5]int64{}
	for _, address := range h.universe {
		if h.m.pool(address) != p {
			continue
		}
		u := want[FamilyOf(address)]
		u[0]++
		switch {
		case len(h.m.order[address]) > 0:
			u[1]++
		case h.m.reservations[address] != "":
			u[2]++
		case h.m.usedBy(address) != "" || h.m.isOccupied(address):
			u[3]++
		case !h.m.rests[address].until.IsZero():
			u[4]++
		}
		want[FamilyOf(address)] = u
	}
	got := map[Family][5]int64{}
	for f, u := range h.a.Usage(p.Name) {
		got[f] = [5]int64{u.Total.Int64(), u.Assigned, u.Reserved, u.Excluded.Int64(), u.Resting}
		var next netip.Addr
		if p.Allocation != Disabled {
			next, _ = h.m.next("", p, f)
		}
		if u.Next != next {
			t.Fatalf("the next address of pool %s is %s, the model says %s", p.Name, u.Next, next)
		}
	}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("usage of pool %s (total, assigned, reserved, excluded, resting) is %v, the model says %v", p.Name, got, want)
	}
}

func (h *history) agreeOnResting(t *testing.T, p *Pool) {
	t.Helper()
	var want []Rested
	for address, r := range h.m.rests {
		if h.m.pool(address) == p {
			want = append(want, Rested{address, r.owner, r.until})
		}
	}
	most := h.IntN(5)
	got := h.a.Resting(p.Name, most)
	if len(got) != min(len(want), most) ||
		!slices.IsSortedFunc(got, func(x, y Rested) int { return y.Until.Compare(x.Until) }) {
		t.Fatalf("in pool %s %v rest, the model says %d of %v", p.Name, got, most, want)
	}
	for _, r := range want {
		if n := len(got); !slices.Contains(got, r) && n > 0 && r.Until.After(got[n-1].Until) {
			t.Fatalf("in pool %s %v rest, the model says %v rests longer", p.Name, got, r)
		}
	}
	for _, r := range got {
		if !slices.Contains(want, r) {
			t.Fatalf("in pool %s %v rests, the model says %v do", p.Name, r, want)
		}
	}
}

// agreeOnRecent closes the narrowest gaps between recent addresses until few enough ranges are
// left. The allocator's ranges must contain as many other addresses as these.
func (h *history) agreeOnRecent(t *testing.T, p *Pool) {
	t.Helper()
	const most = 4
	var ranges []netipx.IPRange
	recent := 0
	for _, r := range p.Ranges {
		for _, a := range h.universe {
			if r.Contains(a) && (len(h.m.order[a]) > 0 || !h.m.rests[a].until.IsZero()) {
				ranges = append(ranges, netipx.IPRangeFrom(a, a))
				recent++
			}
		}
	}
	within := func(from, to netip.Addr) (n int) { // that many addresses of the pool
		for _, a := range h.universe {
			if a.Compare(from) >= 0 && a.Compare(to) <= 0 {
				n++
			}
		}
		return n
	}
	for {
		at, width := -1, 0
		for i := 1; i < len(ranges); i++ {
			same := slices.ContainsFunc(
				p.Ranges,
				func(r netipx.IPRange) bool { return r.Contains(ranges[i-1].To()) && r.Contains(ranges[i].From()) },
			)
			if w := within(ranges[i-1].To(), ranges[i].From()); same && (at < 0 || w < width) {
				at, width = i, w
			}
		}
		if at < 0 || len(ranges) <= most && width > 2 {
			break
		}
		ranges = slices.Replace(ranges, at-1, at+1, netipx.IPRangeFrom(ranges[at-1].From(), ranges[at].To()))
	}
	if got := h.a.Recent(p.Name).Ranges(most); !slices.Equal(got, ranges[:min(len(ranges), most)]) {
		t.Fatalf("%d recent addresses of pool %s (%v) are in %v, the model says %v", recent, p.Name, p.Ranges, got, ranges)
	}
}

// operations is how many random operations are compared with the model.
func operations(t *testing.T) int {
	t.Helper()
	text, ok := os.LookupEnv("BERTH_IPAM_OPERATIONS")
	if !ok {
		return 100_000
	}
	n, err := strconv.Atoi(text)
	if err != nil || n <= 0 {
		t.Fatalf("BERTH_IPAM_OPERATIONS=%q is not a valid number of operations", text)
	}
	return n
}

// The allocator agrees with the model over random operations, among them restarts and edits of
// pools: no address is given twice, none is lost, every outcome is the model's. A failure names the
// seed of its history. A million operations, for a release:
//
//	BERTH_IPAM_OPERATIONS=1000000 go test ./ipam -run Model
func TestAllocatorAgainstModel(t *testing.T) {
	const steps = 2000
	for seed := range uint64((operations(t) + steps - 1) / steps) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			universe := ascending(universeRanges...)
			slices.SortFunc(universe, netip.Addr.Compare)
			h := &history{
				Rand:     rand.New(rand.NewPCG(seed, 0)),
				universe: universe,
				a:        New(),
				m:        newModel(universe),
				now:      time.Unix(1_000_000, 0),
			}
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
