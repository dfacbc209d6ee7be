//go:build root

package plugin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/e2e/lab"
	"github.com/berth-lb/berth/e2e/stage"
	"github.com/berth-lb/berth/e2e/stock"
	"github.com/berth-lb/berth/kubectl/doctor"
	"github.com/berth-lb/berth/kubectl/doctor/pods"
)

// spine makes the nodes neighbors of BIRD; %s is for more fields.
const spine = `
apiVersion: berth.dev/v1alpha1
kind: BGPNeighbor
metadata: {name: spine}
spec: {localASN: 64513, remoteASN: 64514, address: 172.30.0.3, connectRetryTime: 1s, nodeSelector: {}%s}
---
`

// secret has a password that no router of the lab knows, and hidden is the password.
const (
	hidden = "abracadabra-7"
	secret = `
apiVersion: v1
kind: Secret
metadata: {name: probed, namespace: ` + stage.Namespace + `}
type: kubernetes.io/basic-auth
stringData: {password: ` + hidden + `}
---
`
)

// TestDoctorNodes looks from the nodes: all is well, and sessions stay; then much is wrong at once.
func TestDoctorNodes(t *testing.T) {
	ctx := t.Context()
	apply(t, fmt.Sprintf(spine, ""))
	var spineNow map[string]time.Time
	eventually(t, func(ctx context.Context) error {
		var err error
		spineNow, err = sessionsOfSpine(ctx)
		return err
	})
	routerNow, err := scene.AwaitRouterSessions(ctx, patience)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, func(context.Context) error {
		r := berth(t, "doctor", "--nodes")
		if r.code != 0 || !strings.Contains(r.out, "Nothing is wrong.") ||
			!strings.Contains(r.out, "307 addresses of pools asked for by ARP and NDP") {
			return fmt.Errorf("exit code %d\n%s%s", r.code, r.out, r.err)
		}
		return nil
	})
	if now, err := scene.RouterSessions(ctx); err != nil || fmt.Sprint(now) != fmt.Sprint(routerNow) {
		t.Errorf("FRR's sessions were %v, and are %v: %v", routerNow, now, err)
	}
	now, err := sessionsOfSpine(ctx)
	if err != nil {
		t.Error(err)
	}
	for name, since := range spineNow {
		// BIRD counts back from now, to the millisecond.
		if moved := now[name].Sub(since).Abs(); moved > time.Second {
			t.Errorf("BIRD's session %s came up at %v, and again at %v", name, since, now[name])
		}
	}
	noProbes(t, stage.Namespace)
	t.Run("ailing", testAiling)
	noProbes(t, stage.Namespace)
	healthy(t)
}

// apply applies YAML until the end of the test.
func apply(t *testing.T, yaml string) {
	t.Helper()
	if err := scene.Apply(t.Context(), yaml); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := scene.Kubectl(context.Background(), yaml, "delete", "--ignore-not-found", "-f", "-"); err != nil {
			t.Error(err)
		}
	})
}

// sessionsOfSpine returns when BIRD's sessions with the nodes came up, by name. It fails while not
// all are up.
func sessionsOfSpine(ctx context.Context) (map[string]time.Time, error) {
	out, err := scene.Birdc(ctx, "show protocols")
	if err != nil {
		return nil, err
	}
	up := map[string]time.Time{}
	for line := range strings.Lines(out) {
		f := strings.Fields(line) // name, protocol, table, state, since, info
		if len(f) < 6 || f[1] != "BGP" || f[5] != "Established" {
			continue
		}
		if up[f[0]], err = time.Parse("15:04:05.000", f[4]); err != nil {
			return nil, fmt.Errorf("read %q: %w", line, err)
		}
	}
	if len(up) != len(scene.Nodes()) {
		return nil, fmt.Errorf("the spine has %d sessions:\n%s", len(up), out)
	}
	return up, nil
}

// testAiling makes much wrong at once, and has it found in one look.
func testAiling(t *testing.T) {
	printer := []netip.Addr{netip.MustParseAddr("172.30.0.247"), netip.MustParseAddr("fd00:30::2f7")}
	both := netip.MustParseAddr("172.30.0.246")
	undo := func(what ...func() error) {
		t.Cleanup(func() {
			for _, do := range what {
				if err := do(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	run := func(what ...func() error) {
		for _, do := range what {
			if err := do(); err != nil {
				t.Fatal(err)
			}
		}
	}
	in := func(host, script string) func() error {
		return func() error {
			out, err := scene.Exec(context.WithoutCancel(t.Context()), host, "sh", "-ec", script).CombinedOutput()
			if err != nil {
				return fmt.Errorf("%s: %s: %w\n%s", host, script, err, out)
			}
			return nil
		}
	}
	background := context.WithoutCancel(t.Context())
	apply(t, secret)
	apply(t, fmt.Sprintf(spine, ", authentication: {type: TCPMD5, tcpMD5: {secretName: probed}}"))
	apply(t, strings.Replace(pool("virtual", "192.0.2.0/24"), "spec: {", "spec: {dataplane: IPVS, ", 1))
	for _, a := range printer {
		undo(func() error { return scene.RemoveAddress("client", a) })
		run(func() error { return scene.AddAddress("client", a) })
	}
	for _, n := range []string{"n1", "n2"} {
		undo(func() error { return scene.RemoveAddress(n, both) })
		run(func() error { return scene.AddAddress(n, both) })
	}
	undo(func() error { return scene.SetMTU("n2", 1500, 1500) })
	run(func() error { return scene.SetMTU("n2", 1500, 1400) })
	undo(in("n1", "ip link del away0; echo 0 > /proc/sys/net/ipv4/conf/eth0/rp_filter"))
	run(in("n1", `ip link add away0 type veth peer name away1
ip addr add 192.168.77.1/24 dev away0
ip link set away1 up
ip link set away0 up
ip route add 203.0.113.0/24 dev away0
echo 1 > /proc/sys/net/ipv4/conf/eth0/rp_filter`))
	undo(in("router", "nft delete table inet closed"))
	run(in("router", `nft -f - <<RULES
add table inet closed
add chain inet closed input { type filter hook input priority 0; }
add rule inet closed input ip saddr 172.30.0.11 tcp dport 179 reject with tcp reset
RULES`))
	undo(func() error { return scene.PassAll(background) })
	run(func() error { return scene.FilterEtherType(background, 0x88b5) })
	eventually(t, func(context.Context) error {
		var report doctor.Report
		r := berthJSON(t, &report, "doctor", "--nodes", "--rate", "1000")
		if strings.Contains(r.out+r.err, hidden) {
			t.Fatalf("the password is in\n%s%s", r.out, r.err)
		}
		var lacking []doctor.Finding
		for _, w := range foundFromNodes {
			if !slices.ContainsFunc(report.Findings, func(f doctor.Finding) bool {
				return f.ID == w.ID && f.Object == w.Object && strings.Contains(f.What, w.What)
			}) {
				lacking = append(lacking, w)
			}
		}
		if len(lacking) > 0 || r.code != 1 {
			return fmt.Errorf("exit code %d, not found: %+v\nin\n%s%s", r.code, lacking, r.out, r.err)
		}
		return nil
	})
}

// noProbes waits until no pod of a probe is left.
func noProbes(t *testing.T, namespace string) {
	t.Helper()
	eventually(t, func(ctx context.Context) error {
		list, err := scene.Kubernetes.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{
			LabelSelector: "app.kubernetes.io/name=" + pods.Name,
		})
		if err == nil && len(list.Items) > 0 {
			err = fmt.Errorf("%d pods are left in namespace %s", len(list.Items), namespace)
		}
		return err
	})
}

// Who has no right to make pods, or is refused by Pod Security, is told so.
func TestDoctorNodesRefused(t *testing.T) {
	apply(t, `
apiVersion: v1
kind: Namespace
metadata: {name: strict, labels: {pod-security.kubernetes.io/enforce: baseline}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: looker}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: berth-view}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: looker}]
`)
	refused(t, "you have no right to list nodes; this rule in a role gives it", "doctor", "--nodes", "--as=nobody")
	refused(t, "you have no right to create pods; this rule in a role gives it", "doctor", "--nodes", "--as=looker")
	refused(t, "namespace strict refuses the pod by Pod Security", "doctor", "--nodes", "--namespace", "strict")
	refused(t, "there is no namespace nowhere for the pods", "doctor", "--nodes", "-n", "nowhere")
	refused(t, "write 10s or more", "doctor", "--nodes", "--timeout", "1s")
	refused(t, "leave out one of the two", "doctor", "--nodes", "--bundle", "none.tgz")
	refused(t, "write --nodes too", "doctor", "--image", "berth.dev/echo:1")
	refused(t, "from n1, because its pod ended (StartError", "doctor", "--nodes", "--image", "berth.dev/echo:1")
	noProbes(t, stage.Namespace)
}

// A doctor that is interrupted leaves no pods behind.
func TestDoctorNodesInterrupted(t *testing.T) {
	folder, err := stock.Find()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), folder.Bin("kubectl-berth"), "doctor", "--nodes")
	cmd.Env = append(os.Environ(), "KUBECONFIG="+scene.Kubeconfig())
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := scene.In(lab.ControlPlane, cmd.Start); err != nil {
		t.Fatal(err)
	}
	var interrupted error
	eventually(t, func(ctx context.Context) error {
		list, err := scene.Kubernetes.CoreV1().Pods(stage.Namespace).List(ctx, metav1.ListOptions{
			LabelSelector: "app.kubernetes.io/name=" + pods.Name,
		})
		if err != nil || len(list.Items) == 0 {
			return errors.Join(err, errors.New("there is no pod yet"))
		}
		interrupted = cmd.Process.Signal(syscall.SIGINT)
		return nil
	})
	err = cmd.Wait()
	var exit *exec.ExitError
	if interrupted != nil || !errors.As(err, &exit) || exit.ExitCode() != 2 {
		t.Errorf("interrupted (%v), it ends with %v:\n%s", interrupted, err, &said)
	}
	noProbes(t, stage.Namespace)
}
