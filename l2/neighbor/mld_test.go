package neighbor

import (
	"bytes"
	"net/netip"
	"testing"
	"time"

	"github.com/berth-lb/berth/l2/internal/frametest"
)

var (
	querier = netip.MustParseAddr("fe80::1")
	group6  = netip.MustParseAddr("ff02::1:ff00:1")
)

func TestListenerReports(t *testing.T) {
	frames := ListenerReports(ours, NowListener, []netip.Addr{group6, frametest.SolicitedNode(t, known6)})
	want := []byte{
		0x33, 0x33, 0, 0, 0, 0x16, 2, 0, 0, 0, 0, 1, 0x86, 0xdd,
		0x60, 0, 0, 0, 0, 56, 0, 1,
		0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xfe, 0, 0, 1,
		0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x16,
		58, 0, 5, 2, 0, 0, 1, 0,
		143, 0, 0, 0, 0, 0, 0, 2,
		4, 0, 0, 0, 0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 1,
		4, 0, 0, 0, 0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 2,
	}
	const start = EthernetHeader + IPv6Header + HopByHop
	if len(frames) != 1 {
		t.Fatalf("%d frames, want one", len(frames))
	}
	from, to := netip.AddrFrom16([16]byte(want[22:])), netip.AddrFrom16([16]byte(want[38:]))
	if checksum(from, to, frames[0][start:]) != 0 {
		t.Error("the checksum is wrong")
	}
	copy(want[start+2:], frames[0][start+2:start+4])
	if !bytes.Equal(frames[0], want) {
		t.Errorf("report\n%x, want\n%x", frames[0], want)
	}
}

func FuzzMLDQuery(f *testing.F) {
	f.Add(frametest.ListenerQuery(querier, netip.IPv6LinkLocalAllNodes(), netip.IPv6Unspecified(), 10000, false))
	f.Add(frametest.ListenerQuery(querier, group6, group6, 1000, true))
	f.Add(frametest.Tagged(frametest.ListenerQuery(querier, group6, group6, 1000, false)))
	f.Fuzz(func(t *testing.T, frame []byte) {
		q, ok := ParseMLDQuery(frame)
		if ok && (q.Within < 0 || q.Within > 33*time.Second || !q.Group.IsValid()) {
			t.Errorf("%x is understood as %+v", frame, q)
		}
	})
}
