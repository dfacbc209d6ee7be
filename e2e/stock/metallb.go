package stock

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
)

// The programs of MetalLB, beside which Berth is tested. The module e2e/metallb determines the
// version.
const (
	metalLBModule  = "go.universe.tf/metallb"
	metalLBVersion = "v0.16.1"
)

// MetalLBImages are the references of MetalLB's images, by component.
func MetalLBImages() map[string]string {
	return map[string]string{
		"controller": "berth.dev/metallb-controller:" + metalLBVersion,
		"speaker":    "berth.dev/metallb-speaker:" + metalLBVersion,
	}
}

// BuildMetalLB compiles MetalLB and packs its images into GuestImages: they are large, and few labs
// need them.
func (f Folder) BuildMetalLB(ctx context.Context, log io.Writer) error {
	var all []binary
	for _, component := range []string{"controller", "speaker"} {
		all = append(all, binary{
			name: "metallb-" + component, module: "e2e/metallb", pkg: metalLBModule + "/" + component, ldflags: "-s -w",
			image: MetalLBImages()[component], images: f.GuestImages(), user: "0:0",
			note: " (a minute or two the first time)",
		})
	}
	return f.build(ctx, log, all)
}

// MetalLBArchives are the image archives that BuildMetalLB packs.
func (f Folder) MetalLBArchives() []string {
	return []string{
		filepath.Join(f.GuestImages(), "metallb-controller.tar"),
		filepath.Join(f.GuestImages(), "metallb-speaker.tar"),
	}
}

// MetalLBSource is the folder with MetalLB's source, whose manifests the tests apply.
func (f Folder) MetalLBSource(ctx context.Context) (string, error) {
	cmd := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", metalLBModule)
	cmd.Dir = filepath.Join(f.Repository, "e2e", "metallb")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("find the source of %s: %w: %s", metalLBModule, err, bytes.TrimSpace(stderr.Bytes()))
	}
	dir := strings.TrimSpace(string(out))
	if dir == "" {
		return "", fmt.Errorf("the source of %s is not downloaded: run `lab build --metallb` first", metalLBModule)
	}
	return dir, nil
}
