package vm

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

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
