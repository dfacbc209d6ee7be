//go:build linux

package lab

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/berth-lb/berth/e2e/host"
)

// Exec prepares a command in all namespaces of a host. It sees the host's processes, files and
// network, and the unpacked packages in the usual places. If the host does not run, running the
// command fails with the reason.
func (l *Lab) Exec(ctx context.Context, hostName string, argv ...string) *exec.Cmd {
	init, err := l.initOf(hostName)
	cmd := exec.CommandContext(
		ctx,
		l.folder.Bin("lab"),
		append([]string{"host-enter", strconv.Itoa(init), "--"}, argv...)...)
	if err != nil {
		cmd.Err = err
	}
	cmd.Cancel = func() error { return cmd.Process.Signal(host.KillSignal) }
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// ReplaceWithKubectl turns the calling process into kubectl, with its standard streams, files and
// working directory. It returns only on an error.
func (l *Lab) ReplaceWithKubectl(args ...string) error {
	return l.In(ControlPlane, func() error {
		program, argv, env := l.kubectl(args)
		return fmt.Errorf("execute %s: %w", program, unix.Exec(program, argv, env))
	})
}

// kubectl returns the program to execute in the network of host ControlPlane.
func (l *Lab) kubectl(args []string) (program string, argv, env []string) {
	// Each lab has a cache of its own: all labs have the API server at the same address, and a cache
	// in the home folder would outlive the lab.
	argv = l.program(
		"kubectl",
		append([]string{"--cache-dir=" + filepath.Join(filepath.Dir(l.LogDir()), "kubectl")}, args...)...)
	return argv[0], argv, append(os.Environ(), "KUBECONFIG="+l.Kubeconfig())
}

// Kubectl runs kubectl with the lab's administrator's rights. It sees the files of the calling
// process. The error holds what kubectl wrote to standard error.
func (l *Lab) Kubectl(ctx context.Context, stdin string, args ...string) (string, error) {
	program, argv, env := l.kubectl(args)
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, program)
	cmd.Args, cmd.Env = argv, env
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	if err := l.In(ControlPlane, cmd.Start); err != nil {
		return "", fmt.Errorf("kubectl %s: %w", strings.Join(args, " "), err)
	}
	if err := cmd.Wait(); err != nil {
		return stdout.String(), fmt.Errorf(
			"kubectl %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(stderr.Bytes()),
		)
	}
	return stdout.String(), nil
}

// RESTConfig returns the configuration for clients of the API server in the calling process. They
// connect from the network of host ControlPlane.
func (l *Lab) RESTConfig() (*rest.Config, error) {
	config, err := clientcmd.BuildConfigFromFlags("", l.Kubeconfig())
	if err != nil {
		return nil, fmt.Errorf("read the lab's kubeconfig: %w", err)
	}
	config.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		return l.Dial(ctx, ControlPlane, network, address)
	}
	// Tests should be fast, and the lab's API server has no other clients.
	config.QPS, config.Burst = 200, 400
	return config, nil
}

// LoadImage imports an image archive (as of `docker save`) into every node, and keeps it for nodes
// that are started again.
func (l *Lab) LoadImage(ctx context.Context, file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("load image: %w", err)
	}
	dir := filepath.Join(l.dir(), "images")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("load image: %w", err)
	}
	kept := filepath.Join(dir, filepath.Base(file))
	if err := os.WriteFile(kept, text, 0o644); err != nil {
		return fmt.Errorf("load image: %w", err)
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, node := range l.plan.nodes() {
		group.Go(func() error { return l.importImage(ctx, node, kept) })
	}
	return group.Wait()
}
