package bgpd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-lb/berth/internal/async"
)

const (
	// endWithin is how long a worker may take to end when its keeper no longer talks to it.
	endWithin = 2 * time.Second
	// atOnce is how soon after a message a crash must come to be taken for its consequence.
	atOnce = 2 * time.Second
)

// staff starts workers, one at a time.
type staff struct {
	log     *slog.Logger
	command []string
	// onCrash is called after a crash.
	onCrash func()

	mu     sync.Mutex
	hired  *hired // guarded by mu; the last; nil: there was none
	blame  blame  // guarded by mu
	failed int    // guarded by mu; crashes so far
}

// hired is a worker's process.
type hired struct {
	cmd   *exec.Cmd
	trace *os.File
	cause *causeReader
	ended chan struct{} // closed when it has ended
	err   error         // how; once it has ended
	after netip.Addr    // the router that it took a message of right before; once it has ended
}

// hire starts a worker, when the last one has ended and it is time, and returns the connection to
// it.
func (s *staff) hire(ctx context.Context) (net.Conn, error) {
	if err := async.Sleep(ctx, s.dismiss()); err != nil {
		return nil, err
	}
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer func() { _ = theirs.Close() }()
	trace, err := newTrace()
	if err != nil {
		_ = ours.Close()
		return nil, err
	}
	h := &hired{
		cmd: exec.Command(s.command[0], s.command[1:]...), trace: trace, cause: &causeReader{to: os.Stderr},
		ended: make(chan struct{}),
	}
	h.cmd.Stderr, h.cmd.ExtraFiles, h.cmd.WaitDelay = h.cause, []*os.File{theirs, trace}, time.Second
	if err := h.cmd.Start(); err != nil {
		_, _ = ours.Close(), trace.Close()
		return nil, fmt.Errorf("start a process for BGP: %w", err)
	}
	go func() { // ends with the worker
		h.err = h.cmd.Wait()
		if router, ago := marked(trace, h.cause.goroutine()); ago < atOnce {
			h.after = router
		}
		_ = trace.Close()
		close(h.ended)
	}()
	s.mu.Lock()
	s.hired = h
	s.mu.Unlock()
	s.log.Info("BGP begins", "pid", h.cmd.Process.Pid)
	return ours, nil
}

// dismiss waits until the last worker has ended, and ends it if it does not. It returns when to
// start another.
func (s *staff) dismiss() (pause time.Duration) {
	s.mu.Lock()
	h := s.hired
	s.hired = nil
	s.mu.Unlock()
	if h == nil {
		return 0
	}
	h.end()
	if h.err == nil {
		return 0
	}
	cause := h.cause.first()
	if cause == "" {
		cause = h.err.Error()
	}
	s.mu.Lock()
	s.failed++
	pause = s.blame.crashed(time.Now(), h.after, cause)
	s.mu.Unlock()
	s.log.Error("the process that speaks BGP crashed; routers with graceful restart keep the routes until the next one",
		"cause", cause, "status", h.err.Error(), "afterMessageOf", addressText(h.after), "nextIn", pause)
	s.onCrash()
	return pause
}

func addressText(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// end waits for the end of the process, and brings it about after two seconds.
func (h *hired) end() {
	enough := time.NewTimer(endWithin)
	defer enough.Stop()
	select {
	case <-h.ended:
	case <-enough.C:
		_ = h.cmd.Process.Kill()
		<-h.ended
	}
}

// socketPair returns two ends of a connection, the second for another process.
func socketPair() (net.Conn, *os.File, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a connection to a process for BGP: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "worker"), os.NewFile(uintptr(pair[1]), "keeper")
	conn, err := net.FileConn(ours)
	_ = ours.Close() // conn has its own
	if err != nil {
		_ = theirs.Close()
		return nil, nil, fmt.Errorf("make a connection to a process for BGP: %w", err)
	}
	return conn, theirs, nil
}

// Inherited returns what a keeper gives its worker: the connection, and the trace.
func Inherited() (net.Conn, *os.File, error) {
	theirs, trace := os.NewFile(3, "keeper"), os.NewFile(4, "trace")
	if theirs == nil || trace == nil {
		return nil, nil, errors.New("there is no keeper")
	}
	conn, err := net.FileConn(theirs)
	_ = theirs.Close() // conn has its own
	if err != nil {
		return nil, nil, fmt.Errorf("there is no keeper: %w", err)
	}
	return conn, trace, nil
}

// causeReader passes on what a process writes, and finds in it why it ended, as Go's runtime says
// it.
type causeReader struct {
	to io.Writer

	mu    sync.Mutex
	rest  []byte // guarded by mu; an incomplete line
	cause string // guarded by mu
	by    uint64 // guarded by mu; the number of the goroutine that crashed; 0: not known
}

// longestLine bounds what is kept of a line.
const longestLine = 4096

// Write implements io.Writer.
func (c *causeReader) Write(text []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rest = append(c.rest, text...)
	for {
		line, rest, whole := bytes.Cut(c.rest, []byte("\n"))
		if !whole {
			break
		}
		c.look(string(line))
		c.rest = rest
	}
	c.rest = bytes.Clone(c.rest[:min(len(c.rest), longestLine)])
	return c.to.Write(text)
}

// look looks at a line. mu is held.
func (c *causeReader) look(line string) {
	for _, beginning := range []string{"panic: ", "fatal error: ", "runtime: ", "SIG", "berth-bgp: "} {
		if c.cause == "" && strings.HasPrefix(line, beginning) {
			c.cause = line[:min(len(line), 200)]
		}
	}
	if c.cause != "" && c.by == 0 { // the one that crashed comes first
		_, _ = fmt.Sscanf(line, "goroutine %d ", &c.by)
	}
}

// goroutine returns the number of the goroutine that crashed; 0: it is not known.
func (c *causeReader) goroutine() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.by
}

// first returns the first cause; empty: none was found.
func (c *causeReader) first() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cause
}

// crashes counts the crashes so far.
func (s *staff) crashes() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed
}

// leftAlone is that of blame.
func (s *staff) leftAlone(now time.Time) (routers map[netip.Addr]string, changes time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.blame.leftAlone(now)
}

// forgive forgets what those routers have done that are named.
func (s *staff) forgive(named func(netip.Addr) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.blame.Routers, func(router netip.Addr, _ *record) bool { return named(router) })
}

// remember begins with what is known of crashes.
func (s *staff) remember(b blame) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.blame = b
}

// copyOfBlame returns what is known of crashes.
func (s *staff) copyOfBlame() blame {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := blame{Crashes: slices.Clone(s.blame.Crashes), Routers: map[netip.Addr]*record{}}
	for router, r := range s.blame.Routers {
		c := *r
		c.Crashes = slices.Clone(r.Crashes)
		b.Routers[router] = &c
	}
	return b
}

// end waits for the last worker's end.
func (s *staff) end() {
	s.mu.Lock()
	h := s.hired
	s.hired = nil
	s.mu.Unlock()
	if h != nil {
		h.end()
	}
}
