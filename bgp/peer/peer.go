// Package peer says what a BGP peer is, and which of them make no sense. It is the one home of
// these rules, and knows neither Kubernetes nor GoBGP.
package peer

import (
	"fmt"
	"net/netip"
	"strconv"
	"time"
)

// Defaults of a Peer's zero fields.
const (
	DefaultPort             = 179
	DefaultHoldTime         = 90 * time.Second
	DefaultConnectRetryTime = 5 * time.Second

	defaultBFDInterval   = 300 * time.Millisecond
	defaultBFDMultiplier = 3
)

// Type says in which AS a peer is whose number is not given.
type Type string

// The types of peers.
const (
	External Type = "External" // any AS but ours
	Internal Type = "Internal" // ours
)

// BFD says how a peer is watched (RFC 5880).
type BFD struct {
	Enabled bool
	// ReceiveInterval and TransmitInterval are wishes, see the peer's too; 0: 300 ms.
	ReceiveInterval, TransmitInterval time.Duration
	// Multiplier is after how many of our intervals the peer calls us dead; 0: 3.
	Multiplier uint8
	// Key signs the packets of both ends (RFC 5880 section 6.7.4); the zero value: they are not
	// signed.
	Key BFDKey
}

// BFDKey is a key of BFD by SHA1.
type BFDKey struct {
	// Meticulous: each packet has a number of its own.
	Meticulous bool
	ID         uint8
	// Text is of 1 to 20 bytes; empty: there is no key.
	Text string
}

// Peer is one configured BGP neighbor. Two whose Canonical forms are equal need no change to the
// session between them.
type Peer struct {
	// Name identifies the peer in routes, status, metrics and logs. Unique.
	Name string
	// Address is where the session is opened to. Unique among the peers of a driver.
	Address netip.Addr
	// Interface, in place of Address: the peer is the one router on it, found by its IPv6 link-local
	// address.
	Interface string
	// Prefix, in place of Address: every router in it that connects and is in RemoteASN is a neighbor,
	// up to 64 at a time. Overlaps no Prefix and holds no Address of another peer.
	Prefix netip.Prefix
	// Passive: the peer at Address connects to us. It needs Config.Listen, as Prefix does.
	Passive bool
	// Port is the peer's TCP port; 0 means 179.
	Port uint16
	// LocalASN and RemoteASN are the two ends' AS numbers, 1 to 4294967294. Equal numbers make an iBGP
	// session.
	LocalASN, RemoteASN uint32
	// RemoteType stands for RemoteASN where that is 0.
	RemoteType Type
	// HoldTime is proposed in the OPEN message; the smaller of both ends' counts (RFC 4271 section
	// 4.2). Whole seconds, 3 s to 65535 s; 0 means 90 s.
	HoldTime time.Duration
	// KeepaliveTime is the interval between KEEPALIVE messages, whole seconds; 0 means a third of
	// HoldTime.
	KeepaliveTime time.Duration
	// ConnectRetryTime is the pause between attempts to connect to a router that refuses, whole
	// seconds; 0 means 5 s. One that is silent is called more often.
	ConnectRetryTime time.Duration
	// EBGPMultihop is the TTL of an eBGP session to a peer that is not on a connected segment; 0 means
	// off.
	EBGPMultihop uint8
	// TTLSecurityHops: only packets with a TTL of 256 less so many, or more, count, since what comes
	// from further away has less (RFC 5082, GTSM); 1 is one hop away. 0 means off.
	TTLSecurityHops uint8
	// VRF is the device that the session is bound to; empty means none.
	VRF string
	// IPv4 and IPv6 are the families that are announced; both false means both.
	IPv4, IPv6 bool
	// GracefulRestart is how long the peer is asked to keep the routes while this process is replaced
	// (RFC 4724), whole seconds up to 4095 s; 0 means not at all.
	GracefulRestart time.Duration
	// BFD watches the peer besides; a change resets nothing.
	BFD BFD
	// SourceAddress is the local end of the session; the zero Addr lets the kernel choose.
	SourceAddress netip.Addr
	// NodeNextHop has routes point to the node's address of their family. Otherwise those of the
	// family that the session is over point to the session's local end (RFC 4271 section 5.1.3), which
	// the peer can reach.
	NodeNextHop bool
	// Password is the key of TCP MD5 signatures (RFC 2385); empty means none.
	Password string
}

// Problem is what is wrong with a Peer.
type Problem struct {
	// Field is the name in the API (BGPNeighbor.spec) of the field to correct, or of several.
	Field string
	// Text says what is wrong with it, and what to write.
	Text string
}

// Error returns the field and the text.
func (p *Problem) Error() string { return p.Field + ": " + p.Text }

func problem(field, format string, args ...any) *Problem {
	return &Problem{Field: field, Text: fmt.Sprintf(format, args...)}
}

// Validate returns the first thing that is wrong with the peer, or nil. These are all rules for one
// peer: config reports them on the BGPNeighbor, and the CRD repeats what it can of them.
func (p Peer) Validate() *Problem {
	if p.Name == "" {
		return problem("name", "it is empty; give each neighbor its own")
	}
	for _, check := range []func(Peer) *Problem{Peer.checkPlace, Peer.checkConnects, Peer.checkNumbers, Peer.checkTimes} {
		if problem := check(p); problem != nil {
			return problem
		}
	}
	return nil
}

// checkPlace checks where the peer is.
func (p Peer) checkPlace() *Problem {
	given := 0
	for _, is := range []bool{p.Address.IsValid(), p.Interface != "", p.Prefix.IsValid()} {
		if is {
			given++
		}
	}
	switch {
	case given != 1:
		return problem("address, spec.interface and spec.addressPrefix", "write one of them, to say where the neighbor is")
	case p.Prefix.IsValid():
		return p.checkPrefix()
	case p.Interface != "" && (p.SourceAddress.IsValid() || p.EBGPMultihop != 0 || p.TTLSecurityHops > 1):
		return problem("interface", "a neighbor on an interface is reached by link-local addresses; leave out sourceAddress, ebgpMultihop and ttlSecurityHops above 1")
	case p.Interface != "" && p.NodeNextHop:
		return problem("nextHop", "a neighbor on an interface knows the way to the link-local address only; leave out InternalIP")
	case p.Interface != "":
		return nil
	}
	if problem := checkEnd("address", p.Address); problem != nil || !p.SourceAddress.IsValid() {
		return problem
	}
	if p.SourceAddress.BitLen() != p.Address.BitLen() {
		return problem("sourceAddress", "%s and the address %s are of different families", p.SourceAddress, p.Address)
	}
	return checkEnd("sourceAddress", p.SourceAddress)
}

// checkPrefix checks where the routers are that connect to us, and what they cannot have. GoBGP
// does not tell a router of a prefix that we have restarted, which graceful restart needs.
func (p Peer) checkPrefix() *Problem {
	switch {
	case p.Prefix != p.Prefix.Masked():
		return problem("addressPrefix", "%q is not a prefix without host bits; write one such as 10.0.0.0/24", p.Prefix)
	case p.Prefix.Addr().Is4() && p.Prefix.Bits() < 8, p.Prefix.Addr().Is6() && p.Prefix.Bits() < 32:
		return problem("addressPrefix", "%s is too wide; write the prefix of the routers, /8 or longer (IPv6: /32)", p.Prefix)
	case p.RemoteASN == 0:
		return problem("addressPrefix", "its routers are known by spec.remoteASN; write it, and leave out remoteType")
	case p.SourceAddress.IsValid() || p.GracefulRestart > 0 || p.BFD.Enabled:
		return problem("addressPrefix", "its routers have no sourceAddress, gracefulRestart or bfd; leave these out, or give each router that needs them a BGPNeighbor with its address")
	}
	return checkEnd("addressPrefix", p.Prefix.Addr())
}

// checkEnd checks that an address can be that of an end of a session.
func checkEnd(field string, address netip.Addr) *Problem {
	broadcast := netip.AddrFrom4([4]byte{255, 255, 255, 255})
	switch {
	case address.IsUnspecified() || address.IsMulticast() || address == broadcast:
		return problem(field, "%s is not the address of a router; write a unicast address", address)
	case address.Zone() != "" || address.Is4In6() || address.IsLinkLocalUnicast():
		return problem(field, "%s is link-local or IPv4-mapped; write an address that every node can reach, or the interface instead", address)
	}
	return nil
}

// checkConnects checks what a peer that connects to us cannot have.
func (p Peer) checkConnects() *Problem {
	switch {
	case !p.Listens():
		return nil
	case p.Passive && !p.Address.IsValid():
		return problem("connect", "Accept is for a neighbor with an address: on an interface both sides connect, and with addressPrefix all routers do anyway; leave it out")
	case p.Port != 0 && p.Port != DefaultPort, p.VRF != "",
		p.ConnectRetryTime != 0 && p.ConnectRetryTime != DefaultConnectRetryTime:
		return problem("port, spec.connectRetryTime and spec.vrf", "the neighbor connects to us; leave these out")
	case p.TTLSecurityHops > 0 && p.Covers().Addr().Is6():
		// GoBGP v4.8.0 set the hop limit of its IPv6 listener as if it were one of IPv4; with
		// ours it was not tried.
		return problem("ttlSecurityHops", "it does not work with neighbors that connect to us over IPv6; use their IPv4 addresses, or leave it out")
	}
	return nil
}

// checkNumbers checks the AS numbers, and what depends on them.
func (p Peer) checkNumbers() *Problem {
	switch {
	case (p.RemoteASN == 0) == (p.RemoteType == ""):
		return problem("remoteASN and spec.remoteType", "write one of them, to say which AS the neighbor is in")
	case p.LocalASN == 0 || p.LocalASN == reservedASN || p.RemoteASN == reservedASN:
		return problem(
			"localASN, spec.remoteASN and spec.localASNOverride",
			"%d and %d are not both from 1 to 4294967294",
			p.LocalASN,
			p.RemoteASN,
		)
	case p.EBGPMultihop != 0 && !p.External():
		return problem("ebgpMultihop", "it is for external neighbors, and this one is internal; leave it out")
	case p.EBGPMultihop != 0 && p.TTLSecurityHops != 0:
		return problem("ttlSecurityHops", "it says how far the neighbor is already; leave out ebgpMultihop or ttlSecurityHops")
	}
	return nil
}

// checkTimes checks the times. BGP counts in whole seconds (RFC 4271 section 4.2).
func (p Peer) checkTimes() *Problem {
	for _, t := range []struct {
		field    string
		value    time.Duration
		min, max time.Duration // of a value that is not 0
	}{
		{"holdTime", p.HoldTime, 3 * time.Second, 65535 * time.Second},
		{"keepaliveTime", p.KeepaliveTime, time.Second, 65535 * time.Second},
		{"connectRetryTime", p.ConnectRetryTime, time.Second, 65535 * time.Second},
		{"gracefulRestart.restartTime", p.GracefulRestart, time.Second, 4095 * time.Second},
	} {
		switch {
		case t.value == 0:
		case t.value%time.Second != 0:
			return problem(
				t.field,
				"%s is not in whole seconds; write %s",
				t.value,
				max(time.Second, t.value.Round(time.Second)),
			)
		case t.value < t.min || t.value > t.max:
			return problem(t.field, "%s is outside %s to %s", t.value, t.min, t.max)
		}
	}
	if hold, keepalive, _ := p.Timers(); keepalive >= hold {
		return problem("keepaliveTime", "%s is not below holdTime, %s; one third of it is usual", keepalive, hold)
	}
	return nil
}

// Listens reports whether the peer connects to us.
func (p Peer) Listens() bool { return p.Passive || p.Prefix.IsValid() }

// ByPrefix reports whether this is one router of a prefix.
func (p Peer) ByPrefix() bool { return p.Prefix.IsValid() && p.Address.IsValid() }

// Label tells the peer from all others, and the routers of a prefix from one another.
func (p Peer) Label() string {
	if p.ByPrefix() {
		return p.Name + "/" + p.Address.String()
	}
	return p.Name
}

// Covers is where the peer's packets come from.
func (p Peer) Covers() netip.Prefix {
	if p.Address.IsValid() {
		return netip.PrefixFrom(p.Address.WithZone(""), p.Address.BitLen())
	}
	return p.Prefix
}

// Session is what a session cannot go on without: the peer but for what takes effect without a new
// one.
func (p Peer) Session() Peer {
	p.ConnectRetryTime, p.BFD = 0, BFD{}
	return p
}

// Canonical leaves out what is the default anyway.
func (p Peer) Canonical() Peer {
	hold, keepalive, retry := p.Timers()
	if hold == DefaultHoldTime {
		p.HoldTime = 0
	}
	if keepalive == (hold / 3).Truncate(time.Second) {
		p.KeepaliveTime = 0
	}
	if retry == DefaultConnectRetryTime {
		p.ConnectRetryTime = 0
	}
	if p.Port == DefaultPort {
		p.Port = 0
	}
	if p.IPv4 && p.IPv6 {
		p.IPv4, p.IPv6 = false, false
	}
	if p.BFD.ReceiveInterval == defaultBFDInterval {
		p.BFD.ReceiveInterval = 0
	}
	if p.BFD.TransmitInterval == defaultBFDInterval {
		p.BFD.TransmitInterval = 0
	}
	if p.BFD.Multiplier == defaultBFDMultiplier {
		p.BFD.Multiplier = 0
	}
	return p
}

// External reports whether the session is between two AS.
func (p Peer) External() bool {
	if p.RemoteASN == 0 {
		return p.RemoteType == External
	}
	return p.RemoteASN != p.LocalASN
}

// Expects reports whether the peer may be in that AS.
func (p Peer) Expects(asn uint32) bool {
	if p.RemoteASN == 0 {
		return (asn == p.LocalASN) == (p.RemoteType == Internal)
	}
	return asn == p.RemoteASN
}

// AS is the AS that is expected of the peer, in words.
func (p Peer) AS() string {
	switch {
	case p.RemoteASN != 0:
		return strconv.FormatUint(uint64(p.RemoteASN), 10)
	case p.RemoteType == Internal:
		return fmt.Sprintf("%d (internal)", p.LocalASN)
	}
	return fmt.Sprintf("any but %d (external)", p.LocalASN)
}

// Place is where the peer is.
func (p Peer) Place() string {
	switch {
	case p.Address.IsValid():
		return p.Address.String()
	case p.Prefix.IsValid():
		return p.Prefix.String()
	}
	return p.Interface
}

// reservedASN may not be used (RFC 7300).
const reservedASN = 4294967295

// Timers returns the peer's timers with the defaults filled in, in whole seconds.
func (p Peer) Timers() (hold, keepalive, connectRetry time.Duration) {
	hold, keepalive, connectRetry = p.HoldTime, p.KeepaliveTime, p.ConnectRetryTime
	if hold == 0 {
		hold = DefaultHoldTime
	}
	if keepalive == 0 {
		keepalive = (hold / 3).Truncate(time.Second)
	}
	if connectRetry == 0 {
		connectRetry = DefaultConnectRetryTime
	}
	return hold, keepalive, connectRetry
}

func (p Peer) AddrPort() netip.AddrPort {
	if p.Port == 0 {
		return netip.AddrPortFrom(p.Address, DefaultPort)
	}
	return netip.AddrPortFrom(p.Address, p.Port)
}
