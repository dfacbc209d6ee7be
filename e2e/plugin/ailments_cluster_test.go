//go:build root || release

package plugin

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"

	"github.com/berth-lb/berth/e2e/lab"
	"github.com/berth-lb/berth/e2e/stage"
)

// clusterAilments are what is wrong with a cluster, whether Berth is installed or not.
var clusterAilments = []ailment{
	{
		id:     "other-load-balancer",
		object: "DaemonSet plugin/speaker",
		what:   "MetalLB",
		yaml:   foreign("speaker", "quay.io/metallb/speaker:v0.15.2"),
	},
	{
		id:     "class-not-served",
		object: "Service plugin/shop",
		what:   "metallb",
		yaml:   pinned("", ", loadBalancerClass: metallb"),
	},
	{
		id:     "pool-external-ip",
		object: "LoadBalancerPool rack",
		what:   "172.30.0.249",
		yaml:   pinned("", `, externalIPs: ["172.30.0.249"]`),
	},
	{
		id: "pool-address-in-use", object: "LoadBalancerPool proposed", what: "InternalIP of node n1",
		args: []string{"--pool", "172.30.0.11-172.30.0.12"},
	},
	{
		id:     "pool-address-in-use",
		object: "LoadBalancerPool office",
		what:   "InternalIP of node n1",
		yaml:   pool("office", "172.30.0.11/32"),
	},
	{
		id:     "pool-invalid",
		object: "LoadBalancerPool proposed",
		what:   "LoadBalancerPool rack",
		args:   []string{"--pool", "172.30.0.200/30"},
	},
	{id: "webhook", object: "ValidatingWebhookConfiguration plugin", what: "berth.dev", yaml: failingWebhook},
	{
		id: "nodes-excluded", object: "Node n1", what: exclude,
		do: kubectl("label", "nodes", "--all", exclude+"="), undo: kubectl("label", "nodes", "--all", exclude+"-"),
	},
	{
		id: "pod-security", object: "Namespace " + stage.Namespace, what: "baseline",
		do: kubectl(
			"label",
			"namespace",
			stage.Namespace,
			"pod-security.kubernetes.io/enforce=baseline",
			"--overwrite",
		),
		undo: kubectl(
			"label",
			"namespace",
			stage.Namespace,
			"pod-security.kubernetes.io/enforce=privileged",
			"--overwrite",
		),
	},
	{
		id: "priority-class", object: "PriorityClass system-node-critical", what: "which Berth's Pods name",
		do:   inStore("deleterange", "/registry/priorityclasses/system-node-critical"),
		undo: func(ctx context.Context) error { return scene.Apply(ctx, systemNodeCritical) },
	},
	{
		id: "port-in-use", object: "Pod plugin/greedy", what: "has TCP port 10256 of node n1",
		yaml: greedy(
			10256,
		), do: kubectl("wait", "pod", "greedy", "-n", "plugin", "--for=condition=Ready", "--timeout=30s"),
	},
	// The speaker has it, so there is no node for the Pod.
	{id: "port-in-use", object: "Pod plugin/greedy", what: "wants TCP port 7470 of a node", yaml: greedy(7470)},
	{
		id: "kube-proxy-strict-arp", object: "ConfigMap kube-system/kube-proxy", what: "without strictARP",
		yaml: kubeProxy("mode: ipvs"),
	},
	{
		id: "kube-proxy-slow", object: "ConfigMap kube-system/kube-proxy", what: "nftables.minSyncPeriod is 30s",
		yaml: kubeProxy("mode: nftables\n    nftables: {minSyncPeriod: 30s}"),
	},
	{
		id:     "kube-proxy-replaced",
		object: "DaemonSet plugin/cilium",
		what:   "Cilium",
		yaml:   foreign("cilium", "quay.io/cilium/cilium:v1.18.0"),
	},
	{
		id: "status-of-another", object: "Service plugin/shop", what: "k3s-servicelb gave it",
		yaml: pinned("berth.dev/pools: nothing", ""), do: writeStatus("k3s-servicelb", "172.30.0.11"),
	},
	{
		id: "pool-address-of-service", object: "LoadBalancerPool rack",
		what: "172.30.0.245 is the address of Service plugin/shop, which field manager metallb-controller gave it",
		yaml: pinned("", ", loadBalancerClass: metallb"), do: writeStatus("metallb-controller", "172.30.0.245"),
	},
}

// foreign is a program of others that no node runs.
func foreign(name, image string) string {
	return fmt.Sprintf(`
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: %[1]s, namespace: plugin}
spec:
  selector: {matchLabels: {app: foreign}}
  template:
    metadata: {labels: {app: foreign}}
    spec:
      nodeSelector: {no-such-label: ""}
      containers: [{name: %[1]s, image: %[2]q, imagePullPolicy: Never}]
---
`, name, image)
}

const failingWebhook = `
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: plugin}
webhooks:
  - name: plugin.example.com
    rules: [{apiGroups: [berth.dev], apiVersions: ["*"], operations: [DELETE], resources: [speakers]}]
    clientConfig: {service: {namespace: plugin, name: nothing}}
    admissionReviewVersions: [v1]
    sideEffects: None
---
`

// greedy is a Pod that has a port of node n1.
func greedy(port int) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: greedy, namespace: plugin}
spec:
  nodeSelector: {kubernetes.io/hostname: n1}
  terminationGracePeriodSeconds: 0
  containers: [{name: greedy, image: "berth.dev/echo:1", ports: [{containerPort: 8080, hostPort: %d}]}]
---
`, port)
}

// kubeProxy is the configuration of kube-proxy, where kubeadm has it.
func kubeProxy(config string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: ConfigMap
metadata: {name: kube-proxy, namespace: kube-system}
data:
  config.conf: |
    apiVersion: kubeproxy.config.k8s.io/v1alpha1
    kind: KubeProxyConfiguration
    %s
---
`, config)
}

// writeStatus gives the Service shop an address, as another load balancer does.
func writeStatus(manager, address string) func(context.Context) error {
	return kubectl(
		"patch",
		"service",
		"shop",
		"-n",
		"plugin",
		"--subresource=status",
		"--type=merge",
		"--field-manager="+manager,
		"-p",
		fmt.Sprintf(`{"status":{"loadBalancer":{"ingress":[{"ip":%q}]}}}`, address),
	)
}

const systemNodeCritical = `
apiVersion: scheduling.k8s.io/v1
kind: PriorityClass
metadata: {name: system-node-critical}
value: 2000001000
description: Used for system critical pods that must not be moved from their current node.
---
`

// inStore has etcd do something with a key: the API server refuses to delete what is its own.
func inStore(verb, key string) func(context.Context) error {
	return func(ctx context.Context) error {
		body, err := json.Marshal(map[string][]byte{"key": []byte(key)})
		if err != nil {
			return err
		}
		request, err := http.NewRequestWithContext(
			ctx, http.MethodPost, "http://127.0.0.1:2379/v3/kv/"+verb, bytes.NewReader(body),
		)
		if err != nil {
			return err
		}
		response, err := scene.HTTPClient(lab.ControlPlane).Do(request)
		if err != nil {
			return err
		}
		defer func() { _ = response.Body.Close() }()
		text, err := io.ReadAll(response.Body)
		if err == nil && !bytes.Contains(text, []byte(`"deleted":"1"`)) {
			err = fmt.Errorf("etcd: %s %s: %s: %s", verb, key, response.Status, text)
		}
		return err
	}
}
