//go:build vm || qemu

package vm_test

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/berth-lb/berth/e2e/vm"
)

// These run in a guest of either kind:
//
//	go test -tags vm -exec .cache/bin/vm-exec ./vm/
//	BERTH_VM_KIND=qemu go test -tags qemu -exec .cache/bin/vm-exec ./vm/

func TestTheGuestHasItsOwnKernel(t *testing.T) {
	kind, err := vm.ParseKind(os.Getenv("BERTH_VM_KIND"))
	if err != nil {
		t.Fatal(err)
	}
	processor := map[vm.Kind]string{vm.KindUML: "User Mode Linux", vm.KindQEMU: "QEMU TCG CPU"}[kind]
	var uname unix.Utsname
	if err := unix.Uname(&uname); err != nil {
		t.Fatal(err)
	}
	cpu, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(cpu), processor) {
		t.Fatalf("kernel %s does not run on a %q; was the test run without -exec? /proc/cpuinfo:\n%s",
			unix.ByteSliceToString(uname.Release[:]), processor, cpu)
	}
	t.Logf("kernel %s", unix.ByteSliceToString(uname.Release[:]))
}

func TestIPVSComesWithItsModules(t *testing.T) {
	if _, err := os.Stat("/proc/net/ip_vs"); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("before modprobe /proc/net/ip_vs: %v, want that it does not exist", err)
	}
	schedulers := []string{"rr", "wrr", "lc", "wlc", "dh", "sh", "sed", "nq", "mh"}
	modules := []string{"ip_vs"}
	for _, s := range schedulers {
		modules = append(modules, "ip_vs_"+s)
	}
	if out, err := exec.Command("modprobe", append([]string{"-va"}, modules...)...).CombinedOutput(); err != nil {
		t.Fatalf("modprobe: %v: %s", err, out)
	}
	for _, m := range modules {
		if _, err := os.Stat("/sys/module/" + m); err != nil {
			t.Errorf("after modprobe: %v", err)
		}
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
	// A network namespace of the thread's own, which ends with the test's goroutine.
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("make a network namespace: %v", err)
	}
	for module, link := range map[string]netlink.Link{
		"dummy":  &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: "vip0"}},
		"veth":   &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "pair0"}, PeerName: "pair1"},
		"bridge": &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "segment0"}},
		"vrf":    &netlink.Vrf{LinkAttrs: netlink.LinkAttrs{Name: "vrf0"}, Table: 10},
	} {
		loaded := "/sys/module/" + module
		if _, err := os.Stat(loaded); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("before the first %s link %s: %v, want that it does not exist", module, loaded, err)
		}
		if err := netlink.LinkAdd(link); err != nil {
			t.Errorf("add a %s link: %v", module, err)
			continue
		}
		if _, err := os.Stat(loaded); err != nil {
			t.Errorf("after the first %s link: %v", module, err)
		}
		if got, err := netlink.LinkByName(link.Attrs().Name); err != nil || got.Type() != module {
			t.Errorf("the %s link %s: %v, %v", module, link.Attrs().Name, got, err)
		}
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
