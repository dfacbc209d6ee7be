package stock

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// packages returns the packages that the lab runs, in addition to what is built from source.
func packages() []string {
	return []string{
		"containerd", "runc", "containernetworking-plugins", // nodes
		"nftables", "iptables", "conntrack", "kmod", // kube-proxy's tools
		"frr", "bird2", // the routers
		"iproute2", "tcpdump", "curl", "iputils-ping", // to look around with `lab exec`
	}
}

// Fetched reports whether Fetch has done its work.
func (f Folder) Fetched() bool {
	text, err := os.ReadFile(f.stamp())
	return err == nil && string(text) == stampText()
}

func (f Folder) stamp() string { return filepath.Join(f.Packages(), "fetched") }

func stampText() string { return "v1 " + strings.Join(packages(), " ") + "\n" }

// Fetch downloads the system's packages and unpacks them into the work folder. Nothing is installed
// and no daemon is started. A second call does nothing.
func (f Folder) Fetch(ctx context.Context, log io.Writer) error {
	if f.Fetched() {
		return nil
	}
	if os.Getuid() != 0 {
		return errors.New("fetching packages needs root: run it with sudo")
	}
	for _, program := range []string{"apt-get", "dpkg-deb"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("there is no %s: the lab takes its parts from Debian's or Ubuntu's packages, so use such a machine", program)
		}
	}
	if err := os.RemoveAll(f.Debs()); err != nil {
		return fmt.Errorf("download packages: %w", err)
	}
	fmt.Fprintf(log, "downloading packages (none is installed): %s\n", strings.Join(packages(), " "))
	if err := Download(ctx, f.Debs(), log, packages()...); err != nil {
		return err
	}
	return f.unpack(ctx, log)
}

func (f Folder) unpack(ctx context.Context, log io.Writer) error {
	fresh := f.Packages() + ".new"
	if err := errors.Join(os.RemoveAll(fresh), os.RemoveAll(f.Packages())); err != nil {
		return fmt.Errorf("unpack packages: %w", err)
	}
	count, err := Unpack(ctx, f.Debs(), fresh)
	if err != nil {
		return err
	}
	fmt.Fprintf(log, "unpacked %d packages into %s\n", count, f.Packages())
	if err := chooseIptables(filepath.Join(fresh, "usr/sbin")); err != nil {
		return fmt.Errorf("unpack packages: %w", err)
	}
	if err := os.WriteFile(filepath.Join(fresh, "fetched"), []byte(stampText()), 0o644); err != nil {
		return fmt.Errorf("unpack packages: %w", err)
	}
	if err := os.Rename(fresh, f.Packages()); err != nil {
		return fmt.Errorf("unpack packages: %w", err)
	}
	return nil
}

// chooseIptables makes the links that the package's installation would make: iptables is the one on
// top of nftables.
func chooseIptables(sbin string) error {
	for _, family := range []string{"iptables", "ip6tables"} {
		for _, suffix := range []string{"", "-save", "-restore"} {
			link := filepath.Join(sbin, family+suffix)
			if _, err := os.Lstat(filepath.Join(sbin, family+"-nft"+suffix)); errors.Is(err, os.ErrNotExist) {
				continue // installed on the machine itself, links and all
			}
			if err := os.Symlink("xtables-nft-multi", link); err != nil && !errors.Is(err, os.ErrExist) {
				return err
			}
		}
	}
	return nil
}
