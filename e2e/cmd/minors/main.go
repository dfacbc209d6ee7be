//go:build linux

// Command minors runs tests on minor versions of Kubernetes, those of the API (e2e/api) and
// TestFence (e2e/release), and writes what came out to results.json, from which `make generate`
// makes the table in the docs. A version is added by adding an entry for it. The lab's packages and
// binaries must be there.
//
//	minors [VERSION...]
//
// Without arguments it tests all versions of results.json, else these only.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/berth-lb/berth/e2e/stock"
	"github.com/berth-lb/berth/internal/version"
)

// result is what a version of Kubernetes came to.
type result struct {
	Kubernetes string   `json:"kubernetes"`
	Berth      string   `json:"berth"`
	Tested     string   `json:"tested"` // day
	Passed     int      `json:"passed"` // tests
	Failed     []string `json:"failed"`
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "minors:", err)
		os.Exit(1)
	}
}

func run(chosen []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	folder, err := stock.Find()
	if err != nil {
		return err
	}
	file := filepath.Join(folder.Repository, "e2e", "cmd", "minors", "results.json")
	results, err := read(file)
	if err != nil {
		return err
	}
	for _, v := range chosen {
		if !slices.ContainsFunc(results, func(r result) bool { return r.Kubernetes == v }) {
			return fmt.Errorf("%s has no entry for %s", file, v)
		}
	}
	var failures []error
	for i := range results {
		r := &results[i]
		if len(chosen) > 0 && !slices.Contains(chosen, r.Kubernetes) {
			continue
		}
		if err := r.test(ctx, folder); err != nil {
			return fmt.Errorf("test on Kubernetes %s: %w", r.Kubernetes, err)
		}
		fmt.Printf(
			"Kubernetes %s: %d passed, %d failed %s\n",
			r.Kubernetes,
			r.Passed,
			len(r.Failed),
			strings.Join(r.Failed, " "),
		)
		if len(r.Failed) > 0 {
			failures = append(
				failures,
				fmt.Errorf("on Kubernetes %s failed: %s", r.Kubernetes, strings.Join(r.Failed, ", ")),
			)
		}
		if err := write(file, results); err != nil {
			return err
		}
	}
	return errors.Join(failures...)
}

func read(file string) ([]result, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var results []result
	if err := json.Unmarshal(text, &results); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return results, nil
}

func write(file string, results []result) error {
	text, err := json.MarshalIndent(results, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(text, '\n'), 0o644)
}

// test builds the version and runs the tests on it.
func (r *result) test(ctx context.Context, folder stock.Folder) error {
	kubernetes := r.Kubernetes
	if kubernetes == stock.KubernetesVersion {
		kubernetes = "" // the lab's own
	} else if err := folder.BuildKubernetes(ctx, os.Stdout, kubernetes); err != nil {
		return err
	}
	r.Passed, r.Failed = 0, []string{}
	for _, tests := range [][]string{
		{"-tags", "root", "./api"}, {"-tags", "release", "-run", "^TestFence$", "./release"},
	} {
		if err := r.run(ctx, folder, kubernetes, tests); err != nil {
			return err
		}
	}
	r.Berth, r.Tested = version.Number(), time.Now().UTC().Format(time.DateOnly)
	return nil
}

// run runs some tests.
func (r *result) run(ctx context.Context, folder stock.Folder, kubernetes string, tests []string) error {
	args := append([]string{"test", "-count=1", "-timeout", "20m", "-json"}, tests...)
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = filepath.Join(folder.Repository, "e2e")
	cmd.Env = append(os.Environ(), "BERTH_KUBERNETES="+kubernetes)
	cmd.Stderr = os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	passed, failed := r.Passed, len(r.Failed)
	read := r.read(json.NewDecoder(out), os.Stdout)
	ended := cmd.Wait()
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case read != nil:
		return read
	case r.Passed == passed && len(r.Failed) == failed:
		return fmt.Errorf("no test passed of %s: %w", strings.Join(tests, " "), ended)
	case ended != nil && len(r.Failed) == failed:
		r.Failed = append(r.Failed, "what holds of all tests together")
	}
	return nil
}
