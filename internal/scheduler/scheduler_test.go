package scheduler

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// The bits are in hellos: a node of another version understands them as these.
func TestBits(t *testing.T) {
	for name, want := range map[string]uint16{
		"rr": 1, "wrr": 2, "lc": 4, "wlc": 8, "dh": 16, "sh": 32, "sed": 64, "nq": 128, "mh": 256, "": 0, "fifo": 0,
	} {
		if got := Bits(name); got != want {
			t.Errorf("%q is %b, want %b", name, got, want)
		}
		if known := Known(name); known != (want != 0) {
			t.Errorf("%q is known: %v", name, known)
		}
	}
	if got := Bits("rr", "mh"); got != 1|256 {
		t.Errorf("rr and mh are %b", got)
	}
	if got := Bits(Names()...); got != 1<<len(Names())-1 {
		t.Errorf("all schedulers are %b", got)
	}
}

// The protocol's page has the same table.
func TestNames(t *testing.T) {
	page, err := os.ReadFile("../../docs/design/l2-protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	row := regexp.MustCompile(`\| IPVS scheduler \| (.*) \| free \|`).FindSubmatch(page)
	if row == nil {
		t.Fatal("docs/design/l2-protocol.md has no row of IPVS schedulers")
	}
	if want := strings.Join(Names(), " | "); string(row[1]) != want {
		t.Errorf("the page has %s, want %s", row[1], want)
	}
}
