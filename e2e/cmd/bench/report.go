//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

type figure struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
}

// report collects figures and prints each at once.
type report struct {
	out     io.Writer
	begun   time.Time
	figures []figure
}

func newReport(out io.Writer) *report { return &report{out: out, begun: time.Now()} }

func (r *report) add(name string, value float64, unit string) {
	r.figures = append(r.figures, figure{name, value, unit})
	fmt.Fprintf(r.out, "%s %.4g %s\n", name, value, unit)
}

// times adds median and worst of some durations.
func (r *report) times(name string, all []time.Duration) {
	if len(all) == 0 {
		return
	}
	milliseconds := make([]float64, len(all))
	for i, d := range all {
		milliseconds[i] = float64(d.Microseconds()) / 1000
	}
	r.add(name+"_median", median(milliseconds), "ms")
	r.add(name+"_worst", slices.Max(milliseconds), "ms")
}

// median returns the middle value (of two, the upper one), or 0 if there is none.
func median(all []float64) float64 {
	if len(all) == 0 {
		return 0
	}
	return slices.Sorted(slices.Values(all))[len(all)/2]
}

// write writes the figures and a description of the machine as JSON.
func (r *report) write(file string) error {
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return fmt.Errorf("write figures: %w", err)
	}
	text, err := json.MarshalIndent(struct {
		Begun   time.Time `json:"begun"`
		Go      string    `json:"go"`
		CPUs    int       `json:"cpus"`
		Load    string    `json:"loadAtTheEnd"`
		Figures []figure  `json:"figures"`
	}{r.begun.UTC(), runtime.Version(), runtime.NumCPU(), strings.TrimSpace(string(load)), r.figures}, "", "  ")
	if err != nil {
		return fmt.Errorf("write figures: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return fmt.Errorf("write figures: %w", err)
	}
	if err := os.WriteFile(file, append(text, '\n'), 0o644); err != nil {
		return fmt.Errorf("write figures: %w", err)
	}
	return nil
}
