package ipam

import (
	"fmt"
	"net/netip"
	"strings"
)

// TakenError tells that the address is somebody else's.
type TakenError struct {
	Address netip.Addr
	// Owner holds it, and Why it is not shared.
	Owner, Why string
	// Reservation keeps it, if Owner is empty.
	Reservation string
}

func (e *TakenError) Error() string {
	if e.Owner == "" {
		return fmt.Sprintf("%s is reserved by %s", e.Address, e.Reservation)
	}
	return strings.TrimSpace(fmt.Sprintf("%s is held by %s %s", e.Address, e.Owner, e.Why))
}

// OutsideError tells that no pool holds the address.
type OutsideError struct{ Address netip.Addr }

func (e *OutsideError) Error() string { return fmt.Sprintf("%s is in no IPPool", e.Address) }

// FamilyError tells that the address is of a family that was not asked for.
type FamilyError struct {
	Address  netip.Addr
	Families []Family
}

func (e *FamilyError) Error() string {
	return fmt.Sprintf("%s is %s, and the owner wants %v only", e.Address, FamilyOf(e.Address), e.Families)
}

// ScopeError tells that the address is in a pool that may not give to the owner,
// or, if Named, not in one that the owner names.
type ScopeError struct {
	Address netip.Addr
	Pool    string
	Named   bool
}

func (e *ScopeError) Error() string {
	if e.Named {
		return fmt.Sprintf("%s is in IPPool %s, which is not among the pools named", e.Address, e.Pool)
	}
	return fmt.Sprintf("%s is in IPPool %s, which does not serve the owner", e.Address, e.Pool)
}

// DisabledError tells that the address is in a pool that gives no more.
type DisabledError struct {
	Address netip.Addr
	Pool    string
}

func (e *DisabledError) Error() string {
	return fmt.Sprintf("%s is in IPPool %s, whose allocation is Disabled", e.Address, e.Pool)
}

// EdgeError tells that the address is the first or last of a /24, and its pool does
// not give those.
type EdgeError struct {
	Address netip.Addr
	Pool    string
}

func (e *EdgeError) Error() string {
	return fmt.Sprintf("%s is an edge address, which IPPool %s excludes", e.Address, e.Pool)
}

// ExhaustedError tells that no pool has a free address of the family.
type ExhaustedError struct {
	Family Family
	// Full lists the pools that have such addresses and may give them, all taken.
	// Empty: there is no such pool.
	Full []string
	// Named: among the pools that the owner names.
	Named bool
}

func (e *ExhaustedError) Error() string {
	if len(e.Full) == 0 {
		return fmt.Sprintf("no IPPool gives %s addresses automatically", e.Family)
	}
	return fmt.Sprintf("no %s address is free in IPPool %s", e.Family, strings.Join(e.Full, ", "))
}
