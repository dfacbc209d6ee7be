// Package election is the protocol by which the speakers of a segment agree on who answers for which group of addresses:
// docs/design/l2-protocol.md in code.
//
// A Machine is one node's side of it on one segment. It has no socket and no clock: its methods take what was heard and the
// time, and Take returns what is to be done. So a simulator can run many of them through random histories (sim_test.go).
//
// Begin with machine.go, which holds the state and takes the inputs, and decide.go, which holds the rules. Then:
//
//	groupstate.go    one group: who claims it
//	peers.go         who is alive, and in which state
//	claim.go         claims, and how they are written
//	claimset.go      all claims of one node, with their digest
//	message.go       messages: format, signature
//	send.go          ticks, and what the machine sends
//	pacer.go         when the next hello is due, and what lateness means
//	hold.go          groups that are kept for a speaker that is replaced
//	mirror.go        claims that arrive by the API
//	proof.go         which addresses need no probe
//	rendezvous.go    who comes first for a group
package election
