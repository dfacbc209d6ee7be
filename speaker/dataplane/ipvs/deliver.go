//go:build linux

package ipvs

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// IPVS takes packets in hook input, so the kernel must hold an address for its own to give them
// there. If it does so everywhere it also answers ARP for it, on every node. What it holds is a
// question to the routing rules, and ARP asks it without a protocol (arp_process in net/ipv4/arp.c
// looks up a route for the bare addresses). So the addresses are local routes in a table of their
// own, and the rules lead there by protocol: TCP, UDP, SCTP, and ICMP for its errors. Neighbor
// discovery asks for addresses of interfaces, which these are not. Nothing is marked, no interface
// gets an address, and no sysctl is needed. NodePorts do not answer there either: nftables' `fib
// daddr type local` looks in the table local alone.
//
// What IPVS does not take goes on to the host's own sockets, listeners on all addresses among them.
// And where the host would answer with a TCP reset or an ICMP error, it sends none from an IPv4
// address that it does not have (the source check in ip_route_output_key_hash_rcu,
// net/ipv4/route.c). Both need a rule in nftables' hook input after IPVS (priority 99), which this
// package does not make: reject with tcp reset at priority 101 was seen to do.
const (
	// RoutingTable holds a local route for each address of ours.
	RoutingTable = 48679
	// RulePriority comes after the table local (0), and before VRFs (1000) and main (32766).
	RulePriority = 487
	// routeProtocol tells who made routes and rules, in `ip route` and `ip rule`.
	routeProtocol = 72
)

// delivery keeps routes and rules of one network namespace.
type delivery struct {
	c *netlink.Conn
	// sources are what programs of this host use as their own address when they connect to ours, which
	// no interface holds: at most one of each family. They may change.
	sources func() []netip.Addr
}

// openDelivery works on the network namespace of the calling thread.
func openDelivery(sources func() []netip.Addr) (delivery, error) {
	// Strict: the kernel filters what is read, and an unknown attribute is an error.
	c, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{Strict: true})
	if err != nil {
		return delivery{}, fmt.Errorf("connect to the routing tables: %w", err)
	}
	return delivery{c, sources}, nil
}

// noSources are for a delivery that makes no routes.
func noSources() []netip.Addr { return nil }

func (d delivery) close() error { return d.c.Close() }

// family is the part of the rules for one family of addresses.
type family struct {
	number    byte
	protocols []uint8 // that have a rule
}

var families = [...]family{
	{unix.AF_INET, []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_SCTP, unix.IPPROTO_ICMP}},
	{unix.AF_INET6, []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_SCTP, unix.IPPROTO_ICMPV6}},
}

func (f family) holds(a netip.Addr) bool { return a.Is4() == (f.number == unix.AF_INET) }

// source is the invalid address if there is none of the family.
func (d delivery) source(f family) netip.Addr {
	for _, a := range d.sources() {
		if f.holds(a) {
			return a
		}
	}
	return netip.Addr{}
}

// addresses returns those that have a route; false: it has another source.
func (d delivery) addresses() (map[netip.Addr]bool, error) {
	all := map[netip.Addr]bool{}
	for _, f := range families {
		header := routeHeader(f.number, 0)
		header[7] = unix.RTN_LOCAL
		found, err := d.request(unix.RTM_GETROUTE, netlink.Dump, header, tableAttribute)
		if errors.Is(err, unix.ENOENT) || unsupported(err) { // no table, no family
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read routing table %d: %w", RoutingTable, err)
		}
		for _, m := range found {
			a, source, err := f.destination(m)
			if err != nil {
				return nil, fmt.Errorf("read routing table %d: %w", RoutingTable, err)
			}
			if a.IsValid() {
				all[a] = source == d.source(f)
			}
		}
	}
	return all, nil
}

// destination returns a route's address and its source; the invalid address for a route that is not
// one of ours.
func (f family) destination(m netlink.Message) (to, source netip.Addr, err error) {
	if len(m.Data) < headerLength {
		return to, source, errors.New("the kernel sent a short message")
	}
	attributes, err := netlink.NewAttributeDecoder(m.Data[headerLength:])
	if err != nil {
		return to, source, err
	}
	var table uint32
	for attributes.Next() {
		switch attributes.Type() {
		case unix.RTA_TABLE:
			table = attributes.Uint32()
		case unix.RTA_DST:
			to, _ = netip.AddrFromSlice(attributes.Bytes())
		case unix.RTA_PREFSRC:
			source, _ = netip.AddrFromSlice(attributes.Bytes())
		}
	}
	single := to.IsValid() && int(m.Data[1]) == to.BitLen()
	if err := attributes.Err(); err != nil || table != RoutingTable || !single || m.Data[7] != unix.RTN_LOCAL {
		return netip.Addr{}, netip.Addr{}, err
	}
	return to, source, nil
}

// add makes a route for an address, or gives the one that is there our source.
func (d delivery) add(a netip.Addr) error {
	source := d.source(families[0])
	if a.Is6() {
		source = d.source(families[1])
	}
	_, err := d.request(
		unix.RTM_NEWROUTE,
		netlink.Acknowledge|netlink.Create|netlink.Replace,
		localRoute(a),
		func(e *netlink.AttributeEncoder) {
			routeAttributes(a)(e)
			if source.IsValid() {
				e.Bytes(unix.RTA_PREFSRC, source.AsSlice())
			}
		},
	)
	if errors.Is(err, unix.EINVAL) && source.IsValid() {
		err = fmt.Errorf("%w (is its source, %s, an address of this node?)", err, source)
	}
	return explain(fmt.Sprintf("deliver %s to IPVS: make its local route in table %d", a, RoutingTable), err)
}

// remove deletes the route of an address, which may be gone already.
func (d delivery) remove(a netip.Addr) error {
	_, err := d.request(unix.RTM_DELROUTE, netlink.Acknowledge, localRoute(a), routeAttributes(a))
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return explain(fmt.Sprintf("delete the local route of %s in table %d", a, RoutingTable), err)
}

// ensureRules makes those rules of a family that are missing.
func (d delivery) ensureRules(f family) error {
	have, err := d.rules(f)
	if err != nil {
		return err
	}
	for _, p := range f.protocols {
		if have[p] {
			continue
		}
		_, err := d.request(
			unix.RTM_NEWRULE,
			netlink.Acknowledge|netlink.Create|netlink.Excl,
			ruleHeader(f),
			ruleAttributes(p),
		)
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return explain(fmt.Sprintf("make the routing rule of priority %d for IP protocol %d", RulePriority, p), err)
		}
	}
	return nil
}

// removeRules deletes the rules of both families.
func (d delivery) removeRules() error {
	var problems []error
	for _, f := range families {
		have, err := d.rules(f)
		if err != nil {
			problems = append(problems, err)
		}
		for p := range have {
			_, err := d.request(unix.RTM_DELRULE, netlink.Acknowledge, ruleHeader(f), ruleAttributes(p))
			if err != nil && !errors.Is(err, unix.ENOENT) {
				problems = append(
					problems,
					explain(fmt.Sprintf("delete the routing rule of priority %d for IP protocol %d", RulePriority, p), err),
				)
			}
		}
	}
	return errors.Join(problems...)
}

// rules returns the protocols that have one.
func (d delivery) rules(f family) (map[uint8]bool, error) {
	found, err := d.request(unix.RTM_GETRULE, netlink.Dump, routeHeader(f.number, 0), nil)
	if unsupported(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read routing rules: %w", err)
	}
	have := map[uint8]bool{}
	for _, m := range found {
		if len(m.Data) < headerLength {
			return nil, errors.New("read routing rules: the kernel sent a short message")
		}
		attributes, err := netlink.NewAttributeDecoder(m.Data[headerLength:])
		if err != nil {
			return nil, fmt.Errorf("read routing rules: %w", err)
		}
		var table, priority uint32
		var protocol uint8
		for attributes.Next() {
			switch attributes.Type() {
			case unix.FRA_TABLE:
				table = attributes.Uint32()
			case unix.FRA_PRIORITY:
				priority = attributes.Uint32()
			case unix.FRA_IP_PROTO:
				protocol = attributes.Uint8()
			}
		}
		if err := attributes.Err(); err != nil {
			return nil, fmt.Errorf("read routing rules: %w", err)
		}
		if table == RoutingTable && priority == RulePriority && protocol != 0 {
			have[protocol] = true
		}
	}
	return have, nil
}

// unsupported reports whether the kernel lacks a family of addresses, IPv6 in practice.
func unsupported(err error) bool {
	return errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP)
}

func (d delivery) request(
	kind netlink.HeaderType,
	flags netlink.HeaderFlags,
	header []byte,
	attributes func(*netlink.AttributeEncoder),
) ([]netlink.Message, error) {
	e := netlink.NewAttributeEncoder()
	if attributes != nil {
		attributes(e)
	}
	b, err := e.Encode()
	if err != nil {
		return nil, err
	}
	return d.c.Execute(netlink.Message{
		Header: netlink.Header{Type: kind, Flags: netlink.Request | flags},
		Data:   append(header, b...),
	})
}

// headerLength is that of struct rtmsg and of struct fib_rule_hdr (rtnetlink(7)), which agree in
// what is set here: family, destination's length, source's, type of service, table, protocol,
// scope, type or action, flags.
const headerLength = 12

func routeHeader(family byte, bits int) []byte {
	h := make([]byte, headerLength)
	h[0], h[1] = family, byte(bits)
	return h
}

func localRoute(a netip.Addr) []byte {
	h := routeHeader(families[1].number, a.BitLen())
	h[6] = unix.RT_SCOPE_UNIVERSE // IPv6 knows no other
	if a.Is4() {
		h[0], h[6] = families[0].number, unix.RT_SCOPE_HOST
	}
	h[5], h[7] = routeProtocol, unix.RTN_LOCAL
	return h
}

const loopback = 1 // the interface lo, in every namespace

func routeAttributes(a netip.Addr) func(*netlink.AttributeEncoder) {
	return func(e *netlink.AttributeEncoder) {
		e.Bytes(unix.RTA_DST, a.AsSlice())
		e.Uint32(unix.RTA_OIF, loopback)
		tableAttribute(e)
	}
}

func tableAttribute(e *netlink.AttributeEncoder) { e.Uint32(unix.RTA_TABLE, RoutingTable) }

func ruleHeader(f family) []byte {
	h := routeHeader(f.number, 0)
	h[7] = unix.FR_ACT_TO_TBL
	return h
}

func ruleAttributes(protocol uint8) func(*netlink.AttributeEncoder) {
	return func(e *netlink.AttributeEncoder) {
		e.Uint32(unix.FRA_PRIORITY, RulePriority)
		e.Uint32(unix.FRA_TABLE, RoutingTable)
		e.Uint8(unix.FRA_PROTOCOL, routeProtocol)
		e.Uint8(unix.FRA_IP_PROTO, protocol)
	}
}
