package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

const (
	module  = "github.com/berth-lb/berth"
	command = "./cmd/berth"
)

// programs are what the image holds, by name. All that the others are made of is part of the first,
// too, so that its licenses and its parts are those of the image.
var programs = []string{"berth", "berth-heart", "berth-bgp"}

// Source is a tree that Berth's image is built from.
type Source struct {
	Root    string // of the repository
	Version string // such as v0.1.0
	// Commit is empty if the tree is not a Git repository, and ends in -dirty if files differ from it.
	Commit string
	// Time is the commit's; 1970 without one. It is what the image says of its creation, since the
	// time of the build would make each build another image.
	Time time.Time
}

// ReadSource describes the tree at root.
func ReadSource(ctx context.Context, root string) (Source, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return Source{}, fmt.Errorf("find the source: %w", err)
	}
	text, err := os.ReadFile(filepath.Join(root, "internal/version/VERSION"))
	if err != nil {
		return Source{}, fmt.Errorf("read the version: %w", err)
	}
	s := Source{Root: root, Version: strings.TrimSpace(string(text)), Time: time.Unix(0, 0).UTC()}
	if _, err := os.Stat(filepath.Join(root, ".git")); errors.Is(err, os.ErrNotExist) {
		return s, nil // a source archive
	}
	head, err := s.git(ctx, "show", "--no-patch", "--format=%H %ct", "HEAD")
	if err != nil {
		return Source{}, err
	}
	commit, seconds, _ := strings.Cut(head, " ")
	at, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil {
		return Source{}, fmt.Errorf("read the time of commit %s: %w", commit, err)
	}
	changes, err := s.git(ctx, "status", "--porcelain")
	if err != nil {
		return Source{}, err
	}
	if changes != "" {
		commit += "-dirty"
	}
	s.Commit, s.Time = commit, time.Unix(at, 0).UTC()
	return s, nil
}

func (s Source) git(ctx context.Context, args ...string) (string, error) {
	return run(ctx, s.Root, nil, "git", args...)
}

// Compile builds the image's programs for a platform into the folder out.
func (s Source) Compile(ctx context.Context, p v1.Platform, out string) error {
	for _, program := range programs {
		if err := s.CompileOne(ctx, p, program, filepath.Join(out, program)); err != nil {
			return err
		}
	}
	return nil
}

// CompileOne builds a program for a platform into a file.
func (s Source) CompileOne(ctx context.Context, p v1.Platform, program, file string) error {
	flags := "-s -w -X " + module + "/internal/version.linkedNumber=" + s.Version
	if s.Commit != "" {
		flags += " -X " + module + "/internal/version.linkedCommit=" + s.Commit
	}
	// The commit is linked in. What the go command finds out by itself depends on how the tree was
	// checked out.
	_, err := s.goCommand(ctx, p, "build", "-buildvcs=false", "-ldflags", flags, "-o", file, "./cmd/"+program)
	return err
}

func (s Source) goCommand(ctx context.Context, p v1.Platform, args ...string) (string, error) {
	env := []string{
		"GOOS=" + p.OS, "GOARCH=" + p.Architecture, "GOAMD64=v1", "GOARM64=v8.0", "CGO_ENABLED=0",
		"GOFLAGS=-trimpath", "GOEXPERIMENT=", "GOWORK=off",
	}
	return run(ctx, s.Root, env, "go", args...)
}

func run(ctx context.Context, dir string, env []string, program string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), env...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s", program, args[0], err, bytes.TrimSpace(stderr.Bytes()))
	}
	return strings.TrimSpace(string(out)), nil
}
