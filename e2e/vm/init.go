package vm

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// controlMount is where the guest sees the control folder, whatever its name on the host.
const controlMount = "/run/control"

// Parameters on the kernel's command line, which the kernel hands to PID 1 as environment.
const (
	controlVar = "BERTH_VM"         // the control folder, as the guest asks the host for it
	sharingVar = "BERTH_VM_SHARING" // how the host's folders are mounted: hostfs or 9p
	initVar    = "BERTH_VM_INIT"    // in the first root only: PID 1 of the second
)

const (
	hostfs = "hostfs"
	ninep  = "9p"
)

// Main turns the process into the guest's PID 1, its modprobe or a kernel, when it was started as
// one of them, and does not return then. An executable that is given as [Guest.Init] calls it
// before anything else.
func Main() {
	switch {
	case os.Getenv(fxsaveVar) != "":
		fmt.Fprintln(os.Stderr, "vm:", becomeKernel(os.Args[1:]))
		os.Exit(1)
	case os.Getpid() == 1 && os.Getenv(initVar) != "":
		err := enterHostRoot(os.Getenv(initVar))
		fmt.Fprintln(os.Stderr, "vm guest: reach the host's file system:", err)
		os.Exit(1) // a kernel panic, which ends the guest
	case os.Getpid() == 1 && os.Getenv(controlVar) != "":
		initGuest(os.Getenv(controlVar))
	case filepath.Base(os.Args[0]) == "modprobe":
		if err := modprobe(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, "modprobe:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
}

// initGuest is PID 1: it sets the guest up, runs the task, reports its status and switches the
// guest off.
func initGuest(control string) {
	status, err := runTask(control)
	if err != nil {
		// There is no status file. The host's side reports that; these lines give the reason.
		fmt.Fprintln(os.Stderr, "vm guest:", err)
	} else if err := reportStatus(status); err != nil {
		fmt.Fprintln(os.Stderr, "vm guest:", err)
	}
	unix.Sync()
	// The kernel's last message is not part of the program's output. It does no harm if it cannot be
	// suppressed.
	_ = os.WriteFile("/proc/sys/kernel/printk", []byte("0"), 0o644)
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		fmt.Fprintln(os.Stderr, "vm guest: power off:", err)
	}
	os.Exit(1) // the end of PID 1 is a kernel panic, which ends the guest too
}

func runTask(control string) (int, error) {
	if err := plainConsole(); err != nil {
		return 0, fmt.Errorf("set the console: %w", err)
	}
	if err := mountAll(control); err != nil {
		return 0, err
	}
	task, err := readSpec()
	if err != nil {
		return 0, fmt.Errorf("read the task: %w", err)
	}
	for i, dir := range task.Write {
		source := dir
		if sharing() == ninep {
			source = writeTag(i)
		}
		if err := mountHost(source, dir, 0); err != nil {
			return 0, fmt.Errorf("mount %s writable: %w", dir, err)
		}
	}
	if err := installModprobe(); err != nil {
		return 0, fmt.Errorf("install modprobe: %w", err)
	}
	if err := layPackages(task.Packages); err != nil {
		return 0, fmt.Errorf("lay %s over /usr: %w", task.Packages, err)
	}
	if err := loopbackUp(); err != nil {
		return 0, fmt.Errorf("set lo up: %w", err)
	}
	return run(task)
}

// enterHostRoot leaves the initramfs for the host's file system and executes init there. It returns
// only with an error.
func enterHostRoot(init string) error {
	files, err := filepath.Glob("/" + loadFolder + "/*") // sorted, so in order
	if err != nil {
		return err
	}
	for _, file := range files {
		if err := insert(file); err != nil {
			return err
		}
	}
	if err := mountHost(rootTag, "/machine", unix.MS_RDONLY); err != nil {
		return fmt.Errorf("mount it: %w", err)
	}
	if err := unix.Mount("dev", "/machine/dev", "devtmpfs", 0, ""); err != nil {
		return fmt.Errorf("mount /dev: %w", err)
	}
	// An initramfs cannot be left by pivot_root(2), see there.
	if err := errors.Join(
		unix.Chdir("/machine"), unix.Mount(".", "/", "", unix.MS_MOVE, ""), unix.Chroot("."), unix.Chdir("/"),
	); err != nil {
		return fmt.Errorf("make it the root: %w", err)
	}
	if err := os.Unsetenv(initVar); err != nil {
		return err
	}
	return unix.Exec(init, []string{init}, os.Environ())
}

func sharing() string { return os.Getenv(sharingVar) }

// mountHost mounts a folder of the host, which hostfs knows by its path and 9p by its tag.
func mountHost(source, target string, flags uintptr) error {
	if sharing() == ninep {
		// Writes reach the host when the guest syncs, at its end. The guest need not see what the
		// host writes before that.
		return unix.Mount(source, target, ninep, flags, "trans=virtio,version=9p2000.L,msize=512000,cache=loose")
	}
	return unix.Mount("none", target, hostfs, flags, source)
}

// layPackages puts unpacked packages where they would be if they were installed.
func layPackages(root string) error {
	if root == "" {
		return nil
	}
	return unix.Mount("packages", "/usr", "overlay", unix.MS_RDONLY, "lowerdir="+filepath.Join(root, "usr")+":/usr")
}

// plainConsole stops the console from turning every newline into two characters.
func plainConsole() error {
	t, err := unix.IoctlGetTermios(1, unix.TCGETS)
	if err != nil {
		return err
	}
	t.Oflag &^= unix.OPOST
	return unix.IoctlSetTermios(1, unix.TCSETS, t)
}

func mountAll(control string) error {
	mounts := []struct{ source, target, fstype, data string }{
		{"proc", "/proc", "proc", ""},
		{"sysfs", "/sys", "sysfs", ""},
		{"run", "/run", "tmpfs", "mode=755"},
		{"devpts", "/dev/pts", "devpts", ""},
		{"shm", "/dev/shm", "tmpfs", ""},
		{"tmp", "/run/tmp", "tmpfs", ""},
	}
	for _, m := range mounts {
		// The targets are on the guest's own devtmpfs and tmpfs, or in the host's root already.
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
		if err := unix.Mount(m.source, m.target, m.fstype, 0, m.data); err != nil {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	for _, dir := range []string{"/run/netns", controlMount} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := mountHost(control, controlMount, 0); err != nil {
		return fmt.Errorf("mount the control folder: %w", err)
	}
	return nil
}

func readSpec() (spec, error) {
	var s spec
	b, err := os.ReadFile(filepath.Join(controlMount, specFile))
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal(b, &s)
}

func loopbackUp() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}

func run(task spec) (int, error) {
	cmd := exec.Command(task.Program, task.Args...)
	cmd.Dir = task.Dir
	cmd.Env = slices.Concat(task.Env, []string{
		"PATH=" + modprobeDir + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=/root", "TMPDIR=/run/tmp",
	})
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0, nil
	case !errors.As(err, &exit):
		return 0, fmt.Errorf("start %s: %w", task.Program, err)
	}
	if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return 128 + int(ws.Signal()), nil
	}
	return exit.ExitCode(), nil
}

func reportStatus(status int) error {
	return os.WriteFile(filepath.Join(controlMount, statusFile), []byte(strconv.Itoa(status)+"\n"), 0o600)
}
