// Package packet is the edge to the kernel: which interfaces there are, and packet sockets on them
// for hellos, ARP and neighbor discovery. Linux only; it needs CAP_NET_RAW.
//
// Begin with sockets.go. A socket receives only what concerns the addresses that were joined:
// bpf.go writes the programs, socketfilter.go keeps one up to date while addresses come and go, and
// solicitednodes.go keeps the interface a listener of the multicast groups. links.go lists and
// watches interfaces, link.go says what is known of one.
package packet
