package ipam

import (
	"errors"
	"math/big"
	"net/netip"
	"slices"
	"testing"
	"time"

	"go4.org/netipx"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func pool(name string, allocation Allocation, ranges ...string) Pool {
	p := Pool{Name: name, Allocation: allocation}
	for _, r := range ranges {
		p.Ranges = append(p.Ranges, netipx.MustParseIPRange(r))
	}
	return p
}

// fixture is an allocator whose pools all serve every owner, in their order.
type fixture struct {
	*Allocator
	order []string
}

func with(pools ...Pool) *fixture {
	f := &fixture{Allocator: New()}
	f.SetPools(pools)
	return f
}

func (f *fixture) SetPools(pools []Pool) {
	f.order = nil
	for _, p := range pools {
		f.order = append(f.order, p.Name)
	}
	f.Allocator.SetPools(pools)
}

func (f *fixture) Assign(owner string, r Request) (Assignment, error) {
	if !r.Named {
		r.Pools = f.order
	}
	return f.Allocator.Assign(owner, r)
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

func mustAssign(t *testing.T, a *fixture, owner string, r Request, want ...string) {
	t.Helper()
	got, err := a.Assign(owner, r)
	if err != nil {
		t.Fatalf("assign %s: %v", owner, err)
	}
	a.Free(owner, got.Surplus, time.Time{})
	var s []string
	for _, x := range got.Addresses {
		s = append(s, x.String())
	}
	if !slices.Equal(s, want) {
		t.Fatalf("assign %s = %v, want %v", owner, s, want)
	}
}

// The lowest free address is given.
func TestAssignLowest(t *testing.T) {
	a := with(pool("p", Automatic, "192.0.2.1-192.0.2.3"))
	mustAssign(t, a, "a", v4, "192.0.2.1")
	mustAssign(t, a, "b", v4, "192.0.2.2")
	mustAssign(t, a, "c", v4, "192.0.2.3")
}

// Addresses that were never held are given first, then those freed longest ago.
func TestAssignPrefersNeverHeld(t *testing.T) {
	a := with(pool("p", Automatic, "192.0.2.1-192.0.2.4"))
	mustAssign(t, a, "a", v4, "192.0.2.1")
	mustAssign(t, a, "b", v4, "192.0.2.2")
	mustAssign(t, a, "c", v4, "192.0.2.3")
	a.Release("b")
	a.Release("a")
	mustAssign(t, a, "d", v4, "192.0.2.4")
	mustAssign(t, a, "e", v4, "192.0.2.2")
	mustAssign(t, a, "f", v4, "192.0.2.1")
}

// Of a large pool, the addresses freed longest ago are forgotten.
func TestFreeForgetsTheOldest(t *testing.T) {
	a := with(pool("p", Automatic, "2001:db8::-2001:db8::ffff:ffff:ffff:ffff"))
	for range remembered + 1 {
		if _, err := a.Assign("n/a", v6); err != nil {
			t.Fatal(err)
		}
		a.Release("n/a")
	}
	if n := len(a.former); n != remembered {
		t.Errorf("%d addresses are remembered, want %d", n, remembered)
	}
	mustAssign(t, a, "n/b", v6, "2001:db8::")
}

// An owner keeps its address when asked again.
func TestAssignAgain(t *testing.T) {
	a := with(pool("p", Automatic, "192.0.2.1-192.0.2.3"))
	mustAssign(t, a, "a", v4, "192.0.2.1")
	mustAssign(t, a, "b", v4, "192.0.2.2")
	a.Release("a")
	mustAssign(t, a, "b", v4, "192.0.2.2")
}

// An address outside every pool is kept.
func TestAssignOutsidePools(t *testing.T) {
	a := with(pool("p", Automatic, "192.0.2.1-192.0.2.3"))
	mustAssign(t, a, "a", v4, "192.0.2.1")
	a.SetPools(nil)
	mustAssign(t, a, "a", v4, "192.0.2.1")
	if got := a.PoolOf(addr("192.0.2.1")); got != "" {
		t.Errorf("pool = %q, want none", got)
	}
}

// Dual stack gives the families in the order asked for.
func TestAssignDualStack(t *testing.T) {
	a := with(pool("p", Automatic, "192.0.2.1-192.0.2.3", "2001:db8::1-2001:db8::3"))
	mustAssign(t, a, "a", dual, "2001:db8::1", "192.0.2.1")
	mustAssign(t, a, "b", both, "192.0.2.2", "2001:db8::2")
}

// PreferDualStack makes do with one family, and adds the missing one later.
func TestAssignPreferDualStack(t *testing.T) {
	four := pool("four", Automatic, "192.0.2.1-192.0.2.3")
	a := with(four)
	got, err := a.Assign("a", dual)
	if err != nil || len(got.Addresses) != 1 || len(got.Missing) != 1 {
		t.Fatalf("got %+v, %v; want one address and one family missing", got, err)
	}
	a.SetPools([]Pool{four, pool("six", Automatic, "2001:db8::1-2001:db8::3")})
	mustAssign(t, a, "a", dual, "2001:db8::1", "192.0.2.1")
}

// RequireDualStack gets both families or none.
func TestAssignRequireDualStack(t *testing.T) {
	a := with(pool("four", Automatic, "192.0.2.1-192.0.2.3"))
	got, err := a.Assign("a", both)
	var exhausted *ExhaustedError
	if !errors.As(err, &exhausted) || exhausted.Family != IPv6 {
		t.Fatalf("err = %v, want IPv6 exhausted", err)
	}
	a.Free("a", got.Surplus, time.Time{})
	if n := a.Addresses(); n != 0 {
		t.Errorf("%d addresses held, want none", n)
	}
}

// A request that fails takes nothing.
func TestAssignFailure(t *testing.T) {
	a := with(pool("four", Automatic, "192.0.2.1-192.0.2.3"))
	if got, err := a.Assign("n/a", both); err == nil || len(got.Surplus) != 0 || a.Addresses() != 0 {
		t.Errorf("got %+v, %v, and %d addresses are held; want a failure and nothing", got, err, a.Addresses())
	}
}

// Leaving dual stack frees the other family.
func TestAssignDualThenSingleStack(t *testing.T) {
	a := with(pool("p", Automatic, "192.0.2.1-192.0.2.3", "2001:db8::1-2001:db8::3"))
	mustAssign(t, a, "a", both, "192.0.2.1", "2001:db8::1")
	mustAssign(t, a, "a", v4, "192.0.2.1")
	if got := a.Holders(addr("2001:db8::1")); got != nil {
		t.Errorf("2001:db8::1 is held by %v, want nobody", got)
	}
}

// Pinned addresses are given or the request fails.
func TestAssignPinned(t *testing.T) {
	pools := []Pool{
		pool("auto", Automatic, "192.0.2.1-192.0.2.9"),
		pool("ask", OnRequest, "198.51.100.1-198.51.100.9", "2001:db8::1-2001:db8::9"),
	}
	for _, c := range []struct {
		name    string
		request Request
		want    []string
		err     string
	}{
		{
			name:    "in an automatic pool",
			request: pinned(v4, "192.0.2.7"),
			want:    []string{"192.0.2.7"},
		},
		{
			name:    "in a pool that gives on request only",
			request: pinned(v4, "198.51.100.7"),
			want:    []string{"198.51.100.7"},
		},
		{
			name:    "one family pinned, the other automatic",
			request: pinned(dual, "2001:db8::5"),
			want:    []string{"2001:db8::5", "192.0.2.1"},
		},
		{
			name:    "both families pinned",
			request: pinned(both, "2001:db8::5", "192.0.2.5"),
			want:    []string{"192.0.2.5", "2001:db8::5"},
		},
		{
			name:    "outside every pool",
			request: pinned(v4, "203.0.113.1"),
			err:     "203.0.113.1 is in no LoadBalancerPool",
		},
		{
			name:    "held by another",
			request: pinned(v4, "192.0.2.9"),
			err:     "192.0.2.9 is held by other without the same sharing key",
		},
		{
			name:    "of a family not wanted",
			request: pinned(v4, "2001:db8::5"),
			err:     "2001:db8::5 is IPv6, and the owner wants [IPv4] only",
		},
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
			a.Free("a", got.Surplus, time.Time{})
			if held := a.Holdings("a"); len(held) != 0 {
				t.Errorf("holds %v after a failed request, want nothing", held)
			}
		})
	}
}

// Pinning another address frees the former.
func TestAssignPinnedElsewhere(t *testing.T) {
	a := with(pool("p", Automatic, "192.0.2.1-192.0.2.2", "192.0.2.5-192.0.2.5"))
	mustAssign(t, a, "a", v4, "192.0.2.1")
	got, err := a.Assign("a", pinned(v4, "192.0.2.5"))
	if err != nil || !slices.Equal(got.Surplus, []netip.Addr{addr("192.0.2.1")}) {
		t.Fatalf("got %+v, %v; want the former address as surplus", got, err)
	}
	mustAssign(t, a, "b", v4, "192.0.2.2")
	a.Free("a", got.Surplus, time.Time{})
	mustAssign(t, a, "c", v4, "192.0.2.1")
}

// A pool that gives on request is skipped.
func TestAssignOnRequestPool(t *testing.T) {
	a := with(pool("ask", OnRequest, "192.0.2.1-192.0.2.9"))
	if _, err := a.Assign("a", v4); err == nil || err.Error() != "no LoadBalancerPool gives IPv4 addresses automatically" {
		t.Fatalf("err = %v", err)
	}
}

// Pools are used in their order.
func TestAssignPoolOrder(t *testing.T) {
	a := with(pool("first", Automatic, "198.51.100.1-198.51.100.1"), pool("second", Automatic, "192.0.2.1-192.0.2.1"))
	mustAssign(t, a, "a", v4, "198.51.100.1")
	mustAssign(t, a, "b", v4, "192.0.2.1")
	if _, err := a.Assign("c", v4); err == nil || err.Error() != "no IPv4 address is free in LoadBalancerPool first, second" {
		t.Fatalf("err = %v", err)
	}
}

// Usage counts each family.
func TestUsage(t *testing.T) {
	p := pool("p", Automatic, "192.0.2.0-192.0.2.255", "2001:db8::-2001:db8::ffff:ffff:ffff:ffff")
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

// Next is what a new owner gets then, and asking for it changes nothing.
func TestUsageNext(t *testing.T) {
	a := with(
		pool("auto", Automatic, "192.0.2.1-192.0.2.2", "2001:db8::1-2001:db8::9"),
		pool("ask", OnRequest, "198.51.100.1-198.51.100.9"),
		pool("off", Disabled, "203.0.113.1-203.0.113.9"),
	)
	expect := func(pool string, family Family, want string) {
		t.Helper()
		for range 2 {
			got := ""
			if next := a.Usage(pool)[family].Next; next.IsValid() {
				got = next.String()
			}
			if got != want {
				t.Fatalf("the next %s address of %s is %q, want %q", family, pool, got, want)
			}
		}
	}
	expect("auto", IPv4, "192.0.2.1")
	expect("auto", IPv6, "2001:db8::1")
	expect("ask", IPv4, "198.51.100.1")
	expect("off", IPv4, "")
	a.SetPins("n/c", []netip.Addr{netip.MustParseAddr("192.0.2.1")})
	expect("auto", IPv4, "192.0.2.2") // the other one is somebody's
	a.SetPins("n/c", nil)
	mustAssign(t, a, "n/a", v4, "192.0.2.1")
	mustAssign(t, a, "n/b", v4, "192.0.2.2")
	expect("auto", IPv4, "")
	until := time.Unix(60, 0)
	a.Free("n/b", []netip.Addr{netip.MustParseAddr("192.0.2.2")}, until)
	expect("auto", IPv4, "") // only its last owner gets it
	a.Wake(until)
	expect("auto", IPv4, "192.0.2.2")
	mustAssign(t, a, "n/c", v4, "192.0.2.2")
}

func named(r Request, pools ...string) Request {
	r.Named, r.Pools = true, pools
	return r
}

func shared(r Request, key string, ports ...int32) Request {
	r.Terms.Key = key
	for _, p := range ports {
		r.Terms.Ports = append(r.Terms.Ports, Port{"TCP", p})
	}
	return r
}

// A pool that is named gives on request.
func TestAssignNamedPool(t *testing.T) {
	a := with(pool("auto", Automatic, "192.0.2.1-192.0.2.9"), pool("ask", OnRequest, "198.51.100.1-198.51.100.9"))
	mustAssign(t, a, "n/a", v4, "192.0.2.1")
	mustAssign(t, a, "n/b", named(v4, "ask"), "198.51.100.1")
	mustAssign(t, a, "n/b", v4, "198.51.100.1")
}

// A disabled pool gives no addresses and takes none away.
func TestAssignDisabledPool(t *testing.T) {
	a := with(pool("p", Automatic, "192.0.2.1-192.0.2.9"))
	mustAssign(t, a, "n/a", v4, "192.0.2.1")
	a.SetPools([]Pool{pool("p", Disabled, "192.0.2.1-192.0.2.9")})
	mustAssign(t, a, "n/a", v4, "192.0.2.1")
	mustAssign(t, a, "n/a", pinned(v4, "192.0.2.1"), "192.0.2.1")
	if _, err := a.Assign("n/b", pinned(v4, "192.0.2.2")); err == nil ||
		err.Error() != "192.0.2.2 is in LoadBalancerPool p, whose allocation is Disabled" {
		t.Errorf("err = %v", err)
	}
	if _, err := a.Assign("n/b", named(v4, "p")); err == nil || err.Error() != "no LoadBalancerPool gives IPv4 addresses automatically" {
		t.Errorf("err = %v", err)
	}
}

// Edge addresses are skipped.
func TestAssignEdges(t *testing.T) {
	p := pool("p", Automatic, "192.0.2.254-192.0.3.2")
	p.ExcludeEdges = true
	a := with(p)
	mustAssign(t, a, "n/a", v4, "192.0.2.254")
	mustAssign(t, a, "n/b", v4, "192.0.3.1")
	if _, err := a.Assign("n/c", pinned(v4, "192.0.3.0")); err == nil ||
		err.Error() != "192.0.3.0 is an edge address, which LoadBalancerPool p excludes" {
		t.Errorf("err = %v", err)
	}
	p.ExcludeEdges = false
	a.SetPools([]Pool{p})
	mustAssign(t, a, "n/c", v4, "192.0.2.255")
}

// On-request ranges are given only by name.
func TestAssignOnRequestRange(t *testing.T) {
	p := pool("p", Automatic, "192.0.2.1-192.0.2.3")
	p.OnRequest = []netipx.IPRange{netipx.MustParseIPRange("192.0.2.1-192.0.2.2")}
	a := with(p)
	mustAssign(t, a, "n/a", v4, "192.0.2.3")
	mustAssign(t, a, "n/b", pinned(v4, "192.0.2.1"), "192.0.2.1")
}

// Services with one key share an address.
func TestAssignSharing(t *testing.T) {
	a := with(pool("p", Automatic, "192.0.2.1-192.0.2.9"))
	mustAssign(t, a, "n/a", shared(v4, "k", 80), "192.0.2.1")
	mustAssign(t, a, "n/b", shared(v4, "k", 443), "192.0.2.1")
	mustAssign(t, a, "n/clash", shared(v4, "k", 80), "192.0.2.2")
	mustAssign(t, a, "n/other", shared(v4, "l", 8080), "192.0.2.3")
	mustAssign(t, a, "m/far", shared(v4, "k", 8080), "192.0.2.4")
	if _, err := a.Assign("n/none", pinned(v4, "192.0.2.1")); err == nil ||
		err.Error() != "192.0.2.1 is held by n/a without the same sharing key" {
		t.Errorf("err = %v", err)
	}
	a.Release("n/a")
	if got := a.Holders(addr("192.0.2.1")); !slices.Equal(got, []string{"n/b"}) {
		t.Errorf("holders %v, want n/b", got)
	}
}

// A pool may let namespaces share addresses.
func TestAssignSharingAcrossNamespaces(t *testing.T) {
	p := pool("p", Automatic, "192.0.2.1-192.0.2.9")
	p.ShareAcross = true
	a := with(p)
	mustAssign(t, a, "n/a", shared(v4, "k", 80), "192.0.2.1")
	mustAssign(t, a, "m/b", shared(v4, "k", 443), "192.0.2.1")
}

// With externalTrafficPolicy Local, only owners of the same endpoints share.
func TestAssignSharingPolicyLocal(t *testing.T) {
	local := func(r Request, selector string) Request {
		r.Terms.Local, r.Terms.Endpoints = true, selector
		return r
	}
	a := with(pool("p", Automatic, "192.0.2.1-192.0.2.9"))
	mustAssign(t, a, "n/a", local(shared(v4, "k", 80), "app=web"), "192.0.2.1")
	mustAssign(t, a, "n/b", local(shared(v4, "k", 443), "app=web"), "192.0.2.1")
	mustAssign(t, a, "n/c", local(shared(v4, "k", 8080), "app=mail"), "192.0.2.2")
}

// An owner whose ports change into a clash moves to another address.
func TestAssignSharingClash(t *testing.T) {
	a := with(pool("p", Automatic, "192.0.2.1-192.0.2.9"))
	mustAssign(t, a, "n/a", shared(v4, "k", 80), "192.0.2.1")
	mustAssign(t, a, "n/b", shared(v4, "k", 443), "192.0.2.1")
	got, err := a.Assign("n/b", shared(v4, "k", 80))
	if err != nil || !slices.Equal(got.Addresses, []netip.Addr{addr("192.0.2.2")}) ||
		!slices.Equal(got.Surplus, []netip.Addr{addr("192.0.2.1")}) ||
		!got.Renewed {
		t.Fatalf("got %+v, %v; want 192.0.2.2 and 192.0.2.1 as surplus", got, err)
	}
	mustAssign(t, a, "n/a", shared(v4, "k", 80), "192.0.2.1") // not affected by the owner that leaves
	if _, err := a.Assign("n/c", pinned(shared(v4, "k", 443), "192.0.2.1")); err == nil ||
		err.Error() != "192.0.2.1 is held by n/b for another moment" {
		t.Errorf("err = %v, want that the former sharer is still there", err)
	}
	a.Free("n/b", got.Surplus, time.Time{})
	mustAssign(t, a, "n/c", pinned(shared(v4, "k", 443), "192.0.2.1"), "192.0.2.1")
}

// A reserved address is for its namespace.
func TestReserve(t *testing.T) {
	a := with(pool("p", Automatic, "192.0.2.1-192.0.2.3"))
	if err := a.Reserve("n/front", addr("192.0.2.1")); err != nil {
		t.Fatal(err)
	}
	mustAssign(t, a, "n/a", v4, "192.0.2.2")
	if _, err := a.Assign("m/b", pinned(v4, "192.0.2.1")); err == nil ||
		err.Error() != "192.0.2.1 is reserved by n/front" {
		t.Errorf("err = %v", err)
	}
	mustAssign(t, a, "n/c", pinned(v4, "192.0.2.1"), "192.0.2.1")
	a.Release("n/c")
	mustAssign(t, a, "m/d", v4, "192.0.2.3")
	a.Unreserve(addr("192.0.2.1"))
	mustAssign(t, a, "m/e", v4, "192.0.2.1")
}
