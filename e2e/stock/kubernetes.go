package stock

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

const kubernetesModule = "k8s.io/kubernetes"

// kubernetesPrograms are the programs of another version. The lab's own are in the binaries kube
// and kubelet.
func kubernetesPrograms() []string {
	return []string{"kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet", "kubectl"}
}

// Kubernetes is the path of a program of a version of Kubernetes (such as "v1.34.4") that
// BuildKubernetes built.
func (f Folder) Kubernetes(version, program string) string {
	return filepath.Join(f.kubernetes(version), "bin", program)
}

func (f Folder) kubernetes(version string) string {
	return filepath.Join(f.Root, "kubernetes", version)
}

// BuildKubernetes compiles programs of a version of Kubernetes that is not the lab's own, with the
// dependencies that Kubernetes itself released them with. Without names it compiles all that a lab
// needs.
func (f Folder) BuildKubernetes(ctx context.Context, log io.Writer, version string, programs ...string) error {
	if !kubernetesRelease.MatchString(version) {
		return fmt.Errorf("version %q of Kubernetes: want one such as v1.34.4", version)
	}
	dir := f.kubernetes(version)
	if err := os.MkdirAll(filepath.Join(dir, "bin"), 0o755); err != nil {
		return fmt.Errorf("build Kubernetes %s: %w", version, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "go.mod")); errors.Is(err, os.ErrNotExist) {
		if err := makeKubernetesModule(ctx, dir, version); err != nil {
			return fmt.Errorf("make a module for Kubernetes %s: %w", version, err)
		}
	}
	begun := time.Now()
	fmt.Fprintf(log, "building Kubernetes %s (several minutes the first time)\n", version)
	args := []string{
		"build", "-trimpath", "-buildvcs=false", "-mod=mod", "-ldflags", kubernetesFlags(version),
		"-o", filepath.Join(dir, "bin") + "/",
	}
	if len(programs) == 0 {
		programs = kubernetesPrograms()
	}
	for _, program := range programs {
		args = append(args, kubernetesModule+"/cmd/"+program)
	}
	if _, err := goIn(ctx, dir, args...); err != nil {
		return fmt.Errorf("build Kubernetes %s: %w", version, err)
	}
	fmt.Fprintf(log, "built Kubernetes %s in %.0f s\n", version, time.Since(begun).Seconds())
	return nil
}

var kubernetesRelease = regexp.MustCompile(`^v1\.(\d+)\.\d+$`)

// kubernetesFlags are the linker's, for programs that report this version.
func kubernetesFlags(version string) string {
	const variable = "-X k8s.io/component-base/version."
	return strings.Join([]string{
		"-s -w", variable + "gitVersion=" + version, variable + "gitMajor=1",
		variable + "gitMinor=" + kubernetesRelease.FindStringSubmatch(version)[1], variable + "gitTreeState=clean",
	}, " ")
}

// makeKubernetesModule writes a module into dir that requires Kubernetes. Its go.mod is that of
// Kubernetes itself, but the modules that Kubernetes has in its own tree are the ones published
// with it.
func makeKubernetesModule(ctx context.Context, dir, version string) error {
	file := filepath.Join(dir, "go.mod")
	// Outside of any module the go command would take the one that this folder is in.
	if err := os.WriteFile(file, []byte("module berth.dev/kubernetes\n"), 0o644); err != nil {
		return err
	}
	defer os.Remove(file + ".new")
	text, err := goIn(ctx, dir, "mod", "download", "-json", kubernetesModule+"@"+version)
	if err == nil {
		err = writeKubernetesModule(ctx, dir, version, text)
	}
	if err != nil {
		return errors.Join(err, os.Remove(file))
	}
	return os.Rename(file+".new", file)
}

// writeKubernetesModule writes go.mod.new and go.sum, from what `go mod download` said.
func writeKubernetesModule(ctx context.Context, dir, version string, downloaded []byte) error {
	var source struct{ Dir string }
	if err := json.Unmarshal(downloaded, &source); err != nil {
		return err
	}
	for from, to := range map[string]string{"go.mod": "go.mod.new", "go.sum": "go.sum"} {
		text, err := os.ReadFile(filepath.Join(source.Dir, from))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, to), text, 0o644); err != nil {
			return err
		}
	}
	text, err := goIn(ctx, dir, "mod", "edit", "-json", "go.mod.new")
	if err != nil {
		return err
	}
	var module struct {
		Replace []struct{ Old, New struct{ Path string } }
		Tool    []struct{ Path string }
	}
	if err := json.Unmarshal(text, &module); err != nil {
		return err
	}
	args := []string{"mod", "edit", "-module=berth.dev/kubernetes", "-require=" + kubernetesModule + "@" + version}
	published := "v0." + strings.TrimPrefix(version, "v1.")
	for _, r := range module.Replace {
		if strings.HasPrefix(r.New.Path, "./") {
			args = append(args, fmt.Sprintf("-replace=%s=%s@%s", r.Old.Path, r.Old.Path, published))
		}
	}
	for _, tool := range module.Tool {
		args = append(args, "-droptool="+tool.Path)
	}
	_, err = goIn(ctx, dir, append(args, "go.mod.new")...)
	return err
}

// goIn runs the go command in a folder and returns what it writes to standard output.
func goIn(ctx context.Context, dir string, args ...string) ([]byte, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &stdout, &stderr
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf(
			"go %s: %w\n%s",
			strings.Join(args[:2], " "),
			err,
			bytes.TrimSpace(append(stdout.Bytes(), stderr.Bytes()...)),
		)
	}
	return stdout.Bytes(), nil
}
