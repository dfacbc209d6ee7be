//go:build vm

package vm_test

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// These run in the guest: go test -tags vm -exec .cache/bin/vm-exec ./vm/

func TestTheGuestHasItsOwnKernel(t *testing.T) {
	var uname unix.Utsname
	if err := unix.Uname(&uname); err != nil {
		t.Fatal(err)
	}
	cpu, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(cpu), "User Mode Linux") {
		t.Fatalf("kernel %s is not user-mode-linux; was the test run without -exec? /proc/cpuinfo:\n%s",
			unix.ByteSliceToString(uname.Release[:]), cpu)
	}
	t.Logf("kernel %s", unix.ByteSliceToString(uname.Release[:]))
}

func TestIPVSComesWithItsModule(t *testing.T) {
	if _, err := os.Stat("/proc/net/ip_vs"); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("before modprobe /proc/net/ip_vs: %v, want that it does not exist", err)
	}
	if out, err := exec.Command("modprobe", "-va", "ip_vs", "ip_vs_rr").CombinedOutput(); err != nil {
		t.Fatalf("modprobe: %v: %s", err, out)
	}
	table, err := os.ReadFile("/proc/net/ip_vs")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(string(table), "IP Virtual Server version") {
		t.Errorf("/proc/net/ip_vs: %q", table)
	}
	family, err := netlink.GenlFamilyGet("IPVS")
	if err != nil {
		t.Fatalf("ask generic netlink for the family IPVS: %v", err)
	}
	if family.Name != "IPVS" || family.ID == 0 {
		t.Errorf("generic netlink family: %+v", family)
	}
}

func TestTheKernelLoadsWhatItNeedsByItself(t *testing.T) {
	const loaded = "/sys/module/dummy"
	if _, err := os.Stat(loaded); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("before the first dummy link %s: %v, want that it does not exist", loaded, err)
	}
	link := &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: "vip0"}}
	if err := netlink.LinkAdd(link); err != nil {
		t.Fatalf("add a dummy link: %v", err)
	}
	if _, err := os.Stat(loaded); err != nil {
		t.Errorf("after the first dummy link: %v", err)
	}
}

func TestAnUnknownModuleIsRefused(t *testing.T) {
	out, err := exec.Command("modprobe", "berth_no_such_module").CombinedOutput()
	if err == nil {
		t.Fatalf("modprobe of no module succeeded: %s", out)
	}
	if !strings.Contains(string(out), "berth_no_such_module: no such module") {
		t.Errorf("modprobe said %q", out)
	}
}
