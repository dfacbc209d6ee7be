// Package controller gives addresses to Services of type LoadBalancer, and says on every object
// what is wrong with it. It is the only writer of Services and of the conditions of configuration
// objects.
//
// A Controller watches all objects. While it leads, it works off four queues: Services,
// AddressReservations, configuration tasks, and what is to be written about the configuration. Who
// has which address is kept in package allocation. An address is freed only after the status
// without it was written.
//
// Begin with Controller (controller.go) and lead.go. The other files:
//
//   - start.go: New, which events requeue what, and which updates of an object matter
//   - services.go: reconciles Services
//   - others.go: Services that another implementation serves
//   - reservations.go: reconciles AddressReservations
//   - configuration.go: compiles the configuration, and writes statuses of configuration objects
//   - nodes.go: what nodes and speakers report, for the condition Announced
//   - used.go: addresses in use elsewhere
//   - keys.go: the Secret with the keys
//   - provider.go, provider_lead.go, provider_client.go: the Controller as a cloud provider
//   - metrics.go
package controller
