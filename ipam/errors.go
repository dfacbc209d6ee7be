package ipam

import (
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// TakenError says that another owner or a reservation has the address.
type TakenError struct {
	Address netip.Addr
	// Owner holds the address. Why says why it is not shared.
	Owner, Why string
	// Reservation has the address, if Owner is empty.
	Reservation string
}

func (e *TakenError) Error() string {
	if e.Owner == "" {
		return fmt.Sprintf("%s is reserved by %s", e.Address, e.Reservation)
	}
	return strings.TrimSpace(fmt.Sprintf("%s is held by %s %s", e.Address, e.Owner, e.Why))
}

// OutsideError says that the address is in no pool.
type OutsideError struct{ Address netip.Addr }

func (e *OutsideError) Error() string { return fmt.Sprintf("%s is in no LoadBalancerPool", e.Address) }

// FamilyError says that the address is of a family that the owner did not ask for.
type FamilyError struct {
	Address  netip.Addr
	Families []Family
}

func (e *FamilyError) Error() string {
	return fmt.Sprintf("%s is %s, and the owner wants %v only", e.Address, FamilyOf(e.Address), e.Families)
}

// ScopeError says that the address is in a pool that does not serve the owner or, if Named, in one
// that the owner does not name.
type ScopeError struct {
	Address netip.Addr
	Pool    string
	Named   bool
}

func (e *ScopeError) Error() string {
	if e.Named {
		return fmt.Sprintf("%s is in LoadBalancerPool %s, which is not among the pools named", e.Address, e.Pool)
	}
	return fmt.Sprintf("%s is in LoadBalancerPool %s, which does not serve the owner", e.Address, e.Pool)
}

// DisabledError says that the address is in a pool that gives no addresses.
type DisabledError struct {
	Address netip.Addr
	Pool    string
}

func (e *DisabledError) Error() string {
	return fmt.Sprintf("%s is in LoadBalancerPool %s, whose allocation is Disabled", e.Address, e.Pool)
}

// EdgeError says that the address is the first or last one of a /24, which its pool does not give.
type EdgeError struct {
	Address netip.Addr
	Pool    string
}

func (e *EdgeError) Error() string {
	return fmt.Sprintf("%s is an edge address, which LoadBalancerPool %s excludes", e.Address, e.Pool)
}

// ExhaustedError says that no pool has a free address of the family.
type ExhaustedError struct {
	Family Family
	// Full lists the pools that have such addresses and may give them, but have none left. Empty: no
	// pool has such addresses.
	Full []string
	// Named says that only the pools that the owner names count.
	Named bool
}

// Error does not say what rests: of many Services that wait, only the one that gets an address is
// told something else when one is freed, or has rested.
func (e *ExhaustedError) Error() string {
	if len(e.Full) == 0 {
		return fmt.Sprintf("no LoadBalancerPool gives %s addresses automatically", e.Family)
	}
	return fmt.Sprintf("no %s address is free in LoadBalancerPool %s", e.Family, strings.Join(e.Full, ", "))
}

// RestingError says that Owner freed the address a moment ago, and that it rests.
type RestingError struct {
	Address netip.Addr
	// Owner is empty if it is not known.
	Owner string
	Until time.Time
}

func (e *RestingError) Error() string {
	if e.Owner == "" {
		return fmt.Sprintf("%s may have been a Service's until a moment ago, and rests until %s", e.Address, clock(e.Until))
	}
	return fmt.Sprintf("%s was Service %s's until a moment ago, and rests until %s", e.Address, e.Owner, clock(e.Until))
}

// UsedError says that the address is in use elsewhere.
type UsedError struct {
	Address netip.Addr
	// By says who uses it, in words that follow "is".
	By string
}

func (e *UsedError) Error() string { return fmt.Sprintf("%s is %s", e.Address, e.By) }

// clock returns the time of day in UTC.
func clock(t time.Time) string { return t.UTC().Format(time.TimeOnly) }
