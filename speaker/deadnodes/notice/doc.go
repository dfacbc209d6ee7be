// Package notice lets nodes know of deaths that they cannot hear of themselves: nodes of other
// segments, and those whose own process for layer 2 is away. Who heard a node fall silent tells all
// others, in a datagram that is signed with the key of hellos. A notice proves nothing: who gets it
// asks the node's kernel (package deadnodes).
//
//	notice.go  the datagram
//	ledger.go  what is told when
//	driver.go  the socket
package notice
