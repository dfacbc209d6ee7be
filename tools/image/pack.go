package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Platforms are what Berth's image is built for.
func Platforms() []v1.Platform {
	return []v1.Platform{{OS: "linux", Architecture: "amd64"}, {OS: "linux", Architecture: "arm64", Variant: "v8"}}
}

// Set is Berth's image for all platforms.
type Set struct {
	Source Source
	Images []Image
	// Index names the images; its digest stands for all of them.
	Index v1.ImageIndex
}

// Image is the image for one platform.
type Image struct {
	v1.Image
	Platform v1.Platform
	SBOM     []byte // CycloneDX, JSON
}

// Name is the platform as part of a file's name.
func (i Image) Name() string { return i.Platform.OS + "-" + i.Platform.Architecture }

// ArtifactType says that this is an image and not one of the artifacts that are stored beside
// images: indexes then name no type, as those of other tools.
func (Image) ArtifactType() (string, error) { return "", nil }

// Build compiles the programs for all platforms, into folders of dir, and packs it.
func Build(ctx context.Context, s Source, dir string) (Set, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return Set{}, fmt.Errorf("find the output folder: %w", err)
	}
	set := Set{Source: s, Index: mutate.Annotations(empty.Index, s.annotations()).(v1.ImageIndex)}
	for _, p := range Platforms() {
		binaries := filepath.Join(dir, p.OS+"-"+p.Architecture)
		if err := s.Compile(ctx, p, binaries); err != nil {
			return Set{}, err
		}
		files, err := s.licenses(ctx, p)
		if err != nil {
			return Set{}, err
		}
		im, err := pack(s, p, binaries, files)
		if err != nil {
			return Set{}, fmt.Errorf("pack the image for %s: %w", p.String(), err)
		}
		set.Images = append(set.Images, im)
		set.Index = mutate.AppendManifests(
			set.Index,
			mutate.IndexAddendum{Add: im, Descriptor: v1.Descriptor{Platform: &p}},
		)
	}
	return set, nil
}

func pack(s Source, p v1.Platform, binaries string, licenses map[string][]byte) (Image, error) {
	compiled := map[string][]byte{}
	for _, name := range programs {
		program, err := os.ReadFile(filepath.Join(binaries, name))
		if err != nil {
			return Image{}, err
		}
		compiled[name] = program
	}
	parts, err := sbom(s, p, compiled[programs[0]])
	if err != nil {
		return Image{}, err
	}
	// The licenses come first: they change less often.
	layers := make([]mutate.Addendum, 0, 2)
	for _, content := range []struct {
		files map[string][]byte
		mode  int64
		what  string
	}{
		{files: licenses, mode: 0o644, what: "licenses"},
		{files: compiled, mode: 0o755, what: "berth " + s.Version},
	} {
		layer, err := packLayer(content.files, content.mode)
		if err != nil {
			return Image{}, err
		}
		layers = append(layers, mutate.Addendum{
			Layer:   layer,
			History: v1.History{Created: v1.Time{Time: s.Time}, CreatedBy: "berth/tools/image", Comment: content.what},
		})
	}
	im := mutate.MediaType(empty.Image, types.OCIManifestSchema1)
	im = mutate.ConfigMediaType(im, types.OCIConfigJSON)
	im, err = mutate.ConfigFile(im, &v1.ConfigFile{
		OS: p.OS, Architecture: p.Architecture, Variant: p.Variant,
		Created: v1.Time{Time: s.Time},
		RootFS:  v1.RootFS{Type: "layers"},
		Config: v1.Config{
			User: "0:0", Env: []string{"PATH=/"}, Entrypoint: []string{"/berth"}, WorkingDir: "/",
			Labels: s.annotations(),
		},
	})
	if err != nil {
		return Image{}, err
	}
	if im, err = mutate.Append(im, layers...); err != nil {
		return Image{}, err
	}
	im = mutate.Annotations(im, s.annotations()).(v1.Image)
	return Image{Image: im, Platform: p, SBOM: parts}, nil
}

// annotations are those of the OCI image specification, annotations.md. They are the image's labels
// too, since not every tool reads both.
func (s Source) annotations() map[string]string {
	const prefix = "org.opencontainers.image."
	all := map[string]string{
		prefix + "title":       "berth",
		prefix + "description": "LoadBalancer Services for Kubernetes clusters without a cloud",
		prefix + "version":     s.Version,
		prefix + "created":     s.Time.Format(time.RFC3339),
		prefix + "licenses":    "Apache-2.0",
		prefix + "source":      "https://" + module,
	}
	if s.Commit != "" {
		all[prefix+"revision"] = s.Commit
	}
	return all
}

// packLayer packs files that root owns, in order of their paths, with the folders that lead to
// them.
func packLayer(files map[string][]byte, mode int64) (v1.Layer, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	made := map[string]bool{".": true}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := putFolders(w, path.Dir(name), made); err != nil {
			return nil, err
		}
		if err := putFile(w, name, mode, files[name]); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(
		func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(out.Bytes())), nil },
		tarball.WithMediaType(types.OCILayer),
		tarball.WithCompressionLevel(gzip.DefaultCompression),
		tarball.WithCompressedCaching,
	)
}

func putFolders(w *tar.Writer, dir string, made map[string]bool) error {
	if made[dir] {
		return nil
	}
	made[dir] = true
	if err := putFolders(w, path.Dir(dir), made); err != nil {
		return err
	}
	return w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755, ModTime: time.Unix(0, 0)})
}

func putFile(w *tar.Writer, name string, mode int64, body []byte) error {
	err := w.WriteHeader(&tar.Header{
		Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(body)), ModTime: time.Unix(0, 0),
	})
	if err != nil {
		return err
	}
	_, err = w.Write(body)
	return err
}
