// Package heart runs what must never wait, layer 2 and BFD, in a process of its own. The speaker
// plans; the heart answers for addresses, sends hellos, and watches routers. It has no client of
// Kubernetes and few allocations, so nothing that happens to the speaker makes it late: neither the
// speaker's garbage, nor its memory limit, nor its end. While no speaker is there, the heart goes
// on with what it was last told.
//
//	wire.go     the messages between the two, as lines of JSON over a Unix socket
//	remote.go   the speaker's side: what is wanted, and the connection; it looks like an l2.Driver
//	paths.go    BFD, for who speaks BGP, on a connection of its own: both sides
//	heart.go    the heart's side: carries out orders, and outlives the connection
//	ledger.go   what the heart has for its speaker to read
//	state.go    what the heart keeps in a file over its own end
//
// The speaker says everything that is wanted on each connection, and ends that with an order that
// is complete; what it did not name is withdrawn then, and not before.
package heart
