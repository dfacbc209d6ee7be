//go:build linux

// Package cluster runs a Kubernetes cluster in a guest of package vm: etcd and the API server in
// the guest's own network namespace, which is also the bridge of the segment; nodes, a client and
// pods in namespaces of their own. Nodes have no kubelet, so their objects, EndpointSlices and pods
// are made by the test; what Berth does with them is real.
//
// It uses the whole guest: names and addresses are fixed, and only processes are cleaned up, when
// the test ends.
package cluster

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/berth-lb/berth/config/client"
	"github.com/berth-lb/berth/e2e/controlplane"
	"github.com/berth-lb/berth/e2e/stage"
	"github.com/berth-lb/berth/e2e/stock"
)

// patience is for steps on a machine that is emulated.
const patience = 4 * time.Minute

// Cluster is an API server, and nodes.
type Cluster struct {
	Kubernetes kubernetes.Interface
	Berth      *client.Interface

	folder stock.Folder
	dir    string
	plan   controlplane.Plan
}

// New starts a cluster without nodes: etcd, an API server with Berth's CRDs, Berth's namespace, and
// the segment with its client.
func New(t testing.TB) *Cluster {
	t.Helper()
	folder, err := stock.Find()
	if err != nil {
		t.Fatal(err)
	}
	c := &Cluster{folder: folder, dir: t.TempDir()}
	makeSegment(t)
	if c.plan, err = controlplane.Prepare(c.dir, server); err != nil {
		t.Fatal(err)
	}
	kube := func(name string, args []string) { c.Start(t, Host, name, nil, append([]string{c.Kube()}, args...)...) }
	kube("etcd", c.plan.Etcd())
	kube("kube-apiserver", c.plan.APIServer("10.96.0.0/16,fd00:96::/112"))
	if c.Kubernetes, c.Berth, err = c.plan.Connect(); err != nil {
		t.Fatal(err)
	}
	Eventually(t, func(ctx context.Context) error {
		return c.Kubernetes.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
	})
	manifest, err := stage.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	c.Kubectl(t, "", "apply", "--server-side", "-f", filepath.Join(filepath.Dir(manifest), "crds"))
	c.Kubectl(t, "", "wait", "--for=condition=Established", "--timeout=60s", "crd", "--all")
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: stage.Namespace}}
	if _, err := c.Kubernetes.CoreV1().Namespaces().Create(t.Context(), namespace, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return c
}

// Kube is the program that holds the components of Kubernetes; its first argument names one.
func (c *Cluster) Kube() string { return c.folder.Bin("kube") }

// Kubeconfig returns the path of the administrator's kubeconfig.
func (c *Cluster) Kubeconfig() string { return c.plan.Kubeconfig() }

// Controller starts Berth's controller, and restarts it when it ends, as the kubelet would: it ends
// when it loses its lease, which may happen on a slow machine.
func (c *Cluster) Controller(t testing.TB) *os.Process {
	t.Helper()
	return c.Start(t, Host, "controller", nil, "sh", "-c", `while :; do setpriv --pdeathsig KILL "$@"; done`, "sh",
		c.folder.Bin("berth"), "controller", "--kubeconfig="+c.Kubeconfig(), "--listen=")
}

// Speaker starts Berth's speaker on a node; its log is speaker-NODE.
func (c *Cluster) Speaker(t testing.TB, node string, args ...string) *os.Process {
	t.Helper()
	argv := []string{
		c.folder.Bin("berth"),
		"speaker",
		"--kubeconfig=" + c.Kubeconfig(),
		"--listen=",
		"--node=" + node,
		"--kube-proxy-healthz=",
	}
	return c.Start(t, node, "speaker-"+node, nil, append(argv, args...)...)
}

// Heart starts the process of a node that answers ARP, NDP and BFD, and returns the flag by which
// its speaker finds it; its log is heart-NODE.
func (c *Cluster) Heart(t testing.TB, node string) (p *os.Process, flag string) {
	t.Helper()
	socket := filepath.Join(c.dir, node+".heart")
	p = c.Start(t, node, "heart-"+node, nil, c.folder.Bin("berth-heart"), "-socket="+socket, "-state="+socket+".state")
	return p, "--heart=" + socket
}

// Start starts a program in a namespace. It lasts at most as long as the test, and its output is
// shown if that fails.
func (c *Cluster) Start(t testing.TB, space, name string, env []string, argv ...string) *os.Process {
	t.Helper()
	log, err := os.OpenFile(c.log(name), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	argv = within(space, argv)
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()
		_ = log.Close()
		text, err := os.ReadFile(log.Name())
		if t.Failed() && err == nil {
			t.Logf("the end of the log of %s:\n%s", name, text[max(0, len(text)-4000):])
		}
	})
	return cmd.Process
}

func (c *Cluster) log(name string) string { return filepath.Join(c.dir, name+".log") }

// Log returns what a program has logged so far.
func (c *Cluster) Log(t testing.TB, name string) string {
	t.Helper()
	text, err := os.ReadFile(c.log(name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// AwaitLog waits until a program's log has the text.
func (c *Cluster) AwaitLog(t testing.TB, name, text string) {
	t.Helper()
	Eventually(t, func(context.Context) error {
		if !strings.Contains(c.Log(t, name), text) {
			return fmt.Errorf("the log of %s does not say %s", name, text)
		}
		return nil
	})
}

// Apply applies objects. It starts kubectl, which takes seconds here: the clients do not.
func (c *Cluster) Apply(t testing.TB, yaml string) {
	t.Helper()
	c.Kubectl(t, yaml, "apply", "-f", "-")
}

// Kubectl runs kubectl and returns its output.
func (c *Cluster) Kubectl(t testing.TB, stdin string, args ...string) string {
	t.Helper()
	cmd := exec.Command(
		c.Kube(),
		append(
			[]string{"kubectl", "--kubeconfig=" + c.Kubeconfig(), "--cache-dir=" + filepath.Join(c.dir, "cache")},
			args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("kubectl %s: %v: %s", strings.Join(args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return string(out)
}

// Eventually waits until the condition holds, for as long as an emulated machine may need.
func Eventually(t testing.TB, condition func(context.Context) error) {
	t.Helper()
	if err := stage.Eventually(t.Context(), patience, condition); err != nil {
		t.Fatal(err)
	}
}
