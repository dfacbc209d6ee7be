// Package discover finds the router on an interface, for BGP peers that have no address
// ("unnumbered"), and finds out whether one answers at all.
package discover

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/ipv6"
)

// listenPause is how long routers have to answer: one may take half a second for it (RFC 4861
// section 6.2.6).
const listenPause = time.Second

var (
	allNodes   = netip.MustParseAddr("ff02::1")
	allRouters = netip.MustParseAddr("ff02::2")
)

// ICMPv6 messages (RFC 4861 section 4, RFC 4443 section 4.1); the kernel fills in the checksum.
var (
	routerSolicitation = []byte{byte(ipv6.ICMPTypeRouterSolicitation), 0, 0, 0, 0, 0, 0, 0}
	// A lifetime of 0: nobody's default router. It is there because a router that runs unnumbered
	// sessions, too, learns by it who is on the other end.
	routerAdvertisement = append([]byte{byte(ipv6.ICMPTypeRouterAdvertisement), 0, 0, 0}, make([]byte, 12)...)
	echoRequest         = []byte{byte(ipv6.ICMPTypeEchoRequest), 0, 0, 0, 'B', 'e', 0, 1}
)

// Router returns the link-local address of the one router on an interface: the one that
// advertises itself, or, if none does, the one that answers an echo request to all routers. It
// takes about a second.
func Router(ctx context.Context, name string) (netip.Addr, error) {
	link, err := net.InterfaceByName(name)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("find the router on %s: %w", name, err)
	}
	own, err := LinkLocals(link)
	if err != nil {
		return netip.Addr{}, err
	}
	conn, err := net.ListenPacket("ip6:ipv6-icmp", netip.IPv6Unspecified().String())
	if err != nil {
		return netip.Addr{}, fmt.Errorf("find the router on %s: %w", name, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	p := ipv6.NewPacketConn(conn)
	if err := prepareICMP(p, link); err != nil {
		return netip.Addr{}, fmt.Errorf("find the router on %s: %w", name, err)
	}
	for _, m := range []struct {
		to   netip.Addr
		body []byte
	}{{allNodes, routerAdvertisement}, {allRouters, routerSolicitation}, {allRouters, echoRequest}} {
		to := &net.IPAddr{IP: m.to.AsSlice(), Zone: strconv.Itoa(link.Index)}
		if _, err := p.WriteTo(
			m.body, &ipv6.ControlMessage{IfIndex: link.Index, HopLimit: 255, Src: own[0].AsSlice()}, to,
		); err != nil {
			return netip.Addr{}, fmt.Errorf("ask for routers on %s: %w", name, err)
		}
	}
	advertised, answered, err := listenForRouters(p, link, own)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("listen for routers on %s: %w", name, err)
	}
	found := advertised
	if len(found) == 0 {
		found = answered
	}
	switch len(found) {
	case 0:
		return netip.Addr{}, fmt.Errorf("no router on %s advertises itself or answers; have it send router advertisements there", name)
	case 1:
		return found[0].WithZone(name), nil
	}
	var texts []string
	for _, a := range found {
		texts = append(texts, a.String())
	}
	return netip.Addr{}, fmt.Errorf("several routers are on %s: %s; give the address of the one that is meant", name, strings.Join(texts, ", "))
}

func prepareICMP(p *ipv6.PacketConn, link *net.Interface) error {
	var filter ipv6.ICMPFilter
	filter.SetAll(true)
	filter.Accept(ipv6.ICMPTypeRouterAdvertisement)
	filter.Accept(ipv6.ICMPTypeEchoReply)
	return errors.Join(
		p.SetICMPFilter(&filter),
		p.SetControlMessage(ipv6.FlagHopLimit|ipv6.FlagInterface, true),
		p.SetMulticastInterface(link),
		p.SetMulticastHopLimit(255),
		p.SetMulticastLoopback(false),
		p.SetReadDeadline(time.Now().Add(listenPause)),
	)
}

// listenForRouters returns, until the read deadline, who advertises itself on the link and who
// answers an echo request, each once and ascending.
func listenForRouters(
	p *ipv6.PacketConn,
	link *net.Interface,
	own []netip.Addr,
) (advertised, answered []netip.Addr, err error) {
	buf := make([]byte, 1500)
	for {
		n, control, from, err := p.ReadFrom(buf)
		if timeout := net.Error(nil); errors.As(err, &timeout) && timeout.Timeout() {
			return distinct(advertised), distinct(answered), nil
		}
		if err != nil {
			return nil, nil, err
		}
		ip, ok := from.(*net.IPAddr)
		if !ok || n == 0 || control == nil || control.IfIndex != link.Index {
			continue
		}
		address, _ := netip.AddrFromSlice(ip.IP)
		if !address.IsLinkLocalUnicast() || slices.Contains(own, address) {
			continue
		}
		switch {
		case buf[0] == byte(ipv6.ICMPTypeEchoReply):
			answered = append(answered, address)
		case control.HopLimit == 255: // else a router has forwarded it (RFC 4861 section 6.1.2)
			advertised = append(advertised, address)
		}
	}
}

func distinct(list []netip.Addr) []netip.Addr {
	slices.SortFunc(list, netip.Addr.Compare)
	return slices.Compact(list)
}

// LinkLocals returns our own addresses on a link, at least one.
func LinkLocals(link *net.Interface) ([]netip.Addr, error) {
	addresses, err := link.Addrs()
	if err != nil {
		return nil, fmt.Errorf("read the addresses of %s: %w", link.Name, err)
	}
	var own []netip.Addr
	for _, a := range addresses {
		if prefix, ok := a.(*net.IPNet); ok {
			if address, ok := netip.AddrFromSlice(prefix.IP); ok && address.Is6() && address.IsLinkLocalUnicast() {
				own = append(own, address)
			}
		}
	}
	if len(own) == 0 {
		return nil, fmt.Errorf("%s has no IPv6 link-local address: is it up, and IPv6 not disabled there?", link.Name)
	}
	return own, nil
}
