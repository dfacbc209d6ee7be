//go:build linux

package stage

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"
	"unsafe"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ndp"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// tap receives ARP packets and neighbor advertisements at all ports of the rack's switch.
type tap struct {
	socket *os.File
	raw    syscall.RawConn
	ports  map[int]string // the host at the other end, by the port's index
	frame  [1514]byte
	notes  [128]byte
}

// switchHost is the lab's host that is the switch. Its ports have the names of the hosts that are
// plugged in.
const switchHost = "rack"

func (s *Stage) openTap() (*tap, error) {
	t := &tap{ports: map[int]string{}}
	socket := -1
	err := s.In(switchHost, func() error {
		ports, err := net.Interfaces()
		if err != nil {
			return fmt.Errorf("list the switch's ports: %w", err)
		}
		for _, p := range ports {
			if _, err := s.NodeMAC(p.Name); err == nil {
				t.ports[p.Index] = p.Name
			}
		}
		// All protocols: what asks for one alone comes after the bridge, which takes everything.
		socket, err = unix.Socket(
			unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(networkOrder(unix.ETH_P_ALL)),
		)
		return err
	})
	if err != nil {
		return nil, err
	}
	t.socket = os.NewFile(uintptr(socket), "segment")
	if t.raw, err = t.socket.SyscallConn(); err == nil {
		err = prepare(socket)
	}
	if err != nil {
		t.socket.Close()
		return nil, fmt.Errorf("prepare the socket: %w", err)
	}
	return t, nil
}

// networkOrder is a protocol's number as packet(7) wants it.
func networkOrder(protocol uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, protocol))
}

// prepare sets a filter, a buffer that a busy machine does not fill, and the kernel's own time of
// each frame.
func prepare(socket int) error {
	program, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: 12, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.ETH_P_ARP, SkipTrue: 5},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.ETH_P_IPV6, SkipTrue: 5},
		bpf.LoadAbsolute{Off: 20, Size: 1}, // next header
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_ICMPV6, SkipTrue: 3},
		bpf.LoadAbsolute{Off: 54, Size: 1}, // ICMPv6 type
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 136, SkipTrue: 1},
		bpf.RetConstant{Val: 1 << 16},
		bpf.RetConstant{Val: 0},
	})
	if err != nil {
		return err
	}
	filter := make([]unix.SockFilter, len(program))
	for i, p := range program {
		filter[i] = unix.SockFilter{Code: p.Op, Jt: p.Jt, Jf: p.Jf, K: p.K}
	}
	if err := unix.SetsockoptSockFprog(
		socket, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]},
	); err != nil {
		return err
	}
	if err := unix.SetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20); err != nil {
		return err
	}
	return unix.SetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1)
}

// next waits for a frame. ok is false for one that says of no address whose it is.
func (t *tap) next() (seen Sighting, ok bool, err error) {
	var n, notes int
	var from unix.Sockaddr
	wait := t.raw.Read(func(fd uintptr) bool {
		n, notes, _, from, err = unix.Recvmsg(int(fd), t.frame[:], t.notes[:], 0)
		return err != unix.EAGAIN && err != unix.EINTR
	})
	if wait != nil {
		return seen, false, wait
	}
	if err != nil {
		return seen, false, err
	}
	link, isLink := from.(*unix.SockaddrLinklayer)
	if !isLink || link.Pkttype == unix.PACKET_OUTGOING {
		return seen, false, nil
	}
	host, isPort := t.ports[link.Ifindex]
	if !isPort {
		return seen, false, nil
	}
	seen, ok = sighting(t.frame[:n])
	seen.Host, seen.At = host, receivedAt(t.notes[:notes])
	return seen, ok, nil
}

// close ends next, which then fails. It fails itself if the kernel had to drop frames.
func (t *tap) close() error {
	defer t.socket.Close()
	var lost uint32
	var err error
	if control := t.raw.Control(func(fd uintptr) {
		var stats *unix.TpacketStats
		if stats, err = unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil {
			lost = stats.Drops
		}
	}); control != nil {
		err = control
	}
	if err == nil && lost > 0 {
		err = fmt.Errorf("the kernel dropped %d frames of the capture", lost)
	}
	return err
}

// receivedAt reads the time that the kernel noted (socket(7), SO_TIMESTAMPNS).
func receivedAt(notes []byte) time.Time {
	messages, err := unix.ParseSocketControlMessage(notes)
	if err != nil {
		return time.Now()
	}
	for _, m := range messages {
		if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SCM_TIMESTAMPNS &&
			len(m.Data) >= int(unsafe.Sizeof(unix.Timespec{})) {
			return time.Unix(int64(binary.NativeEndian.Uint64(m.Data)), int64(binary.NativeEndian.Uint64(m.Data[8:])))
		}
	}
	return time.Now()
}

// sighting reads whose an address is, by a frame.
func sighting(frame []byte) (Sighting, bool) {
	const header = 14
	switch {
	case len(frame) < header:
		return Sighting{}, false
	case binary.BigEndian.Uint16(frame[12:]) == unix.ETH_P_ARP:
		return arpSighting(frame[header:])
	case len(frame) > header+40:
		return ndpSighting(frame[header+40:], frame[6:12])
	}
	return Sighting{}, false
}

// arpSighting takes replies and announcements (RFC 5227 section 1.1); a question alone claims
// nothing.
func arpSighting(packet []byte) (Sighting, bool) {
	var p arp.Packet
	if err := p.UnmarshalBinary(packet); err != nil {
		return Sighting{}, false
	}
	s := Sighting{Address: p.SenderIP, MAC: p.SenderHardwareAddr.String(), Gratuitous: p.SenderIP == p.TargetIP}
	return s, p.Operation == arp.OperationReply || s.Gratuitous
}

func ndpSighting(message, source []byte) (Sighting, bool) {
	m, err := ndp.ParseMessage(message)
	if err != nil {
		return Sighting{}, false
	}
	advertisement, ok := m.(*ndp.NeighborAdvertisement)
	if !ok {
		return Sighting{}, false
	}
	s := Sighting{
		Address:    advertisement.TargetAddress,
		MAC:        net.HardwareAddr(source).String(),
		Gratuitous: !advertisement.Solicited,
	}
	for _, o := range advertisement.Options {
		if l, ok := o.(*ndp.LinkLayerAddress); ok && l.Direction == ndp.Target {
			s.MAC = l.Addr.String()
		}
	}
	return s, true
}
