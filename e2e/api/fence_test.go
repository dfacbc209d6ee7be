//go:build root

package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/berth-lb/berth/e2e/lab"
	"github.com/berth-lb/berth/e2e/stage"
)

// grantFence gives the controller the rights that manifests/fence add, with the policy that
// confines them, until the end of the test.
func grantFence(t *testing.T) {
	t.Helper()
	file, err := stage.Manifest()
	must(t, err)
	rights := filepath.Join(filepath.Dir(file), "fence", "rbac.yaml")
	_, err = scene.Kubectl(t.Context(), "", "apply", "-f", rights)
	must(t, err)
	t.Cleanup(func() {
		if _, err := scene.Kubectl(context.Background(), "", "delete", "--ignore-not-found", "-f", rights); err != nil {
			t.Error(err)
		}
	})
}

// kubeletOf stands in for the kubelet of a node that has none: it renews the node's Lease, until it
// is stopped, or the test ends.
func kubeletOf(t *testing.T, node string) (stop func()) {
	t.Helper()
	leases := scene.Kubernetes.CoordinationV1().Leases(corev1.NamespaceNodeLease)
	lease, err := leases.Create(t.Context(), &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Name: node}, Spec: coordinationv1.LeaseSpec{RenewTime: new(metav1.NowMicro())},
	}, metav1.CreateOptions{})
	must(t, err)
	_, err = scene.Kubernetes.CoreV1().Nodes().Patch(t.Context(), node, types.StrategicMergePatchType, []byte(
		`{"status": {"conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}]}}`,
	), metav1.PatchOptions{}, "status")
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var renews sync.WaitGroup
	renews.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(500 * time.Millisecond):
			}
			lease.Spec.RenewTime = new(metav1.NowMicro())
			if renewed, err := leases.Update(ctx, lease, metav1.UpdateOptions{}); err == nil {
				lease = renewed
			}
		}
	})
	stop = sync.OnceFunc(func() { cancel(); renews.Wait() })
	t.Cleanup(func() {
		stop()
		if err := leases.Delete(context.Background(), node, metav1.DeleteOptions{}); err != nil &&
			!apierrors.IsNotFound(err) {
			t.Error(err)
		}
	})
	return stop
}

// readyPod makes a Pod on a node that has no kubelet, as if it ran there with this address.
func readyPod(t *testing.T, ns, name, node, address string) *corev1.Pod {
	t.Helper()
	pods, begun := scene.Kubernetes.CoreV1().
		Pods(ns),
		metav1.NewTime(
			time.Now().Add(-time.Hour).Truncate(time.Second),
		)
	pod, err := pods.Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Labels: map[string]string{"app": "web"}, Annotations: map[string]string{"a": "1"},
			Finalizers: []string{"example.com/keep"},
		},
		Spec: corev1.PodSpec{
			NodeName:   node,
			Containers: []corev1.Container{{Name: "web", Image: "example.com/none"}},
		},
	}, metav1.CreateOptions{})
	must(t, err)
	t.Cleanup(func() {
		ctx, now := context.Background(), int64(0)
		_, err := pods.Patch(
			ctx,
			name,
			types.MergePatchType,
			[]byte(`{"metadata": {"finalizers": null}}`),
			metav1.PatchOptions{},
		)
		if err := errors.Join(err, pods.Delete(ctx, name, metav1.DeleteOptions{GracePeriodSeconds: &now})); err != nil {
			t.Error(err)
		}
	})
	pod.Status.Phase, pod.Status.StartTime = corev1.PodRunning, &begun
	pod.Status.PodIP, pod.Status.PodIPs = address, []corev1.PodIP{{IP: address}}
	pod.Status.HostIP, pod.Status.HostIPs = "172.30.0.99", []corev1.HostIP{{IP: "172.30.0.99"}}
	pod.Status.Message = "runs"
	for _, kind := range []corev1.PodConditionType{corev1.PodScheduled, corev1.ContainersReady, corev1.PodReady} {
		pod.Status.Conditions = append(pod.Status.Conditions, corev1.PodCondition{
			Type: kind, Status: corev1.ConditionTrue, LastTransitionTime: begun,
		})
	}
	pod.Status.ContainerStatuses = []corev1.ContainerStatus{{
		Name: "web", Ready: true, Image: "example.com/none", ContainerID: "none://1",
		State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: begun}},
	}}
	pod, err = pods.UpdateStatus(t.Context(), pod, metav1.UpdateOptions{})
	must(t, err)
	return pod
}

// podStatus has, for each field of a Pod's status, a value that it does not have. A field that
// Kubernetes adds is missing here: see that the policy confines it, and add it.
var podStatus = map[string]any{
	"observedGeneration": 7,
	"phase":              "Failed",
	"conditions":         []any{map[string]any{"type": "ContainersReady", "status": "False"}},
	"message":            "changed",
	"reason":             "Changed",
	"nominatedNodeName":  "n1",
	"hostIP":             "172.30.0.98",
	"hostIPs":            []any{map[string]any{"ip": "fd00::98"}},
	"podIP":              "10.244.9.98",
	"podIPs":             []any{map[string]any{"ip": "fd00::98"}},
	"startTime":          "2020-01-01T00:00:00Z",
	"initContainerStatuses": []any{map[string]any{
		"name": "init", "image": "x", "imageID": "", "ready": true, "restartCount": 0,
	}},
	"containerStatuses": []any{map[string]any{
		"name": "web", "image": "x", "imageID": "", "ready": false, "restartCount": 1,
	}},
	"qosClass": "Guaranteed",
	"ephemeralContainerStatuses": []any{map[string]any{
		"name": "debug", "image": "x", "imageID": "", "ready": true, "restartCount": 0,
	}},
	"resize":                      "Deferred",
	"resourceClaimStatuses":       []any{map[string]any{"name": "gpu", "resourceClaimName": "gpu"}},
	"extendedResourceClaimStatus": map[string]any{"resourceClaimName": "gpu", "requestMappings": []any{}},
	"allocatedResources":          map[string]any{"cpu": "1"},
	"resources":                   map[string]any{"requests": map[string]any{"cpu": "1"}},
	"nodeAllocatableResourceClaimStatuses": []any{map[string]any{
		"resourceClaimName": "gpu", "containers": []any{"web"}, "resources": map[string]any{"cpu": "1"},
	}},
}

// readyFields has the same for each field of the condition Ready; nil: the controller writes it.
var readyFields = map[string]any{
	"type": nil, "status": nil, "reason": nil, "message": nil, "lastTransitionTime": nil,
	"lastProbeTime": "2020-01-01T00:00:00Z", "observedGeneration": 7,
}

// fieldsOf returns the names of a type's fields in JSON.
func fieldsOf(of reflect.Type) []string {
	var names []string
	for i := range of.NumField() {
		name, _, _ := strings.Cut(of.Field(i).Tag.Get("json"), ",")
		names = append(names, name)
	}
	return slices.Sorted(slices.Values(names))
}

// The walk must be complete before it shows anything.
func TestFencePolicy_walks(t *testing.T) {
	for _, c := range []struct {
		of   reflect.Type
		have map[string]any
	}{
		{reflect.TypeFor[corev1.PodStatus](), podStatus},
		{reflect.TypeFor[corev1.PodCondition](), readyFields},
	} {
		if diff := cmp.Diff(fieldsOf(c.of), slices.Sorted(maps.Keys(c.have))); diff != "" {
			t.Errorf("fields of %v (-Kubernetes has +this test has):\n%s", c.of, diff)
		}
	}
}

// fenced is what the controller writes, as package fence does; change may change it first.
func fenced(pod *corev1.Pod, change func(metadata, status, ready map[string]any)) []byte {
	metadata := map[string]any{"uid": pod.UID, "resourceVersion": pod.ResourceVersion}
	ready := map[string]any{
		"type": "Ready", "status": "False", "reason": "NodeDead", "message": "node n4 is dead",
		"lastTransitionTime": time.Now().UTC().Format(time.RFC3339),
	}
	status := map[string]any{"conditions": []any{ready}}
	change(metadata, status, ready)
	text, err := json.Marshal(map[string]any{"metadata": metadata, "status": status})
	if err != nil {
		panic(err) // of maps of strings
	}
	return text
}

// The controller changes of a Pod one condition, from True to False, whatever rights it has.
func TestFencePolicy(t *testing.T) {
	grantFence(t)
	ns := namespace(t)
	makeNode(t, "absent")
	kubeletOf(t, "absent")
	pod := readyPod(t, ns, "web", "absent", "10.244.9.1")
	pods := scene.Kubernetes.CoreV1().Pods(ns)
	controller, err := kubernetes.NewForConfig(configOf(t, "berth-controller", nil))
	must(t, err)
	theirs := controller.CoreV1().Pods(ns)

	// restore makes the Pod as it was, and returns it.
	status, meta := *pod.Status.DeepCopy(), *pod.ObjectMeta.DeepCopy()
	restore := func() *corev1.Pod {
		t.Helper()
		now, err := pods.Get(t.Context(), "web", metav1.GetOptions{})
		must(t, err)
		now.Labels, now.Annotations, now.Finalizers = meta.Labels, meta.Annotations, meta.Finalizers
		now.Status = *status.DeepCopy()
		now, err = pods.UpdateStatus(t.Context(), now, metav1.UpdateOptions{})
		must(t, err)
		return now
	}
	write := func(patch []byte) error {
		_, err := theirs.Patch(
			t.Context(),
			"web",
			types.StrategicMergePatchType,
			patch,
			metav1.PatchOptions{},
			"status",
		)
		return err
	}
	nothing := func(_, _, _ map[string]any) {}

	// What it is for; the policy takes a moment to be in effect, and the rights.
	must(t, stage.Eventually(t.Context(), patience, func(context.Context) error {
		if err := write(fenced(restore(), nothing)); err != nil {
			return err
		}
		err := write(
			fenced(
				restore(),
				func(metadata, _, _ map[string]any) { metadata["labels"] = map[string]any{"app": "x"} },
			),
		)
		if !apierrors.IsInvalid(err) && !apierrors.IsForbidden(err) {
			return fmt.Errorf("the policy does not hold yet: %w", err)
		}
		return nil
	}))
	now := restore()
	must(t, write(fenced(now, nothing)))
	after, err := pods.Get(t.Context(), "web", metav1.GetOptions{})
	must(t, err)
	for _, c := range after.Status.Conditions {
		if is := c.Status == corev1.ConditionTrue; is == (c.Type == corev1.PodReady) {
			t.Errorf("condition %s is %s afterwards", c.Type, c.Status)
		}
	}

	// refused tries one thing, and reports whether the Pod stayed as it was, but for Ready.
	refused := func(name string, change func(metadata, status, ready map[string]any)) {
		t.Helper()
		before := restore()
		err := write(fenced(before, change))
		after, getErr := pods.Get(t.Context(), "web", metav1.GetOptions{})
		must(t, getErr)
		plain := func(p *corev1.Pod) *corev1.Pod {
			p = p.DeepCopy()
			p.ManagedFields, p.ResourceVersion = nil, ""
			if err == nil { // then it dropped something silently, and what is left is allowed
				p.Status.Conditions = slices.DeleteFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
					return c.Type == corev1.PodReady
				})
			}
			return p
		}
		if diff := cmp.Diff(plain(before), plain(after)); diff != "" {
			t.Errorf("%s: error %v, but it changed (-before +after):\n%s", name, err, diff)
		}
		if err == nil {
			t.Logf("%s: the API server drops it", name)
		} else if !strings.Contains(err.Error(), "ValidatingAdmissionPolicy 'berth-fence'") {
			t.Logf("%s: refused without the policy: %v", name, err)
		}
	}
	for field, value := range podStatus {
		refused("status."+field, func(_, status, ready map[string]any) {
			if field == "conditions" {
				value = append(value.([]any), ready)
			}
			status[field] = value
		})
		refused("status."+field+" removed", func(_, status, ready map[string]any) {
			status[field] = nil
			if field == "conditions" {
				status[field] = []any{map[string]any{"type": "ContainersReady", "$patch": "delete"}, ready}
			}
		})
	}
	for field, value := range readyFields {
		if value != nil {
			refused("Ready."+field, func(_, _, ready map[string]any) { ready[field] = value })
		}
	}
	for field, value := range map[string]any{
		"labels": map[string]any{"app": "x"}, "annotations": map[string]any{"a": "2"}, "finalizers": []any{"example.com/x"},
		"ownerReferences":   []any{map[string]any{"apiVersion": "v1", "kind": "Node", "name": "absent", "uid": "1"}},
		"deletionTimestamp": "2020-01-01T00:00:00Z", "deletionGracePeriodSeconds": 0, "generateName": "x", "generation": 9,
	} {
		refused("metadata."+field, func(metadata, _, _ map[string]any) { metadata[field] = value })
		refused("metadata."+field+" removed", func(metadata, _, _ map[string]any) { metadata[field] = nil })
	}

	// mustRefuse is for what would change Ready itself, or what else must have no effect at all.
	mustRefuse := func(name, because string, before *corev1.Pod, change func(metadata, status, ready map[string]any)) {
		t.Helper()
		err := write(fenced(before, change))
		if err == nil || !strings.Contains(err.Error(), because) {
			t.Errorf("%s: %v, want a refusal because of %q", name, err, because)
		}
	}
	const policy = "ValidatingAdmissionPolicy 'berth-fence'"
	mustRefuse("another reason", policy, restore(), func(_, _, ready map[string]any) { ready["reason"] = "Tired" })
	mustRefuse("no reason", policy, restore(), func(_, _, ready map[string]any) { delete(ready, "reason") })
	mustRefuse("Unknown", policy, restore(), func(_, _, ready map[string]any) { ready["status"] = "Unknown" })
	mustRefuse("a long message", policy, restore(), func(_, _, ready map[string]any) {
		ready["message"] = strings.Repeat("x", 1025)
	})
	mustRefuse("Ready removed", policy, restore(), func(_, _, ready map[string]any) {
		clear(ready)
		ready["type"], ready["$patch"] = "Ready", "delete"
	})
	mustRefuse("a condition more", policy, restore(), func(_, status, ready map[string]any) {
		status["conditions"] = []any{ready, map[string]any{"type": "example.com/x", "status": "True"}}
	})
	mustRefuse("nothing of the kind", policy, restore(), func(_, status, _ map[string]any) {
		delete(status, "conditions")
		status["message"] = "changed"
	})
	mustRefuse(
		"another pod of that name",
		"metadata.uid",
		restore(),
		func(metadata, _, _ map[string]any) { metadata["uid"] = "1" },
	)
	mustRefuse("a pod that changed since", "modified", restore(), func(metadata, _, _ map[string]any) {
		metadata["resourceVersion"] = meta.ResourceVersion
	})
	now = restore()
	must(t, write(fenced(now, nothing)))
	now, err = pods.Get(t.Context(), "web", metav1.GetOptions{})
	must(t, err)
	mustRefuse("ready again", policy, now, func(_, _, ready map[string]any) { ready["status"] = "True" })
	mustRefuse("a second time", policy, now, func(_, _, ready map[string]any) { ready["message"] = "again" })

	// With all rights on pods, it may do nothing else.
	_, err = scene.Kubectl(
		t.Context(),
		"",
		"create",
		"clusterrole",
		ns,
		"--verb=*",
		"--resource=pods,pods/status,pods/eviction,pods/exec",
	)
	must(t, err)
	_, err = scene.Kubectl(t.Context(), "", "create", "clusterrolebinding", ns, "--clusterrole="+ns,
		"--serviceaccount="+stage.Namespace+":berth-controller")
	must(t, err)
	t.Cleanup(func() {
		if _, err := scene.Kubectl(context.Background(), "", "delete", "clusterrole,clusterrolebinding", ns); err != nil {
			t.Error(err)
		}
	})
	may := func(name string, do func() error) {
		t.Helper()
		must(t, stage.Eventually(t.Context(), patience, func(context.Context) error {
			if err := do(); err == nil || !strings.Contains(err.Error(), policy) {
				return fmt.Errorf("%s: %w, want a refusal of the policy", name, err)
			}
			return nil
		}))
	}
	may("create", func() error {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "new"}, Spec: pod.Spec}
		_, err := theirs.Create(t.Context(), p, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return err
	})
	may("label", func() error {
		_, err := theirs.Patch(
			t.Context(),
			"web",
			types.MergePatchType,
			[]byte(`{"metadata": {"labels": {"b": "2"}}}`),
			metav1.PatchOptions{},
		)
		return err
	})
	may("delete", func() error { return theirs.Delete(t.Context(), "web", metav1.DeleteOptions{}) })
	may("update the status", func() error {
		now := restore()
		now.Status.Phase = corev1.PodFailed
		_, err := theirs.UpdateStatus(t.Context(), now, metav1.UpdateOptions{})
		return err
	})
}

// fencedNodes are nodes without a kubelet, and hosts that answer in their place.
var fencedNodes = map[string]string{
	"f1": "172.30.0.1", "f2": "172.30.0.2", "f3": "172.30.0.100", "f4": "172.30.0.98", // of the client, at times
}

// The program itself, with its own rights, fences a node when all of the evidence is there, and
// does not as long as a piece is missing.
func TestFenceProgram(t *testing.T) {
	grantFence(t)
	silenced(t)
	ns := namespace(t)
	address := netip.MustParseAddr(fencedNodes["f4"])
	must(t, scene.AddAddress(lab.Client, address))
	gone := sync.OnceValue(func() error { return scene.RemoveAddress(lab.Client, address) })
	t.Cleanup(func() { must(t, gone()) })
	die := map[string]func(){}
	for name, ip := range fencedNodes {
		makeNode(t, name)
		die[name] = kubeletOf(t, name)
		_, err := scene.Kubernetes.CoreV1().Nodes().Patch(t.Context(), name, types.StrategicMergePatchType, []byte(
			`{"status": {"addresses": [{"type": "InternalIP", "address": "`+ip+`"}]}}`,
		), metav1.PatchOptions{}, "status")
		must(t, err)
	}
	_, err := scene.Kubernetes.CoreV1().Services(ns).Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec:       corev1.ServiceSpec{Selector: map[string]string{"app": "web"}, Ports: []corev1.ServicePort{{Port: 80}}},
	}, metav1.CreateOptions{})
	must(t, err)
	readyPod(t, ns, "lives", "f3", "10.244.9.3")
	readyPod(t, ns, "dies", "f4", "10.244.9.4")
	endpoints := func(ctx context.Context) (string, error) {
		found, err := scene.Kubernetes.DiscoveryV1().EndpointSlices(ns).List(ctx, metav1.ListOptions{})
		var ready []string
		if err == nil {
			for _, s := range found.Items {
				for _, e := range s.Endpoints {
					if e.Conditions.Ready == nil || *e.Conditions.Ready {
						ready = append(ready, e.TargetRef.Name)
					}
				}
			}
		}
		return strings.Join(slices.Sorted(slices.Values(ready)), " "), err
	}
	become := func(want string) {
		t.Helper()
		must(t, stage.Eventually(t.Context(), patience, func(ctx context.Context) error {
			got, err := endpoints(ctx)
			if err == nil && got != want {
				err = fmt.Errorf("ready endpoints: %q, want %q", got, want)
			}
			return err
		}))
	}
	become("dies lives")
	p := newPrograms(t).start(t, "fencer", "--fence-dead-nodes")
	p.awaitLog(t, "started to fence dead nodes")

	// say has speakers report that f4 is silent; each silence is another one.
	number := 0
	say := func(reporters ...string) {
		number++
		for _, node := range []string{"f1", "f2"} {
			if slices.Contains(reporters, node) {
				since := time.Unix(int64(1000+number), 0).UTC().Format(time.RFC3339)
				report(t, node, `state: Announcing, silentNodes: [{nodeName: f4, since: "`+since+`", probe: Unanswered}]`)
			} else {
				report(t, node, "state: Announcing")
			}
		}
	}
	// spared waits until the program says why f4 is not fenced.
	spared := func(reason string) {
		t.Helper()
		p.awaitLog(t, "a node that speakers do not hear is not fenced", `"node":"f4"`, `"reason":"`+reason+`"`)
		if got, err := endpoints(t.Context()); err != nil || got != "dies lives" {
			t.Errorf("%s: ready endpoints %q, %v", reason, got, err)
		}
	}
	say("f1")
	spared("TooFewWitnesses")
	say()
	say("f1", "f2")
	spared("LeaseRenewed") // two stolen tokens
	say()
	die["f4"]()
	say("f1", "f2")
	spared("KernelAnswers")
	say()
	w := watchEvents(t, metav1.NamespaceDefault)
	must(t, gone())
	say("f1", "f2")
	become("lives")
	pod, err := scene.Kubernetes.CoreV1().Pods(ns).Get(t.Context(), "dies", metav1.GetOptions{})
	must(t, err)
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady && c.Reason != "NodeDead" {
			t.Errorf("Ready of the pod: %+v, want reason NodeDead", c)
		}
	}
	if e := awaitNews(t, w, "f4", "Fenced", patience); !strings.Contains(e.Note, "f4 is dead: the speakers of f1, f2") {
		t.Errorf("the event says %q", e.Note)
	}
}
