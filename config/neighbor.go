package config

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/berth-lb/berth/config/v1alpha1"
)

// neighbor compiles a BGPNeighbor. One of which anything is wrong is not in effect: a session
// without its password, say, is not what was asked for.
func (c *compiler) neighbor(o *v1alpha1.BGPNeighbor) {
	key := Key{"BGPNeighbor", o.Name}
	c.problems[key] = nil
	spec := o.Spec
	n := &Neighbor{
		Name:            o.Name,
		Interface:       spec.Interface,
		Accept:          spec.Connect == v1alpha1.ConnectAccept,
		Port:            cmp.Or(uint16(spec.Port), 179),
		VRF:             spec.VRF,
		LocalASN:        uint32(cmp.Or(spec.LocalASNOverride, spec.LocalASN)),
		RemoteASN:       uint32(spec.RemoteASN),
		EBGPMultihop:    uint8(spec.EBGPMultihop),
		TTLSecurityHops: uint8(spec.TTLSecurityHops),
		IPv4:            len(spec.Families) == 0 || slices.Contains(spec.Families, v1alpha1.IPv4),
		IPv6:            len(spec.Families) == 0 || slices.Contains(spec.Families, v1alpha1.IPv6),
		labels:          o.Labels,
	}
	if !c.neighborPlace(key, spec, n) || !c.neighborConnects(key, spec, n) || !c.neighborNumbers(key, spec, n) ||
		!c.neighborTimes(key, spec, n) || !c.neighborPassword(key, spec, n) {
		return
	}
	nodes, ok := c.selector(key, "nodeSelector", spec.NodeSelector, noEffect)
	if !ok {
		return
	}
	n.Nodes = nodes
	for _, other := range c.snapshot.Neighbors {
		if !other.Nodes.Empty() {
			continue
		}
		if overlapping(n, other) {
			c.report(key, ReasonConflict, "spec.%s overlaps the older BGPNeighbor %s, which has %s, on every node: a router would belong to both; change or delete one of the two", n.whereabouts(), other.Name, other.whereabouts())
			return
		}
		if other.place() == n.place() {
			c.report(key, ReasonConflict, "spec.%s is that of the older BGPNeighbor %s already, on every node; change or delete one of the two", n.whereabouts(), other.Name)
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

// neighborPlace checks where the neighbor is, and reports whether that is valid.
func (c *compiler) neighborPlace(key Key, spec v1alpha1.BGPNeighborSpec, n *Neighbor) bool {
	var err error
	given := 0
	for _, field := range []string{spec.Address, spec.Interface, spec.AddressPrefix} {
		if field != "" {
			given++
		}
	}
	switch {
	case given != 1:
		c.report(key, ReasonInvalidNeighbor, "spec.address, spec.interface and spec.addressPrefix: write one of them, to say where the neighbor is")
		return false
	case spec.AddressPrefix != "":
		return c.neighborPrefix(key, spec, n)
	case spec.Interface != "":
		if spec.SourceAddress != "" || spec.EBGPMultihop != 0 || spec.TTLSecurityHops > 1 {
			c.report(key, ReasonInvalidNeighbor, "spec.interface: a neighbor on an interface is reached by link-local addresses; leave out sourceAddress, ebgpMultihop and ttlSecurityHops above 1")
			return false
		}
		return true
	}
	if n.Address, err = netip.ParseAddr(spec.Address); err != nil {
		c.report(key, ReasonInvalidNeighbor, "spec.address: %q is not an IP address; write one such as 192.0.2.1", spec.Address)
		return false
	}
	if !c.router(key, "address", n.Address) {
		return false
	}
	if spec.SourceAddress == "" {
		return true
	}
	n.SourceAddress, err = netip.ParseAddr(spec.SourceAddress)
	switch {
	case err != nil:
		c.report(key, ReasonInvalidNeighbor, "spec.sourceAddress: %q is not an IP address; write one of the nodes', such as 192.0.2.11", spec.SourceAddress)
		return false
	case n.SourceAddress.BitLen() != n.Address.BitLen():
		c.report(key, ReasonInvalidNeighbor, "spec.sourceAddress: %s and the address %s are of different families", n.SourceAddress, n.Address)
		return false
	}
	return c.router(key, "sourceAddress", n.SourceAddress)
}

// neighborPrefix checks where the routers are that connect to us, and what they cannot have.
func (c *compiler) neighborPrefix(key Key, spec v1alpha1.BGPNeighborSpec, n *Neighbor) bool {
	prefix, err := netip.ParsePrefix(spec.AddressPrefix)
	switch {
	case err != nil || prefix != prefix.Masked():
		c.report(key, ReasonInvalidNeighbor, "spec.addressPrefix: %q is not a prefix without host bits; write one such as 10.0.0.0/24", spec.AddressPrefix)
	case prefix.Bits() == 0:
		c.report(key, ReasonInvalidNeighbor, "spec.addressPrefix: %s is every address; write the prefix of the routers", prefix)
	case spec.RemoteASN == 0:
		c.report(key, ReasonInvalidNeighbor, "spec.addressPrefix: its routers are known by spec.remoteASN; write it, and leave out remoteType")
	case spec.SourceAddress != "" || spec.GracefulRestart != nil || spec.BFD != nil:
		c.report(key, ReasonInvalidNeighbor, "spec.addressPrefix: its routers have no sourceAddress, gracefulRestart or bfd; leave these out, or give each router that needs them a BGPNeighbor with its address")
	default:
		n.Prefix = prefix
		return c.router(key, "addressPrefix", prefix.Addr())
	}
	return false
}

// neighborConnects checks what a neighbor that connects to us cannot have.
func (c *compiler) neighborConnects(key Key, spec v1alpha1.BGPNeighborSpec, n *Neighbor) bool {
	over := n.Address
	if n.Prefix.IsValid() {
		over = n.Prefix.Addr()
	}
	retry, _ := spec.ConnectRetryTime.Parse() // neighborTimes reports it
	switch {
	case !n.Accept && !n.Prefix.IsValid():
		return true
	case n.Accept && spec.Address == "":
		c.report(key, ReasonInvalidNeighbor, "spec.connect: Accept is for a neighbor with an address: on an interface both sides connect, and with addressPrefix all routers do anyway; leave it out")
	case n.Port != 179 || retry != 0 && retry != defaultConnectRetryTime || spec.VRF != "":
		c.report(key, ReasonInvalidNeighbor, "spec.port, spec.connectRetryTime and spec.vrf: the neighbor connects to us; leave these out")
	case spec.TTLSecurityHops > 0 && over.Is6():
		c.report(key, ReasonInvalidNeighbor, "spec.ttlSecurityHops: it does not work with neighbors that connect to us over IPv6; use their IPv4 addresses, or leave it out")
	default:
		return true
	}
	return false
}

// overlapping reports whether a router could belong to both neighbors, because one of them has a prefix.
func overlapping(a, b *Neighbor) bool {
	if !a.Prefix.IsValid() && !b.Prefix.IsValid() || a.Interface != "" || b.Interface != "" {
		return false
	}
	return a.covers().Overlaps(b.covers())
}

// covers is where the neighbor's packets come from; of no meaning for one on an interface.
func (n *Neighbor) covers() netip.Prefix {
	if n.Prefix.IsValid() {
		return n.Prefix
	}
	return netip.PrefixFrom(n.Address, n.Address.BitLen())
}

// router reports whether an address can be that of an end of a session.
func (c *compiler) router(key Key, field string, address netip.Addr) bool {
	switch {
	case !unicast(address) || address.IsLoopback():
		c.report(key, ReasonInvalidNeighbor, "spec.%s: %s is not the address of a router; write a unicast address", field, address)
		return false
	case address.Zone() != "" || address.Is4In6() || address.IsLinkLocalUnicast():
		c.report(key, ReasonInvalidNeighbor, "spec.%s: %s is link-local or IPv4-mapped; write an address that every node can reach, or the interface instead", field, address)
		return false
	}
	return true
}

// neighborNumbers checks the AS numbers and what depends on them.
func (c *compiler) neighborNumbers(key Key, spec v1alpha1.BGPNeighborSpec, n *Neighbor) bool {
	n.External = spec.RemoteType == v1alpha1.RemoteExternal || spec.RemoteASN != 0 && n.RemoteASN != n.LocalASN
	switch {
	case (spec.RemoteASN == 0) == (spec.RemoteType == ""):
		c.report(key, ReasonInvalidNeighbor, "spec.remoteASN and spec.remoteType: write one of them, to say which AS the neighbor is in")
	case !asn(spec.LocalASN) || spec.RemoteASN != 0 && !asn(spec.RemoteASN) || spec.LocalASNOverride != 0 && !asn(spec.LocalASNOverride):
		c.report(key, ReasonInvalidNeighbor, "spec.localASN %d, spec.remoteASN %d and spec.localASNOverride %d are from 1 to 4294967294", spec.LocalASN, spec.RemoteASN, spec.LocalASNOverride)
	case spec.EBGPMultihop != 0 && !n.External:
		c.report(key, ReasonInvalidNeighbor, "spec.ebgpMultihop: it is for external neighbors, and this one is internal; leave it out")
	case spec.EBGPMultihop != 0 && spec.TTLSecurityHops != 0:
		c.report(key, ReasonInvalidNeighbor, "spec.ttlSecurityHops: it says how far the neighbor is already; leave out ebgpMultihop or ttlSecurityHops")
	default:
		return true
	}
	return false
}

// Times of a neighbor that says nothing of them; they are the defaults of the CRD.
const (
	defaultHoldTime         = 90 * time.Second
	defaultConnectRetryTime = 5 * time.Second
	defaultRestartTime      = 2 * time.Minute
)

// neighborTimes compiles the times, and reports whether they are valid.
func (c *compiler) neighborTimes(key Key, spec v1alpha1.BGPNeighborSpec, n *Neighbor) bool {
	before := len(c.problems[key])
	get := func(field string, d v1alpha1.Duration, preset time.Duration) time.Duration {
		return c.duration(key, ReasonInvalidNeighbor, field, d, preset)
	}
	n.HoldTime = get("holdTime", spec.HoldTime, defaultHoldTime)
	n.KeepaliveTime = get("keepaliveTime", spec.KeepaliveTime, 0)
	n.ConnectRetryTime = get("connectRetryTime", spec.ConnectRetryTime, defaultConnectRetryTime)
	whole := []struct {
		field string
		time.Duration
	}{{"holdTime", n.HoldTime}, {"keepaliveTime", n.KeepaliveTime}, {"connectRetryTime", n.ConnectRetryTime}}
	if g := spec.GracefulRestart; g != nil {
		n.GracefulRestart = get("gracefulRestart.restartTime", g.RestartTime, defaultRestartTime)
		whole = append(whole, struct {
			field string
			time.Duration
		}{"gracefulRestart.restartTime", n.GracefulRestart})
	}
	if b := spec.BFD; b != nil {
		n.BFD = &BFD{
			ReceiveInterval:  get("bfd.receiveInterval", b.ReceiveInterval, 0),
			TransmitInterval: get("bfd.transmitInterval", b.TransmitInterval, 0),
			Multiplier:       uint8(b.Multiplier),
		}
	}
	switch {
	case len(c.problems[key]) > before:
		return false
	case n.KeepaliveTime >= n.HoldTime:
		c.report(key, ReasonInvalidNeighbor, "spec.keepaliveTime: %s is not below holdTime, %s; one third of it is usual", n.KeepaliveTime, n.HoldTime)
		return false
	}
	for _, t := range whole {
		if t.Duration%time.Second != 0 {
			c.report(key, ReasonInvalidNeighbor, "spec.%s: %s is not in whole seconds; write %s", t.field, t.Duration, max(time.Second, t.Round(time.Second)))
			return false
		}
	}
	return true
}

// longestPassword is the kernel's limit, TCP_MD5SIG_MAXKEYLEN.
const longestPassword = 80

// neighborPassword finds the password, if there is to be one.
func (c *compiler) neighborPassword(key Key, spec v1alpha1.BGPNeighborSpec, n *Neighbor) bool {
	auth := spec.Authentication
	if auth == (v1alpha1.Authentication{}) {
		return true
	}
	name := auth.TCPMD5.SecretName
	password, exists := c.passwords[name]
	switch {
	case auth.Type != v1alpha1.AuthenticationTCPMD5 || name == "":
		c.report(key, ReasonInvalidNeighbor, "spec.authentication: %q is not a type with its settings; write type: TCPMD5 and tcpMD5.secretName", string(auth.Type))
	case !exists:
		c.report(key, ReasonMissingSecret, "spec.authentication.tcpMD5.secretName: there is no Secret %q of type kubernetes.io/basic-auth in Berth's namespace; create it there, with the key \"password\"", name)
	case password == "" || len(password) > longestPassword:
		c.report(key, ReasonMissingSecret, "spec.authentication.tcpMD5.secretName: the value of \"password\" in Secret %q has %d bytes; write one of 1 to %d", name, len(password), longestPassword)
	default:
		n.Password = password
		return true
	}
	return false
}

func asn(n int64) bool { return n >= 1 && n <= 4294967294 }
