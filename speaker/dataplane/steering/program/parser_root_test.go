//go:build root

package program

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"testing"

	"github.com/berth-lb/berth/speaker/dataplane/steering/decide"
)

// read is what bpf/parse.h says of a packet, written once more in Go.
type read struct {
	flow   decide.Flow
	ttl    uint8
	middle bool // of a connection of TCP
	tunnel bool
}

// fragmentOf is what later fragments find their ports by.
type fragmentOf struct {
	client, service netip.Addr
	id              uint32
	protocol        uint8
}

type model struct{ fragments map[fragmentOf][2]uint16 }

// parse reads what an IP packet is. Not ok: it passes.
func (m model) parse(ethertype uint16, b []byte) (p read, ok bool) {
	defer func() { // whatever is read beyond the end is no packet
		if recover() != nil {
			ok = false
		}
	}()
	if ethertype == 0x86dd {
		return m.parse6(b)
	}
	return m.parse4(b)
}

func (m model) parse4(b []byte) (p read, ok bool) {
	_ = b[19]
	length := int(b[0]&0xf) * 4
	if b[0]>>4 != 4 || length < 20 {
		return p, false
	}
	from, to := netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
	frag := binary.BigEndian.Uint16(b[6:])
	p = read{flow: flowOf(from, to, b[9]), ttl: b[8]}
	fragmented := frag&0x3fff != 0
	if b[9] == 4 && !fragmented && length == 20 {
		p.tunnel = true
		return p, true
	}
	id := uint32(binary.LittleEndian.Uint16(b[4:]))
	if b[9] == 1 && !fragmented {
		if kind := b[length:][0]; kind != 3 && kind != 11 && kind != 12 {
			return p, false
		}
		q := b[length+8:]
		_ = q[19]
		if q[0]>>4 != 4 || q[0]&0xf < 5 || netip.AddrFrom4([4]byte(q[12:16])) != to ||
			binary.BigEndian.Uint16(q[6:])&0x1fff != 0 {
			return p, false
		}
		p.flow = flowOf(netip.AddrFrom4([4]byte(q[16:20])), to, q[9])
		return p.quoted(q[int(q[0]&0xf)*4:])
	}
	return m.payload(p, b[min(length, len(b)):], fragmented, frag&0x1fff != 0, id)
}

func flowOf(from, to netip.Addr, protocol uint8) decide.Flow {
	return decide.Flow{Client: netip.AddrPortFrom(from, 0), Service: netip.AddrPortFrom(to, 0), Protocol: protocol}
}

func (p read) withPorts(from, to uint16) read {
	p.flow.Client = netip.AddrPortFrom(p.flow.Client.Addr(), from)
	p.flow.Service = netip.AddrPortFrom(p.flow.Service.Addr(), to)
	return p
}

func hasPorts(protocol uint8) bool {
	return protocol == decide.TCP || protocol == decide.UDP || protocol == decide.SCTP
}

func (p read) quoted(l4 []byte) (read, bool) {
	p.middle = true
	return p.withPorts(binary.BigEndian.Uint16(l4[2:4]), binary.BigEndian.Uint16(l4[:2])), hasPorts(p.flow.Protocol)
}

func (m model) payload(p read, l4 []byte, fragmented, later bool, id uint32) (read, bool) {
	if !hasPorts(p.flow.Protocol) {
		return p, false
	}
	key := fragmentOf{p.flow.Client.Addr(), p.flow.Service.Addr(), id, p.flow.Protocol}
	if later {
		known, ok := m.fragments[key]
		p.middle = true
		return p.withPorts(known[0], known[1]), ok
	}
	p = p.withPorts(binary.BigEndian.Uint16(l4[:2]), binary.BigEndian.Uint16(l4[2:4]))
	if p.flow.Protocol == decide.TCP {
		p.middle = l4[13]&syn == 0
	}
	if fragmented {
		m.fragments[key] = [2]uint16{p.flow.Client.Port(), p.flow.Service.Port()}
	}
	return p, true
}

func (m model) parse6(b []byte) (p read, ok bool) {
	_ = b[39]
	if b[0]>>4 != 6 {
		return p, false
	}
	from, to := netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
	p = read{flow: flowOf(from, to, b[6]), ttl: b[7]}
	if b[6] == 41 {
		p.tunnel = true
		return p, true
	}
	e, ok := skip(b[6], b[40:])
	if !ok {
		return p, false
	}
	p.flow.Protocol = e.protocol
	if e.protocol == 58 && !e.fragmented {
		if kind := e.rest[0]; kind == 0 || kind > 4 {
			return p, false
		}
		q := e.rest[8:]
		_ = q[39]
		inner, ok := skip(q[6], q[40:])
		if !ok || inner.later || netip.AddrFrom16([16]byte(q[8:24])) != to {
			return p, false
		}
		p.flow = flowOf(netip.AddrFrom16([16]byte(q[24:40])), to, inner.protocol)
		return p.quoted(inner.rest)
	}
	return m.payload(p, e.rest, e.fragmented, e.later, e.id)
}

type extensions struct {
	protocol          uint8
	fragmented, later bool
	id                uint32
	rest              []byte
}

// skip skips extension headers, at most five of them.
func skip(next uint8, b []byte) (e extensions, ok bool) {
	e.protocol = next
	for range 6 {
		length := 0
		switch e.protocol {
		case 0, 43, 60, 135:
			if length = (int(b[1]) + 1) * 8; e.protocol == 43 && b[3] != 0 || len(b) < 4 {
				return e, false
			}
		case 44:
			if e.fragmented {
				return e, false
			}
			_ = b[7]
			length = 8
			e.later = binary.BigEndian.Uint16(b[2:])&0xfff8 != 0
			e.fragmented = e.later || b[3]&1 != 0
			e.id = binary.BigEndian.Uint32(b[4:])
		default:
			e.rest = b
			return e, true
		}
		e.protocol, b = b[0], b[min(length, len(b)):]
		if e.later {
			e.rest = b
			return e, true
		}
	}
	return e, false
}

// expectation is what becomes of a frame when no slot moved and all are alive.
func (m model) expectation(s settings, frame []byte) (want decide.Verdict, steered, unpacked bool, inner []byte) {
	if !bytes.Equal(frame[:6], make([]byte, 6)) {
		return want, false, false, nil
	}
	ethertype, b := binary.BigEndian.Uint16(
		frame[12:],
	), slices.Clip(
		frame[14:],
	) // so that reading beyond the end panics
	if ethertype != 0x0800 && ethertype != 0x86dd {
		return want, false, false, nil
	}
	p, ok := m.parse(ethertype, b)
	if ok && p.tunnel {
		from, to := p.flow.Client.Addr(), p.flow.Service.Addr()
		if to != node4(self) && to != node6(self) || !isNode(s, from) {
			return want, false, false, nil
		}
		b = b[map[uint16]int{0x0800: 20, 0x86dd: 40}[ethertype]:]
		unpacked = true
		if p, ok = m.parse(ethertype, b); p.tunnel {
			ok = false
		}
	}
	address := p.flow.Service.Addr()
	if !ok || p.flow.Service.Port() != port || address != vip4 && address != vip6 {
		return want, false, false, nil
	}
	v := decide.View{
		Slot: s.slot, Self: self, Alive: [decide.Ranks]bool{true, true, true, true}, TTL: p.ttl,
		Chance: p.flow.Protocol == decide.TCP && p.middle,
	}
	return v.Decide(false), true, unpacked, b
}

func isNode(s settings, a netip.Addr) bool {
	for _, n := range s.nodes {
		if netip.AddrFrom4(n.Addr4) == a || netip.AddrFrom16(n.Addr6) == a {
			return true
		}
	}
	return false
}

// seeds are frames that others are made of.
func seeds() [][]byte {
	var packets [][]byte
	for _, ttl := range []uint8{64, 20, 5} {
		for _, p := range []uint8{decide.TCP, decide.UDP, decide.SCTP} {
			l4 := map[uint8][]byte{
				decide.TCP: tcp(40000, port, ack), decide.UDP: udp(40000, port, 1, 2), decide.SCTP: sctp(1, port),
			}[p]
			packets = append(
				packets,
				packet(flow4(p), ttl, l4),
				packet(flow6(p), ttl, l4),
				ipv4(client4, vip4, p, ttl, 0x2000, l4),
				ipv4(client4, vip4, p, ttl, 3, l4),
				ipv6(
					client6,
					vip6,
					44,
					ttl,
					fragment6(p, 0, true, l4),
				),
				ipv6(client6, vip6, 44, ttl, fragment6(p, 8, false, l4)),
				ipv6(client6, vip6, 0, ttl, extension(43, routing(60, 0, extension(p, l4)))),
				ip(client4, vip4, 1, ttl, icmpError(3, 4, ip(vip4, client4, p, 3, ports(port, 7, 0, 0, 0, 0)))),
				ip(client6, vip6, 58, ttl, icmpError(2, 0, ip(vip6, client6, p, 3, ports(port, 7, 0, 0, 0, 0)))),
			)
		}
	}
	var frames [][]byte
	for _, p := range packets {
		outer := tunnel(node4(2), node4(self), p)
		if p[0]>>4 == 6 {
			outer = tunnel(node6(2), node6(self), p)
		}
		frames = append(frames, ethernet(p), ethernet(outer))
	}
	return frames
}

// mutate changes some bytes of a frame, or its length. Often only bits of its headers.
func mutate(random *rand.Rand, frame []byte) []byte {
	f := bytes.Clone(frame)
	for range random.IntN(4) {
		at := 14 + random.IntN(len(f)-14)
		switch random.IntN(5) {
		case 0:
			f[at] ^= 1 << random.IntN(8)
		case 1:
			f[at] = byte(random.Uint32())
		case 2:
			f[at] = []byte{0, 1, 4, 6, 17, 41, 43, 44, 58, 60, 132, 135}[random.IntN(12)]
		case 3:
			f = f[:max(at, min(len(f), 14+40))] // the kernel runs no program on less than a header
		case 4:
			f = append(f, f[at:]...)
		}
	}
	if random.IntN(50) == 0 {
		f[random.IntN(14)] ^= 1 << random.IntN(8)
	}
	return f
}

// frames is how many frames are tried: BERTH_STEERING_FRAMES, or few.
func frames(t *testing.T) int {
	text := os.Getenv("BERTH_STEERING_FRAMES")
	if text == "" {
		return 5000
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// Random frames end as the model in Go says, and those that pass are not touched.
func TestSteer_randomFrames(t *testing.T) {
	r := load(t)
	s := usual()
	s.service.Flags = TCPChance
	r.write(s)
	m := model{map[fragmentOf][2]uint16{}}
	chosen := rand.Uint64()
	t.Log("random numbers from", chosen)
	random, all := rand.New(rand.NewPCG(chosen, 0)), seeds()
	outcomes := map[string]int{}
	for range frames(t) {
		frame := mutate(random, all[random.IntN(len(all))])
		want, steered, unpacked, inner := m.expectation(s, frame)
		got := r.run(frame)
		name := fmt.Sprintf("%x", frame)
		switch {
		case !steered:
			got.expectPass(t, name, frame)
			outcomes["passes"]++
		case unpacked:
			got.expect(t, name, append(bytes.Clone(frame[:14]), inner...), want, decide.Decapsulated)
			outcomes["unpacked"]++
		default:
			got.expect(t, name, frame, want)
			outcomes[want.Reason.String()]++
		}
		if t.Failed() {
			t.Fatalf("want %+v, steered %t, unpacked %t", want, steered, unpacked)
		}
	}
	for _, kind := range []string{"passes", "unpacked", "first", "corrected"} {
		if outcomes[kind] < 50 {
			t.Errorf("too few frames end as %s: %v", kind, outcomes)
		}
	}
	t.Log(outcomes)
}
