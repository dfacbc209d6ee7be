//go:build linux

package stage

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// cpuHierarchy shares out the processors, with cgroup v1.
const cpuHierarchy = "/sys/fs/cgroup/cpu"

// Urgent has the heart of a node in the real-time class, as it is on most machines: kernels with
// CONFIG_RT_GROUP_SCHED refuse it until somebody gives the container's group a share. It returns
// once the heart has asked again.
func (s *Stage) Urgent(ctx context.Context, node string) error {
	heart, err := s.Process(ctx, "heart@"+node)
	if err != nil {
		return err
	}
	if err := AllowRealtime(heart.PID); err != nil {
		return err
	}
	return Eventually(ctx, time.Minute, func(context.Context) error { return inRealtime(heart.PID) })
}

// CPUGroup returns the folder of a process's group in the hierarchy that shares out the processors.
func CPUGroup(pid int) (string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return "", fmt.Errorf("groups of process %d: %w", pid, err)
	}
	for line := range bytes.Lines(text) {
		parts := strings.SplitN(strings.TrimSpace(string(line)), ":", 3)
		if len(parts) == 3 && slices.Contains(strings.Split(parts[1], ","), "cpu") {
			return filepath.Join(cpuHierarchy, parts[2]), nil
		}
	}
	return "", fmt.Errorf("process %d is in no group of the hierarchy cpu (cgroup v1)", pid)
}

// AllowRealtime lets the group of a process, and those above it, have processes in the real-time
// class. Most hosts of cgroup v2 have no such bound; with it, containers are made without. Each of
// three nodes has 30 % of each processor then, in short turns: the kernel's usual period is a
// second, and a process that had its share is held up until the next one begins.
func AllowRealtime(pid int) error {
	const period, share = "50000", "15000" // us
	group, err := CPUGroup(pid)
	if err != nil {
		return err
	}
	_, err = os.Stat(filepath.Join(group, "cpu.rt_runtime_us"))
	if errors.Is(err, fs.ErrNotExist) || group == cpuHierarchy {
		return nil
	}
	below := strings.Split(strings.TrimPrefix(group, cpuHierarchy+"/"), "/")
	for i := range below {
		folder := filepath.Join(cpuHierarchy, filepath.Join(below[:i+1]...))
		err := cmp.Or(
			os.WriteFile(filepath.Join(folder, "cpu.rt_period_us"), []byte(period), 0o600),
			os.WriteFile(filepath.Join(folder, "cpu.rt_runtime_us"), []byte(share), 0o600),
		)
		if err != nil {
			return fmt.Errorf("share of the real-time class: %w", err)
		}
	}
	return nil
}

// inRealtime checks that all threads of a process are in the real-time class.
func inRealtime(pid int) error {
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return fmt.Errorf("threads of process %d: %w", pid, err)
	}
	for _, entry := range threads {
		thread, err := strconv.Atoi(entry.Name())
		if err != nil {
			return fmt.Errorf("threads of process %d: %w", pid, err)
		}
		has, err := unix.SchedGetAttr(thread, 0)
		if err != nil {
			return fmt.Errorf("thread %d: %w", thread, err)
		}
		if has.Policy != unix.SCHED_RR {
			return fmt.Errorf("a thread of process %d has the policy %d, want SCHED_RR", pid, has.Policy)
		}
	}
	return nil
}
