//go:build root

package podnat

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/berth-lb/berth/speaker/dataplane/nft"
	"github.com/berth-lb/berth/speaker/dataplane/nft/nettest"
)

func TestMain(m *testing.M) { os.Exit(nettest.Main(m)) }

const (
	servicePort, podPort = 80, 8080
	masqueradeMark       = 0x4000
)

// families of the test: the Service's address, the client's, and the Pods'.
var addresses = []struct{ service, client, a, b string }{
	{"198.51.100.7", "10.0.0.1", "10.1.0.2", "10.2.0.2"},
	{"2001:db8::7", "fd00::1", "fd01::2", "fd02::2"},
}

// site is this namespace as a node between a client and the Pods a and b. As kube-proxy would, it
// translates the Service's addresses to Pod b, and hides the client.
type site struct{ client, a, b string }

func newSite(t *testing.T) site {
	t.Helper()
	s := site{nettest.Namespace(t), nettest.Namespace(t), nettest.Namespace(t)}
	nettest.Shell(
		t,
		"sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.conf.all.send_redirects=0",
	)
	proxy(t)
	for _, h := range []struct{ enter, device, here, there string }{
		{s.client, "uplink", "10.0.0.2 fd00::2", "10.0.0.1 fd00::1"},
		{s.a, "poda", "10.1.0.1 fd01::1", "10.1.0.2 fd01::2"},
		{s.b, "podb", "10.2.0.1 fd02::1", "10.2.0.2 fd02::2"},
	} {
		here4, here6, _ := strings.Cut(h.here, " ")
		there4, there6, _ := strings.Cut(h.there, " ")
		nettest.Shell(t, `set -e
ip link add %[1]s type veth peer name eth0 netns %[2]s
ip addr add %[3]s/24 dev %[1]s; ip -6 addr add %[4]s/64 dev %[1]s nodad; ip link set %[1]s up
%[5]s bash -ec 'ip link set lo up; ip addr add %[6]s/24 dev eth0; ip -6 addr add %[7]s/64 dev eth0 nodad; ip link set eth0 up
ip route add default via %[3]s; ip -6 route add default via %[4]s'`,
			h.device, nettest.PID(h.enter), here4, here6, h.enter, there4, there6)
		t.Cleanup(func() { nettest.Shell(t, "ip link del "+h.device) })
	}
	for name, enter := range map[string]string{"a": s.a, "b": s.b} {
		nettest.Within(t, enter, func() { answer(t, name) })
	}
	nettest.AwaitIPv6(t, "uplink", "poda", "podb")
	return s
}

// proxy makes a table as kube-proxy's.
func proxy(t *testing.T) {
	t.Helper()
	c, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "kube-proxy"})
	chain := func(name string, hook *nftables.ChainHook, priority *nftables.ChainPriority) *nftables.Chain {
		return c.AddChain(&nftables.Chain{
			Table: table, Name: name, Type: nftables.ChainTypeNAT, Hooknum: hook, Priority: priority,
		})
	}
	services := chain("services", nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest)
	for i, f := range nft.Families {
		pod := netip.MustParseAddr(addresses[i].b)
		c.AddRule(&nftables.Rule{Table: table, Chain: services, Exprs: []expr.Any{
			&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{f.Protocol}},
			f.LoadDestination(1),
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: netip.MustParseAddr(addresses[i].service).AsSlice()},
			&expr.Immediate{Register: 1, Data: binaryutil.NativeEndian.PutUint32(masqueradeMark)},
			&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1},
			&expr.Immediate{Register: 1, Data: pod.AsSlice()},
			&expr.Immediate{Register: 2, Data: binaryutil.BigEndian.PutUint16(podPort)},
			&expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(f.Protocol), RegAddrMin: 1, RegProtoMin: 2},
		}})
	}
	c.AddRule(&nftables.Rule{
		Table: table, Chain: chain("masquerade", nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource),
		Exprs: []expr.Any{
			&expr.Meta{Key: expr.MetaKeyMARK, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(masqueradeMark)},
			&expr.Masq{},
		},
	})
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

// answer says the Pod's name and the client's address, by TCP and UDP.
func answer(t *testing.T, name string) {
	l, err := net.Listen("tcp", fmt.Sprintf(":%d", podPort))
	if err != nil {
		t.Error(err)
		return
	}
	p, err := net.ListenPacket("udp", fmt.Sprintf(":%d", podPort))
	if err != nil {
		t.Error(err)
		return
	}
	t.Cleanup(func() { l.Close(); p.Close() })
	say := func(a net.Addr) string {
		at := netip.MustParseAddrPort(a.String())
		return name + " " + at.Addr().Unmap().String()
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(c, say(c.RemoteAddr()))
			c.Close()
		}
	}()
	go func() {
		b := make([]byte, 100)
		for {
			_, from, err := p.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = p.WriteTo([]byte(say(from)), from)
		}
	}()
}

// ask returns what answers a host.
func ask(t *testing.T, enter, network, address string) (text string) {
	t.Helper()
	nettest.Within(t, enter, func() {
		c, err := net.DialTimeout(network, net.JoinHostPort(address, fmt.Sprint(servicePort)), 3*time.Second)
		if err != nil {
			text = err.Error()
			return
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(3 * time.Second))
		fmt.Fprint(c, "x")
		b := make([]byte, 100)
		n, err := c.Read(b)
		if text = string(b[:n]); err != nil && !errors.Is(err, io.EOF) {
			text = err.Error()
		}
	})
	return text
}

// answers counts what answers a client in so many connections.
func answers(t *testing.T, enter, network, address string, n int) map[string]int {
	t.Helper()
	found := map[string]int{}
	for range n {
		found[ask(t, enter, network, address)]++
	}
	return found
}

func frontends(pods string, affinity bool) []Frontend {
	var all []Frontend
	for _, a := range addresses {
		for _, protocol := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
			f := Frontend{
				Address: netip.MustParseAddr(a.service), Port: servicePort, Protocol: protocol, Affinity: affinity,
			}
			for name, address := range map[string]string{"a": a.a, "b": a.b} {
				if strings.Contains(pods, name) {
					f.Pods = append(f.Pods, netip.AddrPortFrom(netip.MustParseAddr(address), podPort))
				}
			}
			all = append(all, f)
		}
	}
	return all
}

// run runs a Table, until the returned function is called.
func run(t *testing.T, table *Table) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- table.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// The Pods of the table answer, and see the client; without it, kube-proxy's, which do not.
func TestTable(t *testing.T) {
	s := newSite(t)
	table := New(slog.New(slog.DiscardHandler))
	table.SetInterfaces([]string{"uplink", "eth9"})
	stop := run(t, table)
	check := func(when string, ok func(client string, found map[string]int) bool) {
		t.Helper()
		for _, a := range addresses {
			for _, network := range []string{"tcp", "udp"} {
				nettest.Eventually(t, fmt.Sprintf("%s: %s to %s", when, network, a.service), func() bool {
					found := answers(t, s.client, network, a.service, 16)
					return ok(a.client, found)
				})
			}
		}
	}
	only := func(pod string) func(string, map[string]int) bool {
		return func(client string, found map[string]int) bool { return found[pod+" "+client] == 16 }
	}
	both := func(client string, found map[string]int) bool {
		return found["a "+client] > 0 && found["b "+client] > 0 && found["a "+client]+found["b "+client] == 16
	}
	hidden := func(client string, found map[string]int) bool { return found["b "+client] == 0 && len(found) == 1 }
	check("nothing is wanted", hidden)
	table.Sync(map[string][]Frontend{"web": frontends("a", false)})
	check("one Pod", only("a"))
	table.Sync(map[string][]Frontend{"web": frontends("b", false)})
	check("another one", only("b"))
	table.Sync(map[string][]Frontend{"web": frontends("ab", false)})
	check("two", both)
	table.Sync(map[string][]Frontend{"web": frontends("ab", true)})
	check("with affinity", func(client string, found map[string]int) bool {
		return found["a "+client] == 16 || found["b "+client] == 16
	})
	for _, a := range addresses {
		if got := ask(t, s.a, "tcp", a.service); !strings.HasPrefix(got, "b ") || got == "b "+a.a {
			t.Errorf("a Pod of this node gets to %q, want Pod b by kube-proxy's rules", got)
		}
	}
	c, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	c.FlushSet(newKernel().Set("by-source4", nftables.TypeInvalid))
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	check("somebody empties it", func(client string, found map[string]int) bool {
		return found["a "+client] == 16 || found["b "+client] == 16
	})
	stop()
	pods := map[string]string{}
	for _, a := range addresses {
		pods[a.service] = ask(t, s.client, "tcp", a.service)
	}
	again := New(slog.New(slog.DiscardHandler))
	again.SetInterfaces([]string{"uplink"})
	again.Sync(map[string][]Frontend{"web": frontends("ab", true)})
	stop = run(t, again)
	nettest.Eventually(t, "another process has written the table", func() bool {
		names, err := newKernel().Elements(interfaces)
		return err == nil && len(names) == 1
	})
	for range 20 {
		again.Prolong()
	}
	for service, pod := range pods {
		if got := ask(t, s.client, "tcp", service); got != pod {
			t.Errorf("with affinity %s is answered by %s, and was by %s before the table was written again", service, got, pod)
		}
	}
	moved := map[string][]Frontend{"web": nil, "other": frontends("b", true)}
	again.Sync(moved)
	check("the frontends are another group's", only("b"))
	again.Sync(map[string][]Frontend{"other": nil, "web": frontends("ab", true)})
	check("and back", func(client string, found map[string]int) bool {
		return found["a "+client] == 16 || found["b "+client] == 16
	})
	names, err := newKernel().Elements(interfaces)
	if err != nil || len(names) != 1 || names[0].Timeout == 0 && names[0].Expires == 0 {
		t.Errorf("interfaces %+v, %v; want one that expires", names, err)
	}
	stop()
	check("it does not run", func(client string, found map[string]int) bool {
		return found["a "+client] == 16 || found["b "+client] == 16
	})
	if err := Remove(); err != nil {
		t.Fatal(err)
	}
	check("it is removed", hidden)
}
