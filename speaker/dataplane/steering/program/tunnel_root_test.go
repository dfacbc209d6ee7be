//go:build root

package program

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/berth-lb/berth/speaker/dataplane/steering/decide"
)

// tunnel is an encapsulated packet between nodes.
func tunnel(from, to netip.Addr, inner []byte) []byte {
	if from.Is4() {
		return ipv4(from, to, 4, 64, 0x4000, inner)
	}
	return ipv6(from, to, 41, 64, inner)
}

// A packet that is for this Service is unpacked and judged; its TTL says how often it was
// forwarded.
func TestSteer_decapsulates(t *testing.T) {
	r := load(t)
	s := usual()
	s.service.Flags = Local
	s.slot = decide.NoSlot.With(0, self, false).With(1, 2, false)
	r.write(s)
	for _, c := range []struct {
		name     string
		from, to netip.Addr
		inner    []byte
	}{
		{"TCP in IPv4", node4(2), node4(self), packet(flow4(decide.TCP), 24, tcp(40000, port, syn))},
		{"UDP in IPv6", node6(2), node6(self), packet(flow6(decide.UDP), 24, udp(40000, port))},
		{
			"an ICMP error", node4(2), node4(self),
			ip(client4, vip4, 1, 24, icmpError(3, 4, ip(vip4, client4, 6, 9, ports(port, 40000, 0, 0, 0, 0)))),
		},
	} {
		got := r.run(ethernet(tunnel(c.from, c.to, c.inner)))
		got.expect(t, c.name, ethernet(c.inner),
			decide.Verdict{Reason: decide.Local, Node: self, TTL: 24}, decide.Decapsulated)
	}
}

// Only what nodes send to this one, for a Service, is unpacked. The kernel gets the rest as it is.
func TestSteer_decapsulatesNothingElse(t *testing.T) {
	r := load(t)
	r.write(usual())
	inner4 := packet(flow4(decide.TCP), 24, tcp(40000, port, syn))
	inner6 := packet(flow6(decide.TCP), 24, tcp(40000, port, syn))
	for name, p := range map[string][]byte{
		"from no node":          tunnel(client4, node4(self), inner4),
		"from no node, IPv6":    tunnel(client6, node6(self), inner6),
		"to another":            tunnel(node4(2), node4(3), inner4),
		"to another, IPv6":      tunnel(node6(2), node6(3), inner6),
		"for no Service":        tunnel(node4(2), node4(self), ip(client4, node4(self), 6, 24, tcp(1, port, syn))),
		"for another port":      tunnel(node4(2), node4(self), ip(client4, vip4, 6, 24, tcp(1, 80, syn))),
		"packed twice":          tunnel(node4(2), node4(self), tunnel(node4(2), node4(self), inner4)),
		"IPv6 in IPv4":          ipv4(node4(2), node4(self), 41, 64, 0, inner6),
		"IPv4 in IPv6":          ipv6(node6(2), node6(self), 4, 64, inner4),
		"a fragment":            ipv4(node4(2), node4(self), 4, 64, 0x2000, inner4),
		"what is inside is cut": tunnel(node4(2), node4(self), inner4[:22]),
	} {
		frame := ethernet(p)
		r.run(frame).expectPass(t, name, frame)
	}
}

// To a node that is elsewhere packets go encapsulated, with the checksum and lengths that belong to
// it.
func TestSteer_encapsulates(t *testing.T) {
	r := load(t)
	s := usual()
	n := s.nodes[1]
	n.Flags |= Encapsulate
	s.nodes[1] = n
	r.write(s)
	for _, c := range []struct {
		name   string
		packet func(ttl uint8) []byte
		outer  func(inner []byte) []byte
	}{
		{
			"IPv4", func(ttl uint8) []byte { return packet(flow4(decide.TCP), ttl, tcp(40000, port, syn)) },
			func(inner []byte) []byte {
				outer := ipv4(node4(self), node4(1), 4, 64, 0x4000, inner)
				outer[4], outer[5], outer[10], outer[11] = 0, 0, 0, 0 // it is never in fragments, so it needs no identification
				sum := checksum(outer[:20])
				outer[10], outer[11] = byte(sum>>8), byte(sum)
				return outer
			},
		},
		{
			"IPv6", func(ttl uint8) []byte { return packet(flow6(decide.UDP), ttl, udp(40000, port, 1, 2, 3)) },
			func(inner []byte) []byte { return ipv6(node6(self), node6(1), 41, 64, inner) },
		},
	} {
		got := r.run(ethernet(c.packet(64)))
		want := ethernet(c.outer(c.packet(24)))
		if got.result != redirect || got.counted[decide.First] != 1 || !bytes.Equal(got.frame, want) {
			t.Errorf("%s: %d, %v,\n%x, want\n%x", c.name, got.result, got.counted, got.frame, want)
		}
	}
}

// What would be too big for the path is not sent. Its sender hears how much would fit, where it
// asked for that.
func TestSteer_tooBig(t *testing.T) {
	r := load(t)
	s := usual()
	n := s.nodes[1]
	n.Flags |= Encapsulate
	s.nodes[1] = n
	r.write(s)
	data := make([]byte, 1500-20-20-8)
	fits := ipv4(client4, vip4, decide.UDP, 64, 0x4000, udp(40000, port, data...))
	if got := r.run(ethernet(fits)); got.result != redirect || got.counted[decide.First] != 1 {
		t.Errorf("what just fits: %d, %v", got.result, got.counted)
	}
	data = append(data, 0)
	big4 := ipv4(client4, vip4, decide.UDP, 64, 0x4000, udp(40000, port, data...))
	big6 := ipv6(client6, vip6, decide.TCP, 64, append(tcp(40000, port, ack), data...))
	error4 := append([]byte{3, 4, 0, 0, 0, 0, 1480 >> 8, 1480 & 0xff}, big4[:40]...)
	binary.BigEndian.PutUint16(error4[2:], checksum(error4))
	error6 := append([]byte{2, 0, 0, 0, 0, 0, 1460 >> 8, 1460 & 0xff}, big6[:60]...)
	pseudo := append(append(node6(self).AsSlice(), client6.AsSlice()...), 0, 0, 0, byte(len(error6)), 0, 0, 0, 58)
	binary.BigEndian.PutUint16(error6[2:], checksum(append(pseudo, error6...)))
	want4 := ipv4(node4(self), client4, 1, 64, 0, error4)
	want4[4], want4[5], want4[10], want4[11] = 0, 0, 0, 0
	binary.BigEndian.PutUint16(want4[10:], checksum(want4[:20]))
	for name, c := range map[string]struct{ packet, want []byte }{
		"IPv4": {big4, want4}, "IPv6": {big6, ipv6(node6(self), client6, 58, 64, error6)},
	} {
		frame := ethernet(c.packet)
		copy(frame[6:], "router")
		want := ethernet(c.want)
		copy(want, "router")
		got := r.run(frame)
		if got.result != redirect || got.counted[decide.TooBig] != 1 || !bytes.Equal(got.frame, want) {
			t.Errorf("%s: %d, %v,\n%x, want\n%x", name, got.result, got.counted, got.frame, want)
		}
	}
	for name, p := range map[string][]byte{
		"what may be cut":  ipv4(client4, vip4, decide.UDP, 64, 0, udp(40000, port, data...)),
		"a first fragment": ipv4(client4, vip4, decide.UDP, 64, 0x6000, udp(40000, port, data...)),
		"an ICMP error": ip(client4, vip4, 1, 64,
			icmpError(3, 4, append(ip(vip4, client4, 6, 9, ports(port, 1, 0, 0, 0, 0)), data...))),
		"an ICMPv6 error": ip(client6, vip6, 58, 64,
			icmpError(2, 0, append(ip(vip6, client6, 6, 9, ports(port, 1, 0, 0, 0, 0)), data...))),
		"after options": ipv6(client6, vip6, 0, 64, extension(decide.UDP, udp(40000, port, data...))),
	} {
		if got := r.run(ethernet(p)); got.result != shot || got.counted[decide.TooBig] != 1 {
			t.Errorf("%s: %d, %v", name, got.result, got.counted)
		}
	}
}
