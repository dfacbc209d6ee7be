//go:build root

package lab

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-lb/berth/e2e/stock"
)

// stranger is a network namespace that is not the lab's.
const stranger = "stranger-labnetns"

// `ip netns add` changes the machine's mounts for good, so the cases run in a process whose mounts
// are its own.
func TestNamespacesGoAlsoAfterSomebodyElseMadeOne(t *testing.T) {
	if os.Getenv("BERTH_LAB_NETNS_TEST") == "" {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
		cmd.Env = append(os.Environ(), "BERTH_LAB_NETNS_TEST=1")
		cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
		if err := cmd.Run(); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Run("while the lab was up", func(t *testing.T) {
		l := networkOnly(t)
		addStranger(t)
		clearsAll(t, l)
	})
	t.Run("before the lab came up", func(t *testing.T) {
		addStranger(t)
		clearsAll(t, networkOnly(t))
	})
	t.Run("before the lab came up, on a machine that shares its mounts", func(t *testing.T) {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
			t.Fatal(err)
		}
		addStranger(t)
		clearsAll(t, networkOnly(t))
	})
}

// networkOnly makes a lab's folder and network, without hosts.
func networkOnly(t *testing.T) *Lab {
	t.Helper()
	folder, err := stock.Find()
	if err != nil {
		t.Fatal(err)
	}
	opts, err := Options{Name: "labnetns", Log: t.Output()}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	l := &Lab{opts: opts, folder: folder, plan: newPlan(opts)}
	t.Cleanup(func() {
		if err := l.Down(context.Background()); err != nil {
			t.Error(err)
		}
	})
	if err := l.claim(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := l.buildNetwork(t.Context()); err != nil {
		t.Fatal(err)
	}
	return l
}

func addStranger(t *testing.T) {
	t.Helper()
	ip(t, "netns", "add", stranger)
	t.Cleanup(func() { ip(t, "netns", "delete", stranger) })
}

func ip(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func clearsAll(t *testing.T, l *Lab) {
	t.Helper()
	if there, err := Clear(t.Context(), "labnetns"); err != nil || !there {
		t.Errorf("Clear = %t, %v", there, err)
	}
	if left := traces(t, l); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	// What could not be cleared away would keep every later lab from coming up.
	if err := l.claim(t.Context()); err != nil {
		t.Errorf("the next lab: %v", err)
	}
	if _, err := os.Stat(netnsDir + "/" + stranger); errors.Is(err, os.ErrNotExist) {
		t.Error("the namespace that is not the lab's is gone")
	}
}
