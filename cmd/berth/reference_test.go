package main

import (
	"os"
	"regexp"
	"testing"

	"github.com/spf13/pflag"
)

// flagInReference matches a row of a table of docs/reference/flags.md.
var flagInReference = regexp.MustCompile("(?m)^[|] `(?:-[a-z]`, `)?--([a-z-]+)")

func TestFlags(t *testing.T) {
	text, err := os.ReadFile("../../docs/reference/flags.md")
	if err != nil {
		t.Fatal(err)
	}
	published := map[string]bool{}
	for _, row := range flagInReference.FindAllStringSubmatch(string(text), -1) {
		published[row[1]] = true
	}
	known := map[string]bool{}
	for _, c := range command().Commands() {
		c.Flags().VisitAll(func(f *pflag.Flag) { known[f.Name] = true })
	}
	for name := range known {
		if !published[name] {
			t.Errorf("docs/reference/flags.md has no row for --%s", name)
		}
	}
	for name := range published {
		if !known[name] {
			t.Errorf("docs/reference/flags.md has a row for --%s, which does not exist", name)
		}
	}
}
