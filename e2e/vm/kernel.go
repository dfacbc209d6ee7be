package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"

	"github.com/berth-lb/berth/e2e/stock"
)

// Kernel is what a guest runs on: [UML] or [QEMU].
type Kernel interface {
	// String names the kernel's image.
	String() string
	// modules is the host's folder that holds one folder of modules for each release.
	modules() string
	// environment is what the guest's programs get beside what they are given.
	environment() []string
	// command is the guest as a process of the host, which ends with it. The guest may write to the
	// control folder and to those of write; the process may keep files of its own in the control
	// folder.
	command(ctx context.Context, g Guest, control string, write []string) (*exec.Cmd, error)
}

// Kind says which kernel: "uml" or "qemu".
type Kind string

const (
	KindUML  Kind = "uml"
	KindQEMU Kind = "qemu"
)

// Kinds are all that there are.
func Kinds() []Kind { return []Kind{KindUML, KindQEMU} }

// ParseKind reads the name of a kind; "" is user-mode-linux, which boots faster.
func ParseKind(name string) (Kind, error) {
	switch k := Kind(name); k {
	case "":
		return KindUML, nil
	case KindUML, KindQEMU:
		return k, nil
	}
	return "", fmt.Errorf("there is no kind of guest %q: use %q or %q", name, KindUML, KindQEMU)
}

// Find returns the kernel that [Fetch] left in the work folder.
func Find(work stock.Folder, kind Kind) (Kernel, error) {
	if kind == KindQEMU {
		return findQEMU(work)
	}
	return findUML(work)
}

// Fetch downloads what a kind of guest consists of from the distribution's packages, and unpacks it
// into the work folder; nothing is installed. What is there already is kept. It reports what it
// does to log.
func Fetch(ctx context.Context, work stock.Folder, kind Kind, log io.Writer) error {
	if _, err := Find(work, kind); err == nil {
		return nil
	}
	if kind == KindQEMU {
		return fetchQEMU(ctx, work, log)
	}
	return fetchUML(ctx, work, log)
}

// present says which of the fetched files is missing.
func present(files ...string) error {
	for _, file := range files {
		if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("no guest kernel: there is no %s: run `make fetch`", file)
		} else if err != nil {
			return fmt.Errorf("no guest kernel: %w", err)
		}
	}
	return nil
}
