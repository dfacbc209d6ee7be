//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-lb/berth/e2e/host"
	"github.com/berth-lb/berth/e2e/stock"
)

// Clear takes down the lab of that name, whatever is left of it, and reports whether there was
// anything.
func Clear(ctx context.Context, name string) (bool, error) {
	if name == "" {
		name = "lab"
	}
	if !validName(name) {
		return false, fmt.Errorf("lab name %q: want 1 to 12 lower-case letters and digits", name)
	}
	if os.Getuid() != 0 {
		return false, errNotRoot
	}
	folder, err := stock.Find()
	if err != nil {
		return false, err
	}
	l := &Lab{opts: Options{Name: name}, folder: folder}
	left, err := l.remains()
	if err != nil || len(left) == 0 {
		return false, err
	}
	return true, l.Down(ctx)
}

// Down removes the whole lab: processes, mounts, cgroups, network namespaces and files. It looks at
// what the kernel has, not at what Up recorded, so it also works after a crash at any point, and on
// a lab that is down already.
func (l *Lab) Down(ctx context.Context) error {
	l.stopBuilder()
	// etcd is stopped last, so that the others do not fill their logs with errors about it. Mounts and
	// pods end with the hosts.
	if err := l.killHosts(ctx, func(host string) bool { return host != ControlPlane }); err != nil {
		return err
	}
	if err := l.killHosts(ctx, func(string) bool { return true }); err != nil {
		return err
	}
	return errors.Join(l.removeCgroups(ctx, "*"), l.removeNamespaces(), l.removeFiles())
}

// stopBuilder ends an Up of another process that is still at work.
func (l *Lab) stopBuilder() {
	s, err := l.load()
	if err != nil || s.Phase != phaseComing || s.Builder == os.Getpid() {
		return
	}
	if begun, err := startTime(s.Builder); err == nil && begun == s.Begun {
		_ = unix.Kill(s.Builder, unix.SIGKILL)
	}
}

// killHosts kills the processes in the networks of some hosts until none is left. When a host's PID
// 1 ends, the whole host ends, including its pods.
func (l *Lab) killHosts(ctx context.Context, which func(host string) bool) error {
	return until(ctx, 20*time.Second, func(ctx context.Context) error {
		members, err := l.members()
		if err != nil {
			return finalError{err}
		}
		var pids []int
		for name, processes := range members {
			if !which(name) {
				continue
			}
			for _, p := range processes {
				pids = append(pids, p.pid)
			}
		}
		if len(pids) == 0 {
			return nil
		}
		if err := killAll(ctx, pids); err != nil {
			return err
		}
		return fmt.Errorf("%d processes of lab %q still run", len(pids), l.opts.Name)
	})
}

// killAll kills processes and waits for their end.
func killAll(ctx context.Context, pids []int) error {
	var ends []unix.PollFd
	defer func() {
		for _, e := range ends {
			_ = unix.Close(int(e.Fd))
		}
	}()
	for _, pid := range pids {
		fd, err := unix.PidfdOpen(pid, 0)
		if errors.Is(err, unix.ESRCH) {
			continue
		} else if err != nil {
			return fmt.Errorf("end process %d: %w", pid, err)
		}
		ends = append(ends, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
		if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("end process %d: %w", pid, err)
		}
	}
	for i := range ends {
		for ctx.Err() == nil {
			n, err := unix.Poll(ends[i:i+1], 100)
			if err != nil && !errors.Is(err, unix.EINTR) {
				return fmt.Errorf("wait for the end of a process: %w", err)
			}
			if n > 0 {
				break
			}
		}
	}
	return ctx.Err()
}

// cgroups returns the directories of the lab's hosts whose names match the pattern, in every
// hierarchy.
func (l *Lab) cgroups(pattern string) ([]host.Cgroup, error) {
	hierarchies, err := host.Hierarchies(l.prefix() + pattern)
	if err != nil {
		return nil, err
	}
	var found []host.Cgroup
	for _, c := range hierarchies {
		dirs, err := filepath.Glob(c.Dir)
		if err != nil {
			return nil, fmt.Errorf("list cgroups: %w", err)
		}
		for _, dir := range dirs {
			found = append(found, host.Cgroup{Mount: c.Mount, Options: c.Options, Dir: dir})
		}
	}
	return found, nil
}

// removeCgroups waits a little, since a cgroup is busy until its last process has been reaped.
func (l *Lab) removeCgroups(ctx context.Context, pattern string) error {
	return until(ctx, 10*time.Second, func(context.Context) error {
		groups, err := l.cgroups(pattern)
		if err != nil {
			return finalError{err}
		}
		var failed error
		for _, c := range groups {
			failed = errors.Join(failed, c.Remove())
		}
		return failed
	})
}

// removeFiles removes the lab's folder, unless something is still mounted in it: it is better to
// leave files than to delete through a mount.
func (l *Lab) removeFiles() error {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("remove the lab's files: %w", err)
	}
	for line := range strings.Lines(string(mounts)) {
		fields := strings.Fields(line)
		if len(fields) > 4 && strings.HasPrefix(fields[4], l.dir()+"/") {
			return fmt.Errorf("remove the lab's files: %s is still mounted", fields[4])
		}
	}
	if err := os.RemoveAll(l.dir()); err != nil {
		return fmt.Errorf("remove the lab's files: %w", err)
	}
	return nil
}

// remains lists what is left of the lab, by kind and name.
func (l *Lab) remains() ([]string, error) {
	var left []string
	members, err := l.members()
	if err != nil {
		return nil, err
	}
	for name := range members {
		left = append(left, "processes of "+name)
	}
	groups, err := l.cgroups("*")
	if err != nil {
		return nil, err
	}
	for _, c := range groups {
		left = append(left, c.Dir)
	}
	paths, err := filepath.Glob(l.netnsPath("*"))
	if err != nil {
		return nil, fmt.Errorf("list network namespaces: %w", err)
	}
	left = append(left, paths...)
	if exists(l.dir()) {
		left = append(left, l.dir())
	}
	slices.Sort(left)
	return left, nil
}

// forgetNode clears what a dead node left in the kernel and on the disk, as its power cut would
// have.
func (l *Lab) forgetNode(name string) error {
	return errors.Join(
		l.removeCgroups(context.Background(), name), l.clearNodeNetwork(name),
		os.RemoveAll(filepath.Join(l.dir(), "data", name)),
	)
}
