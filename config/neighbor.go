package config

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/berth-lb/berth/bgp/peer"
	"github.com/berth-lb/berth/config/v1alpha1"
)

// neighbor compiles a BGPNeighbor. If anything is wrong with it, it is not in effect: a session
// without its password, for example, is not what was asked for.
func (c *compiler) neighbor(o *v1alpha1.BGPNeighbor) {
	key := c.begin("BGPNeighbor", o)
	spec := o.Spec
	n := &Neighbor{labels: o.Labels, Peer: peer.Peer{
		Name:            o.Name,
		Interface:       spec.Interface,
		Passive:         spec.Connect == v1alpha1.ConnectAccept,
		Port:            uint16(spec.Port),
		VRF:             spec.VRF,
		NodeNextHop:     spec.NextHop == v1alpha1.NextHopInternalIP,
		LocalASN:        uint32(cmp.Or(spec.LocalASNOverride, spec.LocalASN)),
		RemoteASN:       uint32(spec.RemoteASN),
		RemoteType:      peer.Type(spec.RemoteType),
		EBGPMultihop:    uint8(spec.EBGPMultihop),
		TTLSecurityHops: uint8(spec.TTLSecurityHops),
		IPv4:            len(spec.Families) == 0 || slices.Contains(spec.Families, v1alpha1.IPv4),
		IPv6:            len(spec.Families) == 0 || slices.Contains(spec.Families, v1alpha1.IPv6),
	}}
	if !c.neighborAddresses(key, spec, n) || !c.neighborNumbers(key, spec) || !c.neighborTimes(key, spec, n) {
		return
	}
	if wrong := n.Validate(); wrong != nil {
		c.report(key, ReasonInvalidNeighbor, "spec.%s: %s", wrong.Field, wrong.Text)
		return
	}
	if !c.neighborElsewhere(key, n) || !c.neighborPassword(key, spec, n) {
		return
	}
	c.neighborBFDKey(key, spec, n)
	nodes, ok := c.selector(key, "nodeSelector", spec.NodeSelector, noEffect)
	if !ok {
		return
	}
	n.Nodes, n.Peer = nodes, n.Canonical()
	for _, other := range c.snapshot.Neighbors {
		if !other.Nodes.Empty() {
			continue
		}
		if overlapping(n, other) {
			c.report(
				key,
				ReasonConflict,
				"spec.%s overlaps %s, which has %s, on every node: a router would belong to both; change or delete one of the two",
				n.whereabouts(),
				c.elder(Key{"BGPNeighbor", other.Name}, key),
				other.whereabouts(),
			)
			return
		}
		if other.place() == n.place() {
			c.report(
				key,
				ReasonConflict,
				"spec.%s is that of %s already, on every node; change or delete one of the two",
				n.whereabouts(),
				c.elder(Key{"BGPNeighbor", other.Name}, key),
			)
			return
		}
	}
	c.snapshot.Neighbors = append(c.snapshot.Neighbors, n)
}

// whereabouts names the field that says where the neighbor is.
func (n *Neighbor) whereabouts() string {
	switch {
	case n.Interface != "":
		return "interface: " + n.Interface
	case n.Prefix.IsValid():
		return "addressPrefix: " + n.Prefix.String()
	}
	return "address: " + n.Address.String()
}

// neighborAddresses parses the place of the neighbor and the source address. peer.Peer.Validate
// reports what is missing, and what is too much.
func (c *compiler) neighborAddresses(key Key, spec v1alpha1.BGPNeighborSpec, n *Neighbor) bool {
	var err error
	if spec.Address != "" {
		if n.Address, err = netip.ParseAddr(spec.Address); err != nil {
			c.report(
				key,
				ReasonInvalidNeighbor,
				"spec.address: %q is not an IP address; write one such as 192.0.2.1",
				spec.Address,
			)
			return false
		}
	}
	if spec.AddressPrefix != "" {
		if n.Prefix, err = netip.ParsePrefix(spec.AddressPrefix); err != nil {
			c.report(
				key,
				ReasonInvalidNeighbor,
				"spec.addressPrefix: %q is not a prefix without host bits; write one such as 10.0.0.0/24",
				spec.AddressPrefix,
			)
			return false
		}
	}
	if spec.SourceAddress != "" {
		if n.SourceAddress, err = netip.ParseAddr(spec.SourceAddress); err != nil {
			c.report(
				key,
				ReasonInvalidNeighbor,
				"spec.sourceAddress: %q is not an IP address; write one of the nodes', such as 192.0.2.11",
				spec.SourceAddress,
			)
			return false
		}
	}
	return true
}

// neighborElsewhere checks that no end of the session is a loopback address, which every node has.
func (c *compiler) neighborElsewhere(key Key, n *Neighbor) bool {
	for _, end := range []struct {
		field   string
		address netip.Addr
	}{{"address", n.Address}, {"sourceAddress", n.SourceAddress}, {"addressPrefix", n.Prefix.Addr()}} {
		if end.address.IsLoopback() {
			c.report(
				key,
				ReasonInvalidNeighbor,
				"spec.%s: %s is not the address of a router; write a unicast address",
				end.field,
				end.address,
			)
			return false
		}
	}
	return true
}

// neighborNumbers checks the AS numbers, before they are cut to 32 bits.
func (c *compiler) neighborNumbers(key Key, spec v1alpha1.BGPNeighborSpec) bool {
	valid := func(n int64) bool { return n >= 1 && n <= 4294967294 }
	override := spec.LocalASNOverride
	switch {
	case !valid(spec.LocalASN) || spec.RemoteASN != 0 && !valid(spec.RemoteASN) || override != 0 && !valid(override):
		c.report(key, ReasonInvalidNeighbor,
			"spec.localASN %d, spec.remoteASN %d and spec.localASNOverride %d are from 1 to 4294967294",
			spec.LocalASN, spec.RemoteASN, override)
	case override == spec.LocalASN:
		c.report(
			key,
			ReasonInvalidNeighbor,
			"spec.localASNOverride: %d is localASN; write the other number that the neighbor knows, or leave it out",
			override,
		)
	case override != 0 && spec.RemoteType == v1alpha1.RemoteInternal:
		c.report(key, ReasonInvalidNeighbor,
			"spec.localASNOverride is for external neighbors; leave it out, or write remoteType: External")
	default:
		return true
	}
	return false
}

// overlapping reports whether a router could belong to both neighbors because one of them has a
// prefix.
func overlapping(a, b *Neighbor) bool {
	if !a.Prefix.IsValid() && !b.Prefix.IsValid() || a.Interface != "" || b.Interface != "" {
		return false
	}
	return a.Covers().Overlaps(b.Covers())
}

// defaultRestartTime is the default of the CRD.
const defaultRestartTime = 2 * time.Minute

// neighborTimes parses the times, and reports whether they are valid.
func (c *compiler) neighborTimes(key Key, spec v1alpha1.BGPNeighborSpec, n *Neighbor) bool {
	before := len(c.problems[key])
	get := func(field string, d v1alpha1.Duration, preset time.Duration) time.Duration {
		return c.duration(key, ReasonInvalidNeighbor, field, d, preset)
	}
	n.HoldTime = get("holdTime", spec.HoldTime, peer.DefaultHoldTime)
	n.KeepaliveTime = get("keepaliveTime", spec.KeepaliveTime, 0)
	n.ConnectRetryTime = get("connectRetryTime", spec.ConnectRetryTime, peer.DefaultConnectRetryTime)
	if g := spec.GracefulRestart; g != nil {
		n.GracefulRestart = get("gracefulRestart.restartTime", g.RestartTime, defaultRestartTime)
	}
	if b := spec.BFD; b != nil {
		n.BFD = peer.BFD{
			Enabled:          true,
			ReceiveInterval:  get("bfd.receiveInterval", b.ReceiveInterval, 0),
			TransmitInterval: get("bfd.transmitInterval", b.TransmitInterval, 0),
			Multiplier:       uint8(b.Multiplier),
		}
	}
	return len(c.problems[key]) == before
}

// neighborPassword finds the password if there should be one.
func (c *compiler) neighborPassword(key Key, spec v1alpha1.BGPNeighborSpec, n *Neighbor) bool {
	auth := spec.Authentication
	if auth == (v1alpha1.Authentication{}) {
		return true
	}
	name := auth.TCPMD5.SecretName
	if auth.Type != v1alpha1.AuthenticationTCPMD5 || name == "" {
		c.report(
			key,
			ReasonInvalidNeighbor,
			"spec.authentication: %q is not a type with its settings; write type: TCPMD5 and tcpMD5.secretName",
			string(auth.Type),
		)
	} else {
		n.Password = c.secret(key, "authentication.tcpMD5.secretName", name, longestPassword, withoutPassword)
	}
	if n.Password == "" {
		n.Password = c.neighborBefore(n.Name).Password
	}
	return n.Password != ""
}

// neighborBFDKey finds the key of BFD if there should be one. Without it the path is not watched,
// and the session does not wait for that.
func (c *compiler) neighborBFDKey(key Key, spec v1alpha1.BGPNeighborSpec, n *Neighbor) {
	if spec.BFD == nil || spec.BFD.Authentication == (v1alpha1.BFDAuthentication{}) {
		return
	}
	auth := spec.BFD.Authentication
	n.BFD.Key = peer.BFDKey{Meticulous: auth.Type == v1alpha1.BFDMeticulousKeyedSHA1, ID: defaultBFDKeyID}
	if auth.KeyID != nil {
		n.BFD.Key.ID = uint8(*auth.KeyID)
	}
	if auth.Type != v1alpha1.BFDKeyedSHA1 && auth.Type != v1alpha1.BFDMeticulousKeyedSHA1 {
		c.report(
			key,
			ReasonInvalidNeighbor,
			"spec.bfd.authentication.type: %q is not a type; write KeyedSHA1 or MeticulousKeyedSHA1",
			string(auth.Type),
		)
	} else {
		n.BFD.Key.Text = c.secret(key, "bfd.authentication.secretName", auth.SecretName, longestBFDKey, withoutBFDKey)
	}
	if n.BFD.Key.Text == "" {
		n.BFD.Key = c.neighborBefore(n.Name).BFD.Key
	}
	if n.BFD.Key.Text == "" {
		n.BFD = peer.BFD{}
	}
}

// secret returns the password in a Secret; empty: there is none that can be used, which is
// reported. A final newline is no part of it: many an editor and an echo add one, and a router that
// has none drops what is signed with it without a word.
func (c *compiler) secret(key Key, field, name string, longest int, without string) string {
	password, exists := c.passwords[name]
	password = strings.TrimSuffix(strings.TrimSuffix(password, "\n"), "\r")
	switch {
	case !exists:
		c.report(
			key,
			ReasonMissingSecret,
			"spec.%s: there is no Secret %q of type kubernetes.io/basic-auth in Berth's namespace; create it there, with the key \"password\"; %s",
			field,
			name,
			without,
		)
	case password == "" || len(password) > longest:
		c.report(
			key,
			ReasonMissingSecret,
			"spec.%s: the value of \"password\" in Secret %q has %d bytes; write one of 1 to %d; %s",
			field,
			name,
			len(password),
			longest,
			without,
		)
	default:
		return password
	}
	return ""
}

const (
	// longestPassword is the kernel's limit, TCP_MD5SIG_MAXKEYLEN.
	longestPassword = 80
	// longestBFDKey is that of RFC 5880 section 6.7.4.
	longestBFDKey = 20
	// defaultBFDKeyID is the default of spec.bfd.authentication.keyID.
	defaultBFDKeyID = 1

	// withoutPassword is what happens to sessions as long as there is no usable password.
	withoutPassword = "until then speakers that knew a password go on with it, and others have no session"
	// withoutBFDKey is what happens to BFD as long as there is no usable key.
	withoutBFDKey = "until then speakers that knew a key go on with it, and others have the session without BFD"
)

// neighborBefore returns the BGPNeighbor that is in effect.
func (c *compiler) neighborBefore(name string) *Neighbor {
	if c.before != nil {
		for _, n := range c.before.Neighbors {
			if n.Name == name {
				return n
			}
		}
	}
	return &Neighbor{}
}
