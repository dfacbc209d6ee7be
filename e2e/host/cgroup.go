//go:build linux

package host

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Cgroup is one mounted cgroup hierarchy and the directory in it that belongs to a host.
type Cgroup struct {
	// Mount is the mount point on the real machine, below /sys/fs/cgroup.
	Mount string
	// Options are the mount options that name a version 1 hierarchy, such as "cpu,cpuacct"; empty for
	// version 2.
	Options string
	// Dir is the directory of the host in the hierarchy.
	Dir string
}

const cgroupRoot = "/sys/fs/cgroup"

// Hierarchies lists the mounted cgroup hierarchies, with name as the host's directory in each.
func Hierarchies(name string) ([]Cgroup, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("list cgroup hierarchies: %w", err)
	}
	defer f.Close()
	var found []Cgroup
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if c, ok := parseCgroupMount(lines.Text()); ok {
			c.Dir = filepath.Join(c.Mount, name)
			found = append(found, c)
		}
	}
	return found, lines.Err()
}

// parseCgroupMount reads one line of mountinfo (proc_pid_mountinfo(5)).
func parseCgroupMount(line string) (Cgroup, bool) {
	before, after, ok := strings.Cut(line, " - ")
	left, right := strings.Fields(before), strings.Fields(after)
	if !ok || len(left) < 5 || len(right) < 3 {
		return Cgroup{}, false
	}
	mount := left[4]
	if mount != cgroupRoot && !strings.HasPrefix(mount, cgroupRoot+"/") {
		return Cgroup{}, false
	}
	switch right[0] {
	case "cgroup2":
		return Cgroup{Mount: mount}, true
	case "cgroup":
		return Cgroup{Mount: mount, Options: cgroupOptions(right[2])}, true
	default:
		return Cgroup{}, false
	}
}

// cgroupOptions returns the options of a super block that name the hierarchy.
func cgroupOptions(super string) string {
	var keep []string
	for o := range strings.SplitSeq(super, ",") {
		switch {
		case o == "rw" || o == "ro" || o == "xattr" || o == "clone_children" || strings.HasPrefix(o, "release_agent="):
		case strings.HasPrefix(o, "name="):
			keep = append(keep, "none", o)
		default:
			keep = append(keep, o)
		}
	}
	return strings.Join(keep, ",")
}

// Create makes the host's directory in the hierarchy.
func (c Cgroup) Create() error {
	if err := os.Mkdir(c.Dir, 0o755); err != nil && !os.IsExist(err) {
		return fmt.Errorf("create cgroup: %w", err)
	}
	if c.Options == "" {
		// A controller that a version 1 hierarchy holds, or that the kernel lacks, is refused here; the
		// kubelet names what it misses.
		enableControllers(c.Mount)
		return nil
	}
	if slices.Contains(strings.Split(c.Options, ","), "cpuset") {
		for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
			text, err := os.ReadFile(filepath.Join(c.Mount, name))
			if err != nil {
				return fmt.Errorf("create cgroup %s: %w", c.Dir, err)
			}
			if err := os.WriteFile(filepath.Join(c.Dir, name), text, 0o644); err != nil {
				return fmt.Errorf("create cgroup %s: %w", c.Dir, err)
			}
		}
		if err := os.WriteFile(filepath.Join(c.Dir, "cgroup.clone_children"), []byte("1"), 0o644); err != nil {
			return fmt.Errorf("create cgroup %s: %w", c.Dir, err)
		}
	}
	return nil
}

// Remove removes the host's directory with everything below it. No process may be left in it.
func (c Cgroup) Remove() error { return removeCgroup(c.Dir) }

func removeCgroup(dir string) error {
	entries, err := os.ReadDir(dir)
	if os.IsNotExist(err) {
		return nil
	} else if err != nil {
		return fmt.Errorf("remove cgroup: %w", err)
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeCgroup(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	if err := unix.Rmdir(dir); err != nil && err != unix.ENOENT {
		return fmt.Errorf("remove cgroup %s: %w", dir, err)
	}
	return nil
}

// enableControllers delegates each controller separately, so that one that cannot be delegated does
// not prevent the others.
func enableControllers(dir string) {
	for _, name := range []string{"cpu", "cpuset", "io", "memory", "pids", "hugetlb"} {
		_ = os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+name), 0o644)
	}
}

// joinCgroups moves the calling process into its directories and makes them the roots of a new
// cgroup namespace of the calling thread.
func joinCgroups(groups []Cgroup) error {
	if len(groups) == 0 {
		return nil
	}
	for _, c := range groups {
		if err := os.WriteFile(filepath.Join(c.Dir, "cgroup.procs"), []byte("0"), 0o644); err != nil {
			return fmt.Errorf("join cgroup %s: %w", c.Dir, err)
		}
	}
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("new cgroup namespace: %w", err)
	}
	return nil
}

// mountCgroups shows the host its own directories as the hierarchies' roots.
func mountCgroups(root string, groups []Cgroup) error {
	if len(groups) == 0 {
		return nil
	}
	top := filepath.Join(root, cgroupRoot)
	if len(groups) == 1 && groups[0].Mount == cgroupRoot {
		return mountCgroup2(top)
	}
	if err := unix.Mount("cgroup", top, "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("mount cgroups: %w", err)
	}
	for _, c := range groups {
		at := filepath.Join(root, c.Mount)
		if err := os.MkdirAll(at, 0o755); err != nil {
			return fmt.Errorf("mount cgroups: %w", err)
		}
		kind := "cgroup"
		if c.Options == "" {
			kind = "cgroup2"
		}
		if err := unix.Mount("cgroup", at, kind, 0, c.Options); err != nil {
			return fmt.Errorf("mount cgroup hierarchy %s: %w", c.Mount, err)
		}
	}
	return nil
}

// mountCgroup2 is for a machine with nothing but version 2. Processes may live in leaves only, so
// PID 1 and its daemons move to one.
//
// This is not tested: the machines used for development have version 1.
func mountCgroup2(top string) error {
	if err := unix.Mount("cgroup2", top, "cgroup2", 0, ""); err != nil {
		return fmt.Errorf("mount cgroup hierarchy: %w", err)
	}
	leaf := filepath.Join(top, "init")
	if err := os.Mkdir(leaf, 0o755); err != nil && !os.IsExist(err) {
		return fmt.Errorf("create cgroup: %w", err)
	}
	if err := os.WriteFile(filepath.Join(leaf, "cgroup.procs"), []byte("0"), 0o644); err != nil {
		return fmt.Errorf("join cgroup %s: %w", leaf, err)
	}
	enableControllers(top)
	return nil
}
