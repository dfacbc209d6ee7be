// Package allocation keeps who holds which address: Services, AddressReservations, and other
// implementations' Services, whose addresses are passed over. It is ipam's allocator together with
// what the controller must remember beside it, behind one mutex.
//
// An address that a Service loses stays its own until Free, which the controller calls after it
// wrote the status that does not show the address any longer: so two statuses never show one.
//
// Begin with Allocations, then services.go for Assign and Free, reservations.go, and used.go for
// addresses that are somebody else's or rest.
package allocation
