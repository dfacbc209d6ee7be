//go:build root

package api

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/berth-lb/berth/e2e/stage"
)

// awaitNews returns the next event of the watch about the Service with this reason, and fails if it
// does not come in time.
func awaitNews(t *testing.T, w watch.Interface, name, reason string, within time.Duration) *eventsv1.Event {
	t.Helper()
	late := time.NewTimer(within)
	defer late.Stop()
	for {
		select {
		case e := <-w.ResultChan():
			if found, ok := e.Object.(*eventsv1.Event); ok && found.Regarding.Name == name && found.Reason == reason {
				return found
			}
		case <-late.C:
			t.Fatalf("no event %s about %s within %s", reason, name, within)
		}
	}
}

func watchEvents(t *testing.T, ns string) watch.Interface {
	t.Helper()
	w, err := scene.Kubernetes.EventsV1().Events(ns).Watch(t.Context(), metav1.ListOptions{})
	must(t, err)
	t.Cleanup(w.Stop)
	return w
}

// TestProgramEvents has events written by the program itself.
func TestProgramEvents(t *testing.T) {
	calm, noisy := namespace(t), deletedNamespace(t)
	makePool(t, "p", "192.0.2.1-192.0.2.9")
	p := newPrograms(t).start(t, "teller")
	p.awaitLog(t, "started to lead")
	w := watchEvents(t, calm)
	outside := pin("203.0.113.1")
	silenced(t)
	apply(t, "SegmentAnnouncement", "l2", `{}`)
	speaks(t, eth0)
	local := func(s *corev1.ServiceSpec) { s.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal }

	t.Run("a new Service whose Pods are not ready yet raises no alarm", func(t *testing.T) {
		makeService(t, calm, "web", local)
		if e := awaitNews(t, w, "web", "NoEndpoints", time.Second); e.Type != corev1.EventTypeNormal {
			t.Errorf("event %+v", e)
		}
		makeEndpoint(t, calm, "web-ready", "n1", true)
		awaitNews(t, w, "web", "Announced", time.Second)
	})

	t.Run("the first event of a Service comes within a second", func(t *testing.T) {
		makeService(t, calm, "first", nil)
		awaitNews(t, w, "first", "Allocated", time.Second)
	})

	t.Run("what is said again is counted within a second", func(t *testing.T) {
		makeService(t, calm, "again", outside)
		once := awaitNews(t, w, "again", "AddressOutsidePools", time.Second)
		for _, count := range []int32{2, 3} {
			patch(t, calm, "again", `{"spec":{"loadBalancerIP":""}}`)
			awaitNews(t, w, "again", "Allocated", time.Second)
			patch(t, calm, "again", `{"spec":{"loadBalancerIP":"203.0.113.1"}}`)
			more := awaitNews(t, w, "again", "AddressOutsidePools", time.Second)
			if more.Name != once.Name || more.Series == nil || more.Series.Count != count {
				t.Errorf("event %s with %+v, want %s with a count of %d", more.Name, more.Series, once.Name, count)
			}
		}
	})

	t.Run("warnings of one namespace do not delay those of another", func(t *testing.T) {
		var making sync.WaitGroup
		for i := range 4 {
			making.Go(func() {
				for j := range 30 {
					makeService(t, noisy, fmt.Sprintf("w%d-%d", i, j), outside)
				}
			})
		}
		making.Wait()
		makeService(t, calm, "late", outside)
		awaitNews(t, w, "late", "AddressOutsidePools", time.Second)
	})

	t.Run("a namespace that is deleted raises no alarm", func(t *testing.T) {
		patch(t, noisy, "w0-0", `{"metadata":{"finalizers":["example.org/hold"]}}`)
		must(t, scene.Kubernetes.CoreV1().Namespaces().Delete(t.Context(), noisy, metav1.DeleteOptions{}))
		patch(t, noisy, "w0-0", `{"spec":{"loadBalancerIP":"192.0.2.9"}}`)
		await(t, noisy, "w0-0", "Allocated", "192.0.2.9")
		patch(t, noisy, "w0-0", `{"metadata":{"finalizers":null}}`)
		must(t, stage.Eventually(t.Context(), 4*patience, func(ctx context.Context) error {
			_, err := scene.Kubernetes.CoreV1().Namespaces().Get(ctx, noisy, metav1.GetOptions{})
			switch {
			case apierrors.IsNotFound(err):
				return nil
			case err != nil:
				return fmt.Errorf("get namespace %s: %w", noisy, err)
			}
			return fmt.Errorf("namespace %s is still there", noisy)
		}))
		makeService(t, calm, "after", nil)
		awaitNews(t, w, "after", "Allocated", time.Second)
		text, err := os.ReadFile(p.log)
		must(t, err)
		for line := range strings.Lines(string(text)) {
			if !strings.Contains(line, `"level":"INFO"`) {
				t.Error(line)
			}
		}
	})
}

// deletedNamespace makes a namespace that the test deletes.
func deletedNamespace(t *testing.T) string {
	t.Helper()
	ns, err := scene.Kubernetes.CoreV1().Namespaces().Create(
		t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "t-"}}, metav1.CreateOptions{},
	)
	must(t, err)
	return ns.Name
}
