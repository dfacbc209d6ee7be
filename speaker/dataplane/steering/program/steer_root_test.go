//go:build root

package program

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/berth-lb/berth/speaker/dataplane/steering/decide"
)

// first is the verdict on a packet that is new here.
var first = decide.Verdict{Action: decide.Steer, Reason: decide.First, Node: 1, TTL: 24}

// Each kind of packet of a connection goes to the same node.
func TestSteer_packets(t *testing.T) {
	r := load(t)
	r.write(usual())
	quoted4 := func(p uint8) []byte { return ip(vip4, client4, p, 60, ports(port, 40000, 1, 2, 3, 4)) }
	quoted6 := func(p uint8) []byte { return ip(vip6, client6, p, 60, ports(port, 40000, 1, 2, 3, 4)) }
	for _, c := range []struct {
		name   string
		packet []byte
	}{
		{"TCP, SYN", packet(flow4(decide.TCP), 64, tcp(40000, port, syn))},
		{"TCP, ACK", packet(flow4(decide.TCP), 64, tcp(40000, port, ack))},
		{"UDP", packet(flow4(decide.UDP), 64, udp(40000, port, 1, 2, 3))},
		{"SCTP", packet(flow4(decide.SCTP), 64, sctp(40000, port))},
		{"TCP on IPv6, SYN", packet(flow6(decide.TCP), 64, tcp(40000, port, syn))},
		{"TCP on IPv6, ACK", packet(flow6(decide.TCP), 64, tcp(40000, port, ack))},
		{"UDP on IPv6", packet(flow6(decide.UDP), 64, udp(40000, port, 1, 2, 3))},
		{"SCTP on IPv6", packet(flow6(decide.SCTP), 64, sctp(40000, port))},
		{"IPv4 options", ipv4(client4, vip4, decide.TCP, 64, 0x4000, tcp(40000, port, syn), 1, 1, 1, 0)},
		{"ICMP, TTL exceeded", ip(netip.MustParseAddr("192.0.2.1"), vip4, 1, 64, icmpError(11, 0, quoted4(decide.TCP)))},
		{"ICMP, too big", ip(netip.MustParseAddr("192.0.2.1"), vip4, 1, 64, icmpError(3, 4, quoted4(decide.UDP)))},
		{"ICMPv6, too big", ip(netip.MustParseAddr("2001:db8:f::1"), vip6, 58, 64, icmpError(2, 0, quoted6(decide.TCP)))},
		{
			"ICMPv6 about a packet with options",
			ip(client6, vip6, 58, 64, icmpError(1, 4, ipv6(vip6, client6, 60, 3, extension(decide.UDP, udp(port, 40000))))),
		},
		{"hop-by-hop options", ipv6(client6, vip6, 0, 64, extension(decide.TCP, tcp(40000, port, syn)))},
		{
			"several extension headers",
			ipv6(client6, vip6, 0, 64, extension(43, routing(60, 0, extension(decide.UDP, udp(40000, port))))),
		},
		{"a whole packet as a fragment", ipv6(client6, vip6, 44, 64, fragment6(decide.UDP, 0, false, udp(40000, port)))},
	} {
		frame := ethernet(c.packet)
		r.run(frame).expect(t, c.name, frame, first)
	}
}

// What the program must leave alone.
func TestSteer_passes(t *testing.T) {
	r := load(t)
	r.write(usual())
	other := ethernet(packet(flow4(decide.TCP), 64, tcp(40000, port, syn)))
	other[5] = 1
	about4 := func(quoted []byte) []byte { return ethernet(ip(client4, vip4, 1, 64, icmpError(3, 4, quoted))) }
	about6 := func(quoted []byte) []byte { return ethernet(ip(client6, vip6, 58, 64, icmpError(2, 0, quoted))) }
	whole := ethernet(packet(flow4(decide.TCP), 64, tcp(40000, port, syn)))
	for _, c := range []struct {
		name  string
		frame []byte
	}{
		{"another port", ethernet(ip(client4, vip4, decide.TCP, 64, tcp(40000, 80, syn)))},
		{"another address", ethernet(ip(client4, node4(9), decide.TCP, 64, tcp(40000, port, syn)))},
		{"another host's", other},
		{"ARP", append(make([]byte, 12), 8, 6, 0, 1, 8, 0, 6, 4, 0, 1)},
		{"a tag in the frame", ethernet(packet(flow4(decide.TCP), 64, tcp(40000, port, syn)), 0x81, 0, 0, 100)},
		{"ping", ethernet(ip(client4, vip4, 1, 64, icmpError(8, 0, nil)))},
		{"ping on IPv6", ethernet(ip(client6, vip6, 58, 64, icmpError(128, 0, nil)))},
		{"an ICMP error about another address", about4(ip(node4(1), client4, 6, 9, tcp(port, 1, 0)))},
		{"an ICMPv6 error about another address", about6(ip(node6(1), client6, 6, 9, tcp(port, 1, 0)))},
		{"an ICMP error about an ICMP packet", about4(ip(vip4, client4, 1, 9, icmpError(8, 0, nil)))},
		{"GRE", ethernet(ip(client4, vip4, 47, 64, tcp(40000, port, syn)))},
		{"to be routed on", ethernet(ipv6(client6, vip6, 43, 64, routing(decide.TCP, 1, tcp(40000, port, syn))))},
		{"no next header", ethernet(ipv6(client6, vip6, 59, 64, nil))},
		{"cut off", whole[:14+20+3]},
		{"cut off before the flags", whole[:14+20+13]},
		{"header too short", ethernet(append([]byte{0x44}, packet(flow4(decide.TCP), 64, tcp(40000, port, syn))[1:]...))},
		{"a fragment whose first is not known", ethernet(ipv4(client4, vip4, decide.UDP, 64, 1, []byte("more")))},
		{"one of IPv6", ethernet(ipv6(client6, vip6, 44, 64, fragment6(decide.UDP, 8, false, []byte("more"))))},
		{"more extension headers than anybody needs", ethernet(ipv6(client6, vip6, 0, 64, deep(7)))},
	} {
		r.run(c.frame).expectPass(t, c.name, c.frame)
	}
}

func deep(n int) []byte {
	if n == 0 {
		return udp(40000, port)
	}
	next := uint8(60)
	if n == 1 {
		next = decide.UDP
	}
	return extension(next, deep(n-1))
}

// Fragments after the first follow it.
func TestSteer_fragments(t *testing.T) {
	r := load(t)
	r.write(usual())
	for _, c := range []struct {
		name        string
		first, more []byte
	}{
		{
			"IPv4", ipv4(client4, vip4, decide.UDP, 64, 0x2000, udp(40000, port)),
			ipv4(client4, vip4, decide.UDP, 64, 1, []byte("more")),
		},
		{
			"IPv6", ipv6(client6, vip6, 44, 64, fragment6(decide.UDP, 0, true, udp(40000, port))),
			ipv6(client6, vip6, 44, 64, fragment6(decide.UDP, 8, false, []byte("more"))),
		},
		{
			"IPv6 after options",
			ipv6(client6, vip6, 0, 64, extension(44, fragment6(decide.TCP, 0, true, tcp(40000, port, ack)))),
			ipv6(client6, vip6, 0, 64, extension(44, fragment6(decide.TCP, 24, false, []byte("more")))),
		},
	} {
		overtook := ethernet(c.more)
		r.run(overtook).expectPass(t, c.name+", one that overtook the first", overtook)
		for i, p := range [][]byte{c.first, c.more, c.more} {
			frame := ethernet(p)
			r.run(frame).expect(t, fmt.Sprint(c.name, ", fragment ", i), frame, first)
		}
	}
}

// Go computes the same hash.
func TestSteer_hash(t *testing.T) {
	r := load(t)
	s := usual()
	for i := range uint16(slots) { // each slot has a node of its own
		s.nodes[i+1] = s.nodes[1]
		s.nodes[i+1+slots] = s.nodes[1]
	}
	random := rand.New(rand.NewPCG(1, 2))
	for round := range 400 {
		s.service.Flags = []uint32{0, Affinity}[round/4%2]
		if round%4 == 0 {
			s.config.Seed = decide.Seed{random.Uint64(), random.Uint64()}
			r.write(s)
			for i := range uint32(slots) {
				r.must(r.page.Put(i, uint64(decide.NoSlot.With(0, uint16(i+1+slots), false))))
			}
		}
		f := flow4([]uint8{decide.TCP, decide.UDP, decide.SCTP}[round%3])
		if round%2 == 0 {
			f = flow6(f.Protocol)
			var a [16]byte
			for i := range a {
				a[i] = byte(random.Uint32())
			}
			f.Client = netip.AddrPortFrom(netip.AddrFrom16(a), uint16(random.Uint32()))
		} else {
			var a [4]byte
			for i := range a {
				a[i] = byte(random.Uint32())
			}
			f.Client = netip.AddrPortFrom(netip.AddrFrom4(a), uint16(random.Uint32()))
		}
		want := decide.SlotOf(f.Hash(s.config.Seed, s.service.Flags&Affinity != 0), slots) + 1 + slots
		got := r.run(ethernet(packet(f, 64, tcp(f.Client.Port(), port, syn))))
		if node := got.counted[decide.First]; int(node) != want {
			t.Fatalf("%v, by source only %t: node %d, want %d", f, s.service.Flags&Affinity != 0, node, want)
		}
	}
}

// By source only, all connections of a client go to one node: whatever port and protocol.
func TestSteer_affinity(t *testing.T) {
	r := load(t)
	s := usual()
	s.service.Flags = Affinity
	r.write(s)
	for i := range uint32(slots) {
		r.must(r.page.Put(i, uint64(decide.NoSlot.With(0, uint16(i%6+1), false))))
	}
	for _, f := range []decide.Flow{flow4(decide.TCP), flow6(decide.TCP)} {
		nodes := map[uint16]bool{}
		for from := range uint16(50) {
			nodes[r.run(ethernet(packet(f, 64, tcp(from+1, port, syn)))).counted[decide.First]] = true
			other := ip(f.Client.Addr(), f.Service.Addr(), decide.UDP, 64, udp(from+1, port))
			nodes[r.run(ethernet(other)).counted[decide.First]] = true
		}
		if len(nodes) != 1 || nodes[0] {
			t.Errorf("connections of one client went to nodes %v", nodes)
		}
	}
}

func TestSteer_switches(t *testing.T) {
	r := load(t)
	frames := [][]byte{
		ethernet(packet(flow4(decide.TCP), 64, tcp(40000, port, syn))),
		ethernet(ip(node4(2), node4(self), 4, 64, packet(flow4(decide.TCP), 24, tcp(40000, port, syn)))),
	}
	for _, c := range []struct {
		name   string
		change func(*Configuration)
	}{
		{"the deadline passed", func(c *Configuration) { c.Deadline = monotonic() - 1e9 }},
		{"nothing was ever written", func(c *Configuration) { *c = Configuration{} }},
		{"it is switched off", func(c *Configuration) { c.Flags = 0 }},
	} {
		s := usual()
		c.change(&s.config)
		r.write(s)
		for _, f := range frames {
			r.run(f).expectPass(t, c.name, f)
		}
	}
	s := usual()
	s.config.Deadline = monotonic() + 60e9
	r.write(s)
	r.run(frames[0]).expect(t, "the deadline is to come", frames[0], first)
}

func TestSteer_sourceRanges(t *testing.T) {
	r := load(t)
	s := usual()
	s.service.Flags = Ranges
	r.write(s)
	refused := decide.Verdict{Action: decide.Pass, Reason: decide.Source, Node: self, TTL: 64}
	frame4 := ethernet(packet(flow4(decide.TCP), 64, tcp(40000, port, syn)))
	frame6 := ethernet(packet(flow6(decide.TCP), 64, tcp(40000, port, syn)))
	r.must(r.SourceRanges.Put(RangeKey{32 + 128, serviceID + 1, AddressOf(client4)}, uint32(1)))
	r.run(frame4).expect(t, "no range of this Service", frame4, refused)
	r.must(
		r.SourceRanges.Put(
			RangeKey{32 + 96 + 24, serviceID, AddressOf(netip.MustParseAddr("203.0.113.0"))},
			uint32(1),
		),
	)
	r.run(frame4).expect(t, "in the range", frame4, first)
	r.run(frame6).expect(t, "IPv6 is not", frame6, refused)
	r.must(
		r.SourceRanges.Put(RangeKey{32 + 48, serviceID, AddressOf(netip.MustParseAddr("2001:db8:1::"))}, uint32(1)),
	)
	r.run(frame6).expect(t, "IPv6 in the range", frame6, first)
}

func TestSteer_noTable(t *testing.T) {
	r := load(t)
	frame := ethernet(packet(flow4(decide.TCP), 64, tcp(40000, port, syn)))
	for name, change := range map[string]func(*Service){
		"no such page": func(s *Service) { s.Page = 5 }, "beyond the page": func(s *Service) { s.Start = PageSlots },
	} {
		s := usual()
		change(&s.service)
		r.write(s)
		r.run(frame).expect(t, name, frame, decide.Verdict{Reason: decide.NoTable, Node: self, TTL: 64})
	}
	s := usual()
	s.nodes[1] = Node{Flags: Alive}
	r.write(s)
	r.run(frame).expect(t, "no path to the node", frame, decide.Verdict{Reason: decide.NoPath, Node: self, TTL: 64})
}
