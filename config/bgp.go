package config

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/bgp/community"
	"github.com/berth-lb/berth/config/v1alpha1"
)

// peer compiles a BGPPeer. One of which anything is wrong is not in effect: a session
// without its password, say, is not what was asked for.
func (c *compiler) peer(o *v1alpha1.BGPPeer) {
	key := Key{"BGPPeer", o.Name}
	c.problems[key] = nil
	spec := o.Spec
	peer := &Peer{
		Name: o.Name, Interface: spec.Interface, Passive: spec.Passive, Port: cmp.Or(uint16(spec.Port), 179), VRF: spec.VRF,
		LocalASN: uint32(cmp.Or(spec.LocalASOverride, spec.LocalASN)), PeerASN: uint32(spec.PeerASN),
		HoldTime: duration(spec.HoldTime), KeepaliveTime: duration(spec.KeepaliveTime), ConnectRetryTime: duration(spec.ConnectRetryTime),
		TTLSecurity: spec.TTLSecurity,
		IPv4:        len(spec.Families) == 0 || slices.Contains(spec.Families, v1alpha1.IPv4),
		IPv6:        len(spec.Families) == 0 || slices.Contains(spec.Families, v1alpha1.IPv6),
	}
	if spec.EBGPMultihop != nil {
		peer.EBGPMultihop = uint8(*spec.EBGPMultihop)
	}
	if spec.GracefulRestart != nil {
		peer.GracefulRestart = cmp.Or(duration(spec.GracefulRestart.RestartTime), 120*time.Second)
	}
	if b := spec.BFD; b != nil {
		peer.BFD = &BFD{duration(b.ReceiveInterval), duration(b.TransmitInterval), uint8(b.Multiplier)}
	}
	if !c.peerAddresses(key, spec, peer) || !c.peerConnects(key, spec, peer) || !c.peerNumbers(key, spec, peer) || !c.peerTimes(key, spec) || !c.peerPassword(key, spec, peer) {
		return
	}
	nodes, ok := c.selectors(key, "nodeSelectors", spec.NodeSelectors)
	if !ok {
		return
	}
	peer.Nodes = nodes
	for _, other := range c.snapshot.Peers {
		if len(other.Nodes) > 0 {
			continue
		}
		if overlapping(peer, other) {
			c.report(key, ReasonConflict, "spec.%s overlaps the older BGPPeer %s, which has %s, on every node: a router would belong to both; change or delete one of the two", peer.whereabouts(), other.Name, other.whereabouts())
			return
		}
		if other.place() == peer.place() {
			c.report(key, ReasonConflict, "spec.%s is that of the older BGPPeer %s already, on every node; change or delete one of the two", peer.whereabouts(), other.Name)
			return
		}
	}
	c.snapshot.Peers = append(c.snapshot.Peers, peer)
}

// whereabouts names the field that says where the peer is.
func (p *Peer) whereabouts() string {
	switch {
	case p.Interface != "":
		return "interface: " + p.Interface
	case p.Prefix.IsValid():
		return "addressPrefix: " + p.Prefix.String()
	}
	return "address: " + p.Address.String()
}

// peerAddresses checks where the peer is, and reports whether that is valid.
func (c *compiler) peerAddresses(key Key, spec v1alpha1.BGPPeerSpec, peer *Peer) bool {
	var err error
	given := 0
	for _, field := range []string{spec.Address, spec.Interface, spec.AddressPrefix} {
		if field != "" {
			given++
		}
	}
	switch {
	case given != 1:
		c.report(key, ReasonInvalidPeer, "spec.address, spec.interface and spec.addressPrefix: one of them says where the peer is")
		return false
	case spec.AddressPrefix != "":
		return c.peerPrefix(key, spec, peer)
	case spec.Interface != "":
		if spec.SourceAddress != "" || spec.EBGPMultihop != nil {
			c.report(key, ReasonInvalidPeer, "spec.interface: a peer on an interface is reached by link-local addresses; leave out sourceAddress and ebgpMultihop")
			return false
		}
		return true
	}
	if peer.Address, err = netip.ParseAddr(spec.Address); err != nil {
		c.report(key, ReasonInvalidPeer, "spec.address: %q is no IP address; write one such as 192.0.2.1", spec.Address)
		return false
	}
	if !c.router(key, "address", peer.Address) {
		return false
	}
	if spec.SourceAddress == "" {
		return true
	}
	peer.SourceAddress, err = netip.ParseAddr(spec.SourceAddress)
	switch {
	case err != nil:
		c.report(key, ReasonInvalidPeer, "spec.sourceAddress: %q is no IP address; write one of the nodes', such as 192.0.2.11", spec.SourceAddress)
		return false
	case peer.SourceAddress.BitLen() != peer.Address.BitLen():
		c.report(key, ReasonInvalidPeer, "spec.sourceAddress: %s and the address %s are of different families", peer.SourceAddress, peer.Address)
		return false
	}
	return c.router(key, "sourceAddress", peer.SourceAddress)
}

// peerPrefix checks where the routers are that connect to us, and what they cannot have.
func (c *compiler) peerPrefix(key Key, spec v1alpha1.BGPPeerSpec, peer *Peer) bool {
	prefix, err := netip.ParsePrefix(spec.AddressPrefix)
	switch {
	case err != nil || prefix != prefix.Masked():
		c.report(key, ReasonInvalidPeer, "spec.addressPrefix: %q is no prefix without host bits; write one such as 10.0.0.0/24", spec.AddressPrefix)
	case prefix.Bits() == 0:
		c.report(key, ReasonInvalidPeer, "spec.addressPrefix: %s is every address; write the prefix of the routers", prefix)
	case spec.PeerASN == 0:
		c.report(key, ReasonInvalidPeer, "spec.addressPrefix: its routers are known by spec.peerASN; give it, and leave out peerType")
	case spec.SourceAddress != "" || spec.GracefulRestart != nil || spec.BFD != nil:
		c.report(key, ReasonInvalidPeer, "spec.addressPrefix: its routers have no sourceAddress, gracefulRestart or bfd; leave these out, or give each router that needs them a BGPPeer with its address")
	default:
		peer.Prefix = prefix
		return c.router(key, "addressPrefix", prefix.Addr())
	}
	return false
}

// peerConnects checks what a peer that connects to us cannot have.
func (c *compiler) peerConnects(key Key, spec v1alpha1.BGPPeerSpec, peer *Peer) bool {
	over := peer.Address
	if peer.Prefix.IsValid() {
		over = peer.Prefix.Addr()
	}
	switch {
	case !spec.Passive && !peer.Prefix.IsValid():
		return true
	case spec.Passive && spec.Address == "":
		c.report(key, ReasonInvalidPeer, "spec.passive: it is for a peer with an address: on an interface both sides connect, and with addressPrefix all routers do anyway; leave it out")
	case spec.Port != 0 && spec.Port != 179 || spec.ConnectRetryTime != nil || spec.VRF != "":
		c.report(key, ReasonInvalidPeer, "spec.port, spec.connectRetryTime and spec.vrf: the peer connects to us; leave these out")
	case spec.TTLSecurity && over.Is6():
		c.report(key, ReasonInvalidPeer, "spec.ttlSecurity: it does not work with peers that connect to us over IPv6; use their IPv4 addresses, or leave it out")
	default:
		return true
	}
	return false
}

// overlapping tells whether a router could belong to both peers, because one of them has a prefix.
func overlapping(a, b *Peer) bool {
	if !a.Prefix.IsValid() && !b.Prefix.IsValid() || a.Interface != "" || b.Interface != "" {
		return false
	}
	return a.covers().Overlaps(b.covers())
}

// covers is where the peer's packets come from; of no meaning for one on an interface.
func (p *Peer) covers() netip.Prefix {
	if p.Prefix.IsValid() {
		return p.Prefix
	}
	return netip.PrefixFrom(p.Address, p.Address.BitLen())
}

// router reports whether an address can be that of an end of a session.
func (c *compiler) router(key Key, field string, address netip.Addr) bool {
	switch {
	case !unicast(address) || address.IsLoopback():
		c.report(key, ReasonInvalidPeer, "spec.%s: %s is not the address of a router; write a unicast address", field, address)
		return false
	case address.Zone() != "" || address.Is4In6() || address.IsLinkLocalUnicast():
		c.report(key, ReasonInvalidPeer, "spec.%s: %s is link-local or IPv4-mapped; write an address that every node can reach, or the interface instead", field, address)
		return false
	}
	return true
}

// peerNumbers checks the AS numbers and what depends on them.
func (c *compiler) peerNumbers(key Key, spec v1alpha1.BGPPeerSpec, peer *Peer) bool {
	peer.External = spec.PeerType == v1alpha1.PeerExternal || spec.PeerASN != 0 && peer.PeerASN != peer.LocalASN
	switch {
	case (spec.PeerASN == 0) == (spec.PeerType == ""):
		c.report(key, ReasonInvalidPeer, "spec.peerASN and spec.peerType: one of them says which AS the peer is in")
	case !asn(spec.LocalASN) || spec.PeerASN != 0 && !asn(spec.PeerASN) || spec.LocalASOverride != 0 && !asn(spec.LocalASOverride):
		c.report(key, ReasonInvalidPeer, "spec.localASN %d, spec.peerASN %d and spec.localASOverride %d are from 1 to 4294967294", spec.LocalASN, spec.PeerASN, spec.LocalASOverride)
	case spec.EBGPMultihop != nil && !peer.External:
		c.report(key, ReasonInvalidPeer, "spec.ebgpMultihop: it is for external peers, and this one is internal; leave it out")
	case spec.EBGPMultihop != nil && spec.TTLSecurity:
		c.report(key, ReasonInvalidPeer, "spec.ttlSecurity: it is for peers one hop away; leave out ebgpMultihop or ttlSecurity")
	default:
		return true
	}
	return false
}

// peerTimes checks the times.
func (c *compiler) peerTimes(key Key, spec v1alpha1.BGPPeerSpec) bool {
	if keepalive(spec) >= hold(spec) {
		c.report(key, ReasonInvalidPeer, "spec.keepaliveTime: %s is not below holdTime, %s; one third of it is usual", keepalive(spec), hold(spec))
		return false
	}
	whole := []struct {
		field string
		d     *metav1.Duration
	}{{"holdTime", spec.HoldTime}, {"keepaliveTime", spec.KeepaliveTime}, {"connectRetryTime", spec.ConnectRetryTime}}
	if spec.GracefulRestart != nil {
		whole = append(whole, struct {
			field string
			d     *metav1.Duration
		}{"gracefulRestart.restartTime", spec.GracefulRestart.RestartTime})
	}
	for _, t := range whole {
		if duration(t.d)%time.Second != 0 {
			c.report(key, ReasonInvalidPeer, "spec.%s: %s is not in whole seconds; write %s", t.field, duration(t.d), max(time.Second, duration(t.d).Round(time.Second)))
			return false
		}
	}
	return true
}

// longestPassword is the kernel's limit, TCP_MD5SIG_MAXKEYLEN.
const longestPassword = 80

// peerPassword finds the password, if there is to be one.
func (c *compiler) peerPassword(key Key, spec v1alpha1.BGPPeerSpec, peer *Peer) bool {
	if spec.PasswordSecretRef == nil {
		return true
	}
	name := spec.PasswordSecretRef.Name
	password, exists := c.passwords[name]
	switch {
	case !exists:
		c.report(key, ReasonMissingSecret, "spec.passwordSecretRef: there is no Secret %q of type kubernetes.io/basic-auth in Berth's namespace; create it there, with the key \"password\"", name)
	case password == "" || len(password) > longestPassword:
		c.report(key, ReasonMissingSecret, "spec.passwordSecretRef: the value of \"password\" in Secret %q has %d bytes; write one of 1 to %d", name, len(password), longestPassword)
	default:
		peer.Password = password
		return true
	}
	return false
}

func asn(n int64) bool { return n >= 1 && n <= 4294967294 }

// hold and keepalive return the times of a peer, with the defaults.
func hold(p v1alpha1.BGPPeerSpec) time.Duration { return cmp.Or(duration(p.HoldTime), 90*time.Second) }
func keepalive(p v1alpha1.BGPPeerSpec) time.Duration {
	return cmp.Or(duration(p.KeepaliveTime), hold(p)/3)
}

func duration(d *metav1.Duration) time.Duration {
	if d == nil {
		return 0
	}
	return d.Duration
}

// bgpAdvertisement compiles a BGPAdvertisement. What is wrong with one field does not
// keep the rest from effect, but for selectors.
func (c *compiler) bgpAdvertisement(o *v1alpha1.BGPAdvertisement) {
	key := Key{"BGPAdvertisement", o.Name}
	c.problems[key] = nil
	nodes, ok := c.selectors(key, "nodeSelectors", o.Spec.NodeSelectors)
	services, okServices := c.selectors(key, "serviceSelectors", o.Spec.ServiceSelectors)
	if !ok || !okServices {
		return
	}
	for i, name := range o.Spec.Peers {
		if !slices.ContainsFunc(c.snapshot.Peers, func(p *Peer) bool { return p.Name == name }) {
			c.report(key, ReasonUnknownPeer, "spec.peers[%d]: no BGPPeer %q is in effect; create it, mend it, or take the name out", i, name)
		}
	}
	a := &BGPAdvertisement{
		Name: o.Name, Nodes: nodes, Peers: slices.Clone(o.Spec.Peers), pools: c.poolNames(key, o.Spec.Pools), services: services,
		AggregateV4: length(o.Spec.AggregationLength, 32), AggregateV6: length(o.Spec.AggregationLengthV6, 128),
		Specifics: o.Spec.WithSpecifics, ByEndpoints: o.Spec.WeightBy == v1alpha1.WeightByLocalEndpoints,
		LocalPref: number[uint32](o.Spec.LocalPref), MED: number[uint32](o.Spec.MED), Prepend: number[uint8](o.Spec.Prepend),
	}
	for i, text := range o.Spec.Communities {
		parsed, err := community.Parse(text)
		if err != nil {
			c.report(key, ReasonInvalidRoute, "spec.communities[%d]: %v; routes are announced without it", i, err)
			continue
		}
		a.Communities = append(a.Communities, parsed)
	}
	slices.SortFunc(a.Communities, community.Compare)
	a.Communities = slices.Compact(a.Communities)
	c.checkAggregates(key, a)
	for i, other := range c.snapshot.bgp {
		c.checkMeeting(key, o, a, c.advertisements[i], other)
	}
	c.snapshot.bgp = append(c.snapshot.bgp, a)
	c.advertisements = append(c.advertisements, o)
}

// checkAggregates reports pools that do not hold the aggregates of their addresses.
func (c *compiler) checkAggregates(key Key, a *BGPAdvertisement) {
	for _, pool := range c.snapshot.Pools {
		if !a.pools.selects(pool.Name) {
			continue
		}
		for _, r := range pool.Ranges {
			for _, end := range []netip.Addr{r.From(), r.To()} {
				field, bits := "aggregationLength", a.AggregateV4
				if end.Is6() {
					field, bits = "aggregationLengthV6", a.AggregateV6
				}
				if prefix := netip.PrefixFrom(end, bits).Masked(); bits < end.BitLen() && !pool.holds(prefix) {
					c.report(key, ReasonInvalidRoute, "spec.%s: %s is not all in IPPool %s, which has %s there; addresses in it are announced by themselves; choose a longer prefix, or a pool that holds whole ones", field, prefix, pool.Name, formatRange(r))
					break
				}
			}
		}
	}
}

// checkMeeting reports what a younger advertisement says otherwise than an older one for
// the same routes, as far as the selectors show that there are such.
func (c *compiler) checkMeeting(key Key, o *v1alpha1.BGPAdvertisement, a *BGPAdvertisement, older *v1alpha1.BGPAdvertisement, b *BGPAdvertisement) {
	if !overlap(slices.Collect(maps.Keys(a.pools)), slices.Collect(maps.Keys(b.pools))) || !overlap(a.Peers, b.Peers) ||
		!surelyOverlap(o.Spec.NodeSelectors, older.Spec.NodeSelectors) || !surelyOverlap(o.Spec.ServiceSelectors, older.Spec.ServiceSelectors) ||
		a.AggregateV4 != b.AggregateV4 && a.AggregateV6 != b.AggregateV6 {
		return
	}
	for _, f := range []struct {
		field        string
		differ       bool
		ours, theirs any
	}{
		{"localPref", differ(a.LocalPref, b.LocalPref), said(a.LocalPref), said(b.LocalPref)},
		{"med", differ(a.MED, b.MED), said(a.MED), said(b.MED)},
		{"prepend", differ(a.Prepend, b.Prepend), said(a.Prepend), said(b.Prepend)},
	} {
		if f.differ {
			c.report(key, ReasonConflict, "spec.%s: %v, where the older BGPAdvertisement %s says %v for the same routes, which counts; make them equal, or select other pools, peers, nodes or Services", f.field, f.ours, b.Name, f.theirs)
			other := Key{"BGPAdvertisement", b.Name}
			c.problems[other] = append(c.problems[other], Problem{Reason: ReasonConflict, Harmless: true,
				Message: fmt.Sprintf("spec.%s: the younger BGPAdvertisement %s says %v for the same routes, which does not count; make them equal, or select other pools, peers, nodes or Services", f.field, key.Name, f.ours)})
		}
	}
}

// overlap tells whether two lists of names, of which an empty one stands for all, have
// one in common.
func overlap(a, b []string) bool {
	return len(a) == 0 || len(b) == 0 || slices.ContainsFunc(a, func(name string) bool { return slices.Contains(b, name) })
}

// surelyOverlap tells whether what two lists of ORed selectors match has something in
// common, whatever labels there are.
func surelyOverlap(a, b []metav1.LabelSelector) bool {
	return len(a) == 0 || len(b) == 0 || slices.ContainsFunc(a, func(s metav1.LabelSelector) bool {
		return slices.ContainsFunc(b, func(t metav1.LabelSelector) bool { return reflect.DeepEqual(s, t) })
	})
}

func differ[T comparable](a, b *T) bool { return a != nil && b != nil && *a != *b }

func said[T any](n *T) any {
	if n == nil {
		return nil
	}
	return *n
}

func length(bits *int32, all int) int {
	if bits == nil {
		return all
	}
	return int(*bits)
}

// number converts a number that the CRD has checked.
func number[T uint8 | uint32, F int32 | int64](n *F) *T {
	if n == nil {
		return nil
	}
	converted := T(*n)
	return &converted
}
