//go:build root

package program

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/berth-lb/berth/speaker/dataplane/nft/nettest"
	"github.com/berth-lb/berth/speaker/dataplane/steering/decide"
)

// translate has connections to the Service go to this node, as kube-proxy would.
func translate(t *testing.T) {
	c, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "kube-proxy"})
	chain := c.AddChain(&nftables.Chain{
		Table: table, Name: "output", Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookOutput,
		Priority: nftables.ChainPriorityNATDest,
	})
	for _, to := range [][2]netip.Addr{{vip4, node4(self)}, {vip6, node6(self)}} {
		family, offset := byte(unix.NFPROTO_IPV4), uint32(16)
		if to[0].Is6() {
			family, offset = unix.NFPROTO_IPV6, 24
		}
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
			&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{family}},
			&expr.Payload{
				Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: uint32(to[0].BitLen() / 8), DestRegister: 1,
			},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: to[0].AsSlice()},
			&expr.Payload{Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2, DestRegister: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binary.BigEndian.AppendUint16(nil, port)},
			&expr.Immediate{Register: 1, Data: to[1].AsSlice()},
			&expr.Immediate{Register: 2, Data: binary.BigEndian.AppendUint16(nil, 8080)},
			&expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(family), RegAddrMin: 1, RegProtoMin: 2},
		}})
	}
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.DelTable(table); _ = c.Flush() })
}

// track makes conntrack entries for connections to the Service, as kube-proxy's rules do: with a
// translated destination. It returns the flows, of UDP on both families and TCP on IPv4; the last
// one is tracked, but not translated. Connections of TCP come to served.
func track(t *testing.T) (known []decide.Flow, untranslated decide.Flow, served *net.TCPListener) {
	addresses := fmt.Sprintf("%s/32 %s/128 %s/32 %s/128", client4, client6, node4(self), node6(self))
	nettest.Shell(
		t,
		`set -e; for a in %s; do ip addr add $a dev lo; done; ip route add %s dev lo; ip -6 route add %s dev lo`,
		addresses,
		vip4,
		vip6,
	)
	t.Cleanup(func() {
		nettest.Shell(
			t,
			`for a in %s; do ip addr del $a dev lo; done; ip route del %s; ip -6 route del %s`,
			addresses,
			vip4,
			vip6,
		)
	})
	translate(t)
	nettest.Shell(t, "sysctl -qw net.netfilter.nf_conntrack_udp_timeout=600") // longer than the test
	for i, f := range []decide.Flow{flow4(decide.UDP), flow6(decide.UDP), flow4(decide.UDP)} {
		f.Client = netip.AddrPortFrom(f.Client.Addr(), uint16(41000+i))
		if i == 2 {
			f.Service = netip.AddrPortFrom(node4(self), 53)
		}
		c, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(f.Client), net.UDPAddrFromAddrPort(f.Service))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		if _, err := c.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		if i < 2 {
			known = append(known, f)
		} else {
			untranslated = f
		}
	}
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(node4(self), 8080)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	f := flow4(decide.TCP)
	f.Client = netip.AddrPortFrom(f.Client.Addr(), 42000)
	c, err := net.DialTCP("tcp", net.TCPAddrFromAddrPort(f.Client), net.TCPAddrFromAddrPort(f.Service))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return append(known, f), untranslated, l
}

// converse opens a connection of TCP to the Service, which end closes on both sides.
func converse(t *testing.T, f decide.Flow, l *net.TCPListener) (end func()) {
	t.Helper()
	client, err := net.DialTCP("tcp", net.TCPAddrFromAddrPort(f.Client), net.TCPAddrFromAddrPort(f.Service))
	if err != nil {
		t.Fatal(err)
	}
	server := accept(t, l)
	for server.RemoteAddr().(*net.TCPAddr).AddrPort() != f.Client {
		server = accept(t, l) // the one before is of track
	}
	return func() {
		t.Helper()
		if err := server.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(client); err != nil {
			t.Fatal(err)
		}
		if err := client.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(server); err != nil { // until the client's end has come
			t.Fatal(err)
		}
		if err := server.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// accept leaves no connection behind, so that the next test has its port.
func accept(t *testing.T, l *net.TCPListener) *net.TCPConn {
	t.Helper()
	c, err := l.AcceptTCP()
	if err == nil {
		t.Cleanup(func() { c.Close() })
		err = c.SetLinger(0)
	}
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// middle is a frame from the middle of a connection.
func middle(f decide.Flow, ttl uint8) []byte {
	if f.Protocol == decide.TCP {
		return ethernet(packet(f, ttl, tcp(f.Client.Port(), port, ack)))
	}
	return ethernet(packet(f, ttl, udp(f.Client.Port(), port, 1, 2, 3)))
}

// The second chance asks the kernel's conntrack, for both families.
func TestSteer_secondChance(t *testing.T) {
	known, untranslated, served := track(t)
	r := load(t)
	s := usual()
	s.service.Flags = Local | TCPChance | UDPChance
	s.slot = decide.NoSlot.With(0, self, false).With(1, 2, false).WithMoved(true)
	r.write(s)
	r.must(r.Services.Put(serviceKey(untranslated.Service.Addr(), 53, decide.UDP), s.service))
	second := decide.Verdict{Action: decide.Steer, Reason: decide.Second, Node: 2, TTL: 16}
	for _, f := range known {
		frame := middle(f, 64)
		r.run(frame).
			expect(t, fmt.Sprint("known: ", f), frame, decide.Verdict{Reason: decide.Known, Node: self, TTL: 64})
		f.Client = netip.AddrPortFrom(f.Client.Addr(), 9)
		frame = middle(f, 64)
		r.run(frame).expect(t, fmt.Sprint("not known: ", f), frame, second)
	}
	frame := ethernet(packet(untranslated, 64, udp(untranslated.Client.Port(), 53)))
	r.run(frame).expect(t, "an entry that kube-proxy did not make", frame, second)

	f := known[2]
	frame = ethernet(packet(f, 64, tcp(f.Client.Port(), port, syn)))
	r.run(frame).expect(t, "a new connection", frame, decide.Verdict{Reason: decide.Local, Node: self, TTL: 64})
	quoted := ip(f.Service.Addr(), f.Client.Addr(), decide.TCP, 9, ports(port, f.Client.Port(), 0, 0, 0, 0))
	frame = ethernet(ip(node4(1), vip4, 1, 64, icmpError(3, 4, quoted)))
	r.run(frame).expect(t, "an ICMP error about it", frame, decide.Verdict{Reason: decide.Known, Node: self, TTL: 64})
	frame = ethernet(packet(flow4(decide.SCTP), 64, sctp(40000, port)))
	r.run(frame).expect(t, "SCTP has none", frame, decide.Verdict{Reason: decide.Local, Node: self, TTL: 64})

	f.Client = netip.AddrPortFrom(f.Client.Addr(), 42001)
	frame = middle(f, 64)
	end := converse(t, f, served)
	r.run(frame).
		expect(t, "another connection", frame, decide.Verdict{Reason: decide.Known, Node: self, TTL: 64})
	end()
	r.run(frame).expect(t, "one that has ended", frame, second)

	s.config.Settled = math.MaxUint64
	s.slot = decide.NoSlot.With(0, self, false).WithMoved(true)
	r.write(s)
	stranger := flow4(decide.TCP)
	frame = middle(stranger, 64)
	r.run(frame).
		expect(t, "tables have just changed", frame,
			decide.Verdict{Action: decide.Drop, Reason: decide.Unsettled, Node: self, TTL: 64})
	frame = middle(flow4(decide.UDP), 64)
	r.run(frame).
		expect(t, "UDP would not try again", frame, decide.Verdict{Reason: decide.Unknown, Node: self, TTL: 64})
}

// The program decides as package decide does, whatever the tables and nodes are.
func TestSteer_decides(t *testing.T) {
	known, _, _ := track(t)
	r := load(t)
	random := rand.New(rand.NewPCG(3, 4))
	reasons := map[decide.Reason]int{}
	for range 3000 {
		s, v := randomSettings(random)
		r.write(s)
		f, isKnown := known[random.IntN(len(known))], random.IntN(2) == 0
		if !isKnown {
			f.Client = netip.AddrPortFrom(f.Client.Addr(), uint16(1+random.IntN(1000)))
		}
		v.TTL = uint8(1 + random.IntN([]int{255, 30}[random.IntN(2)]))
		frame := middle(f, v.TTL)
		v.Chance = s.service.Flags&TCPChance != 0
		if f.Protocol == decide.UDP {
			v.Chance = s.service.Flags&UDPChance != 0
			v.Bounces, v.Held = v.Chance, false
		}
		want := v.Decide(isKnown)
		reasons[want.Reason]++
		if r.run(frame).expect(t, fmt.Sprintf("%+v", v), frame, want); t.Failed() {
			return
		}
	}
	for _, reason := range []decide.Reason{
		decide.First, decide.Corrected, decide.Second, decide.Returned, decide.Local, decide.Known, decide.Unknown,
		decide.Exhausted, decide.Unsettled, decide.NoTable,
	} {
		if reasons[reason] == 0 {
			t.Errorf("no case ended as %v", reason)
		}
	}
}

func randomSettings(random *rand.Rand) (settings, decide.View) {
	s := usual()
	v := decide.View{Slot: decide.NoSlot, Self: self}
	nodes := []uint16{1, 2, 3, 4, 5, self}
	random.Shuffle(len(nodes), func(i, j int) { nodes[i], nodes[j] = nodes[j], nodes[i] })
	for i := range random.IntN(decide.Ranks + 1) {
		n := s.nodes[nodes[i]]
		v.Alive[i], v.Returned[i] = random.IntN(3) > 0, random.IntN(3) == 0
		n.Flags = 0
		v.Dead[i] = random.IntN(3) == 0
		if v.Alive[i] {
			n.Flags |= Alive
		}
		if v.Dead[i] {
			n.Flags |= Dead
		}
		if v.Returned[i] {
			n.Flags |= Returned
		}
		s.nodes[nodes[i]] = n
		v.Slot = v.Slot.With(i, nodes[i], random.IntN(4) == 0)
	}
	v.Slot = v.Slot.WithMoved(random.IntN(2) == 0)
	s.slot = v.Slot
	if v.Held = random.IntN(2) == 0; v.Held {
		s.config.Settled = math.MaxUint64
	}
	s.service.Flags = uint32(random.IntN(8)) // TCPChance, UDPChance, Local
	v.Local = s.service.Flags&Local != 0
	return s, v
}
