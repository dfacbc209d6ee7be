package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

const manifest = `kind: Deployment
        image: localhost/berth:v1.2.3
kind: DaemonSet
        image: localhost/berth:v1.2.3
`

// newTree is laid out as Berth's repository, with a program that compiles fast.
func newTree(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for file, text := range map[string]string{
		"go.mod":                      "module github.com/berth-lb/berth\n\ngo 1.26.0\n",
		"LICENSE":                     "do as you like\n",
		"CHANGELOG.md":                "# Changelog\n\n## [Unreleased]\n\n- soon\n\n## [v1.2.3] - 2026-03-04\n\n### Added\n\n- much\n\n## [v1.2.2]\n",
		"internal/version/VERSION":    "v1.2.3\n",
		"cmd/berth/main.go":           "package main\n\nfunc main() {}\n",
		"cmd/berth-heart/main.go":     "package main\n\nfunc main() {}\n",
		"cmd/berth-bgp/main.go":       "package main\n\nfunc main() {}\n",
		"cmd/kubectl-berth/main.go":   "package main\n\nfunc main() {}\n",
		"manifests/berth.yaml":        manifest,
		"charts/berth/Chart.yaml":     "{name: berth, version: 1.2.3, appVersion: v1.2.3}\n",
		"charts/berth/templates/x.md": "x\n",
	} {
		write(t, filepath.Join(root, file), text)
	}
	return root
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func files(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestRelease(t *testing.T) {
	root, out := newTree(t), filepath.Join(t.TempDir(), "dist")
	write(t, filepath.Join(out, "old"), "of a former run")
	args := []string{"-C", root, "-o", out, "-registry", "registry.example.com/infra", "-tag", "v1.2.3", "release"}
	if err := run(t.Context(), args, io.Discard); err != nil {
		t.Fatal(err)
	}
	made := []string{
		"SHA256SUMS", "berth-1.2.3.tgz", "berth-image-linux-amd64.tar", "berth-image-linux-arm64.tar",
		"berth-image-oci.tar", "berth-linux-amd64.cdx.json", "berth-linux-arm64.cdx.json", "berth-registry.yaml",
		"berth.yaml", "kubectl-berth-v1.2.3-darwin-amd64.tar.gz", "kubectl-berth-v1.2.3-darwin-arm64.tar.gz",
		"kubectl-berth-v1.2.3-linux-amd64.tar.gz", "kubectl-berth-v1.2.3-linux-arm64.tar.gz",
		"kubectl-berth-v1.2.3-windows-amd64.tar.gz", "release-notes.md",
	}
	if got := files(t, out); !slices.Equal(got, made) {
		t.Errorf("made %q, want %q", got, made)
	}
	sums := read(t, filepath.Join(out, "SHA256SUMS"))
	for _, file := range made[1:] {
		want := fmt.Sprintf("%x  %s\n", sha256.Sum256([]byte(read(t, filepath.Join(out, file)))), file)
		if !strings.Contains(sums, want) {
			t.Errorf("SHA256SUMS has no line %q", want)
		}
	}
	if got := read(t, filepath.Join(out, "berth.yaml")); got != manifest {
		t.Errorf("the manifest for archives is %q", got)
	}
	if got := read(t, filepath.Join(out, "release-notes.md")); got != "### Added\n\n- much\n" {
		t.Errorf("the notes are %q", got)
	}
	byDigest := read(t, filepath.Join(out, "berth-registry.yaml"))
	if n := strings.Count(byDigest, "        image: registry.example.com/infra/berth@sha256:"); n != 2 {
		t.Errorf("the manifest for registries names the image by digest %d times, want 2:\n%s", n, byDigest)
	}
	linux := untar(t, filepath.Join(out, "kubectl-berth-v1.2.3-linux-amd64.tar.gz"))
	if !strings.HasPrefix(linux["kubectl-berth"], "\x7fELF") || linux["LICENSE"] != "do as you like\n" || len(linux) != 2 {
		t.Errorf("the plugin's archive has %d files", len(linux))
	}
	windows := untar(t, filepath.Join(out, "kubectl-berth-v1.2.3-windows-amd64.tar.gz"))
	if !strings.HasPrefix(windows["kubectl-berth.exe"], "MZ") {
		t.Error("there is no program for Windows")
	}
	want := map[string]string{
		"berth/Chart.yaml":     "{name: berth, version: 1.2.3, appVersion: v1.2.3}\n",
		"berth/templates/x.md": "x\n",
	}
	got := untar(t, filepath.Join(out, "berth-1.2.3.tgz"))
	if len(got) != len(want) {
		t.Errorf("the chart has %d files, want %d", len(got), len(want))
	}
	for file, text := range want {
		if got[file] != text {
			t.Errorf("the chart's %s is %q, want %q", file, got[file], text)
		}
	}
}

func untar(t *testing.T, file string) map[string]string {
	t.Helper()
	text, err := gzip.NewReader(strings.NewReader(read(t, file)))
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[string]string)
	for r := tar.NewReader(text); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return found
		} else if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		found[h.Name] = string(body)
	}
}

// Without a registry and a chart there are no files for them, and the notes say what is to come.
func TestReleaseWithoutRegistryOrChart(t *testing.T) {
	root, out := newTree(t), t.TempDir()
	if err := os.RemoveAll(filepath.Join(root, "charts")); err != nil {
		t.Fatal(err)
	}
	if err := run(t.Context(), []string{"-C", root, "-o", out, "release"}, io.Discard); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"berth-registry.yaml", "berth-1.2.3.tgz"} {
		if slices.Contains(files(t, out), file) {
			t.Errorf("%s is there", file)
		}
	}
	if got := read(t, filepath.Join(out, "release-notes.md")); got != "- soon\n" {
		t.Errorf("the notes are %q", got)
	}
}

func TestPush(t *testing.T) {
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	host := strings.TrimPrefix(server.URL, "http://")
	root, out := newTree(t), t.TempDir()
	var printed bytes.Buffer
	args := []string{"-C", root, "-o", out, "-registry", host + "/infra", "push"}
	if err := run(t.Context(), args, &printed); err != nil {
		t.Fatal(err)
	}
	tag, err := name.NewTag(host + "/infra/berth:v1.2.3")
	if err != nil {
		t.Fatal(err)
	}
	pushed, err := remote.Get(tag)
	if err != nil {
		t.Fatal(err)
	}
	byDigest := host + "/infra/berth@" + pushed.Digest.String()
	want := strings.ReplaceAll(manifest, "localhost/berth:v1.2.3", byDigest)
	if got := read(t, filepath.Join(out, "berth-registry.yaml")); got != want {
		t.Errorf("the manifest is %q, want %q", got, want)
	}
	if !strings.Contains(printed.String(), "pushed "+byDigest+", tag v1.2.3\n") {
		t.Errorf("printed %q", printed.String())
	}
}

func TestRefusals(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(t *testing.T, root string)
		args   []string
		want   string
	}{
		{
			name: "no registry", args: []string{"push"},
			want: "no registry is named: make image-push REGISTRY=registry.example.com/infra",
		},
		{
			name: "a registry without a host", args: []string{"-registry", "infra", "push"},
			want: "registry infra: begins with no host; write registry.example.com/infra",
		},
		{
			name: "another tag", args: []string{"-tag", "v1.2.2", "image"},
			want: "internal/version/VERSION says v1.2.3, not v1.2.2",
		},
		{
			name:   "no section in the changelog",
			change: func(t *testing.T, root string) { write(t, filepath.Join(root, "CHANGELOG.md"), "# Changelog\n") },
			args:   []string{"-tag", "v1.2.3", "release"},
			want:   "CHANGELOG.md has no section [v1.2.3], or an empty one",
		},
		{
			name: "a chart of another version",
			change: func(t *testing.T, root string) {
				write(t, filepath.Join(root, "charts/berth/Chart.yaml"), "{name: berth, version: 1.2.2, appVersion: v1.2.3}\n")
			},
			args: []string{"release"},
			want: "Chart.yaml has version 1.2.2 and appVersion v1.2.3, want 1.2.3 and v1.2.3",
		},
		{
			name: "an image that the manifest does not name so",
			change: func(t *testing.T, root string) {
				write(t, filepath.Join(root, "manifests/berth.yaml"), manifest+"        image: example.com/other:1\n")
			},
			args: []string{"release"},
			want: "berth.yaml has other images than localhost/berth:v1.2.3; run `make generate`",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			root := newTree(t)
			if test.change != nil {
				test.change(t, root)
			}
			err := run(t.Context(), append([]string{"-C", root, "-o", t.TempDir()}, test.args...), io.Discard)
			if err == nil || !strings.HasSuffix(err.Error(), test.want) {
				t.Errorf("error %v, want %q", err, test.want)
			}
		})
	}
}
