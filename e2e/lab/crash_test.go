//go:build root

package lab

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/berth-lb/berth/e2e/stock"
)

// Each case stops a `lab up` right after the step that its output names.
func TestAnInterruptedUpLeavesNothing(t *testing.T) {
	for name, c := range map[string]struct {
		after  string
		signal syscall.Signal
	}{
		"killed after the network was made": {"network", syscall.SIGKILL},
		"killed after the hosts booted":     {"hosts", syscall.SIGKILL},
		"killed while the nodes join":       {"control plane", syscall.SIGKILL},
		"interrupted from the keyboard":     {"hosts", syscall.SIGINT},
	} {
		t.Run(name, func(t *testing.T) {
			folder, err := stock.Find()
			if err != nil {
				t.Fatal(err)
			}
			l := &Lab{opts: Options{Name: "labcrash"}, folder: folder}
			t.Cleanup(func() {
				if err := l.Down(context.Background()); err != nil {
					t.Error(err)
				}
			})
			interruptUp(t, folder.Bin("lab"), c.after, c.signal)
			if c.signal == syscall.SIGKILL {
				if left := traces(t, l); len(left) == 0 {
					t.Error("the killed lab left no trace: it was not stopped half-way")
				}
				there, err := Clear(t.Context(), "labcrash")
				if err != nil || !there {
					t.Errorf("Clear = %t, %v", there, err)
				}
			}
			if left := traces(t, l); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
			if members, err := l.members(); err != nil || len(members) > 0 {
				t.Errorf("processes left behind: %v, %v", members, err)
			}
		})
	}
}

// interruptUp runs `lab up` until a line of its output holds the text, sends it the signal, and
// waits for its end.
func interruptUp(t *testing.T, program, text string, signal os.Signal) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, "up", "--name", "labcrash", "--nodes", "1", "--router", "none")
	cmd.Stderr = t.Output()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	sent := false
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if !sent && strings.Contains(lines.Text(), text) {
			if err := cmd.Process.Signal(signal); err != nil {
				t.Fatal(err)
			}
			sent = true
		}
	}
	if err := cmd.Wait(); err == nil {
		t.Error("the interrupted `lab up` succeeded")
	}
	if !sent {
		t.Fatalf("`lab up` never said %q", text)
	}
}
