package stock

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The modules that Kubernetes has in its own tree become those that were published with it. All
// others stay as Kubernetes released them.
func TestWriteKubernetesModule(t *testing.T) {
	source, dir := t.TempDir(), t.TempDir()
	write(t, filepath.Join(source, "go.mod"), `module k8s.io/kubernetes

go 1.24.0

godebug default=go1.24

tool example.com/generator

require (
	example.com/kept v1.2.3
	k8s.io/api v0.0.0
)

replace k8s.io/api => ./staging/src/k8s.io/api

replace example.com/kept => example.com/fork v1.2.4
`)
	write(t, filepath.Join(source, "go.sum"), "example.com/fork v1.2.4 h1:sum\n")
	downloaded, err := json.Marshal(map[string]string{"Dir": source})
	if err != nil {
		t.Fatal(err)
	}
	if err := writeKubernetesModule(t.Context(), dir, "v1.34.4", downloaded); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "go.mod.new"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"module berth.dev/kubernetes\n", "godebug default=go1.24\n", "k8s.io/kubernetes v1.34.4\n",
		"replace k8s.io/api => k8s.io/api v0.34.4\n", "replace example.com/kept => example.com/fork v1.2.4\n",
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("go.mod has no %q:\n%s", want, text)
		}
	}
	for _, gone := range []string{"staging", "generator"} {
		if strings.Contains(string(text), gone) {
			t.Errorf("go.mod has %q:\n%s", gone, text)
		}
	}
	if sums, err := os.ReadFile(filepath.Join(dir, "go.sum")); err != nil || !strings.Contains(string(sums), "h1:sum") {
		t.Errorf("go.sum is %q, %v", sums, err)
	}
}

func TestBuildKubernetesWantsAVersion(t *testing.T) {
	f := Folder{Root: t.TempDir()}
	for _, version := range []string{"", "1.34.4", "v1.34", "v1.34.4-rc.1", "v1.34.4/../..", "v2.0.0"} {
		if err := f.BuildKubernetes(t.Context(), &bytes.Buffer{}, version); err == nil ||
			!strings.Contains(err.Error(), "want one such as") {
			t.Errorf("version %q: %v", version, err)
		}
	}
}
