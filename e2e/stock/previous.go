package stock

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// previousVersion is what upgrades are tested from: the last commit before Berth could be installed
// from files of a release. From the first release on it is the tag of the last one.
const previousVersion = "9e1868a0b327"

// PreviousImage is the reference of the previous version's image.
const PreviousImage = "localhost/berth:previous"

// Previous is where BuildPrevious puts the previous version of Berth: a work folder with the
// program and its image, and with the manifest.
func (f Folder) Previous() Folder {
	root := filepath.Join(f.Root, "previous")
	return Folder{Root: root, Repository: filepath.Join(root, "source")}
}

// PreviousManifest is the path of the previous version's manifest, which names PreviousImage.
func (f Folder) PreviousManifest() string { return filepath.Join(f.Previous().Root, "berth.yaml") }

// PreviousArchive is the archive of the previous version's image.
func (f Folder) PreviousArchive() string {
	return filepath.Join(f.Previous().Images(), "berth.tar")
}

// PreviousIPVS is the program with the previous version's tests of IPVS, which also runs its driver
// alone.
func (f Folder) PreviousIPVS() string { return f.Previous().Bin("ipvs.test") }

var imageLine = regexp.MustCompile(`(?m)^( +image: ).*$`)

// BuildPrevious builds the previous version from the history of the repository.
func (f Folder) BuildPrevious(ctx context.Context, log io.Writer) error {
	old := f.Previous()
	if err := os.RemoveAll(old.Root); err != nil {
		return fmt.Errorf("build the previous version: %w", err)
	}
	if err := f.extract(ctx, previousVersion, old.Repository); err != nil {
		return err
	}
	defer os.RemoveAll(old.Repository)
	if err := old.build(ctx, log, []binary{{
		name: "berth", module: ".", pkg: "./cmd/berth", ldflags: "-s -w", image: PreviousImage, user: "0:0",
		note: " as of " + previousVersion,
	}}); err != nil {
		return err
	}
	if err := old.compileTest(ctx, "./vm/ipvs", "vm", f.PreviousIPVS()); err != nil {
		return err
	}
	manifest, err := os.ReadFile(filepath.Join(old.Repository, "manifests", "berth.yaml"))
	if err != nil {
		return fmt.Errorf("build the previous version: %w", err)
	}
	manifest = imageLine.ReplaceAll(manifest, []byte("${1}"+PreviousImage))
	return os.WriteFile(f.PreviousManifest(), manifest, 0o644)
}

// compileTest compiles the tests of a package of e2e.
func (f Folder) compileTest(ctx context.Context, pkg, tags, output string) error {
	cmd := exec.CommandContext(ctx, "go", "test", "-c", "-trimpath", "-tags", tags, "-o", output, pkg)
	cmd.Dir = filepath.Join(f.Repository, "e2e")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the tests %s: %w\n%s", pkg, err, bytes.TrimSpace(out))
	}
	return nil
}

// extract writes the files of a commit or tag into a folder.
func (f Folder) extract(ctx context.Context, revision, dir string) error {
	git := func(args ...string) (string, error) {
		var stderr bytes.Buffer
		cmd := exec.CommandContext(ctx, "git", args...)
		cmd.Dir, cmd.Stderr = f.Repository, &stderr
		out, err := cmd.Output()
		if err != nil {
			err = fmt.Errorf("git %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(stderr.Bytes()))
		}
		return string(out), err
	}
	if _, err := git("rev-parse", "--verify", "--quiet", revision+"^{commit}"); err != nil {
		return fmt.Errorf(
			"upgrades are tested from %s, which is not in this clone. Perhaps it is a shallow one: run "+
				"`git fetch --unshallow --tags`: %w", revision, err,
		)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("extract %s: %w", revision, err)
	}
	archive, err := git("archive", "--format=tar", revision)
	if err != nil {
		return err
	}
	tar := exec.CommandContext(ctx, "tar", "-x", "-C", dir)
	tar.Stdin = strings.NewReader(archive)
	if out, err := tar.CombinedOutput(); err != nil {
		return fmt.Errorf("extract %s: %w: %s", revision, err, bytes.TrimSpace(out))
	}
	return nil
}
