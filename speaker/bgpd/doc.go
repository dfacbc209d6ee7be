// Package bgpd runs BGP in a process of its own. The speaker plans; a keeper in another container
// of the pod remembers what it wants, and runs a worker, which is package bgp's Driver and nothing
// else. A fault in GoBGP ends the worker, and the keeper starts another; a speaker that ends leaves
// the sessions as they are.
//
//	wire.go     the messages, as lines of JSON
//	wants.go    all that is wanted of BGP, and what of it the other side has not been told
//	remote.go   who wants something: it looks like a bgp.Driver. The speaker has one for its keeper,
//	            and the keeper one for its worker
//	desk.go     who is wanted something of: the keeper by its speaker, the worker by its keeper
//	keeper.go   the keeper, which outlives both
//	staff.go    starts workers, and finds out how they ended
//	blame.go    which router a worker ended of, and when to try again (pure)
//	worker.go   the worker
//	trace.go    from which router a worker read last, for who outlives it
//	within.go   BGP in the speaker's process, for who wants no other
package bgpd
