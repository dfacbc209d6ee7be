//go:build root

package conntrack

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/berth-lb/berth/speaker/dataplane/nft/nettest"
)

func TestMain(m *testing.M) { os.Exit(nettest.Main(m)) }

// states returns the states of the connections to an address that the kernel knows, such as
// "TIME_WAIT ESTABLISHED".
func states(t *testing.T, address string) string {
	t.Helper()
	table, err := os.ReadFile("/proc/net/nf_conntrack")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for line := range strings.Lines(string(table)) {
		// ipv4 2 tcp 6 119 TIME_WAIT src=10.0.0.1 dst=10.0.0.2 ...
		fields := strings.Fields(line)
		for _, f := range fields {
			if a, ok := strings.CutPrefix(f, "dst="); ok {
				if parsed, err := netip.ParseAddr(a); err == nil && parsed.String() == address {
					found = append(found, fields[5])
				}
				break // the first one is of the original direction
			}
		}
	}
	return strings.Join(found, " ")
}

func TestCleaner_kernel(t *testing.T) {
	track(t)
	for _, c := range []struct{ moved, other string }{
		{moved: "192.0.2.1", other: "192.0.2.2"},
		{moved: "2001:db8::1", other: "2001:db8::2"},
	} {
		t.Run(c.moved, func(t *testing.T) {
			for _, a := range []string{c.moved, c.other} {
				hold(t, a)
				over := connect(t, a)
				if err := over.Close(); err != nil {
					t.Fatal(err)
				}
				open := connect(t, a)
				t.Cleanup(func() { open.Close() })
				nettest.Eventually(t, "a connection is over", func() bool {
					return isOver(strings.Replace(states(t, a), "ESTABLISHED", "", 1))
				})
			}
			cleaner := New(slog.New(slog.NewTextHandler(t.Output(), nil)))
			done := make(chan error, 1)
			ctx, cancel := context.WithCancel(t.Context())
			go func() { done <- cleaner.Run(ctx) }()
			t.Cleanup(func() {
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
			})
			cleaner.Moved(netip.MustParseAddr(c.moved))
			nettest.Eventually(t, "it is forgotten", func() bool { return states(t, c.moved) == "ESTABLISHED" })
			if got := states(t, c.other); len(strings.Fields(got)) != 2 {
				t.Errorf("connections to another address: %s", got)
			}
		})
	}
}

// Very many addresses are looked for in one reading of the table.
func TestForget_kernel_many(t *testing.T) {
	track(t)
	addresses := map[netip.Addr]bool{}
	for i := range manyAddresses {
		a := fmt.Sprintf("192.0.2.%d", 10+i)
		hold(t, a)
		if err := connect(t, a).Close(); err != nil {
			t.Fatal(err)
		}
		nettest.Eventually(t, "a connection is over", func() bool { return isOver(states(t, a)) })
		addresses[netip.MustParseAddr(a)] = true
	}
	if err := Forget(addresses); err != nil {
		t.Fatal(err)
	}
	for a := range addresses {
		if got := states(t, a.String()); got != "" {
			t.Errorf("%s: %s", a, got)
		}
	}
}

// isOver reports whether these are the states of one connection that is over.
func isOver(states string) bool {
	state := strings.TrimSpace(states)
	return state == "TIME_WAIT" || state == "CLOSE"
}

// hold gives this namespace an address, which it keeps: the kernel takes its time to forget one,
// and for IPv6 to have a route to a new one.
func hold(t *testing.T, address string) {
	t.Helper()
	nettest.Shell(t, "ip addr replace %s/%d dev lo nodad", address, netip.MustParseAddr(address).BitLen())
	nettest.Eventually(t, "the kernel has a route to "+address, func() bool {
		return strings.HasPrefix(nettest.Shell(t, "ip route get %s || true", address), "local")
	})
	if err := Forget(map[netip.Addr]bool{netip.MustParseAddr(address): true}); err != nil { // of a former run
		t.Fatal(err)
	}
}

// track makes the kernel track connections, until the end of the test: some rule asks for their
// state.
func track(t *testing.T) {
	t.Helper()
	c, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "track"})
	chain := c.AddChain(&nftables.Chain{
		Table:    table,
		Name:     "in",
		Type:     nftables.ChainTypeFilter,
		Hooknum:  nftables.ChainHookInput,
		Priority: nftables.ChainPriorityFilter,
	})
	c.AddRule(&nftables.Rule{
		Table: table,
		Chain: chain,
		Exprs: []expr.Any{&expr.Ct{Key: expr.CtKeySTATE, Register: 1}, &expr.Counter{}},
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

// connect opens a connection to the address, whose other end is closed with it.
func connect(t *testing.T, address string) net.Conn {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(address, "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	served, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		_, _ = io.Copy(io.Discard, served)
		served.Close()
	}()
	return c
}
