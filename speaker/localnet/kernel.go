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
type system struct {
	routes bool // it is asked for routes, too
}

func (system) addresses() ([]Address, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	names := map[int]string{}
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	return addressesOf(addrs, names), nil
}

func (system) gateways() (found []netip.Addr, through map[int]bool, err error) {
	var routes []netlink.Route
	// There may be a million of them, so they are not gathered.
	if err := eachUnicast(func(r netlink.Route) {
		if isDefault(r) {
			routes = append(routes, r)
		}
	}); err != nil {
		return nil, nil, fmt.Errorf("list routes: %w", err)
	}
	return gatewaysOf(routes), linksOf(routes), nil
}

// eachUnicast reads the routes of all tables but for those to the node itself: with --ipvs that is
// one for each address of a Service. A kernel before 4.20 leaves out none.
func eachUnicast(do func(netlink.Route)) error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	_ = h.SetStrictCheck(true) // so that the kernel heeds the type
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		err := h.RouteListFilteredIter(
			family,
			&netlink.Route{Table: unix.RT_TABLE_UNSPEC, Type: unix.RTN_UNICAST},
			netlink.RT_FILTER_TABLE,
			func(r netlink.Route) bool { do(r); return true },
		)
		if err != nil {
			return err
		}
	}
	return nil
}

// linksOf returns the interfaces of routes, by index.
func linksOf(routes []netlink.Route) map[int]bool {
	found := map[int]bool{}
	for _, r := range routes {
		found[r.LinkIndex] = true
		for _, hop := range r.MultiPath {
			found[hop.LinkIndex] = true
		}
	}
	return found
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
func (s system) watch(ctx context.Context, changed func(event)) error {
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
	if s.routes {
		if err := netlink.RouteSubscribeWithOptions(routes, done, netlink.RouteSubscribeOptions{
			ErrorCallback: failed,
		}); err != nil {
			return fmt.Errorf("subscribe to routes: %w", err)
		}
		drains = append(drains, func() { drain(routes) })
	}
	changed(event{routes: true}) // what happened before the subscription
	for {
		more, news, e := true, true, event{}
		select {
		case <-ctx.Done():
			if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
				return err
			}
			return nil
		case l, ok := <-links:
			if more = ok; l.Header.Type == unix.RTM_DELLINK || l.Flags&unix.IFF_UP == 0 {
				e.link = int(l.Index)
			}
		case a, ok := <-addrs:
			if more = ok; !a.NewAddr {
				e.link = a.LinkIndex
			}
		case r, ok := <-routes:
			more, news = ok, isDefault(r.Route) // those to pods come and go all the time
			e.routes = news
		}
		switch {
		case !more:
			return errors.New("notifications ended")
		case news:
			changed(e)
		}
	}
}

func drain[T any](c <-chan T) {
	for range c {
	}
}
