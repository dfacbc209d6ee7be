// Package bgp announces routes to BGP peers.
//
// A [Driver] is told which peers to keep sessions with ([Driver.SyncPeers]) and which routes each group
// of Services wants ([Driver.Sync]); it compares that with what it announces and sends the difference.
// It never learns a route: whatever a peer sends is rejected.
//
// The protocol is GoBGP's, and this is the only package that imports it. How its pieces fit:
//
//	wanted.go    groups and their routes, merged per prefix (pure)
//	driver.go    the exported calls, which only leave orders, and Run
//	owner.go     the one goroutine that compares wanted with announced and talks to GoBGP
//	sessions.go  what the owner makes of session events, errors and NOTIFICATIONs
//	server.go    the narrow face of GoBGP
//	path.go      a prefix and its attributes as GoBGP wants them; place of new attributes
//	policy.go    which peer gets which path
//	log.go       GoBGP's log, read for what its events leave out
//	probe.go     asks a peer why it refuses a session
package bgp
