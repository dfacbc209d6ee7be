// Package steering has nodes send packets for Services to each other: each packet of a connection
// goes to the same node, whichever node it comes to, and a program in the kernel does it.
//
// Driver brings the kernel to what is desired. Package table ranks nodes, package decide is the
// decision about a packet, package program is the BPF program. What is decided about tables and
// maps is pure, and in files without I/O; kernel.go and attach.go are the edge.
package steering
