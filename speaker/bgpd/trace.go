package bgpd

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-lb/berth/internal/keptfile"
)

// traceLength is the length of a trace: a time and an address with its zone.
const traceLength = 96

// newTrace returns a file in memory in which a worker notes from which router it takes a message.
// What it has written its keeper can read, whatever becomes of the worker.
func newTrace() (*os.File, error) {
	fd, err := unix.MemfdCreate("trace", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make a file in memory: %w", err)
	}
	return os.NewFile(uintptr(fd), "trace"), nil
}

// mark notes that a message of the router is taken now. It waits for nobody.
func mark(trace *os.File, router netip.Addr) {
	line := fmt.Sprintf("%d %s\n", keptfile.SinceBoot(), router)
	_, _ = trace.WriteAt([]byte(line+strings.Repeat("\x00", max(0, traceLength-len(line)))), 0)
}

// marked returns from which router a message was taken last, and how long ago; no address: none
// was.
func marked(trace *os.File) (router netip.Addr, ago time.Duration) {
	text := make([]byte, traceLength)
	n, _ := trace.ReadAt(text, 0)
	line, _, _ := strings.Cut(string(text[:n]), "\n")
	var at time.Duration
	var address string
	if _, err := fmt.Sscan(line, (*int64)(&at), &address); err != nil {
		return netip.Addr{}, 0
	}
	router, err := netip.ParseAddr(address)
	if err != nil {
		return netip.Addr{}, 0
	}
	return router, keptfile.SinceBoot() - at
}
