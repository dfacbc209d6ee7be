//go:build linux

package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/yaml"

	"github.com/berth-lb/berth/e2e/host"
)

const containerdSocket = "/run/containerd/containerd.sock"

// nodeSpec adds what only nodes have: cgroups, a container runtime's configuration, and disk space
// for images and volumes.
func (l *Lab) nodeSpec(spec host.Spec, h hostPlan) (host.Spec, error) {
	groups, err := host.Hierarchies(l.prefix() + h.name)
	if err != nil {
		return spec, err
	}
	spec.Cgroups = groups
	for from, to := range map[string]string{
		filepath.Join("data", h.name, "containerd"): "/var/lib/containerd",
		filepath.Join("data", h.name, "kubelet"):    "/var/lib/kubelet",
		filepath.Join("log", "pods", h.name):        "/var/log/pods",
	} {
		from = filepath.Join(l.dir(), from)
		if err := os.MkdirAll(from, 0o755); err != nil {
			return spec, fmt.Errorf("boot %s: %w", h.name, err)
		}
		spec.Binds = append(spec.Binds, host.Bind{From: from, To: to})
	}
	spec.Binds = append(spec.Binds, host.Bind{From: cniPlugins(l.folder.Packages()), To: "/opt/cni/bin"})
	spec.Dirs = []host.Dir{{Path: "/var/log/containers"}, {Path: "/var/lib/cni"}}
	spec.Sysctls = kubeletSysctls()

	cni, err := json.MarshalIndent(cniConfig(h, l.opts.DualStack), "", "  ")
	if err != nil {
		return spec, fmt.Errorf("boot %s: %w", h.name, err)
	}
	kubelet, err := yaml.Marshal(l.kubeletConfig())
	if err != nil {
		return spec, fmt.Errorf("boot %s: %w", h.name, err)
	}
	spec.Files = []host.File{
		{Path: "/etc/cni/net.d/10-lab.conflist", Text: string(cni), Mode: 0o644},
		{Path: "/etc/containerd/config.toml", Text: containerdConfig, Mode: 0o644},
		{Path: "/etc/kubernetes/kubelet.yaml", Text: string(kubelet), Mode: 0o644},
		{Path: "/etc/resolv.conf", Text: "# There is no DNS outside the cluster.\n", Mode: 0o644},
		{Path: "/etc/machine-id", Text: fmt.Sprintf("%032x\n", h.node), Mode: 0o444},
	}
	return spec, nil
}

// cniPlugins returns where the plugins are: below the work folder, or on the machine itself if the
// package is installed there.
func cniPlugins(packages string) string {
	const dir = "/usr/lib/cni"
	if own := filepath.Join(packages, dir); exists(own) {
		return own
	}
	return dir
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// kubeletSysctls are global sysctls that the kubelet would set. It is shown that they are set
// already, so it does not change them on the machine.
func kubeletSysctls() map[string]string {
	return map[string]string{
		"vm/overcommit_memory":      "1",
		"vm/panic_on_oom":           "0",
		"kernel/panic":              "10",
		"kernel/panic_on_oops":      "1",
		"kernel/keys/root_maxkeys":  "1000000",
		"kernel/keys/root_maxbytes": "25000000",
	}
}

// cniConfig connects pods to a bridge of the node, cni0, without address translation: the other
// hosts have routes to the pods.
func cniConfig(h hostPlan, dualStack bool) map[string]any {
	var ranges [][]map[string]string
	for _, f := range families(dualStack) {
		ranges = append(ranges, []map[string]string{{"subnet": f.pods(h.node).String()}})
	}
	return map[string]any{
		"cniVersion": "1.0.0",
		"name":       "lab",
		"plugins": []map[string]any{{
			"type": "bridge", "bridge": "cni0", "isDefaultGateway": true, "hairpinMode": true, "ipMasq": false,
			"ipam": map[string]any{"type": "host-local", "dataDir": "/run/cni-ipam", "ranges": ranges},
		}},
	}
}

// containerdConfig is for containerd 1.6 and 1.7. The machine may lack CAP_SYS_RESOURCE, so nothing
// requests a lower OOM score.
const containerdConfig = `version = 2
oom_score = 0
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "berth.dev/pause:1"
  restrict_oom_score_adj = true
  enable_unprivileged_ports = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/opt/cni/bin"
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
`

func (l *Lab) kubeletConfig() map[string]any {
	dns := []string{}
	if l.opts.DNS {
		dns = append(dns, dnsClusterIP)
	}
	return map[string]any{
		"apiVersion": "kubelet.config.k8s.io/v1beta1",
		"kind":       "KubeletConfiguration",
		"authentication": map[string]any{
			"anonymous": map[string]any{"enabled": false},
			"webhook":   map[string]any{"enabled": false},
			"x509":      map[string]any{"clientCAFile": l.pki("ca.crt")},
		},
		"authorization":            map[string]any{"mode": "AlwaysAllow"},
		"cgroupDriver":             "cgroupfs",
		"cgroupRoot":               "/",
		"cgroupsPerQOS":            false,
		"enforceNodeAllocatable":   []string{},
		"failSwapOn":               false,
		"failCgroupV1":             false,
		"oomScoreAdj":              0,
		"containerRuntimeEndpoint": "unix://" + containerdSocket,
		"resolvConf":               "/etc/resolv.conf",
		"clusterDNS":               dns,
		"clusterDomain":            "cluster.local",
		"volumePluginDir":          "/var/lib/kubelet/volume-plugins",
		"maxPods":                  160, // a test runs 110, as many as a stock kubelet does, beside ours
		// The node's heartbeat must arrive well within the controller manager's grace period of 6 s: a
		// lease of 4 s is renewed every second.
		"nodeLeaseDurationSeconds":  4,
		"nodeStatusUpdateFrequency": "2s",
		"shutdownGracePeriod":       "0s",
		// A test may kill a container more than once.
		"crashLoopBackOff": map[string]any{"maxContainerRestartPeriod": "2s"},
		"featureGates":     map[string]any{"KubeletCrashLoopBackOffMax": true}, // by default from 1.35 on
		// Images are imported once and must never be collected as garbage.
		"imageGCHighThresholdPercent": 100,
		"imageMinimumGCAge":           "24h",
		"evictionHard": map[string]any{
			"memory.available": "100Mi", "nodefs.available": "1%", "nodefs.inodesFree": "0%",
			"imagefs.available": "1%", "imagefs.inodesFree": "0%",
		},
	}
}

// startRuntime starts containerd on a node and imports all images.
func (l *Lab) startRuntime(ctx context.Context, node string) error {
	if err := l.start(ctx, node, "containerd", "containerd"); err != nil {
		return err
	}
	if err := l.healthy(ctx, node, "containerd", l.listens(node, containerdSocket)); err != nil {
		return err
	}
	images, err := l.images()
	if err != nil {
		return err
	}
	for _, file := range images {
		if err := l.importImage(ctx, node, file); err != nil {
			return err
		}
	}
	return nil
}

// images lists the archives that every node gets.
func (l *Lab) images() ([]string, error) {
	var all []string
	for _, dir := range []string{l.folder.Images(), filepath.Join(l.dir(), "images")} {
		found, err := filepath.Glob(filepath.Join(dir, "*.tar"))
		if err != nil {
			return nil, fmt.Errorf("list images: %w", err)
		}
		all = append(all, found...)
	}
	return all, nil
}

func (l *Lab) importImage(ctx context.Context, node, file string) error {
	archive, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("import image: %w", err)
	}
	defer archive.Close()
	cmd := l.Exec(ctx, node, "ctr", "-n", "k8s.io", "images", "import", "-")
	cmd.Stdin = archive
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("import image %s on %s: %w\n%s", filepath.Base(file), node, err, bytes.TrimSpace(out))
	}
	return nil
}

// startKubelet starts the kubelet and kube-proxy of a node and waits until the node is Ready and
// the proxy healthy.
func (l *Lab) startKubelet(ctx context.Context, client kubernetes.Interface, node string) error {
	h, err := l.plan.host(node)
	if err != nil {
		return err
	}
	if err := l.start(ctx, node, "kubelet", l.kubeletArgs(h)...); err != nil {
		return err
	}
	if err := l.start(ctx, node, "kube-proxy", l.proxyArgs(h)...); err != nil {
		return err
	}
	if err := l.healthy(ctx, node, "kubelet", nodeReady(client, node)); err != nil {
		return err
	}
	return l.healthy(ctx, node, "kube-proxy", l.answers(node, "http://127.0.0.1:10256/healthz"))
}

func (l *Lab) kubeletArgs(h hostPlan) []string {
	var addrs []string
	for _, a := range h.addresses() {
		addrs = append(addrs, a.String())
	}
	return l.program(
		"kubelet", "--config=/etc/kubernetes/kubelet.yaml",
		"--kubeconfig="+l.pki("node-"+h.name+".kubeconfig"), "--hostname-override="+h.name,
		"--node-ip="+strings.Join(addrs, ","), "--root-dir=/var/lib/kubelet",
	)
}

func (l *Lab) proxyArgs(h hostPlan) []string {
	return l.program(
		"kube-proxy", "--kubeconfig="+l.pki("proxy.kubeconfig"),
		"--proxy-mode="+l.opts.ProxyMode, "--hostname-override="+h.name, "--cluster-cidr="+l.podRange(),
		"--nodeport-addresses=primary", "--healthz-bind-address=0.0.0.0:10256", "--metrics-bind-address=127.0.0.1:10249",
		// These would set sysctls that are global to the machine.
		"--conntrack-max-per-core=0", "--conntrack-min=0",
	)
}

func nodeReady(client kubernetes.Interface, name string) func(context.Context) error {
	return func(ctx context.Context) error {
		node, err := client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, c := range node.Status.Conditions {
			if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
				return nil
			} else if c.Type == corev1.NodeReady {
				return fmt.Errorf("node %s is not ready: %s", name, c.Message)
			}
		}
		return fmt.Errorf("node %s says nothing about its readiness", name)
	}
}
