//go:build root

package program

import (
	"encoding/binary"
	"runtime"
	"slices"
	"testing"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/berth-lb/berth/speaker/dataplane/steering/decide"
)

// sends is a program that sends the frame by an interface here, with another port or sequence
// number each time. It writes again what was changed on the way, since the kernel uses frames
// again.
func (v *variant) sends(by int) asm.Instructions {
	in := append(v.withState(),
		asm.LoadMem(asm.R8, asm.R7, 0, asm.DWord),
		asm.Add.Imm(asm.R8, 1),
		asm.StoreMem(asm.R7, 0, asm.R8, asm.DWord),
		asm.FnGetCurrentPidTgid.Call(),
		asm.RSh.Imm(asm.R0, 32),
		asm.StoreMem(asm.R7, 8, asm.R0, asm.DWord),
		asm.LoadMem(asm.R1, asm.R6, 0, asm.Word), // the frame's first byte, and its end
		asm.LoadMem(asm.R2, asm.R6, 4, asm.Word),
		asm.Mov.Reg(asm.R3, asm.R1),
		asm.Add.Imm(asm.R3, int32(len(v.frame))),
		asm.JGT.Reg(asm.R3, asm.R2, "exit"),
	)
	for _, at := range []int16{0, 4, 8, 14, 22} { // the MAC addresses; the length; the TTL and the checksum
		in = append(in, asm.StoreImm(asm.R1, at, int64(int32(binary.LittleEndian.Uint32(v.frame[at:]))), asm.Word))
	}
	if v.bulk {
		in = append(in, v.nextSegment()...)
	} else {
		in = append(in, asm.StoreMem(asm.R1, 34, asm.R8, asm.Half)) // the port
	}
	return append(in,
		asm.Mov.Imm(asm.R1, int32(by)),
		asm.Mov.Imm(asm.R2, 0),
		asm.FnRedirect.Call(),
		asm.Return().WithSymbol("exit"),
	)
}

// nextSegment writes the sequence number of TCP, and the checksum, which GRO verifies.
func (v *variant) nextSegment() asm.Instructions {
	pseudo := slices.Concat(
		client4.AsSlice(),
		vip4.AsSlice(),
		[]byte{0, decide.TCP, (20 + segment) >> 8, (20 + segment) & 0xff},
	)
	copy(v.frame[14+20+4:], []byte{0, 0, 0, 0}) // the sequence number, which is added below
	rest := ^checksum(append(pseudo, v.frame[14+20:]...))
	return asm.Instructions{
		asm.Mov.Reg(asm.R2, asm.R8),
		asm.Mul.Imm(asm.R2, segment),
		asm.LSh.Imm(asm.R2, 32),
		asm.RSh.Imm(asm.R2, 32),
		asm.Mov.Reg(asm.R3, asm.R2), // the sum
		asm.RSh.Imm(asm.R3, 16),
		asm.Mov.Reg(asm.R4, asm.R2),
		asm.And.Imm(asm.R4, 0xffff),
		asm.Add.Reg(asm.R3, asm.R4),
		asm.Add.Imm(asm.R3, int32(rest)),
		asm.Mov.Reg(asm.R4, asm.R3), // folded
		asm.RSh.Imm(asm.R4, 16),
		asm.And.Imm(asm.R3, 0xffff),
		asm.Add.Reg(asm.R3, asm.R4),
		asm.Mov.Reg(asm.R4, asm.R3),
		asm.RSh.Imm(asm.R4, 16),
		asm.Add.Reg(asm.R3, asm.R4),
		asm.Xor.Imm(asm.R3, 0xffff),
		asm.HostTo(asm.BE, asm.R3, asm.Half),
		asm.StoreMem(asm.R1, 14+20+16, asm.R3, asm.Half),
		asm.HostTo(asm.BE, asm.R2, asm.Word),
		asm.StoreMem(asm.R1, 14+20+4, asm.R2, asm.Word),
	}
}

// sink is a program that drops what comes.
func (v *variant) sink(b *testing.B, kind ebpf.ProgramType) *ebpf.Program {
	b.Helper()
	const segments = 164 // gso_segs of struct __sk_buff: how many frames GRO put together, or 0
	verdict, in := int32(xdpDrop), append(v.withState(), asm.Mov.Imm(asm.R8, 1))
	if kind == ebpf.SchedCLS {
		verdict = shot
		in = append(in,
			asm.LoadMem(asm.R1, asm.R6, segments, asm.Word),
			asm.JEq.Imm(asm.R1, 0, "single"),
			asm.Mov.Reg(asm.R8, asm.R1),
		)
	}
	return loadProgram(b, kind, append(in,
		asm.LoadMem(asm.R1, asm.R7, 16, asm.DWord).WithSymbol("single"),
		asm.Add.Reg(asm.R1, asm.R8),
		asm.StoreMem(asm.R7, 16, asm.R1, asm.DWord),
		asm.FnGetCurrentPidTgid.Call(),
		asm.RSh.Imm(asm.R0, 32),
		asm.LoadMem(asm.R1, asm.R7, 8, asm.DWord),
		asm.JEq.Reg(asm.R0, asm.R1, "exit"),
		asm.LoadMem(asm.R1, asm.R7, 24, asm.DWord),
		asm.Add.Imm(asm.R1, 1),
		asm.StoreMem(asm.R7, 24, asm.R1, asm.DWord),
		asm.Mov.Imm(asm.R0, verdict).WithSymbol("exit"),
		asm.Return(),
	))
}

// withState begins a program: R6 is its context, and R7 the variant's state.
func (v *variant) withState() asm.Instructions {
	return asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.StoreImm(asm.RFP, -4, 0, asm.Word),
		asm.LoadMapPtr(asm.R1, v.state.FD()),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -4),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "exit"),
		asm.Mov.Reg(asm.R7, asm.R0),
	}
}

func loadProgram(b *testing.B, kind ebpf.ProgramType, in asm.Instructions) *ebpf.Program {
	b.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: kind, License: "Dual BSD/GPL", Instructions: in})
	if err != nil {
		b.Fatalf("%+v", err)
	}
	b.Cleanup(func() { p.Close() })
	return p
}

func attachXDP(b *testing.B, index int, p *ebpf.Program) {
	b.Helper()
	l, err := link.AttachXDP(link.XDPOptions{Program: p, Interface: index, Flags: link.XDPDriverMode})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { l.Close() })
}

func attachTC(b *testing.B, index int, p *ebpf.Program, where ebpf.AttachType) {
	b.Helper()
	l, err := link.AttachTCX(link.TCXOptions{Program: p, Interface: index, Attach: where})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { l.Close() })
}

// What ethtool sets.
const (
	setTXChecksum = 0x17
	setGRO        = 0x2c
)

func ethtool(b *testing.B, name string, what, to uint32) {
	b.Helper()
	value := [2]uint32{what, to}
	request := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}{data: unsafe.Pointer(&value)}
	copy(request.name[:], name)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer unix.Close(fd)
	_, _, failure := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request)))
	if failure != 0 {
		b.Fatal(failure)
	}
}

// onOneProcessor has this goroutine run on one processor only, where nothing comes before it:
// frames are handled where they are sent, at once.
func onOneProcessor(b *testing.B) {
	b.Helper()
	runtime.LockOSThread()
	var all, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		b.Fatal(err)
	}
	for cpu := range 1024 {
		if all.IsSet(cpu) {
			one = unix.CPUSet{}
			one.Set(cpu)
		}
	}
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		b.Fatal(err)
	}
	usual, err := unix.SchedGetAttr(0, 0)
	if err != nil {
		b.Fatal(err)
	}
	first := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 1}
	if err := unix.SchedSetAttr(0, &first, 0); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = unix.SchedSetAttr(0, usual, 0)
		_ = unix.SchedSetaffinity(0, &all)
		runtime.UnlockOSThread()
	})
}

// processorTime is how long this thread was on a processor, in ns. What the kernel does with frames
// that it sends is part of it.
func processorTime() int64 {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t) // cannot fail
	return t.Nano()
}
