package stock

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// Routers is where FetchRouters puts the BGP daemons that the lab itself does not run.
func (f Folder) Routers() string { return filepath.Join(f.Root, "pkg-routers") }

// FetchRouters downloads and unpacks the system's packages of GoBGP, ExaBGP and OpenBGPD, with
// those of their dependencies that the machine lacks. A second call does nothing.
func (f Folder) FetchRouters(ctx context.Context, log io.Writer) error {
	if _, err := os.Stat(f.Routers()); err == nil {
		return nil
	}
	debs, root := f.routerDebs(), f.Routers()
	for _, dir := range []string{debs, root + ".new"} {
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("fetch routers: %w", err)
		}
	}
	if err := Download(ctx, debs, log, "gobgpd", "exabgp", "openbgpd"); err != nil {
		return err
	}
	if _, err := Unpack(ctx, debs, root+".new"); err != nil {
		return err
	}
	if err := os.Rename(root+".new", root); err != nil {
		return fmt.Errorf("fetch routers: %w", err)
	}
	return nil
}

func (f Folder) routerDebs() string { return filepath.Join(f.Root, "debs-routers") }

// PackageVersion is the version of a package that Fetch or FetchRouters unpacked, such as
// 8.4.4-1.1~deb12u1.
func (f Folder) PackageVersion(name string) (string, error) {
	for _, dir := range []string{f.Debs(), f.routerDebs()} {
		found, err := filepath.Glob(filepath.Join(dir, name+"_*.deb"))
		if err != nil {
			return "", fmt.Errorf("find package %s: %w", name, err)
		}
		if len(found) == 1 {
			return strings.Split(filepath.Base(found[0]), "_")[1], nil
		}
	}
	return "", fmt.Errorf("package %s is not unpacked in %s", name, f.Root)
}
