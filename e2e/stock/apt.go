package stock

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
)

// Download fetches packages into dir with apt-get, with those of their dependencies that the
// machine lacks: an unpacked program finds the others on the machine. Nothing is installed.
func Download(ctx context.Context, dir string, log io.Writer, packages ...string) error {
	if err := os.MkdirAll(filepath.Join(dir, "partial"), 0o755); err != nil {
		return fmt.Errorf("download packages: %w", err)
	}
	return aptGet(ctx, dir, log, append([]string{
		"-y", "--no-install-recommends", "--download-only", "-o", "Dir::Cache::archives=" + dir, "install",
	}, packages...)...)
}

// DownloadAlone fetches one package into dir without any dependency, as for a kernel, whose
// dependencies would prepare a machine to boot it. It returns the package's file.
func DownloadAlone(ctx context.Context, dir string, log io.Writer, name string) (string, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("download packages: %w", err)
	}
	if err := aptGet(ctx, dir, log, "download", name); err != nil {
		return "", err
	}
	found, err := filepath.Glob(filepath.Join(dir, name+"_*.deb"))
	if err != nil || len(found) != 1 {
		return "", fmt.Errorf("download the package %s: apt-get left %q in %s", name, found, dir)
	}
	return found[0], nil
}

// aptGet runs apt-get in dir; when it fails, once more with fresh package lists.
func aptGet(ctx context.Context, dir string, log io.Writer, args ...string) error {
	args = append([]string{"-q", "-o", "APT::Sandbox::User=root"}, args...)
	if run(ctx, dir, "apt-get", args...) == nil {
		return nil
	}
	// The lists are missing or too old to be of use.
	fmt.Fprintln(log, "updating the package lists first")
	if err := run(ctx, dir, "apt-get", "-q", "update"); err != nil {
		return fmt.Errorf("update the package lists: %w", err)
	}
	if err := run(ctx, dir, "apt-get", args...); err != nil {
		return fmt.Errorf("download packages: %w", err)
	}
	return nil
}

// Unpack unpacks all package files of dir into root, laid out as on a system with merged /usr. It
// returns their number.
func Unpack(ctx context.Context, dir, root string) (int, error) {
	debs, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil {
		return 0, fmt.Errorf("unpack packages: %w", err)
	}
	if err := os.MkdirAll(filepath.Join(root, "usr"), 0o755); err != nil {
		return 0, fmt.Errorf("unpack packages: %w", err)
	}
	for _, deb := range debs {
		if err := run(ctx, dir, "dpkg-deb", "-x", deb, root); err != nil {
			return 0, fmt.Errorf("unpack %s: %w", filepath.Base(deb), err)
		}
	}
	if err := mergeUsr(root); err != nil {
		return 0, fmt.Errorf("unpack packages: %w", err)
	}
	return len(debs), nil
}

// mergeUsr moves what packages put into /bin, /sbin and /lib below /usr, where a system with merged
// /usr has it.
func mergeUsr(root string) error {
	for _, dir := range []string{"bin", "sbin", "lib", "lib64"} {
		if err := moveInto(filepath.Join(root, dir), filepath.Join(root, "usr", dir)); err != nil {
			return err
		}
	}
	return nil
}

// moveInto moves from to to, merging directories.
func moveInto(from, to string) error {
	entries, err := os.ReadDir(from)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	for _, e := range entries {
		source, target := filepath.Join(from, e.Name()), filepath.Join(to, e.Name())
		if e.IsDir() {
			err = moveInto(source, target)
		} else {
			err = os.Rename(source, target)
		}
		if err != nil {
			return err
		}
	}
	return os.Remove(from)
}

// run runs a program in dir and returns what it printed as the error when it fails.
func run(ctx context.Context, dir, program string, args ...string) error {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", program, err, bytes.TrimSpace(out))
	}
	return nil
}
