//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/berth-lb/berth/e2e/host"
)

// bootHosts starts the PID 1 of every host.
func (l *Lab) bootHosts(ctx context.Context) error {
	for _, dir := range []string{"log/pods", "hosts", "scratch", "data"} {
		if err := os.MkdirAll(filepath.Join(l.dir(), dir), 0o755); err != nil {
			return fmt.Errorf("make the lab's folder: %w", err)
		}
	}
	if err := l.makeCertificates(); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, h := range l.plan.hosts {
		group.Go(func() error { return l.boot(ctx, h) })
	}
	return group.Wait()
}

// boot starts the PID 1 of a host and waits until it accepts commands.
func (l *Lab) boot(ctx context.Context, h hostPlan) error {
	spec, err := l.spec(h)
	if err != nil {
		return err
	}
	for _, c := range spec.Cgroups {
		if err := c.Create(); err != nil {
			return fmt.Errorf("boot %s: %w", h.name, err)
		}
	}
	specPath := filepath.Join(l.dir(), "hosts", h.name+".json")
	if err := spec.Write(specPath); err != nil {
		return err
	}
	logPath := l.logPath("init@" + h.name)
	out, err := os.OpenFile(logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("boot %s: %w", h.name, err)
	}
	defer out.Close()
	cmd := exec.Command(l.folder.Bin("lab"), "host-boot", specPath)
	cmd.Stdout, cmd.Stderr, cmd.Dir = out, out, "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid:     true,
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
	}
	if err := l.In(h.name, cmd.Start); err != nil {
		return fmt.Errorf("boot %s: %w", h.name, err)
	}
	ended := make(chan struct{})
	go func() { // ends with the host, so that no zombie of it stays
		_ = cmd.Wait()
		close(ended)
	}()
	err = until(ctx, 30*time.Second, func(ctx context.Context) error {
		select {
		case <-ended:
			return finalError{errors.New(tail(logPath))}
		default:
			_, err := host.Client{PID: cmd.Process.Pid}.Processes(ctx)
			return err
		}
	})
	if err != nil {
		return fmt.Errorf("boot %s: %w", h.name, err)
	}
	return nil
}

// spec describes the inside of a host.
func (l *Lab) spec(h hostPlan) (host.Spec, error) {
	scratch := filepath.Join(l.dir(), "scratch", h.name)
	if err := os.MkdirAll(scratch, 0o755); err != nil {
		return host.Spec{}, fmt.Errorf("boot %s: %w", h.name, err)
	}
	spec := host.Spec{
		Name:    h.name,
		Scratch: scratch,
		Usr:     filepath.Join(l.folder.Packages(), "usr"),
		Binds:   []host.Bind{{From: l.folder.Root, To: l.folder.Root}},
	}
	switch {
	case h.node != 0:
		return l.nodeSpec(spec, h)
	case h.name == Router && l.opts.Router == "frr":
		return l.frrSpec(spec)
	case h.name == Spine:
		return l.birdSpec(spec), nil
	default:
		return spec, nil
	}
}

func (l *Lab) logPath(process string) string { return filepath.Join(l.LogDir(), process+".log") }

// start runs a program in a host. Its log is PROCESS@HOST.log.
func (l *Lab) start(ctx context.Context, hostName, process string, argv ...string) error {
	init, err := l.initOf(hostName)
	if err != nil {
		return fmt.Errorf("start %s: %w", process, err)
	}
	return host.Client{PID: init}.Start(ctx, host.Program{
		Name: process, Argv: argv, Log: l.logPath(process + "@" + hostName),
	})
}

// healthy waits until a program of a host passes a check. If the program ends first, the error
// holds the end of its log.
func (l *Lab) healthy(ctx context.Context, hostName, process string, check func(context.Context) error) error {
	init, err := l.initOf(hostName)
	if err != nil {
		return fmt.Errorf("wait for %s: %w", process, err)
	}
	log := l.logPath(process + "@" + hostName)
	err = until(ctx, time.Minute, func(ctx context.Context) error {
		err := check(ctx)
		if err == nil {
			return nil
		}
		all, listErr := host.Client{PID: init}.Processes(ctx)
		if listErr != nil {
			return listErr
		}
		for _, p := range all {
			if p.Name == process && p.Ended {
				return finalError{fmt.Errorf("it ended (%s):\n%s", p.End, tail(log))}
			}
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("wait for %s on %s (log %s): %w", process, hostName, log, err)
	}
	return nil
}
