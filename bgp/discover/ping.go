package discover

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// protocols are ICMP's numbers, by which its messages are parsed.
const protocolICMP, protocolICMPv6 = 1, 58

// headroom is more than the headers before an answer's data.
const headroom = 128

// Answers asks an address by ICMP echo, over a socket that control prepares if it is not nil, and
// reports whether it answers before the context ends. Not to answer says little: many hosts drop
// what they are asked.
func Answers(
	ctx context.Context,
	address netip.Addr,
	control func(network, address string, c syscall.RawConn) error,
) (bool, error) {
	return Echo(ctx, address, []byte("berth"), control)
}

// Echo is Answers with data of the caller's.
func Echo(
	ctx context.Context,
	address netip.Addr,
	data []byte,
	control func(network, address string, c syscall.RawConn) error,
) (bool, error) {
	network, local, protocol := "ip4:icmp", "0.0.0.0", protocolICMP
	var request, reply icmp.Type = ipv4.ICMPTypeEcho, ipv4.ICMPTypeEchoReply
	if address.Is6() {
		network, local, protocol = "ip6:ipv6-icmp", "::", protocolICMPv6
		request, reply = ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply
	}
	conn, err := (&net.ListenConfig{Control: control}).ListenPacket(ctx, network, local)
	if err != nil {
		return false, fmt.Errorf("ping %s: %w", address, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	echo := &icmp.Echo{ID: os.Getpid() & 0xffff, Seq: rand.IntN(1 << 16), Data: data}
	message, err := (&icmp.Message{Type: request, Body: echo}).Marshal(nil)
	if err != nil {
		return false, fmt.Errorf("ping %s: %w", address, err)
	}
	if _, err := conn.WriteTo(message, &net.IPAddr{IP: address.AsSlice(), Zone: address.Zone()}); err != nil {
		return false, fmt.Errorf("ping %s: %w", address, err)
	}
	b := make([]byte, max(1500, len(data)+headroom))
	for {
		n, from, err := conn.ReadFrom(b)
		if err != nil {
			return false, nil //nolint:nilerr // the context has ended
		}
		m, err := icmp.ParseMessage(protocol, b[:n])
		if err != nil || m.Type != reply || !sameHost(from, address) {
			continue
		}
		if got, ok := m.Body.(*icmp.Echo); ok && got.ID == echo.ID && got.Seq == echo.Seq {
			return true, nil
		}
	}
}

func sameHost(from net.Addr, address netip.Addr) bool {
	ip, ok := from.(*net.IPAddr)
	if !ok {
		return false
	}
	got, ok := netip.AddrFromSlice(ip.IP)
	return ok && got.Unmap() == address.WithZone("")
}
