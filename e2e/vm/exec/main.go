// Command exec runs a static program as root on another kernel, in the working directory and with
// the environment of the caller, and passes its output and exit status on. It needs root and is
// made for
//
//	go test -tags vm -exec .cache/bin/vm-exec ./...
//
// `exec -fetch` downloads the kernels. Environment: BERTH_VM_KIND (uml, the default, or qemu, for
// nftables and two CPUs), BERTH_VM_TIMEOUT (a duration, 5m), BERTH_VM_MEMORY (512M, with QEMU 1G),
// BERTH_VM_LOG=1 (show the guest kernel's messages). The exit status is 125 when the guest ended
// without one.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-lb/berth/e2e/stock"
	"github.com/berth-lb/berth/e2e/vm"
)

const noStatus = 125

func main() {
	vm.Main() // does not return in the guest
	os.Exit(command())
}

func command() int {
	// The guest lives as long as the thread that started it.
	runtime.LockOSThread()
	ctx, stop := signal.NotifyContext(
		context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT, syscall.SIGHUP,
	)
	defer stop()
	status, err := run(untilParentEnds(ctx), os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "vm-exec:", err)
		return noStatus
	}
	return status
}

// untilParentEnds returns a context that ends with the process that started this one, which may be
// killed at any time, so that no guest is left behind. The goroutine lasts as long as this process.
func untilParentEnds(ctx context.Context) context.Context {
	parent, err := unix.PidfdOpen(os.Getppid(), 0)
	if err != nil {
		return ctx // it is outside of this process namespace
	}
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		cause := errors.New("the process that started vm-exec ended")
		cancel(errors.Join(cause, awaitEnd(parent, -1)))
	}()
	return ctx
}

// awaitEnd waits for a process, given by its pidfd, to end; a negative number of milliseconds is
// for ever.
func awaitEnd(process, milliseconds int) error {
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(process), Events: unix.POLLIN}}, milliseconds)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err == nil && n == 0:
			return fmt.Errorf("the process runs on after %d ms", milliseconds)
		}
		return err
	}
}

func run(ctx context.Context, args []string) (int, error) {
	work, err := stock.Find()
	if err != nil {
		return 0, err
	}
	if len(args) == 0 {
		return 0, errors.New("usage: exec PROGRAM ARG... | exec -fetch")
	}
	if args[0] == "-fetch" {
		return 0, fetch(ctx, work)
	}
	kind, err := vm.ParseKind(os.Getenv("BERTH_VM_KIND"))
	if err != nil {
		return 0, fmt.Errorf("read BERTH_VM_KIND: %w", err)
	}
	kernel, err := vm.Find(work, kind)
	if err != nil {
		return 0, err
	}
	if !work.Fetched() {
		return 0, fmt.Errorf("the guest's programs are not in %s: run `make fetch`", work.Packages())
	}
	guest, err := newGuest(kernel, work.Packages(), args)
	if err != nil {
		return 0, err
	}
	timeout := 5 * time.Minute
	if s := os.Getenv("BERTH_VM_TIMEOUT"); s != "" {
		if timeout, err = time.ParseDuration(s); err != nil {
			return 0, fmt.Errorf("read BERTH_VM_TIMEOUT: %w", err)
		}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("no end after BERTH_VM_TIMEOUT (%s)", timeout))
	defer cancel()
	return guest.Run(ctx)
}

func fetch(ctx context.Context, work stock.Folder) error {
	for _, kind := range vm.Kinds() {
		if err := vm.Fetch(ctx, work, kind, os.Stdout); err != nil {
			return err
		}
	}
	return nil
}

func newGuest(kernel vm.Kernel, packages string, args []string) (vm.Guest, error) {
	self, err := os.Executable()
	if err != nil {
		return vm.Guest{}, err
	}
	program, err := filepath.Abs(args[0])
	if err != nil {
		return vm.Guest{}, err
	}
	dir, err := os.Getwd()
	if err != nil {
		return vm.Guest{}, err
	}
	return vm.Guest{
		Kernel:    kernel,
		Init:      self,
		Program:   program,
		Args:      args[1:],
		Env:       os.Environ(),
		Dir:       dir,
		Output:    os.Stdout,
		Packages:  packages,
		Memory:    os.Getenv("BERTH_VM_MEMORY"),
		KernelLog: os.Getenv("BERTH_VM_LOG") != "",
	}, nil
}
