package stock

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/berth-lb/berth/e2e/image"
	"github.com/berth-lb/berth/internal/version"
)

// KubernetesVersion is the version that the lab's components report. They are built from the
// k8s.io/kubernetes module that e2e/go.mod requires.
const KubernetesVersion = "v1.36.3"

// BerthImage is the reference of Berth's image: the one that manifests/berth.yaml names.
func BerthImage() string { return "localhost/berth:" + version.Number() }

type binary struct {
	name    string
	module  string // folder of the module, from the repository's root
	pkg     string // package in it, or of a module that it requires
	ldflags string
	image   string            // image packed from the binary, if any
	also    map[string]string // other files of the image, and the binaries that they are
	images  string            // folder of the image; empty: Images
	user    string            // user of the image
	note    string            // said before the build
}

func binaries() []binary {
	kube := kubernetesFlags(KubernetesVersion)
	return []binary{
		{name: "lab", module: "e2e", pkg: "./cmd/lab"},
		{name: "pause", module: "e2e", pkg: "./cmd/pause", ldflags: "-s -w", image: "berth.dev/pause:1", user: "65535:65535"},
		{name: "echo", module: "e2e", pkg: "./cmd/echo", ldflags: "-s -w", image: "berth.dev/echo:1", user: "65532:65532"},
		{name: "berth-heart", module: ".", pkg: "./cmd/berth-heart", ldflags: "-s -w"},
		{name: "berth-bgp", module: ".", pkg: "./cmd/berth-bgp", ldflags: "-s -w"},
		{
			name: "berth", module: ".", pkg: "./cmd/berth", ldflags: "-s -w", image: BerthImage(),
			also: map[string]string{"/berth-heart": "berth-heart", "/berth-bgp": "berth-bgp"}, user: "0:0",
		},
		{name: "kubectl-berth", module: ".", pkg: "./cmd/kubectl-berth", ldflags: "-s -w"},
		{name: "kube", module: "e2e", pkg: "./cmd/kube", ldflags: kube, note: " (Kubernetes: several minutes the first time)"},
		{name: "kubelet", module: "e2e", pkg: "./cmd/kubelet", ldflags: kube},
	}
}

// Build compiles every binary of the lab and packs the images. It is fast if nothing changed, since
// the go command decides what to compile.
func (f Folder) Build(ctx context.Context, log io.Writer) error {
	return f.build(ctx, log, binaries())
}

func (f Folder) build(ctx context.Context, log io.Writer, binaries []binary) error {
	if _, err := exec.LookPath("go"); err != nil {
		return errors.New("there is no go command in PATH: install Go 1.26 (https://go.dev/dl) and try again")
	}
	for _, dir := range []string{f.Bin(""), f.Images(), f.GuestImages()} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("build: %w", err)
		}
	}
	for _, b := range binaries {
		if _, err := os.Stat(filepath.Join(f.Repository, b.module, b.pkg)); strings.HasPrefix(b.pkg, ".") &&
			errors.Is(err, os.ErrNotExist) {
			fmt.Fprintf(log, "%s is not in this tree: left out\n", b.name)
			continue
		}
		begun := time.Now()
		fmt.Fprintf(log, "building %s%s\n", b.name, b.note)
		if err := f.compile(ctx, b); err != nil {
			return err
		}
		if took := time.Since(begun); took > 5*time.Second {
			fmt.Fprintf(log, "built %s in %.0f s\n", b.name, took.Seconds())
		}
		if b.image == "" {
			continue
		}
		if err := f.pack(b); err != nil {
			return err
		}
	}
	return nil
}

// compile leaves out the commit; otherwise each commit would link Kubernetes again.
func (f Folder) compile(ctx context.Context, b binary) error {
	cmd := exec.CommandContext(
		ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", b.ldflags, "-o", f.Bin(b.name), b.pkg,
	)
	cmd.Dir = filepath.Join(f.Repository, b.module)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", b.name, err, bytes.TrimSpace(out))
	}
	return nil
}

// pack writes the image of a binary, unless it is there already.
func (f Folder) pack(b binary) error {
	var archive bytes.Buffer
	files := map[string]string{"/" + b.name: f.Bin(b.name)}
	for path, name := range b.also {
		files[path] = f.Bin(name)
	}
	err := image.Pack(&archive, image.Image{
		Name:       b.image,
		Files:      files,
		Entrypoint: []string{"/" + b.name},
		User:       b.user,
	})
	if err != nil {
		return err
	}
	dir := b.images
	if dir == "" {
		dir = f.Images()
	}
	path := filepath.Join(dir, b.name+".tar")
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, archive.Bytes()) {
		return nil
	}
	if err := os.WriteFile(path+".new", archive.Bytes(), 0o644); err != nil {
		return fmt.Errorf("pack image %s: %w", b.image, err)
	}
	return os.Rename(path+".new", path)
}
