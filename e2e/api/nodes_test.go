//go:build root

package api

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/berth-lb/berth/config/candidate"
	"github.com/berth-lb/berth/config/digest"
	"github.com/berth-lb/berth/e2e/stage"
	"github.com/berth-lb/berth/speaker/nodes"
)

// nodeWatcher is what a speaker knows of Nodes, and how it came to know it.
type nodeWatcher struct {
	*nodes.Nodes
	mu      sync.Mutex
	sources []string // whether it watched all Nodes, in turn
	deleted []string
}

// Write gets the lines of the log.
func (w *nodeWatcher) Write(line []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, from := range []string{watchesAll, readsPublished} {
		if strings.Contains(string(line), from) {
			w.sources = append(w.sources, from)
		}
	}
	return len(line), nil
}

// What the log says of where Nodes are from.
const watchesAll, readsPublished = "all=true", "all=false"

// watchNodes watches Nodes as the speaker of a node does, with its rights.
func watchNodes(t *testing.T, node string) *nodeWatcher {
	t.Helper()
	set, err := kubernetes.NewForConfig(configOf(t, "berth-speaker", nil))
	must(t, err)
	w := &nodeWatcher{}
	w.Nodes, err = nodes.New(nodes.Config{
		Kubernetes: set, Namespace: stage.Namespace, Node: node, Logger: slog.New(slog.NewTextHandler(w, nil)),
	})
	must(t, err)
	w.OnChange(func(before, after *corev1.Node) {
		if after == nil {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.deleted = append(w.deleted, before.Name)
		}
	})
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var running sync.WaitGroup
	running.Go(func() {
		if err := w.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); running.Wait() })
	return w
}

// awaitEqual waits until the speaker knows of all Nodes what the API has, but for their versions.
func (w *nodeWatcher) awaitEqual(t *testing.T, what string) {
	t.Helper()
	must(t, stage.Eventually(t.Context(), patience, func(ctx context.Context) error {
		list, err := scene.Kubernetes.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		want := map[string]*corev1.Node{}
		for _, n := range list.Items {
			want[n.Name] = versionless(candidate.SlimNode(&n))
		}
		got := map[string]*corev1.Node{}
		for _, n := range w.All() {
			got[n.Name] = versionless(n.DeepCopy())
		}
		if diff := cmp.Diff(want, got); diff != "" {
			return fmt.Errorf("%s: what the speaker knows of Nodes (-want +got):\n%s", what, diff)
		}
		return nil
	}))
}

func versionless(n *corev1.Node) *corev1.Node {
	n.ResourceVersion = ""
	slices.SortFunc(n.Status.Conditions, func(a, b corev1.NodeCondition) int {
		return strings.Compare(string(a.Type), string(b.Type))
	})
	return n
}

// awaitSources waits until Nodes came from these sources, in turn.
func (w *nodeWatcher) awaitSources(t *testing.T, want ...string) {
	t.Helper()
	must(t, stage.Eventually(t.Context(), 2*digest.Every+patience, func(context.Context) error {
		w.mu.Lock()
		defer w.mu.Unlock()
		if !slices.Equal(w.sources, want) {
			return fmt.Errorf("Nodes came from %v, want %v", w.sources, want)
		}
		return nil
	}))
}

// What speakers know of other Nodes is what the controller publishes, by the rights of both, and no
// less than if they watched them.
func TestNodesArePublished(t *testing.T) {
	own := namespace(t)
	others := []string{own + "-a", own + "-b"}
	for digest.Share(others[0]) == digest.Share(own) { // one is deleted, the other changed
		others[0] += "a"
	}
	core := scene.Kubernetes.CoreV1()
	maps := core.ConfigMaps(stage.Namespace)
	must(t, maps.DeleteCollection( // of controllers that ended a moment ago
		t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: digest.Selector()},
	))
	create := func(name string) {
		t.Helper()
		_, err := core.Nodes().Create(t.Context(), &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"example.com/rack": "1"}},
			Spec:       corev1.NodeSpec{PodCIDRs: []string{"10.250.0.0/24"}},
		}, metav1.CreateOptions{})
		must(t, err)
		t.Cleanup(func() {
			err := core.Nodes().Delete(context.Background(), name, metav1.DeleteOptions{})
			if !apierrors.IsNotFound(err) {
				must(t, err)
			}
		})
	}
	create(own)
	create(others[0])
	before := watchNodes(t, own)
	before.awaitEqual(t, "without a controller")
	before.awaitSources(t, watchesAll)
	patch := func(name, text string, into ...string) {
		t.Helper()
		_, err := core.Nodes().Patch(
			t.Context(), name, types.StrategicMergePatchType, []byte(text), metav1.PatchOptions{}, into...,
		)
		must(t, err)
	}

	// Of a version that spreads Nodes over more.
	more := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: digest.Name + "-more", Labels: digest.Labels()}}
	_, err := maps.Create(t.Context(), more, metav1.CreateOptions{})
	must(t, err)
	first := start(t)
	before.awaitSources(t, watchesAll, readsPublished)
	must(t, stage.Eventually(t.Context(), patience, func(ctx context.Context) error {
		if _, err := maps.Get(ctx, more.Name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("ConfigMap %s is there: %w", more.Name, err)
		}
		return nil
	}))
	after := watchNodes(t, own)
	after.awaitEqual(t, "with a controller")
	create(others[1])
	for _, name := range append([]string{own}, others...) {
		patch(name, `{"metadata": {"labels": {"example.com/rack": "2"}}}`)
		patch(name, `{"spec": {"taints": [{"key": "node.kubernetes.io/out-of-service", "effect": "NoExecute"}]}}`)
		patch(name, `{"status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.9"}]}}`, "status")
		patch(name, `{"status": {"conditions": [{"type": "Ready", "status": "True"}]}}`, "status")
	}
	for _, w := range []*nodeWatcher{before, after} {
		w.awaitEqual(t, "after changes")
	}
	must(t, core.Nodes().Delete(t.Context(), others[1], metav1.DeleteOptions{}))
	for _, w := range []*nodeWatcher{before, after} {
		w.awaitEqual(t, "after a Node was deleted")
	}

	// Another controller goes on, and puts right what others deleted or changed in between.
	first.stop()
	must(t, maps.Delete(t.Context(), digest.Share(own), metav1.DeleteOptions{}))
	_, err = maps.Patch(t.Context(), digest.Share(others[0]), types.MergePatchType,
		[]byte(`{"data": {"`+others[0]+`": "{}"}, "metadata": {"labels": null}}`), metav1.PatchOptions{})
	must(t, err)
	patch(others[0], `{"metadata": {"labels": {"example.com/rack": "3"}}}`)
	start(t)
	for _, w := range []*nodeWatcher{before, after} {
		w.awaitEqual(t, "with another controller")
	}
	before.awaitSources(t, watchesAll, readsPublished)
	after.awaitSources(t, readsPublished)
	for _, w := range []*nodeWatcher{before, after} {
		w.awaitEqual(t, "at the end")
		w.mu.Lock()
		if !slices.Equal(w.deleted, others[1:]) {
			t.Errorf("the speaker thought that these were deleted: %v", w.deleted)
		}
		w.mu.Unlock()
	}
}
