package stock

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Company is a program of others that works with the Services that Berth serves.
type Company string

// The programs of others. The module e2e/NAME, without the hyphen, determines the version of each.
const (
	Traefik      Company = "traefik"
	ExternalDNS  Company = "external-dns"
	EnvoyGateway Company = "envoy-gateway"
)

// module is the program's module, with its package below it.
func (c Company) module() (path, pkg string) {
	switch c {
	case Traefik:
		return "github.com/traefik/traefik/v3", "/cmd/traefik"
	case ExternalDNS:
		return "sigs.k8s.io/external-dns", ""
	default:
		return "github.com/envoyproxy/gateway", "/cmd/envoy-gateway"
	}
}

func (c Company) folder() string {
	return filepath.Join("e2e", strings.ReplaceAll(string(c), "-", ""))
}

// Image is the reference of the program's image.
func (c Company) Image() string { return "berth.dev/" + string(c) + ":1" }

// BuildCompany compiles the programs and packs their images into GuestImages: they are large, and
// few labs need them.
func (f Folder) BuildCompany(ctx context.Context, log io.Writer) error {
	var all []binary
	for _, c := range []Company{Traefik, ExternalDNS, EnvoyGateway} {
		path, pkg := c.module()
		all = append(all, binary{
			name: string(c), module: c.folder(), pkg: path + pkg, ldflags: "-s -w",
			image: c.Image(), images: f.GuestImages(), user: "65532:65532", note: " (several minutes the first time)",
		})
	}
	return f.build(ctx, log, all)
}

// Archive is the program's image as an archive, which BuildCompany packs.
func (f Folder) Archive(c Company) string { return filepath.Join(f.GuestImages(), string(c)+".tar") }

// Source is the folder with the program's source.
func (f Folder) Source(ctx context.Context, c Company) (string, error) {
	path, _ := c.module()
	cmd := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", path)
	cmd.Dir = filepath.Join(f.Repository, c.folder())
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("find the source of %s: %w: %s", path, err, bytes.TrimSpace(stderr.Bytes()))
	}
	dir := strings.TrimSpace(string(out))
	if dir == "" {
		return "", fmt.Errorf("the source of %s is not downloaded: run `lab build --company` first", path)
	}
	return dir, nil
}

// Knot is where FetchKnot puts what the system's package of the DNS server Knot has: knotd is in
// usr/sbin.
func (f Folder) Knot() string { return filepath.Join(f.Root, "pkg-knot") }

// FetchKnot downloads and unpacks the DNS server, with those of its libraries that the machine
// lacks. A second call does nothing.
func (f Folder) FetchKnot(ctx context.Context, log io.Writer) error {
	if _, err := os.Stat(filepath.Join(f.Knot(), "usr", "sbin", "knotd")); err == nil {
		return nil
	}
	debs, root := filepath.Join(f.Root, "debs-knot"), f.Knot()
	for _, dir := range []string{debs, root, root + ".new"} {
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("fetch Knot: %w", err)
		}
	}
	if err := Download(ctx, debs, log, "knot"); err != nil {
		return err
	}
	if _, err := Unpack(ctx, debs, root+".new"); err != nil {
		return err
	}
	if err := os.Rename(root+".new", root); err != nil {
		return fmt.Errorf("fetch Knot: %w", err)
	}
	return nil
}
