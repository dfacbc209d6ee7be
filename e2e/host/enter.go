//go:build linux

package host

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// KillSignal makes Enter kill the program it runs.
const KillSignal = unix.SIGUSR2

// Enter runs argv in all namespaces of the host whose PID 1 is pid, with this process's standard
// streams, and returns its exit status (128 + n after signal n, as a shell has it). Termination
// signals are passed on, and KillSignal kills the program: SIGKILL would end only the calling
// process and leave the program behind.
//
// The calling process must do nothing else: its main thread changes namespaces.
func Enter(pid int, argv []string) (int, error) {
	runtime.LockOSThread()
	env := os.Environ()
	if err := join(pid); err != nil {
		return 1, fmt.Errorf("enter host: %w", err)
	}
	path, err := lookPath(argv[0])
	if err != nil && !strings.Contains(argv[0], "/") {
		return 127, err
	} else if err != nil {
		path = argv[0]
	}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT, KillSignal)
	cmd := exec.Cmd{
		Path: path, Args: argv, Env: append(env, "PATH="+Path),
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
	}
	if err := cmd.Start(); err != nil {
		return 126, fmt.Errorf("execute %s: %w", argv[0], err)
	}
	go func() {
		for s := range signals {
			if s == KillSignal {
				s = unix.SIGKILL
			}
			_ = cmd.Process.Signal(s) // it may have just ended
		}
	}()
	err = cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		status := exit.Sys().(syscall.WaitStatus)
		if status.Signaled() {
			return 128 + int(status.Signal()), nil
		}
		return status.ExitStatus(), nil
	}
	return 0, err
}

// join moves the calling thread into the namespaces of process pid.
func join(pid int) error {
	names := []string{"cgroup", "ipc", "uts", "net", "pid", "mnt"}
	files := make([]*os.File, 0, len(names))
	for _, name := range names {
		f, err := os.Open(fmt.Sprintf("/proc/%d/ns/%s", pid, name))
		if err != nil {
			return err
		}
		defer f.Close()
		files = append(files, f)
	}
	// A thread that shares its root and working directory with others may not change its mount
	// namespace.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return err
	}
	for i, f := range files {
		if err := unix.Setns(int(f.Fd()), 0); err != nil {
			return fmt.Errorf("%s namespace: %w", names[i], err)
		}
	}
	return os.Chdir("/")
}
