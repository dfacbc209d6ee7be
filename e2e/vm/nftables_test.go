//go:build qemu

package vm_test

import (
	"os/exec"
	"runtime"
	"strings"
	"testing"
)

// These run in a guest in QEMU only.

// The tables are written as nft lists them. Masquerading what IPVS forwards is what they are for.
func TestNftablesMasquerades(t *testing.T) {
	for _, table := range []string{
		`table ip berth-test {
	set owned {
		type ipv4_addr
		elements = { 198.51.100.1, 198.51.100.2 }
	}

	chain postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		ct original ip daddr @owned counter packets 0 bytes 0 masquerade
	}
}
`, `table ip6 berth-test {
	chain postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		ct original ip6 daddr 2001:db8:100::1 masquerade fully-random
	}
}
`, `table inet berth-test {
	chain postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		meta l4proto tcp masquerade
	}

	chain forward {
		type filter hook forward priority filter; policy accept;
		ct state established,related accept
		ip daddr 198.51.100.1 reject with icmp port-unreachable
	}
}
`,
	} {
		nft(t, table, "-f", "-")
		if listed := nft(t, "", "list", "ruleset"); listed != table {
			t.Errorf("made\n%slisted\n%s", table, listed)
		}
		nft(t, "", "flush", "ruleset")
	}
}

func TestTheGuestHasTwoProcessors(t *testing.T) {
	if n := runtime.NumCPU(); n != 2 {
		t.Errorf("%d processors, want 2", n)
	}
}

func nft(t *testing.T, input string, args ...string) string {
	t.Helper()
	cmd := exec.Command("nft", args...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("nft %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}
