//go:build release

// Package release tests Berth end to end in company that takes long to set up: what
// `make test` has no time for.
package release

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/berth-lb/berth/e2e/lab"
	"github.com/berth-lb/berth/e2e/stage"
	"github.com/berth-lb/berth/e2e/stock"
)

// patience is for what takes a moment on an idle machine, on a very busy one.
const patience = 60 * time.Second

// raise brings up a lab for the test. With BERTH_LAB it takes one that is up, and
// leaves it up.
func raise(t *testing.T, options lab.Options) *stage.Stage {
	t.Helper()
	name := os.Getenv("BERTH_LAB")
	l, err := lab.Open(name)
	if name == "" {
		options.Log, options.Kubernetes = t.Output(), os.Getenv("BERTH_KUBERNETES") // for `make test-minors`
		l, err = lab.Up(t.Context(), options)
	}
	if err != nil {
		t.Fatal(err)
	}
	if name == "" {
		t.Cleanup(func() {
			if err := l.Down(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
	s, err := stage.New(l, options.DualStack)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// must ends the test at the first step that fails.
func must(t *testing.T, steps ...func(context.Context) error) {
	t.Helper()
	for _, do := range steps {
		if err := do(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

func eventually(t *testing.T, condition func(context.Context) error) {
	t.Helper()
	if err := stage.Eventually(t.Context(), patience, condition); err != nil {
		t.Fatal(err)
	}
}

// plugin runs the plugin as a user does.
func plugin(t *testing.T, s *stage.Stage, args ...string) (out, errOut string, code int) {
	t.Helper()
	folder, err := stock.Find()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, folder.Bin("kubectl-berth"), args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+s.Kubeconfig())
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := s.In(lab.ControlPlane, cmd.Start); err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()
}

// measured prints a figure, as the benchmarks do.
func measured(name string, value time.Duration) {
	fmt.Printf("%s %.4g ms\n", name, float64(value.Microseconds())/1000)
}
