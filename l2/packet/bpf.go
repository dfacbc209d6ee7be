package packet

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/mdlayher/arp"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/berth-lb/berth/l2/neighbor"
)

// This file writes the socket filters (classic BPF) that keep frames which do not concern this node
// in the kernel. They know an address by its key, the sum of its 32-bit words: neighboring
// addresses have neighboring keys, and most others do not. A program passes a list of spans of
// keys. It has to fit twice into the memory that the kernel grants a socket for options
// (net.core.optmem_max, 20 KiB until Linux 6.7), because the old program is freed after the new one
// was attached.

// maxSpans limits the spans of a program. If addresses are more scattered, it passes gaps too.
const maxSpans = 128

// span is a range of keys, including both ends.
type span struct{ low, high uint32 }

// key is what the filters know about an address.
func key(a netip.Addr) uint32 {
	var sum uint32
	for b := a.AsSlice(); len(b) > 0; b = b[4:] {
		sum += binary.BigEndian.Uint32(b)
	}
	return sum
}

// loadKey loads the key of the IPv6 address at an offset.
func loadKey(offset uint32) []bpf.Instruction {
	program := []bpf.Instruction{bpf.LoadAbsolute{Off: offset, Size: 4}}
	for word := uint32(4); word < 16; word += 4 {
		program = append(program, bpf.TAX{}, bpf.LoadAbsolute{
			Off:  offset + word,
			Size: 4,
		}, bpf.ALUOpX{Op: bpf.ALUOpAdd})
	}
	return program
}

// spansOf covers keys, which it sorts, with at most limit spans that pass as few other keys as
// possible.
func spansOf(keys []uint32, limit int) []span {
	slices.Sort(keys)
	var exact []span
	for _, k := range keys {
		if n := len(exact); n > 0 && uint64(k) <= uint64(exact[n-1].high)+1 {
			exact[n-1].high = k
			continue
		}
		exact = append(exact, span{k, k})
	}
	if len(exact) <= limit {
		return exact
	}
	// The widest gaps stay.
	gaps := make([]int, len(exact)-1) // the n-th is after the n-th span
	for n := range gaps {
		gaps[n] = n
	}
	width := func(n int) uint32 { return exact[n+1].low - exact[n].high }
	slices.SortFunc(gaps, func(a, b int) int { return cmp.Compare(width(b), width(a)) })
	kept := gaps[:limit-1]
	slices.Sort(kept)
	cover := make([]span, 0, limit)
	from := 0
	for _, n := range kept {
		cover = append(cover, span{exact[from].low, exact[n].high})
		from = n + 1
	}
	return append(cover, span{exact[from].low, exact[len(exact)-1].high})
}

// within reports whether the sorted spans cover a key.
func within(spans []span, k uint32) bool {
	n, _ := slices.BinarySearchFunc(spans, k, func(s span, k uint32) int { return cmp.Compare(s.high, k) })
	return n < len(spans) && spans[n].low <= k
}

// accept and reject are the ends of a program.
func accept() bpf.Instruction { return bpf.RetConstant{Val: 1 << 16} }
func reject() bpf.Instruction { return bpf.RetConstant{Val: 0} }

// acceptAll passes all frames of the socket's protocol.
func acceptAll() []bpf.Instruction { return []bpf.Instruction{accept()} }

// rejectAll passes nothing.
func rejectAll() []bpf.Instruction { return []bpf.Instruction{reject()} }

// forUs begins a program. It rejects frames to other stations, which a promiscuous interface
// receives, and frames of VLANs that have no interface, which the kernel marks in the same way.
func forUs() []bpf.Instruction {
	return []bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtType},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.PACKET_OTHERHOST, SkipTrue: 1},
		reject(),
	}
}

// arpFilter passes ARP requests and replies for IPv4 over Ethernet whose sender or target address
// is in the spans. On a busy segment the rest never wakes this process.
func arpFilter(spans []span) []bpf.Instruction {
	const sender, target = neighbor.EthernetHeader + 14, neighbor.EthernetHeader + 24
	head := append(forUs(),
		bpf.LoadAbsolute{Off: neighbor.EthernetHeader, Size: 4}, // hardware and protocol type
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 1<<16 | neighbor.EtherTypeIPv4, SkipTrue: 3},
		bpf.LoadAbsolute{Off: neighbor.EthernetHeader + 4, Size: 4}, // lengths and operation
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 6<<24 | 4<<16 | uint32(arp.OperationRequest), SkipTrue: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 6<<24 | 4<<16 | uint32(arp.OperationReply), SkipTrue: 1},
		reject(),
		bpf.LoadAbsolute{Off: target, Size: 4},
	)
	bySender := slices.Concat([]bpf.Instruction{bpf.LoadAbsolute{Off: sender, Size: 4}}, search(spans), rejectAll())
	return slices.Concat(head, search(spans), bySender)
}

// ndpFilter passes multicast listener queries, and neighbor solicitations and advertisements with
// hop limit 255 whose target or source address is in the spans. It does not follow extension
// headers before the latter: no implementation sends any.
func ndpFilter(spans []span) []bpf.Instruction {
	const source, target = neighbor.EthernetHeader + 8, neighbor.EthernetHeader + neighbor.IPv6Header + 8
	head := append(forUs(),
		bpf.LoadAbsolute{Off: neighbor.EthernetHeader + 6, Size: 2}, // next header and hop limit
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: neighbor.MLDHopLimit, SkipTrue: 6},
		bpf.LoadAbsolute{Off: neighbor.EthernetHeader + neighbor.IPv6Header, Size: 2}, // next header and length
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: neighbor.ProtoICMPv6 << 8, SkipTrue: 3},
		bpf.LoadAbsolute{Off: neighbor.EthernetHeader + neighbor.IPv6Header + neighbor.HopByHop, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: neighbor.TypeListenerQuery, SkipTrue: 1},
		accept(),
		reject(),
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: neighbor.ProtoICMPv6<<8 | neighbor.NDPHopLimit, SkipTrue: 3},
		bpf.LoadAbsolute{Off: neighbor.EthernetHeader + neighbor.IPv6Header, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: neighbor.TypeSolicitation, SkipTrue: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: neighbor.TypeAdvertisement, SkipTrue: 1},
		reject(),
	)
	return slices.Concat(head, loadKey(target), search(spans), loadKey(source), search(spans), rejectAll())
}

// search passes the frame if the loaded word is in a span, and otherwise continues after itself. It
// halves the spans until few are left, because conditional jumps reach no further than 255
// instructions.
func search(spans []span) []bpf.Instruction {
	const few = 8
	if len(spans) > few {
		left, right := search(spans[:len(spans)/2]), search(spans[len(spans)/2:])
		beyond := bpf.Jump{Skip: uint32(len(right))}
		return slices.Concat([]bpf.Instruction{
			bpf.JumpIf{Cond: bpf.JumpLessThan, Val: spans[len(spans)/2].low, SkipTrue: 1},
			bpf.Jump{Skip: uint32(len(left)) + 1},
		}, left, []bpf.Instruction{beyond}, right)
	}
	var program []bpf.Instruction
	for n, s := range spans {
		left := uint8(2 * (len(spans) - n - 1)) // instructions after this pair
		program = append(program,
			bpf.JumpIf{Cond: bpf.JumpLessThan, Val: s.low, SkipTrue: left + 3}, // after the end
			bpf.JumpIf{Cond: bpf.JumpLessOrEqual, Val: s.high, SkipTrue: left + 1},
		)
	}
	if len(program) == 0 {
		return nil
	}
	return append(program, bpf.Jump{Skip: 1}, accept())
}
