// Package speaker is the agent on each node. It watches the API, plans what its node forwards and
// announces, has its drivers do it, and reports what they see.
//
//	options.go      what a speaker is told
//	speaker.go      a Speaker: start, readiness, end
//	assemble.go     makes the drivers, the planner and the reporter, each of what was made before
//	drivers.go      the contract of drivers, and what is used of each
//	sources.go      the informers, and what is read from them; slim.go is what their caches keep
//	planner.go      turns changes into plans: one goroutine, package plan decides
//	used.go         which addresses are in use elsewhere
//	keys.go         keys of hellos and of records
//	leave.go        how a speaker leaves or is replaced
//	report.go       takes observations of the drivers
//	compose.go      makes the status of the Speaker; publish.go writes it
//	conflicts.go    addresses that other hosts have
//
// What a node does is decided in package plan, and what forwards is package dataplane. Begin with
// planner.plan in planner.go.
package speaker
