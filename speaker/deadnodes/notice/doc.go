// Package notice lets nodes know of deaths that they cannot hear of themselves: nodes of other
// segments, and those whose own process for layer 2 is away. Who heard a node fall silent tells all
// others, in a datagram that is signed with the key of hellos. A notice proves nothing: who gets it
// asks the node's kernel (package deadnodes).
//
// Each node also sends hellos to a few that it does not hear on a segment. They tell of its death
// if it is alone on its segment, or if all that is on it is gone.
//
//	notice.go  the datagram
//	hellos.go  who sends hellos to whom, and who misses some
//	ledger.go  what is told when
//	driver.go  the socket
package notice
