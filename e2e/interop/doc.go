//go:build linux

// Package interop tries each field of BGPNeighbor and RouteAnnouncement with the BGP daemons of the
// system's packages: FRR, BIRD, GoBGP, ExaBGP and OpenBGPD. What a speaker is told in YAML goes
// through config.Compile, speaker/plan and bgp.Driver, as in a speaker; what counts is what the
// daemon shows.
//
// A script in testdata tries one field, or a few, with all daemons (Script says what is in it). One
// script with one daemon is a cell: a process in namespaces of its own. The test (build tag
// release) runs them all, and with -record writes results.json, from which
// docs/reference/interop.md is made.
//
//	script.go     scripts, and what they want to see
//	cell.go       a cell: its steps, in the cell's process
//	network.go    the namespaces of a cell
//	node.go       Berth's side
//	router.go     the daemons' side, what all have in common; a file for each
//	results.go    what is recorded
package interop
