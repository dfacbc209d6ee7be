//go:build root

package main

import (
	"bytes"
	"errors"
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

func TestOutputIsPassedOnFromAnotherKernel(t *testing.T) {
	var host unix.Utsname
	if err := unix.Uname(&host); err != nil {
		t.Fatal(err)
	}
	out, status := vmExec(t, nil, "/bin/sh", "-c", `uname -r; echo "$GREETING from $PWD" >&2`)
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

func TestExitStatusIsPassedOn(t *testing.T) {
	for script, want := range map[string]int{
		"exit 0":        0,
		"exit 3":        3,
		"kill -KILL $$": 128 + int(syscall.SIGKILL),
	} {
		if out, status := vmExec(t, nil, "/bin/sh", "-c", script); status != want {
			t.Errorf("%s: exit status %d, want %d; output %q", script, status, want, out)
		}
	}
}

func TestTheHostsFilesAreSafe(t *testing.T) {
	file := filepath.Join(t.TempDir(), "precious")
	out, status := vmExec(t, nil, "/bin/sh", "-c", `echo gone >"$1"`, "sh", file)
	if status == 0 || !strings.Contains(out, "Read-only file system") {
		t.Errorf("writing %s: exit status %d, output %q", file, status, out)
	}
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the host sees the file: %v", err)
	}
}

func TestAGuestThatDoesNotEndIsKilled(t *testing.T) {
	out, status := vmExec(t, []string{"BERTH_VM_TIMEOUT=3s"}, "/bin/sleep", "1000")
	if status != noStatus || !strings.Contains(out, "BERTH_VM_TIMEOUT (3s)") {
		t.Errorf("exit status %d, want %d; output %q", status, noStatus, out)
	}
}

func TestAProgramThatDoesNotExistHasNoStatus(t *testing.T) {
	out, status := vmExec(t, nil, "/berth/no/such/program")
	if status != noStatus || !strings.Contains(out, "start /berth/no/such/program") {
		t.Errorf("exit status %d, want %d; output %q", status, noStatus, out)
	}
}

// vmExec runs the command in a process of its own and checks that it leaves neither a control folder
// nor a process of the guest.
func vmExec(t *testing.T, env []string, args ...string) (string, int) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	tmp := t.TempDir()
	var out bytes.Buffer
	cmd := exec.Command(self, args...)
	cmd.Env = append(os.Environ(), asCommand+"=1", "GREETING=hello", "TMPDIR="+tmp)
	cmd.Env = append(cmd.Env, env...)
	cmd.Stdout, cmd.Stderr = &out, &out
	err = cmd.Run()
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
