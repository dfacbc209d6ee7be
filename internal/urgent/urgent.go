// Package urgent has a process run before others that want the processor, if the kernel allows it.
// It is for a process that needs little of the processor, but that soon.
package urgent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Class is how the kernel schedules a process.
type Class string

const (
	// Realtime is SCHED_RR at its lowest priority. A process that has it waits for none that has not,
	// whatever the weights of their control groups. It needs CAP_SYS_NICE.
	Realtime Class = "real-time"
	// Brief is the usual class with a short slice, from Linux 6.12 on: who asks for little at a time
	// gets it sooner. It needs no right.
	Brief Class = "short slice"
	// Usual is what every process has.
	Usual Class = "usual"
)

const (
	// lowest of the real-time priorities: 1 to 99.
	lowest = 1
	// slice is how long a thread of class Brief wants to run at a time, the shortest that there is.
	slice = 100 * time.Microsecond
	// lookEvery is how often the process looks at what it used. If that is more than mostShare of a
	// processor, what it does is no longer urgent, and it gives up the class.
	lookEvery = 5 * time.Second
	mostShare = 0.8
	// again is after how long a class that was refused or given up is asked for again.
	again = 9 * time.Second
	// longest is for how long a thread may run in real time without a pause before the kernel kills
	// the process: then it does not even look any more.
	longest = 3 * time.Second
)

// Keep asks for the best class that the kernel grants, for all threads of this process, and asks
// again for what was refused, until ctx ends. A process that uses much of the processor gives up
// the real-time class for a while, so it locks nobody out. Keep says in the log what it got, and
// when that changes.
func Keep(ctx context.Context, logger *slog.Logger) {
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	had, since := Class(""), time.Time{}
	say := func(got Class, reason error) {
		since = time.Now()
		if got != had {
			had = got
			logger.Info("how this process is scheduled", "class", got, "reason", reason)
		}
	}
	say(Ask())
	for before, used := time.Now(), processorTime(); ; before, used = time.Now(), processorTime() {
		select {
		case <-ctx.Done():
			return
		case <-look.C:
		}
		share := float64(processorTime()-used) / float64(time.Since(before))
		switch {
		case had == Realtime && share > mostShare:
			say(yield(), fmt.Errorf("it used %.0f%% of a processor", 100*share))
		case had != Realtime && time.Since(since) >= again:
			say(Ask())
		}
	}
}

// processorTime is what this process has used of the processors.
func processorTime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &t); err != nil {
		return 0
	}
	return time.Duration(t.Nano())
}

// Ask asks for the best class that the kernel grants, and returns why it did not grant a better
// one.
func Ask() (got Class, reason error) {
	bound := unix.Rlimit{Cur: uint64(longest.Microseconds()), Max: uint64(longest.Microseconds())}
	if err := unix.Prlimit(0, unix.RLIMIT_RTTIME, &bound, nil); err != nil {
		return yield(), fmt.Errorf("bound the real-time class: %w", err)
	}
	if err := setAll(unix.SchedAttr{Policy: unix.SCHED_RR, Priority: lowest}); err != nil {
		return yield(), fmt.Errorf("real-time class: %w", err)
	}
	return Realtime, nil
}

// yield leaves the real-time class.
func yield() Class {
	attr := unix.SchedAttr{Policy: unix.SCHED_NORMAL, Runtime: uint64(slice.Nanoseconds())}
	if _, err := set(os.Getpid(), attr); err != nil {
		return Usual
	}
	// Linux before 6.12 ignores the slice.
	if has, err := unix.SchedGetAttr(os.Getpid(), 0); err != nil || has.Runtime != attr.Runtime {
		attr.Runtime = 0
	}
	if setAll(attr) != nil || attr.Runtime == 0 {
		return Usual
	}
	return Brief
}

// setAll sets the class of all threads. A thread that is made has its maker's class, so that once a
// look at all threads finds nothing to do there is none that lacks it. (SCHED_FLAG_RESET_ON_FORK
// would take it from threads, too. There are no child processes.)
func setAll(attr unix.SchedAttr) error {
	for {
		threads, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return fmt.Errorf("list threads: %w", err)
		}
		changed := false
		for _, entry := range threads {
			thread, err := strconv.Atoi(entry.Name())
			if err != nil {
				return fmt.Errorf("list threads: %w", err)
			}
			did, err := set(thread, attr)
			if err != nil {
				return err
			}
			changed = changed || did
		}
		if !changed {
			return nil
		}
	}
}

// set sets the class of a thread, if it has another.
func set(thread int, attr unix.SchedAttr) (changed bool, err error) {
	has, err := unix.SchedGetAttr(thread, 0)
	if err == nil {
		if has.Policy == attr.Policy && has.Priority == attr.Priority &&
			(attr.Runtime == 0 || has.Runtime == attr.Runtime) {
			return false, nil
		}
		if nice, err := unix.Getpriority(unix.PRIO_PROCESS, thread); err == nil {
			attr.Nice = int32(20 - nice) // getpriority(2): the system call returns 1 to 40
		}
		err = unix.SchedSetAttr(thread, &attr, 0)
	}
	if errors.Is(err, unix.ESRCH) { // it has ended
		return false, nil
	}
	return true, err
}
