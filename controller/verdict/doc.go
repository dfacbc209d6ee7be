// Package verdict says on configuration objects whether they are in effect, and on BGPNeighbors how
// many sessions are established. It computes conditions and writes nothing.
//
// Begin with Verdict (verdict.go), then Sessions (sessions.go).
package verdict
