package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// licenseName matches the files of a module that must go along with a program made from it.
var licenseName = regexp.MustCompile(`(?i)^(licen[cs]e|copying|notice|patents)([.-].*)?$`)

// licenses returns the files with the licenses of all modules in the program, and of Go itself, by
// their paths in the image.
func (s Source) licenses(ctx context.Context, p v1.Platform) (map[string][]byte, error) {
	list, err := s.goCommand(ctx, p, "list", "-deps", "-f",
		"{{with .Module}}{{.Path}}\t{{.Version}}\t{{with .Replace}}{{.Dir}}{{else}}{{.Dir}}{{end}}{{end}}", command)
	if err != nil {
		return nil, err
	}
	goRoot, err := s.goCommand(ctx, p, "env", "GOROOT")
	if err != nil {
		return nil, err
	}
	files := make(map[string][]byte)
	seen := make(map[string]bool)
	for line := range strings.Lines("Go\t\t" + goRoot + "\n" + list) {
		line = strings.TrimSpace(line)
		if line == "" || seen[line] {
			continue
		}
		seen[line] = true
		name, rest, _ := strings.Cut(line, "\t")
		version, dir, _ := strings.Cut(rest, "\t")
		folder := path.Join("licenses", name)
		if version != "" {
			folder += "@" + version
		}
		err := addLicenses(files, folder, dir)
		if err != nil && name != "Go" { // some packages of Go come without its license
			return nil, fmt.Errorf("license of %s: %w", name, err)
		}
	}
	return files, nil
}

var errNoLicense = errors.New("the module has no file LICENSE, COPYING or NOTICE in its root")

func addLicenses(files map[string][]byte, folder, dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	found := false
	for _, e := range entries {
		if !e.Type().IsRegular() || !licenseName.MatchString(e.Name()) {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return err
		}
		files[path.Join(folder, e.Name())] = text
		found = true
	}
	if !found {
		return errNoLicense
	}
	return nil
}
