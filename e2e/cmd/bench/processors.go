//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/berth-lb/berth/e2e/lab"
)

// use is the processor time that the lab's processes have taken since a moment, by what they are
// called without their host: those of all nodes together.
type use struct {
	lab   *lab.Lab
	begun map[string]time.Duration
}

// Names of a use besides those of the lab's processes.
const (
	wholeMachine = "machine"
	ourselves    = "bench"
)

// beginUse begins to count.
func beginUse(ctx context.Context, l *lab.Lab) (use, error) {
	now, err := processorTimes(ctx, l)
	return use{l, now}, err
}

// since returns what was taken since, without what ended or took nothing.
func (u use) since(ctx context.Context) (map[string]time.Duration, error) {
	now, err := processorTimes(ctx, u.lab)
	if err != nil {
		return nil, err
	}
	for name := range now {
		now[name] -= u.begun[name]
	}
	maps.DeleteFunc(now, func(_ string, took time.Duration) bool { return took <= 0 })
	return now, nil
}

// reportEach reports what was taken since by everybody, for each of n.
func (u use) reportEach(ctx context.Context, r *report, name string, n int) error {
	took, err := u.since(ctx)
	for _, who := range slices.Sorted(maps.Keys(took)) {
		if each := took[who].Seconds() * 1000 / float64(n); each >= 0.05 {
			r.add(fmt.Sprintf("%s_cpu_%s", name, strings.ReplaceAll(who, "-", "_")), each, "ms_each")
		}
	}
	return err
}

// reportStore reports what the API server and etcd have taken since.
func (u use) reportStore(ctx context.Context, r *report, name string) error {
	took, err := u.since(ctx)
	for _, part := range []string{"kube-apiserver", "etcd"} {
		r.add(name+"_"+strings.ReplaceAll(part, "-", "_")+"_cpu", took[part].Seconds(), "s")
	}
	return err
}

// processorTimes returns what each kind of process has taken since it began, its children apart.
func processorTimes(ctx context.Context, l *lab.Lab) (map[string]time.Duration, error) {
	status, err := l.Status(ctx)
	if err != nil {
		return nil, err
	}
	sums := map[string]time.Duration{}
	for _, p := range status.Processes {
		if p.PID == 0 {
			continue
		}
		name, _, _ := strings.Cut(p.Name, "@")
		if err := addTimes(sums, p.PID, name); err != nil {
			return nil, err
		}
	}
	if err := addTimes(sums, os.Getpid(), ourselves); err != nil {
		return nil, err
	}
	sums[wholeMachine], err = machineTime()
	return sums, err
}

// addTimes adds what a process has taken, and under its own name each of its children.
func addTimes(sums map[string]time.Duration, pid int, name string) error {
	took, err := processorTime(pid)
	if errors.Is(err, os.ErrNotExist) {
		return nil // it has just ended
	} else if err != nil {
		return err
	}
	sums[name] += took
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", pid))
	if err != nil {
		return nil //nolint:nilerr // the same
	}
	for child := range strings.FieldsSeq(string(text)) {
		number, err := strconv.Atoi(child)
		if err != nil {
			return fmt.Errorf("children of process %d: %w", pid, err)
		}
		comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", number))
		if err != nil {
			continue
		}
		if err := addTimes(sums, number, name+"_"+strings.TrimSpace(string(comm))); err != nil {
			return err
		}
	}
	return nil
}

// processorTime reads utime and stime of proc_pid_stat(5).
func processorTime(pid int) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("processor time of a process: %w", err)
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0, fmt.Errorf("processor time of process %d: %q", pid, rest)
	}
	return ticks(fields[11:13])
}

// machineTime reads what all processors have not been idle for, from proc_stat(5).
func machineTime() (time.Duration, error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, fmt.Errorf("processor time of the machine: %w", err)
	}
	line, _, _ := strings.Cut(string(text), "\n")
	fields := strings.Fields(line) // cpu user nice system idle iowait irq softirq ...
	if len(fields) < 8 {
		return 0, fmt.Errorf("processor time of the machine: %q", line)
	}
	return ticks(append(slices.Clone(fields[1:4]), fields[6:8]...))
}

// ticks adds up numbers of hundredths of a second.
func ticks(fields []string) (time.Duration, error) {
	var sum int64
	for _, f := range fields {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("processor time: %w", err)
		}
		sum += n
	}
	return time.Duration(sum) * (time.Second / 100), nil
}
