package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/berth-lb/berth/e2e/stock"
)

// kernelPackage is Debian's, tried with Debian 12. Ubuntu is expected to have it in its component
// universe; that was not tried.
const kernelPackage = "user-mode-linux"

// Kernel is an unpacked user-mode-linux: its executable and the folder of its modules' releases.
type Kernel struct{ Image, Modules string }

// FindKernel returns the kernel that [FetchKernel] left in the work folder.
func FindKernel(work stock.Folder) (Kernel, error) {
	root := kernelFolder(work)
	k := Kernel{
		Image:   filepath.Join(root, "usr/bin/linux.uml"),
		Modules: filepath.Join(root, "usr/lib/uml/modules"),
	}
	for _, file := range []string{k.Image, k.Modules} {
		if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
			return Kernel{}, fmt.Errorf("no guest kernel in %s: run `make fetch`", root)
		} else if err != nil {
			return Kernel{}, err
		}
	}
	return k, nil
}

func kernelFolder(work stock.Folder) string { return filepath.Join(work.Root, "pkg-uml") }

// FetchKernel downloads the distribution's package of user-mode-linux and unpacks it into the work
// folder; nothing is installed. What is there already is kept. It reports what it does to log.
func FetchKernel(ctx context.Context, work stock.Folder, log io.Writer) (Kernel, error) {
	if k, err := FindKernel(work); err == nil {
		return k, nil
	}
	root := kernelFolder(work)
	fmt.Fprintf(log, "fetching the package %s (40 MB) and unpacking it into %s\n", kernelPackage, root)
	// Made beside its place and renamed, so that an interrupted run leaves no half kernel.
	part := root + ".part"
	if err := errors.Join(os.RemoveAll(part), os.RemoveAll(root), os.MkdirAll(part, 0o755)); err != nil {
		return Kernel{}, fmt.Errorf("make room for the guest's kernel: %w", err)
	}
	deb, err := download(ctx, part)
	if err != nil {
		return Kernel{}, err
	}
	if err := output(exec.CommandContext(ctx, "dpkg-deb", "-x", deb, part)); err != nil {
		return Kernel{}, fmt.Errorf("unpack %s: %w", deb, err)
	}
	if err := errors.Join(os.Remove(deb), os.Rename(part, root)); err != nil {
		return Kernel{}, fmt.Errorf("put the guest's kernel in its place: %w", err)
	}
	return FindKernel(work)
}

// download gets the package file, refreshing the package lists once when they are missing or too old.
func download(ctx context.Context, dir string) (string, error) {
	get := func() error {
		cmd := exec.CommandContext(ctx, "apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", kernelPackage)
		cmd.Dir = dir
		return output(cmd)
	}
	if get() != nil {
		if err := output(exec.CommandContext(ctx, "apt-get", "-qq", "update")); err != nil {
			return "", fmt.Errorf("refresh the package lists: %w", err)
		}
		if err := get(); err != nil {
			return "", fmt.Errorf("download the package %s: %w", kernelPackage, err)
		}
	}
	found, err := filepath.Glob(filepath.Join(dir, kernelPackage+"_*.deb"))
	if err != nil || len(found) != 1 {
		return "", fmt.Errorf("download the package %s: apt-get left %q in %s", kernelPackage, found, dir)
	}
	return found[0], nil
}

// output runs cmd and puts what it said into the error.
func output(cmd *exec.Cmd) error {
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", filepath.Base(cmd.Path), err, strings.TrimSpace(string(out)))
	}
	return nil
}
