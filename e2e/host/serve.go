//go:build linux

package host

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Socket is where PID 1 listens, inside the host.
const Socket = "/run/berth-host.sock"

// Request asks PID 1 for one thing: to start a program, or, when Start is nil, for the list of what
// it started.
type Request struct {
	Start *Program
}

// Program is what to run. It is refused if a program of that name is running.
type Program struct {
	Name string
	Argv []string
	Env  []string // added to PATH, HOME and LANG
	Log  string   // file for standard output and error, appended to
}

// Process is a program that PID 1 started; for each name, the last one.
type Process struct {
	Name    string
	PID     int // in the host's PID namespace
	Started time.Time
	Ended   bool
	End     string // such as "exit status 1" or "signal: killed"
}

// Reply answers a Request.
type Reply struct {
	Error     string
	Processes []Process
}

// Serve is PID 1 of a host after Boot. It returns only on an error; it ends with SIGKILL from
// outside the host.
func Serve(log *slog.Logger) error {
	listener, err := net.Listen("unix", Socket)
	if err != nil {
		return fmt.Errorf("listen for the lab: %w", err)
	}
	t := &table{log: log, byPID: map[int]*Process{}, byName: map[string]*Process{}}
	children := make(chan os.Signal, 1)
	signal.Notify(children, unix.SIGCHLD)
	signal.Ignore(unix.SIGHUP, unix.SIGINT, unix.SIGTERM)
	go func() {
		for range children {
			t.reap()
		}
	}()
	for {
		conn, err := listener.Accept()
		if err != nil {
			return fmt.Errorf("listen for the lab: %w", err)
		}
		go t.answer(conn)
	}
}

// table is what PID 1 knows about its children.
type table struct {
	log *slog.Logger

	mu     sync.Mutex // guards the maps; held over a start, so that reap sees it
	byPID  map[int]*Process
	byName map[string]*Process
}

func (t *table) answer(conn net.Conn) {
	defer conn.Close()
	var request Request
	if err := json.NewDecoder(conn).Decode(&request); err != nil {
		if !errors.Is(err, net.ErrClosed) {
			t.log.Warn("unreadable request", "err", err)
		}
		return
	}
	// The kernel may not have reported yet that a child ended. A caller that saw the end must find it
	// here.
	t.reap()
	var reply Reply
	if request.Start != nil {
		if err := t.start(*request.Start); err != nil {
			reply.Error = err.Error()
		}
	}
	reply.Processes = t.list()
	if err := json.NewEncoder(conn).Encode(reply); err != nil {
		t.log.Warn("reply not delivered", "err", err)
	}
}

// start runs a program in a session of its own. It uses ForkExec, not os/exec: PID 1 reaps every
// child in one place.
func (t *table) start(p Program) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if old := t.byName[p.Name]; old != nil && !old.Ended {
		return fmt.Errorf("start %s: it runs as process %d", p.Name, old.PID)
	}
	path, err := lookPath(p.Argv[0])
	if err != nil {
		return fmt.Errorf("start %s: %w", p.Name, err)
	}
	out, err := os.OpenFile(p.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("start %s: open its log: %w", p.Name, err)
	}
	defer out.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return fmt.Errorf("start %s: %w", p.Name, err)
	}
	defer null.Close()
	pid, err := syscall.ForkExec(path, p.Argv, &syscall.ProcAttr{
		Dir:   "/",
		Env:   append(os.Environ(), p.Env...),
		Files: []uintptr{null.Fd(), out.Fd(), out.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return fmt.Errorf("start %s: execute %s: %w", p.Name, path, err)
	}
	process := &Process{Name: p.Name, PID: pid, Started: time.Now()}
	t.byPID[pid], t.byName[p.Name] = process, process
	t.log.Info("started", "process", p.Name, "pid", pid)
	return nil
}

// lookPath resolves a program's name in Path.
func lookPath(name string) (string, error) {
	if filepath.IsAbs(name) {
		return name, nil
	}
	for _, dir := range filepath.SplitList(Path) {
		at := filepath.Join(dir, name)
		if unix.Access(at, unix.X_OK) == nil {
			return at, nil
		}
	}
	return "", fmt.Errorf("no program %s in %s", name, Path)
}

// reap collects every child that ended, its own and the orphans it inherited.
func (t *table) reap() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		p := t.byPID[pid]
		if p == nil {
			continue
		}
		delete(t.byPID, pid)
		p.Ended, p.End = true, ending(status)
		t.log.Info("ended", "process", p.Name, "pid", pid, "how", p.End)
	}
}

func ending(status syscall.WaitStatus) string {
	if status.Signaled() {
		return "signal: " + status.Signal().String()
	}
	return fmt.Sprintf("exit status %d", status.ExitStatus())
}

func (t *table) list() []Process {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []Process
	for _, p := range t.byName {
		all = append(all, *p)
	}
	slices.SortFunc(all, func(a, b Process) int { return cmp.Compare(a.Started.UnixNano(), b.Started.UnixNano()) })
	return all
}
