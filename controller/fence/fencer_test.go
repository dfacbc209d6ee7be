package fence

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/events"

	"github.com/berth-lb/berth/config/v1alpha1"
)

// site is a Fencer over four nodes, of which n4 has pods.
type site struct {
	*Fencer
	kube     *fake.Clientset
	kernels  *kernels
	recorder *events.FakeRecorder
}

func newSite(t *testing.T, pods int, dryRun bool) *site {
	t.Helper()
	var objects []runtime.Object
	endpoints := discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{
		Namespace: "d", Name: "web-1", Labels: map[string]string{discoveryv1.LabelServiceName: "web"},
	}}
	add := func(name, node string) {
		objects = append(objects, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: name, UID: types.UID(name), ResourceVersion: "7"},
			Spec:       corev1.PodSpec{NodeName: node},
			Status: corev1.PodStatus{Conditions: []corev1.PodCondition{
				{
					Type:   corev1.ContainersReady,
					Status: corev1.ConditionTrue,
				}, {Type: corev1.PodReady, Status: corev1.ConditionTrue},
			}},
		})
		endpoints.Endpoints = append(endpoints.Endpoints, discoveryv1.Endpoint{
			NodeName: &node, TargetRef: &corev1.ObjectReference{Kind: "Pod", UID: types.UID(name)},
		})
	}
	add("alive", "n1")
	for i := range pods {
		add(fmt.Sprintf("pod-%03d", i), "n4")
	}
	objects = append(objects, &endpoints)
	f := &site{
		kube: fake.NewClientset(objects...), recorder: events.NewFakeRecorder(64),
		kernels: &kernels{mute: map[netip.Addr]bool{}, asked: map[netip.Addr]int{}},
	}
	informer := func(example runtime.Object) cache.SharedIndexInformer {
		return cache.NewSharedIndexInformer(nil, example, 0, nil)
	}
	var err error
	f.Fencer, err = New(Config{
		Kubernetes: f.kube, Nodes: informer(&corev1.Node{}), Speakers: informer(&v1alpha1.Speaker{}),
		Services: informer(&corev1.Service{}), Serves: func(*corev1.Service) bool { return true },
		Events: f.recorder, Logger: slog.New(slog.DiscardHandler), DryRun: dryRun,
	})
	if err != nil {
		t.Fatal(err)
	}
	f.prober.answers = func(_ context.Context, a []netip.Addr) bool {
		f.kernels.mu.Lock()
		defer f.kernels.mu.Unlock()
		return !f.kernels.mute[a[0]]
	}
	for i := range 4 {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("n%d", i+1)}}
		node.Status.Addresses = []corev1.NodeAddress{
			{Type: corev1.NodeInternalIP, Address: addressOf(i + 1).String()},
		}
		node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
		if err := f.Nodes.GetStore().Add(node); err != nil {
			t.Fatal(err)
		}
		f.renew(node.Name)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { f.cluster.run(ctx); close(ended) }()
	t.Cleanup(func() { cancel(); <-ended })
	if !cache.WaitForCacheSync(t.Context().Done(), f.cluster.synced) {
		t.Fatal("the caches do not fill")
	}
	f.askAll(t)
	return f
}

func (f *site) renew(node string) {
	now := metav1.NowMicro()
	f.history.lease(&coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Name: node}, Spec: coordinationv1.LeaseSpec{RenewTime: &now},
	}, now.Time)
}

// askAll asks every node.
func (f *site) askAll(t *testing.T) {
	t.Helper()
	all := f.addresses()
	var names []string
	for name := range all {
		names = append(names, name)
	}
	f.prober.ask(t.Context(), all, names)
}

// die has n4 be dead, by all evidence.
func (f *site) die(t *testing.T) {
	t.Helper()
	f.kernels.silence(addressOf(4), true)
	for _, reporter := range []string{"n1", "n2"} {
		f.history.speaker(
			reporter,
			[]v1alpha1.SilentNodeReport{silent("n4", time.Now(), v1alpha1.ProbeUnanswered)},
			time.Now(),
		)
	}
	f.askAll(t)
}

// live has n4 be alive again.
func (f *site) live(t *testing.T) {
	t.Helper()
	f.kernels.silence(addressOf(4), false)
	for _, reporter := range []string{"n1", "n2"} {
		f.history.speaker(reporter, nil, time.Now())
	}
	f.askAll(t)
}

// written returns the patches of pods' statuses, by pod.
func (f *site) written() map[string]string {
	found := map[string]string{}
	for _, a := range f.kube.Actions() {
		if p, ok := a.(clienttesting.PatchAction); ok && p.GetResource().Resource == "pods" &&
			p.GetSubresource() == "status" {
			found[p.GetName()] = string(p.GetPatch())
		}
	}
	return found
}

func (f *site) told() []string {
	var found []string
	for len(f.recorder.Events) > 0 {
		found = append(found, <-f.recorder.Events)
	}
	return found
}

// passes runs passes until there is nothing to do at once, or there were too many.
func (f *site) passes(t *testing.T) {
	t.Helper()
	for range 100 {
		next := f.pass(t.Context())
		if next != afterConflict && next != afterBatch {
			return
		}
		<-time.After(next)
	}
	t.Error("passes do not end")
}

func TestFencer(t *testing.T) {
	f := newSite(t, 60, false)
	f.passes(t)
	if got := f.written(); len(got) > 0 {
		t.Fatalf("written although nobody is silent: %v", got)
	}
	f.die(t)
	f.passes(t)
	got := f.written()
	if _, alive := got["alive"]; len(got) != 60 || alive {
		t.Fatalf("%d pods were written to, want the 60 of n4", len(got))
	}
	var patch struct {
		Metadata map[string]string `json:"metadata"`
		Status   map[string][]map[string]string
	}
	if err := json.Unmarshal([]byte(got["pod-007"]), &patch); err != nil {
		t.Fatal(err)
	}
	condition := patch.Status["conditions"][0]
	if len(patch.Metadata) != 2 || patch.Metadata["uid"] != "pod-007" || patch.Metadata["resourceVersion"] != "7" ||
		len(
			patch.Status,
		) != 1 || condition["type"] != "Ready" || condition["status"] != "False" || condition["reason"] != "NodeDead" {
		t.Errorf("written: %s", got["pod-007"])
	}
	pod, err := f.kube.CoreV1().Pods("d").Get(t.Context(), "pod-007", metav1.GetOptions{})
	if err != nil || len(pod.Status.Conditions) != 2 {
		t.Errorf("conditions afterwards: %+v, %v", pod.Status.Conditions, err)
	}
	if told := f.told(); len(told) != 1 ||
		!strings.Contains(told[0], "Warning Fenced n4 is dead: the speakers of n1, n2") ||
		!strings.Contains(told[0], "60 are called not ready; 0 stay") {
		t.Errorf("events: %q", told)
	}

	// It lives, and its kubelet says so. It is not fenced a second time.
	f.kube.ClearActions()
	f.live(t)
	f.passes(t)
	if ended := f.fenced["n4"].Ended; ended.IsZero() {
		t.Error("a node that lives counts as fenced")
	}
	f.die(t)
	f.passes(t)
	if got := f.written(); len(got) > 0 {
		t.Errorf("fenced again at once: %v", got)
	}
}

func TestFencer_dryRun(t *testing.T) {
	f := newSite(t, 3, true)
	f.die(t)
	f.passes(t)
	if got := f.written(); len(got) > 0 {
		t.Errorf("written in a dry run: %v", got)
	}
	if told := f.told(); len(told) != 1 || !strings.Contains(told[0], "WouldFence") ||
		!strings.Contains(told[0], "3 of its pods") {
		t.Errorf("events: %q", told)
	}
}

// The last endpoint of a Service stays.
func TestFencer_last(t *testing.T) {
	f := newSite(t, 2, false)
	if err := f.Nodes.GetStore().Update(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}); err != nil { // not ready
		t.Fatal(err)
	}
	f.kernels.silence(addressOf(4), true)
	for _, reporter := range []string{"n2", "n3"} {
		f.history.speaker(
			reporter,
			[]v1alpha1.SilentNodeReport{silent("n4", time.Now(), v1alpha1.ProbeUnanswered)},
			time.Now(),
		)
	}
	f.askAll(t)
	s := f.snapshot()
	s.Pods, s.Services = f.cluster.of([]string{"n4"}, f.served())
	choice := Choose(s, Verdict{Dead: []string{"n4"}, Out: map[string]bool{"n1": true, "n4": true}})
	if len(choice.Write) > 0 || len(choice.Kept) != 2 {
		t.Errorf("%+v, want both kept", choice)
	}
}

// A conflict is judged again; a refusal is told once, and tried again later.
func TestFencer_failures(t *testing.T) {
	f := newSite(t, 1, false)
	pods := schema.GroupResource{Resource: "pods"}
	answers := []error{
		apierrors.NewConflict(pods, "pod-000", errors.New("changed")),
		apierrors.NewForbidden(pods, "pod-000", errors.New("no rights")),
		apierrors.NewNotFound(pods, "pod-000"),
	}
	f.kube.PrependReactor("patch", "pods", func(clienttesting.Action) (bool, runtime.Object, error) {
		err := answers[0]
		answers = answers[1:]
		return true, nil, err
	})
	f.die(t)
	if next := f.pass(t.Context()); next != afterConflict {
		t.Errorf("after a conflict: looks again in %v", next)
	}
	if next := f.pass(t.Context()); next != lookEvery || !strings.Contains(f.failure, "status of Pod d/pod-000: ") {
		t.Errorf("after a refusal: looks again in %v; failure %q", next, f.failure)
	}
	if f.pass(t.Context()); len(answers) != 1 {
		t.Error("tried again at once after a refusal")
	}
	f.after = time.Time{}
	if f.pass(t.Context()); len(answers) != 0 || f.failure != "" {
		t.Errorf("a pod that is gone: failure %q", f.failure)
	}
	f.pass(t.Context())
}

// Why a node is not fenced is told once, when there was time for evidence.
func TestFencer_tell(t *testing.T) {
	f := newSite(t, 1, false)
	s := Snapshot{Now: now, Reports: []Report{{Reporter: "n1", Node: "n4", Seen: ago(time.Second)}}}
	v := Verdict{
		Spared:    map[string]Reason{"n4": ReasonTooMany},
		Witnesses: map[string][]string{"n4": {"n1", "n2", "n3", "n5", "n6"}},
	}
	f.tell(s, v)
	s.Reports[0].Seen = ago(3 * time.Second)
	f.tell(s, v)
	f.tell(s, v)
	want := []string{
		"Warning NotFenced the speakers of n1, n2, n3, n5 and 1 more do not hear n4 any more, but it is not fenced: with it, more than a third of the nodes would be out",
	}
	if got := f.told(); !slices.Equal(got, want) {
		t.Errorf("events %q, want %q", got, want)
	}
	v.Spared["n4"] = ReasonKernelAnswers
	if f.tell(s, v); len(f.told()) > 0 {
		t.Error("an event of a node that lives")
	}
}

// Lead ends with its context, whether the caches fill or not.
func TestFencer_Lead(t *testing.T) {
	f := newSite(t, 30, false)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- f.Lead(ctx) }()
	f.die(t)
	f.changed.Notify()
	for len(f.recorder.Events) == 0 {
		select {
		case <-time.After(10 * time.Millisecond):
		case <-t.Context().Done():
			t.Fatal("no event")
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// What an informer is given at first passes its transformation twice.
func TestSlim(t *testing.T) {
	node, not := "n4", false
	for _, c := range []struct {
		name string
		slim cache.TransformFunc
		full runtime.Object
		want runtime.Object
	}{
		{
			name: "a pod", slim: slimPod,
			full: &corev1.Pod{
				ObjectMeta: metav1.ObjectMeta{
					Namespace: "d", Name: "p", UID: "u", ResourceVersion: "7", Labels: map[string]string{"a": "b"},
				},
				Spec: corev1.PodSpec{NodeName: "n4", HostNetwork: true},
				Status: corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{
					{Type: corev1.ContainersReady, Status: corev1.ConditionTrue},
					{Type: corev1.PodReady, Status: corev1.ConditionTrue, Message: "m"},
				}},
			},
			want: &corev1.Pod{
				ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: "p", UID: "u", ResourceVersion: "7"},
				Spec:       corev1.PodSpec{NodeName: "n4"},
				Status: corev1.PodStatus{Conditions: []corev1.PodCondition{
					{Type: corev1.PodReady, Status: corev1.ConditionTrue},
				}},
			},
		},
		{
			name: "an EndpointSlice", slim: slimSlice,
			full: &discoveryv1.EndpointSlice{
				ObjectMeta: metav1.ObjectMeta{
					Namespace: "d", Name: "s", Labels: map[string]string{discoveryv1.LabelServiceName: "web", "a": "b"},
				},
				Endpoints: []discoveryv1.Endpoint{
					{
						Addresses: []string{"192.0.2.1"}, NodeName: &node,
						TargetRef: &corev1.ObjectReference{Kind: "Pod", Name: "p", UID: "u"},
					},
					{NodeName: &node, Conditions: discoveryv1.EndpointConditions{Ready: &not}},
					{Addresses: []string{"192.0.2.3"}, TargetRef: &corev1.ObjectReference{Kind: "VM", UID: "v"}},
				},
				Ports: []discoveryv1.EndpointPort{{}},
			},
			want: &discoveryv1.EndpointSlice{
				ObjectMeta: metav1.ObjectMeta{
					Namespace: "d", Name: "s", Labels: map[string]string{discoveryv1.LabelServiceName: "web"},
				},
				Endpoints: []discoveryv1.Endpoint{
					{NodeName: &node, TargetRef: &corev1.ObjectReference{Kind: "Pod", UID: "u"}}, {},
				},
			},
		},
	} {
		once, err := c.slim(c.full)
		if diff := cmp.Diff(any(c.want), once); diff != "" || err != nil {
			t.Errorf("%s: %v\n%s", c.name, err, diff)
		}
		twice, err := c.slim(once)
		if diff := cmp.Diff(any(c.want), twice); diff != "" || err != nil {
			t.Errorf("%s, twice: %v\n%s", c.name, err, diff)
		}
	}
}

func TestFencer_unwatched(t *testing.T) {
	f := newSite(t, 1, false)
	for node, peers := range map[string]int32{"n1": 2, "n2": 3, "n3": 1} {
		err := f.Speakers.GetStore().Add(&v1alpha1.Speaker{
			ObjectMeta: metav1.ObjectMeta{Name: node},
			Status: v1alpha1.SpeakerStatus{
				Segments: []v1alpha1.SegmentReport{{Interface: "eth0", PeersAlive: &peers}},
			},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if got := f.unwatched(); got != 2 {
		t.Errorf("%v nodes are unwatched, want n3 and n4", got)
	}
}
