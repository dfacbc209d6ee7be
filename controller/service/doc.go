// Package service reads and writes single Services: whether Berth serves one, what it asks for, and
// what its status should say. It does no I/O.
//
// Begin with Ownership (ownership.go) and Request (request.go). The other files:
//
//   - explain.go: the condition Allocated
//   - status.go: the status that a Service should have
//   - contest.go: what Berth wrote, and controllers that overwrite it
package service
