//go:build root

package l2

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ethernet"
	"github.com/mdlayher/ndp"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/berth-lb/berth/l2/neighbor"
	"github.com/berth-lb/berth/l2/packet"
)

// These benchmarks ask over a pair of veth interfaces, as fast as one thread can send, and count
// the answers: those of Berth's sockets and responders, in a process of their own whose CPU time is
// known, and those of the kernel, with the same addresses on the interface. Each asks in several
// windows of time. For replies a second the best window counts, because other load on the machine
// only slows things down. For replies a second of CPU time the median counts.
const window = 250 * time.Millisecond

// responderVariable makes this test binary a process that only answers.
const responderVariable = "L2_TEST_RESPONDER"

// joinOrder is one line of such a process's standard input: join or leave the first so many
// addresses. It answers with a tally when it has done so.
type joinOrder struct {
	Family int // 4, 6 or, for none, 0
	Join   int
	Leave  int
}

type tally struct {
	Frames int64 // received
	CPU    time.Duration
	Failed string // what upkeep reported after a join or leave
}

// serviceAddr is the n-th address of a family.
func serviceAddr(family, n int) netip.Addr {
	if family == 4 {
		return netip.AddrFrom4([4]byte{10, 128, byte(n >> 8), byte(n)})
	}
	a := netip.MustParseAddr("fd00:128::").As16()
	a[14], a[15] = byte(n>>8), byte(n)
	return netip.AddrFrom16(a)
}

// serveAnswers answers on eth0 until its orders end.
func serveAnswers() error {
	l, err := awaitLink()
	if err != nil {
		return err
	}
	m, err := newMetrics(nil)
	if err != nil {
		return err
	}
	a, counts := neighbor.NewAddressTable(time.Now), m.of("eth0")
	a.Watchdog.Extend(time.Now().Add(time.Hour))
	failed := make(chan error, 1)
	mac := l.HardwareAddr()
	var frames atomic.Int64
	counting := func(respond func([]byte) []byte) func([]byte) []byte {
		return func(frame []byte) []byte {
			frames.Add(1)
			return respond(frame)
		}
	}
	ignore := func(neighbor.Sighting) {}
	s, err := packet.Open(l, packet.Handlers{
		Hello: func([]byte) {},
		ARP: counting((&neighbor.ARPResponder{
			MAC:      mac,
			Table:    a,
			Requests: counts.arpRequests,
			Replies:  counts.arpReplies,
			Sighted:  ignore,
		}).Respond),
		NDP: counting((&neighbor.NDPResponder{
			MAC:            mac,
			Table:          a,
			Solicitations:  counts.ndpSolicitations,
			Advertisements: counts.ndpAdvertisements,
			Sighted:        ignore,
		}).Respond),
		Broken: func(err error) { fmt.Fprintln(os.Stderr, err) },
		Failed: func(err error) { trySend(failed, err) },
	})
	if err != nil {
		return err
	}
	defer s.Wait()
	defer s.Close()
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var o joinOrder
		if err := in.Decode(&o); err != nil {
			return nil //nolint:nilerr // no orders left
		}
		for n := range o.Join {
			addr := serviceAddr(o.Family, n)
			a.SetWanted(addr, true)
			a.Answer(addr)
			s.Join(addr)
		}
		for n := range o.Leave {
			addr := serviceAddr(o.Family, n)
			a.SetWanted(addr, false)
			a.Silence(addr)
			s.Leave(addr)
		}
		answer := tally{
			Frames: frames.Load(),
			CPU:    cpuTime(unix.RUSAGE_SELF),
		}
		if o.Join+o.Leave > 0 {
			if err := settledSockets(s, failed); err != nil {
				answer.Failed = err.Error()
			}
		}
		if err := out.Encode(answer); err != nil {
			return err
		}
	}
}

// settledSockets waits until all groups are joined and left, or something failed.
func settledSockets(s *packet.Sockets, failed <-chan error) error {
	for {
		if err := <-failed; err != nil || s.Unsettled() == 0 {
			return err
		}
	}
}

// awaitLink returns the namespace's only link, once it is up.
func awaitLink() (l packet.Link, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	watching := packet.Watch(ctx, func() {
		var links []packet.Link
		if links, err = packet.Links(); err != nil || len(links) == 1 && links[0].Up {
			l = append(links, packet.Link{})[0]
			cancel()
		}
	})
	if err == nil && !l.Up {
		err = fmt.Errorf("the link did not come up: %w", ctx.Err())
	}
	return l, errors.Join(err, watching)
}

func cpuTime(who int) time.Duration {
	var u unix.Rusage
	_ = unix.Getrusage(who, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// pair is two namespaces joined by a veth: one asks, one answers.
type pair struct {
	tb             testing.TB
	asker, replier string
	mac            net.HardwareAddr // the asker's
	handle         *netlink.Handle
}

func newPair(tb testing.TB, name string) *pair {
	tb.Helper()
	base := fmt.Sprintf("l2p-%d-%s-", os.Getpid(), name)
	p := &pair{tb: tb, asker: base + "ask", replier: base + "reply"}
	for _, ns := range []string{p.asker, p.replier} {
		p.ip("netns", "add", ns)
		tb.Cleanup(func() { _ = exec.Command("ip", "netns", "del", ns).Run() })
		p.ip("-n", ns, "link", "set", "lo", "up")
	}
	p.ip("-n", p.asker, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", p.replier)
	p.ip("-n", p.asker, "addr", "add", "10.0.0.1/8", "dev", "eth0")
	p.ip("-n", p.asker, "addr", "add", "fd00::1/16", "dev", "eth0", "nodad")
	p.ip("-n", p.asker, "link", "set", "eth0", "up")
	p.ip("-n", p.replier, "link", "set", "eth0", "up")
	ns, err := netns.GetFromName(p.asker)
	if err != nil {
		tb.Fatal(err)
	}
	defer ns.Close()
	if p.handle, err = netlink.NewHandleAt(ns); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(p.handle.Close)
	p.mac = p.link().HardwareAddr
	return p
}

func (p *pair) ip(args ...string) {
	p.tb.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		p.tb.Fatalf("ip %v: %v: %s", args, err, out)
	}
}

func (p *pair) link() *netlink.LinkAttrs {
	p.tb.Helper()
	l, err := p.handle.LinkByName("eth0")
	if err != nil {
		p.tb.Fatal(err)
	}
	return l.Attrs()
}

// answerer is the process in the replier's namespace.
type answerer struct {
	tb  testing.TB
	cmd *exec.Cmd
	in  *json.Encoder
	out *json.Decoder
}

func (p *pair) serve() *answerer {
	p.tb.Helper()
	self, err := os.Executable()
	if err != nil {
		p.tb.Fatal(err)
	}
	cmd := exec.Command("ip", "netns", "exec", p.replier, self)
	cmd.Env = append(os.Environ(), responderVariable+"=yes")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		p.tb.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		p.tb.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		p.tb.Fatal(err)
	}
	p.tb.Cleanup(func() {
		_ = in.Close() // it ends by itself
		_, _ = io.Copy(io.Discard, out)
		_ = cmd.Wait()
	})
	return &answerer{tb: p.tb, cmd: cmd, in: json.NewEncoder(in), out: json.NewDecoder(out)}
}

func (a *answerer) order(o joinOrder) tally {
	a.tb.Helper()
	if err := a.in.Encode(o); err != nil {
		a.tb.Fatal(err)
	}
	var t tally
	if err := a.out.Decode(&t); err != nil {
		a.tb.Fatalf("the answering process: %v", err)
	}
	return t
}

// awaitFrames waits until so many frames were received, and returns how many were.
func (a *answerer) awaitFrames(n int64) int64 {
	a.tb.Helper()
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	deadline := time.After(10 * time.Second)
	for {
		if got := a.order(joinOrder{}).Frames; got >= n {
			return got
		}
		select {
		case <-look.C:
		case <-deadline:
			a.tb.Fatalf("%d frames were not received within 10 s", n)
		}
	}
}

// questions are frames that ask for addresses.
func (p *pair) questions(family, first, n int) [][]byte {
	frames := make([][]byte, n)
	var memory []byte // one piece, so that sending is not slower for many frames
	for k := range frames {
		addr := serviceAddr(family, first+k)
		frame := solicit(p.mac, netip.MustParseAddr("fd00::1"), addr)
		if family == 4 {
			frame = neighbor.ARPFrame(ethernet.Broadcast, &arp.Packet{
				Operation: arp.OperationRequest, SenderHardwareAddr: p.mac, SenderIP: netip.MustParseAddr("10.0.0.1"),
				TargetHardwareAddr: make(net.HardwareAddr, 6), TargetIP: addr,
			})
		}
		if memory == nil {
			memory = make([]byte, 0, n*len(frame))
		}
		memory = append(memory, frame...)
		frames[k] = memory[len(memory)-len(frame):]
	}
	return frames
}

// solicit asks for an address by neighbor discovery, as a host that has one.
func solicit(mac net.HardwareAddr, from, target netip.Addr) []byte {
	group, _ := ndp.SolicitedNodeMulticast(target)
	return neighbor.NDPFrame(mac, neighbor.MulticastMAC(group), from, group, &ndp.NeighborSolicitation{
		TargetAddress: target,
		Options:       []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: mac}},
	})
}

// send sends frames in turn until ctx ends, at a number of them a second, or as fast as it can for
// 0, and returns the CPU time that took.
func (p *pair) send(ctx context.Context, frames [][]byte, rate int) (spent time.Duration, err error) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		var fd int
		if fd, err = p.rawSocket(); err != nil {
			return
		}
		defer unix.Close(fd)
		before := cpuTime(unix.RUSAGE_THREAD)
		began := time.Now()
		for n := 0; ; n++ {
			if n%64 == 0 && ctx.Err() != nil {
				break
			}
			if rate > 0 && n%(rate/1000) == 0 {
				due := began.Add(time.Duration(n) * time.Second / time.Duration(rate))
				select {
				case <-ctx.Done():
				case <-time.After(time.Until(due)):
				}
			}
			if _, err = unix.Write(fd, frames[n%len(frames)]); errors.Is(err, unix.ENOBUFS) {
				err = nil
			}
			if err != nil {
				return
			}
		}
		spent = cpuTime(unix.RUSAGE_THREAD) - before
	}()
	<-ended
	return spent, err
}

// once sends each frame once.
func (p *pair) once(frames [][]byte) {
	p.tb.Helper()
	ns, err := netns.GetFromName(p.asker)
	if err != nil {
		p.tb.Fatal(err)
	}
	defer ns.Close()
	if err := inside(ns, func() error {
		fd, err := p.rawSocket()
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		for _, f := range frames {
			if _, err := unix.Write(fd, f); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		p.tb.Fatal(err)
	}
}

func (p *pair) rawSocket() (int, error) {
	ns, err := netns.GetFromName(p.asker)
	if err != nil {
		return 0, err
	}
	defer ns.Close()
	if err := netns.Set(ns); err != nil {
		return 0, err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	return fd, unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: p.link().Index})
}

// measured is the result of one period of asking.
type measured struct {
	answers uint64
	wall    time.Duration
	cpu     time.Duration // of the sending thread
}

func (p *pair) ask(frames [][]byte, rate int, period time.Duration) measured {
	p.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), period)
	defer cancel()
	before, began := p.link().Statistics.RxPackets, time.Now()
	cpu, err := p.send(ctx, frames, rate)
	if err != nil {
		p.tb.Fatal(err)
	}
	return measured{p.link().Statistics.RxPackets - before, time.Since(began), cpu}
}

// rates are the answers in each window, per second and per second of CPU time.
type rates struct{ wall, cpu []float64 }

func (r *rates) add(m measured) {
	r.wall = append(r.wall, float64(m.answers)/m.wall.Seconds())
	r.cpu = append(r.cpu, float64(m.answers)/m.cpu.Seconds())
}

func (r *rates) report(b *testing.B) {
	slices.Sort(r.cpu)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(slices.Max(r.wall), "replies/s")
	b.ReportMetric(r.cpu[len(r.cpu)/2], "replies/cpu-s")
}

var sizes = []int{10, 1000, 10000}

func BenchmarkAnswersOfBerth(b *testing.B) {
	for _, family := range []int{4, 6} {
		p := newPair(b, fmt.Sprint("f", family))
		a := p.serve()
		had := 0
		for _, n := range sizes {
			a.order(joinOrder{Family: family, Join: n, Leave: had})
			had = n
			b.Run(fmt.Sprintf("IPv%d/%d", family, n), func(b *testing.B) {
				p.tb = b
				frames := p.questions(family, 0, n)
				var all rates
				for b.Loop() {
					before := a.order(joinOrder{})
					m := p.ask(frames, 0, window)
					m.cpu = a.order(joinOrder{}).CPU - before.CPU
					all.add(m)
				}
				all.report(b)
			})
		}
		p.tb = b
	}
}

// The kernel handles the whole way there and back on the sending thread, so its CPU time includes
// the sending.
func BenchmarkAnswersOfTheKernel(b *testing.B) {
	for _, family := range []int{4, 6} {
		p := newPair(b, fmt.Sprint("k", family))
		had := 0
		for _, n := range sizes {
			p.assign(family, had, n)
			had = n
			b.Run(fmt.Sprintf("IPv%d/%d", family, n), func(b *testing.B) {
				p.tb = b
				frames := p.questions(family, 0, n)
				var all rates
				for b.Loop() {
					all.add(p.ask(frames, 0, window))
				}
				all.report(b)
			})
			p.tb = b
		}
	}
}

// assign gives addresses to the replier's interface.
func (p *pair) assign(family, from, to int) {
	p.tb.Helper()
	ns, err := netns.GetFromName(p.replier)
	if err != nil {
		p.tb.Fatal(err)
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns)
	if err != nil {
		p.tb.Fatal(err)
	}
	defer h.Close()
	l, err := h.LinkByName("eth0")
	if err != nil {
		p.tb.Fatal(err)
	}
	for n := from; n < to; n++ {
		addr := serviceAddr(family, n)
		a := &netlink.Addr{
			IPNet: &net.IPNet{
				IP:   addr.AsSlice(),
				Mask: net.CIDRMask(addr.BitLen(), addr.BitLen()),
			}, Flags: unix.IFA_F_NODAD,
		}
		if err := h.AddrAdd(l, a); err != nil {
			p.tb.Fatalf("add %s: %v", addr, err)
		}
	}
}

// BenchmarkForeignQuestions measures what it costs when other hosts ask each other about addresses
// of the same subnet, 5 000 times a second: percent of one core, in a process that answers for 1
// 000 addresses.
func BenchmarkForeignQuestions(b *testing.B) {
	const rate = 5000
	for _, family := range []int{4, 6} {
		p := newPair(b, fmt.Sprint("q", family))
		a := p.serve()
		a.order(joinOrder{Family: family, Join: 1000})
		for name, first := range map[string]int{"others": 20000, "ours": 0} {
			b.Run(fmt.Sprintf("IPv%d/%s", family, name), func(b *testing.B) {
				p.tb = b
				frames := p.questions(family, first, 1000)
				before, began := a.order(joinOrder{}), time.Now()
				for b.Loop() {
					p.ask(frames, rate, 4*window) // a whole second
				}
				after, wall := a.order(joinOrder{}), time.Since(began).Seconds()
				b.ReportMetric(0, "ns/op")
				b.ReportMetric(100*(after.CPU-before.CPU).Seconds()/wall, "cpu-%")
				b.ReportMetric(float64(after.Frames-before.Frames)/wall, "seen/s")
			})
			p.tb = b
		}
	}
}

// BenchmarkLinkEvents measures how long the segment waits for an announcement after an interface
// has changed. That includes the run time of the ip command.
func BenchmarkLinkEvents(b *testing.B) {
	l := newSegmentLab(b, "a")
	n := l.nodes["a"]
	l.syncAll(by("a"), both()...)
	n.awaitMove(AddressGained, vip4)
	heard := l.client.capture(neighbor.EtherTypeARP)
	b.Run("MAC", func(b *testing.B) {
		var total, worst time.Duration
		for k := range b.N {
			mac := fmt.Sprintf("02:00:00:01:%02x:%02x", k>>8, k&255)
			began := time.Now()
			ip(b, "-n", n.ns, "link", "set", "eth0", "address", mac)
			heard.first(b, mac)
			took := time.Since(began)
			total, worst = total+took, max(worst, took)
		}
		b.ReportMetric(0, "ns/op")
		b.ReportMetric(total.Seconds()*1000/float64(b.N), "ms-mean")
		b.ReportMetric(worst.Seconds()*1000, "ms-worst")
	})
}
