//go:build release

package release

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/e2e/lab"
	"github.com/berth-lb/berth/e2e/stage"
	"github.com/berth-lb/berth/e2e/stock"
	"github.com/berth-lb/berth/internal/version"
)

// command runs a program in a folder and returns its standard output.
func command(t *testing.T, dir string, env []string, argv ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s%s", strings.Join(argv, " "), err, out, stderr.Bytes())
	}
	return string(out)
}

// tool builds a package that tools/go.mod knows, and returns the program.
func tool(t *testing.T, pkg string) (program, repository string) {
	t.Helper()
	work, err := stock.Find()
	if err != nil {
		t.Fatal(err)
	}
	program = filepath.Join(t.TempDir(), filepath.Base(pkg))
	command(t, filepath.Join(work.Repository, "tools"), nil, "go", "build", "-o", program, pkg)
	return program, work.Repository
}

var digestLine = regexp.MustCompile(`(?m)^sha256:[0-9a-f]{64}$`)

// TestImageIsReproducible builds the image of the last commit in two clones, once with a cache of
// compiled packages that begins empty.
func TestImageIsReproducible(t *testing.T) {
	dist, repository := tool(t, "./dist")
	var digests []string
	for _, env := range [][]string{nil, {"GOCACHE=" + t.TempDir()}} {
		clone := filepath.Join(t.TempDir(), "berth")
		command(t, repository, nil, "git", "clone", "-q", "--no-hardlinks", repository, clone)
		out := command(t, clone, env, dist, "-o", filepath.Join(clone, "bin/image"), "image")
		digests = append(digests, digestLine.FindString(out))
	}
	if digests[0] == "" || digests[0] != digests[1] {
		t.Errorf("two builds have digests %q, want equal ones", digests)
	}
}

// TestProgramForARM64 runs the program for arm64 on an emulated processor.
func TestProgramForARM64(t *testing.T) {
	dist, repository := tool(t, "./dist")
	dir := t.TempDir()
	debs, packages := filepath.Join(dir, "debs"), filepath.Join(dir, "packages")
	if _, err := stock.DownloadAlone(t.Context(), debs, t.Output(), "qemu-user-static"); err != nil {
		t.Fatal(err)
	}
	if _, err := stock.Unpack(t.Context(), debs, packages); err != nil {
		t.Fatal(err)
	}
	command(t, repository, nil, dist, "-o", filepath.Join(dir, "image"), "image")
	got := command(
		t, dir, nil, filepath.Join(packages, "usr/bin/qemu-aarch64-static"),
		filepath.Join(dir, "image/linux-arm64/berth"), "version",
	)
	if !strings.HasPrefix(got, "berth "+version.Number()+", commit ") || !strings.HasSuffix(got, " linux/arm64\n") {
		t.Errorf("the program says %q", got)
	}
}

// TestReleaseFiles installs Berth from what a release publishes: from a registry by digest, and
// from an archive by tag.
func TestReleaseFiles(t *testing.T) {
	dist, repository := tool(t, "./dist")
	registry := serveRegistry(t)
	out := t.TempDir()
	released := filepath.Join(out, "release")
	command(t, repository, nil, dist, "-o", released, "-registry", registry+"/infra", "release")
	command(t, released, nil, "sha256sum", "--check", "--quiet", "SHA256SUMS")
	pushed := command(
		t,
		repository,
		nil,
		dist,
		"-o",
		filepath.Join(out, "pushed"),
		"-registry",
		registry+"/infra",
		"push",
	)
	digest := digestLine.FindString(pushed)

	// A lab for each: the kubelet remembers how an image came to its node.
	t.Run("from a registry, by digest", func(t *testing.T) {
		s := raise(t, lab.Options{Name: "images", Nodes: 2, Router: "none"})
		for _, node := range s.Nodes() {
			passOn(t, s, node, registry)
		}
		installs(t, s, filepath.Join(released, "berth-registry.yaml"), registry+"/infra/berth@"+digest)
	})
	t.Run("from an archive, by tag", func(t *testing.T) {
		s := raise(t, lab.Options{Name: "images", Nodes: 2, Router: "none"})
		named := stock.BerthImage()
		for _, node := range s.Nodes() {
			// The lab's own image has the name, too.
			ctr(t, s, node, "", "rm", "--sync", named)
			archive := filepath.Join(released, "berth-image-linux-"+runtime.GOARCH+".tar")
			// As `kind load image-archive` does it.
			ctr(t, s, node, archive, "import", "--all-platforms", "--digests", "--snapshotter=overlayfs", "-")
		}
		installs(t, s, filepath.Join(released, "berth.yaml"), named)

		node := s.Nodes()[0]
		ctr(t, s, node, filepath.Join(released, "berth-image-oci.tar"), "import", "-")
		if got := ctr(t, s, node, "", "ls", "name=="+named); !strings.Contains(got, digest) {
			t.Errorf("after the import of the archive of all platforms the image is not %s:\n%s", digest, got)
		}
	})
}

// serveRegistry runs a registry on this machine's loopback and returns its host and port.
func serveRegistry(t *testing.T) string {
	t.Helper()
	crane, _ := tool(t, "github.com/google/go-containerregistry/cmd/crane")
	free, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(crane, "registry", "serve", "--address", address)
	var log bytes.Buffer
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("the registry:\n%s", log.Bytes())
		}
	})
	eventually(t, func(ctx context.Context) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/v2/", nil)
		if err != nil {
			return err
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return err
		}
		return response.Body.Close()
	})
	return address
}

// passOn makes the registry of this machine's loopback one of the node's loopback, which containerd
// speaks to without TLS.
func passOn(t *testing.T, s *stage.Stage, node, address string) {
	t.Helper()
	var listener net.Listener
	err := s.In(node, func() (err error) {
		listener, err = (&net.ListenConfig{}).Listen(t.Context(), "tcp", address)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: address})}
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	t.Cleanup(func() {
		_ = server.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("serve the registry on %s: %v", node, err)
		}
	})
}

// ctr runs a command for containerd's images on a node, with a file as its input unless that is
// empty.
func ctr(t *testing.T, s *stage.Stage, node, input string, args ...string) string {
	t.Helper()
	cmd := s.Exec(t.Context(), node, append([]string{"ctr", "-n", "k8s.io", "images"}, args...)...)
	if input != "" {
		file, err := os.Open(input)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		cmd.Stdin = file
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("ctr images %s on %s: %v\n%s", strings.Join(args, " "), node, err, out)
	}
	return string(out)
}

// installs applies a manifest of a release. Berth must get ready from the image, and be the one
// that the release was built from.
func installs(t *testing.T, s *stage.Stage, manifest, image string) {
	t.Helper()
	t.Cleanup(func() {
		if t.Failed() {
			s.Explain(context.Background(), t.Output())
		}
	})
	must(t, func(ctx context.Context) error {
		_, err := s.Kubectl(ctx, "", "apply", "-f", manifest)
		return err
	}, s.AwaitBerth)
	pods, err := s.Kubernetes.CoreV1().Pods(stage.Namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(pods.Items) < 2+len(s.Nodes()) {
		t.Errorf("%d pods, want two controllers and a speaker on each of %d nodes", len(pods.Items), len(s.Nodes()))
	}
	for _, pod := range pods.Items {
		if err := runs(pod, image); err != nil {
			t.Error(err)
		}
	}
	// The lab's own image does not know its commit.
	out, err := s.Kubectl(
		t.Context(), "", "-n", stage.Namespace, "exec", "deployment/berth-controller", "--", "/berth", "version",
	)
	if err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`, commit [0-9a-f]{40}(-dirty)?, `).MatchString(out) {
		t.Errorf("the controller says %q, want a commit in it", out)
	}
}

func runs(pod corev1.Pod, image string) error {
	for _, c := range pod.Spec.Containers {
		if c.Image != image {
			return fmt.Errorf("pod %s has the image %s, want %s", pod.Name, c.Image, image)
		}
	}
	return nil
}
