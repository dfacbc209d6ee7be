//go:build root

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/berth-lb/berth/e2e/lab"
	"github.com/berth-lb/berth/e2e/stage"
)

// testInstalled checks how the kernel restricts the processes of the installed Pods.
func testInstalled(t *testing.T, r *rack) {
	// capabilities(7): CAP_NET_ADMIN is bit 12, CAP_NET_RAW bit 13, CAP_SYS_NICE bit 23.
	const admin, raw, heart = "0000000000001000", "0000000000002000", "0000000000802000"
	for _, node := range r.Nodes() {
		for name, capabilities := range map[string]string{"speaker": admin, "heart": heart, "bgp": raw} {
			p, err := r.Process(t.Context(), name+"@"+node)
			if err != nil {
				t.Fatal(err)
			}
			restricted(t, p.Name, p.PID, capabilities)
		}
	}
	controllers, err := r.Kubernetes.CoreV1().Pods(
		stage.Namespace,
	).List(
		t.Context(),
		metav1.ListOptions{LabelSelector: "app.kubernetes.io/component=controller"},
	)
	if err != nil {
		t.Fatal(err)
	}
	if len(controllers.Items) != 2 {
		t.Errorf("%d controllers, want 2", len(controllers.Items))
	}
	for _, pod := range controllers.Items {
		p, err := r.Process(t.Context(), pod.Name+"@"+pod.Spec.NodeName)
		if err != nil {
			t.Fatal(err)
		}
		restricted(t, p.Name, p.PID, "0000000000000000")
	}
}

// restricted checks that a process has these capabilities and no others, gains none, and cannot
// write its root file system.
func restricted(t *testing.T, name string, pid int, capabilities string) {
	t.Helper()
	status := fields(t, fmt.Sprintf("/proc/%d/status", pid))
	for key, want := range map[string]string{
		"CapEff:": capabilities, "CapPrm:": capabilities, "CapBnd:": capabilities, "NoNewPrivs:": "1", "Seccomp:": "2",
	} {
		if got := status[key]; got != want {
			t.Errorf("%s: %s %s, want %s", name, key, got, want)
		}
	}
	mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
	if err != nil {
		t.Fatal(err)
	}
	root := ""
	for line := range strings.Lines(string(mounts)) {
		// proc_pid_mountinfo(5): fields 5 and 6 are mount point and its options.
		if f := strings.Fields(line); f[4] == "/" {
			root = f[5]
		}
	}
	if !strings.HasPrefix(root, "ro,") && root != "ro" {
		t.Errorf("%s: its root is mounted %q, want ro", name, root)
	}
}

// fields reads a file of lines of a key and one value.
func fields(t *testing.T, file string) map[string]string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for line := range bytes.Lines(text) {
		if f := strings.Fields(string(line)); len(f) == 2 {
			found[f[0]] = f[1]
		}
	}
	return found
}

// testEndpoints sends requests to the speakers as a monitoring system on the segment does, and to
// the controllers as one in a Pod does.
func testEndpoints(t *testing.T, r *rack) {
	pods, err := r.Kubernetes.CoreV1().Pods(stage.Namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, pod := range pods.Items {
		component, from := pod.Labels["app.kubernetes.io/component"], lab.Client
		metrics := []string{"berth_l2_", "berth_bgp_", "go_goroutines", "process_resident_memory_bytes"}
		if component == "controller" {
			from = pod.Spec.NodeName
			metrics = []string{
				"berth_service_status_writes_total", "berth_allocations_total", "go_goroutines",
				`workqueue_depth{name="services"}`, "rest_client_requests_total",
			}
		}
		for path, want := range map[string][]string{"/healthz": {"ok"}, "/readyz": {"ok"}, "/metrics": metrics} {
			url := "http://" + net.JoinHostPort(pod.Status.PodIP, "7470") + path
			response, err := r.HTTPClient(from).Get(url)
			if err != nil {
				t.Error(err)
				continue
			}
			text, err := io.ReadAll(response.Body)
			response.Body.Close()
			if err != nil || response.StatusCode != http.StatusOK {
				t.Errorf("%s of %s says %s (%v)", path, pod.Name, response.Status, err)
			}
			for _, w := range want {
				if !strings.Contains(string(text), w) {
					t.Errorf("%s of %s has no %s", path, pod.Name, w)
				}
			}
		}
	}
}

func testKubectl(t *testing.T, r *rack) {
	svc := r.serve(t)
	r.announced(t, svc)
	for _, c := range []struct {
		args string
		want []string
	}{
		{
			"explain loadbalancerpool.spec",
			[]string{"addresses", "-required-", "allocation", "192.0.2.10-192.0.2.20", "OnRequest"},
		},
		{"explain loadbalancerpool.spec.addresses", []string{"A prefix has no host bits set"}},
		{
			"explain segmentannouncement.spec",
			[]string{"poolSelector", "in place of poolNames; {} matches all", "nodeSelector", "-required-", "interfaces"},
		},
		{"explain routeannouncement.spec", []string{"neighborSelector", "in place of neighborNames; {} matches all"}},
		{"explain bgpneighbor.spec", []string{"holdTime", "RFC 4271", "ebgpMultihop"}},
		{"explain speaker.spec.bgp", []string{"routerID", "-required-"}},
		{"explain speaker.status", []string{"sessions", "prefixesAnnounced"}},
		{
			"get lbpool",
			[]string{
				"NAME ADDRESSES ALLOCATION READY IPV4 USED IPV4 FREE IPV6 USED EXHAUSTED", "rack 172.30.0.200-172.30.0.250",
				"Automatic True", "OnRequest True",
			},
		},
		{"get segann", []string{"NAME POOLS READY REASON AGE", "rack 1 True Accepted"}},
		{"get routeann", []string{"NAME POOLS NEIGHBORS READY REASON AGE", "tor 1 1 True Accepted"}},
		{"get bgpn", []string{"NAME ADDRESS INTERFACE LOCAL ASN REMOTE ASN READY SESSIONS AGE", "tor 172.30.0.1 64513 64512 True 3/3"}},
		{
			"get spk",
			[]string{
				"NAME READY REASON VERSION L2 ADDRESSES SESSIONS PREFIXES AGE", "n1 True Announcing v0.1.0", "n2 True Announcing",
				"n3 True Announcing", " 1/1 ",
			},
		},
		{
			"-n e2e get l2o",
			[]string{
				"NAME ADDRESS SERVICE NODE SEGMENT INTERFACE ACQUIRED",
				svc.Status.LoadBalancer.Ingress[0].IP + " " + svc.Name + " n", "eth0",
			},
		},
		{"get berth", []string{"loadbalancerpool.berth.dev/rack", "bgpneighbor.berth.dev/tor", "speaker.berth.dev/n1"}},
		{"-n e2e describe service " + svc.Name, []string{"Allocated", "Announced", "by SegmentAnnouncement rack"}},
	} {
		err := stage.Eventually(t.Context(), patience, func(ctx context.Context) error {
			out, err := r.Kubectl(ctx, "", strings.Fields(c.args)...)
			if err != nil {
				return err
			}
			line := strings.Join(strings.Fields(out), " ") // however it is wrapped and aligned
			for _, want := range c.want {
				if !strings.Contains(line, want) {
					return fmt.Errorf("kubectl %s does not show %q:\n%s", c.args, want, out)
				}
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// testSpeakerRights sends requests with the token of a speaker.
func testSpeakerRights(t *testing.T, r *rack) {
	svc := r.serve(t)
	account := r.Kubernetes.CoreV1().ServiceAccounts(stage.Namespace)
	token, err := account.CreateToken(
		t.Context(), "berth-speaker", &authenticationv1.TokenRequest{}, metav1.CreateOptions{},
	)
	if err != nil {
		t.Fatal(err)
	}
	admin, err := r.RESTConfig()
	if err != nil {
		t.Fatal(err)
	}
	config := rest.AnonymousClientConfig(admin)
	config.BearerToken, config.Dial = token.Status.Token, admin.Dial
	speaker, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	services := speaker.CoreV1().Services(svc.Namespace)
	list, err := services.List(t.Context(), metav1.ListOptions{})
	if err != nil || len(list.Items) == 0 {
		t.Fatalf("the token does not do what a speaker's must: %d Services, %v", len(list.Items), err)
	}
	svc = r.get(t, svc)
	svc.Status.LoadBalancer.Ingress[0].IP = "172.30.0.250"
	for what, err := range map[string]error{
		"update a Service's status": second(services.UpdateStatus(t.Context(), svc, metav1.UpdateOptions{})),
		"update a Service":          second(services.Update(t.Context(), svc, metav1.UpdateOptions{})),
		"delete a Service":          services.Delete(t.Context(), svc.Name, metav1.DeleteOptions{}),
		"read another Secret":       second(speaker.CoreV1().Secrets("kube-system").List(t.Context(), metav1.ListOptions{})),
		"label a Node": second(speaker.CoreV1().Nodes().Update(
			t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}, metav1.UpdateOptions{},
		)),
	} {
		if !apierrors.IsForbidden(err) {
			t.Errorf("a speaker may %s: %v, want forbidden", what, err)
		}
	}
}

// testRightsUsed runs after all others: a right that none of them used is not needed.
func testRightsUsed(t *testing.T, r *rack) {
	manifest, err := stage.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	rights, err := stage.Rights(filepath.Join(filepath.Dir(manifest), "rbac-speaker.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	unused, err := r.Unused(rights)
	if err != nil {
		t.Fatal(err)
	}
	for _, right := range unused {
		t.Errorf("no test needs the right that %s", right)
	}
}

func second[T any](_ T, err error) error { return err }
