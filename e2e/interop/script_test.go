//go:build linux

package interop

import (
	"path/filepath"
	"testing"
)

// Each script can be read, and each daemon has something to do, or a reason why not.
func TestParse(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatalf("scripts %v, %v", paths, err)
	}
	for _, path := range paths {
		s, err := Parse(path)
		if err != nil {
			t.Error(err)
			continue
		}
		for _, step := range s.Steps {
			if step.Kind != "objects" {
				continue
			}
			if _, err := read(step.Text); err != nil {
				t.Errorf("%s: %v", path, err)
			}
		}
		for _, daemon := range Daemons {
			if s.Runs(daemon) && len(s.StepsFor(daemon)) == 0 {
				t.Errorf("%s: there is nothing to do for %s", path, daemon)
			}
		}
	}
}

func TestStepsFor(t *testing.T) {
	s := &Script{Steps: []Step{
		{Kind: "objects", Text: "a"},
		{Kind: "want", Text: "b"},
		{Kind: "want", For: "bird", Text: "c"},
		{Kind: "router: restart"},
		{Kind: "want", For: "bird", Text: "d"},
	}}
	for daemon, want := range map[string]string{"frr": "ab", "bird": "acd"} {
		got := ""
		for _, step := range s.StepsFor(daemon) {
			got += step.Text
		}
		if got != want {
			t.Errorf("steps of %s: %q, want %q", daemon, got, want)
		}
	}
}

func TestState(t *testing.T) {
	s := state{
		routes:     []Route{{Prefix: "192.0.2.1/32", Via: "10.0.0.9", Path: "64513", Local: "100"}},
		up:         true,
		hold:       90,
		keepalives: 3,
	}
	for want, holds := range map[string]bool{
		"route 192.0.2.1/32 via 10.0.0.9 path 64513\nsession up\nhold 90\nkeepalives 2\nerror no answer": true,
		"route 192.0.2.1/32 via 10.0.0.9 path 64513 local 100":                                           false,
		"route 192.0.2.1/32 via 10.0.0.9":                                                                false,
		"no routes":                                                                                      false,
		"session down":                                                                                   false,
		"hold 30":                                                                                        false,
		"keepalives 4":                                                                                   false,
		"error wrong":                                                                                    false,
		"keeps routes":                                                                                   false,
	} {
		if err := s.has(want, false, []string{"error there is no answer", "berth established"}); (err == nil) != holds {
			t.Errorf("%q: %v, want %v", want, err, holds)
		}
	}
}

func TestNumber(t *testing.T) {
	for text, want := range map[string]string{
		"64512:1": "64512:1", "noExport": "65535:65281", "NO_EXPORT": "65535:65281", "graceful-shutdown": "65535:0",
	} {
		if got := number(text); got != want {
			t.Errorf("number of %s is %s, want %s", text, got, want)
		}
	}
}
