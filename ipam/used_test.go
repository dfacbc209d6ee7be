package ipam

import (
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"slices"
	"testing"
	"time"

	"go4.org/netipx"
)

func used(by string, ranges ...string) (u []Used) {
	for _, r := range ranges {
		u = append(u, Used{netipx.MustParseIPRange(r), by})
	}
	return u
}

func addrs(texts ...string) (all []netip.Addr) {
	for _, s := range texts {
		all = append(all, addr(s))
	}
	return all
}

// fails checks that a request fails with the text, and takes nothing.
func fails(t *testing.T, a *fixture, owner string, r Request, want string) {
	t.Helper()
	before := a.Holdings(owner)
	if _, err := a.Assign(owner, r); err == nil || err.Error() != want {
		t.Errorf("assign %s: %v, want %q", owner, err, want)
	}
	if after := a.Holdings(owner); !slices.Equal(before, after) {
		t.Errorf("%s holds %v after a failed request, want %v as before", owner, after, before)
	}
}

func usageIs(t *testing.T, a *fixture, want string) {
	t.Helper()
	u := a.Usage("p")[IPv4]
	got := fmt.Sprintf("total %v, assigned %d, reserved %d, excluded %v, resting %d", u.Total, u.Assigned, u.Reserved, u.Excluded, u.Resting)
	if got != want {
		t.Errorf("usage is %s; want %s", got, want)
	}
}

// An address in use elsewhere is skipped.
func TestAssignUsed(t *testing.T) {
	a := with(pool("p", Automatic, "192.0.2.1-192.0.2.9"))
	a.SetUsed(used("the InternalIP of node n1", "192.0.2.1-192.0.2.2", "192.0.2.4-192.0.2.4"))
	mustAssign(t, a, "n/a", v4, "192.0.2.3")
	mustAssign(t, a, "n/b", v4, "192.0.2.5")
	a.SetUsed(nil)
	mustAssign(t, a, "n/c", v4, "192.0.2.1")
}

// A pin on an address in use elsewhere fails, and the error says who uses it.
func TestAssignPinnedUsed(t *testing.T) {
	a := with(pool("p", Automatic, "192.0.2.1-192.0.2.9"), pool("off", Disabled, "198.51.100.1-198.51.100.9"))
	a.SetUsed(used("the InternalIP of node n1", "192.0.2.1-192.0.2.1", "198.51.100.1-198.51.100.1"))
	fails(t, a, "n/a", pinned(v4, "192.0.2.1"), "192.0.2.1 is the InternalIP of node n1")
	fails(t, a, "n/a", pinned(v4, "198.51.100.1"), "198.51.100.1 is the InternalIP of node n1")
	fails(t, a, "n/a", pinned(named(v4, "off"), "192.0.2.1"), "192.0.2.1 is in LoadBalancerPool p, which is not among the pools named")
	var e *UsedError
	if err := a.Hold("n/a", addr("192.0.2.1"), Terms{}); !errors.As(err, &e) || e.By != "the InternalIP of node n1" {
		t.Errorf("hold: %v, want whose it is", err)
	}
	if err := a.Reserve("n/r", addr("192.0.2.1")); !errors.As(err, &e) {
		t.Errorf("reserve: %v, want whose it is", err)
	}
	if got, err := a.ReserveAny("n/r", "p", IPv4, ""); err != nil || got != addr("192.0.2.2") {
		t.Errorf("reserve any: %v, %v, want 192.0.2.2", got, err)
	}
}

// An address that gets used elsewhere is surplus at the next Assign.
func TestSetUsedHeld(t *testing.T) {
	a := with(pool("p", Automatic, "192.0.2.1-192.0.2.9"))
	mustAssign(t, a, "n/a", v4, "192.0.2.1")
	mustAssign(t, a, "n/b", pinned(v4, "192.0.2.2"), "192.0.2.2")
	a.SetUsed(used("an address of node n1", "192.0.2.1-192.0.2.2"))
	if got := a.HeldUsed(); !slices.Equal(got, []string{"n/a", "n/b"}) {
		t.Errorf("held by %v, want n/a and n/b", got)
	}
	got, err := a.Assign("n/a", v4)
	if err != nil || !slices.Equal(got.Addresses, addrs("192.0.2.3")) || !slices.Equal(got.Surplus, addrs("192.0.2.1")) {
		t.Errorf("got %+v, %v; want 192.0.2.3, and 192.0.2.1 as surplus", got, err)
	}
	got, err = a.Assign("n/b", pinned(v4, "192.0.2.2"))
	if err == nil || err.Error() != "192.0.2.2 is an address of node n1" ||
		!slices.Equal(got.Surplus, addrs("192.0.2.2")) {
		t.Errorf("got %+v, %v; want 192.0.2.2 as surplus, and whose it is", got, err)
	}
}

// Where used ranges overlap, the first one wins.
func TestSetUsedOverlapping(t *testing.T) {
	a := with()
	a.SetUsed(slices.Concat(
		used("second of two", "192.0.2.4-192.0.2.6"), used("all", "192.0.2.0-192.0.2.255", "192.0.2.5-192.0.2.5"),
		used("last", "192.0.2.250-192.0.3.5", "255.255.255.0-255.255.255.255"),
		used("six", "::-::1", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
		[]Used{{By: "nothing"}},
	))
	for address, want := range map[string]string{
		"192.0.2.0": "all", "192.0.2.3": "all", "192.0.2.4": "second of two", "192.0.2.5": "second of two",
		"192.0.2.7":   "all",
		"192.0.2.255": "all", "192.0.3.0": "last", "192.0.3.5": "last", "192.0.3.6": "", "255.255.255.255": "last",
		"::": "six", "::2": "", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff": "six",
	} {
		if got := a.UsedBy(addr(address)); got != want {
			t.Errorf("%s is used by %q, want %q", address, got, want)
		}
	}
}

// An address counts only once.
func TestUsageOnce(t *testing.T) {
	a := with(pool("p", Automatic, "192.0.2.0-192.0.2.255", "2001:db8::-2001:db8::ffff:ffff:ffff:ffff"))
	mustAssign(t, a, "n/a", v4, "192.0.2.0")
	mustAssign(t, a, "n/b", v4, "192.0.2.1")
	a.Occupy(
		"x/y", "an address of Service x/y",
		addrs("192.0.2.0", "192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.100", "203.0.113.1"),
	)
	usageIs(t, a, "total 256, assigned 2, reserved 0, excluded 3, resting 0")
	if err := a.Reserve("n/r", addr("192.0.2.0")); err == nil {
		t.Error("an occupied address was reserved")
	}
	if err := a.Reserve("n/r", addr("192.0.2.99")); err != nil {
		t.Error(err)
	}
	a.SetUsed(used("a network", "192.0.2.96-192.0.2.111", "2001:db8::-2001:db8::7fff:ffff:ffff:ffff"))
	usageIs(t, a, "total 256, assigned 2, reserved 1, excluded 17, resting 0") // 2, 3, and 96 to 111 but for 99
	a.Free("n/b", addrs("192.0.2.1"), time.Unix(9, 0))
	usageIs(t, a, "total 256, assigned 1, reserved 1, excluded 18, resting 0")
	a.Vacate("x/y")
	usageIs(t, a, "total 256, assigned 1, reserved 1, excluded 15, resting 1")
	a.SetPools([]Pool{pool("p", Automatic, "192.0.2.0-192.0.2.255", "2001:db8::-2001:db8::ffff:ffff:ffff:ffff")})
	usageIs(t, a, "total 256, assigned 1, reserved 1, excluded 15, resting 1")
	if got, want := a.Usage("p")[IPv6].Excluded, new(big.Int).Lsh(big.NewInt(1), 63); got.Cmp(want) != 0 {
		t.Errorf("%v IPv6 addresses excluded, want %v", got, want)
	}
}

// The holder of an occupied address keeps it, and nobody else gets it.
func TestOccupyHeld(t *testing.T) {
	a := with(pool("p", Automatic, "192.0.2.1-192.0.2.4"))
	mustAssign(t, a, "n/a", shared(v4, "k", 80), "192.0.2.1")
	a.Occupy("x/y", "an address of Service x/y, which metallb serves", addrs("192.0.2.1", "192.0.2.2"))
	mustAssign(t, a, "n/a", pinned(shared(v4, "k", 80), "192.0.2.1"), "192.0.2.1")
	mustAssign(t, a, "n/b", shared(v4, "k", 443), "192.0.2.3")
	fails(t, a, "n/c", pinned(v4, "192.0.2.2"), "192.0.2.2 is an address of Service x/y, which metallb serves")
	var e *UsedError
	if err := a.Hold("n/c", addr("192.0.2.2"), Terms{}); !errors.As(err, &e) {
		t.Errorf("hold: %v, want whose it is", err)
	}
	if err := a.Hold("n/a", addr("192.0.2.1"), Terms{}); err != nil {
		t.Errorf("hold by the holder: %v", err)
	}
	if got := a.UsedBy(addr("192.0.2.1")); got != "" {
		t.Errorf("used by %q, want nobody: it is occupied only", got)
	}
}

// An address is occupied until the last occupant leaves.
func TestVacate(t *testing.T) {
	a := with(pool("p", Automatic, "192.0.2.1-192.0.2.4"))
	a.Occupy("x/y", "y's", addrs("192.0.2.1", "192.0.2.1"))
	a.Occupy("x/z", "z's", addrs("192.0.2.1", "192.0.2.2"))
	if !a.Vacate("x/y") || a.Vacate("x/y") {
		t.Error("want that x/y leaves once")
	}
	fails(t, a, "n/a", pinned(v4, "192.0.2.1"), "192.0.2.1 is z's")
	a.Occupy("x/z", "z's", addrs("192.0.2.2"))
	mustAssign(t, a, "n/a", v4, "192.0.2.1")
	mustAssign(t, a, "n/b", v4, "192.0.2.3")
}

// Automatic allocation skips what others pin.
func TestSetPins(t *testing.T) {
	a := with(pool("p", Automatic, "192.0.2.1-192.0.2.3"))
	if len(a.SetPins("n/pins", addrs("192.0.2.1"))) > 0 {
		t.Error("the first pins removed something")
	}
	mustAssign(t, a, "n/a", v4, "192.0.2.2")
	if got, err := a.ReserveAny("n/r", "p", IPv4, "n/a"); err != nil || got != addr("192.0.2.2") {
		t.Errorf("reserve any: %v, %v, want what the owner holds", got, err)
	}
	if got, err := a.ReserveAny("n/s", "p", IPv4, ""); err != nil || got != addr("192.0.2.3") {
		t.Errorf("reserve any: %v, %v, want 192.0.2.3", got, err)
	}
	fails(t, a, "n/b", v4, "no IPv4 address is free in LoadBalancerPool p")
	mustAssign(t, a, "n/pins", pinned(v4, "192.0.2.1"), "192.0.2.1")
	a.Release("n/pins")
	fails(t, a, "n/b", v4, "no IPv4 address is free in LoadBalancerPool p")
	mustAssign(t, a, "n/pins", v4, "192.0.2.1") // to itself it may be given all the same
	a.Release("n/pins")
	if len(a.SetPins("n/pins", nil)) == 0 {
		t.Error("the pins that were removed are not reported")
	}
	mustAssign(t, a, "n/b", v4, "192.0.2.1")
}

// A pin does not keep others from an address that they pin, too.
func TestSetPinsOfTwoOwners(t *testing.T) {
	a := with(pool("p", Automatic, "192.0.2.1-192.0.2.3"))
	a.SetPins("n/a", addrs("192.0.2.1"))
	mustAssign(t, a, "n/b", pinned(v4, "192.0.2.1"), "192.0.2.1")
}

// Others join an address that its holder pins, but none that another owner waits for.
func TestAssignSharingPinned(t *testing.T) {
	a := with(pool("p", Automatic, "192.0.2.1-192.0.2.3"))
	a.SetPins("n/a", addrs("192.0.2.1"))
	mustAssign(t, a, "n/a", pinned(shared(v4, "k", 80), "192.0.2.1"), "192.0.2.1")
	mustAssign(t, a, "n/b", shared(v4, "k", 81), "192.0.2.1")
	a.SetPins("n/waits", addrs("192.0.2.1"))
	mustAssign(t, a, "n/c", shared(v4, "k", 82), "192.0.2.2")
}

// Used ranges may cover millions of addresses.
func TestSetUsedLarge(t *testing.T) {
	a := with(pool("p", Automatic, "10.0.0.0-10.255.255.255"))
	a.SetUsed(used("a pod CIDR", "10.0.0.0-10.127.255.255"))
	mustAssign(t, a, "n/a", v4, "10.128.0.0")
	if got := a.Usage("p")[IPv4].Excluded.Int64(); got != 1<<23 {
		t.Errorf("%d excluded, want %d", got, 1<<23)
	}
}
