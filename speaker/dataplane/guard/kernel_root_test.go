//go:build root

package guard

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/sys/unix"

	"github.com/berth-lb/berth/speaker/dataplane/ipvs"
	"github.com/berth-lb/berth/speaker/dataplane/nft"
	"github.com/berth-lb/berth/speaker/dataplane/nft/nettest"
)

func TestMain(m *testing.M) { os.Exit(nettest.Main(m)) }

// The rack: a client, this namespace as the node, and a pod. The node has the addresses, so that
// whatever is not dropped reaches it.
const (
	address4, address6 = "198.51.100.7", "2001:db8::7"
	client4, client6   = "10.0.0.1", "fd00::1"
	node4, node6       = "10.1.0.1", "fd01::1" // towards the pod
	pod4, pod6         = "10.1.0.2", "fd01::2"
	podPort            = 8080
	nodePort           = 30080
)

func rack(t *testing.T) (client, pod string) {
	t.Helper()
	client, pod = nettest.Namespace(t), nettest.Namespace(t)
	nettest.Shell(t, `set -e
ip link add client type veth peer name node netns %s
ip link add pod type veth peer name eth0 netns %s
ip addr add 10.0.0.2/24 dev client; ip -6 addr add fd00::2/64 dev client nodad
ip addr add %s/24 dev pod; ip -6 addr add %s/64 dev pod nodad
ip link set client up; ip link set pod up
ip addr add %s/32 dev lo; ip -6 addr add %s/128 dev lo
sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1`, nettest.PID(client), nettest.PID(pod), node4, node6, address4, address6)
	nettest.Shell(
		t,
		`%s bash -ec 'ip link set lo up; ip addr add %s/24 dev node; ip -6 addr add %s/64 dev node nodad; ip link set node up
ip addr add 10.0.0.9/24 dev node; ip -6 addr add fd00::9/64 dev node nodad
ip route add default via 10.0.0.2; ip -6 route add default via fd00::2'`,
		client,
		client4,
		client6,
	)
	nettest.Shell(
		t,
		`%s bash -ec 'ip link set lo up; ip addr add %s/24 dev eth0; ip -6 addr add %s/64 dev eth0 nodad; ip link set eth0 up
ip route add default via %s; ip -6 route add default via %s'`,
		pod,
		pod4,
		pod6,
		node4,
		node6,
	)
	t.Cleanup(func() {
		nettest.Shell(
			t,
			"ip link del client; ip link del pod; ip addr del %s/32 dev lo; ip -6 addr del %s/128 dev lo",
			address4,
			address6,
		)
	})
	nettest.AwaitIPv6(t, "client", "pod")
	nettest.Within(t, pod, func() { serve(t, "", podPort) })
	forward(t)
	return client, pod
}

// serve answers on a port of an address, or of all, over TCP and UDP, with the client's address.
func serve(t *testing.T, address string, port int) {
	at := net.JoinHostPort(address, strconv.Itoa(port))
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
			fmt.Fprint(c, c.RemoteAddr())
			c.Close()
		}
	}()
	p, err := net.ListenPacket("udp", at)
	if err != nil {
		t.Error(err)
		return
	}
	t.Cleanup(func() { p.Close() })
	go func() {
		b := make([]byte, 1<<16)
		for {
			_, from, err := p.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = p.WriteTo([]byte(from.String()), from)
		}
	}()
}

// forward stands in for IPVS, which this kernel need not have, and for kube-proxy: it rewrites port
// 80 of the addresses, and those from 1000 to 1999, and the NodePort of any address, to the pod's.
func forward(t *testing.T) {
	t.Helper()
	c, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "proxy"})
	for name, hook := range map[string]*nftables.ChainHook{
		"prerouting": nftables.ChainHookPrerouting,
		"output":     nftables.ChainHookOutput,
	} {
		chain := c.AddChain(
			&nftables.Chain{
				Table:    table,
				Name:     name,
				Type:     nftables.ChainTypeNAT,
				Hooknum:  hook,
				Priority: nftables.ChainPriorityNATDest,
			},
		)
		for i, f := range nft.Families {
			pod := netip.MustParseAddr([...]string{pod4, pod6}[i])
			to := []expr.Any{
				&expr.Immediate{Register: 1, Data: pod.AsSlice()},
				&expr.Immediate{Register: 2, Data: []byte{podPort >> 8, podPort & 0xff}},
				&expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(f.Protocol), RegAddrMin: 1, RegProtoMin: 2},
			}
			ports := func(from, to uint16) []expr.Any {
				return append(
					f.Is(),
					&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
					&expr.Range{
						Op:       expr.CmpOpEq,
						Register: 1,
						FromData: []byte{byte(from >> 8), byte(from)},
						ToData:   []byte{byte(to >> 8), byte(to)},
					},
				)
			}
			c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: append(ports(nodePort, nodePort), to...)})
			address := netip.MustParseAddr([...]string{address4, address6}[i])
			for _, exposed := range [][]expr.Any{ports(80, 80), ports(1000, 1999)} {
				exposed = append(exposed,
					f.LoadDestination(1),
					&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: address.AsSlice()})
				c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: append(exposed, to...)})
			}
		}
	}
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.DelTable(table)
		if err := c.Flush(); err != nil {
			t.Error(err)
		}
	})
}

// dial makes a socket in a namespace, this one if it is empty.
func dial(t *testing.T, in, network, source, to string) (net.Conn, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	d := net.Dialer{}
	switch local := net.ParseIP(source); {
	case source == "":
	case network == "tcp":
		d.LocalAddr = &net.TCPAddr{IP: local}
	default:
		d.LocalAddr = &net.UDPAddr{IP: local}
	}
	var c net.Conn
	var err error
	if in == "" {
		return d.DialContext(ctx, network, to)
	}
	nettest.Within(t, in, func() { c, err = d.DialContext(ctx, network, to) })
	return c, err
}

// ask returns the address that a server sees us with.
func ask(t *testing.T, in, network, source, to string, question ...byte) string {
	t.Helper()
	c, err := dial(t, in, network, source, to)
	if err != nil {
		t.Fatalf("%s %s: %v", network, to, err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	if network == "udp" {
		if _, err := c.Write(append(question, '?')); err != nil {
			t.Fatalf("%s %s: %v", network, to, err)
		}
	}
	b := make([]byte, 100)
	n, err := c.Read(b)
	if err != nil {
		t.Fatalf("%s %s: %v", network, to, err)
	}
	from, err := netip.ParseAddrPort(string(b[:n]))
	if err != nil {
		t.Fatalf("%s %s: %v", network, to, err)
	}
	return from.Addr().Unmap().String()
}

// isDropped sends one packet, and waits until it is counted.
func isDropped(t *testing.T, reason, in, network, source, to string, packet ...byte) {
	t.Helper()
	before := dropped(t)
	if network == "tcp" {
		connectOnce(t, in, source, to)
	} else {
		c, err := dial(t, in, network, source, to)
		if err != nil {
			t.Fatalf("%s %s: %v", network, to, err)
		}
		defer c.Close()
		_, _ = c.Write(append(packet, '?')) // fails if it is dropped in hook output
	}
	nettest.Eventually(t, network+" to "+to+" is dropped", func() bool { return dropped(t)[reason] > before[reason] })
	after := dropped(t)
	before[reason] = after[reason] // TCP tries again
	if fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("%s to %s: also counted as another: %v, was %v", network, to, after, before)
	}
}

// connectOnce begins a TCP connection and does not wait for it.
func connectOnce(t *testing.T, in, source, to string) {
	t.Helper()
	begin := func() {
		address := netip.MustParseAddrPort(to)
		family, remote := unix.AF_INET, unix.Sockaddr(
			&unix.SockaddrInet4{Port: int(address.Port()), Addr: as4(address.Addr())},
		)
		if address.Addr().Is6() {
			family, remote = unix.AF_INET6, &unix.SockaddrInet6{Port: int(address.Port()), Addr: address.Addr().As16()}
		}
		fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			t.Error(err)
			return
		}
		t.Cleanup(func() { unix.Close(fd) })
		if source != "" {
			local := netip.MustParseAddr(source)
			from := unix.Sockaddr(&unix.SockaddrInet4{Addr: as4(local)})
			if local.Is6() {
				from = &unix.SockaddrInet6{Addr: local.As16()}
			}
			if err := unix.Bind(fd, from); err != nil {
				t.Error(err)
			}
		}
		_ = unix.Connect(fd, remote)
	}
	if in == "" {
		begin()
		return
	}
	nettest.Within(t, in, begin)
}

func as4(a netip.Addr) [4]byte {
	if a.Is4() {
		return a.As4()
	}
	return [4]byte{}
}

func dropped(t *testing.T) map[string]uint64 {
	t.Helper()
	n, err := newKernel().dropped()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// run keeps a table with these frontends until the end of the test.
func run(t *testing.T, list ...Frontend) *Driver {
	t.Helper()
	d := newDriver(slog.New(slog.DiscardHandler), newKernel())
	d.keeper.Retry = time.Second
	d.Sync("web", list)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- d.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-done, d.Remove()); err != nil {
			t.Error(err)
		}
	})
	written(t, list...)
	return d
}

func written(t *testing.T, list ...Frontend) {
	t.Helper()
	nettest.Eventually(t, "the table is written", func() bool { return newKernel().Check(distinct(list...)) == nil })
}

func TestDriver_kernel_ports(t *testing.T) {
	client, _ := rack(t)
	for _, address := range []string{address4, address6, "10.0.0.2", "fd00::2"} {
		serve(t, address, 22)
		for _, port := range []string{"22", "30080"} {
			for _, network := range []string{"tcp", "udp"} {
				ask(t, client, network, "", net.JoinHostPort(address, port)) // the rack is as it should be
			}
		}
	}
	var list []Frontend
	for _, address := range []string{address4, address6} {
		for _, protocol := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
			list = append(list, Frontend{Address: netip.MustParseAddr(address), Port: 80, Protocol: protocol})
		}
	}
	run(t, list...)
	large := make([]byte, 5000) // several fragments
	for i, address := range []string{address4, address6} {
		seen := [...]string{client4, client6}[i]
		for _, network := range []string{"tcp", "udp"} {
			to := net.JoinHostPort(address, "80")
			if got := ask(t, client, network, seen, to); got != seen {
				t.Errorf("%s to %s comes from %s, want %s", network, to, got, seen)
			}
			ask(t, "", network, "", to) // the node's own
			for _, port := range []string{"22", "81", "30080"} {
				isDropped(t, unexposed, client, network, "", net.JoinHostPort(address, port))
				isDropped(t, unexposed, "", network, "", net.JoinHostPort(address, port))
			}
			for _, port := range []string{"22", "30080"} {
				ask(t, client, network, "", net.JoinHostPort([...]string{"10.0.0.2", "fd00::2"}[i], port)) // another address
			}
		}
		if got := ask(t, client, "udp", seen, net.JoinHostPort(address, "80"), large...); got != seen {
			t.Errorf("fragments come from %s", got)
		}
		isDropped(t, unexposed, client, "udp", "", net.JoinHostPort(address, "81"), large...)
		sctp := [...]string{"ip4:132", "ip6:132"}[i]
		isDropped(t, unexposed, client, sctp, "", address, 0, 1, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0) // port 80 is not one of SCTP
	}
	ping(t, client, "ip4:icmp", address4, 8, 0, 0xf7, 0xff, 0, 0, 0, 0)
	ping(t, client, "ip6:ipv6-icmp", address6, 128, 0, 0, 0, 0, 0, 0, 0) // the kernel fills the checksum in
}

func ping(t *testing.T, in, network, to string, request ...byte) {
	t.Helper()
	c, err := dial(t, in, network, "", to)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := c.Write(request); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 100)); err != nil {
		t.Errorf("%s does not answer: %v", to, err)
	}
}

func TestDriver_kernel_sources(t *testing.T) {
	client, _ := rack(t)
	var list []Frontend
	for _, address := range []string{address4, address6} {
		for _, protocol := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
			list = append(list, Frontend{
				Address: netip.MustParseAddr(address), Port: 80, Protocol: protocol,
				Sources: prefixes(
					"10.0.0.8/29",
					"10.0.0.9/32",
					"203.0.113.0/24",
					"fd00::8/125",
					"fd00::9/128",
					address4+"/32",
					address6+"/128",
				),
			})
		}
	}
	// The same sources of another frontend are none of this one.
	list = append(
		list,
		Frontend{
			Address:  netip.MustParseAddr(address4),
			Port:     443,
			Protocol: unix.IPPROTO_TCP,
			Sources:  prefixes("10.0.0.1/32"),
		},
	)
	d := run(t, list...)
	for i, to := range []string{address4 + ":80", "[" + address6 + "]:80"} {
		refused, allowed := [...]string{client4, client6}[i], [...]string{"10.0.0.9", "fd00::9"}[i]
		node := [...]string{node4, node6}[i]
		for _, network := range []string{"tcp", "udp"} {
			if got := ask(t, client, network, allowed, to); got != allowed {
				t.Errorf("%s to %s comes from %s, want %s", network, to, got, allowed)
			}
			ask(t, "", network, "", to) // the node's own, whose source is the address
			isDropped(t, forbiddenSource, client, network, refused, to)
			isDropped(t, forbiddenSource, "", network, node, to)
		}
	}
	// Ranges that overlap the former ones take their place.
	for i := range list {
		list[i].Sources = prefixes("10.0.0.0/29", "fd00::/125")
	}
	d.Sync("web", list)
	written(t, list...)
	for i, to := range []string{address4 + ":80", "[" + address6 + "]:80"} {
		ask(t, client, "udp", [...]string{client4, client6}[i], to)
		isDropped(t, forbiddenSource, client, "udp", [...]string{"10.0.0.9", "fd00::9"}[i], to)
	}
	for i := range list {
		list[i].Sources = prefixes("203.0.113.0/24") // none of the second family
	}
	d.Sync("web", list)
	written(t, list...)
	isDropped(t, forbiddenSource, client, "udp", client6, "["+address6+"]:80")
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(counters{newKernel()})
	counted := dropped(t)
	if err := testutil.GatherAndCompare(registry, strings.NewReader(fmt.Sprintf(
		`# HELP berth_ipvs_packets_dropped_total Packets for addresses that IPVS serves, dropped since the table was last written: for a port that no Service exposes (unexposed), or from outside loadBalancerSourceRanges (source).
# TYPE berth_ipvs_packets_dropped_total counter
berth_ipvs_packets_dropped_total{reason="source"} %d
berth_ipvs_packets_dropped_total{reason="unexposed"} 0
`, counted[forbiddenSource]))); err != nil {
		t.Error(err)
	}
}

func TestDriver_kernel_sourceLengths(t *testing.T) {
	client, _ := rack(t)
	var list []Frontend
	allowed, refused := map[string]string{}, map[string]string{} // what is asked, and by whom
	for i, address := range []string{address4, address6} {
		source := netip.MustParseAddr([...]string{client4, client6}[i])
		frontend := func(port int, p netip.Prefix) string {
			list = append(
				list,
				Frontend{
					Address:  netip.MustParseAddr(address),
					Port:     uint16(port),
					Protocol: unix.IPPROTO_UDP,
					Sources:  []netip.Prefix{p},
				},
			)
			return net.JoinHostPort(address, strconv.Itoa(port))
		}
		for bits := range source.BitLen() + 1 {
			allowed[frontend(1000+bits, netip.PrefixFrom(source, bits))] = source.String()
			if bits > 0 {
				neighbor := source.AsSlice()
				neighbor[(bits-1)/8] ^= 0x80 >> ((bits - 1) % 8)
				a, _ := netip.AddrFromSlice(neighbor)
				refused[frontend(2000+bits, netip.PrefixFrom(a, bits))] = source.String()
			}
		}
	}
	run(t, list...)
	for to, source := range allowed {
		ask(t, client, "udp", source, to)
	}
	for to, source := range refused {
		isDropped(t, forbiddenSource, client, "udp", source, to)
	}
}

// What IPVS does not take, because somebody emptied it, waits for it to be back: the node's own
// listeners do not have it.
func TestDriver_kernel_nodeItself(t *testing.T) {
	client, _ := rack(t)
	var list []Frontend
	for _, address := range []string{address4, address6} {
		serve(t, address, 90)
		for _, protocol := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
			list = append(list, Frontend{Address: netip.MustParseAddr(address), Port: 90, Protocol: protocol})
		}
	}
	d := run(t, list...)
	packets := func(comment string) (n uint64) {
		rules, err := newKernel().Rules()
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rules {
			if r.Comment == comment {
				n += r.Packets
			}
		}
		return n
	}
	for _, address := range []string{address4, address6} {
		to := net.JoinHostPort(address, "90")
		before := packets(away)
		connectOnce(t, client, "", to)
		nettest.Eventually(t, "the first packet to "+to+" is dropped", func() bool { return packets(away) > before })
		before = packets(away)
		datagram, err := dial(t, client, "udp", "", to)
		if err != nil {
			t.Fatal(err)
		}
		defer datagram.Close()
		if _, err := datagram.Write([]byte("?")); err != nil {
			t.Fatal(err)
		}
		nettest.Eventually(t, "a datagram to "+to+" is dropped", func() bool { return packets(away) > before })
		if n := packets(unknown); n > 0 {
			t.Errorf("%d packets to %s were answered by a reset", n, to)
		}
	}
	d.Sync("web", nil)
	nettest.Eventually(t, "nothing is guarded", func() bool { return newKernel().Check(podElements(nil)) == nil })
	ask(t, client, "udp", "", net.JoinHostPort(address4, "90")) // somebody listens
}

func TestDriver_kernel_masquerade(t *testing.T) {
	client, _ := rack(t)
	var list []Frontend
	for _, address := range []string{address4, address6} {
		list = append(list,
			Frontend{Address: netip.MustParseAddr(address), Port: 80, Protocol: unix.IPPROTO_TCP, Masquerade: true},
			Frontend{Address: netip.MustParseAddr(address), Port: 80, Protocol: unix.IPPROTO_UDP})
	}
	d := run(t, list...)
	see := func(network string, want4, want6 string) {
		t.Helper()
		if got := ask(t, client, network, client4, address4+":80"); got != want4 {
			t.Errorf("%s comes from %s, want %s", network, got, want4)
		}
		if got := ask(t, client, network, client6, "["+address6+"]:80"); got != want6 {
			t.Errorf("%s comes from %s, want %s", network, got, want6)
		}
	}
	see("tcp", node4, node6)
	see("udp", client4, client6)
	for i := range list {
		list[i].Masquerade = !list[i].Masquerade
	}
	d.Sync("web", list)
	written(t, list...)
	see("tcp", client4, client6)
	see("udp", node4, node6)
	if got := ask(t, client, "tcp", client4, "10.0.0.2:30080"); got != client4 {
		t.Errorf("what is for another address is masqueraded too: it comes from %s", got)
	}
}

// What the node's own pods and processes send to such a frontend is marked for IPVS, and nobody
// else's; and what IPVS sends on for the mark is masqueraded.
func TestDriver_kernel_marks(t *testing.T) {
	client, pod := rack(t)
	const mark4, mark6 = ipvs.Marks | 4, ipvs.Marks | 6
	seen := countMarks(t, 0, mark4, mark6)
	var list []Frontend
	for address, mark := range map[string]uint32{address4: mark4, address6: mark6} {
		for port, mark := range map[uint16]uint32{markedPort: mark, plainPort: 0} {
			list = append(
				list,
				Frontend{Address: netip.MustParseAddr(address), Port: port, Protocol: unix.IPPROTO_TCP, Mark: mark},
			)
		}
	}
	d := run(t, list...)
	expect := func(in, address string, port int, mark uint32) {
		t.Helper()
		before := seen()
		connectOnce(t, in, "", net.JoinHostPort(address, strconv.Itoa(port)))
		nettest.Eventually(
			t,
			fmt.Sprintf("what %q sends to %s, port %d, has mark %#x", in, address, port, mark),
			func() bool { return seen()[mark] > before[mark] },
		)
		after := seen()
		before[mark] = after[mark] // a process's own packets pass twice
		if fmt.Sprint(after) != fmt.Sprint(before) {
			t.Errorf("what %q sends to %s, port %d, has other marks too: %v, was %v", in, address, port, after, before)
		}
	}
	expect(pod, address4, markedPort, 0)                             // nobody knows yet who is a pod
	d.SetPods(append(podRanges, netip.MustParsePrefix("fd01::/80"))) // which says nothing new
	nettest.Eventually(t, "pods are known", func() bool {
		return newKernel().Check(append(distinct(list...), podElements(podRanges)...)) == nil
	})
	for address, mark := range map[string]uint32{address4: mark4, address6: mark6} {
		expect(pod, address, markedPort, mark)
		expect("", address, markedPort, mark)
		expect(client, address, markedPort, 0)
		for _, in := range []string{pod, "", client} {
			expect(in, address, plainPort, 0)
		}
	}
	for i, mark := range []uint32{mark4, mark6} {
		source, to := [...]string{"10.0.0.2", "fd00::2"}[i], net.JoinHostPort(
			[...]string{pod4, pod6}[i],
			strconv.Itoa(podPort),
		)
		if got := ask(t, "", "tcp", source, to); got != source {
			t.Errorf("what this node sends comes from %s, want %s", got, source)
		}
		if got, want := askFrom(t, source, to, mark), [...]string{node4, node6}[i]; got != want {
			t.Errorf("what IPVS would send on for mark %#x comes from %s, want %s", mark, got, want)
		}
	}
	d.SetPods(nil)
	written(t, list...)
	expect(pod, address4, markedPort, 0)
}

const markedPort, plainPort = 90, 91

var podRanges = []netip.Prefix{netip.MustParsePrefix("10.1.0.0/24"), netip.MustParsePrefix("fd01::/64")}

// countMarks counts packets for those ports by their marks, where IPVS would see them.
func countMarks(t *testing.T, marks ...uint32) func() map[uint32]uint64 {
	t.Helper()
	beside := nft.Table{Name: "beside"}
	err := beside.Replace(func(c *nftables.Conn) error {
		for hook, priority := range map[*nftables.ChainHook]nftables.ChainPriority{
			nftables.ChainHookInput:  98,
			nftables.ChainHookOutput: -98,
		} {
			chain := beside.Chain(fmt.Sprint("hook", *hook))
			chain.Type, chain.Hooknum, chain.Priority = nftables.ChainTypeFilter, hook, &priority
			c.AddChain(chain)
			for _, mark := range marks {
				c.AddRule(
					&nftables.Rule{Table: chain.Table, Chain: chain, UserData: nft.Comment(fmt.Sprint(mark)), Exprs: []expr.Any{
						&expr.Meta{Key: expr.MetaKeyMARK, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: native(mark)},
						&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
						&expr.Range{Op: expr.CmpOpEq, Register: 1, FromData: []byte{0, markedPort}, ToData: []byte{0, plainPort}},
						&expr.Counter{},
					}},
				)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := beside.Remove(); err != nil {
			t.Error(err)
		}
	})
	return func() map[uint32]uint64 {
		rules, err := beside.Rules()
		if err != nil {
			t.Fatal(err)
		}
		seen := map[uint32]uint64{}
		for _, r := range rules {
			mark, err := strconv.ParseUint(r.Comment, 10, 32)
			if err != nil {
				t.Fatal(err)
			}
			seen[uint32(mark)] += r.Packets
		}
		return seen
	}
}

// askFrom returns the address that a server sees a socket of this node with, whose packets have a
// mark.
func askFrom(t *testing.T, source, to string, mark uint32) string {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}, Control: func(_, _ string, c syscall.RawConn) error {
		var failed error
		err := c.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, int(mark)) })
		return errors.Join(err, failed)
	}}
	c, err := d.DialContext(t.Context(), "tcp", to)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	text, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	from, err := netip.ParseAddrPort(string(text))
	if err != nil {
		t.Fatal(err)
	}
	return from.Addr().Unmap().String()
}

// Without an endpoint that takes new connections clients are told so, and who is connected stays
// so.
func TestDriver_kernel_refuse(t *testing.T) {
	client, _ := rack(t)
	var open, closed []Frontend
	for _, address := range []string{address4, address6} {
		for _, protocol := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
			f := Frontend{Address: netip.MustParseAddr(address), Port: 80, Protocol: protocol}
			open = append(open, f)
			f.Refuse = true
			closed = append(closed, f)
		}
	}
	d := run(t, open...)
	for _, address := range []string{address4, address6} {
		to := net.JoinHostPort(address, "80")
		flow, err := dial(t, client, "udp", "", to)
		if err != nil {
			t.Fatal(err)
		}
		defer flow.Close()
		exchange := func(c net.Conn) error {
			if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
				return err
			}
			if _, err := c.Write([]byte("?")); err != nil {
				return err
			}
			_, err := c.Read(make([]byte, 100))
			return err
		}
		if err := exchange(flow); err != nil {
			t.Fatal(err)
		}
		d.Sync("web", closed)
		written(t, closed...)
		if err := exchange(flow); err != nil {
			t.Errorf("a flow to %s that was there: %v", to, err)
		}
		for _, in := range []string{client, ""} {
			if c, err := dial(t, in, "tcp", "", to); !errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("TCP from %q to %s: %v, %v; want that it is refused", in, to, c, err)
			}
			other, err := dial(t, in, "udp", "", to)
			if err != nil {
				t.Fatal(err)
			}
			defer other.Close()
			// A process of this node is told by its own call already.
			if err := exchange(other); !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, unix.EPERM) {
				t.Errorf("UDP from %q to %s: %v; want that it is refused", in, to, err)
			}
		}
		d.Sync("web", open)
		written(t, open...)
		ask(t, client, "tcp", "", to)
	}
}

func TestDriver_kernel_repairs(t *testing.T) {
	list := []Frontend{
		{
			Address:    netip.MustParseAddr(address4),
			Port:       80,
			Protocol:   unix.IPPROTO_TCP,
			Masquerade: true,
			Sources:    prefixes("10.0.0.0/8", "192.0.2.0/24"),
		},
		{
			Address:    netip.MustParseAddr(address6),
			Port:       80,
			Protocol:   unix.IPPROTO_TCP,
			Masquerade: true,
			Sources:    prefixes("fd00::/64"),
		},
	}
	run(t, list...)
	k := newKernel()
	type harm struct {
		name string
		do   func(*nftables.Conn)
	}
	table := k.Chain("").Table
	all := []harm{
		{"the ruleset", func(c *nftables.Conn) { c.FlushRuleset() }},
		{"the table", func(c *nftables.Conn) { c.DelTable(table) }},
		{"a table that is off", func(c *nftables.Conn) {
			c.AddTable(&nftables.Table{Family: table.Family, Name: table.Name, Flags: unix.NFT_TABLE_F_DORMANT})
		}},
		{"a rule of another", func(c *nftables.Conn) {
			c.InsertRule(
				&nftables.Rule{Table: table, Chain: k.Chain(check), Exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}},
			)
		}},
		{"an element of another", func(c *nftables.Conn) {
			f := Frontend{Address: netip.MustParseAddr(address4), Port: 22, Protocol: unix.IPPROTO_TCP}
			if err := k.QueueAdd(c, f.elements()[len(protocols):]); err != nil {
				t.Error(err)
			}
		}},
	}
	for _, chain := range append([]string{prerouting, output, input, postrouting}, looking[:]...) {
		all = append(all, harm{"the rules of " + chain, func(c *nftables.Conn) { c.FlushChain(k.Chain(chain)) }})
		if !slices.Contains(looking[:], chain) { // others jump there
			all = append(
				all,
				harm{"chain " + chain, func(c *nftables.Conn) { c.FlushChain(k.Chain(chain)); c.DelChain(k.Chain(chain)) }},
			)
		}
	}
	for _, e := range distinct(list...) {
		all = append(all, harm{"an element of " + e.Set, func(c *nftables.Conn) {
			if err := k.QueueDelete(c, []nft.Element{e}); err != nil {
				t.Error(err)
			}
		}})
	}
	size := func() int { // counted apart from what Check sees
		rules, err := k.Rules()
		if err != nil {
			return 0
		}
		n := len(rules)
		for _, f := range nft.Families {
			for _, set := range k.sets(family{f}) {
				elements, err := k.Elements(set.Name)
				if err != nil {
					return 0
				}
				n += len(elements)
			}
		}
		return n
	}
	whole := size()
	for _, h := range all {
		written(t, list...)
		c, err := nftables.New()
		if err != nil {
			t.Fatal(err)
		}
		h.do(c)
		if err := c.Flush(); err != nil {
			t.Fatalf("%s: %v", h.name, err)
		}
		nettest.Eventually(
			t,
			h.name+" is repaired",
			func() bool { return k.Check(distinct(list...)) == nil && size() == whole },
		)
	}
}

// many returns frontends on as many addresses, of which every fourth has sources.
func many(n int) []Frontend {
	var list []Frontend
	for i := range n {
		f := Frontend{
			Address:    netip.AddrFrom4([4]byte{10, 9, byte(i >> 8), byte(i)}),
			Port:       80,
			Protocol:   unix.IPPROTO_TCP,
			Masquerade: i%2 == 0,
		}
		if i%3 == 0 {
			f.Address = netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 14: byte(i >> 8), 15: byte(i)})
		}
		if i%4 == 0 {
			f.Sources = prefixes("10.0.0.0/8", "192.0.2.0/25", "2001:db8:9::/48")
		}
		list = append(list, f)
	}
	return list
}

func TestDriver_kernel_thousands(t *testing.T) {
	list := many(4000)
	k := newKernel()
	if err := errors.Join(k.Replace(distinct(list...)), k.Check(distinct(list...))); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(k.Change(nil, distinct(list[:3000]...)), k.Check(distinct(list[3000:]...))); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(k.Change(distinct(list[:3000]...), nil), k.Check(distinct(list...))); err != nil {
		t.Fatal(err)
	}
	if err := k.Remove(); err != nil {
		t.Error(err)
	}
	if err := k.Check(nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("there is no table any more: %v", err)
	}
}

func TestDriver_kernel_manyElements(t *testing.T) {
	one := Frontend{Address: netip.MustParseAddr(address4), Port: 80, Protocol: unix.IPPROTO_TCP}
	for i := range uint32(150_000) {
		one.Sources = append(
			one.Sources,
			netip.PrefixFrom(netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, 10<<24+2*i))), 32),
		)
	}
	k := newKernel()
	if err := errors.Join(k.Replace(one.elements()), k.Remove()); err != nil {
		t.Error(err)
	}
}

func TestDriver_kernel_atomicChange(t *testing.T) {
	client, _ := rack(t)
	frontend := Frontend{Address: netip.MustParseAddr(address4), Port: 80, Protocol: unix.IPPROTO_UDP}
	d := run(t, frontend)
	p, err := net.ListenPacket("udp", address4+":22")
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	c, err := dial(t, client, "udp", "", address4+":22")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for i := range 200 {
		if frontend.Sources = nil; i%2 == 0 {
			frontend.Sources = prefixes("203.0.113.0/24")
		}
		frontend.Masquerade = i%3 == 0
		d.Sync("web", []Frontend{frontend, {Address: frontend.Address, Port: uint16(1000 + i), Protocol: unix.IPPROTO_TCP}})
		for range 20 {
			if _, err := c.Write([]byte{1}); err != nil {
				t.Fatal(err)
			}
		}
	}
	nettest.Eventually(t, "all are dropped", func() bool { return dropped(t)[unexposed] == 200*20 })
}

func BenchmarkAChangeOfOneFrontendAmong(b *testing.B) {
	sources := map[string]func(i int) []netip.Prefix{
		"none":   func(int) []netip.Prefix { return nil },
		"shared": func(int) []netip.Prefix { return prefixes("10.0.0.0/8", "192.0.2.0/25", "2001:db8:9::/48") },
		"distinct": func(i int) []netip.Prefix {
			return prefixes(fmt.Sprintf("10.%d.%d.0/25", i>>8, i&0xff), fmt.Sprintf("2001:db8:%x::/48", i))
		},
	}
	for _, kind := range []string{"none", "shared", "distinct"} {
		for _, n := range []int{10, 1000, 10000} {
			b.Run(fmt.Sprintf("%d,sources=%s", n, kind), func(b *testing.B) {
				list := many(n)
				for i := range list {
					list[i].Sources = sources[kind](i)
				}
				k := newKernel()
				if err := k.Replace(distinct(list...)); err != nil {
					b.Fatal(err)
				}
				one := Frontend{
					Address:  netip.MustParseAddr(address4),
					Port:     80,
					Protocol: unix.IPPROTO_TCP,
					Sources:  sources[kind](n),
				}
				elements, add := one.elements(), true
				for b.Loop() { // it comes and goes
					var err error
					if add {
						err = k.Change(elements, nil)
					} else {
						err = k.Change(nil, elements)
					}
					if add = !add; err != nil {
						b.Fatal(err)
					}
				}
				if err := k.Remove(); err != nil {
					b.Error(err)
				}
			})
		}
	}
}
