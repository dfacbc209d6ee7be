// Package ipam gives addresses from pools to owners. It knows nothing of Kubernetes, has no clock,
// and does no I/O. An Allocator is not safe for concurrent use.
//
// Two owners hold the same address only if their Terms let them share it. An address that an owner
// is to lose stays its own until Free, so that nobody else gets it while it may still be in use. An
// address that was freed may rest: until then only the owner that had it gets it.
//
// The life of an address:
//
//	fresh  nothing is known of it: it is not in Allocator.taken. The lowest fresh one is given first.
//	held   by one owner or by several that share it (hold.go), until each of them frees it.
//	rests  freed a moment ago (retire in former.go): only the owner that had it gets it.
//	past   has rested (Wake), and is given again after all fresh ones, the one freed first before
//	       the others.
//
// recall undoes retire when an address is held again. An address that is reserved, pinned, occupied
// or in use elsewhere is neither fresh nor past. When that changes, settle files it again: mark
// decides whether it is fresh, shelve whether it is past. Each pool has a stock per family, with
// its past and resting addresses.
//
// An owner gets an address of a pool in one of four ways, tried in this order: it names the address
// (mayPin), it had the address, which rests for it (regain), it shares the address of another
// (lowestShared), or it takes the one that comes next (next). ReserveAny and Full use next alone.
//
// Begin with Allocator (allocator.go) and Assign (assign.go). Each file needs only files above it:
//
//   - pool.go: families and pools, and what is known of a pool's addresses
//   - errors.go: why an address is not given
//   - terms.go: on which terms owners share addresses
//   - intervals.go, used.go: sets and lists of ranges
//   - allocator.go: the Allocator, and questions about one address
//   - former.go: addresses that were freed, and their rest
//   - set.go: what is set from outside: pools, addresses in use elsewhere, pins
//   - hold.go: giving one address to an owner, and freeing it
//   - search.go: which address a pool gives next
//   - claims.go: reservations, and addresses of other implementations
//   - assign.go: giving an owner all that it asks for
//   - usage.go, recent.go: what the status of a pool shows
package ipam
