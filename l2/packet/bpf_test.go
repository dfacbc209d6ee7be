package packet

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ndp"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/berth-lb/berth/l2/internal/frametest"
	"github.com/berth-lb/berth/l2/neighbor"
)

var (
	ours    = frametest.Ours
	theirs  = frametest.Theirs
	held4   = netip.MustParseAddr("192.0.2.1")
	asker4  = netip.MustParseAddr("192.0.2.100")
	held6   = netip.MustParseAddr("2001:db8::1")
	known6  = netip.MustParseAddr("2001:db8::2")
	asker6  = netip.MustParseAddr("2001:db8::100")
	querier = netip.MustParseAddr("fe80::1")
	group6  = netip.MustParseAddr("ff02::1:ff00:1")
)

// kernelFilter is a filter in this machine's kernel, on a socket that needs no privilege.
type kernelFilter struct{ in, out int }

func newKernelFilter(t testing.TB) *kernelFilter {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = unix.Close(pair[0])
		_ = unix.Close(pair[1])
	})
	return &kernelFilter{pair[0], pair[1]}
}

func (k *kernelFilter) SetBPF(raw []bpf.RawInstruction) error {
	program := make([]unix.SockFilter, len(raw))
	for n, r := range raw {
		program[n] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	return unix.SetsockoptSockFprog(k.out, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		&unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]})
}

func (k *kernelFilter) passes(t testing.TB, frame []byte) bool {
	t.Helper()
	if err := unix.Send(k.in, frame, 0); err != nil {
		t.Fatalf("send: %v", err)
	}
	n, err := unix.Read(k.out, make([]byte, 2048))
	if errors.Is(err, unix.EAGAIN) {
		return false
	}
	if err != nil || n != len(frame) {
		t.Fatalf("of %d bytes %d were received: %v", len(frame), n, err)
	}
	return true
}

// filtered runs a filter in the kernel.
func filtered(t testing.TB, filter []bpf.Instruction, frame []byte) bool {
	t.Helper()
	raw, err := bpf.Assemble(filter)
	if err != nil {
		t.Fatal(err)
	}
	k := newKernelFilter(t)
	if err := k.SetBPF(raw); err != nil {
		t.Fatalf("set a filter of %d instructions: %v", len(raw), err)
	}
	return k.passes(t, frame)
}

func addr4(k uint32) netip.Addr {
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, k)))
}

func TestARPFilter(t *testing.T) {
	low, high := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.3")
	filter := arpFilter([]span{{key(low), key(high)}})
	for target, want := range map[string]bool{
		"192.0.2.0": false, "192.0.2.1": true, "192.0.2.2": true, "192.0.2.3": true, "192.0.2.4": false,
		"0.0.0.0": false, "255.255.255.255": false,
	} {
		a := netip.MustParseAddr(target)
		for _, op := range []arp.Operation{arp.OperationRequest, arp.OperationReply} {
			if got := filtered(t, filter, frametest.ARP(t, op, theirs, asker4, a)); got != want {
				t.Errorf("%s about %s passes: %v, want %v", op, target, got, want)
			}
			if got := filtered(t, filter, frametest.ARP(t, op, theirs, a, asker4)); got != want {
				t.Errorf("%s from %s passes: %v, want %v", op, target, got, want)
			}
		}
	}
	good := frametest.ARP(t, arp.OperationRequest, theirs, asker4, low)
	for i, b := range map[int]byte{15: 2, 17: 1, 18: 5, 19: 5, 21: 3} {
		bad := bytes.Clone(good)
		bad[i] = b
		if filtered(t, filter, bad) {
			t.Errorf("with byte %d = %d it passes", i, b)
		}
	}
	if filtered(t, filter, good[:neighbor.EthernetHeader+20]) {
		t.Error("cut short it passes")
	}
	if filtered(t, arpFilter(nil), good) {
		t.Error("a filter for nothing passes something")
	}
}

func TestNDPFilter(t *testing.T) {
	all := netip.IPv6LinkLocalAllNodes()
	good := frametest.Solicitation(t, asker6, all, held6, true)
	far := bytes.Clone(good)
	far[neighbor.EthernetHeader+7] = 64
	for name, c := range map[string]struct {
		frame []byte
		want  bool
	}{
		"solicitation": {good, true},
		"advertisement": {
			frametest.NDP(t, &ndp.NeighborAdvertisement{TargetAddress: held6}, asker6, all), true,
		},
		"of another address": {
			frametest.NDP(t, &ndp.NeighborAdvertisement{TargetAddress: asker6}, asker6, all), false,
		},
		"from ours, about another": {frametest.Solicitation(t, held6, all, asker6, true), true},
		"about another":            {frametest.Solicitation(t, known6, all, asker6, true), false},
		"router solicitation":      {frametest.NDP(t, &ndp.RouterSolicitation{}, held6, all), false},
		"from afar":                {far, false},
		"cut short":                {good[:neighbor.EthernetHeader+neighbor.IPv6Header+20], false},
		"a probe":                  {neighbor.NDPProbe(ours, held6), true},
		"another with the same end": {
			frametest.Solicitation(t, asker6, all, netip.MustParseAddr("2001:db9::1"), true), false,
		},
	} {
		if got := filtered(t, ndpFilter([]span{{key(held6), key(held6)}}), c.frame); got != c.want {
			t.Errorf("%s passes: %v, want %v", name, got, c.want)
		}
	}
}

// keysOf draws keys that lie together and apart, at the ends of the range too.
func keysOf(t *rapid.T) []uint32 {
	clusters := rapid.SliceOfN(rapid.Uint32(), 1, 40).Draw(t, "clusters")
	var keys []uint32
	for _, c := range append(clusters, 0, 1<<32-1) {
		for n := range rapid.Uint32Range(0, 12).Draw(t, "size") {
			keys = append(keys, c+n*rapid.Uint32Range(1, 3).Draw(t, "step"))
		}
	}
	return keys
}

func TestSpansOf(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		keys := keysOf(t)
		limit := rapid.IntRange(1, 60).Draw(t, "limit")
		exact := spansOf(slices.Clone(keys), len(keys)+1)
		cover := spansOf(slices.Clone(keys), limit)
		if len(cover) > limit {
			t.Fatalf("%d spans, want at most %d", len(cover), limit)
		}
		for n := range cover {
			if cover[n].low > cover[n].high || n > 0 && uint64(cover[n].low) <= uint64(cover[n-1].high)+1 {
				t.Fatalf("spans out of order: %v", cover)
			}
		}
		for _, k := range keys {
			if !within(exact, k) || !within(cover, k) {
				t.Fatalf("%d is not covered by %v, %v", k, exact, cover)
			}
			for _, beside := range []uint32{k - 1, k + 1} {
				if within(exact, beside) != slices.Contains(keys, beside) {
					t.Fatalf("%d is covered by %v: %v", beside, exact, within(exact, beside))
				}
			}
		}
	})
}

func TestSearchInKernel(t *testing.T) {
	k := newKernelFilter(t)
	rapid.Check(t, func(rt *rapid.T) {
		keys := keysOf(rt)
		cover := spansOf(slices.Clone(keys), rapid.IntRange(1, maxSpans).Draw(rt, "limit"))
		raw, err := bpf.Assemble(arpFilter(cover))
		if err != nil {
			rt.Fatal(err)
		}
		if err := k.SetBPF(raw); err != nil {
			rt.Fatalf("set a filter of %d instructions: %v", len(raw), err)
		}
		linear := func(k uint32) bool {
			return slices.ContainsFunc(cover, func(s span) bool { return s.low <= k && k <= s.high })
		}
		for range 20 {
			near := rapid.Uint32Range(0, 4).Draw(rt, "near")
			target := rapid.SampledFrom(append(keys, 7)).Draw(rt, "key") + near - 2
			sender := rapid.Uint32().Draw(rt, "sender")
			frame := frametest.ARP(t, arp.OperationRequest, theirs, addr4(sender), addr4(target))
			if got, want := k.passes(t, frame), linear(target) || linear(sender); got != want {
				rt.Fatalf("a request of %s for %s passes: %v, want %v, by %v",
					addr4(sender), addr4(target), got, want, cover)
			}
		}
	})
}

func TestLargestFilterFits(t *testing.T) {
	keys := make([]uint32, 10000)
	for n := range keys {
		keys[n] = uint32(n) * 1000
	}
	cover := spansOf(keys, maxSpans)
	for name, program := range map[string][]bpf.Instruction{"ARP": arpFilter(cover), "NDP": ndpFilter(cover)} {
		// Two of them, of 8 bytes an instruction, and as many again for what the kernel makes of
		// it.
		if n := len(program); n*8*2*3/2 > 20480 {
			t.Errorf("the %s filter of %d spans has %d instructions", name, len(cover), n)
		}
	}
}

// grants is a kernel that accepts programs up to a length.
type grants struct {
	longest int
	set     []int
	err     error
}

func (g *grants) SetBPF(raw []bpf.RawInstruction) error {
	if g.err != nil {
		return g.err
	}
	if len(raw) > g.longest {
		return unix.ENOMEM
	}
	g.set = append(g.set, len(raw))
	return nil
}

func TestSocketFilterIsNeverTooNarrow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := newSocketFilter(&grants{longest: rapid.IntRange(60, 1000).Draw(t, "longest")}, arpFilter)
		count := map[netip.Addr]int{}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			a := addr4(rapid.Uint32Range(0, 40).Draw(t, "address") * 100_000_000)
			switch rapid.SampledFrom([]string{"open", "shut", "narrow"}).Draw(t, "step") {
			case "open":
				if err := p.allow(a); err != nil {
					t.Fatal(err)
				}
				count[a]++
			case "shut":
				if count[a] > 0 {
					p.disallow(a)
					count[a]--
				}
			case "narrow":
				if err := p.narrow(); err != nil {
					t.Fatal(err)
				}
			}
			for a, n := range count {
				if n > 0 && !within(p.cover, key(a)) {
					t.Fatalf("%s is open, and %v does not cover it", a, p.cover)
				}
			}
		}
		for a, n := range count {
			for range n {
				p.disallow(a)
			}
		}
		if err := p.narrow(); err != nil || len(p.cover) != 0 {
			t.Fatalf("with nothing open it passes %v (%v)", p.cover, err)
		}
	})
}

func TestSocketFilterTakesFewPrograms(t *testing.T) {
	g := &grants{longest: 4096}
	p := newSocketFilter(g, arpFilter)
	for n := range 10000 {
		if err := p.allow(addr4(10<<24 + uint32(n))); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.narrow(); err != nil {
		t.Fatal(err)
	}
	if len(g.set) > 50 {
		t.Errorf("%d programs were set", len(g.set))
	}
	if want := []span{{10 << 24, 10<<24 + 9999}}; !slices.Equal(p.cover, want) {
		t.Errorf("it passes %v, want %v", p.cover, want)
	}
}

func TestSocketFilterRetry(t *testing.T) {
	g := &grants{longest: 4096, err: unix.EPERM}
	p := newSocketFilter(g, arpFilter)
	if err := p.allow(held4); !errors.Is(err, unix.EPERM) {
		t.Errorf("opened with %v, want %v", err, unix.EPERM)
	}
	if err := p.retry(); !errors.Is(err, unix.EPERM) {
		t.Errorf("retried with %v, want %v", err, unix.EPERM)
	}
	g.err = nil
	if err := p.retry(); err != nil || !within(p.cover, key(held4)) {
		t.Errorf("retried with %v, and passes %v", err, p.cover)
	}
}

func BenchmarkFilter(b *testing.B) {
	frame := frametest.ARP(b, arp.OperationRequest, theirs, asker4, held4)
	keys := make([]uint32, 10000)
	for n := range keys {
		keys[n] = rand.Uint32()
	}
	raw, err := bpf.Assemble(arpFilter(spansOf(keys, maxSpans)))
	if err != nil {
		b.Fatal(err)
	}
	k := newKernelFilter(b)
	if err := k.SetBPF(raw); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		k.passes(b, frame)
	}
}

func TestParseMLDQuery(t *testing.T) {
	all, any6 := netip.IPv6LinkLocalAllNodes(), netip.IPv6Unspecified()
	good := frametest.ListenerQuery(querier, all, any6, 10000, false)
	changed := func(i int, b byte) []byte {
		f := bytes.Clone(good)
		f[i] = b
		return f
	}
	for name, c := range map[string]struct {
		frame []byte
		want  neighbor.MLDQuery // with no group: none
	}{
		"a general one": {good, neighbor.MLDQuery{Group: any6, Within: 10 * time.Second}},
		"about a group": {frametest.ListenerQuery(querier, group6, group6, 100, false), neighbor.MLDQuery{
			Group:  group6,
			Within: 100 * time.Millisecond,
		}},
		"of the first version": {frametest.ListenerQuery(querier, all, any6, 1000, true), neighbor.MLDQuery{
			Group:  any6,
			Within: time.Second,
			V1:     true,
		}},
		"one that waits for long": {frametest.ListenerQuery(querier, all, any6, 0x8001, false), neighbor.MLDQuery{
			Group:  any6,
			Within: 32767 * time.Millisecond,
		}},
		"from no router":   {frametest.ListenerQuery(held6, all, any6, 1000, false), neighbor.MLDQuery{}},
		"sent to one host": {frametest.ListenerQuery(querier, held6, any6, 1000, false), neighbor.MLDQuery{}},
		"from afar":        {changed(neighbor.EthernetHeader+7, 64), neighbor.MLDQuery{}},
		"no query": {changed(neighbor.EthernetHeader+neighbor.IPv6Header+
			neighbor.HopByHop, 131), neighbor.MLDQuery{}},
		"without its header":   {changed(neighbor.EthernetHeader+6, neighbor.ProtoICMPv6), neighbor.MLDQuery{}},
		"with another header":  {changed(neighbor.EthernetHeader+neighbor.IPv6Header, 43), neighbor.MLDQuery{}},
		"with a longer header": {changed(neighbor.EthernetHeader+neighbor.IPv6Header+1, 1), neighbor.MLDQuery{}},
		"a broken checksum":    {changed(len(good)-1, 1), neighbor.MLDQuery{}},
		"a length beyond it":   {changed(neighbor.EthernetHeader+4, 4), neighbor.MLDQuery{}},
		"cut short":            {good[:80], neighbor.MLDQuery{}},
		"a solicitation": {
			frametest.Solicitation(t, asker6, frametest.SolicitedNode(t, held6), held6, true), neighbor.MLDQuery{},
		},
	} {
		got, ok := neighbor.ParseMLDQuery(c.frame)
		if ok != c.want.Group.IsValid() || got != c.want {
			t.Errorf("%s: %+v, %v; want %+v", name, got, ok, c.want)
		}
		passes := filtered(t, ndpFilter(nil), c.frame)
		if c.want.Group.IsValid() && !passes {
			t.Errorf("%s: the filter rejects it", name)
		}
	}
	if filtered(t, ndpFilter(nil), changed(neighbor.EthernetHeader+neighbor.IPv6Header+neighbor.HopByHop, 131)) {
		t.Error("the filter passes the reports of others")
	}
}
