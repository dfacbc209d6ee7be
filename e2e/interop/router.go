//go:build linux

package interop

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"text/template"

	"github.com/berth-lb/berth/e2e/stock"
)

// router is a BGP daemon.
type router interface {
	// start starts the daemon with these lines for its neighbor, and returns once it answers.
	start(ctx context.Context, neighbor string) error
	// stop kills it.
	stop() error
	// check has the daemon read a configuration, and returns what it says; an error: it refuses.
	check(ctx context.Context, neighbor string) (string, error)
	// state returns what it shows.
	state(ctx context.Context) (state, error)
}

func newRouter(daemon string, m machine) router {
	switch daemon {
	case "frr":
		return &frr{machine: m}
	case "bird":
		return &bird{machine: m}
	case "gobgp":
		return &gobgp{machine: m}
	case "exabgp":
		return &exabgp{machine: m}
	default:
		return &openbgpd{machine: m}
	}
}

// machine is where a daemon runs.
type machine struct {
	folder   stock.Folder
	network  *network
	dir      string // for its files
	settings Settings
	running  []*exec.Cmd
}

// program finds a program of the unpacked packages.
func (m *machine) program(path string) string {
	for _, root := range []string{m.folder.Packages(), m.folder.Routers()} {
		if file := filepath.Join(root, path); exists(file) {
			return file
		}
	}
	return filepath.Join("/", path)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// command is a program in the router's namespace.
func (m *machine) command(ctx context.Context, path string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + m.network.router, m.program(path)}, args...)...)
	var libraries []string
	for _, root := range []string{m.folder.Packages(), m.folder.Routers()} {
		for _, pattern := range []string{"usr/lib/*-linux-gnu", "usr/lib/*-linux-gnu/frr"} {
			found, _ := filepath.Glob(filepath.Join(root, pattern)) // the patterns are well-formed
			libraries = append(libraries, found...)
		}
	}
	cmd.Env = append(os.Environ(), "LD_LIBRARY_PATH="+strings.Join(libraries, ":"))
	return cmd
}

// ask returns what a program prints.
func (m *machine) ask(ctx context.Context, path string, args ...string) (string, error) {
	out, err := m.command(ctx, path, args...).CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("%s %s: %w: %s", filepath.Base(path), strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// spawn starts a daemon, whose output goes to a log.
func (m *machine) spawn(cmd *exec.Cmd, name string) error {
	log, err := os.OpenFile(m.file(name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // what it starts ends with it
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	m.running = append(m.running, cmd)
	return nil
}

func (m *machine) stop() error {
	var errs []error
	for _, cmd := range m.running {
		errs = append(errs, syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL))
		_ = cmd.Wait() // killed
	}
	m.running = nil
	return errors.Join(errs...)
}

func (m *machine) file(name string) string { return filepath.Join(m.dir, name) }

// write writes a file of configuration from a template.
func (m *machine) write(name, text, neighbor string) error {
	t, err := template.New(name).Parse(text)
	if err != nil {
		return err
	}
	file, err := os.Create(m.file(name))
	if err != nil {
		return err
	}
	defer file.Close()
	data := struct {
		Settings
		Neighbor, Dir, Link string
	}{m.settings, neighbor, m.dir, routerLink}
	return t.Execute(file, data)
}
