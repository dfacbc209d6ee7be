package bgp

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"time"

	gobgp "github.com/osrg/gobgp/v4/pkg/packet/bgp"
)

// Defaults of a Peer's zero fields.
const (
	DefaultPort             = 179
	DefaultHoldTime         = 90 * time.Second
	DefaultConnectRetryTime = 5 * time.Second
)

// PeerType says in which AS a peer is whose number is not given.
type PeerType string

// The types of peers.
const (
	External PeerType = "External" // any AS but ours
	Internal PeerType = "Internal" // ours
)

// BFD says how a peer is watched (RFC 5880).
type BFD struct {
	Enabled bool
	// ReceiveInterval and TransmitInterval are wishes, see the peer's too; 0: 300 ms.
	ReceiveInterval, TransmitInterval time.Duration
	// Multiplier is after how many of our intervals the peer calls us dead; 0: 3.
	Multiplier uint8
}

// Peer is one configured BGP neighbour. Two equal Peers need no change to the session between them.
type Peer struct {
	// Name identifies the peer in routes, status, metrics and logs. Unique.
	Name string
	// Address is where the session is opened to. Unique among the peers of a driver.
	Address netip.Addr
	// Interface, in place of Address: the peer is the one router on it, found by its IPv6 link-local address.
	Interface string
	// Prefix, in place of Address: every router in it that connects and is in PeerASN is a neighbour, up to 64 at a
	// time. Overlaps no Prefix and holds no Address of another peer.
	Prefix netip.Prefix
	// Passive: the peer at Address connects to us. It needs Config.Listen, as Prefix does.
	Passive bool
	// Port is the peer's TCP port; 0 means 179.
	Port uint16
	// LocalASN and PeerASN are the two ends' AS numbers, 1 to 4294967294. Equal numbers make an iBGP session.
	LocalASN, PeerASN uint32
	// PeerType stands for PeerASN where that is 0.
	PeerType PeerType
	// HoldTime is proposed in the OPEN message; the smaller of both ends' counts (RFC 4271 section 4.2).
	// Whole seconds, 3 s to 65535 s; 0 means 90 s.
	HoldTime time.Duration
	// KeepaliveTime is the interval between KEEPALIVE messages, whole seconds; 0 means a third of HoldTime.
	KeepaliveTime time.Duration
	// ConnectRetryTime is the pause between connection attempts, whole seconds; 0 means 5 s.
	ConnectRetryTime time.Duration
	// EBGPMultihop is the TTL of an eBGP session to a peer that is not on a connected segment; 0 means off.
	EBGPMultihop uint8
	// TTLSecurityHops: only packets with a TTL of 256 less so many, or more, count, since what comes from further away has
	// less (RFC 5082, GTSM); 1 is one hop away. 0 means off.
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
	// Password is the key of TCP MD5 signatures (RFC 2385); empty means none.
	Password string
}

// Validate says what is wrong with the peer, or nil.
func (p Peer) Validate() error {
	if p.Name == "" {
		return errors.New("peer without a name")
	}
	if err := p.validatePlace(); err != nil {
		return err
	}
	switch {
	case p.LocalASN == 0 || p.LocalASN == reservedASN:
		return fmt.Errorf("peer %s: local AS number %d is reserved", p.Name, p.LocalASN)
	case p.PeerASN == 0 && p.PeerType != External && p.PeerType != Internal, p.PeerASN == reservedASN:
		return fmt.Errorf("peer %s: peer AS number %d is reserved", p.Name, p.PeerASN)
	}
	hold, keepalive, retry := p.timers()
	if hold < 3*time.Second || hold > 65535*time.Second {
		return fmt.Errorf("peer %s: hold time %s is outside 3s to 65535s", p.Name, hold)
	}
	for _, t := range []struct {
		name  string
		value time.Duration
	}{{"hold time", p.HoldTime}, {"keepalive time", p.KeepaliveTime}, {"connect retry time", p.ConnectRetryTime}, {"graceful restart time", p.GracefulRestart}} {
		if t.value < 0 || t.value%time.Second != 0 {
			return fmt.Errorf("peer %s: %s %s is not in whole seconds", p.Name, t.name, t.value)
		}
	}
	if keepalive >= hold {
		return fmt.Errorf("peer %s: keepalive time %s is not below the hold time %s", p.Name, keepalive, hold)
	}
	switch {
	case retry > 65535*time.Second:
		return fmt.Errorf("peer %s: connect retry time %s is above 65535s", p.Name, retry)
	case p.GracefulRestart > 4095*time.Second:
		return fmt.Errorf("peer %s: graceful restart time %s is above 4095s", p.Name, p.GracefulRestart)
	case p.TTLSecurityHops > 0 && p.listens() && p.covers().Addr().Is6():
		// GoBGP v4.8.0 sets the hop limit of its IPv6 listener as if it were one of IPv4.
		return fmt.Errorf("peer %s: over IPv6 what answers a connection has not the hop limit 255 that TTL security asks for; connect, or use IPv4", p.Name)
	case p.TTLSecurityHops > 0 && p.EBGPMultihop > 0:
		return fmt.Errorf("peer %s: TTL security says how far the peer is, and multihop is set too", p.Name)
	}
	return nil
}

// validatePlace says what is wrong with where the peer is and who dials, or nil.
func (p Peer) validatePlace() error {
	switch {
	case p.Interface != "" && p.Address.IsValid():
		return fmt.Errorf("peer %s: both an address, %s, and an interface, %s", p.Name, p.Address, p.Interface)
	case p.Prefix.IsValid() && (p.Address.IsValid() || p.Interface != ""):
		return fmt.Errorf("peer %s: both a prefix, %s, and %s", p.Name, p.Prefix, p.place())
	case p.Interface != "" && (p.SourceAddress.IsValid() || p.EBGPMultihop > 0 || p.TTLSecurityHops > 1):
		return fmt.Errorf("peer %s: the session on interface %s is between link-local addresses: it has no source address and no multihop", p.Name, p.Interface)
	case p.Interface != "" && p.Passive:
		return fmt.Errorf("peer %s: on an interface both sides connect: a passive peer has an address", p.Name)
	case p.Prefix.IsValid():
		return p.validatePrefix()
	case p.Interface == "" && (!p.Address.IsValid() || p.Address.IsUnspecified() || p.Address.IsMulticast() || p.Address.Is4In6()):
		return fmt.Errorf("peer %s: %s is not an address to open a session to", p.Name, p.Address)
	case p.Passive && p.VRF != "":
		return fmt.Errorf("peer %s: connections are accepted outside of VRFs, not in %s", p.Name, p.VRF)
	case p.SourceAddress.IsValid() && p.SourceAddress.Is4() != p.Address.Is4():
		return fmt.Errorf("peer %s: source address %s and address %s are of different families", p.Name, p.SourceAddress, p.Address)
	}
	return nil
}

// validatePrefix says what a peer with a Prefix cannot have. GoBGP does not pass on to a neighbour by prefix that we
// have restarted, which graceful restart needs.
func (p Peer) validatePrefix() error {
	switch {
	case p.Prefix != p.Prefix.Masked():
		return fmt.Errorf("peer %s: %s is not a prefix; %s is", p.Name, p.Prefix, p.Prefix.Masked())
	case p.Prefix.Addr().Is4In6() || p.Prefix.Addr().IsMulticast() || p.Prefix.Addr().IsLinkLocalUnicast():
		return fmt.Errorf("peer %s: %s is not a prefix of routers' addresses", p.Name, p.Prefix)
	case p.PeerASN == 0:
		return fmt.Errorf("peer %s: routers of %s are known by their AS number only, and there is none", p.Name, p.Prefix)
	case p.VRF != "" || p.SourceAddress.IsValid() || p.GracefulRestart > 0 || p.BFD.Enabled:
		return fmt.Errorf("peer %s: routers by prefix have no VRF, source address, graceful restart or BFD", p.Name)
	}
	return nil
}

// listens tells whether the peer connects to us.
func (p Peer) listens() bool { return p.Passive || p.Prefix.IsValid() }

// byPrefix tells whether this is one router of a prefix.
func (p Peer) byPrefix() bool { return p.Prefix.IsValid() && p.Address.IsValid() }

// label tells the peer from all others, and the routers of a prefix from one another.
func (p Peer) label() string {
	if p.byPrefix() {
		return p.Name + "/" + p.Address.String()
	}
	return p.Name
}

// covers is where the peer's packets come from.
func (p Peer) covers() netip.Prefix {
	if p.Address.IsValid() {
		return netip.PrefixFrom(p.Address.WithZone(""), p.Address.BitLen())
	}
	return p.Prefix
}

// session is what a session cannot go on without: the peer but for what takes effect without a new one.
func (p Peer) session() Peer {
	p.ConnectRetryTime, p.BFD = 0, BFD{}
	return p
}

// external tells whether the session is between two AS.
func (p Peer) external() bool {
	if p.PeerASN == 0 {
		return p.PeerType == External
	}
	return p.PeerASN != p.LocalASN
}

// expects tells whether the peer may be in that AS.
func (p Peer) expects(asn uint32) bool {
	if p.PeerASN == 0 {
		return (asn == p.LocalASN) == (p.PeerType == Internal)
	}
	return asn == p.PeerASN
}

// as is the AS that is expected of the peer, in words.
func (p Peer) as() string {
	switch {
	case p.PeerASN != 0:
		return strconv.FormatUint(uint64(p.PeerASN), 10)
	case p.PeerType == Internal:
		return fmt.Sprintf("%d (internal)", p.LocalASN)
	}
	return fmt.Sprintf("any but %d (external)", p.LocalASN)
}

// place is where the peer is.
func (p Peer) place() string {
	switch {
	case p.Address.IsValid():
		return p.Address.String()
	case p.Prefix.IsValid():
		return p.Prefix.String()
	}
	return p.Interface
}

// families returns those that are announced.
func (p Peer) families() []gobgp.Family {
	switch {
	case p.IPv4 == p.IPv6:
		return families[:]
	case p.IPv4:
		return families[:1]
	}
	return families[1:]
}

// reservedASN may not be used (RFC 7300).
const reservedASN = 4294967295

// timers returns the peer's timers with the defaults filled in, in whole seconds.
func (p Peer) timers() (hold, keepalive, connectRetry time.Duration) {
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

func (p Peer) addrPort() netip.AddrPort {
	if p.Port == 0 {
		return netip.AddrPortFrom(p.Address, DefaultPort)
	}
	return netip.AddrPortFrom(p.Address, p.Port)
}
