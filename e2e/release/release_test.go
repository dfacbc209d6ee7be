//go:build release

// Package release tests Berth end to end in company that takes long to set up: what
// `make test` has no time for.
package release

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/berth-lb/berth/e2e/lab"
	"github.com/berth-lb/berth/e2e/stage"
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
		options.Log = t.Output()
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

// measured prints a figure, as the benchmarks do.
func measured(name string, value time.Duration) {
	fmt.Printf("%s %.4g ms\n", name, float64(value.Microseconds())/1000)
}
