package localnet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// system is the kernel, asked by netlink.
type system struct{}

func (system) read() (Network, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return Network{}, fmt.Errorf("list interfaces: %w", err)
	}
	names := map[int]string{}
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return Network{}, fmt.Errorf("list addresses: %w", err)
	}
	var routes []netlink.Route
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		// There may be a million of them, so they are not gathered.
		err := netlink.RouteListFilteredIter(
			family,
			&netlink.Route{Table: unix.RT_TABLE_UNSPEC},
			netlink.RT_FILTER_TABLE,
			func(r netlink.Route) bool {
				if isDefault(r) {
					routes = append(routes, r)
				}
				return true
			},
		)
		if err != nil {
			return Network{}, fmt.Errorf("list routes: %w", err)
		}
	}
	return Network{Addresses: addressesOf(addrs, names), Gateways: gatewaysOf(routes)}, nil
}

func isDefault(r netlink.Route) bool {
	if r.MPLSDst != nil || r.Type != unix.RTN_UNICAST {
		return false
	}
	if r.Dst == nil {
		return true
	}
	ones, _ := r.Dst.Mask.Size()
	return ones == 0 && r.Dst.IP.IsUnspecified()
}

// addressesOf returns the addresses on interfaces of these names, by index.
func addressesOf(addrs []netlink.Addr, names map[int]string) []Address {
	var found []Address
	for _, a := range addrs {
		if a.IPNet == nil {
			continue
		}
		if address, ok := beyondLink(a.IP); ok {
			ones, _ := a.Mask.Size()
			found = append(found, Address{netip.PrefixFrom(address, ones), names[a.LinkIndex]})
		}
	}
	slices.SortFunc(found, func(a, b Address) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()), cmp.Compare(a.Interface, b.Interface))
	})
	return slices.Compact(found)
}

// gatewaysOf returns the next hops of default routes.
func gatewaysOf(routes []netlink.Route) []netip.Addr {
	var found []netip.Addr
	add := func(hop net.IP, via netlink.Destination) {
		if other, ok := via.(*netlink.Via); ok && other != nil {
			hop = other.Addr // of the other family
		}
		if address, ok := beyondLink(hop); ok {
			found = append(found, address)
		}
	}
	for _, r := range routes {
		add(r.Gw, r.Via)
		for _, hop := range r.MultiPath {
			add(hop.Gw, hop.Via)
		}
	}
	slices.SortFunc(found, netip.Addr.Compare)
	return slices.Compact(found)
}

// beyondLink returns the address if it is a host's and not link-local: no pool has other addresses.
func beyondLink(ip net.IP) (netip.Addr, bool) {
	address, ok := netip.AddrFromSlice(ip)
	address = address.Unmap()
	return address, ok && address.IsGlobalUnicast()
}

// watch follows interfaces, since their addresses go with them and come back in silence, addresses
// and default routes.
func (system) watch(ctx context.Context, changed func()) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	failed := func(err error) { cancel(fmt.Errorf("notifications: %w", err)) }
	links, addrs, routes := make(
		chan netlink.LinkUpdate,
		64,
	), make(
		chan netlink.AddrUpdate,
		64,
	), make(
		chan netlink.RouteUpdate,
		64,
	)
	done := make(chan struct{})
	var drains []func()
	// The subscriptions' goroutines end when their channels close; until then someone must read them.
	defer func() {
		close(done)
		for _, drain := range drains {
			drain()
		}
	}()
	if err := netlink.LinkSubscribeWithOptions(links, done, netlink.LinkSubscribeOptions{
		ErrorCallback: failed,
	}); err != nil {
		return fmt.Errorf("subscribe to interfaces: %w", err)
	}
	drains = append(drains, func() { drain(links) })
	if err := netlink.AddrSubscribeWithOptions(addrs, done, netlink.AddrSubscribeOptions{
		ErrorCallback: failed,
	}); err != nil {
		return fmt.Errorf("subscribe to addresses: %w", err)
	}
	drains = append(drains, func() { drain(addrs) })
	if err := netlink.RouteSubscribeWithOptions(routes, done, netlink.RouteSubscribeOptions{
		ErrorCallback: failed,
	}); err != nil {
		return fmt.Errorf("subscribe to routes: %w", err)
	}
	drains = append(drains, func() { drain(routes) })
	changed() // what happened before the subscription
	for {
		more, news := true, true
		select {
		case <-ctx.Done():
			if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
				return err
			}
			return nil
		case _, more = <-links:
		case _, more = <-addrs:
		case r, ok := <-routes:
			more, news = ok, isDefault(r.Route) // those to pods come and go all the time
		}
		switch {
		case !more:
			return errors.New("notifications ended")
		case news:
			changed()
		}
	}
}

func drain[T any](c <-chan T) {
	for range c {
	}
}
