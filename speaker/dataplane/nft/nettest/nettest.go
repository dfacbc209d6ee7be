//go:build root

// Package nettest runs tests in network namespaces of their own.
package nettest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// insideEnv marks the process that has namespaces of its own.
const insideEnv = "BERTH_NET_TEST_INSIDE"

// Main runs the tests in namespaces of their own: nothing of the machine's is touched, and
// everything they start ends with them.
func Main(m *testing.M) int {
	if os.Getenv(insideEnv) != "" {
		return m.Run()
	}
	runtime.LockOSThread() // Pdeathsig follows the thread
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), insideEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL,
	}
	prepare := "mount --make-rprivate / && mount -t proc proc /proc && ip link set lo up && " +
		"sysctl -qw net.ipv6.conf.default.accept_dad=0"
	cmd.Args = append([]string{"sh", "-c", prepare + ` && exec "$0" "$@"`, Executable()}, os.Args[1:]...)
	cmd.Path = "/bin/sh"
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit) && exit.ExitCode() > 0:
		return exit.ExitCode()
	}
	fmt.Fprintln(os.Stderr, "run tests in namespaces (needs root):", err)
	return 1
}

// Executable is the file of this test.
func Executable() string {
	path, err := os.Executable()
	if err != nil {
		return os.Args[0]
	}
	return path
}

// Shell runs a script, which must succeed, and returns what it wrote.
func Shell(t testing.TB, script string, args ...any) string {
	t.Helper()
	script = fmt.Sprintf(script, args...)
	out, err := exec.Command("bash", "-c", script).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", script, err, out)
	}
	return strings.TrimSpace(string(out))
}

// Namespace makes a network namespace that lasts as long as the test, and returns the command that
// enters it.
func Namespace(t testing.TB) (enter string) {
	t.Helper()
	p := exec.Command("sleep", "1000")
	p.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Process.Kill(); _ = p.Wait() })
	return fmt.Sprintf("nsenter --net=/proc/%d/ns/net", p.Process.Pid)
}

// PID names a namespace by a process in it, for ip link.
func PID(enter string) string {
	return strings.Split(strings.TrimPrefix(enter, "nsenter --net=/proc/"), "/")[0]
}

// Within does something in a namespace: sockets made there stay there.
func Within(t testing.TB, enter string, do func()) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and not unlocked: the thread ends with this
		done <- func() error {
			file, err := os.Open("/proc/" + PID(enter) + "/ns/net")
			if err != nil {
				return err
			}
			defer file.Close()
			if err := unix.Setns(int(file.Fd()), unix.CLONE_NEWNET); err != nil {
				return err
			}
			do()
			return nil
		}()
	}()
	if err := <-done; err != nil {
		t.Fatalf("enter a network namespace: %v", err)
	}
}

// AwaitIPv6 waits until this namespace can forward IPv6 by the interfaces. Until an interface has a
// link-local address, the kernel asks nobody there for a neighbor (ndisc_send_ns), and gives up
// after three seconds.
func AwaitIPv6(t *testing.T, interfaces ...string) {
	t.Helper()
	for _, name := range interfaces {
		Eventually(t, name+" has a link-local address", func() bool {
			return Shell(t, "ip -6 -o addr show dev %s scope link -tentative", name) != ""
		})
	}
}

// Eventually waits until ok.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(10 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("not in time: %s", what)
		}
	}
}
