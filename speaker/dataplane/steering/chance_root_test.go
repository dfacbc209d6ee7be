//go:build root

package steering

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/berth-lb/berth/speaker/dataplane/nft/nettest"
	"github.com/berth-lb/berth/speaker/dataplane/steering/decide"
	"github.com/berth-lb/berth/speaker/dataplane/steering/table"
)

// echoPort is of a Service that every node translates, as kube-proxy does, to a pod of its own.
const echoPort = 9090

// pod4 and pod6 are the pod's addresses on a node.
func pod4(host int) netip.Addr { return netip.AddrFrom4([4]byte{10, 1, 0, byte(host)}) }
func pod6(host int) netip.Addr { return netip.AddrFrom16([16]byte{0: 0xfd, 1: 1, 15: byte(host)}) }

// addPod adds a pod to this namespace, and the rules by which the Service's packets reach it.
func addPod(t *testing.T, host int) {
	nettest.Shell(t, `ip addr add %s/32 dev lo; ip -6 addr add %s/128 dev lo nodad`, pod4(host), pod6(host))
	c, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	proxy := c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "kube-proxy"})
	chain := c.AddChain(&nftables.Chain{
		Table: proxy, Name: "prerouting", Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPrerouting,
		Priority: nftables.ChainPriorityNATDest,
	})
	for vip, pod := range map[netip.Addr]netip.Addr{vip4: pod4(host), vip6: pod6(host)} {
		family, offset := byte(unix.NFPROTO_IPV4), uint32(16)
		if vip.Is6() {
			family, offset = unix.NFPROTO_IPV6, 24
		}
		c.AddRule(&nftables.Rule{Table: proxy, Chain: chain, Exprs: []expr.Any{
			&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{family}},
			&expr.Payload{
				Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: uint32(vip.BitLen() / 8), DestRegister: 1,
			},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: vip.AsSlice()},
			&expr.Payload{Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2, DestRegister: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binary.BigEndian.AppendUint16(nil, echoPort)},
			&expr.Immediate{Register: 1, Data: pod.AsSlice()},
			&expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(family), RegAddrMin: 1},
		}})
	}
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	for _, pod := range []netip.Addr{pod4(host), pod6(host)} {
		echo(t, pod)
	}
}

// echo sends back what it gets by TCP.
func echo(t *testing.T, pod netip.Addr) {
	l, err := net.Listen("tcp", net.JoinHostPort(pod.String(), strconv.Itoa(echoPort)))
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
				_, _ = io.Copy(c, c)
			}()
		}
	}()
}

// fleet is the rack, with a Driver on each node.
type fleet struct {
	rack
	drivers map[string]*Driver
	chance  bool
}

func newFleet(t *testing.T, chance bool) fleet {
	t.Helper()
	f := fleet{newRack(t), map[string]*Driver{}, chance}
	f.drivers["owner"] = f.start(t)
	for i, name := range []string{"one", "two"} {
		nettest.Within(t, f.nodes[name], func() {
			addPod(t, 2+i)
			f.drivers[name] = rack{pins: f.pins + "-" + name}.start(t)
		})
	}
	return f
}

// sync has all nodes know which ones have endpoints. One after the other, so that they disagree in
// between.
func (f fleet) sync(t *testing.T, members ...table.Member) {
	t.Helper()
	desired := f.desired(t)
	web := Service{Members: members, TCPChance: f.chance}
	for _, a := range []netip.Addr{vip4, vip6} {
		web.Frontends = append(web.Frontends, Frontend{netip.AddrPortFrom(a, echoPort), decide.TCP})
	}
	desired.Services = map[string]Service{"default/web": web}
	mustSync(t, f.drivers["owner"], desired)
	for name, enter := range f.nodes {
		nettest.Within(t, enter, func() {
			there, own := desired, map[string]Node{}
			for n, node := range desired.Nodes {
				way, err := Reach(node.IPv4, node.IPv6)
				if err != nil {
					t.Error(err)
				}
				own[n] = way
			}
			there.Self, there.Nodes = name, own
			mustSync(t, f.drivers[name], there)
		})
	}
}

// open opens connections, half of each family.
func (f fleet) open(t *testing.T, n int) []net.Conn {
	t.Helper()
	var all []net.Conn
	nettest.Within(t, f.client, func() {
		for i := range n {
			to := []netip.Addr{vip4, vip6}[i%2]
			c, err := net.DialTimeout("tcp", netip.AddrPortFrom(to, echoPort).String(), patience)
			if err != nil {
				t.Errorf("connection %d to %s: %v", i, to, err)
				continue
			}
			t.Cleanup(func() { c.Close() })
			all = append(all, c)
		}
	})
	return all
}

// broken counts connections on which nothing comes back.
func broken(connections []net.Conn) int {
	results := make(chan bool)
	for _, c := range connections {
		go func() {
			b := make([]byte, 5)
			_ = c.SetDeadline(time.Now().Add(2 * patience))
			_, errWrite := c.Write([]byte("hello"))
			_, errRead := io.ReadFull(c, b)
			results <- errWrite != nil || errRead != nil || string(b) != "hello"
		}()
	}
	n := 0
	for range connections {
		if <-results {
			n++
		}
	}
	return n
}

// Connections stay on their node while another one joins, while theirs drains, and when their
// packets come by another node: not one breaks. Without the second chance they do.
func TestDriver_secondChance(t *testing.T) {
	one, two := table.Member{Node: "one", Weight: 1}, table.Member{Node: "two", Weight: 1}
	drains := one
	drains.Draining = true
	for _, chance := range []bool{true, false} {
		t.Run(fmt.Sprint("chance ", chance), func(t *testing.T) {
			f := newFleet(t, chance)
			f.sync(t, one)
			connections := f.open(t, 60)
			if n := broken(connections); n != 0 {
				t.Fatalf("%d of %d connections are broken before anything happened", n, len(connections))
			}
			lost := 0
			for _, event := range []struct {
				name string
				do   func()
			}{
				{"a node joined", func() { f.sync(t, one, two) }},
				{"their node drains", func() { f.sync(t, drains, two) }},
				{"their packets come by another node", func() { f.via(t, "10.0.0.3", "fd00::3") }},
				{"and by their own", func() { f.via(t, "10.0.0.2", "fd00::2") }},
			} {
				begun := time.Now()
				event.do()
				n := broken(connections)
				t.Logf("%s: %d of %d broken, %v", event.name, n, len(connections), time.Since(begun))
				if chance && n != 0 {
					t.Errorf("%s: %d of %d connections are broken", event.name, n, len(connections))
				}
				if lost = max(lost, n); lost > 0 {
					break
				}
			}
			if !chance && lost == 0 {
				t.Error("nothing breaks without the second chance: the test shows nothing")
			}
			if n := packets(t, f.drivers["two"])["second_chance one"]; chance && n == 0 {
				t.Errorf("the second chance was not needed: %v", packets(t, f.drivers["two"]))
			}
		})
	}
}

// via changes by which node the client's packets come.
func (f fleet) via(t *testing.T, gateway4, gateway6 string) {
	t.Helper()
	nettest.Shell(t, `%s bash -ec 'ip route replace %s via %s; ip -6 route replace %s via %s'`,
		f.client, vip4, gateway4, vip6, gateway6)
}
