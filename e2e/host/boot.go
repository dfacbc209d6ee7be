//go:build linux

package host

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// Boot turns the calling process into PID 1 of a host: it must be the first process of new PID,
// mount, UTS and IPC namespaces and must have been started in the host's network namespace. On
// success it does not return: the process executes argv inside the assembled root.
func Boot(spec Spec, argv []string) error {
	if os.Getpid() != 1 {
		return fmt.Errorf("boot host %s: not the first process of a PID namespace", spec.Name)
	}
	// The cgroup namespace belongs to the thread until exec makes it the process's.
	runtime.LockOSThread()
	if err := joinCgroups(spec.Cgroups); err != nil {
		return fmt.Errorf("boot host %s: %w", spec.Name, err)
	}
	if err := enterRoot(spec); err != nil {
		return fmt.Errorf("boot host %s: %w", spec.Name, err)
	}
	if err := unix.Sethostname([]byte(spec.Name)); err != nil {
		return fmt.Errorf("boot host %s: set its name: %w", spec.Name, err)
	}
	env := []string{"PATH=" + Path, "HOME=/root", "LANG=C.UTF-8"}
	if err := unix.Exec(argv[0], argv, env); err != nil {
		return fmt.Errorf("boot host %s: execute %s: %w", spec.Name, argv[0], err)
	}
	return nil
}

// Path is the PATH of everything in a host.
const Path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// enterRoot assembles the root of the host and makes it the process's own.
func enterRoot(spec Spec) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	root, err := layRoot(spec.Scratch, spec.Usr)
	if err != nil {
		return err
	}
	if err := mountCgroups(root, spec.Cgroups); err != nil {
		return err
	}
	for _, b := range spec.Binds {
		if err := bind(b.From, filepath.Join(root, b.To)); err != nil {
			return err
		}
	}
	if err := fill(root, spec); err != nil {
		return err
	}
	if err := pivot(root); err != nil {
		return err
	}
	if err := showSysctls(spec.Sysctls); err != nil {
		return err
	}
	// The kubelet's volume mounts must propagate to the containers.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("share mounts: %w", err)
	}
	return nil
}

type mount struct {
	source, at, kind, options string
	flags                     uintptr
}

// layRoot mounts an overlay of the machine's root on scratch, with the packages over its /usr and
// with proc, sys, dev and run of its own.
func layRoot(scratch, usr string) (string, error) {
	if err := unix.Mount("berth", scratch, "tmpfs", 0, "mode=755"); err != nil {
		return "", fmt.Errorf("mount tmpfs on %s: %w", scratch, err)
	}
	root := filepath.Join(scratch, "root")
	upper, work := filepath.Join(scratch, "upper"), filepath.Join(scratch, "work")
	for _, dir := range []string{root, upper, work} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return "", fmt.Errorf("assemble root: %w", err)
		}
	}
	mounts := []mount{
		{"berth", root, "overlay", "lowerdir=/,upperdir=" + upper + ",workdir=" + work, 0},
		{"proc", "proc", "proc", "", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
		{"sysfs", "sys", "sysfs", "", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
		{"/dev", "dev", "", "", unix.MS_BIND | unix.MS_REC},
		{"berth", "run", "tmpfs", "mode=755", unix.MS_NOSUID | unix.MS_NODEV},
	}
	if _, err := os.Stat("/sys/fs/bpf"); err == nil { // the kernel has BPF
		mounts = append(mounts, mount{
			"bpf", "sys/fs/bpf", "bpf", "mode=700", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC,
		})
	}
	if usr != "" {
		// The packages lie below the machine's root, and overlayfs refuses layers that contain each
		// other: so /usr, not /, gets them.
		mounts = append(mounts, mount{"berth", "usr", "overlay", "lowerdir=" + usr + ":/usr", unix.MS_RDONLY})
	}
	for _, m := range mounts {
		at := m.at
		if !filepath.IsAbs(at) {
			at = filepath.Join(root, at)
		}
		if err := unix.Mount(m.source, at, m.kind, m.flags, m.options); err != nil {
			return "", fmt.Errorf("mount %s on %s (%s): %w", m.source, at, m.options, err)
		}
	}
	return root, nil
}

func bind(from, to string) error {
	if err := os.MkdirAll(to, 0o755); err != nil {
		return fmt.Errorf("bind %s: %w", from, err)
	}
	if err := unix.Mount(from, to, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s on %s: %w", from, to, err)
	}
	return nil
}

// fill creates the directories and files of the spec below root.
func fill(root string, spec Spec) error {
	dirs := append([]Dir{{Path: "/run/netns"}, {Path: "/run/lock"}}, spec.Dirs...)
	for _, d := range dirs {
		at := filepath.Join(root, d.Path)
		if err := os.MkdirAll(at, 0o755); err != nil {
			return fmt.Errorf("create directory: %w", err)
		}
		if err := os.Chown(at, d.UID, d.GID); err != nil {
			return fmt.Errorf("create directory: %w", err)
		}
	}
	for _, f := range spec.Files {
		if err := writeFile(filepath.Join(root, f.Path), f); err != nil {
			return fmt.Errorf("write %s: %w", f.Path, err)
		}
	}
	return nil
}

func writeFile(at string, f File) error {
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		return err
	}
	text := []byte(f.Text)
	if f.Append {
		old, err := os.ReadFile(at)
		if err != nil && !os.IsNotExist(err) {
			return err
		}
		text = append(old, text...)
	}
	// A symbolic link (resolv.conf is one on many machines) leads out of root.
	if err := os.Remove(at); err != nil && !os.IsNotExist(err) {
		return err
	}
	if err := os.WriteFile(at, text, f.Mode); err != nil {
		return err
	}
	return os.Chown(at, f.UID, f.GID)
}

// pivot makes root the root, and drops the old one with all its mounts.
func pivot(root string) error {
	old := filepath.Join(root, "old")
	if err := os.MkdirAll(old, 0o755); err != nil {
		return fmt.Errorf("enter root: %w", err)
	}
	if err := unix.PivotRoot(root, old); err != nil {
		return fmt.Errorf("enter root %s: %w", root, err)
	}
	if err := os.Chdir("/"); err != nil {
		return fmt.Errorf("enter root: %w", err)
	}
	if err := unix.Unmount("/old", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leave the machine's root: %w", err)
	}
	return os.Remove("/old")
}

// showSysctls covers files below /proc/sys with files of the wanted content.
func showSysctls(values map[string]string) error {
	for name, value := range values {
		at := filepath.Join("/proc/sys", name)
		if _, err := os.Stat(at); os.IsNotExist(err) {
			continue // of a feature this kernel lacks
		}
		fake := filepath.Join("/run/berth-sysctl", name)
		if err := writeFile(fake, File{Text: value + "\n", Mode: 0o644}); err != nil {
			return fmt.Errorf("show sysctl %s: %w", name, err)
		}
		if err := unix.Mount(fake, at, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("show sysctl %s: %w", name, err)
		}
	}
	return nil
}
