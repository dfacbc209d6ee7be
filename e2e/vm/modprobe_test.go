package vm

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestModulesAreFoundByNameAndByAlias(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "modules.dep"),
		"kernel/ip_vs.ko: kernel/nf_conntrack.ko kernel/crc-ccitt.ko\n"+
			"kernel/nf_conntrack.ko:\n"+
			"kernel/crc-ccitt.ko:\n"+
			"kernel/xt_ipvs.ko.xz: kernel/ip_vs.ko\n")
	write(t, filepath.Join(dir, "modules.alias"),
		"# a comment\n"+
			"alias net-pf-16-proto-16-family-IPVS ip_vs\n"+
			"alias pci:v00001[0-9]d* crc_ccitt\n"+
			"alias ipt_* xt_ipvs\n")
	m, err := readModules(dir)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][]string{
		"ip_vs":                           {"kernel/ip_vs.ko"},
		"ip-vs":                           {"kernel/ip_vs.ko"},
		"crc_ccitt":                       {"kernel/crc-ccitt.ko"},
		"net-pf-16-proto-16-family-IPVS":  {"kernel/ip_vs.ko"},
		"ipt_ipvs":                        {"kernel/xt_ipvs.ko.xz"},
		"pci:v000011d2":                   nil,
		"net-pf-16-proto-16-family-IPVS2": nil,
	} {
		if got := m.find(name); !slices.Equal(got, want) {
			t.Errorf("find(%q) = %q, want %q", name, got, want)
		}
	}
	want := []string{"kernel/crc-ccitt.ko", "kernel/nf_conntrack.ko", "kernel/ip_vs.ko"}
	if got := m.order("kernel/ip_vs.ko", "kernel/nf_conntrack.ko"); !slices.Equal(got, want) {
		t.Errorf("modules are loaded in the order %q, want %q", got, want)
	}
}

func TestReadModulesWantsAnIndex(t *testing.T) {
	if _, err := readModules(t.TempDir()); err == nil {
		t.Error("an empty folder was taken for a kernel's modules")
	}
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
