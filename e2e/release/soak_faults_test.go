//go:build release

package release

import (
	"context"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/e2e/lab"
	"github.com/berth-lb/berth/e2e/soak"
	"github.com/berth-lb/berth/e2e/stage"
)

// soakFaults are all kinds of faults.
func soakFaults() []fault {
	return slices.Concat(
		interfaceFaults(),
		processFaults(),
		segmentFaults(),
		nodeFaults(),
		clusterFaults(),
		routerFaults(),
	)
}

// restarted returns a strike that kills a process of the lab's own on the node. The end starts it.
func restarted(process string) func(context.Context, *field, string) (healing, error) {
	return func(ctx context.Context, f *field, node string) (healing, error) {
		name := process + "@" + node
		return func(ctx context.Context) error { return f.Start(ctx, name) }, f.Kill(ctx, name)
	}
}

func nodeFaults() []fault {
	return []fault{
		{
			Kind: soak.Kind{Name: "it is killed, and boots", AtLeast: 2 * time.Second},
			strike: func(ctx context.Context, f *field, node string) (healing, error) {
				return func(ctx context.Context) error { return f.Start(ctx, node) }, f.Kill(ctx, node)
			},
		},
		{Kind: soak.Kind{Name: "its kube-proxy is killed"}, strike: restarted("kube-proxy")},
		{Kind: soak.Kind{Name: "its kubelet is killed"}, strike: restarted("kubelet")},
		{
			// The third one in ten minutes has the speaker leave the router alone.
			Kind: soak.Kind{Name: "its BGP crashes", Apart: 100},
			strike: func(ctx context.Context, f *field, node string) (healing, error) {
				return nil, f.CrashBGP(ctx, node)
			},
		},
		{
			Kind: soak.Kind{Name: "it has no processor left", AtLeast: 3 * time.Second},
			strike: func(ctx context.Context, f *field, node string) (healing, error) {
				return keepBusy(ctx, f.Stage, node)
			},
		},
	}
}

func clusterFaults() []fault {
	return []fault{
		{
			Kind: soak.Kind{Name: "the API server is killed", NoAPI: true},
			strike: func(ctx context.Context, f *field, _ string) (healing, error) {
				return func(ctx context.Context) error { return f.RestartAPIServer(ctx, "") }, f.Kill(
					ctx,
					"kube-apiserver",
				)
			},
		},
		{
			Kind: soak.Kind{Name: "etcd freezes", NoAPI: true},
			strike: func(ctx context.Context, f *field, _ string) (healing, error) {
				return func(ctx context.Context) error { return f.Resume(ctx, "etcd") }, f.Pause(ctx, "etcd")
			},
		},
		{
			Kind: soak.Kind{Name: "the controller manager is killed", NoSlices: true},
			strike: func(ctx context.Context, f *field, _ string) (healing, error) {
				const name = "kube-controller-manager"
				return func(ctx context.Context) error { return f.Start(ctx, name) }, f.Kill(ctx, name)
			},
		},
		{
			Kind: soak.Kind{Name: "the leading controller is killed", ByAPI: true},
			strike: func(ctx context.Context, f *field, _ string) (healing, error) {
				return nil, f.killLeader(ctx)
			},
		},
		{
			Kind: soak.Kind{Name: "all speakers are replaced", ByAPI: true, Alone: true},
			strike: func(ctx context.Context, f *field, _ string) (healing, error) {
				return nil, f.restart(ctx)
			},
		},
	}
}

// killLeader kills the leading controller, unless it went with its node.
func (f *field) killLeader(ctx context.Context) error {
	leader, err := f.Leader(ctx)
	if err != nil {
		return err
	}
	pod, err := f.Kubernetes.CoreV1().Pods(stage.Namespace).Get(ctx, leader, metav1.GetOptions{})
	if err != nil {
		return err
	}
	status, err := f.Status(ctx)
	if err != nil {
		return err
	}
	for _, host := range status.Hosts {
		if host.Name == pod.Spec.NodeName && host.State[0] == "dead" {
			return nil
		}
	}
	return f.Kill(ctx, leader+"@"+pod.Spec.NodeName)
}

func routerFaults() []fault {
	const bgpd = "bgpd@" + lab.Router
	return []fault{
		{
			Kind: soak.Kind{Name: "the router's BGP is killed", Router: true, NoRoutes: true},
			strike: func(ctx context.Context, f *field, _ string) (healing, error) {
				return func(ctx context.Context) error { // not at once
					return stage.Eventually(
						ctx,
						patience,
						func(ctx context.Context) error { return f.Start(ctx, bgpd) },
					)
				}, f.Kill(ctx, bgpd)
			},
		},
		{
			Kind: soak.Kind{Name: "the router's BGP freezes", Router: true, NoRoutes: true},
			strike: func(ctx context.Context, f *field, _ string) (healing, error) {
				return func(ctx context.Context) error { return f.Resume(ctx, bgpd) }, f.Pause(ctx, bgpd)
			},
		},
		{
			Kind: soak.Kind{Name: "the router resets all sessions", Router: true, NoRoutes: true},
			strike: func(ctx context.Context, f *field, _ string) (healing, error) {
				_, err := f.Vtysh(ctx, "clear bgp *")
				return nil, err
			},
		},
		{
			Kind: soak.Kind{Name: "the router loses it", Router: true},
			strike: func(ctx context.Context, f *field, node string) (healing, error) {
				return routerLoses(ctx, f.Stage, node)
			},
		},
	}
}
