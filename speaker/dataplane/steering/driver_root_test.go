//go:build root

package steering

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"

	"github.com/berth-lb/berth/speaker/dataplane/nft/nettest"
	"github.com/berth-lb/berth/speaker/dataplane/steering/decide"
	"github.com/berth-lb/berth/speaker/dataplane/steering/program"
	"github.com/berth-lb/berth/speaker/dataplane/steering/table"
)

// bareEnv marks the process that lacks a capability.
const bareEnv = "BERTH_STEERING_TEST_BARE"

func TestMain(m *testing.M) {
	if pins := os.Getenv(bareEnv); pins != "" {
		_, err := New(Config{Pins: pins})
		fmt.Println(err)
		return
	}
	os.Exit(nettest.Main(m))
}

// The rack: on one segment a client, this namespace as node "owner", which has no endpoints, and
// the nodes "one" and "two", which have.
var (
	vip4, vip6     = netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("2001:db8::7")
	owner4, owner6 = netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")
)

const port = 8080

type rack struct {
	client string
	nodes  map[string]string // the commands that enter them
	pins   string
}

func newRack(t *testing.T) rack {
	t.Helper()
	return newRackBy(t, "ip link add uplink type veth peer name owner netns %[1]s; ip link set uplink up", "owner")
}

// newRackBy returns a rack whose owner is on the segment by an interface "uplink" that a script
// makes, and ports in the namespace of the segment, whose process the script gets.
func newRackBy(t *testing.T, script string, ports ...string) rack {
	t.Helper()
	r := rack{client: nettest.Namespace(t), nodes: map[string]string{}, pins: filepath.Join(bpffs(t), "steering")}
	segment := nettest.Namespace(t)
	nettest.Shell(t, "%s bash -ec 'ip link add br0 type bridge; ip link set br0 up'", segment)
	nettest.Shell(t, script, nettest.PID(segment))
	t.Cleanup(func() { nettest.Shell(t, "ip link del uplink") })
	nettest.Shell(t, `ip addr add %s/24 dev uplink; ip -6 addr add %s/64 dev uplink nodad
sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.conf.all.send_redirects=0`, owner4, owner6)
	for _, p := range ports {
		nettest.Shell(t, `%[1]s bash -ec 'ip link set %[2]s master br0; ip link set %[2]s up'`, segment, p)
	}
	plug := func(enter, name string, host int) {
		nettest.Shell(t, `ip link add %[2]s netns %[3]s type veth peer name uplink netns %[4]s
%[5]s bash -ec 'ip link set %[2]s master br0; ip link set %[2]s up'
%[1]s bash -ec 'sysctl -qw net.ipv6.conf.uplink.accept_dad=0; ip link set lo up; ip link set uplink up; ip addr add 10.0.0.%[6]d/24 dev uplink; ip -6 addr add fd00::%[6]d/64 dev uplink nodad'`,
			enter, name, nettest.PID(segment), nettest.PID(enter), segment, host)
		nettest.Eventually(t, name+" has a link-local address", func() bool {
			return nettest.Shell(t, "%s ip -6 -o addr show dev uplink scope link -tentative", enter) != ""
		})
	}
	plug(r.client, "client", 9)
	nettest.Shell(
		t,
		`%s bash -ec 'ip route add %s via %s; ip -6 route add %s via %s'`,
		r.client,
		vip4,
		owner4,
		vip6,
		owner6,
	)
	for i, name := range []string{"one", "two"} {
		r.nodes[name] = nettest.Namespace(t)
		plug(r.nodes[name], name, 2+i)
		nettest.Shell(
			t,
			`%[1]s bash -ec 'ip addr add %[2]s/32 dev lo; ip -6 addr add %[3]s/128 dev lo nodad'`,
			r.nodes[name],
			vip4,
			vip6,
		)
		nettest.Within(t, r.nodes[name], func() { answer(t, name) })
	}
	nettest.AwaitIPv6(t, "uplink")
	return r
}

// bpffs is mounted in the mount namespace of this test.
func bpffs(t *testing.T) string {
	dir := t.TempDir()
	nettest.Shell(t, "mount -t bpf bpffs %s", dir)
	t.Cleanup(func() { nettest.Shell(t, "umount -l %s", dir) })
	return dir
}

// answer serves TCP and UDP: it says the node's name and the client's address.
func answer(t *testing.T, name string) {
	at := net.JoinHostPort("::", strconv.Itoa(port))
	l, err := net.Listen("tcp", at)
	if err != nil {
		t.Error(err)
		return
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				n, _ := io.Copy(io.Discard, c)
				fmt.Fprint(
					c,
					name,
					" ",
					c.RemoteAddr().(*net.TCPAddr).IP,
					[]string{"", " took " + strconv.FormatInt(n, 10)}[min(n, 1)],
				)
			}()
		}
	}()
	for _, a := range []netip.Addr{vip4, vip6} { // answers come from the address that was asked
		p, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, port)))
		if err != nil {
			t.Error(err)
			return
		}
		t.Cleanup(func() { p.Close() })
		go func() {
			b := make([]byte, 1<<16)
			for {
				_, from, err := p.ReadFromUDPAddrPort(b)
				if err != nil {
					return
				}
				_, _ = p.WriteToUDPAddrPort([]byte(name+" "+from.Addr().Unmap().String()), from)
			}
		}()
	}
}

// patience is for an answer that is to come, haste for one that is not.
const (
	patience = 5 * time.Second
	haste    = 300 * time.Millisecond
)

func (r rack) ask(t *testing.T, network string, to netip.Addr) (string, error) {
	return r.askFor(t, patience, network, to, 1)
}

// answers reports whether anybody answers soon.
func (r rack) answers(t *testing.T) bool {
	_, err := r.askFor(t, haste, "udp", vip4, 1)
	return err == nil
}

// askFor connects from the client and returns what is answered. Size is that of the question by
// UDP.
func (r rack) askFor(
	t *testing.T,
	long time.Duration,
	network string,
	to netip.Addr,
	size int,
) (answer string, err error) {
	nettest.Within(t, r.client, func() {
		var c net.Conn
		ctx, cancel := context.WithTimeout(t.Context(), long)
		defer cancel()
		if c, err = new(net.Dialer).DialContext(ctx, network, netip.AddrPortFrom(to, port).String()); err != nil {
			return
		}
		defer c.Close()
		if err = c.SetDeadline(time.Now().Add(long)); err != nil {
			return
		}
		if network == "udp" {
			if _, err = c.Write(make([]byte, size)); err != nil {
				return
			}
			b := make([]byte, 64)
			var n int
			n, err = c.Read(b)
			answer = string(b[:n])
			return
		}
		if size > 1 {
			if _, err = c.Write(make([]byte, size)); err != nil {
				return
			}
		}
		if err = c.(*net.TCPConn).CloseWrite(); err != nil {
			return
		}
		var b []byte
		b, err = io.ReadAll(c)
		answer = string(b)
	})
	return answer, err
}

// expect asks by both protocols on both families, and wants this node to answer the client.
func (r rack) expect(t *testing.T, name, node string) {
	t.Helper()
	for _, network := range []string{"tcp", "udp"} {
		for to, client := range map[netip.Addr]string{vip4: "10.0.0.9", vip6: "fd00::9"} {
			if got, err := r.ask(t, network, to); err != nil || got != node+" "+client {
				t.Errorf("%s, %s to %s: %q, %v, want %q", name, network, to, got, err, node+" "+client)
			}
		}
	}
}

func uplink(t *testing.T) netlink.Link {
	t.Helper()
	device, err := netlink.LinkByName("uplink")
	if err != nil {
		t.Fatal(err)
	}
	return device
}

// desired has the Service on the nodes that are given.
func (r rack) desired(t *testing.T, members ...string) Desired {
	t.Helper()
	on := uplink(t).Attrs().Index
	d := Desired{
		Enabled: true, Seed: decide.Seed{1, 2}, Self: "owner", Interfaces: []string{"uplink"},
		Nodes: map[string]Node{
			"owner": {IPv4: owner4, IPv6: owner6, Interface: on, MTU: 1500},
			"one": {
				IPv4:      netip.MustParseAddr("10.0.0.2"),
				IPv6:      netip.MustParseAddr("fd00::2"),
				Interface: on,
				MTU:       1500,
			},
			"two": {
				IPv4:      netip.MustParseAddr("10.0.0.3"),
				IPv6:      netip.MustParseAddr("fd00::3"),
				Interface: on,
				MTU:       1500,
			},
		},
	}
	web := Service{TCPChance: true}
	for _, a := range []netip.Addr{vip4, vip6} {
		for _, p := range []uint8{decide.TCP, decide.UDP} {
			web.Frontends = append(web.Frontends, Frontend{netip.AddrPortFrom(a, port), p})
		}
	}
	for _, m := range members {
		web.Members = append(web.Members, table.Member{Node: m, Weight: 1})
	}
	d.Services = map[string]Service{"default/web": web}
	return d
}

// start returns a Driver that is closed at the end of the test.
func (r rack) start(t *testing.T) *Driver {
	t.Helper()
	d, err := New(Config{Pins: r.pins})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func mustSync(t *testing.T, d *Driver, desired Desired) {
	t.Helper()
	if err := d.Sync(desired); err != nil {
		t.Fatal(err)
	}
}

// packets are those of the Service, by reason and node.
func packets(t *testing.T, d *Driver) map[string]uint64 {
	t.Helper()
	counts, err := d.Stats()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]uint64{}
	for _, c := range counts {
		if c.Service != "default/web" {
			t.Errorf("%+v is of no Service", c)
		}
		all[c.Reason.String()+" "+c.Node] += c.Packets
	}
	return all
}

// On one segment packets go to the node by its MAC address; the client's address stays, and the
// answers come directly.
func TestDriver_steers(t *testing.T) {
	r := newRack(t)
	d := r.start(t)
	if r.answers(t) {
		t.Error("somebody answers before anything is attached")
	}
	mustSync(t, d, r.desired(t, "one"))
	r.expect(t, "one has endpoints", "one")
	mustSync(t, d, r.desired(t, "two"))
	r.expect(t, "they moved to two", "two")
	if n := packets(t, d); n["first one"] < 8 || n["first two"] < 8 {
		t.Errorf("counted %v", n)
	}
	off := r.desired(t, "two")
	off.Enabled = false
	mustSync(t, d, off)
	if r.answers(t) {
		t.Error("somebody answers though it is switched off")
	}
	mustSync(t, d, r.desired(t))
	if r.answers(t) {
		t.Error("somebody answers though nobody has endpoints")
	}
}

// To a node that is not on the segment packets go encapsulated, and its own program unpacks them.
func TestDriver_encapsulates(t *testing.T) {
	r := newRack(t)
	d := r.start(t)
	desired := r.desired(t, "one")
	one := desired.Nodes["one"]
	one.Encapsulate = true
	desired.Nodes["one"] = one
	mustSync(t, d, desired)
	if r.answers(t) {
		t.Error("somebody answers though nobody unpacks")
	}
	other := rack{pins: r.pins + "-one"}
	nettest.Within(t, r.nodes["one"], func() {
		at := other.start(t)
		there := r.desired(t, "one")
		there.Self = "one"
		web := there.Services["default/web"]
		web.TCPChance = false // nobody translates here, so conntrack would know nothing
		there.Services["default/web"] = web
		mustSync(t, at, there)
	})
	t.Cleanup(func() { nettest.Within(t, r.nodes["one"], func() { _ = Uninstall(other.pins) }) })
	r.expect(t, "encapsulated", "one")
	// A sender that cuts by itself hears what fits.
	nettest.Shell(t, `%s ip link set uplink gso_max_segs 1`, r.client)
	r.large(t, d, desired, "encapsulated")
}

// Large packets arrive: fragments of UDP, and what TCP leaves to the network device to cut.
func TestDriver_large(t *testing.T) {
	r := newRack(t)
	d := r.start(t)
	r.large(t, d, r.desired(t, "one"), "by MAC address")
}

func (r rack) large(t *testing.T, d *Driver, desired Desired, name string) {
	t.Helper()
	mustSync(t, d, desired)
	for to, client := range map[netip.Addr]string{vip4: "10.0.0.9", vip6: "fd00::9"} {
		const bulk = 20 << 20
		want := fmt.Sprintf("one %s took %d", client, bulk)
		if got, err := r.askFor(t, 4*patience, "tcp", to, bulk); err != nil || got != want {
			t.Errorf("%s, TCP to %s: %q, %v, want %q", name, to, got, err, want)
		}
		for _, size := range []int{3000, 20000} {
			if got, err := r.askFor(t, patience, "udp", to, size); err != nil || got != "one "+client {
				t.Errorf("%s, UDP of %d bytes to %s: %q, %v", name, size, to, got, err)
			}
		}
	}
}

// A node dies: one write, and new connections go elsewhere. It comes back, and gets them again.
func TestDriver_alive(t *testing.T) {
	r := newRack(t)
	d := r.start(t)
	mustSync(t, d, r.desired(t, "one", "two"))
	for _, c := range []struct {
		dead, want string
	}{{"one", "two"}, {"two", "one"}} {
		if err := d.Suspect(map[string]bool{c.dead: true}, nil); err != nil {
			t.Fatal(err)
		}
		for range 5 {
			r.expect(t, c.dead+" is dead", c.want)
		}
		if err := d.Suspect(nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	nettest.Eventually(t, "both get connections again", func() bool {
		before := packets(t, d)
		_, _ = r.ask(t, "udp", vip4)
		_, _ = r.ask(t, "udp", vip6)
		after := packets(t, d)
		return after["first one"] > before["first one"] && after["first two"] > before["first two"]
	})
	if err := d.Suspect(map[string]bool{"owner": true, "nobody": true}, nil); err != nil {
		t.Error(err)
	}
	if self := d.nodes.written[d.nodes.nodes.index["owner"]]; self.Flags&program.Returned == 0 {
		t.Errorf("others may think that this node is dead, and the kernel has %+v", self)
	}
}

// A death is written although tables cannot be: the map of source ranges is full. Tables are as
// before, and what was thought of nodes stays.
func TestDriver_aliveThoughFull(t *testing.T) {
	r := newRack(t)
	d := r.start(t)
	desired := r.desired(t, "one", "two")
	mustSync(t, d, desired)
	if err := d.Suspect(map[string]bool{"one": true}, nil); err != nil {
		t.Fatal(err)
	}
	tooMany := Service{
		Members:   desired.Services["default/web"].Members,
		Frontends: []Frontend{{Address: netip.MustParseAddrPort("198.51.100.8:80"), Protocol: 6}},
	}
	for i := range 1<<16 + 1 {
		tooMany.SourceRanges = append(tooMany.SourceRanges, netip.PrefixFrom(
			netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 32,
		))
	}
	desired.Services["default/many"] = tooMany
	if err := d.Sync(desired); err == nil {
		t.Fatal("more source ranges are taken than there is room for")
	}
	for range 5 {
		r.expect(t, "one is dead, and tables cannot be written", "two")
	}
	if err := d.Suspect(map[string]bool{"two": true}, nil); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		r.expect(t, "two is dead, and tables cannot be written", "one")
	}
	mustSync(t, d, r.desired(t, "one", "two"))
	r.expect(t, "two is dead, and tables can be written again", "one")
}

// Its methods may be called from any goroutine.
func TestDriver_concurrent(t *testing.T) {
	r := newRack(t)
	d := r.start(t)
	mustSync(t, d, r.desired(t, "one"))
	var group errgroup.Group
	for _, do := range []func(i int) error{
		func(i int) error { return d.Suspect(map[string]bool{"two": i%2 == 1}, nil) },
		func(i int) error { return d.Sync(r.desired(t, []string{"one", "two"}[i%2])) },
		func(int) error { return d.Refresh() },
		func(int) error { _, err := d.Stats(); d.Features(); d.Tables(); d.Suspected(); return err },
		func(int) error {
			client := netip.MustParseAddrPort("10.0.0.9:40000")
			_, err := d.RouteOf(decide.Flow{Client: client, Service: netip.AddrPortFrom(vip4, port), Protocol: decide.TCP})
			return err
		},
	} {
		group.Go(func() error {
			for i := range 50 {
				if err := do(i); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	mustSync(t, d, r.desired(t, "one"))
	r.expect(t, "after all that", "one")
}

// The process ends, and the kernel goes on. The next one takes over, and removes what nobody wants.
func TestDriver_reopens(t *testing.T) {
	r := newRack(t)
	first := r.start(t)
	desired := r.desired(t, "one")
	desired.Services["default/gone"] = Service{
		Frontends:    []Frontend{{netip.AddrPortFrom(vip4, 1), decide.TCP}},
		Members:      desired.Services["default/web"].Members,
		SourceRanges: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
	}
	mustSync(t, first, desired)
	if err := first.Suspect(map[string]bool{"two": true}, nil); err != nil {
		t.Fatal(err)
	}
	r.expect(t, "with the first process", "one")
	counted, nodes := packets(t, first), first.nodes.written
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	r.expect(t, "without any", "one")
	if !Steers(r.pins) {
		t.Error("nothing steers, it says")
	}
	prolongs(t, r)

	second := r.start(t)
	r.expect(t, "before the second one knows what is desired", "one")
	at, ok := second.services.placeOf(&record{}, desired.Services["default/web"])
	if slots := second.services.read(at); !ok || len(slots) != table.Slots || slots[0].First() == decide.Nobody {
		t.Errorf("the second one reads %d slots of the first one's table", len(slots))
	}
	mustSync(t, second, r.desired(t, "one"))
	if got := second.Suspected(); !slices.Equal(got, []string{"two"}) {
		t.Errorf("%v are suspected since before, want two", got)
	}
	r.expect(t, "with the second one", "one")
	if n := packets(t, second); n["first one"] < counted["first one"]+16 {
		t.Errorf("counters %v, before %v: they begin again", n, counted)
	}
	for i, n := range nodes {
		got := second.nodes.written[i]
		if got.Name != n.Name || got.Flags&program.Alive != n.Flags&program.Alive {
			t.Errorf("node %d is %+v, was %+v", i, got, n)
		}
	}
	services, err := second.kernel.foundServices()
	if err != nil || len(services) != 4 {
		t.Errorf("there are %d frontends, want the 4 that are desired: %v", len(services), err)
	}
	if ranges, err := second.kernel.foundRanges(); err != nil || len(ranges) != 0 {
		t.Errorf("there are ranges %v, want none: %v", ranges, err)
	}
	if pages, err := second.kernel.foundPages(); err != nil || len(pages) != 1 {
		t.Errorf("there are pages %v, want one: %v", pages, err)
	}
	if n := attached(t, "uplink"); len(n) != 1 {
		t.Errorf("%d programs are attached, want one", len(n))
	}
	if err := second.Sync(Desired{
		Enabled: true, Seed: decide.Seed{9}, Self: "owner", Nodes: r.desired(t).Nodes,
	}); !errors.Is(err, ErrSeed) {
		t.Errorf("another seed: %v, want %v", err, ErrSeed)
	}
}

// prolongs expects that a lease which is nearly over is prolonged, and one that is over is not.
func prolongs(t *testing.T, r rack) {
	t.Helper()
	m, before, err := pinnedConfiguration(r.pins)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	for _, left := range []time.Duration{time.Minute, -time.Second} {
		c := before
		c.Deadline = uint64(int64(monotonic()) + int64(left))
		if err := errors.Join(m.Put(uint32(0), &c), Prolong(r.pins)); err != nil {
			t.Fatal(err)
		}
		var after program.Configuration
		if err := m.Lookup(uint32(0), &after); err != nil {
			t.Fatal(err)
		}
		if prolonged := after.Deadline != c.Deadline; prolonged != (left > 0) || Steers(r.pins) != (left > 0) {
			t.Errorf("of a lease with %v left the deadline was %d, and is %d", left, c.Deadline, after.Deadline)
		}
	}
	if err := m.Put(uint32(0), &before); err != nil {
		t.Fatal(err)
	}
}

// Single Services change without all others.
func TestDriver_update(t *testing.T) {
	r := newRack(t)
	d := r.start(t)
	if err := d.Update(nil, nil); err == nil {
		t.Error("it updates what it does not have yet")
	}
	mustSync(t, d, r.desired(t, "one"))
	r.expect(t, "before", "one")
	if err := d.Update(r.desired(t, "two").Services, nil); err != nil {
		t.Fatal(err)
	}
	r.expect(t, "after", "two")
	web := r.desired(t, "one").Services["default/web"]
	var refused *PartialError
	if err := d.Update(map[string]Service{"default/thief": web}, nil); !errors.As(err, &refused) {
		t.Errorf("a Service with another one's frontends: %v", err)
	}
	r.expect(t, "with a thief", "two")
	if err := d.Update(nil, []string{"default/web"}); err != nil {
		t.Fatal(err)
	}
	r.expect(t, "with what the thief wants", "one")
}

// attached are the programs of tcx at an interface, first to last. On a kernel without it, it is
// ours.
func attached(t *testing.T, on string) []ebpf.ProgramID {
	t.Helper()
	device, err := netlink.LinkByName(on)
	if err != nil {
		t.Fatal(err)
	}
	var ids []ebpf.ProgramID
	q, err := link.QueryPrograms(link.QueryOptions{Target: device.Attrs().Index, Attach: ebpf.AttachTCXIngress})
	if errors.Is(err, syscall.EINVAL) {
		if filters, _ := netlink.FilterList(device, netlink.HANDLE_MIN_INGRESS); hasOwn(filters) {
			ids = append(ids, 0)
		}
		return ids
	} else if err != nil {
		t.Fatal(err)
	}
	for _, p := range q.Programs {
		ids = append(ids, p.ID)
	}
	return ids
}

// foreign is another's program, which lets everything pass.
func foreign(t *testing.T) *ebpf.Program {
	t.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SchedCLS, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm32(asm.R0, 0), asm.Return()}, // ends its way there: TC_ACT_OK
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// Another's program stays, attached before ours or after it, and does not keep packets from ours.
func TestDriver_foreignProgram(t *testing.T) {
	r := newRack(t)
	device := uplink(t)
	attach := func() ebpf.ProgramID {
		p := foreign(t)
		l, err := link.AttachTCX(link.TCXOptions{
			Interface: device.Attrs().Index, Program: p, Attach: ebpf.AttachTCXIngress, Anchor: link.Tail(),
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		info, err := p.Info()
		if err != nil {
			t.Fatal(err)
		}
		id, _ := info.ID()
		return id
	}
	before := attach()
	d := r.start(t)
	mustSync(t, d, r.desired(t, "one"))
	after := attach()
	r.expect(t, "beside others", "one")
	if err := d.Refresh(); err != nil {
		t.Fatal(err)
	}
	ids := attached(t, "uplink")
	if len(ids) != 3 || ids[1] != before || ids[2] != after {
		t.Errorf("programs %v are attached, want ours, %d and %d", ids, before, after)
	}
	if err := errors.Join(d.Close(), Uninstall(r.pins)); err != nil {
		t.Fatal(err)
	}
	if ids := attached(t, "uplink"); len(ids) != 2 {
		t.Errorf("programs %v are left, want %d and %d", ids, before, after)
	}
}

// On a kernel without tcx it is a filter, beside those of others.
func TestDriver_filter(t *testing.T) {
	r := newRack(t)
	device := uplink(t)
	d := r.start(t)
	d.attached.filters = true
	mustSync(t, d, r.desired(t, "one"))
	if f := d.Features(); f.TCX {
		t.Error("it says that it uses tcx")
	}
	if filters, err := netlink.FilterList(device, netlink.HANDLE_MIN_INGRESS); err != nil || !hasOwn(filters) {
		t.Errorf("filters %v, %v, want ours", filters, err)
	}
	r.expect(t, "by a filter", "one")
	other := &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: device.Attrs().Index, Parent: netlink.HANDLE_MIN_INGRESS, Handle: 1, Priority: 0xf000, Protocol: 3,
		}, Fd: foreign(t).FD(), Name: "other", DirectAction: true,
	}
	if err := netlink.FilterAdd(other); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	r.expect(t, "without a process", "one")
	again := r.start(t)
	again.attached.filters = true
	mustSync(t, again, r.desired(t, "two"))
	r.expect(t, "with another process", "two")
	if err := errors.Join(again.Close(), Uninstall(r.pins)); err != nil {
		t.Fatal(err)
	}
	filters, err := netlink.FilterList(device, netlink.HANDLE_MIN_INGRESS)
	if err != nil || len(filters) != 1 || filters[0].Attrs().Priority != 0xf000 {
		t.Errorf("filters %v are left, want the other one's: %v", filters, err)
	}
}

// Nothing is left.
func TestUninstall(t *testing.T) {
	r := newRack(t)
	for _, byFilter := range []bool{false, true} {
		d := r.start(t)
		d.attached.filters = byFilter
		mustSync(t, d, r.desired(t, "one"))
		r.expect(t, "before", "one")
		if err := errors.Join(d.Close(), Uninstall(r.pins), Uninstall(r.pins)); err != nil {
			t.Fatal(err)
		}
		if r.answers(t) || Steers(r.pins) {
			t.Error("it still steers")
		}
		if _, err := os.Stat(r.pins); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("something is pinned: %v", err)
		}
		if n := attached(t, "uplink"); len(n) != 0 {
			t.Errorf("programs %v are attached", n)
		}
		if out := nettest.Shell(t, "tc qdisc show dev uplink; tc filter show dev uplink ingress"); strings.Contains(
			out,
			"clsact",
		) {
			t.Errorf("a qdisc is left: %s", out)
		}
	}
}

// What others change is repaired.
func TestDriver_repairs(t *testing.T) {
	r := newRack(t)
	d := r.start(t)
	desired := r.desired(t, "one")
	mustSync(t, d, desired)
	for _, c := range []struct {
		name string
		harm func() error
	}{
		{"a node", func() error { return d.kernel.putNode(d.nodes.nodes.index["one"], program.Node{}) }},
		{"a Service", func() error { return d.kernel.Services.Delete(keyOf(desired.Services["default/web"].Frontends[0])) }},
		{"a table", func() error {
			for _, g := range d.services.groups {
				return d.kernel.writeSlots(tableWrite{g.at, func() []decide.Slot { return make([]decide.Slot, table.Slots) }})
			}
			return nil
		}},
		{"the configuration", func() error { return d.kernel.configure(program.Configuration{Seed: desired.Seed}) }},
		{"the link", func() error { return d.attached.detach(pinOf(uplink(t))) }},
		{"the interface", func() error {
			again := "ip link set uplink down; ip link set uplink up; ip -6 addr add " + owner6.String() +
				"/64 dev uplink nodad"
			return exec.Command("bash", "-c", again).Run()
		}},
	} {
		if err := c.harm(); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if err := d.Refresh(); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		r.expect(t, c.name+" was harmed", "one")
	}
}

// Maps of another version are left alone until the program has its own, and then go.
func TestDriver_layout(t *testing.T) {
	r := newRack(t)
	first := r.start(t)
	mustSync(t, first, r.desired(t, "one"))
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	// As another version would have left it: other maps, and the link.
	if err := os.Mkdir(filepath.Join(r.pins, "v0"), 0o700); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(filepath.Join(r.pins, "v1"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if err := os.Rename(filepath.Join(r.pins, "v1", e.Name()), filepath.Join(r.pins, "v0", e.Name())); err != nil {
			t.Fatal(err)
		}
	}
	second := r.start(t)
	r.expect(t, "before the change", "one")
	mustSync(t, second, r.desired(t, "two"))
	r.expect(t, "after the change", "two")
	if _, err := os.Stat(filepath.Join(r.pins, "v0")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("maps of another version are left: %v", err)
	}
	if n := attached(t, "uplink"); len(n) != 1 {
		t.Errorf("%d programs are attached, want one", len(n))
	}
}

func TestNew_noBPFFS(t *testing.T) {
	_, err := New(Config{Pins: t.TempDir()})
	if err == nil || !strings.Contains(err.Error(), "is not on a bpffs: mount one there") {
		t.Errorf("without a bpffs: %v", err)
	}
}

func TestNew_withoutCapability(t *testing.T) {
	for _, c := range []string{"bpf", "net_admin", "perfmon"} {
		dir := bpffs(t)
		cmd := exec.Command(
			"setpriv",
			"--bounding-set=-sys_admin,-"+c,
			"--inh-caps=-sys_admin,-"+c,
			nettest.Executable(),
		)
		cmd.Env = append(os.Environ(), bareEnv+"="+filepath.Join(dir, "steering"))
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(strings.ToUpper(string(out)), strings.ToUpper(c)) {
			t.Errorf("without %s it says %q, %v", c, out, err)
		}
	}
}

func TestFeatures(t *testing.T) {
	if !tracksConnections() {
		t.Error("the kernel of these tests has bpf_skb_ct_lookup")
	}
}

// The module nf_conntrack may be loaded later than the program, which is loaded again then.
func TestRefresh_secondChance(t *testing.T) {
	r := newRack(t)
	d := r.start(t)
	mustSync(t, d, r.desired(t, "one"))
	before := attached(t, "uplink")
	d.kernel.chance = false
	if err := d.Refresh(); err != nil || !d.Features().SecondChance {
		t.Errorf("features %+v, %v", d.Features(), err)
	}
	if after := attached(t, "uplink"); len(after) != 1 || after[0] == before[0] {
		t.Errorf("programs %v are attached, were %v: want another one", after, before)
	}
	r.expect(t, "with another program", "one")
}

func TestSync_interfaces(t *testing.T) {
	r := newRack(t)
	d := r.start(t)
	desired := r.desired(t, "one")
	desired.Interfaces = []string{"missing", "uplink"}
	err := d.Sync(desired)
	if err == nil || !strings.Contains(err.Error(), "attach the steering program to missing: ") {
		t.Errorf("an interface that is missing: %v", err)
	}
	r.expect(t, "beside one that is missing", "one")
	// As a VLAN's is called.
	nettest.Shell(t, "ip link add uplink.100 type veth peer name other.100")
	t.Cleanup(func() { nettest.Shell(t, "ip link del uplink.100") })
	desired.Interfaces = []string{"uplink.100", "uplink"}
	mustSync(t, d, desired)
	if n := attached(t, "uplink.100"); len(n) != 1 {
		t.Errorf("%d programs are attached to an interface with a dot in its name", len(n))
	}
	desired.Interfaces = nil
	mustSync(t, d, desired)
	if n := attached(t, "uplink"); len(n) != 0 {
		t.Errorf("%d programs are attached to an interface that is none any more", len(n))
	}
}
