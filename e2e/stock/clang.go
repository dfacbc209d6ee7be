package stock

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
)

// Clang is a compiler for BPF, unpacked in the work folder.
type Clang struct{ root string }

// clangPackages are of one version, since another one makes another object of the same source.
// Debian 12 and Ubuntu 24.04 have it.
func clangPackages() []string {
	return []string{"clang-14", "libclang-cpp14", "libclang-common-14-dev", "llvm-14", "libllvm14"}
}

// FetchClang downloads the compiler, with those of its libraries that the machine lacks, and
// unpacks it into the work folder. Nothing is installed. A second call does nothing.
func (f Folder) FetchClang(ctx context.Context, log io.Writer) (Clang, error) {
	root := filepath.Join(f.Root, "pkg-clang")
	if _, err := os.Stat(root); errors.Is(err, os.ErrNotExist) {
		if err := f.fetchClang(ctx, log, root); err != nil {
			return Clang{}, err
		}
	} else if err != nil {
		return Clang{}, fmt.Errorf("find the compiler: %w", err)
	}
	return Clang{root}, nil
}

func (f Folder) fetchClang(ctx context.Context, log io.Writer, root string) error {
	if os.Getuid() != 0 {
		return errors.New("fetching packages needs root: run it with sudo")
	}
	debs, fresh := filepath.Join(f.Root, "debs-clang"), root+".new"
	if err := errors.Join(os.RemoveAll(debs), os.RemoveAll(fresh)); err != nil {
		return fmt.Errorf("fetch the compiler: %w", err)
	}
	fmt.Fprintln(log, "downloading clang (it is not installed)")
	// These for their own sake, so even if they are installed; then the libraries that they lack
	// here.
	for _, name := range clangPackages() {
		if _, err := DownloadAlone(ctx, debs, log, name); err != nil {
			return err
		}
	}
	if err := Download(ctx, debs, log, clangPackages()...); err != nil {
		return err
	}
	if _, err := Unpack(ctx, debs, fresh); err != nil {
		return err
	}
	if err := errors.Join(os.RemoveAll(debs), os.Rename(fresh, root)); err != nil {
		return fmt.Errorf("fetch the compiler: %w", err)
	}
	return nil
}

// Generate runs go generate on packages of the product, with the compiler.
func (c Clang) Generate(ctx context.Context, repository string, log io.Writer, packages ...string) error {
	libraries, err := filepath.Glob(filepath.Join(c.root, "usr/lib/*-linux-gnu"))
	if err != nil || len(libraries) != 1 {
		return fmt.Errorf(
			"the packages in %s have %d folders of libraries, want one: remove it and try again",
			c.root,
			len(libraries),
		)
	}
	bin := filepath.Join(c.root, "usr/lib/llvm-14/bin")
	cmd := exec.CommandContext(ctx, "go", append([]string{"generate"}, packages...)...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = repository, log, log
	cmd.Env = append(os.Environ(),
		"LD_LIBRARY_PATH="+libraries[0]+":"+filepath.Join(c.root, "usr/lib/llvm-14/lib"),
		"BPF2GO_CC="+filepath.Join(bin, "clang"), "BPF2GO_STRIP="+filepath.Join(bin, "llvm-strip"))
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("go generate: %w", err)
	}
	return nil
}
