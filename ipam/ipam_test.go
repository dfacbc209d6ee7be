package ipam

import (
	"errors"
	"math/big"
	"net/netip"
	"slices"
	"testing"

	"go4.org/netipx"
	"pgregory.net/rapid"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func pool(name string, automatic bool, ranges ...string) Pool {
	p := Pool{Name: name, Automatic: automatic}
	for _, r := range ranges {
		p.Ranges = append(p.Ranges, netipx.MustParseIPRange(r))
	}
	return p
}

func with(pools ...Pool) *Allocator {
	a := New()
	a.SetPools(pools)
	return a
}

var (
	v4   = Request{Families: []Family{IPv4}}
	v6   = Request{Families: []Family{IPv6}}
	dual = Request{Families: []Family{IPv6, IPv4}}
	both = Request{Families: []Family{IPv4, IPv6}, All: true}
)

func pinned(r Request, pins ...string) Request {
	for _, p := range pins {
		r.Pinned = append(r.Pinned, addr(p))
	}
	return r
}

func mustAssign(t *testing.T, a *Allocator, owner string, r Request, want ...string) {
	t.Helper()
	got, err := a.Assign(owner, r)
	if err != nil {
		t.Fatalf("assign %s: %v", owner, err)
	}
	a.Free(owner, got.Surplus)
	var s []string
	for _, x := range got.Addresses {
		s = append(s, x.String())
	}
	if !slices.Equal(s, want) {
		t.Fatalf("assign %s = %v, want %v", owner, s, want)
	}
}

func TestTheLowestFreeAddressIsGiven(t *testing.T) {
	a := with(pool("p", true, "192.0.2.1-192.0.2.3"))
	mustAssign(t, a, "a", v4, "192.0.2.1")
	mustAssign(t, a, "b", v4, "192.0.2.2")
	a.Release("a")
	mustAssign(t, a, "c", v4, "192.0.2.1")
	mustAssign(t, a, "d", v4, "192.0.2.3")
}

func TestAnOwnerKeepsItsAddressWhenAskedAgain(t *testing.T) {
	a := with(pool("p", true, "192.0.2.1-192.0.2.3"))
	mustAssign(t, a, "a", v4, "192.0.2.1")
	mustAssign(t, a, "b", v4, "192.0.2.2")
	a.Release("a")
	mustAssign(t, a, "b", v4, "192.0.2.2")
}

func TestAnAddressOutsideEveryPoolIsKept(t *testing.T) {
	a := with(pool("p", true, "192.0.2.1-192.0.2.3"))
	mustAssign(t, a, "a", v4, "192.0.2.1")
	a.SetPools(nil)
	mustAssign(t, a, "a", v4, "192.0.2.1")
	if got := a.PoolOf(addr("192.0.2.1")); got != "" {
		t.Errorf("pool = %q, want none", got)
	}
}

func TestDualStackGivesTheFamiliesInTheirOrder(t *testing.T) {
	a := with(pool("p", true, "192.0.2.1-192.0.2.3", "2001:db8::1-2001:db8::3"))
	mustAssign(t, a, "a", dual, "2001:db8::1", "192.0.2.1")
	mustAssign(t, a, "b", both, "192.0.2.2", "2001:db8::2")
}

func TestPreferDualStackDegradesAndLaterAddsTheMissingFamily(t *testing.T) {
	four := pool("four", true, "192.0.2.1-192.0.2.3")
	a := with(four)
	got, err := a.Assign("a", dual)
	if err != nil || len(got.Addresses) != 1 || len(got.Missing) != 1 {
		t.Fatalf("got %+v, %v; want one address and one family missing", got, err)
	}
	a.SetPools([]Pool{four, pool("six", true, "2001:db8::1-2001:db8::3")})
	mustAssign(t, a, "a", dual, "2001:db8::1", "192.0.2.1")
}

func TestRequireDualStackIsBothOrNeither(t *testing.T) {
	a := with(pool("four", true, "192.0.2.1-192.0.2.3"))
	got, err := a.Assign("a", both)
	var exhausted *ExhaustedError
	if !errors.As(err, &exhausted) || exhausted.Family != IPv6 {
		t.Fatalf("err = %v, want IPv6 exhausted", err)
	}
	a.Free("a", got.Surplus)
	if held := a.Snapshot(); len(held) != 0 {
		t.Errorf("held = %v, want nothing", held)
	}
}

func TestLeavingDualStackFreesTheOtherFamily(t *testing.T) {
	a := with(pool("p", true, "192.0.2.1-192.0.2.3", "2001:db8::1-2001:db8::3"))
	mustAssign(t, a, "a", both, "192.0.2.1", "2001:db8::1")
	mustAssign(t, a, "a", v4, "192.0.2.1")
	mustAssign(t, a, "b", v6, "2001:db8::1")
}

func TestPinnedAddressesAreGivenOrTheRequestFails(t *testing.T) {
	pools := []Pool{pool("auto", true, "192.0.2.1-192.0.2.9"), pool("ask", false, "198.51.100.1-198.51.100.9", "2001:db8::1-2001:db8::9")}
	for _, c := range []struct {
		name    string
		request Request
		want    []string
		err     string
	}{
		{"in an automatic pool", pinned(v4, "192.0.2.7"), []string{"192.0.2.7"}, ""},
		{"in a pool that gives on request only", pinned(v4, "198.51.100.7"), []string{"198.51.100.7"}, ""},
		{"one family pinned, the other automatic", pinned(dual, "2001:db8::5"), []string{"2001:db8::5", "192.0.2.1"}, ""},
		{"both families pinned", pinned(both, "2001:db8::5", "192.0.2.5"), []string{"192.0.2.5", "2001:db8::5"}, ""},
		{"outside every pool", pinned(v4, "203.0.113.1"), nil, "203.0.113.1 is in no IPPool"},
		{"held by another", pinned(v4, "192.0.2.9"), nil, "192.0.2.9 is held by other"},
		{"of a family not wanted", pinned(v4, "2001:db8::5"), nil, "2001:db8::5 is IPv6, and the owner wants [IPv4] only"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := with(pools...)
			mustAssign(t, a, "other", pinned(v4, "192.0.2.9"), "192.0.2.9")
			if c.err == "" {
				mustAssign(t, a, "a", c.request, c.want...)
				return
			}
			got, err := a.Assign("a", c.request)
			if err == nil || err.Error() != c.err {
				t.Fatalf("err = %v, want %q", err, c.err)
			}
			a.Free("a", got.Surplus)
			if held := a.Holdings("a"); len(held) != 0 {
				t.Errorf("holds %v after a failed request, want nothing", held)
			}
		})
	}
}

func TestPinningAnotherAddressFreesTheFormer(t *testing.T) {
	a := with(pool("p", true, "192.0.2.1-192.0.2.9"))
	mustAssign(t, a, "a", v4, "192.0.2.1")
	got, err := a.Assign("a", pinned(v4, "192.0.2.5"))
	if err != nil || !slices.Equal(got.Surplus, []netip.Addr{addr("192.0.2.1")}) {
		t.Fatalf("got %+v, %v; want the former address as surplus", got, err)
	}
	mustAssign(t, a, "b", v4, "192.0.2.2")
	a.Free("a", got.Surplus)
	mustAssign(t, a, "c", v4, "192.0.2.1")
}

func TestAPoolThatGivesOnRequestIsPassedOver(t *testing.T) {
	a := with(pool("ask", false, "192.0.2.1-192.0.2.9"))
	if _, err := a.Assign("a", v4); err == nil || err.Error() != "no IPPool gives IPv4 addresses automatically" {
		t.Fatalf("err = %v", err)
	}
}

func TestPoolsAreUsedInTheirOrder(t *testing.T) {
	a := with(pool("first", true, "198.51.100.1-198.51.100.1"), pool("second", true, "192.0.2.1-192.0.2.1"))
	mustAssign(t, a, "a", v4, "198.51.100.1")
	mustAssign(t, a, "b", v4, "192.0.2.1")
	if _, err := a.Assign("c", v4); err == nil || err.Error() != "no IPv4 address is free in IPPool first, second" {
		t.Fatalf("err = %v", err)
	}
}

func TestUsageCountsPerFamily(t *testing.T) {
	p := pool("p", true, "192.0.2.0-192.0.2.255", "2001:db8::-2001:db8::ffff:ffff:ffff:ffff")
	a := with(p)
	mustAssign(t, a, "a", both, "192.0.2.0", "2001:db8::")
	mustAssign(t, a, "b", v4, "192.0.2.1")
	u := a.Usage("p")
	if u[IPv4].Assigned != 2 || u[IPv4].Total.Int64() != 256 {
		t.Errorf("IPv4 usage %+v, want 2 of 256", u[IPv4])
	}
	if u[IPv6].Assigned != 1 || u[IPv6].Total.Cmp(new(big.Int).Lsh(big.NewInt(1), 64)) != 0 {
		t.Errorf("IPv6 usage %+v, want 1 of 2^64", u[IPv6])
	}
	a.SetPools([]Pool{p})
	if got := a.Usage("p")[IPv4].Assigned; got != 2 {
		t.Errorf("after the pools were set again %d are assigned, want 2", got)
	}
	a.Release("a")
	if got := a.Usage("p")[IPv6].Assigned; got != 0 {
		t.Errorf("after release %d are assigned, want 0", got)
	}
}

// The allocator against a naive model: no address twice, none leaked, always the
// lowest free one.
func TestTheAllocatorAgreesWithANaiveModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ranges := []string{"192.0.2.0-192.0.2.5", "192.0.2.8-192.0.2.9", "255.255.255.254-255.255.255.255"}
		a := with(pool("p", true, ranges...))
		var free []netip.Addr
		for _, r := range ranges {
			for x, rng := netipx.MustParseIPRange(r).From(), netipx.MustParseIPRange(r); rng.Contains(x); x = x.Next() {
				free = append(free, x)
			}
		}
		all := slices.Clone(free)
		model := map[string]netip.Addr{}
		lowest := func() (netip.Addr, bool) {
			for _, x := range all {
				taken := false
				for _, held := range model {
					taken = taken || held == x
				}
				if !taken {
					return x, true
				}
			}
			return netip.Addr{}, false
		}
		owners := rapid.SampledFrom([]string{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"})
		t.Repeat(map[string]func(*rapid.T){
			"assign": func(t *rapid.T) {
				o := owners.Draw(t, "owner")
				want, ok := model[o]
				if !ok {
					want, ok = lowest()
				}
				got, err := a.Assign(o, v4)
				if ok != (err == nil) {
					t.Fatalf("assign %s: %v, model has a free address: %v", o, err, ok)
				}
				if ok {
					if got.Addresses[0] != want {
						t.Fatalf("assign %s = %s, want %s", o, got.Addresses[0], want)
					}
					model[o] = want
				}
			},
			"release": func(t *rapid.T) {
				o := owners.Draw(t, "owner")
				a.Release(o)
				delete(model, o)
			},
			"pin": func(t *rapid.T) {
				o, pin := owners.Draw(t, "owner"), rapid.SampledFrom(all).Draw(t, "pin")
				holder := a.Owner(pin)
				got, err := a.Assign(o, Request{Families: []Family{IPv4}, Pinned: []netip.Addr{pin}})
				a.Free(o, got.Surplus)
				if (holder == "" || holder == o) != (err == nil) {
					t.Fatalf("pin %s for %s, held by %q: %v", pin, o, holder, err)
				}
				if delete(model, o); err == nil {
					model[o] = pin
				}
			},
			"": func(t *rapid.T) {
				held := a.Snapshot()
				if len(held) != len(model) {
					t.Fatalf("%d addresses held, model %d", len(held), len(model))
				}
				for o, x := range model {
					if held[x] != o {
						t.Fatalf("%s held by %q, model %q", x, held[x], o)
					}
				}
			},
		})
	})
}
