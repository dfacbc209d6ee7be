//go:build root

package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-lb/berth/e2e/vm"
)

const asCommand = "BERTH_TEST_AS_VM_EXEC"

// TestMain lets the test's own executable be the command and the guest's PID 1.
func TestMain(m *testing.M) {
	vm.Main()
	if os.Getenv(asCommand) != "" {
		main()
	}
	os.Exit(m.Run())
}

func TestAGuestOfEachKind(t *testing.T) {
	for _, kind := range vm.Kinds() {
		for name, test := range map[string]func(*testing.T, guest){
			"passes output on from another kernel":      outputIsPassedOn,
			"passes the exit status on":                 exitStatusIsPassedOn,
			"does not change the host's files":          hostFilesAreSafe,
			"is killed when it does not end":            endlessGuestIsKilled,
			"ends when vm-exec is killed":               guestEndsWithoutVMExec,
			"ends when the caller of vm-exec is killed": guestEndsWithoutCaller,
			"has no status without a program":           missingProgramHasNoStatus,
		} {
			t.Run(string(kind)+" "+name, func(t *testing.T) {
				t.Parallel()
				test(t, guest{"BERTH_VM_KIND=" + string(kind)})
			})
		}
	}
}

// guest is the environment of the command.
type guest []string

func outputIsPassedOn(t *testing.T, g guest) {
	var host unix.Utsname
	if err := unix.Uname(&host); err != nil {
		t.Fatal(err)
	}
	out, status := g.exec(t, "/bin/sh", "-c", `uname -r; echo "$GREETING from $PWD" >&2`)
	if status != 0 {
		t.Fatalf("exit status %d, output %q", status, out)
	}
	lines := strings.Split(out, "\n")
	if len(lines) != 3 || lines[2] != "" {
		t.Fatalf("output %q, want two lines", out)
	}
	if release := unix.ByteSliceToString(host.Release[:]); lines[0] == "" || lines[0] == release {
		t.Errorf("the guest's kernel is %q, the host's %q", lines[0], release)
	}
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	if want := "hello from " + dir; lines[1] != want {
		t.Errorf("second line %q, want %q", lines[1], want)
	}
}

func exitStatusIsPassedOn(t *testing.T, g guest) {
	for script, want := range map[string]int{
		"exit 3":        3,
		"kill -KILL $$": 128 + int(syscall.SIGKILL),
	} {
		if out, status := g.exec(t, "/bin/sh", "-c", script); status != want {
			t.Errorf("%s: exit status %d, want %d; output %q", script, status, want, out)
		}
	}
}

func hostFilesAreSafe(t *testing.T, g guest) {
	file := filepath.Join(t.TempDir(), "precious")
	out, status := g.exec(t, "/bin/sh", "-c", `echo gone >"$1"`, "sh", file)
	if status == 0 || !strings.Contains(out, "Read-only file system") {
		t.Errorf("writing %s: exit status %d, output %q", file, status, out)
	}
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the host sees the file: %v", err)
	}
}

func endlessGuestIsKilled(t *testing.T, g guest) {
	out, status := append(g, "BERTH_VM_TIMEOUT=3s").exec(t, "/bin/sleep", "1000")
	if status != noStatus || !strings.Contains(out, "BERTH_VM_TIMEOUT (3s)") {
		t.Errorf("exit status %d, want %d; output %q", status, noStatus, out)
	}
}

// guestEndsWithoutVMExec kills the command without a warning.
func guestEndsWithoutVMExec(t *testing.T, g guest) {
	cmd := g.command(t, t.TempDir(), "/bin/sh", "-c", "echo up; exec sleep 1000")
	startGuest(t, cmd)
	endsWith(t, cmd, onlyChild(t, cmd.Process.Pid))
}

// guestEndsWithoutCaller kills the command's parent, as `go test` may be.
func guestEndsWithoutCaller(t *testing.T, g guest) {
	cmd := g.command(t, t.TempDir(), "/bin/sh", "-c", "echo up; exec sleep 1000")
	cmd.Args = append([]string{"sh", "-c", `"$0" "$@"; exit $?`}, cmd.Args...)
	cmd.Path = "/bin/sh"
	startGuest(t, cmd)
	vmExec := onlyChild(t, cmd.Process.Pid)
	endsWith(t, cmd, vmExec, onlyChild(t, vmExec))
}

// startGuest waits for the program in the guest, which says that it is up.
func startGuest(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "up\n" {
		t.Fatalf("first line %q, %v", line, err)
	}
}

// endsWith kills cmd and checks that the processes end too.
func endsWith(t *testing.T, cmd *exec.Cmd, processes ...int) {
	t.Helper()
	var running []int
	for _, pid := range processes {
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			t.Fatalf("watch the process %d: %v", pid, err)
		}
		defer unix.Close(fd)
		running = append(running, fd)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for i, pid := range processes {
		if err := awaitEnd(running[i], 10_000); err != nil {
			t.Errorf("process %d of %v: %v", pid, processes, err)
		}
	}
	if err := cmd.Wait(); cmd.ProcessState == nil {
		t.Fatal(err)
	}
}

// onlyChild finds the one child of a process.
func onlyChild(t *testing.T, parent int) int {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	var children []int
	for _, file := range stats {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it has just ended
		}
		var pid, ppid int
		var state string
		end := bytes.LastIndexByte(text, ')') // of the name, which may hold anything
		if _, err := fmt.Sscan(string(text[end+1:]), &state, &ppid); err != nil || ppid != parent {
			continue
		}
		if _, err := fmt.Sscan(string(text), &pid); err != nil {
			t.Fatal(err)
		}
		children = append(children, pid)
	}
	if len(children) != 1 {
		t.Fatalf("children of %d: %v, want one", parent, children)
	}
	return children[0]
}

func missingProgramHasNoStatus(t *testing.T, g guest) {
	out, status := g.exec(t, "/berth/no/such/program")
	if status != noStatus || !strings.Contains(out, "start /berth/no/such/program") {
		t.Errorf("exit status %d, want %d; output %q", status, noStatus, out)
	}
}

func TestAnUnknownKindIsRefused(t *testing.T) {
	out, status := guest{"BERTH_VM_KIND=kvm"}.exec(t, "/bin/true")
	if status != noStatus || !strings.Contains(out, `BERTH_VM_KIND: there is no kind of guest "kvm": use "uml" or "qemu"`) {
		t.Errorf("exit status %d, want %d; output %q", status, noStatus, out)
	}
}

// exec runs the command in a process of its own and checks that it leaves neither a control folder
// nor a process of the guest.
func (g guest) exec(t *testing.T, args ...string) (string, int) {
	t.Helper()
	tmp := t.TempDir()
	var out bytes.Buffer
	cmd := g.command(t, tmp, args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	left, err := filepath.Glob(filepath.Join(tmp, "*"))
	if err != nil || len(left) != 0 {
		t.Errorf("left in the temporary folder: %q, %v", left, err)
	}
	return out.String(), cmd.ProcessState.ExitCode()
}

func (g guest) command(t *testing.T, tmp string, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, args...)
	cmd.Env = append(os.Environ(), asCommand+"=1", "GREETING=hello", "TMPDIR="+tmp)
	cmd.Env = append(cmd.Env, g...)
	return cmd
}
