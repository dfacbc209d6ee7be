// Package candidate says which nodes may announce the addresses of a Service, as far as the API
// shows it. It is pure. The speakers plan with it, and the controller explains with it what they
// do.
//
// The rules, in the order of the table in docs/guides/layer2.md, and where each is:
//
//	label, condition, taints, deletion   Exclusion (node.go); the speaker of an excluded node is
//	                                     Leaving (reviewState in speaker/planner.go)
//	kube-proxy is unhealthy              not here: reviewState in speaker/planner.go
//	policy Local without endpoint        Endpoints.Nodes (endpoints.go), serversOf in
//	                                     speaker/plan/announcements.go
//	no IPVS, or not the scheduler        not here: requirements in speaker/plan, Needs in l2
//
// The controller puts them into words in controller/announcement: Node.absence, Node.incapacity and
// Service.obstacle.
//
// Begin with Exclusion.
package candidate
