package vm

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/berth-lb/berth/e2e/stock"
)

func TestUserModeLinuxIsTheUsualGuest(t *testing.T) {
	for name, want := range map[string]Kind{"": KindUML, "uml": KindUML, "qemu": KindQEMU} {
		if got, err := ParseKind(name); err != nil || got != want {
			t.Errorf("ParseKind(%q) = %q, %v; want %q", name, got, err, want)
		}
	}
	if got, err := ParseKind("kvm"); err == nil || !strings.Contains(err.Error(), `"kvm": use "uml" or "qemu"`) {
		t.Errorf(`ParseKind("kvm") = %q, %v`, got, err)
	}
}

func TestAMissingGuestSaysHowToGetIt(t *testing.T) {
	work := stock.Folder{Root: t.TempDir()}
	for _, kind := range Kinds() {
		if k, err := Find(work, kind); err == nil || !strings.Contains(err.Error(), "make fetch") {
			t.Errorf("Find(%s) = %v, %v", kind, k, err)
		}
	}
}

func TestAnInterruptedFetchLeavesNoKernel(t *testing.T) {
	root := t.TempDir() + "/kernel"
	if err := inPlace(root, func(string) error { return context.Canceled }); !errors.Is(err, context.Canceled) {
		t.Errorf("inPlace: %v", err)
	}
	if err := present(root); err == nil {
		t.Errorf("%s is there", root)
	}
	if err := inPlace(root, func(string) error { return nil }); err != nil {
		t.Error(err)
	}
	if err := present(root); err != nil {
		t.Error(err)
	}
}

func TestAFoldersNameWithACommaIsOneOption(t *testing.T) {
	const want = "local,path=/tmp/a,,b,mount_tag=write0,security_model=none,multidevs=remap"
	if got := share("/tmp/a,b", writeTag(0)); got != want {
		t.Errorf("share: %s, want %s", got, want)
	}
}
