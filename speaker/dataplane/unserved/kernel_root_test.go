//go:build root

package unserved

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/berth-lb/berth/speaker/dataplane/nft/nettest"
)

// bareEnv marks the process that lacks a capability.
const bareEnv = "BERTH_UNSERVED_TEST_BARE"

func TestMain(m *testing.M) {
	if os.Getenv(bareEnv) != "" {
		fmt.Println(quiet().Replace(nil))
		return
	}
	os.Exit(nettest.Main(m))
}

func quiet() kernel { return newKernel(slog.New(slog.DiscardHandler)) }

// received counts the packets of a family that a namespace has received.
func received(t *testing.T, in string, ipv6 bool) int {
	t.Helper()
	script := `%s awk '/^Ip: [0-9]/ {print $4}' /proc/net/snmp`
	if ipv6 {
		script = `%s awk '/^Udp6InDatagrams|^Udp6NoPorts|^Ip6InTooBigErrors|^Ip6InAddrErrors|^Ip6InHdrErrors|^Ip6OutForwDatagrams/ {n += $2} END {print n}' /proc/net/snmp6`
	}
	n, err := strconv.Atoi(nettest.Shell(t, script, in))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// dropped counts the packets of both families.
func dropped(t *testing.T) uint64 {
	t.Helper()
	n, err := quiet().dropped()
	if err != nil {
		t.Fatal(err)
	}
	return n["IPv4"] + n["IPv6"]
}

// rack makes this namespace a node between a router, to which its default route goes and which
// sends all of the pool back to it, and a pod.
func rack(t *testing.T) (router, pod string) {
	t.Helper()
	router, pod = nettest.Namespace(t), nettest.Namespace(t)
	nettest.Shell(t, `set -e
ip link add router type veth peer name node netns %s
ip link add pod type veth peer name eth0 netns %s
ip addr add 10.0.0.2/24 dev router; ip -6 addr add fd00::2/64 dev router nodad
ip addr add 10.1.0.1/24 dev pod
ip link set router up; ip link set pod up
sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.router.send_redirects=0
ip route add default via 10.0.0.1; ip -6 route add default via fd00::1`, nettest.PID(router), nettest.PID(pod))
	t.Cleanup(func() { nettest.Shell(t, "ip link del router; ip link del pod") })
	nettest.Shell(
		t,
		`%s bash -ec 'ip link set lo up; ip addr add 10.0.0.1/24 dev node; ip -6 addr add fd00::1/64 dev node nodad; ip link set node up
sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
ip route add 198.51.100.0/24 via 10.0.0.2; ip -6 route add 2001:db8::/64 via fd00::2'`,
		router,
	)
	nettest.Shell(
		t,
		`%s bash -ec 'ip link set lo up; ip addr add 10.1.0.2/24 dev eth0; ip link set eth0 up; ip route add default via 10.1.0.1'`,
		pod,
	)
	nettest.AwaitIPv6(t, "router")
	return router, pod
}

func send(t *testing.T, from, to string) {
	t.Helper()
	nettest.Shell(t, `%s bash -c 'echo x > /dev/udp/%s'`, from, to)
}

func TestDriver_kernel_drops(t *testing.T) {
	router, pod := rack(t)
	// As kube-proxy does it: 198.51.100.7, port 53, is served by the pod.
	c, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	proxy := c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "kube-proxy"})
	chain := c.AddChain(
		&nftables.Chain{
			Table:    proxy,
			Name:     "nat",
			Type:     nftables.ChainTypeNAT,
			Hooknum:  nftables.ChainHookPrerouting,
			Priority: nftables.ChainPriorityNATDest,
		},
	)
	c.AddRule(&nftables.Rule{Table: proxy, Chain: chain, Exprs: []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{198, 51, 100, 7}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{0, 53}},
		&expr.Immediate{Register: 1, Data: []byte{10, 1, 0, 2}},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: syscall.AF_INET, RegAddrMin: 1},
	}})
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}

	for _, to := range []string{"198.51.100.99/53", "2001:db8::7/54"} { // unused, and not exposed
		ipv6 := strings.Contains(to, ":")
		before := received(t, router, ipv6)
		send(t, router, to)
		nettest.Eventually(
			t,
			"a packet for "+to+" is sent back to the router without the table",
			func() bool { return received(t, router, ipv6) > before },
		)
	}

	d := run(t, quiet(), time.Second)
	d.Sync("web", prefixes("198.51.100.0/24", "198.51.100.7/32", "2001:db8::7/128"))
	all := prefixes("198.51.100.0/24", "198.51.100.7/32", "2001:db8::7/128")
	nettest.Eventually(t, "the table is written", func() bool { return quiet().Check(all) == nil })
	before := received(t, router, false)
	for i, to := range []string{"198.51.100.99/53", "198.51.100.7/54", "2001:db8::7/54"} {
		send(t, router, to)
		nettest.Eventually(t, to+" is dropped", func() bool { return dropped(t) == uint64(i+1) })
	}
	if n := received(t, router, false); n != before {
		t.Errorf("%d packets were sent back all the same", n-before)
	}
	send(t, router, "198.51.100.7/53")
	heard := func() string { return nettest.Shell(t, `%s awk '/^Udp: [0-9]/ {print $3}' /proc/net/snmp`, pod) } // NoPorts
	nettest.Eventually(t, "what is served reaches the pod", func() bool { return heard() == "1" })
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(counters{quiet()})
	if err := testutil.GatherAndCompare(registry, strings.NewReader(`# HELP berth_unserved_packets_dropped_total Packets for announced addresses that nothing on the node serves, dropped since the table was last written.
# TYPE berth_unserved_packets_dropped_total counter
berth_unserved_packets_dropped_total{family="IPv4"} 2
berth_unserved_packets_dropped_total{family="IPv6"} 1
`)); err != nil {
		t.Error(err)
	}
}

func TestDriver_kernel_repairs(t *testing.T) {
	d := run(t, quiet(), time.Second)
	all := prefixes("198.51.100.0/24", "192.0.2.1/32", "2001:db8::/64", "2001:db8:1::1/128")
	d.Sync("web", all)
	holds := func() bool { return quiet().Check(all) == nil }
	for _, c := range []struct {
		name string
		harm func(*nftables.Conn, *nftables.Table)
	}{
		{"the ruleset", func(c *nftables.Conn, _ *nftables.Table) { c.FlushRuleset() }},
		{"the table", func(c *nftables.Conn, t *nftables.Table) { c.DelTable(t) }},
		{"the rules", func(c *nftables.Conn, t *nftables.Table) { c.FlushChain(&nftables.Chain{Table: t, Name: chainName}) }},
		{"the chain", func(c *nftables.Conn, t *nftables.Table) {
			chain := &nftables.Chain{Table: t, Name: chainName}
			c.FlushChain(chain)
			c.DelChain(chain)
		}},
		{"the rule that spares established connections", func(c *nftables.Conn, t *nftables.Table) {
			chain := &nftables.Chain{Table: t, Name: chainName}
			rules, err := c.GetRules(t, chain)
			if err == nil {
				err = c.DelRule(rules[0])
			}
			if err != nil {
				panic(err)
			}
		}},
		{"an element", func(c *nftables.Conn, t *nftables.Table) {
			set := &nftables.Set{Table: t, Name: families[0].addresses()}
			if err := c.SetDeleteElements(set, []nftables.SetElement{{Key: []byte{192, 0, 2, 1}}}); err != nil {
				panic(err)
			}
		}},
	} {
		nettest.Eventually(t, "the table is written", holds)
		con, err := nftables.New()
		if err != nil {
			t.Fatal(err)
		}
		c.harm(con, quiet().Chain("").Table)
		if err := con.Flush(); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		nettest.Eventually(t, c.name+" is restored", holds)
	}
}

func TestDriver_kernel_tenThousandAddresses(t *testing.T) {
	all := prefixes("198.51.100.0/24", "198.51.100.0/25", "198.51.101.0/24", "2001:db8::/64", "2001:db8::/80")
	for i := range 5000 {
		all = append(all,
			netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 9, byte(i >> 8), byte(i)}), 32),
			netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 9, 14: byte(i >> 8), 15: byte(i)}), 128))
	}
	k := quiet()
	if err := errors.Join(k.Replace(all), k.Check(all)); err != nil {
		t.Fatal(err)
	}
	if err := k.Change(prefixes("203.0.113.1/32", "2001:db8:7::1/128"), all[5:2005]); err != nil {
		t.Fatal(err)
	}
	left := append(prefixes("203.0.113.1/32", "2001:db8:7::1/128"), append(all[:5:5], all[2005:]...)...)
	if err := errors.Join(k.Check(left), k.Remove()); err != nil {
		t.Error(err)
	}
	if err := k.Check(nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("there is no table any more: %v", err)
	}
}

func TestDriver_kernel_withoutCapability(t *testing.T) {
	cmd := exec.Command("setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin", nettest.Executable())
	cmd.Env = append(os.Environ(), bareEnv+"=1")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "give the speaker the capability NET_ADMIN") {
		t.Errorf("it says %q, %v", out, err)
	}
}

// A kernel without is hard to come by; that the rule cannot be written is what it looks like.
func TestDriver_kernel_untracked(t *testing.T) {
	k, all := quiet(), prefixes("192.0.2.1/32")
	if err := errors.Join(k.write(all, false), k.Check(all)); err == nil ||
		!strings.Contains(err.Error(), `rules ["IPv4" "IPv4" "IPv6" "IPv6"]`) {
		t.Errorf("that the rule is missing is not seen: %v", err)
	}
	k.stateless.Store(true)
	if err := k.Check(all); err != nil {
		t.Error(err)
	}
	if err := errors.Join(k.Replace(all), k.Check(all)); err != nil || k.stateless.Load() {
		t.Errorf("once they are tracked: stateless %t, %v", k.stateless.Load(), err)
	}
}

func TestDriver_kernel_establishedConnection(t *testing.T) {
	router, pod := rack(t)
	nettest.Shell(t, "%s ip route add 10.1.0.0/24 via 10.0.0.2", router)
	d := run(t, quiet(), time.Second)
	nettest.Eventually(t, "the table is written", func() bool { return quiet().Check(nil) == nil })
	var server net.Listener
	var err error
	nettest.Within(t, pod, func() { server, err = net.Listen("tcp", "10.1.0.2:9000") })
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	var client net.Conn
	nettest.Within(t, router, func() { client, err = net.DialTimeout("tcp", "10.1.0.2:9000", 10*time.Second) })
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	served, err := server.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer served.Close()

	d.Answering(netip.MustParseAddr("10.1.0.2"), true)
	nettest.Eventually(
		t,
		"the host's address is in the table",
		func() bool { return quiet().Check(prefixes("10.1.0.2/32")) == nil },
	)
	deadline := time.Now().Add(10 * time.Second)
	for _, c := range []net.Conn{client, served} {
		if err := c.SetDeadline(deadline); err != nil {
			t.Fatal(err)
		}
	}
	heard := make([]byte, 4)
	_, errWrite := client.Write([]byte("ping"))
	_, errRead := io.ReadFull(served, heard)
	if err := errors.Join(errWrite, errRead); err != nil || string(heard) != "ping" {
		t.Errorf("what was established ends: %q, %v", heard, err)
	}
	if n := dropped(t); n != 0 {
		t.Errorf("%d packets of it were dropped", n)
	}
	ctx, cancel := context.WithCancel(t.Context())
	dialed := make(chan error, 1)
	go func() {
		nettest.Within(t, router, func() {
			another, err := new(net.Dialer).DialContext(ctx, "tcp", "10.1.0.2:9000")
			if err == nil {
				another.Close()
			}
			dialed <- err
		})
	}()
	nettest.Eventually(t, "a packet of a new one is dropped", func() bool { return dropped(t) > 0 })
	cancel()
	if err := <-dialed; err == nil {
		t.Error("a new connection is let through")
	}
}
