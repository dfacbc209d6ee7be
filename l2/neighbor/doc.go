// Package neighbor speaks ARP (RFC 826), neighbor discovery (RFC 4861) and MLD (RFC 3810) for
// addresses that no interface of this node holds. It opens no socket: frames and times are
// arguments, frames are results.
//
// Begin with arp.go and ndp.go, the codecs and the responders, and addresstable.go, where the
// responders look addresses up. Then:
//
//	announcer.go      when to announce an address that was taken over
//	prober.go         asks who has an address before this node answers for it
//	defender.go       what to do about another host that uses an address of this node
//	proxydetector.go  tells hosts from routers that answer for everything
//	sighting.go       another host's use of an address
//	mld.go            queries and reports of multicast listeners
//	frames.go         Ethernet
package neighbor
