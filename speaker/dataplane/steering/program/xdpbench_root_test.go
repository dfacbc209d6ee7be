//go:build root

package program

import (
	"fmt"
	"net"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"github.com/berth-lb/berth/speaker/dataplane/nft/nettest"
	"github.com/berth-lb/berth/speaker/dataplane/steering/decide"
)

// variant is an owner in a namespace of its own, to which frames are sent by an interface here.
type variant struct {
	name    string
	xdp, tc bool // the programs at its interface
	// returned: the program sends everything back, and does nothing else.
	returned bool
	// other: the frames are for no Service.
	other bool
	// bulk: they are large, and of one connection of TCP; else small, and of many flows of UDP.
	bulk    bool
	end     end
	state   *ebpf.Map
	source  *ebpf.Program
	frame   []byte
	samples []float64 // ns of processor time for a frame, one of each round
}

// end is where frames of a variant are dropped.
type end int

const (
	atArrival   end = iota // by XDP, as soon as they came
	afterReturn            // by XDP, when they came back here
	atEgress               // by tc, before they leave the owner: nothing of what comes then is counted
	atIngress              // by tc, after the program there
)

// sharedState is what the programs around a variant share.
type sharedState struct {
	// Sent and Ended are numbers of frames, and Strayed those that ended in another process: their
	// time would be missing.
	Sent, Sender, Ended, Strayed uint64
}

const (
	framesAtOnce = 1 << 12 // sent at once
	tries        = 1000
	segment      = 1460 // bytes of TCP in a frame
	dontFragment = 0x4000
	liveFrames   = 1 << 1 // BPF_F_TEST_XDP_LIVE_FRAMES: sent in earnest
)

// BenchmarkXDP compares XDP with tc, where frames reach the driver as a network card would give
// them: without an skb. It reports the processor's time for a frame, for all that happens to it:
// the median of the rounds. One round is an op, in which each variant has its turn.
func BenchmarkXDP(b *testing.B) {
	arrives := &variant{name: "arrives", end: atArrival}
	emptyXDP := &variant{name: "empty-xdp", returned: true, xdp: true, end: afterReturn}
	emptyTC := &variant{name: "empty-tc", returned: true, tc: true, end: atEgress}
	xdp := &variant{name: "xdp", xdp: true, end: afterReturn}
	tc := &variant{name: "tc", tc: true, end: atEgress}
	passesTC := &variant{name: "passes-tc", other: true, tc: true, end: atIngress}
	passesBoth := &variant{name: "passes-both", other: true, xdp: true, tc: true, end: atIngress}
	bulkArrives := &variant{name: "bulk-arrives", bulk: true, end: atArrival}
	bulkXDP := &variant{name: "bulk-xdp", bulk: true, xdp: true, end: afterReturn}
	bulkTC := &variant{name: "bulk-tc", bulk: true, tc: true, end: atEgress}
	variants := []*variant{
		arrives, emptyXDP, emptyTC, xdp, tc, passesTC, passesBoth, bulkArrives, bulkXDP, bulkTC,
	}
	for i, v := range variants {
		v.build(b, fmt.Sprint("variant", i))
	}
	onOneProcessor(b)
	for b.Loop() {
		for _, v := range variants {
			v.run(b)
		}
	}
	log := ""
	for _, v := range variants {
		log += report(b, v.name+"-ns", v.samples)
	}
	log += report(b, "empty-xdp/tc", ratios(emptyXDP.beside(arrives), emptyTC.beside(arrives)))
	log += report(b, "xdp/tc", ratios(xdp.beside(arrives), tc.beside(arrives)))
	log += report(b, "bulk-xdp/tc", ratios(bulkXDP.beside(bulkArrives), bulkTC.beside(bulkArrives)))
	log += report(b, "passes-more-ns", passesBoth.beside(passesTC))
	b.Log(log)
}

// beside is what frames of the variant cost more than those of another one, in each round.
func (v *variant) beside(other *variant) []float64 {
	more := slices.Clone(v.samples)
	for i := range more {
		more[i] -= other.samples[i]
	}
	return more
}

func ratios(of, to []float64) []float64 {
	r := slices.Clone(of)
	for i := range r {
		r[i] /= to[i]
	}
	return r
}

// report reports the median of the rounds, and returns how far they are from it.
func report(b *testing.B, unit string, rounds []float64) string {
	b.Helper()
	all := slices.Sorted(slices.Values(rounds))
	n := len(all)
	b.ReportMetric(all[n/2], unit)
	return fmt.Sprintf("%s %.2f (half of the rounds %.2f to %.2f); ", unit, all[n/2], all[n/4], all[n*3/4])
}

func (v *variant) build(b *testing.B, name string) {
	must := func(err error) {
		b.Helper()
		if err != nil {
			b.Fatal(err)
		}
	}
	var err error
	v.state, err = ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 32, MaxEntries: 1})
	must(err)
	b.Cleanup(func() { v.state.Close() })
	owner := nettest.Namespace(b)
	nettest.Shell(b, `set -e
		ip link add %[1]s address 02:00:00:00:00:01 type veth peer name eth0 netns %[2]s
		o="%[3]s"
		# What the kernel says of its own accord would be counted.
		sysctl -qw net.ipv6.conf.%[1]s.disable_ipv6=1; $o sysctl -qw net.ipv6.conf.eth0.disable_ipv6=1
		ip link set %[1]s up
		$o ip link set lo up; $o ip link set eth0 up; $o ip addr add 10.0.0.9/24 dev eth0
		$o sysctl -qw net.ipv4.ip_forward=1
		$o ip neigh replace 10.0.0.1 lladdr 02:00:00:00:00:01 dev eth0 nud permanent`,
		name, nettest.PID(owner), owner)
	b.Cleanup(func() { nettest.Shell(b, "ip link del %s", name) })
	here, err := net.InterfaceByName(name)
	must(err)
	nettest.Within(b, owner, func() {
		up, err := net.InterfaceByName("eth0")
		must(err)
		ethtool(b, "eth0", setGRO, 1) // as network cards have it; a veth takes no frames without it, or XDP
		v.attach(b, up)
		v.frame = ethernet(v.packet())
		copy(v.frame, up.HardwareAddr)
		copy(v.frame[6:], here.HardwareAddr)
	})
	if v.end == afterReturn {
		attachXDP(b, here.Index, v.sink(b, ebpf.XDP))
	}
	v.source = loadProgram(b, ebpf.XDP, v.sends(here.Index))
}

func (v *variant) packet() []byte {
	to := uint16(port)
	if v.other {
		to++
	}
	if v.bulk {
		return ipv4(
			client4,
			vip4,
			decide.TCP,
			64,
			dontFragment,
			append(tcp(40000, to, ack), make([]byte, segment)...),
		)
	}
	return packet(flow4(decide.UDP), 64, udp(40000, to, make([]byte, 18)...))
}

// attach puts the programs of the variant to the owner's interface.
func (v *variant) attach(b *testing.B, up *net.Interface) {
	r := load(b)
	s := usual()
	n := s.nodes[1]
	n.Interface = uint32(up.Index)
	s.nodes[1] = n
	r.write(s)
	switch {
	case v.returned && v.xdp:
		attachXDP(b, up.Index, loadProgram(b, ebpf.XDP, asm.Instructions{asm.Mov.Imm(asm.R0, xdpTX), asm.Return()}))
	case v.returned:
		attachTC(b, up.Index, loadProgram(b, ebpf.SchedCLS, asm.Instructions{
			asm.Mov.Imm(asm.R1, int32(up.Index)), asm.Mov.Imm(asm.R2, 0), asm.FnRedirect.Call(), asm.Return(),
		}), ebpf.AttachTCXIngress)
	default:
		if v.xdp {
			attachXDP(b, up.Index, loadForXDP(r, [6]byte(up.HardwareAddr)))
		}
		if v.tc {
			attachTC(b, up.Index, r.Steer, ebpf.AttachTCXIngress)
		}
	}
	switch v.end {
	case atArrival:
		attachXDP(b, up.Index, v.sink(b, ebpf.XDP))
	case atEgress:
		attachTC(b, up.Index, v.sink(b, ebpf.SchedCLS), ebpf.AttachTCXEgress)
	case atIngress:
		attachTC(b, up.Index, v.sink(b, ebpf.SchedCLS), ebpf.AttachTCXIngress)
	}
}

// run sends frames until some were not interrupted: on a busy processor the kernel hands the rest
// over to a thread of its own, whose time is not counted.
func (v *variant) run(b *testing.B) {
	b.Helper()
	for range tries {
		before := processorTime()
		_, err := v.source.Run(&ebpf.RunOptions{Data: v.frame, Repeat: framesAtOnce, Flags: liveFrames})
		if err != nil {
			b.Fatal(err)
		}
		spent := processorTime() - before
		s := v.sum(b)
		if s.Strayed == 0 {
			v.samples = append(v.samples, float64(spent)/float64(s.Sent))
			return
		}
	}
	b.Fatalf("%s: interrupted %d times", v.name, tries)
}

// sum waits until all frames are at the end, and sets what is counted to zero.
func (v *variant) sum(b *testing.B) (s sharedState) {
	b.Helper()
	nettest.Eventually(b, v.name+": all frames came to the end", func() bool {
		if err := v.state.Lookup(uint32(0), &s); err != nil {
			b.Fatal(err)
		}
		return s.Sent >= framesAtOnce && s.Ended == s.Sent
	})
	if err := v.state.Put(uint32(0), sharedState{}); err != nil {
		b.Fatal(err)
	}
	return s
}
