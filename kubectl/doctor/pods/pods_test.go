package pods

import (
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/berth-lb/berth/internal/probe"
	"github.com/berth-lb/berth/kubectl/doctor/nodes"
)

func probing() *run {
	x := &run{
		Runner: Runner{Namespace: "berth-system", Image: "berth:1", Timeout: time.Minute}, id: "7",
		plan: &nodes.Plan{Requests: []probe.Request{{Node: "n1"}}},
	}
	x.seen = &nodes.Seen{Plan: x.plan, Reports: map[string]probe.Report{}, Failures: map[string]string{}}
	return x
}

// A pod has no more rights than it needs, ends by itself, and names Secrets, but has none.
func TestPod(t *testing.T) {
	router := probe.Router{
		Neighbor: "tor", Address: netip.MustParseAddr("192.0.2.1"),
		Secret: "a.secret", PasswordFile: nodes.PasswordFile("a.secret"),
	}
	pod, err := probing().pod(probe.Request{Node: "n1", Routers: []probe.Router{router}})
	if err != nil {
		t.Fatal(err)
	}
	s, c := pod.Spec, pod.Spec.Containers[0]
	switch {
	case s.NodeName != "n1" || !s.HostNetwork || s.Tolerations[0].Operator != corev1.TolerationOpExists:
		t.Errorf("it does not run on any node: %+v", s)
	case *s.ActiveDeadlineSeconds != 120 || s.RestartPolicy != corev1.RestartPolicyNever || pod.Labels[runLabel] != "7":
		t.Errorf("it stays: %+v", s)
	case *s.AutomountServiceAccountToken || !*c.SecurityContext.ReadOnlyRootFilesystem:
		t.Errorf("it has a token, or may write: %+v", s)
	case len(c.SecurityContext.Capabilities.Add) != 1 || c.SecurityContext.Capabilities.Add[0] != "NET_RAW" ||
		c.SecurityContext.Capabilities.Drop[0] != "ALL":
		t.Errorf("capabilities %+v", c.SecurityContext.Capabilities)
	case len(s.Volumes) != 1 || s.Volumes[0].Secret.SecretName != "a.secret" || !*s.Volumes[0].Secret.Optional ||
		c.VolumeMounts[0].MountPath+"/password" != router.PasswordFile || c.VolumeMounts[0].Name != s.Volumes[0].Name:
		t.Errorf("volumes %+v, mounts %+v", s.Volumes, c.VolumeMounts)
	}
	var asked probe.Request
	if err := json.Unmarshal([]byte(c.Args[1]), &asked); err != nil || asked.Routers[0] != router {
		t.Errorf("asked %+v, %v", asked, err)
	}
}

func TestRefused(t *testing.T) {
	pods := corev1.Resource("pods")
	for want, err := range map[string]error{
		"Pod Security (\"baseline:latest\": host namespaces": apierrors.NewForbidden(pods, "",
			errors.New(`violates PodSecurity "baseline:latest": host namespaces (hostNetwork=true)`)),
		"there is no namespace berth-system": apierrors.NewNotFound(corev1.Resource("namespaces"), "berth-system"),
		"an admission policy refuses": apierrors.NewForbidden(pods, "",
			errors.New(`ValidatingAdmissionPolicy 'p' with binding 'b' denied request: no`)),
		"the quota of namespace berth-system has no room": apierrors.NewForbidden(pods, "berth-probe-",
			errors.New("exceeded quota: few, requested: pods=1, used: pods=3, limited: pods=3")),
		"the quota of namespace berth-system wants": apierrors.NewForbidden(pods, "berth-probe-",
			errors.New("failed quota: cpus: must specify limits.cpu for: probe")),
		"admission refuses the pod in namespace berth-system; name another": apierrors.NewForbidden(pods, "berth-probe-",
			errors.New("[minimum cpu usage per Container is 100m.  No request is specified]")),
		"admission refuses the pod in namespace berth-system; name": apierrors.NewForbidden(pods, "berth-probe-",
			errors.New("error looking up service account berth-system/x: serviceaccount \"x\" not found")),
		"namespace berth-system is being deleted": apierrors.NewForbidden(pods, "berth-probe-",
			errors.New("unable to create new content in namespace berth-system because it is being terminated")),
		"you have no right to create pods": apierrors.NewForbidden(pods, "",
			errors.New(`User "x" cannot create resource "pods" in API group "" in the namespace "berth-system"`)),
	} {
		got := probing().refused(err).Error()
		if !strings.Contains(got, want) {
			t.Errorf("%v: %s, want %q in it", err, got, want)
		}
		if rights := strings.Contains(got, "have no right"); rights != strings.Contains(
			err.Error(),
			"cannot create",
		) {
			t.Errorf("%v: %s", err, got)
		}
	}
}

func TestStateOf(t *testing.T) {
	waiting := func(reason string) *corev1.Pod {
		p := &corev1.Pod{}
		p.Status.ContainerStatuses = []corev1.ContainerStatus{
			{State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: "so"}}},
		}
		return p
	}
	failed := &corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodFailed, Reason: "OutOfmemory", Message: "so"}}
	running := waiting("")
	running.Status.ContainerStatuses[0].State = corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
	for _, c := range []struct {
		name    string
		pod     *corev1.Pod
		runs    bool
		problem string
		final   bool
	}{
		{"new", &corev1.Pod{}, false, "", false},
		{"creating", waiting("ContainerCreating"), false, "", false},
		{"pulling", waiting("ErrImagePull"), false, "its pod does not start (ErrImagePull): so" + unpulled, false},
		{"no image", waiting("InvalidImageName"), false, "its pod does not start (InvalidImageName): so" + unpulled, true},
		{"no Secret", waiting("CreateContainerConfigError"), false, "its pod does not start (CreateContainerConfigError): so", true},
		{"rejected", failed, false, "its pod failed (OutOfmemory): so", true},
		{"running", running, true, "", false},
	} {
		if runs, problem, final := stateOf(c.pod); runs != c.runs || problem != c.problem || final != c.final {
			t.Errorf("%s: %v, %q, %v", c.name, runs, problem, final)
		}
	}
}

// The last report counts, and what is none is what the program says of itself.
func TestTake(t *testing.T) {
	x := probing()
	said, err := x.take("n1", strings.NewReader(`{"node":"n1","done":false,"links":[]}
{"node":"n1","done":true,"links":[]}
berth: packet socket: operation not permitted
`))
	if err != nil || said != "berth: packet socket: operation not permitted" || !x.seen.Reports["n1"].Done {
		t.Errorf("said %q, %v; %+v", said, err, x.seen)
	}
	x.fail("n1", said)
	if !x.seen.Reports["n1"].Done || len(x.seen.Failures) != 0 {
		t.Errorf("after it was done: %+v", x.seen)
	}
	x = probing()
	if said, err = x.take("n1", strings.NewReader("Error: unknown command \"probe\" for \"berth\"\n")); err != nil {
		t.Fatal(err)
	}
	x.fail("n1", said)
	if done, _ := x.seen.Settled(); !done || x.seen.Failures["n1"] != said {
		t.Errorf("an older program: %+v", x.seen)
	}
}
