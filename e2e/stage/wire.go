//go:build linux

package stage

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ethernet"
	"github.com/mdlayher/ndp"
	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"

	"github.com/berth-lb/berth/e2e/lab"
)

// answerWindow is how long answers to one question are collected.
const answerWindow = 200 * time.Millisecond

// Answerers asks the segment once, from the local client, who has the address, and returns all
// hosts that answered within 200 ms, sorted. Unlike Owner it takes no notice of what the client's
// kernel believes, and leaves that as it is.
func (s *Stage) Answerers(ctx context.Context, address netip.Addr) ([]string, error) {
	ask := s.askNDP
	if address.Is4() {
		ask = s.askARP
	}
	deadline := time.Now().Add(answerWindow)
	macs, err := ask(address, deadline)
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return nil, fmt.Errorf("ask who has %s: %w", address, err)
	}
	var hosts []string
	for _, mac := range macs {
		host := s.HostOf(mac)
		if host == "" {
			host = mac.String()
		}
		hosts = append(hosts, host)
	}
	slices.Sort(hosts)
	return slices.Compact(hosts), nil
}

// AwaitOwner waits until exactly one host answers for the address, ten questions in a row, and
// returns it.
func (s *Stage) AwaitOwner(ctx context.Context, patience time.Duration, address netip.Addr) (string, error) {
	var owner string
	err := Eventually(ctx, patience, func(ctx context.Context) error {
		owner = ""
		for range 10 {
			hosts, err := s.Answerers(ctx, address)
			switch {
			case err != nil:
				return err
			case len(hosts) != 1, owner != "" && owner != hosts[0]:
				return fmt.Errorf("[%s] answer for %s, want one host (%s before)", strings.Join(hosts, " "), address, owner)
			}
			owner = hosts[0]
		}
		return nil
	})
	return owner, err
}

// AwaitAnswerer waits until a host other than the given one answers for the address, and the given
// one no longer does.
func (s *Stage) AwaitAnswerer(
	ctx context.Context,
	patience time.Duration,
	address netip.Addr,
	not string,
) (string, error) {
	var owner string
	err := Eventually(ctx, patience, func(ctx context.Context) error {
		hosts, err := s.Answerers(ctx, address)
		if err == nil && (len(hosts) != 1 || hosts[0] == not) {
			err = fmt.Errorf("[%s] answer for %s, want one other than %s", strings.Join(hosts, " "), address, not)
		}
		if err == nil {
			owner = hosts[0]
		}
		return err
	})
	return owner, err
}

// portOf returns a host's port on the segment. It is to be called in the host.
func (s *Stage) portOf(host string) (*net.Interface, error) {
	mac, err := s.NodeMAC(host)
	if err != nil {
		return nil, err
	}
	ports, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list the interfaces of %s: %w", host, err)
	}
	for _, p := range ports {
		if p.HardwareAddr.String() == mac.String() {
			return &p, nil
		}
	}
	return nil, fmt.Errorf("%s has no interface with %s", host, mac)
}

// newARP opens a socket for ARP on the port. It is to be called in the port's host.
func newARP(port *net.Interface) (*arp.Client, error) {
	conn, err := packet.Listen(port, packet.Raw, int(ethernet.EtherTypeARP), nil)
	if err != nil {
		return nil, err
	}
	return arp.New(port, conn)
}

// newICMPv6 opens a socket for neighbor discovery in the host that it is called in.
func newICMPv6() (int, error) {
	return unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMPV6)
}

func (s *Stage) askARP(address netip.Addr, deadline time.Time) ([]net.HardwareAddr, error) {
	var client *arp.Client
	if err := s.In(lab.Client, func() error {
		port, err := s.portOf(lab.Client)
		if err != nil {
			return err
		}
		client, err = newARP(port)
		return err
	}); err != nil {
		return nil, err
	}
	defer client.Close()
	if err := client.SetDeadline(deadline); err != nil {
		return nil, err
	}
	if err := client.Request(address); err != nil {
		return nil, err
	}
	var macs []net.HardwareAddr
	for {
		p, _, err := client.Read()
		if time.Now().After(deadline) {
			return macs, nil
		} else if err != nil {
			return nil, err
		}
		// An announcement (sender and target are the same) is no answer.
		if p.Operation == arp.OperationReply && p.SenderIP == address && p.TargetIP != address {
			macs = append(macs, p.SenderHardwareAddr)
		}
	}
}

func (s *Stage) askNDP(address netip.Addr, deadline time.Time) ([]net.HardwareAddr, error) {
	var port *net.Interface
	socket := -1
	if err := s.In(lab.Client, func() error {
		var err error
		if port, err = s.portOf(lab.Client); err != nil {
			return err
		}
		socket, err = newICMPv6()
		return err
	}); err != nil {
		return nil, err
	}
	defer unix.Close(socket)
	if err := solicit(socket, port, address); err != nil {
		return nil, err
	}
	var macs []net.HardwareAddr
	buffer := make([]byte, port.MTU)
	for time.Now().Before(deadline) {
		patience := unix.NsecToTimeval(max(time.Until(deadline), time.Millisecond).Nanoseconds())
		if err := unix.SetsockoptTimeval(socket, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience); err != nil {
			return nil, err
		}
		n, _, err := unix.Recvfrom(socket, buffer, 0)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			continue
		} else if err != nil {
			return nil, err
		}
		macs = append(macs, advertised(buffer[:n], address)...)
	}
	return macs, nil
}

// solicit sends a neighbor solicitation as RFC 4861 section 4.3 wants it. The zone goes by number,
// since the net package would look its name up on another host.
func solicit(socket int, port *net.Interface, address netip.Addr) error {
	question := &ndp.NeighborSolicitation{
		TargetAddress: address,
		Options:       []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: port.HardwareAddr}},
	}
	if err := unix.SetsockoptInt(socket, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 255); err != nil {
		return err
	}
	group, err := ndp.SolicitedNodeMulticast(address)
	if err != nil {
		return err
	}
	text, err := ndp.MarshalMessage(question) // the kernel puts the checksum in
	if err != nil {
		return err
	}
	return unix.Sendto(socket, text, 0, &unix.SockaddrInet6{Addr: group.As16(), ZoneId: uint32(port.Index)})
}

// advertised returns the hardware addresses that a message gives for the address, if it is an
// answer.
func advertised(text []byte, address netip.Addr) []net.HardwareAddr {
	message, err := ndp.ParseMessage(text)
	if err != nil {
		return nil // of another protocol
	}
	answer, ok := message.(*ndp.NeighborAdvertisement)
	if !ok || !answer.Solicited || answer.TargetAddress != address {
		return nil
	}
	var macs []net.HardwareAddr
	for _, o := range answer.Options {
		if l, ok := o.(*ndp.LinkLayerAddress); ok && l.Direction == ndp.Target {
			macs = append(macs, l.Addr)
		}
	}
	return macs
}
