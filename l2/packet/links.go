package packet

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/berth-lb/berth/l2/neighbor"
)

// Links returns the interfaces that can carry a segment, and their addresses. A dump that the
// kernel could not finish in one piece is an error, never a shorter list: nothing is withdrawn
// because of it.
func Links() ([]Link, error) {
	found, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	byIndex, subnets := make(map[int][]netip.Addr), make(map[int][]netip.Prefix)
	for _, a := range addrs {
		if ip, ok := netip.AddrFromSlice(a.IP); ok {
			ones, _ := a.Mask.Size()
			byIndex[a.LinkIndex] = append(byIndex[a.LinkIndex], ip.Unmap())
			subnets[a.LinkIndex] = append(subnets[a.LinkIndex], netip.PrefixFrom(ip.Unmap(), ones).Masked())
		}
	}
	var links []Link
	for _, f := range found {
		a := f.Attrs()
		master := slices.IndexFunc(found, func(m netlink.Link) bool {
			return a.MasterIndex != 0 && m.Attrs().Index == a.MasterIndex
		})
		if !neighbor.IsUnicast(a.HardwareAddr) || master >= 0 && takesFrames(found[master]) {
			continue
		}
		const up = unix.IFF_UP | unix.IFF_RUNNING
		links = append(links, Link{
			Name: a.Name, Index: a.Index, MTU: a.MTU, MAC: [6]byte(a.HardwareAddr),
			Up: a.RawFlags&up == up, Addrs: byIndex[a.Index], Subnets: subnets[a.Index],
		})
	}
	return links, nil
}

// takesFrames reports whether an interface takes the frames that its ports receive, so that it
// carries the segment instead of them.
func takesFrames(master netlink.Link) bool {
	switch master.Type() {
	case "bridge", "bond", "team", "openvswitch":
		return true
	}
	return false // a VRF, for example
}

// Watch calls changed for every notification about interfaces and addresses. It returns when ctx
// ends, or when notifications were lost or the subscription broke: then call Links and Watch again.
func Watch(ctx context.Context, changed func()) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	failed := func(err error) { cancel(fmt.Errorf("interface notifications: %w", err)) }
	links, addrs := make(chan netlink.LinkUpdate, 64), make(chan netlink.AddrUpdate, 64)
	done := make(chan struct{})
	if err := netlink.LinkSubscribeWithOptions(links, done,
		netlink.LinkSubscribeOptions{ErrorCallback: failed}); err != nil {
		return fmt.Errorf("subscribe to interfaces: %w", err)
	}
	if err := netlink.AddrSubscribeWithOptions(addrs, done,
		netlink.AddrSubscribeOptions{ErrorCallback: failed}); err != nil {
		close(done)
		drain(links)
		return fmt.Errorf("subscribe to addresses: %w", err)
	}
	// The goroutines of the subscriptions end when their channels close. Until then the channels
	// have to be read.
	defer func() {
		close(done)
		drain(links)
		drain(addrs)
	}()
	changed() // what happened before the subscription
	for {
		select {
		case <-ctx.Done():
			if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
				return err
			}
			return nil
		case _, ok := <-links:
			if !ok {
				return errors.New("interface notifications ended")
			}
			changed()
		case _, ok := <-addrs:
			if !ok {
				return errors.New("address notifications ended")
			}
			changed()
		}
	}
}

func drain[T any](c <-chan T) {
	for range c {
	}
}
