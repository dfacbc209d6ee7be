package stock

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// Prometheus is where FetchPrometheus puts the programs prometheus and promtool.
func (f Folder) Prometheus(program string) string {
	return filepath.Join(f.Root, "pkg-prometheus", "usr", "bin", program)
}

// FetchPrometheus downloads and unpacks the system's package of Prometheus, which few labs need. A
// second call does nothing.
func (f Folder) FetchPrometheus(ctx context.Context, log io.Writer) error {
	if _, err := os.Stat(f.Prometheus("promtool")); err == nil {
		return nil
	}
	debs, root := filepath.Join(f.Root, "debs-prometheus"), filepath.Join(f.Root, "pkg-prometheus")
	for _, dir := range []string{debs, root, root + ".new"} {
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("fetch Prometheus: %w", err)
		}
	}
	if _, err := DownloadAlone(ctx, debs, log, "prometheus"); err != nil {
		return err
	}
	if _, err := Unpack(ctx, debs, root+".new"); err != nil {
		return err
	}
	if err := os.Rename(root+".new", root); err != nil {
		return fmt.Errorf("fetch Prometheus: %w", err)
	}
	return nil
}
