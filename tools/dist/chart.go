package main

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/berth-lb/berth/tools/image"
)

// packChart packs charts/berth as `helm package` does: one folder, named as the chart, in an
// archive that is named after the chart's version. Unlike there, the same files give the same
// bytes.
func packChart(s image.Source, out string) ([]string, error) {
	dir := filepath.Join(s.Root, "charts/berth")
	text, err := os.ReadFile(filepath.Join(dir, "Chart.yaml"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	var chart struct{ Name, Version, AppVersion string }
	if err := yaml.Unmarshal(text, &chart); err != nil {
		return nil, fmt.Errorf("read Chart.yaml: %w", err)
	}
	if chart.AppVersion != s.Version || "v"+chart.Version != s.Version {
		return nil, fmt.Errorf("%s/Chart.yaml has version %s and appVersion %s, want %s and %s",
			dir, chart.Version, chart.AppVersion, strings.TrimPrefix(s.Version, "v"), s.Version)
	}
	var archive bytes.Buffer
	w := gzip.NewWriter(&archive)
	if err := image.WriteTar(w, os.DirFS(dir), chart.Name+"/"); err != nil {
		return nil, fmt.Errorf("pack the chart: %w", err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("pack the chart: %w", err)
	}
	name := chart.Name + "-" + chart.Version + ".tgz"
	return []string{name}, os.WriteFile(filepath.Join(out, name), archive.Bytes(), 0o644)
}
