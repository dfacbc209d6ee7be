// Package l2 answers ARP and neighbor discovery for addresses that no interface of this node holds,
// so that packets for them reach this node, and agrees with the other nodes of each segment on who
// answers. Linux only.
//
// Each address, of either family, has one owner on each segment. A segment is an interface and
// every node that is heard on it. Three packages do the work, and this one joins them:
//
//	election   decides which addresses this node owns, by the protocol of docs/design/l2-protocol.md
//	neighbor   answers, announces, probes and defends addresses
//	packet     lists interfaces and opens sockets on them
//
// Begin with driver.go, which is what the speaker uses, and segment.go, the loop that serves one
// interface. Then:
//
//	supervisor.go    starts and ends segments as interfaces come and go
//	inbox.go         what the driver leaves for a segment's loop
//	attach.go        opens and closes a segment's sockets, and takes what they receive
//	effects.go       carries out what the election decided
//	conflicts.go     other hosts that use the same addresses, and probes
//	config.go        the driver's configuration
//	status.go        what Status returns
//	observation.go   what Observed streams
//	metrics.go       what Prometheus reads
//	faults.go        what fails on a segment
//	election.go      the election's types that users of this package need
//	system.go        the edge to packet, for tests
package l2
