package image

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log"
	"maps"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// tree is a program that is laid out as Berth is, and compiles fast.
var tree = map[string]string{
	"go.mod":                      "module github.com/berth-lb/berth\n\ngo 1.26.0\n",
	"LICENSE":                     "do as you like\n",
	"internal/version/VERSION":    "v1.2.3\n",
	"internal/version/version.go": "package version\n\nvar linkedNumber, linkedCommit string\n\nfunc String() string { return linkedNumber + \" \" + linkedCommit }\n",
	"cmd/berth/main.go":           "package main\n\nimport \"github.com/berth-lb/berth/internal/version\"\n\nfunc main() { print(version.String()) }\n",
	"cmd/berth-heart/main.go":     "package main\n\nfunc main() {}\n",
	"cmd/berth-bgp/main.go":       "package main\n\nfunc main() {}\n",
}

// commitDate is the time of the commit of a repository.
const commitDate = "2026-03-04T05:06:07Z"

// newRepository makes a repository of the tree with one commit.
func newRepository(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for file, text := range tree {
		write(t, filepath.Join(root, file), text)
	}
	git(t, root, "init", "-q")
	git(t, root, "add", ".")
	git(t, root, "commit", "-q", "-m", "first")
	return root
}

func git(t *testing.T, root string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", args...)
	cmd.Dir = root
	cmd.Env = append(
		os.Environ(), "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_AUTHOR_DATE="+commitDate,
		"GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com", "GIT_COMMITTER_DATE="+commitDate,
		"GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null",
	)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("git %s: %v\n%s", args[0], err, out)
	}
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

// build builds the image of a tree, in a folder that it returns.
func build(t *testing.T, root string) (Set, string) {
	t.Helper()
	s, err := ReadSource(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	set, err := Build(t.Context(), s, dir)
	if err != nil {
		t.Fatal(err)
	}
	return set, dir
}

func digest(t *testing.T, of interface{ Digest() (v1.Hash, error) }) string {
	t.Helper()
	h, err := of.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return h.String()
}

func TestReadSource(t *testing.T) {
	root := newRepository(t)
	read := func() Source {
		s, err := ReadSource(t.Context(), root)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	clean := read()
	if len(clean.Commit) != 40 || clean.Version != "v1.2.3" || clean.Time.Format(time.RFC3339) != commitDate {
		t.Errorf("a clean repository is %+v", clean)
	}
	write(t, filepath.Join(root, "more.txt"), "more")
	if got := read().Commit; got != clean.Commit+"-dirty" {
		t.Errorf("with a file more the commit is %q", got)
	}
	if err := os.RemoveAll(filepath.Join(root, ".git")); err != nil {
		t.Fatal(err)
	}
	if got := read(); got.Commit != "" || got.Time.Unix() != 0 {
		t.Errorf("without a repository the source is %+v", got)
	}
}

// Equal source in two folders is an equal image, archives and lists of parts included; other
// source is another one.
func TestBuildIsReproducible(t *testing.T) {
	root := newRepository(t)
	first, one := build(t, root)
	second, two := build(t, newRepository(t))
	if a, b := digest(t, first.Index), digest(t, second.Index); a != b {
		t.Errorf("two builds have digests %s and %s", a, b)
	}
	for _, dir := range []string{one, two} {
		for _, write := range []func(string) ([]string, error){first.Write, first.WriteSBOMs} {
			if _, err := write(dir); err != nil {
				t.Fatal(err)
			}
		}
	}
	files, err := os.ReadDir(one)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range files {
		if f.IsDir() {
			continue
		}
		names = append(names, f.Name())
		if !bytes.Equal(read(t, filepath.Join(one, f.Name())), read(t, filepath.Join(two, f.Name()))) {
			t.Errorf("two files %s differ", f.Name())
		}
	}
	want := []string{
		"berth-image-linux-amd64.tar", "berth-image-linux-arm64.tar", "berth-image-oci.tar",
		"berth-linux-amd64.cdx.json", "berth-linux-arm64.cdx.json",
	}
	if !slices.Equal(names, want) {
		t.Errorf("files %q, want %q", names, want)
	}
	write(t, filepath.Join(root, "cmd/berth/main.go"), tree["cmd/berth/main.go"]+"\nfunc init() { print(1) }\n")
	if other, _ := build(t, root); digest(t, other.Index) == digest(t, first.Index) {
		t.Error("other source has the same digest")
	}
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestBuild(t *testing.T) {
	set, dir := build(t, newRepository(t))
	index, err := set.Index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if got := string(index.MediaType); got != "application/vnd.oci.image.index.v1+json" {
		t.Errorf("the index has type %s", got)
	}
	var platforms []string
	for _, m := range index.Manifests {
		platforms = append(platforms, m.Platform.String())
		if m.ArtifactType != "" {
			t.Errorf("the image for %s is called an artifact of type %s", m.Platform, m.ArtifactType)
		}
	}
	if want := []string{"linux/amd64", "linux/arm64/v8"}; !slices.Equal(platforms, want) {
		t.Errorf("platforms %q, want %q", platforms, want)
	}
	want := map[string]string{
		"org.opencontainers.image.title":       "berth",
		"org.opencontainers.image.description": "LoadBalancer Services for Kubernetes clusters without a cloud",
		"org.opencontainers.image.version":     "v1.2.3",
		"org.opencontainers.image.revision":    set.Source.Commit,
		"org.opencontainers.image.created":     commitDate,
		"org.opencontainers.image.licenses":    "Apache-2.0",
		"org.opencontainers.image.source":      "https://github.com/berth-lb/berth",
	}
	if !maps.Equal(index.Annotations, want) {
		t.Errorf("annotations of the index: %v, want %v", index.Annotations, want)
	}
	for _, im := range set.Images {
		manifest, err := im.Manifest()
		if err != nil {
			t.Fatal(err)
		}
		config, err := im.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		if !maps.Equal(manifest.Annotations, want) || !maps.Equal(config.Config.Labels, want) {
			t.Errorf(
				"%s: annotations %v and labels %v, want %v",
				im.Name(),
				manifest.Annotations,
				config.Config.Labels,
				want,
			)
		}
		if got := config.Architecture; got != im.Platform.Architecture {
			t.Errorf("%s: architecture %s", im.Name(), got)
		}
		if got := config.Config.Entrypoint; !slices.Equal(got, []string{"/berth"}) {
			t.Errorf("%s: entrypoint %q", im.Name(), got)
		}
		files := contents(t, im)
		if got := string(files["licenses/github.com/berth-lb/berth/LICENSE"]); got != "do as you like\n" {
			t.Errorf("%s: license %q", im.Name(), got)
		}
		for _, program := range programs {
			if !bytes.Equal(files[program], read(t, filepath.Join(dir, im.Name(), program))) {
				t.Errorf("%s: /%s is not the program", im.Name(), program)
			}
		}
	}
	// One of the programs runs here.
	for _, im := range set.Images {
		if out, err := exec.CommandContext(t.Context(), filepath.Join(dir, im.Name(), "berth")).CombinedOutput(); err == nil {
			if got, want := string(out), "v1.2.3 "+set.Source.Commit; got != want {
				t.Errorf("%s: the program says %q, want %q", im.Name(), got, want)
			}
			return
		}
	}
	t.Error("none of the programs runs here")
}

// contents returns the files of an image.
func contents(t *testing.T, im v1.Image) map[string][]byte {
	t.Helper()
	layers, err := im.Layers()
	if err != nil {
		t.Fatal(err)
	}
	files := make(map[string][]byte)
	for _, l := range layers {
		r, err := l.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		maps.Copy(files, untar(t, r))
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return files
}

func untar(t *testing.T, archive io.Reader) map[string][]byte {
	t.Helper()
	files := make(map[string][]byte)
	for r := tar.NewReader(archive); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		} else if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		files[h.Name] = body
	}
}

func TestSBOM(t *testing.T) {
	program := filepath.Join(t.TempDir(), "walls") // any program with a module of others in it
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, "../walls")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	s := Source{Version: "v1.2.3", Commit: "0123abcd", Time: time.Unix(0, 0).UTC()}
	text, err := sbom(s, Platforms()[0], read(t, program))
	if err != nil {
		t.Fatal(err)
	}
	var list cdx.BOM
	if err := cdx.NewBOMDecoder(bytes.NewReader(text), cdx.BOMFileFormatJSON).Decode(&list); err != nil {
		t.Fatal(err)
	}
	if got := list.Metadata.Component.PackageURL; got != "pkg:golang/github.com/berth-lb/berth@v1.2.3" {
		t.Errorf("the program is %s", got)
	}
	var urls []string
	for _, c := range *list.Components {
		urls = append(urls, c.PackageURL)
	}
	_, rest, _ := strings.Cut(string(read(t, "../go.mod")), "\tgolang.org/x/tools ")
	version, _, _ := strings.Cut(rest, "\n")
	for _, want := range []string{
		"pkg:golang/golang.org/x/tools@" + version, "pkg:golang/stdlib@" + strings.TrimPrefix(runtime.Version(), "go"),
	} {
		if !slices.Contains(urls, want) {
			t.Errorf("the list lacks %s: %q", want, urls)
		}
	}
	if n := len(*(*list.Dependencies)[0].Dependencies); n != len(*list.Components) {
		t.Errorf("the program depends on %d of %d components", n, len(*list.Components))
	}
}

// Docker's own reader takes an archive of one platform, and the reader of image layouts takes all.
func TestWrite(t *testing.T) {
	set, dir := build(t, newRepository(t))
	if _, err := set.Write(dir); err != nil {
		t.Fatal(err)
	}
	tag, err := name.NewTag("localhost/berth:v1.2.3")
	if err != nil {
		t.Fatal(err)
	}
	for _, im := range set.Images {
		file := filepath.Join(dir, "berth-image-"+im.Name()+".tar")
		loaded, err := tarball.ImageFromPath(file, &tag)
		if err != nil {
			t.Fatal(err)
		}
		a, err := loaded.ConfigName()
		if err != nil {
			t.Fatal(err)
		}
		if b, err := im.ConfigName(); err != nil || a != b {
			t.Errorf("%s: as Docker reads it the image is %s, want %s (%v)", file, a, b, err)
		}
		if got := layoutDigest(t, file); got != digest(t, im) {
			t.Errorf("%s: the layout names %s, want the image", file, got)
		}
	}
	if got := layoutDigest(t, filepath.Join(dir, "berth-image-oci.tar")); got != digest(t, set.Index) {
		t.Errorf("the archive of all platforms names %s, want the index", got)
	}
}

// layoutDigest unpacks an archive, validates all of it, and returns the digest of the one thing
// that it names.
func layoutDigest(t *testing.T, file string) string {
	t.Helper()
	dir := t.TempDir()
	for name, body := range untar(t, bytes.NewReader(read(t, file))) {
		write(t, filepath.Join(dir, name), string(body))
	}
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(index); err != nil {
		t.Errorf("%s: %v", file, err)
	}
	m, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Manifests) != 1 || m.Manifests[0].Annotations["io.containerd.image.name"] != "localhost/berth:v1.2.3" {
		text, _ := json.Marshal(m)
		t.Fatalf("%s names %s", file, text)
	}
	return m.Manifests[0].Digest.String()
}

func TestPush(t *testing.T) {
	set, _ := build(t, newRepository(t))
	for _, referrers := range []bool{true, false} {
		server := httptest.NewServer(
			registry.New(registry.WithReferrersSupport(referrers), registry.Logger(log.New(io.Discard, "", 0))),
		)
		t.Cleanup(server.Close)
		to, err := name.NewRepository(strings.TrimPrefix(server.URL, "http://") + "/infra/berth")
		if err != nil {
			t.Fatal(err)
		}
		pushed, err := set.Push(t.Context(), to)
		if err != nil {
			t.Fatal(err)
		}
		if want := to.Name() + "@" + digest(t, set.Index); pushed.Name() != want {
			t.Errorf("pushed %s, want %s", pushed, want)
		}
		for _, ref := range []name.Reference{pushed, to.Tag("v1.2.3")} {
			index, err := remote.Index(ref)
			if err != nil {
				t.Fatal(err)
			}
			if got := digest(t, index); got != pushed.DigestStr() {
				t.Errorf("%s is %s, want %s", ref, got, pushed.DigestStr())
			}
			if err := validate.Index(index); err != nil {
				t.Errorf("%s: %v", ref, err)
			}
		}
		for _, im := range set.Images {
			if got := attachedSBOM(t, to.Digest(digest(t, im))); !bytes.Equal(got, im.SBOM) {
				t.Errorf("the list of parts attached to the image for %s is %q", im.Name(), got)
			}
		}
	}
	t.Run("a registry that is not there", func(t *testing.T) {
		to, err := name.NewRepository("127.0.0.1:1/berth")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		_, err = set.Push(ctx, to, remote.WithRetryBackoff(remote.Backoff{Steps: 1}))
		if err == nil || !strings.Contains(err.Error(), "push 127.0.0.1:1/berth:v1.2.3: ") {
			t.Errorf("error %v, want that it names what was pushed", err)
		}
	})
}

// attachedSBOM returns what the one referrer of an image holds.
func attachedSBOM(t *testing.T, image name.Digest) []byte {
	t.Helper()
	found, err := remote.Referrers(image)
	if err != nil {
		t.Fatal(err)
	}
	list, err := found.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if len(list.Manifests) != 1 || list.Manifests[0].ArtifactType != string(sbomMediaType) {
		t.Fatalf("referrers of %s: %+v", image, list.Manifests)
	}
	artifact, err := remote.Image(image.Context().Digest(list.Manifests[0].Digest.String()))
	if err != nil {
		t.Fatal(err)
	}
	layers, err := artifact.Layers()
	if err != nil {
		t.Fatal(err)
	}
	r, err := layers[0].Compressed()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	body, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// The lists of parts and the licenses are those of the first program.
func TestProgramsNeedNoOtherModules(t *testing.T) {
	modules := func(command string) []string {
		cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", "{{with .Module}}{{.Path}}{{end}}", command)
		cmd.Dir = "../.."
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		return strings.Fields(string(out))
	}
	all := modules("./cmd/" + programs[0])
	for _, program := range programs[1:] {
		for _, module := range modules("./cmd/" + program) {
			if !slices.Contains(all, module) {
				t.Errorf("%s needs %s, which %s does not", program, module, programs[0])
			}
		}
	}
}
