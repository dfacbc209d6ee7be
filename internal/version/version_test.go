package version

import (
	"os"
	"regexp"
	"runtime/debug"
	"strings"
	"testing"
)

func TestCommit(t *testing.T) {
	revision := debug.BuildSetting{Key: "vcs.revision", Value: "0123abcd"}
	for _, test := range []struct {
		name  string
		build *debug.BuildInfo
		want  string
	}{
		{name: "no build information", want: "unknown"},
		{name: "no repository", build: &debug.BuildInfo{}, want: "unknown"},
		{
			name: "a clean tree",
			build: &debug.BuildInfo{
				Settings: []debug.BuildSetting{revision, {Key: "vcs.modified", Value: "false"}},
			},
			want: "0123abcd",
		},
		{
			name: "a changed tree",
			build: &debug.BuildInfo{
				Settings: []debug.BuildSetting{revision, {Key: "vcs.modified", Value: "true"}},
			},
			want: "0123abcd-dirty",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := commit(test.build); got != test.want {
				t.Errorf("commit = %q, want %q", got, test.want)
			}
		})
	}
}

func TestNumber(t *testing.T) {
	if got := Number(); !regexp.MustCompile(`^v\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?$`).MatchString(got) {
		t.Errorf("VERSION holds %q, want a version such as v0.1.0", got)
	}
	// Kustomize cannot read VERSION.
	text, err := os.ReadFile("../../manifests/kustomization.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if want := "    newTag: " + Number() + "\n"; !strings.Contains(string(text), want) {
		t.Errorf("manifests/kustomization.yaml has no line %q", want)
	}
}
