package vm

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"

	"github.com/berth-lb/berth/e2e/stock"
)

// Debian's packages, tried with Debian 12; Ubuntu's kernels have other names. The smaller kernel
// for clouds lacks 9p.
const (
	qemuPackage   = "qemu-system-x86"
	kernelPackage = "linux-image-amd64" // it names the current kernel's package as its dependency
)

// kept are the files of the packages that a guest needs, as patterns of package path; a folder
// stands for all that is in it. The rest, nine tenths, is drivers and firmware of other machines.
func kept() []string {
	const kernel, lib = "usr/lib/modules/*/kernel", "usr/lib/*-linux-gnu"
	return []string{
		"usr/bin/qemu-system-x86_64", "usr/bin/kmod", lib + "/*.so*", lib + "/qemu/accel-tcg-x86_64.so",
		"usr/share/seabios/bios-256k.bin", "usr/share/qemu/linuxboot_dma.bin", "usr/share/qemu/kvmvapic.bin",
		"boot/vmlinuz-*", "usr/lib/modules/*/modules.*",
		kernel + "/net", kernel + "/crypto", kernel + "/lib", kernel + "/arch",
		kernel + "/drivers/virtio", kernel + "/drivers/net/*.ko*", kernel + "/drivers/net/vxlan",
		kernel + "/drivers/net/bonding",
		kernel + "/fs/9p", kernel + "/fs/netfs", kernel + "/fs/fscache", kernel + "/fs/overlayfs",
	}
}

func qemuStamp() string {
	return strings.Join(append([]string{qemuPackage, kernelPackage}, kept()...), "\n") + "\n"
}

// fetchQEMU downloads QEMU, with the libraries that the host lacks, and a kernel, and unpacks what
// a guest needs of them into the work folder.
func fetchQEMU(ctx context.Context, work stock.Folder, log io.Writer) error {
	root := qemuFolder(work)
	fmt.Fprintf(log, "fetching the packages %s and %s (84 MB) and unpacking them into %s\n", qemuPackage, kernelPackage, root)
	return inPlace(root, func(part string) error {
		debs := filepath.Join(part, "debs")
		// These for their own sake, so even if they are installed; then the libraries that they lack
		// here.
		for _, name := range []string{qemuPackage, "qemu-system-common", "qemu-system-data", "seabios", "kmod"} {
			if _, err := stock.DownloadAlone(ctx, debs, log, name); err != nil {
				return err
			}
		}
		if err := stock.Download(ctx, debs, log, qemuPackage, "kmod"); err != nil {
			return err
		}
		if err := downloadKernel(ctx, debs, log); err != nil {
			return err
		}
		if _, err := stock.Unpack(ctx, debs, part); err != nil {
			return err
		}
		if err := prune(part, kept()); err != nil {
			return fmt.Errorf("remove what no guest needs: %w", err)
		}
		if err := indexModules(ctx, part); err != nil {
			return fmt.Errorf("index the kernel's modules: %w", err)
		}
		return os.WriteFile(filepath.Join(part, "fetched"), []byte(qemuStamp()), 0o644)
	})
}

func downloadKernel(ctx context.Context, dir string, log io.Writer) error {
	current, err := stock.DownloadAlone(ctx, dir, log, kernelPackage)
	if err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, "dpkg-deb", "--field", current, "Depends").Output()
	if err != nil {
		return fmt.Errorf("read what %s depends on: %w", current, err)
	}
	name, err := imagePackage(string(out))
	if err != nil {
		return fmt.Errorf("%s: %w", current, err)
	}
	_, err = stock.DownloadAlone(ctx, dir, log, name)
	return err
}

// imagePackage finds the kernel's package among the dependencies of the package that stands for it.
func imagePackage(depends string) (string, error) {
	for _, d := range strings.Split(depends, ",") {
		if name, _, _ := strings.Cut(strings.TrimSpace(d), " "); strings.HasPrefix(name, "linux-image-") {
			return name, nil
		}
	}
	return "", fmt.Errorf("no package linux-image-* among its dependencies %q", strings.TrimSpace(depends))
}

// prune removes from root all but the files that match one of the patterns, and the folders that do
// with all that is in them.
func prune(root string, patterns []string) error {
	return filepath.WalkDir(root, func(file string, entry fs.DirEntry, err error) error {
		if err != nil || file == root {
			return err
		}
		name, err := filepath.Rel(root, file)
		if err != nil {
			return err
		}
		switch match, leads := matchAny(patterns, name); {
		case entry.IsDir() && match:
			return fs.SkipDir
		case entry.IsDir() && !leads:
			if err := os.RemoveAll(file); err != nil {
				return err
			}
			return fs.SkipDir
		case entry.IsDir() || match:
			return nil
		}
		return os.Remove(file)
	})
}

// matchAny reports whether name matches one of the patterns, and whether something below it may.
func matchAny(patterns []string, name string) (match, leads bool) {
	depth := strings.Count(name, "/") + 1
	for _, p := range patterns {
		parts := strings.Split(p, "/")
		if len(parts) < depth {
			continue
		}
		if ok, err := path.Match(strings.Join(parts[:depth], "/"), name); err == nil && ok {
			match, leads = match || len(parts) == depth, leads || len(parts) > depth
		}
	}
	return match, leads
}

// indexModules has depmod write modules.dep and modules.alias, as the kernel's installation would.
func indexModules(ctx context.Context, root string) error {
	dirs, err := filepath.Glob(filepath.Join(root, "usr/lib/modules/*"))
	if err != nil || len(dirs) != 1 {
		return fmt.Errorf("the packages have modules for %d kernels, want one", len(dirs))
	}
	cmd := exec.CommandContext(ctx, filepath.Join(root, "usr/bin/kmod"))
	cmd.Args = []string{"depmod", "-b", filepath.Join(root, "usr"), filepath.Base(dirs[0])}
	cmd.Env = []string{"LD_LIBRARY_PATH=" + QEMU{Root: root}.libraries()}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("depmod: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}
