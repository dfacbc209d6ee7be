// Package version says which Berth this is. The file VERSION beside it is the one place with the
// number: the program, the image's tag, the manifests and the lab take it from there.
package version

import (
	"cmp"
	_ "embed"
	"runtime"
	"runtime/debug"
	"strings"
)

//go:embed VERSION
var file string

// The linker sets these for an image (tools/image); empty, they are as the source says.
//
//	go build -ldflags '-X github.com/berth-lb/berth/internal/version.linkedNumber=v0.2.0-rc.1'
var linkedNumber, linkedCommit string

// Info describes a build.
type Info struct {
	Version string `json:"version"` // such as v0.1.0
	// Commit is that of the source: a full hash, with "-dirty" behind it if files differed from it,
	// or "unknown" if the source was not in a repository or the build left it out.
	Commit    string `json:"commit"`
	GoVersion string `json:"goVersion"` // such as go1.26.0
	Platform  string `json:"platform"`  // such as linux/arm64
}

// Get describes the running program.
func Get() Info {
	build, _ := debug.ReadBuildInfo()
	return Info{
		Version:   Number(),
		Commit:    cmp.Or(linkedCommit, commit(build)),
		GoVersion: runtime.Version(),
		Platform:  runtime.GOOS + "/" + runtime.GOARCH,
	}
}

// Number returns the version alone.
func Number() string {
	return cmp.Or(linkedNumber, strings.TrimSpace(file))
}

// commit returns the commit that the go command recorded. It does so in a clone, and not in a
// worktree.
func commit(build *debug.BuildInfo) string {
	if build == nil {
		return "unknown"
	}
	settings := make(map[string]string)
	for _, s := range build.Settings {
		settings[s.Key] = s.Value
	}
	revision := settings["vcs.revision"]
	switch {
	case revision == "":
		return "unknown"
	case settings["vcs.modified"] == "true":
		return revision + "-dirty"
	}
	return revision
}
