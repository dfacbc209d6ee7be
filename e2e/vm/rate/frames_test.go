//go:build bench || qemu

package rate_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/berth-lb/berth/e2e/vm/cluster"
)

// machineProc has the kernel's threads where /proc is of a namespace of processes.
const machineProc = "/run/machine"

// generator puts frames on the segment as if a host had sent them, by the kernel itself
// (BPF_PROG_RUN of XDP with live frames, Linux 5.18). All that becomes of them happens on the same
// thread, or on its processor's ksoftirqd: the time of both is what it costs. Other programs take
// the frames out at some place and count them. The difference between two places is what the way
// between them costs.
type generator struct {
	port      int // of the switch
	processor int
	ksoftirqd string // its schedstat
	one, many *ebpf.Program
	template  *ebpf.Map
	dropped   *ebpf.Map
	taps      map[place]*ebpf.Map // whether frames are taken out there
}

// place is where frames are taken out, before other programs there see them.
type place struct {
	space, device string
	egress        bool
}

const (
	frameLength = 60
	// marker ends each frame, so that it is known also when it was translated or encapsulated.
	marker = 0x6265727468206f6b
	// flows is how many one after the other differ.
	flows     = 1 << 15
	firstPort = 2048
)

// What a program of XDP returns for a packet that is to go on.
const xdpPass = 2

func newGenerator(b *testing.B, places []place) *generator {
	b.Helper()
	cluster.Run(b, cluster.Host, "ip", "link", "add", "generator", "type", "veth", "peer", "name", "unplugged")
	cluster.Run(b, cluster.Host, "ip", "link", "set", "unplugged", "up")
	// Who is where on the segment must not be forgotten.
	const forever = "ageing_time 1000000" //nolint:misspell // so it is called
	cluster.Run(
		b,
		cluster.Host,
		"ip",
		append([]string{"link", "set", "rack", "type", "bridge"}, strings.Fields(forever)...)...)
	cluster.Run(b, cluster.Host, "ip", "link", "set", "generator", "master", "rack", "up")
	device, err := netlink.LinkByName("generator")
	if err != nil {
		b.Fatal(err)
	}
	g := &generator{port: device.Attrs().Index, processor: runtime.NumCPU() - 1, taps: map[place]*ebpf.Map{}}
	if g.ksoftirqd, err = schedstat(fmt.Sprint("ksoftirqd/", g.processor)); err != nil {
		b.Fatal(err)
	}
	g.template, g.dropped = newArray(b, 8+frameLength), newArray(b, 8)
	g.one, g.many = loaded(b, ebpf.XDP, source(g.template, 1)), loaded(b, ebpf.XDP, source(g.template, flows))
	// Live frames need a device that has a program, and this one is for what comes by itself.
	pass := loaded(b, ebpf.XDP, asm.Instructions{asm.Mov.Imm(asm.R0, xdpPass), asm.Return()})
	l, err := link.AttachXDP(link.XDPOptions{Program: pass, Interface: g.port, Flags: link.XDPDriverMode})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { l.Close() })
	for _, p := range places {
		on := newArray(b, 8)
		program := loaded(b, ebpf.SchedCLS, drop(on, g.dropped))
		if _, err := cluster.In(p.space, func() (any, error) { return nil, attach(b, program, p) }); err != nil {
			b.Fatalf("take frames out at %+v: %v", p, err)
		}
		g.taps[p] = on
	}
	return g
}

func attach(b *testing.B, program *ebpf.Program, p place) error {
	device, err := netlink.LinkByName(p.device)
	if err != nil {
		return err
	}
	at := ebpf.AttachTCXIngress
	if p.egress {
		at = ebpf.AttachTCXEgress
	}
	l, err := link.AttachTCX(
		link.TCXOptions{Interface: device.Attrs().Index, Program: program, Attach: at, Anchor: link.Head()},
	)
	if errors.Is(err, ebpf.ErrNotSupported) {
		return filter(program, p, device)
	}
	if err == nil {
		b.Cleanup(func() { l.Close() })
	}
	return err
}

// filter is for kernels without tcx.
func filter(program *ebpf.Program, p place, device netlink.Link) error {
	qdisc := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: device.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}
	if err := netlink.QdiscAdd(qdisc); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	parent := uint32(netlink.HANDLE_MIN_INGRESS)
	if p.egress {
		parent = netlink.HANDLE_MIN_EGRESS
	}
	return netlink.FilterReplace(&netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: device.Attrs().Index, Parent: parent, Handle: 1, Priority: 1, Protocol: unix.ETH_P_ALL,
		},
		Fd: program.FD(), Name: "take_out", DirectAction: true,
	})
}

func schedstat(thread string) (string, error) {
	for _, proc := range []string{machineProc, "/proc"} {
		names, err := filepath.Glob(proc + "/[0-9]*/comm")
		if err != nil {
			return "", err
		}
		for _, name := range names {
			if comm, err := os.ReadFile(name); err == nil && strings.TrimSpace(string(comm)) == thread {
				return filepath.Join(filepath.Dir(name), "schedstat"), nil
			}
		}
	}
	return "", fmt.Errorf("there is no thread %s", thread)
}

func newArray(b *testing.B, size uint32) *ebpf.Map {
	b.Helper()
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: size, MaxEntries: 1})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { m.Close() })
	return m
}

func loaded(b *testing.B, kind ebpf.ProgramType, code asm.Instructions) *ebpf.Program {
	b.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: kind, Instructions: code, License: "Dual BSD/GPL"})
	if err != nil {
		b.Fatalf("%+v", err)
	}
	b.Cleanup(func() { p.Close() })
	return p
}

// source writes each frame from the template, since the kernel uses memory again that has what
// became of the frame before, and gives it the next port that it comes from. The template's value
// is a counter and a frame, which has no checksum of UDP.
func source(template *ebpf.Map, ports int32) asm.Instructions {
	const udpStart = 14 + 20
	code := asm.Instructions{
		asm.LoadMem(asm.R6, asm.R1, 0, asm.Word), // data
		asm.LoadMem(asm.R7, asm.R1, 4, asm.Word), // its end
		asm.Mov.Reg(asm.R2, asm.R6),
		asm.Add.Imm(asm.R2, frameLength),
		asm.JGT.Reg(asm.R2, asm.R7, "pass"),
		asm.StoreImm(asm.RFP, -4, 0, asm.Word),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -4),
		asm.LoadMapPtr(asm.R1, template.FD()),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "pass"),
	}
	for at := int16(0); at < frameLength; at += 4 {
		code = append(code,
			asm.LoadMem(asm.R3, asm.R0, 8+at, asm.Word),
			asm.StoreMem(asm.R6, at, asm.R3, asm.Word),
		)
	}
	return append(code,
		asm.LoadMem(asm.R3, asm.R0, 0, asm.DWord),
		asm.Add.Imm(asm.R3, 1),
		asm.StoreMem(asm.R0, 0, asm.R3, asm.DWord),
		asm.And.Imm(asm.R3, ports-1),
		asm.Add.Imm(asm.R3, firstPort),
		asm.HostTo(asm.BE, asm.R3, asm.Half),
		asm.StoreMem(asm.R6, udpStart, asm.R3, asm.Half),
		asm.Mov.Imm(asm.R0, xdpPass).WithSymbol("pass"),
		asm.Return(),
	)
}

// drop takes out what ends with the marker, while it is on.
func drop(on, dropped *ebpf.Map) asm.Instructions {
	const (
		next = -1
		shot = 2
	)
	return asm.Instructions{
		asm.LoadMapValue(asm.R2, on.FD(), 0),
		asm.LoadMem(asm.R2, asm.R2, 0, asm.DWord),
		asm.JEq.Imm(asm.R2, 0, "next"),
		asm.LoadMem(asm.R2, asm.R1, 0, asm.Word), // the packet's length
		asm.Sub.Imm(asm.R2, 8),
		asm.Mov.Reg(asm.R3, asm.RFP),
		asm.Add.Imm(asm.R3, -8),
		asm.Mov.Imm(asm.R4, 8),
		asm.FnSkbLoadBytes.Call(),
		asm.JNE.Imm(asm.R0, 0, "next"),
		asm.LoadMem(asm.R1, asm.RFP, -8, asm.DWord),
		asm.LoadImm(asm.R2, marker, asm.DWord),
		asm.JNE.Reg(asm.R1, asm.R2, "next"),
		asm.LoadMapValue(asm.R2, dropped.FD(), 0),
		asm.Mov.Imm(asm.R1, 1),
		asm.StoreXAdd(asm.R2, asm.R1, asm.DWord),
		asm.Mov.Imm(asm.R0, shot),
		asm.Return(),
		asm.Mov.Imm(asm.R0, next).WithSymbol("next"),
		asm.Return(),
	}
}

// datagram makes frames datagrams to an address, by the gateway. Nobody has the address that they
// come from.
func (g *generator) datagram(from, to netip.Addr, gateway net.HardwareAddr) error {
	f := make([]byte, frameLength)
	copy(f, gateway)
	copy(f[6:], []byte{2, 0xbe, 0, 0, 0, 0xfe})
	binary.BigEndian.PutUint16(f[12:], unix.ETH_P_IP)
	ip := f[14:]
	ip[0] = 0x45
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
	ip[8], ip[9] = 64, unix.IPPROTO_UDP
	copy(ip[12:], from.AsSlice())
	copy(ip[16:], to.AsSlice())
	sum := uint32(0)
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum))
	udp := ip[20:]
	binary.BigEndian.PutUint16(udp[2:], datagramPort)
	binary.BigEndian.PutUint16(udp[4:], uint16(len(udp)))
	binary.NativeEndian.PutUint64(f[frameLength-8:], marker)
	before := make([]byte, 8+frameLength)
	if err := g.template.Lookup(uint32(0), before); err != nil {
		return err
	}
	return g.template.Put(uint32(0), append(before[:8:8], f...)) // ports go on
}

// send sends frames of the template, equal or each of another flow, until all of them were taken
// out at the places, and returns how many nanoseconds of the processor each took.
func (g *generator) send(each bool, places []place) (ns float64, err error) {
	for _, p := range places {
		if err := g.taps[p].Put(uint32(0), uint64(1)); err != nil {
			return 0, err
		}
		defer func() { err = errors.Join(err, g.taps[p].Put(uint32(0), uint64(0))) }()
	}
	before, err := g.taken()
	if err != nil {
		return 0, err
	}
	deferred, err := g.softirqs()
	if err != nil {
		return 0, err
	}
	first, err := g.sent()
	if err != nil {
		return 0, err
	}
	own, last := int64(0), first
	for range frames / burst {
		busy, err := g.run(each)
		if err != nil {
			return 0, fmt.Errorf("send frames: %w", err)
		}
		own += busy
		last, err = g.sent() // a signal makes the kernel begin again, so they may be more
		if err == nil {
			err = g.await(before + last - first)
		}
		if err != nil {
			return 0, fmt.Errorf("take out frames at %v: %w", places, err)
		}
	}
	after, err := g.softirqs()
	return float64(own+after-deferred) / float64(last-first), err
}

// run returns how long the thread was busy, in nanoseconds.
func (g *generator) run(each bool) (ns int64, err error) {
	const live = 1 << 1 // BPF_F_TEST_XDP_LIVE_FRAMES
	options := ebpf.RunOptions{
		Data: make([]byte, frameLength), Repeat: burst, Flags: live, BatchSize: 32, // fewer than are taken at once
		Context: struct{ Data, DataEnd, DataMeta, Ingress, Queue, Egress uint32 }{
			DataEnd: frameLength, Ingress: uint32(g.port),
		},
	}
	program := g.one
	if each {
		program = g.many
	}
	return cluster.In(cluster.Host, func() (int64, error) {
		var set unix.CPUSet
		set.Set(g.processor)
		if err := unix.SchedSetaffinity(0, &set); err != nil {
			return 0, err
		}
		var before, after unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &before); err != nil {
			return 0, err
		}
		_, err := program.Run(&options)
		err = errors.Join(err, unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &after))
		return after.Nano() - before.Nano(), err
	})
}

// sent is how many frames were sent.
func (g *generator) sent() (uint64, error) {
	value := make([]byte, 8+frameLength)
	err := g.template.Lookup(uint32(0), value)
	return binary.NativeEndian.Uint64(value), err
}

// softirqs is how long ksoftirqd was busy, in nanoseconds.
func (g *generator) softirqs() (int64, error) {
	text, err := os.ReadFile(g.ksoftirqd)
	if err != nil {
		return 0, err
	}
	first, _, _ := strings.Cut(string(text), " ")
	return strconv.ParseInt(first, 10, 64)
}

// taken is how many frames were taken out.
func (g *generator) taken() (n uint64, err error) { return n, g.dropped.Lookup(uint32(0), &n) }

// await waits until so many frames were taken out.
func (g *generator) await(want uint64) error {
	deadline := time.NewTimer(5 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		n, err := g.taken()
		if err != nil || n == want {
			return err
		}
		if n > want {
			return fmt.Errorf("%d more frames came than were sent", n-want)
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			return fmt.Errorf("%d frames did not come", want-n)
		}
	}
}
