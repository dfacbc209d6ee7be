package vm

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
)

// The first root of a guest in QEMU has only what it takes to reach the second, the host's: PID 1,
// and these modules with all they depend on, in loadFolder under numbers that say their order.
const loadFolder = "load"

func rootModules() []string { return []string{"virtio_pci", "9pnet_virtio", "9p"} }

// writeInitramfs writes the first root for the kernel whose modules are in dir.
func writeInitramfs(file, init, dir string) error {
	program, err := os.ReadFile(init)
	if err != nil {
		return err
	}
	index, err := readModules(dir)
	if err != nil {
		return err
	}
	var needed []string
	for _, name := range rootModules() {
		found := index.find(name)
		if len(found) == 0 {
			return fmt.Errorf("%s: %w", name, index.unknown())
		}
		needed = append(needed, found...)
	}
	var root archive
	root.add("init", modeFile|0o755, program)
	root.add("machine", modeDir|0o755, nil)
	root.add(loadFolder, modeDir|0o755, nil)
	for i, f := range index.order(needed...) {
		module, err := os.ReadFile(filepath.Join(dir, f))
		if err != nil {
			return err
		}
		root.add(fmt.Sprintf("%s/%02d-%s", loadFolder, i, filepath.Base(f)), modeFile|0o644, module)
	}
	return os.WriteFile(file, root.end(), 0o600)
}

// archive is a cpio archive in the format "newc" of the kernel document "initramfs buffer format".
type archive struct {
	buffer  bytes.Buffer
	entries int
}

const (
	modeDir  = 0o040000
	modeFile = 0o100000
)

func (a *archive) add(name string, mode int, content []byte) {
	a.entries++
	a.buffer.WriteString("070701")
	const links, root, epoch, device, checksum = 1, 0, 0, 0, 0
	for _, field := range []int{
		a.entries, mode, root, root, links, epoch, len(content),
		device, device, device, device, len(name) + 1, checksum,
	} {
		fmt.Fprintf(&a.buffer, "%08X", field)
	}
	a.buffer.WriteString(name + "\x00")
	a.pad()
	a.buffer.Write(content)
	a.pad()
}

// pad fills up to a multiple of four bytes.
func (a *archive) pad() {
	a.buffer.Write(make([]byte, -a.buffer.Len()&3))
}

func (a *archive) end() []byte {
	a.add("TRAILER!!!", 0, nil)
	return a.buffer.Bytes()
}
