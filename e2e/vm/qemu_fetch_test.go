package vm

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestPruneKeepsWhatMatchesAndWhatIsInFoldersThatMatch(t *testing.T) {
	root := t.TempDir()
	for _, file := range []string{
		"boot/vmlinuz-6.1", "boot/config-6.1", "usr/bin/qemu", "usr/bin/other", "usr/share/doc/qemu/copyright",
		"modules/6.1/kernel/net/ipv4/tunnel.ko", "modules/6.1/kernel/drivers/net/veth.ko",
		"modules/6.1/kernel/drivers/net/ethernet/e1000.ko", "modules/6.1/kernel/sound/hda.ko", "modules/6.1/modules.order",
	} {
		if err := os.MkdirAll(filepath.Join(root, filepath.Dir(file)), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(root, file), file)
	}
	if err := os.Symlink("other", filepath.Join(root, "usr/bin/link")); err != nil {
		t.Fatal(err)
	}
	err := prune(root, []string{
		"boot/vmlinuz-*", "usr/bin/qemu", "modules/*/modules.*", "modules/*/kernel/net", "modules/*/kernel/drivers/net/*.ko",
	})
	if err != nil {
		t.Fatal(err)
	}
	var left []string
	if err := fs.WalkDir(os.DirFS(root), ".", func(name string, entry fs.DirEntry, err error) error {
		if !entry.IsDir() {
			left = append(left, name)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"boot/vmlinuz-6.1", "modules/6.1/kernel/drivers/net/veth.ko", "modules/6.1/kernel/net/ipv4/tunnel.ko",
		"modules/6.1/modules.order", "usr/bin/qemu",
	}
	if !slices.Equal(left, want) {
		t.Errorf("left %q, want %q", left, want)
	}
	for _, dir := range []string{"usr/share", "modules/6.1/kernel/sound", "modules/6.1/kernel/drivers/net/ethernet"} {
		if _, err := os.Stat(filepath.Join(root, dir)); err == nil {
			t.Errorf("the folder %s is left", dir)
		}
	}
}

func TestTheKernelsPackageIsNamedByTheOneThatStandsForIt(t *testing.T) {
	for depends, want := range map[string]string{
		"linux-image-6.1.0-50-amd64 (= 6.1.180-1)\n":          "linux-image-6.1.0-50-amd64",
		"linux-base, linux-image-6.8.0-1-virtual, linux-tool": "linux-image-6.8.0-1-virtual",
	} {
		if got, err := imagePackage(depends); err != nil || got != want {
			t.Errorf("imagePackage(%q) = %q, %v; want %q", depends, got, err, want)
		}
	}
	if got, err := imagePackage("linux-base\n"); err == nil || !strings.Contains(err.Error(), `"linux-base"`) {
		t.Errorf("imagePackage without any: %q, %v", got, err)
	}
}
