//go:build linux

package hollow

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// insideEnv tells the program that it is inside already.
const insideEnv = "BERTH_HOLLOW_INSIDE"

// Inside reports whether this process runs in namespaces of its own, as Run needs it.
func Inside() bool { return os.Getenv(insideEnv) != "" }

// Enter runs this program again, with the same arguments, in namespaces of its own for the network,
// mounts, processes and the host's name. Whatever it starts there ends with it.
func Enter(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, "/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), insideEnv+"=1")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS,
		Pdeathsig:  unix.SIGKILL,
	}
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("run in namespaces of its own: %w", err)
	}
	return nil
}

// settle makes the namespaces usable: /proc shows their processes, and names of network namespaces
// are nobody else's.
func settle(ctx context.Context) error {
	const quiet = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	err := errors.Join(
		unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
		unix.Mount("proc", "/proc", "proc", quiet, ""),
		unix.Mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, ""),
		os.MkdirAll("/run/netns", 0o755),
		unix.Sethostname([]byte("hollow")), // the API server writes it into a label
	)
	if err != nil {
		return fmt.Errorf("settle in namespaces: %w", err)
	}
	return ip(ctx, "",
		"link set lo up",
		"link add rack type bridge mcast_snooping 0", "link set rack up",
		"addr add "+serverAddress+"/16 dev rack", "addr add "+secondRouter+"/16 dev rack",
	)
}

// ip carries out lines of ip(8) in a network namespace; empty: this one.
func ip(ctx context.Context, space string, lines ...string) error {
	argv := within(space, "ip", "-batch", "-")
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("ip in %q: %w: %s", space, err, bytes.TrimSpace(out))
	}
	return nil
}

func within(space string, argv ...string) []string {
	if space == "" {
		return argv
	}
	return append([]string{"ip", "netns", "exec", space}, argv...)
}
