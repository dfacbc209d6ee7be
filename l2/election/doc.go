// Package election is the protocol by which the speakers of a segment agree on which node answers
// for which address: docs/design/l2-protocol.md in code.
//
// A Machine is one node's side of it on one segment. It has no socket and no clock: its methods
// take the time and what was heard, and Take returns what is to be done. So a simulator can run
// many machines through random histories (sim_test.go).
//
// Begin with machine.go, which holds the state and takes the inputs, and decide.go, which holds the
// rules. Then:
//
//	addressstate.go  one address: the desired state, and who claims it
//	peers.go         which peers are alive, and in which state
//	claim.go         claims, their format, and all claims of one node with their digest
//	message.go       messages: format and signature
//	send.go          ticks, and what the machine sends
//	pacer.go         when the next hello is due, and what lateness means
//	hold.go          addresses that are kept for a speaker that is replaced
//	mirror.go        claims that arrive through the API, and which of them count
//	proof.go         which addresses need no probe
//	rendezvous.go    which node ranks first for an address
//	state.go         states, capabilities and freshness of a node
//	cause.go         why an address moves
package election
