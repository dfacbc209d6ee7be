//go:build linux

package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// removeNamespaces removes the names of the lab's network namespaces with all mounts on them.
//
// There may be several mounts on one name: `ip netns add` bind-mounts the folder onto itself with
// everything in it, and no path leads to the mounts below any more. A name that is a mount point
// cannot be removed, except from a mount namespace in which it is not one: then the kernel drops
// its mounts everywhere (since Linux 3.18). So a thread enters such a namespace.
func (l *Lab) removeNamespaces() error {
	paths, err := filepath.Glob(l.netnsPath("*"))
	if err != nil {
		return fmt.Errorf("list network namespaces: %w", err)
	}
	if len(paths) == 0 {
		return nil
	}
	return onThread(func() error {
		if err := enterBare(netnsDir); err != nil {
			return fmt.Errorf("remove network namespaces: %w", err)
		}
		var failed error
		for _, path := range paths {
			if err := os.Remove("/" + filepath.Base(path)); err != nil && !errors.Is(err, os.ErrNotExist) {
				failed = errors.Join(failed, fmt.Errorf("remove network namespace %s: %w", path, err))
			}
		}
		return failed
	})
}

// enterBare moves the calling thread into a mount namespace whose root is a folder without anything
// that is mounted in it.
func enterBare(dir string) error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("new mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s: %w", dir, err)
	}
	if err := unix.Chdir(dir); err != nil {
		return fmt.Errorf("enter %s: %w", dir, err)
	}
	// The old root is stacked on the new one, and then unmounted (pivot_root(2), "pivot_root(\".\",
	// \".\")").
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("make %s the root: %w", dir, err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leave the machine's root: %w", err)
	}
	return nil
}
