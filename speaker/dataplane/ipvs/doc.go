// Package ipvs forwards connections to addresses of Services by IPVS, the kernel's load balancer
// for transport protocols (Documentation/networking/ipvs-sysctl.rst).
//
// Diff (desired.go) is pure: from what is desired and what the kernel shows to the operations
// between. The Driver (driver.go) carries them out, reads back, and repairs what others change. At
// the edge are the table of virtual servers (kernel.go) and the delivery of packets to it
// (deliver.go).
//
// What is ours is decided by address: an address belongs to Berth while it is desired or while
// there is a route for it in Berth's routing table. The route comes before the first virtual server
// of its address and goes after the last one, so a process that starts after a crash finds all that
// is Berth's in the kernel, and a reboot clears both. All virtual servers of such an address are
// ours; those of other addresses, and those by marks of others, are left alone. Linux only; it
// needs CAP_NET_ADMIN and a writable /proc/sys/net/ipv4/vs.
package ipvs
