// Package config compiles the objects of group berth.dev into one immutable, validated Snapshot,
// and says what is wrong with each object. It has no memory: the same objects give the same
// Snapshot.
//
// Begin with Snapshot (snapshot.go), which answers all questions, and Compile (compile.go), which
// makes one. Then:
//
//	neighbor.go    BGPNeighbors
//	route.go       RouteAnnouncements
//	dataplane.go   the data plane of a Service: the IPVS scheduler, or steering
//	quote.go       text of users in messages
package config
