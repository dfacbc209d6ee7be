package stock

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// packages are what the lab runs, beside what is built from source.
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

// Fetch downloads the system's packages and unpacks them into the work folder.
// Nothing is installed and no daemon is started. A second call does nothing.
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
	if err := f.download(ctx, log); err != nil {
		return err
	}
	return f.unpack(ctx, log)
}

// download has apt-get fetch the packages with those of their dependencies that
// the machine lacks. What it has already, the hosts of the lab see anyway.
func (f Folder) download(ctx context.Context, log io.Writer) error {
	if err := os.RemoveAll(f.Debs()); err != nil {
		return fmt.Errorf("download packages: %w", err)
	}
	if err := os.MkdirAll(filepath.Join(f.Debs(), "partial"), 0o755); err != nil {
		return fmt.Errorf("download packages: %w", err)
	}
	fmt.Fprintf(log, "downloading packages (none is installed): %s\n", strings.Join(packages(), " "))
	args := append([]string{
		"-y", "-q", "--no-install-recommends", "--download-only",
		"-o", "Dir::Cache::archives=" + f.Debs(), "-o", "APT::Sandbox::User=root", "install",
	}, packages()...)
	err := run(ctx, "apt-get", args...)
	if err == nil {
		return nil
	}
	// The lists are missing or too old to be of use.
	fmt.Fprintln(log, "updating the package lists first")
	if err := run(ctx, "apt-get", "-q", "update"); err != nil {
		return fmt.Errorf("update the package lists: %w", err)
	}
	if err := run(ctx, "apt-get", args...); err != nil {
		return fmt.Errorf("download packages: %w", err)
	}
	return nil
}

func (f Folder) unpack(ctx context.Context, log io.Writer) error {
	debs, err := filepath.Glob(filepath.Join(f.Debs(), "*.deb"))
	if err != nil {
		return fmt.Errorf("unpack packages: %w", err)
	}
	fmt.Fprintf(log, "unpacking %d packages into %s\n", len(debs), f.Packages())
	fresh := f.Packages() + ".new"
	if err := errors.Join(os.RemoveAll(fresh), os.RemoveAll(f.Packages()), os.MkdirAll(filepath.Join(fresh, "usr"), 0o755)); err != nil {
		return fmt.Errorf("unpack packages: %w", err)
	}
	for _, deb := range debs {
		if err := run(ctx, "dpkg-deb", "-x", deb, fresh); err != nil {
			return fmt.Errorf("unpack %s: %w", filepath.Base(deb), err)
		}
	}
	if err := mergeUsr(fresh); err != nil {
		return fmt.Errorf("unpack packages: %w", err)
	}
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

// mergeUsr moves what packages put into /bin, /sbin and /lib below /usr, where
// a system with merged /usr has it.
func mergeUsr(root string) error {
	for _, dir := range []string{"bin", "sbin", "lib", "lib64"} {
		if err := moveInto(filepath.Join(root, dir), filepath.Join(root, "usr", dir)); err != nil {
			return err
		}
	}
	return nil
}

// moveInto moves from to to, merging directories.
func moveInto(from, to string) error {
	entries, err := os.ReadDir(from)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	for _, e := range entries {
		source, target := filepath.Join(from, e.Name()), filepath.Join(to, e.Name())
		if e.IsDir() {
			err = moveInto(source, target)
		} else {
			err = os.Rename(source, target)
		}
		if err != nil {
			return err
		}
	}
	return os.Remove(from)
}

// chooseIptables makes the links that the package's installation would make:
// iptables is the one on top of nftables.
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

// run runs a program and returns what it printed as the error when it fails.
func run(ctx context.Context, program string, args ...string) error {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", program, err, bytes.TrimSpace(out))
	}
	return nil
}
