package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/berth-lb/berth/e2e/stock"
)

// umlPackage is Debian's, tried with Debian 12. Ubuntu is expected to have it in its component
// universe; that was not tried.
const umlPackage = "user-mode-linux"

// UML is an unpacked user-mode-linux: its executable and the folder of its modules' releases. It
// boots in 2 s and has one CPU, IPVS, and of nftables only the family bridge.
type UML struct{ Image, Modules string }

func (k UML) String() string { return k.Image }

func (k UML) modules() string { return k.Modules }

func (k UML) environment() []string {
	if hasAMX() {
		return withoutAVX
	}
	return nil
}

// command is the kernel as a process of the host. Its parameters are those of the kernel document
// "User Mode Linux HOWTO"; what the kernel does not know it hands to PID 1 as environment.
func (k UML) command(ctx context.Context, g Guest, control string, _ []string) (*exec.Cmd, error) {
	args := []string{
		k.Image,
		"mem=" + g.memory("512M"), "umid=" + filepath.Base(control), "uml_dir=" + control,
		"root=hostfs", "rootfstype=hostfs", "rootflags=/", "ro",
		"quiet", "loglevel=" + g.loglevel(), "noreboot", "panic=1",
		"con=null", "con0=null,fd:1", "init=" + g.Init, controlVar + "=" + control, sharingVar + "=" + hostfs,
	}
	args = append(args, k.environment()...)
	environment := []string{"TMPDIR=/dev/shm", "HOME=/root"} // where the guest's memory is; any disk would be slow
	if hasAMX() {
		args = append([]string{g.Init}, args...)
		environment = append(environment, fxsaveVar+"=1")
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = environment
	cmd.Stdout, cmd.Stderr = g.Output, g.Output
	return cmd, nil
}

// findUML returns the kernel that fetchUML left in the work folder.
func findUML(work stock.Folder) (Kernel, error) {
	root := umlFolder(work)
	k := UML{
		Image:   filepath.Join(root, "usr/bin/linux.uml"),
		Modules: filepath.Join(root, "usr/lib/uml/modules"),
	}
	if err := present(k.Image, k.Modules); err != nil {
		return nil, err
	}
	return k, nil
}

func umlFolder(work stock.Folder) string { return filepath.Join(work.Root, "pkg-uml") }

// fetchUML downloads the distribution's package and unpacks it into the work folder.
func fetchUML(ctx context.Context, work stock.Folder, log io.Writer) error {
	root := umlFolder(work)
	fmt.Fprintf(log, "fetching the package %s (40 MB) and unpacking it into %s\n", umlPackage, root)
	return inPlace(root, func(part string) error {
		debs := filepath.Join(part, "debs")
		if _, err := stock.DownloadAlone(ctx, debs, log, umlPackage); err != nil {
			return err
		}
		if _, err := stock.Unpack(ctx, debs, part); err != nil {
			return err
		}
		return os.RemoveAll(debs)
	})
}

// inPlace has fill make a folder beside root and renames it, so that an interrupted run leaves no
// half kernel.
func inPlace(root string, fill func(part string) error) error {
	part := root + ".part"
	if err := errors.Join(os.RemoveAll(part), os.RemoveAll(root), os.MkdirAll(part, 0o755)); err != nil {
		return fmt.Errorf("make room for a guest's kernel: %w", err)
	}
	if err := fill(part); err != nil {
		return err
	}
	if err := os.Rename(part, root); err != nil {
		return fmt.Errorf("put a guest's kernel in its place: %w", err)
	}
	return nil
}
