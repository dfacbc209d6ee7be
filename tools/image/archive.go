package image

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
)

// LocalName is the image's name in archives and in manifests/berth.yaml: of a host that no node
// asks for images.
const LocalName = "localhost/berth"

// Write writes archives into dir and returns their names: one for each platform, and
// berth-image-oci.tar with all.
//
// All are OCI image layouts. Those of one platform have Docker's manifest.json too, for Dockers and
// for tools that know no other.
func (s Set) Write(dir string) ([]string, error) {
	named := v1.Descriptor{Annotations: map[string]string{
		"io.containerd.image.name":          LocalName + ":" + s.Source.Version,
		"org.opencontainers.image.ref.name": s.Source.Version,
	}}
	var names []string
	for _, im := range s.Images {
		d := *named.DeepCopy()
		d.Platform = &im.Platform
		text, err := dockerManifest(im, LocalName+":"+s.Source.Version)
		if err != nil {
			return nil, fmt.Errorf("describe the image for %s: %w", im.Platform.String(), err)
		}
		name := "berth-image-" + im.Name() + ".tar"
		index := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: im, Descriptor: d})
		if err := writeArchive(filepath.Join(dir, name), index, text); err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	const all = "berth-image-oci.tar"
	index := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: s.Index, Descriptor: named})
	if err := writeArchive(filepath.Join(dir, all), index, nil); err != nil {
		return nil, err
	}
	return append(names, all), nil
}

// WriteSBOMs writes the lists of parts into dir and returns their names.
func (s Set) WriteSBOMs(dir string) ([]string, error) {
	var names []string
	for _, im := range s.Images {
		name := "berth-" + im.Name() + ".cdx.json"
		if err := os.WriteFile(filepath.Join(dir, name), im.SBOM, 0o644); err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	return names, nil
}

// dockerManifest is a manifest.json whose files are those of the image layout.
func dockerManifest(im v1.Image, name string) ([]byte, error) {
	m, err := im.Manifest()
	if err != nil {
		return nil, err
	}
	blob := func(h v1.Hash) string { return "blobs/" + h.Algorithm + "/" + h.Hex }
	entry := struct {
		Config   string
		RepoTags []string
		Layers   []string
	}{Config: blob(m.Config.Digest), RepoTags: []string{name}}
	for _, l := range m.Layers {
		entry.Layers = append(entry.Layers, blob(l.Digest))
	}
	return json.Marshal([]any{entry})
}

// writeArchive writes an image layout as a tar archive, with Docker's manifest.json unless it is
// nil.
func writeArchive(file string, index v1.ImageIndex, docker []byte) (err error) {
	dir, err := os.MkdirTemp("", "berth-image-")
	if err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	defer os.RemoveAll(dir)
	if _, err := layout.Write(dir, index); err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	if docker != nil {
		if err := os.WriteFile(filepath.Join(dir, "manifest.json"), docker, 0o644); err != nil {
			return fmt.Errorf("write %s: %w", file, err)
		}
	}
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if err := WriteTar(out, os.DirFS(dir), ""); err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	return nil
}

// WriteTar writes all files of a tree, in order of their paths, each with prefix before its path.
// Owners, times and permissions of the files do not matter: the same files give the same bytes.
func WriteTar(out io.Writer, tree fs.FS, prefix string) error {
	w := tar.NewWriter(out)
	err := fs.WalkDir(tree, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		body, err := fs.ReadFile(tree, name)
		if err != nil {
			return err
		}
		mode := int64(0o644)
		if info, err := entry.Info(); err == nil && info.Mode()&0o100 != 0 {
			mode = 0o755
		}
		return putFile(w, prefix+name, mode, body)
	})
	if err != nil {
		return err
	}
	return w.Close()
}
