package packet

import (
	"encoding/binary"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/berth-lb/berth/l2/internal/frametest"
	"github.com/berth-lb/berth/l2/neighbor"
)

// multicasts is an interface's socket that keeps what it is told.
type multicasts struct {
	sent []string
	all  bool
}

func (m *multicasts) SendNDP(frame []byte) error {
	body := frame[neighbor.EthernetHeader+neighbor.IPv6Header+neighbor.HopByHop:]
	if body[0] == 143 {
		n := binary.BigEndian.Uint16(body[6:])
		m.sent = append(m.sent, fmt.Sprintf("%d groups as %d", n, body[8]))
		return nil
	}
	m.sent = append(m.sent, fmt.Sprintf("type %d to %s", body[0], net.HardwareAddr(frame[:6])))
	return nil
}

func (m *multicasts) hearAll(on bool) error { m.all = on; return nil }

func (m *multicasts) expect(t *testing.T, all bool, want ...string) {
	t.Helper()
	if !slices.Equal(m.sent, want) || m.all != all {
		t.Errorf("sent %q, hears all: %v; want %q, %v", m.sent, m.all, want, all)
	}
	m.sent = nil
}

// This uses the loopback interface, on which any process may join groups.
func TestSolicitedNodesBeyondKernelGroups(t *testing.T) {
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	lo.HardwareAddr = ours
	m := &multicasts{}
	s := newSolicitedNodes(lo, m)
	defer s.close()
	addr := netip.MustParseAddr("fd00::1:0")
	addrs := []netip.Addr{}
	for range kernelGroups + 100 {
		addr = addr.Next()
		addrs = append(addrs, addr)
	}
	change := func(addrs []netip.Addr, n int, again bool) {
		t.Helper()
		for _, a := range addrs {
			s.count(a, n)
		}
		if repeat, err := s.settle(); err != nil || repeat != again {
			t.Fatalf("settled with %v, to be repeated: %v, want %v", err, repeat, again)
		}
	}
	change(addrs[:kernelGroups], +1, false)
	m.expect(t, false)
	change(addrs[:kernelGroups], +1, false)
	change(addrs[kernelGroups:], +1, true)
	m.expect(t, true, "60 groups as 4", "40 groups as 4")
	if err := s.repeat(); err != nil {
		t.Fatal(err)
	}
	m.expect(t, true, "60 groups as 4", "40 groups as 4")

	reported := slices.Collect(maps.Keys(s.reported))
	s.queried(neighbor.MLDQuery{Group: reported[0]})
	s.queried(neighbor.MLDQuery{Group: frametest.SolicitedNode(t, held6)})
	_ = s.answer()
	m.expect(t, true, "1 groups as 2")
	s.queried(neighbor.MLDQuery{Group: netip.IPv6Unspecified()})
	_ = s.answer()
	m.expect(t, true, "60 groups as 2", "40 groups as 2")
	s.queried(neighbor.MLDQuery{Group: reported[0], V1: true})
	_ = s.answer()
	m.expect(t, true, "type 131 to "+neighbor.MulticastMAC(reported[0]).String())
	s.queried(neighbor.MLDQuery{Group: frametest.SolicitedNode(t, held6)})
	_ = s.answer()
	m.expect(t, true)

	change(addrs, -1, true) // what the kernel joined is wanted once more
	m.expect(t, false, "60 groups as 3", "40 groups as 3")
	change(addrs[kernelGroups:], +1, true)
	m.expect(t, true, "60 groups as 4", "40 groups as 4")
	if err := s.repeat(); err != nil { // what has changed since is not repeated
		t.Fatal(err)
	}
	m.expect(t, true, "60 groups as 4", "40 groups as 4")
	if got := len(s.joined.groups); got != kernelGroups {
		t.Errorf("the kernel has joined %d groups, want %d", got, kernelGroups)
	}
}
