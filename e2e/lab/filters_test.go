//go:build root

package lab

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// loseAndRegain checks that n1 cannot be reached while a fault lasts, and can be again.
func loseAndRegain(t *testing.T, l *Lab) {
	const arp = 0x0806
	reconfigure := func(context.Context) error { return l.Reconfigure("n1") }
	for name, fault := range map[string]struct{ strike, heal func(context.Context) error }{
		"ARP is filtered": {func(ctx context.Context) error { return l.FilterEtherType(ctx, arp) }, l.PassAll},
		"all is lost":     {func(ctx context.Context) error { return l.LoseFrames(ctx, 100) }, l.PassAll},
		"its address is dropped": {
			func(context.Context) error { return l.DropAddresses("n1", unix.AF_INET) }, reconfigure,
		},
		"its interface is down": {func(context.Context) error { return l.LinkDown("n1") }, reconfigure},
	} {
		if err := fault.strike(t.Context()); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := l.FlushNeighbors(Client); err != nil {
			t.Fatal(err)
		}
		if reach(l, Client)(t.Context()) == nil {
			t.Errorf("%s, and the client reaches n1", name)
		}
		if err := fault.heal(t.Context()); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		eventually(t, reach(l, Client))
	}
}

func loseAPI(t *testing.T, l *Lab) {
	const ofPods, ofKubelet = apiClusterIP4 + ":443", apiAddress + ":6443"
	reached := func(address string) bool {
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		conn, err := l.Dial(ctx, "n1", "tcp", address)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	}
	for _, loss := range []APILoss{{}, {Refused: true}, {Pods: true}, {Pods: true, Refused: true}} {
		for range 2 { // a second time changes nothing
			if err := l.LoseAPI(t.Context(), "n1", loss); err != nil {
				t.Fatal(err)
			}
		}
		if pods, kubelet := reached(ofPods), reached(ofKubelet); pods || kubelet != loss.Pods {
			t.Errorf("%s: its pods reach it: %v, its kubelet: %v", loss, pods, kubelet)
		}
		for range 2 {
			if err := l.RegainAPI(t.Context(), "n1"); err != nil {
				t.Fatal(err)
			}
		}
		if !reached(ofPods) || !reached(ofKubelet) {
			t.Errorf("%s: it is not over", loss)
		}
	}
}

func setMTU(t *testing.T, l *Lab) {
	mtu := func(host, name string) int {
		t.Helper()
		text, err := l.Exec(t.Context(), host, "ip", "-json", "link", "show", name).Output()
		if err != nil {
			t.Fatal(err)
		}
		var links []struct{ MTU int }
		if err := json.Unmarshal(text, &links); err != nil || len(links) != 1 {
			t.Fatalf("ip link show %s in %s: %v: %s", name, host, err, text)
		}
		return links[0].MTU
	}
	for _, want := range [][2]int{{9000, 4000}, {1500, 1500}} {
		if err := l.SetMTU("n1", want[0], want[1]); err != nil {
			t.Fatal(err)
		}
		if own, port := mtu("n1", rackPort), mtu(rack, "n1"); own != want[0] || port != want[1] {
			t.Errorf("n1 has MTU %d and its port %d, want %d", own, port, want)
		}
	}
}
