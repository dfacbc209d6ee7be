// Package image packs static binaries into container images, as archives that containerd imports
// (`ctr images import`): no registry, no container engine.
package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"
	"time"
)

// Image describes an image of one layer.
type Image struct {
	// Name is the full reference, such as "berth.dev/echo:1".
	Name string
	// Files are the contents of the layer: path in the image to file on disk. All are owned by root
	// and executable.
	Files map[string]string
	// Entrypoint is the command, without a shell.
	Entrypoint []string
	// User is the numeric user, or empty for root.
	User string
}

type config struct {
	Architecture string        `json:"architecture"`
	OS           string        `json:"os"`
	Config       runtimeConfig `json:"config"`
	RootFS       rootFS        `json:"rootfs"`
}

type runtimeConfig struct {
	User       string   `json:"User,omitempty"`
	Env        []string `json:"Env"`
	Entrypoint []string `json:"Entrypoint"`
	WorkingDir string   `json:"WorkingDir"`
}

type rootFS struct {
	Type    string   `json:"type"`
	DiffIDs []string `json:"diff_ids"`
}

type manifest struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// Pack writes the image to w in the format of `docker save`. The same input gives the same bytes.
func Pack(w io.Writer, im Image) error {
	layer, err := packLayer(im.Files)
	if err != nil {
		return fmt.Errorf("pack image %s: %w", im.Name, err)
	}
	conf, err := json.Marshal(config{
		Architecture: runtime.GOARCH,
		OS:           "linux",
		Config: runtimeConfig{
			User: im.User, Env: []string{"PATH=/"}, Entrypoint: im.Entrypoint, WorkingDir: "/",
		},
		RootFS: rootFS{Type: "layers", DiffIDs: []string{"sha256:" + digest(layer)}},
	})
	if err != nil {
		return fmt.Errorf("pack image %s: %w", im.Name, err)
	}
	confName := digest(conf) + ".json"
	list, err := json.Marshal([]manifest{{Config: confName, RepoTags: []string{im.Name}, Layers: []string{"layer.tar"}}})
	if err != nil {
		return fmt.Errorf("pack image %s: %w", im.Name, err)
	}
	archive := tar.NewWriter(w)
	for _, f := range []struct {
		name string
		body []byte
	}{{"manifest.json", list}, {confName, conf}, {"layer.tar", layer}} {
		if err := put(archive, f.name, 0o644, f.body); err != nil {
			return fmt.Errorf("pack image %s: %w", im.Name, err)
		}
	}
	if err := archive.Close(); err != nil {
		return fmt.Errorf("pack image %s: %w", im.Name, err)
	}
	return nil
}

// packLayer writes the files in order of their path, with the directories that lead to them.
func packLayer(files map[string]string) ([]byte, error) {
	var out bytes.Buffer
	layer := tar.NewWriter(&out)
	names := make([]string, 0, len(files))
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	made := map[string]bool{".": true, "/": true}
	for _, name := range names {
		inside := strings.TrimPrefix(path.Clean(name), "/")
		if err := putDirs(layer, path.Dir(inside), made); err != nil {
			return nil, err
		}
		body, err := os.ReadFile(files[name])
		if err != nil {
			return nil, err
		}
		if err := put(layer, inside, 0o755, body); err != nil {
			return nil, err
		}
	}
	if err := layer.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

func putDirs(w *tar.Writer, dir string, made map[string]bool) error {
	if made[dir] {
		return nil
	}
	if err := putDirs(w, path.Dir(dir), made); err != nil {
		return err
	}
	made[dir] = true
	return w.WriteHeader(&tar.Header{
		Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755, ModTime: epoch(), Format: tar.FormatUSTAR,
	})
}

func put(w *tar.Writer, name string, mode int64, body []byte) error {
	err := w.WriteHeader(&tar.Header{
		Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(body)), ModTime: epoch(), Format: tar.FormatUSTAR,
	})
	if err != nil {
		return err
	}
	_, err = w.Write(body)
	return err
}

func epoch() time.Time { return time.Unix(0, 0).UTC() }

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
