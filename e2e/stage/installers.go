//go:build linux

package stage

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/berth-lb/berth/e2e/lab"
	"github.com/berth-lb/berth/e2e/stock"
)

// Helm is a version of Helm, beside the lab's API server.
type Helm struct {
	stage   *Stage
	program string
	home    string // of its caches
	// Namespace is that of the releases.
	Namespace string
	// Chart is the folder of the chart, Berth's unless another is set.
	Chart string
}

// Helm returns Helm of a major version, such as 4, which keeps its caches in a folder.
func (s *Stage) Helm(version, home string) (*Helm, error) {
	program, err := installer(stock.HelmBinary(version))
	if err != nil {
		return nil, err
	}
	manifest, err := Manifest()
	if err != nil {
		return nil, err
	}
	chart := filepath.Join(filepath.Dir(filepath.Dir(manifest)), "charts", "berth")
	return &Helm{stage: s, program: program, home: home, Namespace: Namespace, Chart: chart}, nil
}

// Run runs Helm in its namespace, that of Berth unless another is set, and returns what it prints
// on both outputs. The values are the YAML that it reads from its input, for a command with `-f -`.
func (h *Helm) Run(ctx context.Context, values string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, h.program, append(args, "--namespace", h.Namespace)...)
	cmd.Env = append(
		os.Environ(), "KUBECONFIG="+h.stage.Kubeconfig(), "HELM_CACHE_HOME="+filepath.Join(h.home, "cache"),
		"HELM_CONFIG_HOME="+filepath.Join(h.home, "config"), "HELM_DATA_HOME="+filepath.Join(h.home, "data"),
	)
	return h.stage.runInstaller(cmd, values)
}

// FluxApply applies manifests as Flux does, waits for them, and returns what it did to each object.
func (s *Stage) FluxApply(ctx context.Context, manifests string) (string, error) {
	program, err := installer(stock.FluxBinary)
	if err != nil {
		return "", err
	}
	return s.runInstaller(exec.CommandContext(ctx, program, "-kubeconfig", s.Kubeconfig()), manifests)
}

// installer returns the path of a program that `lab build --installers` builds.
func installer(name string) (string, error) {
	folder, err := stock.Find()
	if err != nil {
		return "", err
	}
	program := folder.Bin(name)
	if _, err := os.Stat(program); err != nil {
		return "", fmt.Errorf("%s is not built: run `lab build --installers` first: %w", name, err)
	}
	return program, nil
}

// runInstaller runs a program in the network of the API server, and returns what it prints on both
// outputs.
func (s *Stage) runInstaller(cmd *exec.Cmd, stdin string) (string, error) {
	var out bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &out
	what := filepath.Base(cmd.Path) + " " + strings.Join(cmd.Args[1:], " ")
	if err := s.In(lab.ControlPlane, cmd.Start); err != nil {
		return "", fmt.Errorf("%s: %w", what, err)
	}
	if err := cmd.Wait(); err != nil {
		return out.String(), fmt.Errorf("%s: %w: %s", what, err, bytes.TrimSpace(out.Bytes()))
	}
	return out.String(), nil
}
