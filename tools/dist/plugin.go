package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/berth-lb/berth/tools/image"
)

const plugin = "kubectl-berth"

// pluginPlatforms are those of the people who run kubectl.
var pluginPlatforms = []v1.Platform{
	{OS: "linux", Architecture: "amd64"}, {OS: "linux", Architecture: "arm64"},
	{OS: "darwin", Architecture: "amd64"}, {OS: "darwin", Architecture: "arm64"},
	{OS: "windows", Architecture: "amd64"},
}

// packPlugins builds the plugin of kubectl for each platform, and packs it with the license. The
// same source gives the same bytes.
func packPlugins(ctx context.Context, s image.Source, out string) (names []string, err error) {
	for _, p := range pluginPlatforms {
		name := fmt.Sprintf("%s-%s-%s-%s.tar.gz", plugin, s.Version, p.OS, p.Architecture)
		if err := packPlugin(ctx, s, p, filepath.Join(out, name)); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		names = append(names, name)
	}
	return names, nil
}

func packPlugin(ctx context.Context, s image.Source, p v1.Platform, file string) error {
	dir, err := os.MkdirTemp("", plugin)
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	program := filepath.Join(dir, plugin)
	if p.OS == "windows" {
		program += ".exe"
	}
	if err := s.CompileOne(ctx, p, plugin, program); err != nil {
		return err
	}
	license, err := os.ReadFile(filepath.Join(s.Root, "LICENSE"))
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "LICENSE"), license, 0o644); err != nil {
		return err
	}
	var archive bytes.Buffer
	w := gzip.NewWriter(&archive)
	if err := image.WriteTar(w, os.DirFS(dir), ""); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	return os.WriteFile(file, archive.Bytes(), 0o644)
}
