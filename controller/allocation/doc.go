// Package allocation records who has which address: Services, AddressReservations, and Services of
// other implementations, whose addresses are not given. It is an ipam.Allocator together with what
// the controller must remember beside it, behind one mutex.
//
// A Service keeps an address that it is to lose until Free. The controller calls Free after it
// wrote the status without the address, so that no two statuses show the same address.
//
// Begin with Allocations (allocations.go). The other files:
//
//   - services.go: Assign and Free, for Services
//   - reservations.go: Reserve and Unreserve, for AddressReservations
//   - used.go: addresses that others use
//   - resting.go: addresses that were freed a moment ago
package allocation
