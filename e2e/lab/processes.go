//go:build linux

package lab

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// procEntry is a process as /proc shows it.
type procEntry struct {
	pid   int
	nspid []int // its numbers in nested PID namespaces, from this one inwards
}

// allProcesses lists the machine's processes. Those that end while it runs are left out.
func allProcesses() ([]procEntry, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var all []procEntry
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		text, err := os.ReadFile(filepath.Join("/proc", e.Name(), "status"))
		if err != nil {
			continue
		}
		all = append(all, procEntry{pid: pid, nspid: statusNumbers(text, "NSpid:")})
	}
	return all, nil
}

// statusNumbers reads one line of numbers of /proc/PID/status.
func statusNumbers(status []byte, key string) []int {
	var numbers []int
	for line := range bytes.Lines(status) {
		rest, ok := bytes.CutPrefix(line, []byte(key))
		if !ok {
			continue
		}
		for _, field := range strings.Fields(string(rest)) {
			if n, err := strconv.Atoi(field); err == nil {
				numbers = append(numbers, n)
			}
		}
	}
	return numbers
}

// startTime returns when a process began, in the kernel's ticks since boot (proc_pid_stat(5), field
// 22). A process that has ended counts as gone, even if it has not been reaped.
func startTime(pid int) (string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", err
	}
	// The name in field 2 may contain anything, including spaces and parentheses.
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(fields) < 20 {
		return "", fmt.Errorf("read /proc/%d/stat: too short", pid)
	}
	if fields[0] == "Z" {
		return "", os.ErrProcessDone
	}
	return fields[19], nil
}

// inode identifies a namespace file.
func inode(path string) (uint64, error) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	return info.Sys().(*syscall.Stat_t).Ino, nil
}

// namespaces maps the lab's network namespaces to their hosts.
func (l *Lab) namespaces() (map[uint64]string, error) {
	paths, err := filepath.Glob(l.netnsPath("*"))
	if err != nil {
		return nil, fmt.Errorf("list network namespaces: %w", err)
	}
	hosts := map[uint64]string{}
	for _, path := range paths {
		n, err := inode(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return nil, fmt.Errorf("list network namespaces: %w", err)
		}
		hosts[n] = strings.TrimPrefix(filepath.Base(path), l.prefix())
	}
	return hosts, nil
}

// members lists the processes in the lab's network namespaces, by host. Pods with a network of
// their own are not among them.
func (l *Lab) members() (map[string][]procEntry, error) {
	hosts, err := l.namespaces()
	if err != nil || len(hosts) == 0 {
		return nil, err
	}
	all, err := allProcesses()
	if err != nil {
		return nil, err
	}
	found := map[string][]procEntry{}
	for _, p := range all {
		n, err := inode(fmt.Sprintf("/proc/%d/ns/net", p.pid))
		if err != nil {
			continue
		}
		if host, ok := hosts[n]; ok && p.pid != os.Getpid() {
			found[host] = append(found[host], p)
		}
	}
	return found, nil
}

// inits returns the PID 1 of every running host, as the machine numbers it.
func (l *Lab) inits() (map[string]int, error) {
	members, err := l.members()
	if err != nil {
		return nil, err
	}
	found := map[string]int{}
	for host, processes := range members {
		for _, p := range processes {
			if len(p.nspid) == 2 && p.nspid[1] == 1 {
				found[host] = p.pid
			}
		}
	}
	return found, nil
}

// initOf returns the PID 1 of a host.
func (l *Lab) initOf(host string) (int, error) {
	inits, err := l.inits()
	if err != nil {
		return 0, err
	}
	pid, ok := inits[host]
	if !ok {
		return 0, fmt.Errorf("host %q of lab %q does not run", host, l.opts.Name)
	}
	return pid, nil
}

// machinePID translates a process number in a host's PID namespace to the machine's.
func machinePID(init, pid int) (int, error) {
	want, err := inode(fmt.Sprintf("/proc/%d/ns/pid", init))
	if err != nil {
		return 0, fmt.Errorf("find process %d of the host: %w", pid, err)
	}
	all, err := allProcesses()
	if err != nil {
		return 0, err
	}
	for _, p := range all {
		if len(p.nspid) < 2 || p.nspid[1] != pid {
			continue
		}
		if belongs(p, want) {
			return p.pid, nil
		}
	}
	return 0, fmt.Errorf("the host has no process %d any more", pid)
}

// belongs reports whether a process is in the PID namespace, as a host's own processes are, or in a
// child of it, as containers are.
func belongs(p procEntry, namespace uint64) bool {
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/pid", p.pid))
	if err != nil {
		return false
	}
	defer f.Close()
	var own unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &own); err != nil {
		return false
	}
	if own.Ino == namespace {
		return true
	}
	above, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_PARENT)
	if err != nil {
		return false
	}
	defer unix.Close(above)
	var parent unix.Stat_t
	return unix.Fstat(above, &parent) == nil && parent.Ino == namespace
}
