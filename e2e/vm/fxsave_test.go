package vm

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The program that becomes the kernel runs with one more filter than the process before it.
func TestTheFilterIsInstalled(t *testing.T) {
	filters := func(status string) (count int) {
		for line := range strings.Lines(status) {
			_, _ = fmt.Sscanf(line, "Seccomp_filters: %d", &count)
		}
		return count
	}
	if os.Getenv(fxsaveVar) != "" { // the process before it, started below
		t.Fatal(becomeKernel([]string{"/bin/cat", "/proc/self/status"}))
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestTheFilterIsInstalled$")
	cmd.Env = append(os.Environ(), fxsaveVar+"=1")
	out, err := cmd.Output()
	if err != nil || filters(string(out)) != filters(string(status))+1 {
		t.Errorf("%v; it has %d filters, and %d before:\n%s", err, filters(string(out)), filters(string(status)), out)
	}
}

// The launcher executes a program with its own arguments, and an environment that is given.
func TestLauncher(t *testing.T) {
	program := filepath.Join(t.TempDir(), "launcher")
	shell, err := exec.LookPath("sh")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(program, launcher(shell, []string{"A=1", "B=two words"}), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program, "-c", `echo "$A $B $HOME $1"`, "sh", "last")
	cmd.Env = []string{"HOME=/nowhere"}
	if out, err := cmd.CombinedOutput(); err != nil || string(out) != "1 two words  last\n" {
		t.Errorf("it says %q, %v", out, err)
	}
}
