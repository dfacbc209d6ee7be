package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/berth-lb/berth/tools/image"
)

// The files of a release, beside those of the image and the chart.
const (
	archiveManifest  = "berth.yaml"          // takes the image that an archive brought to the node
	registryManifest = "berth-registry.yaml" // takes the image from the registry, by digest
	releaseNotes     = "release-notes.md"
	checksums        = "SHA256SUMS"
)

// release writes all that a release publishes. It publishes nothing.
func release(ctx context.Context, o options, log io.Writer) error {
	var to name.Repository
	if o.registry != "" {
		var err error
		if to, err = o.repository(); err != nil {
			return err
		}
	}
	notes, err := changes(o)
	if err != nil {
		return err
	}
	set, err := o.build(ctx, log)
	if err != nil {
		return err
	}
	steps := []func() ([]string, error){
		func() ([]string, error) { return set.Write(o.out) },
		func() ([]string, error) { return set.WriteSBOMs(o.out) },
		func() ([]string, error) {
			return []string{archiveManifest}, writeManifest(
				set.Source, image.LocalName+":"+set.Source.Version, filepath.Join(o.out, archiveManifest),
			)
		},
		func() ([]string, error) {
			return []string{releaseNotes}, os.WriteFile(filepath.Join(o.out, releaseNotes), notes, 0o644)
		},
		func() ([]string, error) { return packChart(set.Source, o.out) },
		func() ([]string, error) { return packPlugins(ctx, set.Source, o.out) },
	}
	if o.registry == "" {
		fmt.Fprintf(log, "without REGISTRY there is no %s\n", registryManifest)
	} else {
		steps = append(steps, func() ([]string, error) {
			digest, err := set.Index.Digest()
			if err != nil {
				return nil, err
			}
			file := filepath.Join(o.out, registryManifest)
			return []string{registryManifest}, writeManifest(set.Source, to.Digest(digest.String()).Name(), file)
		})
	}
	var sums bytes.Buffer
	for _, step := range steps {
		files, err := step()
		if err != nil {
			return err
		}
		for _, file := range files {
			body, err := os.ReadFile(filepath.Join(o.out, file))
			if err != nil {
				return err
			}
			fmt.Fprintf(&sums, "%x  %s\n", sha256.Sum256(body), file)
		}
	}
	if err := os.WriteFile(filepath.Join(o.out, checksums), sums.Bytes(), 0o644); err != nil {
		return err
	}
	// The programs are in the archives.
	for _, im := range set.Images {
		if err := os.RemoveAll(filepath.Join(o.out, im.Name())); err != nil {
			return err
		}
	}
	_, err = fmt.Fprint(log, sums.String())
	return err
}

// writeManifest writes manifests/berth.yaml with another image.
func writeManifest(s image.Source, named, file string) error {
	from := filepath.Join(s.Root, "manifests/berth.yaml")
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	old, replacement := []byte("image: "+image.LocalName+":"+s.Version+"\n"), []byte("image: "+named+"\n")
	if !bytes.Contains(text, old) || bytes.Count(text, []byte(" image: ")) != bytes.Count(text, old) {
		return fmt.Errorf("%s has other images than %s:%s; run `make generate`", from, image.LocalName, s.Version)
	}
	return os.WriteFile(file, bytes.ReplaceAll(text, old, replacement), 0o644)
}

// changes returns the changelog's section for the release: its own or, if the release need not have
// one, the one of what is not released yet.
func changes(o options) ([]byte, error) {
	file := filepath.Join(o.root, "CHANGELOG.md")
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	title := "Unreleased"
	if o.tag != "" {
		title = o.tag
	}
	notes := section(string(text), title)
	if notes == "" {
		return nil, fmt.Errorf("%s has no section [%s], or an empty one", file, title)
	}
	return []byte(notes + "\n"), nil
}

// section returns what is below a heading of level 2, "## [title]", up to the next one.
func section(text, title string) string {
	var found []string
	inside := false
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "## ") {
			inside = strings.HasPrefix(line, "## ["+title+"]")
		} else if inside {
			found = append(found, line)
		}
	}
	return strings.TrimSpace(strings.Join(found, ""))
}
