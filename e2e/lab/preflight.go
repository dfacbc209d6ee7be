//go:build linux

package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

var errNotRoot = errors.New("the lab needs root (network namespaces, mounts): run it with sudo")

// preflight reports what this machine lacks, before anything is made.
func (l *Lab) preflight() error {
	if os.Getuid() != 0 {
		return errNotRoot
	}
	if !l.folder.Fetched() {
		return errors.New("the packages are not there yet: run `lab fetch` first")
	}
	for _, name := range []string{"lab", "kube", "kubelet"} {
		if _, err := os.Stat(l.folder.Bin(name)); err != nil {
			return fmt.Errorf("%s is not built yet: run `lab build` first", name)
		}
	}
	if version := l.opts.Kubernetes; version != "" {
		if _, err := os.Stat(l.folder.Kubernetes(version, "kube-apiserver")); err != nil {
			return fmt.Errorf("kubernetes %s is not built yet: run `lab build --kubernetes %s` first", version, version)
		}
	}
	if l.opts.DNS {
		if _, err := os.Stat(l.folder.CoreDNS()); err != nil {
			return errors.New("CoreDNS is not built yet: run `lab build --dns` first")
		}
	}
	if err := needOverlay(); err != nil {
		return err
	}
	return needLinks()
}

func needOverlay() error {
	for _, attempt := range []string{"", "overlay"} {
		loadModule(attempt)
		text, err := os.ReadFile("/proc/filesystems")
		if err != nil {
			return fmt.Errorf("list the kernel's file systems: %w", err)
		}
		if slices.Contains(strings.Fields(string(text)), "overlay") {
			return nil
		}
	}
	return errors.New("this kernel has no overlay file system: boot one with CONFIG_OVERLAY_FS")
}

// needLinks tries the two kinds of link that the network is made of, in a namespace that ends with
// the thread.
func needLinks() error {
	loadModule("br_netfilter") // built in, or missing: then bridges are not filtered
	return onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("this machine allows no network namespaces: run the lab on a machine or virtual machine of its own (%w)", err)
		}
		veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "a"}, PeerName: "b"}
		for _, link := range []netlink.Link{veth, &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "c"}}} {
			if err := netlink.LinkAdd(link); err != nil {
				return fmt.Errorf("this kernel makes no %s links: boot one with that module (%w)", link.Type(), err)
			}
		}
		return nil
	})
}

// loadModule loads a kernel module if it can. The caller finds out whether that helped.
func loadModule(name string) {
	if name == "" {
		return
	}
	if modprobe, err := exec.LookPath("modprobe"); err == nil {
		_ = exec.Command(modprobe, "-q", name).Run()
	}
}
