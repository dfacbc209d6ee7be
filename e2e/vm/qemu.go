package vm

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/berth-lb/berth/e2e/stock"
)

// QEMU is an unpacked QEMU and an unpacked kernel of the distribution. The machine is emulated
// (TCG), because KVM is not available everywhere: it takes some seconds to boot and computes ten to
// twenty-five times slower than the host, but has two CPUs, IPVS, all of nftables, and runs the
// race detector.
type QEMU struct {
	Root    string // of the unpacked packages
	Image   string // vmlinuz
	Release string // of the kernel, as uname has it
}

func (k QEMU) String() string { return k.Image }

func (k QEMU) modules() string { return filepath.Join(k.Root, "usr/lib/modules") }

func (k QEMU) environment() []string { return nil }

func (k QEMU) emulator() string { return filepath.Join(k.Root, "usr/bin/qemu-system-x86_64") }

// libraries are those that the host lacks.
func (k QEMU) libraries() string { return filepath.Join(k.Root, "usr/lib/x86_64-linux-gnu") }

// firmware are the folders in which QEMU looks for its own.
func (k QEMU) firmware() []string {
	return []string{filepath.Join(k.Root, "usr/share/qemu"), filepath.Join(k.Root, "usr/share/seabios")}
}

// command is a machine without any device but a serial port, which is the guest's console, and the
// host's folders. It ends when the guest powers off, reboots or panics.
func (k QEMU) command(ctx context.Context, g Guest, control string, write []string) (*exec.Cmd, error) {
	initramfs := filepath.Join(control, "initramfs")
	if err := writeInitramfs(initramfs, g.Init, filepath.Join(k.modules(), k.Release)); err != nil {
		return nil, fmt.Errorf("write the initramfs: %w", err)
	}
	args := []string{
		"-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", g.memory("1G"),
		"-machine", "q35", "-nodefaults", "-no-user-config", "-no-reboot",
		"-display", "none", "-serial", "stdio",
		"-kernel", k.Image, "-initrd", initramfs,
		"-append", strings.Join([]string{
			"console=ttyS0", "quiet", "loglevel=" + g.loglevel(), "panic=-1", "mitigations=off",
			controlVar + "=" + controlTag, sharingVar + "=" + ninep, initVar + "=" + g.Init,
		}, " "),
	}
	for _, dir := range k.firmware() {
		args = append(args, "-L", dir)
	}
	args = append(args, "-virtfs", share("/", rootTag)+",readonly=on", "-virtfs", share(control, controlTag))
	for i, dir := range write {
		args = append(args, "-virtfs", share(dir, writeTag(i)))
	}
	cmd := exec.CommandContext(ctx, k.emulator(), args...)
	cmd.Env = []string{"LD_LIBRARY_PATH=" + k.libraries()}
	// QEMU makes what it gets as standard output non-blocking: a pipe of its own, then, and not the
	// caller's terminal or file, which others write to.
	out := struct{ io.Writer }{g.Output}
	cmd.Stdout, cmd.Stderr = out, out
	return cmd, nil
}

// The guest asks for the host's folders by these tags.
const (
	rootTag    = "root"
	controlTag = "control"
)

func writeTag(i int) string { return "write" + strconv.Itoa(i) }

// share is the option for a folder of the host. What is mounted below it counts as part of it.
func share(dir, tag string) string {
	return "local,path=" + strings.ReplaceAll(
		dir, ",", ",,",
	) + ",mount_tag=" + tag + ",security_model=none,multidevs=remap"
}

// findQEMU returns what fetchQEMU left in the work folder.
func findQEMU(work stock.Folder) (Kernel, error) {
	k := QEMU{Root: qemuFolder(work)}
	stamp := filepath.Join(k.Root, "fetched")
	if err := present(k.emulator(), stamp); err != nil {
		return nil, err
	}
	if text, err := os.ReadFile(stamp); err != nil || string(text) != qemuStamp() {
		return nil, fmt.Errorf("the guest kernel in %s is of another version of Berth: run `make fetch`", k.Root)
	}
	images, err := filepath.Glob(filepath.Join(k.Root, "boot", "vmlinuz-*"))
	if err != nil || len(images) != 1 {
		return nil, fmt.Errorf("%d kernels in %s/boot, want one: remove %s and run `make fetch`", len(images), k.Root, k.Root)
	}
	k.Image = images[0]
	k.Release = strings.TrimPrefix(filepath.Base(k.Image), "vmlinuz-")
	return k, nil
}

func qemuFolder(work stock.Folder) string { return filepath.Join(work.Root, "pkg-qemu") }
