//go:build linux

package hollow

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	authenticationv1 "k8s.io/api/authentication/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/e2e/stage"
)

// node is a hollow node: a network namespace on the bridge with the three processes of a speaker's
// Pod, a Node object, and heartbeats as a kubelet has them. Nothing else is there: no Pod runs.
type node struct {
	name    string
	address netip.Addr
	config  string // kubeconfig of the speaker

	speaker, heart, bgp *exec.Cmd
	dead                atomic.Bool // it has no heartbeats
}

// imagesOfNode is how many images a Node's status names: as many as a kubelet reports.
const imagesOfNode = 50

// addNode adds the next node, whose speaker is not started yet.
func (c *cluster) addNode(ctx context.Context) (*node, error) {
	number := len(c.nodes) + 1
	n := &node{name: fmt.Sprintf("n%d", number), address: netip.AddrFrom4([4]byte{172, 30, 1, byte(number)})}
	if out, err := exec.CommandContext(ctx, "ip", "netns", "add", n.name).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("namespace of node %s: %w: %s", n.name, err, out)
	}
	if err := errors.Join(
		ip(ctx, "", "link add eth0 netns "+n.name+" type veth peer name "+n.name, "link set "+n.name+" master rack up"),
		ip(ctx, n.name, "link set lo up", "link set eth0 up", "addr add "+n.address.String()+"/16 dev eth0"),
	); err != nil {
		return nil, err
	}
	created, err := c.kubernetes.CoreV1().Nodes().Create(ctx, n.object(), metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("create Node %s: %w", n.name, err)
	}
	created.Status = n.status()
	if _, err := c.kubernetes.CoreV1().Nodes().UpdateStatus(ctx, created, metav1.UpdateOptions{}); err != nil {
		return nil, fmt.Errorf("status of Node %s: %w", n.name, err)
	}
	now := metav1.NowMicro()
	if _, err := c.kubernetes.CoordinationV1().Leases(corev1.NamespaceNodeLease).Create(ctx, &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Name: n.name},
		Spec:       coordinationv1.LeaseSpec{HolderIdentity: &n.name, RenewTime: &now},
	}, metav1.CreateOptions{}); err != nil {
		return nil, fmt.Errorf("node %s: Lease: %w", n.name, err)
	}
	pod, err := c.kubernetes.CoreV1().Pods(stage.Namespace).Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "berth-speaker-" + n.name},
		Spec: corev1.PodSpec{
			NodeName: n.name, ServiceAccountName: "berth-speaker", HostNetwork: true,
			Containers: []corev1.Container{{Name: "speaker", Image: "localhost/berth"}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("node %s: the speaker's Pod: %w", n.name, err)
	}
	n.config, err = c.credentials(ctx, "berth-speaker", n.name, &authenticationv1.BoundObjectReference{
		Kind: "Pod", APIVersion: "v1", Name: pod.Name, UID: pod.UID,
	})
	if err != nil {
		return nil, err
	}
	c.nodes = append(c.nodes, n)
	return n, nil
}

func (n *node) object() *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: n.name, Labels: map[string]string{
			corev1.LabelHostname: n.name, corev1.LabelOSStable: "linux", corev1.LabelArchStable: "amd64",
			corev1.LabelTopologyZone: "rack", corev1.LabelTopologyRegion: "here", corev1.LabelInstanceTypeStable: "metal",
		}},
		Spec: corev1.NodeSpec{PodCIDR: n.podRange(), PodCIDRs: []string{n.podRange()}},
	}
}

func (n *node) podRange() string { return fmt.Sprintf("10.244.%d.0/24", n.address.As4()[3]) }

// status is as long as a kubelet's.
func (n *node) status() corev1.NodeStatus {
	quantity := corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("64"), corev1.ResourceMemory: resource.MustParse("263568132Ki"),
		corev1.ResourcePods: resource.MustParse(
			"110",
		), corev1.ResourceEphemeralStorage: resource.MustParse("459850824Ki"),
	}
	s := corev1.NodeStatus{
		Addresses: []corev1.NodeAddress{
			{Type: corev1.NodeInternalIP, Address: n.address.String()}, {Type: corev1.NodeHostName, Address: n.name},
		},
		Capacity: quantity, Allocatable: quantity, Conditions: conditions(corev1.ConditionTrue),
		NodeInfo: corev1.NodeSystemInfo{
			MachineID: n.name, KernelVersion: "6.12.57+deb13-amd64", OSImage: "Debian GNU/Linux 13 (trixie)",
			ContainerRuntimeVersion: "containerd://2.2.0", KubeletVersion: "v1.36.0", OperatingSystem: "linux",
			Architecture: "amd64",
		},
	}
	for i := range imagesOfNode {
		name := fmt.Sprintf("registry.example.com/platform/application-%02d", i)
		s.Images = append(s.Images, corev1.ContainerImage{
			Names: []string{
				fmt.Sprintf("%s@sha256:%064x", name, 1000*i), fmt.Sprintf("%s:v1.%d.0", name, i),
			}, SizeBytes: 123456789,
		})
	}
	return s
}

func conditions(ready corev1.ConditionStatus) []corev1.NodeCondition {
	now := metav1.Now()
	all := []corev1.NodeCondition{{
		Type: corev1.NodeReady, Status: ready, Reason: "KubeletReady", Message: "kubelet is posting ready status",
		LastHeartbeatTime: now, LastTransitionTime: now,
	}}
	for _, kind := range []corev1.NodeConditionType{
		corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure,
	} {
		all = append(all, corev1.NodeCondition{
			Type: kind, Status: corev1.ConditionFalse, Reason: "KubeletHasSufficientResources",
			Message: "kubelet has sufficient resources available", LastHeartbeatTime: now, LastTransitionTime: now,
		})
	}
	return all
}

// setReady writes the Node's condition, as a kubelet does, or in its place the controller of nodes.
func (c *cluster) setReady(ctx context.Context, n *node, ready corev1.ConditionStatus) error {
	patch, err := json.Marshal(map[string]any{"status": map[string]any{"conditions": conditions(ready)}})
	if err != nil {
		return fmt.Errorf("status of Node %s: %w", n.name, err)
	}
	_, err = c.kubernetes.CoreV1().Nodes().Patch(
		ctx, n.name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status",
	)
	if err != nil {
		return fmt.Errorf("status of Node %s: %w", n.name, err)
	}
	return nil
}

// beat does for every living node what kubelets do, evenly over each interval, until the context
// ends: it renews the Lease each 10 s and, unless status is 0, writes the Node's status that often.
func (c *cluster) beat(ctx context.Context, status time.Duration) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return c.inTurn(ctx, 10*time.Second, c.renew) })
	if status > 0 {
		group.Go(func() error {
			return c.inTurn(ctx, status, func(ctx context.Context, n *node) error {
				return c.setReady(ctx, n, corev1.ConditionTrue)
			})
		})
	}
	return group.Wait()
}

// inTurn does something for each node in each interval, until the context ends.
func (c *cluster) inTurn(ctx context.Context, every time.Duration, do func(context.Context, *node) error) error {
	tick := time.NewTicker(every / time.Duration(len(c.nodes)))
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if n := c.nodes[i%len(c.nodes)]; !n.dead.Load() {
			if err := do(ctx, n); err != nil && ctx.Err() == nil {
				return err
			}
		}
	}
}

func (c *cluster) renew(ctx context.Context, n *node) error {
	patch := fmt.Sprintf(`{"spec":{"renewTime":%q}}`, time.Now().UTC().Format(metav1.RFC3339Micro))
	_, err := c.kubernetes.CoordinationV1().Leases(corev1.NamespaceNodeLease).Patch(
		ctx, n.name, types.MergePatchType, []byte(patch), metav1.PatchOptions{},
	)
	if err != nil {
		return fmt.Errorf("node %s: Lease: %w", n.name, err)
	}
	return nil
}

// startSpeaker starts the processes of the node's speaker that do not run.
func (c *cluster) startSpeaker(ctx context.Context, n *node) (err error) {
	run := filepath.Join(c.dir, n.name) // each has files beside its socket
	if err := os.MkdirAll(run, 0o700); err != nil {
		return fmt.Errorf("sockets of node %s: %w", n.name, err)
	}
	socket := func(name string) string { return filepath.Join(run, name) }
	for _, program := range []string{"berth", "berth-heart", "berth-bgp"} {
		if err := copyOnce(filepath.Join(run, program), c.folder.Bin(program)); err != nil {
			return fmt.Errorf("programs of node %s: %w", n.name, err)
		}
	}
	if n.heart == nil {
		if n.heart, err = c.start(ctx, n.name, "heart-"+n.name, filepath.Join(run, "berth-heart"),
			"-socket="+socket("heart"), "-state="+socket("heart.state"), "-bfd-socket="+socket("bfd")); err != nil {
			return err
		}
	}
	if n.bgp == nil {
		if n.bgp, err = c.start(ctx, n.name, "bgp-"+n.name, filepath.Join(run, "berth-bgp"),
			"-socket="+socket("bgp"), "-state="+socket("bgp.state"), "-bfd="+socket("bfd")); err != nil {
			return err
		}
	}
	n.speaker, err = c.start(ctx, n.name, "speaker-"+n.name, filepath.Join(run, "berth"), "speaker",
		"--kubeconfig="+n.config, "--namespace="+stage.Namespace, "--node="+n.name,
		"--listen="+n.address.String()+":7470",
		"--heart="+socket("heart"), "--bgp="+socket("bgp"), "--kube-proxy-healthz=")
	return err
}

// copyOnce copies a program, unless it was: on a node no other process than its own has its pages
// in memory, so that what a process gives back of them is free.
func copyOnce(to, from string) error {
	if _, err := os.Stat(to); err == nil {
		return nil
	}
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, text, 0o700)
}

// awaitSpeaker waits until the node's speaker announces.
func (c *cluster) awaitSpeaker(ctx context.Context, n *node) error {
	return c.eventually(ctx, func(ctx context.Context) error {
		found, err := c.berth.Speakers.Get(ctx, n.name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if state, message := found.Status.State(); state != v1alpha1.SpeakerAnnouncing {
			return fmt.Errorf("speaker of %s is %s: %s", n.name, state, message)
		}
		return nil
	})
}

// end sends a signal to processes of a node and waits until they ended.
func (n *node) end(signal unix.Signal, all ...*exec.Cmd) error {
	for _, cmd := range all {
		if err := cmd.Process.Signal(signal); err != nil {
			return fmt.Errorf("node %s: end %s: %w", n.name, cmd.Path, err)
		}
	}
	for _, cmd := range all {
		_ = cmd.Wait() // how it ended is in its log
	}
	return nil
}

// stop ends the speaker's Pod, as the kubelet does: all its processes are told at once.
func (n *node) stop() error {
	all := []*exec.Cmd{n.speaker, n.heart, n.bgp}
	n.speaker, n.heart, n.bgp = nil, nil, nil
	return n.end(unix.SIGTERM, all...)
}

// kill has the node lose its power.
func (c *cluster) kill(ctx context.Context, n *node) error {
	n.dead.Store(true)
	if err := ip(ctx, "", "link set "+n.name+" down"); err != nil {
		return err
	}
	err := n.end(unix.SIGKILL, n.speaker, n.heart, n.bgp)
	n.speaker, n.heart, n.bgp = nil, nil, nil
	return err
}

// revive gives it its power back.
func (c *cluster) revive(ctx context.Context, n *node) error {
	if err := ip(ctx, "", "link set "+n.name+" up"); err != nil {
		return err
	}
	n.dead.Store(false)
	if err := c.setReady(ctx, n, corev1.ConditionTrue); err != nil {
		return err
	}
	return c.startSpeaker(ctx, n)
}

// resident returns the resident memory of a process, in MiB.
func resident(cmd *exec.Cmd) (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
	if err != nil {
		return 0, fmt.Errorf("memory of %s: %w", cmd.Path, err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			n, err := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 64)
			return n / 1024, err
		}
	}
	return 0, fmt.Errorf("memory of %s: no VmRSS", cmd.Path)
}
