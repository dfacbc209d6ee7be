//go:build root

package program

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"net/netip"
	"os"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/berth-lb/berth/speaker/dataplane/nft/nettest"
	"github.com/berth-lb/berth/speaker/dataplane/steering/decide"
)

func TestMain(m *testing.M) { os.Exit(nettest.Main(m)) }

// The nodes have the addresses 10.0.0.N and fd00::N. Node 9 runs the program.
const (
	self      = 9
	serviceID = 7
	slots     = 16
)

var (
	vip4, vip6       = netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("2001:db8::7")
	client4, client6 = netip.MustParseAddr("203.0.113.5"), netip.MustParseAddr("2001:db8:1::5")
	seed             = decide.Seed{0x0706050403020100, 0x0f0e0d0c0b0a0908}
)

const port = 443

func node4(n byte) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, n}) }
func node6(n byte) netip.Addr { return netip.AddrFrom16([16]byte{0: 0xfd, 15: n}) }

// rig is the program, loaded, with a Service on both families and all protocols. All its slots rank
// the nodes 1, 2 and 3.
type rig struct {
	t testing.TB
	*Objects
	page *ebpf.Map
}

// settings are what a case changes.
type settings struct {
	config  Configuration
	service Service
	nodes   map[uint16]Node
	slot    decide.Slot
}

func usual() settings {
	s := settings{
		config: Configuration{
			Deadline: math.MaxUint64, Seed: seed, Flags: On, Self: self, Self4: node4(self).As4(), Self6: node6(self).As16(),
		},
		service: Service{ID: serviceID, Slots: slots},
		nodes:   map[uint16]Node{},
		slot:    decide.NoSlot.With(0, 1, false).With(1, 2, false).With(2, 3, false),
	}
	for _, n := range []byte{1, 2, 3, 4, 5, 6, self} {
		s.nodes[uint16(n)] = Node{
			Flags:     Alive,
			Interface: 1,
			MTU:       1500,
			Addr4:     node4(n).As4(),
			Addr6:     node6(n).As16(),
		}
	}
	return s
}

func load(t testing.TB) rig {
	o, err := Load("", true)
	var rejected *ebpf.VerifierError
	if errors.As(err, &rejected) {
		t.Fatalf("%+v", rejected)
	} else if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.Close() })
	page, err := NewPage()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { page.Close() })
	r := rig{t, o, page}
	r.must(o.Tables.Put(uint32(0), page))
	for n, s := range usual().nodes {
		r.must(o.NodeByAddr.Put(AddressOf(netip.AddrFrom4(s.Addr4)), uint32(n)))
		r.must(o.NodeByAddr.Put(Address(s.Addr6), uint32(n)))
	}
	return r
}

func (r rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func serviceKey(address netip.Addr, port uint16, protocol uint8) ServiceKey {
	k := ServiceKey{Address: AddressOf(address), Protocol: protocol}
	binary.BigEndian.PutUint16(k.Port[:], port)
	return k
}

func (r rig) write(s settings) {
	r.t.Helper()
	r.must(r.Config.Put(uint32(0), s.config))
	for n, node := range s.nodes {
		r.must(r.Nodes.Put(uint32(n), node))
	}
	for _, a := range []netip.Addr{vip4, vip6} {
		for _, p := range []uint8{decide.TCP, decide.UDP, decide.SCTP} {
			r.must(r.Services.Put(serviceKey(a, port, p), s.service))
		}
	}
	for i := range uint32(slots) {
		r.must(r.page.Put(i, uint64(s.slot)))
	}
}

// outcome is what became of a frame.
type outcome struct {
	// result is what the program returned.
	result int32
	// counted is what it counted: node by reason.
	counted map[decide.Reason]uint16
	frame   []byte
}

const (
	next     = -1 // TC_NEXT
	shot     = 2
	redirect = 7
)

// run sends a frame through the program.
func (r rig) run(frame []byte) outcome {
	r.t.Helper()
	return r.runBy(r.Steer, frame)
}

// runBy sends a frame through a program that has the same maps.
func (r rig) runBy(p *ebpf.Program, frame []byte) outcome {
	r.t.Helper()
	var key StatsKey
	var counts []uint64
	for it := r.Stats.Iterate(); it.Next(&key, &counts); {
		r.must(r.Stats.Delete(key))
	}
	got := outcome{counted: map[decide.Reason]uint16{}}
	options := ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+256)}
	result, err := p.Run(&options)
	r.must(err)
	got.result, got.frame = int32(result), options.DataOut
	for it := r.Stats.Iterate(); it.Next(&key, &counts); {
		total := uint64(0)
		for _, n := range counts {
			total += n
		}
		if total != 1 || key.Service != serviceID {
			r.t.Fatalf("%+v was counted %d times", key, total)
		}
		got.counted[decide.Reason(key.Reason)] = key.Node
	}
	return got
}

// expect compares an outcome with a verdict on a packet that the frame has at its end.
func (got outcome) expect(t testing.TB, name string, frame []byte, want decide.Verdict, also ...decide.Reason) {
	t.Helper()
	result := map[decide.Action]int32{decide.Pass: next, decide.Steer: redirect, decide.Drop: shot}[want.Action]
	if got.result != result {
		t.Errorf("%s: the program returns %d (%v), want %d", name, got.result, got.counted, result)
	}
	if node, ok := got.counted[want.Reason]; !ok || node != want.Node || len(got.counted) != 1+len(also) {
		t.Errorf("%s: counted %v, want %v at node %d", name, got.counted, want.Reason, want.Node)
	}
	for _, r := range also {
		if _, ok := got.counted[r]; !ok {
			t.Errorf("%s: %v is not counted", name, r)
		}
	}
	if want.Action != decide.Drop && !bytes.Equal(got.frame, withTTL(frame, want.TTL)) {
		t.Errorf("%s: the frame is\n%x, want\n%x", name, got.frame, withTTL(frame, want.TTL))
	}
}

// expectPass is of a frame that is not the program's business.
func (got outcome) expectPass(t testing.TB, name string, frame []byte) {
	t.Helper()
	if got.result != next || len(got.counted) != 0 || !bytes.Equal(got.frame, frame) {
		t.Errorf("%s: it does not pass: %d, %v", name, got.result, got.counted)
	}
}

// withTTL is a frame with another TTL or hop limit, and the checksum changed by as much (RFC 1624):
// a wrong one stays wrong.
func withTTL(frame []byte, ttl uint8) []byte {
	f := bytes.Clone(frame)
	if f[14]>>4 == 6 {
		f[14+7] = ttl
		return f
	}
	old := binary.BigEndian.Uint16(f[14+8:])
	f[14+8] = ttl
	sum := uint32(^binary.BigEndian.Uint16(f[14+10:])) + uint32(^old) + uint32(binary.BigEndian.Uint16(f[14+8:]))
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	if f[14+8] != frame[14+8] {
		binary.BigEndian.PutUint16(f[14+10:], ^uint16(sum))
	}
	return f
}

func flow4(protocol uint8) decide.Flow {
	return decide.Flow{
		Client:   netip.AddrPortFrom(client4, 40000),
		Service:  netip.AddrPortFrom(vip4, port),
		Protocol: protocol,
	}
}

func flow6(protocol uint8) decide.Flow {
	return decide.Flow{
		Client:   netip.AddrPortFrom(client6, 40000),
		Service:  netip.AddrPortFrom(vip6, port),
		Protocol: protocol,
	}
}

func monotonic() uint64 {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) // cannot fail
	return uint64(now.Nano())
}
