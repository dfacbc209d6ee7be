//go:build root

package midstream

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/berth-lb/berth/speaker/dataplane/nft"
	"github.com/berth-lb/berth/speaker/dataplane/nft/nettest"
)

func TestMain(m *testing.M) { os.Exit(nettest.Main(m)) }

// A client has connections to an address behind this node. Then the kernel of this node forgets
// them, as if they had begun on another node.
func TestDriver_kernel(t *testing.T) {
	for _, address := range []string{"192.0.2.1", "2001:db8::1"} {
		t.Run(address, func(t *testing.T) {
			client, pod := nettest.Namespace(t), nettest.Namespace(t)
			wire(t, client, "client", "10.0.0.1", "fd00::1", "10.0.0.2", "fd00::2")
			wire(t, pod, "pod", "10.1.0.1", "fd01::1", "10.1.0.2", "fd01::2")
			nettest.Shell(t, `set -e; sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
ip route replace 192.0.2.1/32 via 10.1.0.2; ip -6 route replace 2001:db8::1/128 via fd01::2`)
			nettest.Shell(t, "%s sh -ec 'ip addr add 192.0.2.1/32 dev lo; ip -6 addr add 2001:db8::1/128 dev lo nodad'", pod)
			nettest.AwaitIPv6(t, "client", "pod")
			nettest.Within(t, pod, func() { serve(t) })

			d := New(slog.New(slog.NewTextHandler(t.Output(), nil)))
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- d.Run(ctx) }()
			t.Cleanup(func() {
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
			})
			nettest.Eventually(t, "the table is there", func() bool {
				_, err := d.table.Elements("moved4")
				return err == nil
			})

			known, begun := dial(t, client, address), dial(t, client, address)
			answers(t, known)
			answers(t, begun)
			// What is known stays, whatever moved.
			d.Moved(netip.MustParseAddr(address))
			nettest.Eventually(t, "the address is in the table", func() bool { return d.has(t, address) })
			answers(t, known)
			forget(t)
			if _, err := begun.Write([]byte("hello\n")); err != nil {
				t.Fatal(err)
			}
			if _, err := begun.Read(make([]byte, 10)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("a connection that this node does not know ends with %v, want a reset", err)
			}
			later := dial(t, client, address)
			answers(t, later)
			nettest.Eventually(t, "its time is over", func() bool { return !d.has(t, address) })
			forget(t)
			answers(t, later)
		})
	}
}

// wire connects this namespace, which has ours, with another one by a device there named eth0.
func wire(t *testing.T, to, device, ours4, ours6, theirs4, theirs6 string) {
	t.Helper()
	nettest.Shell(t, `set -e
ip link add %[1]s type veth peer name eth0 netns %[2]s
ip addr add %[3]s/24 dev %[1]s; ip -6 addr add %[4]s/64 dev %[1]s nodad; ip link set %[1]s up`, device, nettest.PID(to), ours4, ours6)
	t.Cleanup(func() { nettest.Shell(t, "ip link del %s", device) })
	nettest.Shell(t, `%s sh -ec 'ip link set lo up; ip addr add %s/24 dev eth0; ip -6 addr add %s/64 dev eth0 nodad
ip link set eth0 up; ip route add default via %s; ip -6 route add default via %s'`, to, theirs4, theirs6, ours4, ours6)
}

const port = "7000"

// serve sends back what it gets, until the end of the test.
func serve(t *testing.T) {
	l, err := net.Listen("tcp", ":"+port)
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
				_, _ = io.Copy(c, c)
				c.Close()
			}()
		}
	}()
}

func dial(t *testing.T, from, address string) (c net.Conn) {
	t.Helper()
	var err error
	nettest.Within(t, from, func() { c, err = net.DialTimeout("tcp", net.JoinHostPort(address, port), 5*time.Second) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func answers(t *testing.T, c net.Conn) {
	t.Helper()
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte("hello\n")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 6)); err != nil {
		t.Fatal(err)
	}
}

// forget has the kernel forget all connections.
func forget(t *testing.T) {
	t.Helper()
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	const deleteConnections = unix.NFNL_SUBSYS_CTNETLINK<<8 | 2
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		_, err := c.Execute(netlink.Message{
			Header: netlink.Header{Type: deleteConnections, Flags: netlink.Request | netlink.Acknowledge},
			Data:   []byte{family, unix.NFNETLINK_V0, 0, 0},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// has reports whether packets to the address are treated so now.
func (d *Driver) has(t *testing.T, address string) bool {
	t.Helper()
	for _, f := range nft.Families {
		elements, err := d.table.Elements("moved" + f.Suffix)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range elements {
			if a, ok := netip.AddrFromSlice(e.Key); ok && a.String() == address {
				return true
			}
		}
	}
	return false
}
