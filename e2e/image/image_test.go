package image

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestPackedArchiveNamesItsImageAndHoldsItsFiles(t *testing.T) {
	archive := untar(t, pack(t, "hello"))
	var list []manifest
	if err := json.Unmarshal(archive["manifest.json"], &list); err != nil {
		t.Fatal(err)
	}
	if len(list) != 1 || len(list[0].RepoTags) != 1 || list[0].RepoTags[0] != "berth.dev/x:1" {
		t.Fatalf("manifest = %+v", list)
	}
	var c config
	if err := json.Unmarshal(archive[list[0].Config], &c); err != nil {
		t.Fatal(err)
	}
	layer := archive[list[0].Layers[0]]
	if got, want := c.RootFS.DiffIDs[0], "sha256:"+digest(layer); got != want {
		t.Errorf("diff ID = %s, want %s", got, want)
	}
	if got := list[0].Config; got != digest(archive[got])+".json" {
		t.Errorf("configuration %s is not named by its digest", got)
	}
	files := untar(t, layer)
	if got := string(files["opt/x"]); got != "hello" {
		t.Errorf("opt/x = %q, want hello", got)
	}
	if _, ok := files["opt/"]; !ok {
		t.Error("the layer does not hold the directory opt/")
	}
}

func TestSameInputGivesSameBytes(t *testing.T) {
	first, second, other := pack(t, "hello"), pack(t, "hello"), pack(t, "hallo")
	if !bytes.Equal(first, second) {
		t.Error("two archives of the same content differ")
	}
	if bytes.Equal(first, other) {
		t.Error("archives of different content are equal")
	}
}

// pack packs a file of the given content, written at another place and time on each call.
func pack(t *testing.T, content string) []byte {
	t.Helper()
	file := filepath.Join(t.TempDir(), "x")
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	when := time.Unix(int64(len(file))*1000, 0)
	if err := os.Chtimes(file, when, when); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	err := Pack(
		&out,
		Image{Name: "berth.dev/x:1", Files: map[string]string{"/opt/x": file}, Entrypoint: []string{"/opt/x"}},
	)
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func untar(t *testing.T, archive []byte) map[string][]byte {
	t.Helper()
	found := map[string][]byte{}
	r := tar.NewReader(bytes.NewReader(archive))
	for {
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
		found[h.Name] = body
	}
}
