package l2

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"
)

var (
	querier = netip.MustParseAddr("fe80::1")
	group6  = netip.MustParseAddr("ff02::1:ff00:1")
)

// queryOf is a listener query as a frame; it is of the first version if it is short.
func queryOf(from, to, group netip.Addr, delay uint16, short bool) []byte {
	body := binary.BigEndian.AppendUint16([]byte{typeListenerQuery, 0, 0, 0}, delay)
	body = append(append(body, 0, 0), group.AsSlice()...)
	if !short {
		body = append(body, 2, 125, 0, 0)
	}
	binary.BigEndian.PutUint16(body[2:], checksum(from, to, body))
	b := append(appendEthernet(nil, multicastMAC(to), theirM, etherTypeIPv6), 6<<4, 0, 0, 0)
	b = append(binary.BigEndian.AppendUint16(b, uint16(hopByHop+len(body))), 0, mldHopLimit)
	b = slices.Concat(b, from.AsSlice(), to.AsSlice(), []byte{protoICMPv6, 0, 5, 2, 0, 0, 1, 0}, body)
	return b
}

func TestAListenerQueryIsUnderstoodOrIgnored(t *testing.T) {
	all, any6 := netip.IPv6LinkLocalAllNodes(), netip.IPv6Unspecified()
	good := queryOf(querier, all, any6, 10000, false)
	changed := func(i int, b byte) []byte {
		f := bytes.Clone(good)
		f[i] = b
		return f
	}
	for name, c := range map[string]struct {
		frame []byte
		want  mldQuery // with no group: none
	}{
		"a general one":           {good, mldQuery{group: any6, within: 10 * time.Second}},
		"about a group":           {queryOf(querier, group6, group6, 100, false), mldQuery{group: group6, within: 100 * time.Millisecond}},
		"of the first version":    {queryOf(querier, all, any6, 1000, true), mldQuery{group: any6, within: time.Second, first: true}},
		"one that waits for long": {queryOf(querier, all, any6, 0x8001, false), mldQuery{group: any6, within: 32767 * time.Millisecond}},
		"from no router":          {queryOf(held6, all, any6, 1000, false), mldQuery{}},
		"sent to one host":        {queryOf(querier, held6, any6, 1000, false), mldQuery{}},
		"from afar":               {changed(ethernetHeader+7, 64), mldQuery{}},
		"no query":                {changed(ethernetHeader+ipv6Header+hopByHop, 131), mldQuery{}},
		"without its header":      {changed(ethernetHeader+6, protoICMPv6), mldQuery{}},
		"with another header":     {changed(ethernetHeader+ipv6Header, 43), mldQuery{}},
		"with a longer header":    {changed(ethernetHeader+ipv6Header+1, 1), mldQuery{}},
		"a broken checksum":       {changed(len(good)-1, 1), mldQuery{}},
		"a length beyond it":      {changed(ethernetHeader+4, 4), mldQuery{}},
		"cut short":               {good[:80], mldQuery{}},
		"a solicitation":          {solicitation(t, asker6, groupOf(t, held6), held6, true), mldQuery{}},
	} {
		got, ok := parseMLDQuery(c.frame)
		if ok != c.want.group.IsValid() || got != c.want {
			t.Errorf("%s: %+v, %v; want %+v", name, got, ok, c.want)
		}
		passes := filtered(t, ndpFilter(nil), c.frame)
		if c.want.group.IsValid() && !passes {
			t.Errorf("%s: the filter rejects it", name)
		}
	}
	if filtered(t, ndpFilter(nil), changed(ethernetHeader+ipv6Header+hopByHop, 131)) {
		t.Error("the filter passes the reports of others")
	}
}

func TestAListenerReportIsWellFormed(t *testing.T) {
	frames := listenerReports(ours, nowListener, []netip.Addr{group6, groupOf(t, known6)})
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
	const start = ethernetHeader + ipv6Header + hopByHop
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

// multicasts is an interface's socket that keeps what it is told.
type multicasts struct {
	sent []string
	all  bool
}

func (m *multicasts) sendNDP(frame []byte) error {
	body := frame[ethernetHeader+ipv6Header+hopByHop:]
	if body[0] == typeReport2 {
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

// With the loopback interface, on which any process may join groups.
func TestGroupsBeyondWhatTheKernelIsToJoinAreReported(t *testing.T) {
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
		if retell, err := s.settle(); err != nil || retell != again {
			t.Fatalf("settled with %v, to be told again: %v, want %v", err, retell, again)
		}
	}
	change(addrs[:kernelGroups], +1, false)
	m.expect(t, false)
	change(addrs[:kernelGroups], +1, false) // a second address of the same groups
	change(addrs[kernelGroups:], +1, true)
	m.expect(t, true, "60 groups as 4", "40 groups as 4")
	if err := s.retell(); err != nil {
		t.Fatal(err)
	}
	m.expect(t, true, "60 groups as 4", "40 groups as 4")

	reported := slices.Collect(maps.Keys(s.reported))
	s.queried(mldQuery{group: reported[0]})
	s.queried(mldQuery{group: groupOf(t, held6)})
	_ = s.answer()
	m.expect(t, true, "1 groups as 2")
	s.queried(mldQuery{group: netip.IPv6Unspecified()})
	_ = s.answer()
	m.expect(t, true, "60 groups as 2", "40 groups as 2")
	s.queried(mldQuery{group: reported[0], first: true})
	_ = s.answer()
	m.expect(t, true, "type 131 to "+multicastMAC(reported[0]).String())
	s.queried(mldQuery{group: groupOf(t, held6)})
	_ = s.answer()
	m.expect(t, true)

	change(addrs, -1, true) // what was joined by the kernel is wanted once more
	m.expect(t, false, "60 groups as 3", "40 groups as 3")
	change(addrs[kernelGroups:], +1, true)
	m.expect(t, true, "60 groups as 4", "40 groups as 4")
	if err := s.retell(); err != nil { // what has changed since is not repeated
		t.Fatal(err)
	}
	m.expect(t, true, "60 groups as 4", "40 groups as 4")
	if got := len(s.joined.groups); got != kernelGroups {
		t.Errorf("the kernel has joined %d groups, want %d", got, kernelGroups)
	}
}

func FuzzMLDQuery(f *testing.F) {
	f.Add(queryOf(querier, netip.IPv6LinkLocalAllNodes(), netip.IPv6Unspecified(), 10000, false))
	f.Add(queryOf(querier, group6, group6, 1000, true))
	f.Add(tagged(queryOf(querier, group6, group6, 1000, false)))
	f.Fuzz(func(t *testing.T, frame []byte) {
		q, ok := parseMLDQuery(frame)
		if ok && (q.within < 0 || q.within > 33*time.Second || !q.group.IsValid()) {
			t.Errorf("%x is understood as %+v", frame, q)
		}
	})
}
