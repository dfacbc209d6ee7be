//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/kubernetes"
)

// startBase starts what nodes need for their registration, and the programs that do not depend on
// it.
func (l *Lab) startBase(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return l.startControlPlane(ctx) })
	group.Go(func() error { return l.startRouter(ctx) })
	group.Go(func() error { return l.startSpine(ctx) })
	for _, node := range l.plan.nodes() {
		group.Go(func() error { return l.startRuntime(ctx, node) })
	}
	return group.Wait()
}

// startNodes has all nodes join.
func (l *Lab) startNodes(ctx context.Context) error {
	client, err := l.client()
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, node := range l.plan.nodes() {
		group.Go(func() error { return l.startKubelet(ctx, client, node) })
	}
	group.Go(func() error {
		return l.healthy(ctx, ControlPlane, "kube-controller-manager", defaultServiceAccount(client))
	})
	return group.Wait()
}

// Start restarts a process that ended or was killed, by the name that Status shows, or a node that
// was killed as a whole. The kubelet restarts containers.
func (l *Lab) Start(ctx context.Context, name string) error {
	process, hostName := splitProcess(name)
	if h, err := l.plan.host(name); err == nil && h.node != 0 {
		return l.restartNode(ctx, h)
	}
	h, err := l.plan.host(hostName)
	if err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	switch process {
	case "etcd":
		return l.start(ctx, hostName, process, l.program(process, l.etcdArgs()...)...)
	case "kube-apiserver":
		return l.start(ctx, hostName, process, l.program(process, l.apiserverArgs()...)...)
	case "kube-controller-manager":
		return l.start(ctx, hostName, process, l.program(process, l.controllerManagerArgs()...)...)
	case "kube-scheduler":
		return l.start(ctx, hostName, process, l.program(process, l.schedulerArgs()...)...)
	case "zebra", "bgpd":
		return l.startDaemon(ctx, process)
	case "containerd":
		return l.start(ctx, hostName, process, "containerd")
	case "kubelet":
		return l.start(ctx, hostName, process, l.kubeletArgs(h)...)
	case "kube-proxy":
		return l.start(ctx, hostName, process, l.proxyArgs(h)...)
	default:
		return fmt.Errorf("start %s: not a process of the lab's own (those of pods are the kubelet's)", name)
	}
}

// RestartAPIServer replaces the API server by one with further flags, and returns once that is
// ready. version is of Kubernetes, as stock.BuildKubernetes built it; empty: the lab's own.
func (l *Lab) RestartAPIServer(ctx context.Context, version string, flags ...string) error {
	const name = "kube-apiserver"
	audit, err := l.auditArgs()
	if err != nil {
		return err
	}
	args := slices.Concat(l.apiserverArgs(), audit, flags)
	command := l.program(name, args...)
	if version != "" {
		command = append([]string{l.folder.Kubernetes(version, name)}, args...)
	}
	err = l.Kill(ctx, name)
	// One that ended at once, by flags that it refused, say, is replaced all the same.
	if _, ended := errors.AsType[*NotRunningError](err); err != nil && !ended {
		return err
	}
	if err := l.start(ctx, ControlPlane, name, command...); err != nil {
		return err
	}
	return l.healthy(ctx, ControlPlane, name, l.answers(ControlPlane, apiServer+"/readyz"))
}

// restartNode boots a node again, as after a power cut. Its network returns with the link, its pods
// with the kubelet.
func (l *Lab) restartNode(ctx context.Context, h hostPlan) error {
	if _, err := l.initOf(h.name); err == nil {
		return fmt.Errorf("start %s: it runs", h.name)
	}
	if err := l.forgetNode(h.name); err != nil {
		return err
	}
	if err := l.boot(ctx, h); err != nil {
		return err
	}
	if err := l.Heal(h.name); err != nil {
		return err
	}
	if err := l.startRuntime(ctx, h.name); err != nil {
		return err
	}
	client, err := l.client()
	if err != nil {
		return err
	}
	return l.startKubelet(ctx, client, h.name)
}

func (l *Lab) client() (kubernetes.Interface, error) {
	config, err := l.RESTConfig()
	if err != nil {
		return nil, err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("make a client of the lab's API server: %w", err)
	}
	return client, nil
}
