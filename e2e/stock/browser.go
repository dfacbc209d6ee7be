package stock

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// Browser is Chromium without a window, as FetchBrowser unpacks it.
type Browser struct {
	// Program is its path.
	Program string
	// Env is what its environment has besides the usual.
	Env []string
}

// FetchBrowser downloads and unpacks Debian's Chromium, those of its dependencies that the machine
// lacks, and a font. A second call only returns it.
func (f Folder) FetchBrowser(ctx context.Context, log io.Writer) (Browser, error) {
	root := filepath.Join(f.Root, "pkg-browser")
	if _, err := os.Stat(root); errors.Is(err, os.ErrNotExist) {
		if err := f.fetchBrowser(ctx, log, root); err != nil {
			return Browser{}, err
		}
	} else if err != nil {
		return Browser{}, fmt.Errorf("find the browser: %w", err)
	}
	libraries, err := filepath.Glob(filepath.Join(root, "usr/lib/*-linux-gnu*"))
	if err != nil {
		return Browser{}, fmt.Errorf("find the browser's libraries: %w", err)
	}
	for _, dir := range libraries {
		libraries = append(libraries, filepath.Join(dir, "pulseaudio")) // a folder that its library is told of
	}
	return Browser{
		Program: filepath.Join(root, "usr/lib/chromium/chromium-headless-shell"),
		Env: []string{
			"LD_LIBRARY_PATH=" + strings.Join(libraries, ":"), "FONTCONFIG_FILE=" + filepath.Join(root, "fonts.conf"),
		},
	}, nil
}

// fontsConf has the fonts of the machine, and those that are unpacked.
const fontsConf = `<fontconfig>
  <include ignore_missing="yes">/etc/fonts/fonts.conf</include>
  <include ignore_missing="yes">%[1]s/etc/fonts/fonts.conf</include>
  <dir>%[1]s/usr/share/fonts</dir>
  <cachedir>%[1]s/fonts-cache</cachedir>
</fontconfig>
`

func (f Folder) fetchBrowser(ctx context.Context, log io.Writer, root string) error {
	debs, fresh := filepath.Join(f.Root, "debs-browser"), root+".new"
	if err := errors.Join(os.RemoveAll(debs), os.RemoveAll(fresh)); err != nil {
		return fmt.Errorf("fetch the browser: %w", err)
	}
	if err := Download(ctx, debs, log, "chromium-headless-shell", "fonts-dejavu-core"); err != nil {
		return err
	}
	if _, err := Unpack(ctx, debs, fresh); err != nil {
		return err
	}
	fonts := fmt.Sprintf(fontsConf, root)
	if err := os.WriteFile(filepath.Join(fresh, "fonts.conf"), []byte(fonts), 0o644); err != nil {
		return fmt.Errorf("fetch the browser: %w", err)
	}
	if err := os.Rename(fresh, root); err != nil {
		return fmt.Errorf("fetch the browser: %w", err)
	}
	return nil
}
