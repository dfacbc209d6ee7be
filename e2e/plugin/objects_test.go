//go:build root || release

package plugin

import (
	"context"
	"fmt"
)

// This file has what tests of several files make in the lab.

const exclude = "node.kubernetes.io/exclude-from-external-load-balancers"

// pinned is a Service shop with a body after its type.
func pinned(annotations, spec string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: shop, namespace: plugin, annotations: {%s}}
spec: {type: LoadBalancer, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]%s}
---
`, annotations, spec)
}

func pool(name, addresses string) string {
	return fmt.Sprintf(`
apiVersion: berth.dev/v1alpha1
kind: LoadBalancerPool
metadata: {name: %s}
spec: {allocation: OnRequest, addresses: [%s], scopes: [{namespaceSelector: {}, serviceSelector: {}}]}
---
`, name, addresses)
}

func segment(name, spec string) string {
	return fmt.Sprintf(`
apiVersion: berth.dev/v1alpha1
kind: SegmentAnnouncement
metadata: {name: %s}
spec: {%s, nodeSelector: {}, serviceSelector: {}}
---
`, name, spec)
}

func kubectl(args ...string) func(context.Context) error {
	return func(ctx context.Context) error {
		_, err := scene.Kubectl(ctx, "", args...)
		return err
	}
}

func inOrder(steps ...func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		for _, step := range steps {
			if err := step(ctx); err != nil {
				return err
			}
		}
		return nil
	}
}

// onHost runs a script of the shell on a host.
func onHost(host, script string) func(context.Context) error {
	return func(ctx context.Context) error {
		out, err := scene.Exec(ctx, host, "sh", "-ec", script).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%s: %s: %w\n%s", host, script, err, out)
		}
		return nil
	}
}
