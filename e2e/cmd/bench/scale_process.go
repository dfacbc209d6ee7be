//go:build linux

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/berth-lb/berth/e2e/lab"
	"github.com/berth-lb/berth/e2e/stage"
	"github.com/berth-lb/berth/e2e/stock"
)

// process is a running `berth controller`.
type process struct {
	s    *scale
	name string
	port int
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
}

// writeKubeconfig writes a kubeconfig for the controller and returns its path.
func (s *scale) writeKubeconfig(token string) (string, error) {
	config, err := clientcmd.LoadFromFile(s.Kubeconfig())
	if err != nil {
		return "", fmt.Errorf("read the lab's kubeconfig: %w", err)
	}
	for name := range config.AuthInfos {
		config.AuthInfos[name] = &clientcmdapi.AuthInfo{Token: token}
	}
	file := filepath.Join(s.LogDir(), "controller.kubeconfig")
	if err := clientcmd.WriteToFile(*config, file); err != nil {
		return "", fmt.Errorf("write the controller's kubeconfig: %w", err)
	}
	return file, nil
}

// startController starts the program in the network of the API server.
func (s *scale) startController(ctx context.Context, name string) (*process, error) {
	program := s.program
	if program == "" {
		folder, err := stock.Find()
		if err != nil {
			return nil, err
		}
		program = folder.Bin("berth")
	}
	s.started++
	c := &process{s: s, name: name, port: 17470 + s.started, done: make(chan struct{})}
	log, err := os.Create(filepath.Join(s.LogDir(), "controller-"+name+".log"))
	if err != nil {
		return nil, fmt.Errorf("log of controller %s: %w", name, err)
	}
	defer log.Close()
	c.cmd = exec.CommandContext(ctx, program, "controller", "--kubeconfig", s.kubecfg, "--namespace", stage.Namespace,
		"--identity", name, "--listen", fmt.Sprintf("127.0.0.1:%d", c.port))
	c.cmd.Stdout, c.cmd.Stderr = log, log
	if err := s.In(lab.ControlPlane, c.cmd.Start); err != nil {
		return nil, fmt.Errorf("start controller %s: %w", name, err)
	}
	go func() { // ends with the process
		defer close(c.done)
		_ = c.cmd.Wait() // how it ended is in its log
	}()
	return c, nil
}

// explain writes the ends of the controllers' logs, which are deleted with the lab.
func (s *scale) explain(out io.Writer) {
	logs, _ := filepath.Glob(filepath.Join(s.LogDir(), "controller-*.log")) // the pattern is a good one
	for _, file := range logs {
		text, err := os.ReadFile(file)
		if err != nil {
			fmt.Fprintln(out, err)
			continue
		}
		lines := strings.SplitAfter(string(text), "\n")
		fmt.Fprintf(out, "--- the end of %s\n%s", filepath.Base(file), strings.Join(lines[max(0, len(lines)-13):], ""))
	}
}

func (c *process) pid() int { return c.cmd.Process.Pid }

// stop ends the controller, which gives back its lease, and waits for its end.
func (c *process) stop() {
	_ = c.cmd.Process.Signal(unix.SIGTERM)
	<-c.done
}

// kill ends the controller as a crash would.
func (c *process) kill() {
	_ = c.cmd.Process.Kill()
	<-c.done
}

// eventually is stage.Eventually, but fails when the process ends.
func (c *process) eventually(ctx context.Context, what func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // ends with ctx
		select {
		case <-c.done:
			cancel()
		case <-ctx.Done():
		}
	}()
	if err := stage.Eventually(ctx, patience, what); err != nil {
		return fmt.Errorf("controller %s: %w", c.name, err)
	}
	return nil
}

// awaitLead waits until it holds the lease.
func (c *process) awaitLead(ctx context.Context) error {
	return c.eventually(ctx, func(ctx context.Context) error {
		lease, err := c.s.Kubernetes.CoordinationV1().Leases(
			stage.Namespace,
		).Get(ctx, "berth-controller", metav1.GetOptions{})
		if err == nil && (lease.Spec.HolderIdentity == nil || *lease.Spec.HolderIdentity != c.name) {
			err = errors.New("it does not hold the lease")
		}
		return err
	})
}

// awaitReady waits until the controller's caches are complete.
func (c *process) awaitReady(ctx context.Context) error {
	return c.eventually(ctx, func(ctx context.Context) error {
		response, err := c.get(ctx, "readyz")
		if err == nil {
			err = response.Body.Close()
		}
		return err
	})
}

// get requests a path from the controller. It fails unless the status is 200.
func (c *process) get(ctx context.Context, path string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(
		ctx,
		http.MethodGet,
		fmt.Sprintf("http://127.0.0.1:%d/%s", c.port, path),
		nil,
	)
	if err != nil {
		return nil, err
	}
	response, err := c.s.HTTPClient(lab.ControlPlane).Do(request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		return nil, errors.Join(errors.New(path+": "+response.Status), response.Body.Close())
	}
	return response, nil
}

// writes returns how many times the controller wrote the status of a Service, including failed
// writes.
func (c *process) writes(ctx context.Context) (int, error) {
	const metric = "berth_service_status_writes_total"
	response, err := c.get(ctx, "metrics")
	if err != nil {
		return 0, fmt.Errorf("metrics of controller %s: %w", c.name, err)
	}
	defer response.Body.Close()
	lines := bufio.NewScanner(response.Body)
	for lines.Scan() {
		if value, ok := strings.CutPrefix(lines.Text(), metric+" "); ok {
			n, err := strconv.ParseFloat(value, 64)
			return int(n), err
		}
	}
	return 0, fmt.Errorf("controller %s has no metric %s", c.name, metric)
}
