//go:build root

package program

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"github.com/berth-lb/berth/speaker/dataplane/nft/nettest"
	"github.com/berth-lb/berth/speaker/dataplane/steering/decide"
)

// network is a client, here, whose packets an owner sends on to a node. The node answers directly.
type network struct {
	name string
	xdp  bool // else by tc
	// segments: the client sends TCP in segments as they are on a wire, and the owner puts them
	// together, as it does with what comes by a network card. Else a veth hands large ones over.
	segments bool
	client   netip.Addr
	bytes    atomic.Int64 // of TCP, that came to the node
	state    *ebpf.Map    // counts what came of UDP
	tcp      []float64    // Gbit/s, one of each round
	udp      []float64    // million packets in a second
}

// The ports of the Service: what comes to the second one is counted and dropped at the node.
const (
	bulkPort  = port
	smallPort = port + 1
	meanwhile = 500 * time.Millisecond
)

// BenchmarkXDP_sockets compares XDP with tc by what clients get over a veth, whose frames are skbs,
// and large ones for TCP. One round, of each in turn, is an op.
func BenchmarkXDP_sockets(b *testing.B) {
	networks := []*network{
		{name: "tc", segments: true},
		{name: "xdp", segments: true, xdp: true},
		{name: "tc-by-veth"},
	}
	for i, n := range networks {
		n.build(b, byte(i))
	}
	for b.Loop() {
		for _, n := range networks {
			n.udp = append(n.udp, n.small(b))
			n.tcp = append(n.tcp, n.bulk(b))
		}
	}
	tc, log := networks[0], ""
	for _, n := range networks {
		log += report(b, n.name+"-tcp-gbit/s", n.tcp)
		log += report(b, n.name+"-udp-mpps", n.udp)
	}
	for _, n := range networks[1:] {
		log += report(b, n.name+"/tc-tcp", ratios(n.tcp, tc.tcp))
		log += report(b, n.name+"/tc-udp", ratios(n.udp, tc.udp))
	}
	b.Log(log)
}

func (n *network) build(b *testing.B, number byte) {
	owner, node := nettest.Namespace(b), nettest.Namespace(b)
	n.client = netip.AddrFrom4([4]byte{203, 0, 113, 5 + number})
	nettest.Shell(b, `set -e
		ip link add to%[1]d type veth peer name eth0 netns %[2]s
		ip link add from%[1]d type veth peer name eth1 netns %[3]s
		o="%[4]s"; n="%[5]s"
		$o ip link add eth1 type veth peer name eth0 address 02:00:00:00:00:01 netns %[3]s
		for s in all default to%[1]d from%[1]d; do sysctl -qw net.ipv4.conf.$s.rp_filter=0; done
		for s in all default eth0 eth1; do $n sysctl -qw net.ipv4.conf.$s.rp_filter=0; done
		ip link set to%[1]d up; ip link set from%[1]d up
		for e in eth0 eth1; do $o ip link set $e up; $n ip link set $e up; done
		ip addr add 172.16.%[1]d.1/30 dev to%[1]d; $o ip addr add 172.16.%[1]d.2/30 dev eth0
		ip addr add 172.17.%[1]d.1/30 dev from%[1]d; $n ip addr add 172.17.%[1]d.2/30 dev eth1
		$o ip addr add 10.0.0.9/24 dev eth1; $n ip addr add 10.0.0.1/24 dev eth0
		$o sysctl -qw net.ipv4.ip_forward=1
		$n ip link set lo up; $n ip addr add %[6]s/32 dev lo
		ip addr add %[7]s/32 dev lo; $n ip route add %[7]s via 172.17.%[1]d.1
		ip rule add from %[7]s lookup 10%[1]d; ip route add %[6]s via 172.16.%[1]d.2 table 10%[1]d
		ip route replace %[6]s via 172.16.%[1]d.2
		$o ip neigh replace 10.0.0.1 lladdr 02:00:00:00:00:01 dev eth1 nud permanent`,
		number, nettest.PID(owner), nettest.PID(node), owner, node, vip4, n.client)
	b.Cleanup(func() {
		nettest.Shell(b, `ip rule del from %[2]s; ip addr del %[2]s/32 dev lo
			ip link del to%[1]d; ip link del from%[1]d`, number, n.client)
	})
	var err error
	n.state, err = ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 32, MaxEntries: 1})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { n.state.Close() })
	n.serve(b, node)
	if n.segments { // which have checksums; XDP would lose that one is still to be written
		ethtool(b, fmt.Sprint("to", number), setTXChecksum, 0)
	}
	nettest.Within(b, owner, func() { n.steer(b) })
}

// steer has what comes to the owner go to the node.
func (n *network) steer(b *testing.B) {
	from, err := net.InterfaceByName("eth0")
	if err != nil {
		b.Fatal(err)
	}
	to, err := net.InterfaceByName("eth1")
	if err != nil {
		b.Fatal(err)
	}
	r := load(b)
	s := usual()
	node := s.nodes[1]
	node.Interface = uint32(to.Index)
	s.nodes[1] = node
	r.write(s)
	r.must(r.Services.Put(serviceKey(vip4, smallPort, decide.UDP), s.service))
	if n.xdp {
		attachXDP(b, from.Index, loadForXDP(r, [6]byte(from.HardwareAddr)))
		return
	}
	attachTC(b, from.Index, r.Steer, ebpf.AttachTCXIngress)
	if n.segments {
		ethtool(b, "eth0", setGRO, 1)
	}
}

// serve has the node read what comes by TCP, and count what comes by UDP.
func (n *network) serve(b *testing.B, node string) {
	var l net.Listener
	nettest.Within(b, node, func() {
		eth0, err := net.InterfaceByName("eth0")
		if err != nil {
			b.Fatal(err)
		}
		if n.xdp { // else it takes no frames
			ethtool(b, "eth0", setGRO, 1)
		}
		attachTC(b, eth0.Index, countUDP(b, n.state), ebpf.AttachTCXIngress)
		if l, err = net.Listen("tcp4", netip.AddrPortFrom(vip4, bulkPort).String()); err != nil {
			b.Fatal(err)
		}
	})
	b.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // it was closed
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(counting{&n.bytes}, struct{ io.Reader }{c})
			}()
		}
	}()
}

// countUDP is a program that counts what comes of UDP, and drops it.
func countUDP(b *testing.B, state *ebpf.Map) *ebpf.Program {
	l := variant{state: state}
	return loadProgram(b, ebpf.SchedCLS, append(l.withState(),
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.Mov.Imm(asm.R2, 14+9), // the protocol
		asm.Mov.Reg(asm.R3, asm.RFP),
		asm.Add.Imm(asm.R3, -4),
		asm.Mov.Imm(asm.R4, 1),
		asm.FnSkbLoadBytes.Call(),
		asm.JNE.Imm(asm.R0, 0, "exit"),
		asm.LoadMem(asm.R1, asm.RFP, -4, asm.Byte),
		asm.JNE.Imm(asm.R1, decide.UDP, "exit"),
		asm.Mov.Imm(asm.R1, 1),
		asm.StoreXAdd(asm.R7, asm.R1, asm.DWord),
		asm.Mov.Imm(asm.R0, shot),
		asm.Return(),
		asm.Mov.Imm(asm.R0, next).WithSymbol("exit"),
		asm.Return(),
	))
}

type counting struct{ bytes *atomic.Int64 }

func (c counting) Write(p []byte) (int, error) { c.bytes.Add(int64(len(p))); return len(p), nil }

// bulk is what a connection brings, in Gbit/s.
func (n *network) bulk(b *testing.B) float64 {
	b.Helper()
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(n.client, 0)), Timeout: 5 * time.Second}
	c, err := d.Dial("tcp4", netip.AddrPortFrom(vip4, bulkPort).String())
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	data := make([]byte, 1<<17)
	start := time.Now()
	before := n.bytes.Load()
	if err := c.SetDeadline(start.Add(meanwhile)); err != nil {
		b.Fatal(err)
	}
	for err == nil {
		_, err = c.Write(data)
	}
	return float64(n.bytes.Load()-before) * 8 / float64(time.Since(start))
}

// small is how many packets of 18 bytes come in a second, in millions.
func (n *network) small(b *testing.B) float64 {
	b.Helper()
	c, err := net.DialUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(n.client, 0)),
		net.UDPAddrFromAddrPort(netip.AddrPortFrom(vip4, smallPort)))
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	data := make([]byte, 18)
	before := n.ended(b)
	start := time.Now()
	for time.Since(start) < meanwhile {
		for range 64 {
			if _, err := c.Write(data); err != nil {
				b.Fatal(err)
			}
		}
	}
	return float64(n.ended(b)-before) * 1e3 / float64(time.Since(start))
}

// ended is how many packets were counted at the node.
func (n *network) ended(b *testing.B) uint64 {
	b.Helper()
	var s sharedState
	if err := n.state.Lookup(uint32(0), &s); err != nil {
		b.Fatal(err)
	}
	return s.Sent
}
