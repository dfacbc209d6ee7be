package ipam

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Request is what an owner asks for.
type Request struct {
	// Families wanted, one address each, the primary first. Never empty.
	Families []Family
	// All: every family or nothing. Otherwise a family that no pool can give is
	// done without, as long as one is given.
	All bool
	// Pinned are addresses asked for by name, at most one of each family. They are
	// given or the request fails.
	Pinned []netip.Addr
}

// Assignment is what an owner should have after Assign.
type Assignment struct {
	// Addresses in the order of the families asked for.
	Addresses []netip.Addr
	// Surplus are addresses that the owner should not have any more. It goes on
	// holding them, so that nobody else gets them while anybody may still see them
	// as the owner's, until Free.
	Surplus []netip.Addr
	// Missing says why a family was done without.
	Missing []error
}

// Assign makes the owner hold what it asks for. Addresses that it holds and that
// fit are kept, inside a pool or not; the others are surplus. When the request
// cannot be met, all that the owner holds is surplus, and the error is a
// *TakenError, *OutsideError, *FamilyError or *ExhaustedError.
func (a *Allocator) Assign(owner string, request Request) (Assignment, error) {
	addresses, err := a.choose(owner, request)
	var missing []error
	for _, family := range request.Families {
		if err != nil || slices.ContainsFunc(addresses, of(family)) {
			continue
		}
		address, full := a.lowestFree(family)
		if full != nil {
			missing = append(missing, full)
			continue
		}
		err = a.Hold(owner, address)
		addresses = append(addresses, address)
	}
	if err == nil && len(missing) > 0 && (request.All || len(addresses) == 0) {
		err = missing[0]
	}
	if err != nil {
		return Assignment{Surplus: a.Holdings(owner)}, err
	}
	order := func(address netip.Addr) int { return slices.Index(request.Families, FamilyOf(address)) }
	slices.SortFunc(addresses, func(x, y netip.Addr) int { return order(x) - order(y) })
	surplus := slices.DeleteFunc(a.Holdings(owner), func(h netip.Addr) bool { return slices.Contains(addresses, h) })
	return Assignment{Addresses: addresses, Surplus: surplus, Missing: missing}, nil
}

// of returns a test for addresses of the family.
func of(family Family) func(netip.Addr) bool {
	return func(a netip.Addr) bool { return FamilyOf(a) == family }
}

// choose takes the pinned addresses, and tells which addresses the owner keeps:
// the pinned ones, and of each other family wanted the lowest that it holds.
func (a *Allocator) choose(owner string, request Request) ([]netip.Addr, error) {
	held := a.Holdings(owner)
	var kept []netip.Addr
	for _, pin := range request.Pinned {
		if !slices.Contains(request.Families, FamilyOf(pin)) {
			return nil, &FamilyError{Address: pin, Families: request.Families}
		}
		if a.poolOf(pin) == nil && a.owners[pin] != owner {
			return nil, &OutsideError{Address: pin}
		}
		if err := a.Hold(owner, pin); err != nil {
			return nil, err
		}
		kept = append(kept, pin)
	}
	for _, family := range request.Families {
		if i := slices.IndexFunc(held, of(family)); i >= 0 && !slices.ContainsFunc(kept, of(family)) {
			kept = append(kept, held[i])
		}
	}
	return kept, nil
}

// TakenError tells that another owner holds the address.
type TakenError struct {
	Address netip.Addr
	Owner   string
}

func (e *TakenError) Error() string { return fmt.Sprintf("%s is held by %s", e.Address, e.Owner) }

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

// ExhaustedError tells that no automatic pool has a free address of the family.
type ExhaustedError struct {
	Family Family
	// Full lists the automatic pools that have such addresses, all taken. Empty:
	// there is no such pool.
	Full []string
}

func (e *ExhaustedError) Error() string {
	if len(e.Full) == 0 {
		return fmt.Sprintf("no IPPool gives %s addresses automatically", e.Family)
	}
	return fmt.Sprintf("no %s address is free in IPPool %s", e.Family, strings.Join(e.Full, ", "))
}
