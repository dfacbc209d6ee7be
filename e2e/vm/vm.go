// Package vm runs a program on another kernel than the host's: user-mode-linux, which is an
// ordinary program to the host, or a distribution's kernel on a machine that QEMU emulates. It is
// for tests of features that the host's kernel may lack, above all IPVS.
//
// The guest's root is the host's file system, read-only, with the lab's packages over its /usr; the
// program keeps its working directory, environment and arguments, is root in the guest, and has the
// guest's own network with nothing but a loopback.
package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// ErrNoStatus says that the guest ended before the program in it had: it was killed, it crashed,
// or it never started.
var ErrNoStatus = errors.New("the guest ended without an exit status")

// Guest is one run of one program. Kernel, Init, Program and Output must be set.
type Guest struct {
	Kernel  Kernel
	Init    string   // static executable that calls Main first; it becomes the guest's PID 1
	Program string   // absolute path of a static executable
	Args    []string // without the program's own name
	Env     []string // KEY=value; PATH, HOME and TMPDIR are the guest's own
	Dir     string   // working directory

	// Output gets standard output and standard error together, as on a console.
	Output io.Writer
	// Packages is a folder with a usr that is laid over the guest's; "" for none.
	Packages string
	// Memory is the guest's, such as 768M; "" is 512M with user-mode-linux, which takes it from
	// /dev/shm, and 1G with QEMU. The host gives it as it is used.
	Memory string
	// KernelLog shows the guest kernel's messages among the output.
	KernelLog bool
}

// spec is what the guest's PID 1 reads from the control folder.
type spec struct {
	Program  string
	Args     []string
	Env      []string
	Dir      string
	Modules  string   // holds one folder for each kernel release
	Packages string   // its usr is laid over the guest's; "" for none
	Write    []string // host folders that the guest may write to, besides the control folder
}

const (
	specFile   = "spec.json"
	statusFile = "status"
)

// Run boots the guest, waits for the program and returns its exit status: its own, or 128 and the
// signal that ended it. An error means that there is no status. When ctx ends, or the calling
// thread of the operating system, the guest is killed: a caller locks its goroutine to a thread
// that lasts. Run needs root.
func (g Guest) Run(ctx context.Context) (int, error) {
	control, err := os.MkdirTemp("", "berth-vm-")
	if err != nil {
		return 0, fmt.Errorf("make the guest's control folder: %w", err)
	}
	defer os.RemoveAll(control)
	task, err := g.spec()
	if err != nil {
		return 0, fmt.Errorf("describe the guest's task: %w", err)
	}
	if err := task.write(control); err != nil {
		return 0, fmt.Errorf("write the guest's task: %w", err)
	}
	boot, err := g.Kernel.command(ctx, g, control, task.Write)
	if err != nil {
		return 0, fmt.Errorf("prepare the guest on %s: %w", g.Kernel, err)
	}
	// In a PID namespace of its own, everything that the guest's process starts ends with it. It ends
	// with the thread that started it.
	boot.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL}
	boot.WaitDelay = 5 * time.Second
	bootErr := boot.Run()
	status, err := readStatus(filepath.Join(control, statusFile))
	switch {
	case err == nil:
		return status, nil
	case ctx.Err() != nil:
		return 0, fmt.Errorf("run %s on %s: %w", g.Program, g.Kernel, context.Cause(ctx))
	case bootErr != nil:
		return 0, fmt.Errorf("run %s on %s: %w: %w", g.Program, g.Kernel, ErrNoStatus, bootErr)
	default:
		return 0, fmt.Errorf("run %s on %s: %w", g.Program, g.Kernel, ErrNoStatus)
	}
}

func (g Guest) spec() (spec, error) {
	s := spec{
		Program:  g.Program,
		Args:     g.Args,
		Env:      slices.Concat(g.Env, g.Kernel.environment()),
		Dir:      g.Dir,
		Modules:  g.Kernel.modules(),
		Packages: g.Packages,
	}
	if strings.HasSuffix(g.Program, ".test") {
		// A test writes its profiles and its list of opened files next to its program.
		dir, err := filepath.EvalSymlinks(filepath.Dir(g.Program)) // hostfs mounts folders only
		if err != nil {
			return s, err
		}
		s.Write = []string{dir}
	}
	return s, nil
}

func (s spec) write(control string) error {
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(control, specFile), b, 0o600)
}

func (g Guest) memory(usual string) string {
	if g.Memory != "" {
		return g.Memory
	}
	return usual
}

// loglevel is the kernel's parameter: 1 lets only emergencies through, 7 all but debugging.
func (g Guest) loglevel() string {
	if g.KernelLog {
		return "7"
	}
	return "1"
}

func readStatus(file string) (int, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(b)))
}
