// Package vm runs a program on another kernel than the host's: a user-mode-linux kernel, which is an
// ordinary program to the host. It serves the tests of what the host's kernel may lack, IPVS above all.
//
// The guest's root is the host's file system, read-only; the program keeps its working directory,
// environment and arguments, is root in the guest, and has the guest's own network with nothing but
// a loopback. The guest has one CPU and no data race detector.
package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
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
	// Memory is the guest's, in the kernel's notation; "" is 512M. It is taken from /dev/shm as it is used.
	Memory string
	// KernelLog shows the guest kernel's messages among the output.
	KernelLog bool
}

// spec is what the guest's PID 1 reads from the control folder.
type spec struct {
	Program string
	Args    []string
	Env     []string
	Dir     string
	Modules string   // holds one folder for each kernel release
	Write   []string // host folders that the guest may write to, besides the control folder
}

const (
	specFile   = "spec.json"
	statusFile = "status"
	controlVar = "BERTH_VM" // on the kernel's command line, so in the environment of PID 1
)

// Run boots the guest, waits for the program and returns its exit status: its own, or 128 and the
// signal that ended it. An error means that there is no status. When ctx ends, or the calling thread of the operating system, the guest is
// killed: a caller locks its goroutine to a thread that lasts. Run needs root.
func (g Guest) Run(ctx context.Context) (int, error) {
	control, err := os.MkdirTemp("", "berth-vm-")
	if err != nil {
		return 0, fmt.Errorf("make the guest's control folder: %w", err)
	}
	defer os.RemoveAll(control)
	if err := g.writeSpec(control); err != nil {
		return 0, fmt.Errorf("write the guest's task: %w", err)
	}
	boot := g.command(ctx, control)
	bootErr := boot.Run()
	status, err := readStatus(filepath.Join(control, statusFile))
	switch {
	case err == nil:
		return status, nil
	case ctx.Err() != nil:
		return 0, fmt.Errorf("run %s on %s: %w", g.Program, g.Kernel.Image, context.Cause(ctx))
	case bootErr != nil:
		return 0, fmt.Errorf("run %s on %s: %w: %w", g.Program, g.Kernel.Image, ErrNoStatus, bootErr)
	default:
		return 0, fmt.Errorf("run %s on %s: %w", g.Program, g.Kernel.Image, ErrNoStatus)
	}
}

func (g Guest) writeSpec(control string) error {
	s := spec{
		Program: g.Program,
		Args:    g.Args,
		Env:     g.Env,
		Dir:     g.Dir,
		Modules: g.Kernel.Modules,
	}
	if strings.HasSuffix(g.Program, ".test") {
		// A test writes its profiles and its list of opened files next to its program.
		dir, err := filepath.EvalSymlinks(filepath.Dir(g.Program)) // hostfs mounts folders only
		if err != nil {
			return err
		}
		s.Write = []string{dir}
	}
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(control, specFile), b, 0o600)
}

// command is the kernel as a process of the host. Its parameters are those of the kernel document
// "User Mode Linux HOWTO"; what the kernel does not know it hands to PID 1 as environment.
func (g Guest) command(ctx context.Context, control string) *exec.Cmd {
	memory := g.Memory
	if memory == "" {
		memory = "512M"
	}
	loglevel := "1"
	if g.KernelLog {
		loglevel = "7"
	}
	cmd := exec.CommandContext(ctx, g.Kernel.Image,
		"mem="+memory, "umid="+filepath.Base(control), "uml_dir="+control,
		"root=hostfs", "rootfstype=hostfs", "rootflags=/", "ro",
		"quiet", "loglevel="+loglevel, "noreboot", "panic=1",
		"con=null", "con0=null,fd:1", "init="+g.Init, controlVar+"="+control)
	cmd.Env = []string{"TMPDIR=/dev/shm", "HOME=/root"} // where the guest's memory is; any disk would be slow
	cmd.Stdout, cmd.Stderr = g.Output, g.Output
	// The guest's processes are processes of the host too. In a process namespace of the kernel's own
	// all of them end with it, and it ends with the thread that started it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

func readStatus(file string) (int, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(b)))
}
