// Package stock fills the lab's work folder: the system's packages, unpacked and never installed,
// the binaries, and the container images packed from them.
package stock

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Folder is the work folder, everything generated, ".cache" at the root of the repository unless
// the environment variable BERTH_CACHE says otherwise.
type Folder struct {
	// Root is the folder itself.
	Root string
	// Repository is the root of Berth's source.
	Repository string
}

const module = "module github.com/berth-lb/berth"

// Find locates the work folder from the working directory upwards. It need not exist yet.
func Find() (Folder, error) {
	start, err := os.Getwd()
	if err != nil {
		return Folder{}, fmt.Errorf("find Berth's repository: %w", err)
	}
	for dir := start; ; dir = filepath.Dir(dir) {
		text, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && strings.Contains(string(text)+"\n", module+"\n") {
			return folderOf(dir)
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return Folder{}, fmt.Errorf("find Berth's repository: %w", err)
		}
		if dir == filepath.Dir(dir) {
			return Folder{}, fmt.Errorf("%s is not inside Berth's repository: change to it first", start)
		}
	}
}

func folderOf(repository string) (Folder, error) {
	root := os.Getenv("BERTH_CACHE")
	if root == "" {
		root = filepath.Join(repository, ".cache")
	}
	root, err := filepath.Abs(root)
	if err != nil {
		return Folder{}, fmt.Errorf("find the work folder: %w", err)
	}
	return Folder{Root: root, Repository: repository}, nil
}

// Bin is the path of a built binary.
func (f Folder) Bin(name string) string { return filepath.Join(f.Root, "bin", name) }

// Debs is where downloaded packages are kept.
func (f Folder) Debs() string { return filepath.Join(f.Root, "debs") }

// Packages is the tree of unpacked packages; all of it is below usr, as on a system with merged
// /usr.
func (f Folder) Packages() string { return filepath.Join(f.Root, "pkg") }

// Images is where the images that every node gets are kept, as *.tar.
func (f Folder) Images() string { return filepath.Join(f.Root, "images") }

// GuestImages is where the images are kept, as *.tar, that only some tests load.
func (f Folder) GuestImages() string { return filepath.Join(f.Images(), "guests") }

// Lab is where a running lab of the given name keeps its state and logs.
func (f Folder) Lab(name string) string { return filepath.Join(f.Root, "lab", name) }
