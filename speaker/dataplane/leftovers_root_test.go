//go:build root

package dataplane

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"testing"

	"github.com/berth-lb/berth/speaker/dataplane/guard"
	"github.com/berth-lb/berth/speaker/dataplane/ipvs"
	"github.com/berth-lb/berth/speaker/dataplane/nft/nettest"
)

func TestMain(m *testing.M) { os.Exit(nettest.Main(m)) }

// The kernel need not have IPVS: then there are no virtual servers, but all the rest may be there.
func TestLeftovers(t *testing.T) {
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	if found := findLeftovers(log); found.anything {
		t.Fatalf("in a new namespace there is %+v", found)
	}
	const others = "ip rule add pref 487 table 7; ip -6 rule add pref 487 table 7; ip route add local 192.0.2.9 dev lo table 7"
	const state = "ip rule; ip -6 rule; ip route show table all; ip -6 route show table all"
	nettest.Shell(t, others)
	kernel := func() string {
		rules, err := guard.Leftovers()
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("%s\nnftables: %t", nettest.Shell(t, state), rules)
	}
	before := kernel()
	for name, make := range map[string]func(){
		"routes and rules": func() {
			nettest.Shell(t, `for f in "-4 192.0.2.1" "-6 2001:db8::1"; do set -- $f
				ip $1 route add local $2 dev lo table %[1]d proto 72; ip $1 rule add pref %[2]d ipproto tcp table %[1]d proto 72; ip $1 rule add pref %[2]d ipproto udp table %[1]d proto 72
			done`, ipvs.RoutingTable, ipvs.RulePriority)
		},
		"rules alone": func() {
			nettest.Shell(t, "ip -6 rule add pref %d ipproto tcp table %d proto 72", ipvs.RulePriority, ipvs.RoutingTable)
		},
		"nftables": func() { writeGuard(t, log) },
	} {
		make()
		if kernel() == before {
			t.Fatalf("%s: nothing changed, so nothing is shown", name)
		}
		found := findLeftovers(log)
		if !found.anything {
			t.Errorf("%s: not found", name)
		}
		if err := found.remove(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if now := kernel(); now != before {
			t.Errorf("%s: afterwards there is\n%s\nwant\n%s", name, now, before)
		}
	}
}

// writeGuard has the table written by its driver, which then ends as a process does.
func writeGuard(t *testing.T, log *slog.Logger) {
	t.Helper()
	d, err := guard.New(log, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- d.Run(ctx) }()
	nettest.Eventually(t, "the table to be written", func() bool {
		found, err := guard.Leftovers()
		return err == nil && found
	})
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
