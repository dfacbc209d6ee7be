package footprint

import (
	"os"
	"strconv"
	"strings"
	"testing"
)

func TestTrim(t *testing.T) {
	before := ofFiles(t)
	if err := Trim(); err != nil {
		t.Fatal(err)
	}
	if after := ofFiles(t); after > before*3/4 {
		t.Errorf("%d KiB of files are in memory, and were %d before", after, before)
	}
}

// ofFiles returns how much of files this process has in memory, in KiB.
func ofFiles(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "RssFile:"); ok {
			n, err := strconv.Atoi(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")))
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatal("/proc/self/status has no RssFile")
	return 0
}

func TestReadOnly(t *testing.T) {
	const program = "/usr/bin/berth"
	for _, c := range []struct {
		line       string
		begin, end uintptr
		ok         bool
	}{
		{"00400000-02a31000 r-xp 00000000 fe:00 1234      /usr/bin/berth", 0x400000, 0x2a31000, true},
		{"02a31000-04ff0000 r--p 02631000 fe:00 1234      /usr/bin/berth", 0x2a31000, 0x4ff0000, true},
		{"04ff0000-050f0000 rw-p 04bf0000 fe:00 1234      /usr/bin/berth", 0, 0, false},
		{"7f0000000000-7f0000021000 r--p 00000000 fe:00 9 /usr/lib/libc.so.6", 0, 0, false},
		{"c000000000-c000400000 rw-p 00000000 00:00 0", 0, 0, false},
		{"7ffd0000-7ffe0000 r-xp 00000000 00:00 0         [vdso]", 0, 0, false},
		{"02a31000-00400000 r-xp 00000000 fe:00 1234      /usr/bin/berth", 0, 0, false},
		{"nonsense r-xp 0 0 0 /usr/bin/berth", 0, 0, false},
		{"", 0, 0, false},
	} {
		begin, end, ok := readOnly(c.line, program)
		if ok != c.ok || ok && (begin != c.begin || end != c.end) {
			t.Errorf("%q: %x-%x %v, want %x-%x %v", c.line, begin, end, ok, c.begin, c.end, c.ok)
		}
	}
}
