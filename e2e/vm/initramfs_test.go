package vm

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestAnArchiveIsInTheKernelsFormat(t *testing.T) {
	var a archive
	a.add("load", modeDir|0o755, nil)
	a.add("init", modeFile|0o755, []byte("hello"))
	const zeros = "00000000"
	want := strings.Join([]string{
		// magic, inode, mode, uid and gid, links, mtime, size, devices, length of the name, checksum
		"070701", "00000001", "000041ED", zeros, zeros, "00000001", zeros, "00000000", zeros, zeros, zeros, zeros,
		"00000005", zeros,
		"load\x00", "\x00",
		"070701", "00000002", "000081ED", zeros, zeros, "00000001", zeros, "00000005", zeros, zeros, zeros, zeros,
		"00000005", zeros,
		"init\x00", "\x00", "hello", "\x00\x00\x00",
		"070701", "00000003", "00000000", zeros, zeros, "00000001", zeros, "00000000", zeros, zeros, zeros, zeros,
		"0000000B", zeros,
		"TRAILER!!!\x00", "\x00\x00\x00",
	}, "")
	if got := string(a.end()); got != want {
		t.Errorf("archive\n%q, want\n%q", got, want)
	}
}

func TestTheFirstRootLoadsModulesInOrder(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "init"), "init")
	write(t, filepath.Join(dir, "modules.alias"), "")
	write(t, filepath.Join(dir, "modules.dep"),
		"virtio_pci.ko: virtio_ring.ko virtio.ko\nvirtio_ring.ko: virtio.ko\nvirtio.ko:\n"+
			"9pnet_virtio.ko: 9pnet.ko virtio_ring.ko virtio.ko\n9pnet.ko:\n9p.ko: 9pnet.ko\n")
	for _, m := range []string{"virtio_pci", "virtio_ring", "virtio", "9pnet_virtio", "9pnet", "9p"} {
		write(t, filepath.Join(dir, m+".ko"), m)
	}
	file := filepath.Join(dir, "initramfs")
	if err := writeInitramfs(file, filepath.Join(dir, "init"), dir); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	rest := string(text)
	for _, name := range []string{
		"init\x00", "load/00-virtio.ko\x00", "load/01-virtio_ring.ko\x00", "load/02-virtio_pci.ko\x00",
		"load/03-9pnet.ko\x00", "load/04-9pnet_virtio.ko\x00", "load/05-9p.ko\x00", "TRAILER!!!\x00",
	} {
		_, after, found := strings.Cut(rest, name)
		if !found {
			t.Fatalf("no %q, or not in its order, in %q", name, text)
		}
		rest = after
	}
}

func TestAKernelWithout9pIsRefused(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "init"), "init")
	write(t, filepath.Join(dir, "modules.alias"), "")
	write(t, filepath.Join(dir, "modules.dep"), "virtio_pci.ko:\n")
	err := writeInitramfs(filepath.Join(dir, "initramfs"), filepath.Join(dir, "init"), dir)
	if err == nil || !strings.Contains(err.Error(), "9pnet_virtio: no such module") {
		t.Errorf("error %v", err)
	}
}
