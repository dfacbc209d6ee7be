package measure

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/berth-lb/berth/bgp/discover"
	"github.com/berth-lb/berth/internal/probe"
)

const (
	pathsAtOnce = 4
	// pingWithin is how long one packet may take, and pings how many are tried of one length.
	pingWithin = 300 * time.Millisecond
	pings      = 3
	// pathStep is how exactly the longest packet is found, in bytes.
	pathStep = 8

	icmpHeader, ipv4Header, ipv6Header = 8, 20, 40
	// The least that every link carries: RFC 791 section 3.2, RFC 8200 section 5.
	minIPv4, minIPv6 = 68, 1280
)

func (n *notes) paths(ctx context.Context, segments []*segment) {
	var work errgroup.Group
	work.SetLimit(pathsAtOnce)
	for _, peer := range n.asked.Peers {
		address, s := reach(peer, segments)
		if s == nil {
			continue // it is on another segment
		}
		work.Go(func() error {
			largest, err := longest(ctx, address, s.link.Name, s.link.MTU)
			if err != nil {
				n.fail("node %s: %v", peer.Node, err)
				return nil
			}
			n.note(func(r *probe.Report) {
				r.Paths = append(r.Paths, probe.Path{
					Node: peer.Node, Address: address, Interface: s.link.Name, MTU: s.link.MTU, Largest: largest,
				})
			})
			return nil
		})
	}
	_ = work.Wait() // they return no error
}

// reach returns the peer's address on a segment of this node, if it has one.
func reach(peer probe.Peer, segments []*segment) (netip.Addr, *segment) {
	for _, s := range segments {
		for _, a := range peer.Addresses {
			if slices.ContainsFunc(s.link.HostSubnets(), func(p netip.Prefix) bool { return p.Contains(a) }) {
				return a, s
			}
		}
	}
	return netip.Addr{}, nil
}

// longest returns the length of the longest packet that a host answers and nobody on the way may
// cut, 0 if it answers none.
func longest(ctx context.Context, to netip.Addr, iface string, mtu int) (int, error) {
	least, header := minIPv4, ipv4Header+icmpHeader
	if to.Is6() {
		least, header = minIPv6, ipv6Header+icmpHeader
	}
	answers := func(length int) (bool, error) {
		for range pings {
			ctx, cancel := context.WithTimeout(ctx, pingWithin)
			ok, err := discover.Echo(ctx, to, make([]byte, length-header), uncut(iface))
			cancel()
			if errors.Is(err, unix.EMSGSIZE) { // this kernel does not send it
				return false, nil
			}
			if ok || err != nil {
				return ok, err
			}
		}
		return false, nil
	}
	if ok, err := answers(least); !ok {
		return 0, err
	}
	if ok, err := answers(mtu); ok || err != nil {
		return mtu, err
	}
	lost := mtu
	for lost-least > pathStep {
		middle := (least + lost) / 2
		ok, err := answers(middle)
		switch {
		case err != nil:
			return 0, err
		case ok:
			least = middle
		default:
			lost = middle
		}
	}
	return least, nil
}

// uncut prepares a socket that sends by an interface, in one piece or not at all, whatever the
// kernel has learned of the path.
func uncut(iface string) func(network, address string, c syscall.RawConn) error {
	return func(network, _ string, c syscall.RawConn) error {
		level, discovery, never := unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE
		if strings.HasPrefix(network, "ip6") {
			level, discovery, never = unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE
		}
		var set error
		err := c.Control(func(fd uintptr) {
			set = errors.Join(
				unix.BindToDevice(int(fd), iface), unix.SetsockoptInt(int(fd), level, discovery, never),
			)
			if level == unix.IPPROTO_IPV6 {
				set = errors.Join(set, unix.SetsockoptInt(int(fd), level, unix.IPV6_DONTFRAG, 1))
			}
		})
		return errors.Join(err, set)
	}
}
