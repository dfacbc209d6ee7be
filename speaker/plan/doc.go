// Package plan says what a node forwards and announces. It is pure: all that a plan depends on
// comes in as data, the time and the state of the kernel too, and the same input gives the same
// plan.
//
// A plan is made for a Group, the Services that are connected by shared addresses, and goes one
// way:
//
//	Group.Unused       leaves out addresses that are in use elsewhere     group.go
//	Classify           says who forwards for each Service                 classify.go
//	PlanForwarding     says what this node's data plane does              forwarding.go
//	Readiness          is what the kernel shows of that                   readiness.go
//	PlanAnnouncements  says what this node announces                      announcements.go, routes.go
//
// Besides its group, a plan sees the World (world.go). A Service is what plans need of one
// (service.go), and a capability is what a node needs to forward for it (capability.go). Targets
// says which endpoints get new connections (hints.go). Groups keeps the groups while Services come
// and go (groups.go), and PlanPeers says which BGP peers the node has (peers.go). Begin with
// PlanAnnouncements.
package plan
