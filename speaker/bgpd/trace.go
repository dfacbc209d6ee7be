package bgpd

import (
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-lb/berth/internal/keptfile"
)

const (
	// markLength is the length of a mark in a trace: a time, a goroutine, an address with its zone.
	markLength = 128
	// marks is how many are kept: a crash and its mark may be that many messages apart.
	marks = 64
)

// newTrace returns a file in memory in which a worker notes from which router it takes a message.
// What it has written its keeper can read, whatever becomes of the worker.
func newTrace() (*os.File, error) {
	fd, err := unix.MemfdCreate("trace", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make a file in memory: %w", err)
	}
	return os.NewFile(uintptr(fd), "trace"), nil
}

// tracer notes in a trace.
type tracer struct {
	trace *os.File
	count atomic.Uint64
}

// mark notes that a message of the router is taken now, by this goroutine. It waits for nobody.
func (t *tracer) mark(router netip.Addr) {
	line := fmt.Sprintf("%d %d %s\n", keptfile.SinceBoot(), goroutine(), router)
	at := int64(t.count.Add(1)%marks) * markLength
	_, _ = t.trace.WriteAt([]byte(line+strings.Repeat("\x00", max(0, markLength-len(line)))), at)
}

// goroutine returns the number of the calling one, as a crash names it; 0: it is not known. Nothing
// else tells which of several routers' messages was the one.
func goroutine() (number uint64) {
	text := make([]byte, 64)
	_, _ = fmt.Sscanf(string(text[:runtime.Stack(text, false)]), "goroutine %d ", &number)
	return number
}

// marked returns from which router a message was taken last by a goroutine, or, if it took none, by
// any, and how long ago; no address: none was.
func marked(trace *os.File, by uint64) (router netip.Addr, ago time.Duration) {
	text := make([]byte, marks*markLength)
	n, _ := trace.ReadAt(text, 0)
	var last, own time.Duration
	var ownRouter netip.Addr
	for mark := range slices.Chunk(text[:n], markLength) {
		line, _, _ := strings.Cut(string(mark), "\n")
		var at time.Duration
		var number uint64
		var address string
		if _, err := fmt.Sscan(line, (*int64)(&at), &number, &address); err != nil {
			continue
		}
		from, err := netip.ParseAddr(address)
		if err != nil {
			continue
		}
		if at > last {
			last, router = at, from
		}
		if number == by && by != 0 && at > own {
			own, ownRouter = at, from
		}
	}
	if ownRouter.IsValid() {
		last, router = own, ownRouter
	}
	if !router.IsValid() {
		return router, 0
	}
	return router, keptfile.SinceBoot() - last
}
