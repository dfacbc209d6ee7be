// Package notice lets nodes know of deaths that they cannot hear of themselves: nodes of other
// segments, and those whose own process for layer 2 is away. Who heard a node fall silent tells all
// others, in a datagram that is signed with the key of hellos. A notice proves nothing: who gets it
// asks the node's kernel (package deadnodes).
//
// A node that is alone on its segment has nobody who hears it, and if a segment is lost as a whole
// nobody is left to tell. So each node also has three others watch it that it does not hear on a
// segment: they ask its speaker again and again, and tell of it when no answer comes.
//
//	notice.go  the datagram
//	ledger.go  what is told when
//	watch.go   who watches whom, and who does not answer
//	driver.go  the socket
package notice
