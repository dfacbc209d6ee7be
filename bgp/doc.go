// Package bgp announces routes to BGP peers.
//
// A [Driver] is told which peers to keep sessions with ([Driver.SyncPeers]) and which routes each
// group of Services wants ([Driver.Sync]); it compares that with what it announces and sends the
// difference. It never learns a route: whatever a peer sends is rejected.
//
// The protocol is GoBGP's, and this is the only package that imports it. Begin with driver.go, then
// loop.go and run.go. How the files fit:
//
//	driver.go         the exported calls, which only leave orders
//	loop.go           the state of the one goroutine that talks to GoBGP
//	run.go            what that goroutine does, and how it ends
//	route.go          routes, and those of all groups merged per prefix (pure)
//	attributes.go     attributes of a route; their order and their text (pure)
//	attributesets.go  numbers for sets of attributes, which policies refer to
//	updates.go        compares what is desired with what was announced, and sends the difference
//	path.go           a prefix and its attributes as GoBGP wants them
//	policy.go         which peer gets which path
//	sessions.go       peers, and what becomes of session events, errors and NOTIFICATIONs
//	dynamic.go        routers that connect to us: those of a prefix get a session each; the start of
//	                  GoBGP, and its restart for what is global in it
//	unnumbered.go     peers on an interface, and next hops over IPv6 (RFC 8950)
//	listener.go       the sockets that routers connect to
//	liveness.go       sessions that end because BFD says so
//	server.go         the narrow face of GoBGP
//	gobgplog.go       GoBGP's log, and what routers say, read for what its events leave out
//	probe.go          calls a peer, and finds out why one with a password is silent
//	status.go         what is published: sessions, counts, observations
//	metrics.go        berth_bgp_*
//
// Packages below it: peer (what a peer is, and the rules for it), discover (finds the router on an
// interface), bfd, and community.
package bgp
