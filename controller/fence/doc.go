// Package fence takes the pods of dead nodes out of Services long before Kubernetes does: it writes
// to them what Kubernetes would write 50 s later, that they are not ready, and nothing else.
//
// What is known at a moment is a Snapshot. Judge says which nodes are dead, and of the others that
// somebody thinks dead why they are not fenced; Choose says which of their pods are written to.
// Both are pure. A Fencer fills Snapshots and writes.
//
// Every report is hostile until it is checked. What speakers say does not suffice: the controller's
// own question to the node and the node's Lease must agree.
//
//   - snapshot.go: what is known
//   - judge.go: which nodes are dead
//   - choose.go: which pods are written to
//   - history.go: what was seen when, by the clock of this process
//   - prober.go: the controller's own questions
//   - cluster.go: pods, EndpointSlices and Leases
//   - fencer.go: the loop around all that
//   - writer.go: statuses, events
//   - metrics.go
package fence
