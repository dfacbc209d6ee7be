//go:build linux

// Package host is what runs inside one machine of the lab: PID 1 of its own PID namespace, in a
// mount, UTS and IPC namespace of its own (a node has a cgroup namespace too), over an overlay of
// the real machine's file system that disappears with it.
//
// Boot assembles the root and turns into Serve; Serve starts programs on request and reaps what
// ends. Client is the lab's side of that connection. Killing PID 1 ends every process of the host
// and drops all its mounts, so the kernel does the cleanup.
package host

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
)

// Spec describes the inside of one host. It is handed to PID 1 as a JSON file.
type Spec struct {
	// Name is the host name as seen inside.
	Name string
	// Scratch is an existing empty directory. The root is assembled on a tmpfs mounted there, visible
	// in the host's mount namespace only.
	Scratch string
	// Usr is a directory laid over /usr, read-only: the unpacked packages.
	Usr string
	// Binds are directories of the real machine that the host shares.
	Binds []Bind
	// Dirs are created (with parents) in the host's root.
	Dirs []Dir
	// Files are written into the host's root after Dirs.
	Files []File
	// Sysctls are shown to programs in place of the machine's own values: name below /proc/sys to
	// text. Nothing of the machine is changed.
	Sysctls map[string]string
	// Cgroups is empty for a host that needs no cgroups of its own.
	Cgroups []Cgroup
}

// Bind makes From, a directory of the real machine, appear as To.
type Bind struct{ From, To string }

// Dir is a directory with its owner.
type Dir struct {
	Path     string
	UID, GID int
}

// File is a file with its content and owner.
type File struct {
	Path     string
	Text     string
	Mode     fs.FileMode
	UID, GID int
	// Append adds Text to what the real machine has at Path.
	Append bool
}

// ReadSpec reads a Spec that WriteTo wrote.
func ReadSpec(path string) (Spec, error) {
	var spec Spec
	text, err := os.ReadFile(path)
	if err != nil {
		return spec, fmt.Errorf("read the description of a host: %w", err)
	}
	if err := json.Unmarshal(text, &spec); err != nil {
		return spec, fmt.Errorf("read the description of a host from %s: %w", path, err)
	}
	return spec, nil
}

// Write stores the Spec as JSON.
func (s Spec) Write(path string) error {
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("describe host %s: %w", s.Name, err)
	}
	if err := os.WriteFile(path, text, 0o600); err != nil {
		return fmt.Errorf("describe host %s: %w", s.Name, err)
	}
	return nil
}
