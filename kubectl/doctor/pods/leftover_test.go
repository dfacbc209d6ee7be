package pods

import (
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

// Pods that an earlier run left are deleted: those that have ended, and whose run has.
func TestSweep(t *testing.T) {
	left := func(name, label string, age time.Duration, phase corev1.PodPhase) *corev1.Pod {
		seconds := int64(180)
		p := &corev1.Pod{}
		p.Name, p.Namespace, p.Labels = name, "berth-system", map[string]string{nameLabel: label, runLabel: "6"}
		p.CreationTimestamp = metav1.NewTime(time.Now().Add(-age))
		p.Spec.ActiveDeadlineSeconds, p.Status.Phase = &seconds, phase
		return p
	}
	x := probing()
	clients := fake.NewClientset(
		left("killed", Name, time.Hour, corev1.PodFailed),
		left("ended", Name, time.Hour, corev1.PodSucceeded),
		left("runs", Name, time.Hour, corev1.PodRunning),
		left("of-another-run", Name, time.Minute, corev1.PodFailed),
		left("not-ours", "berth-speaker", time.Hour, corev1.PodFailed),
	)
	x.Kubernetes = clients
	x.sweep(t.Context())
	list, err := clients.CoreV1().Pods("berth-system").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, p := range list.Items {
		names = append(names, p.Name)
	}
	slices.Sort(names)
	if !slices.Equal(names, []string{"not-ours", "of-another-run", "runs"}) {
		t.Errorf("left are %q", names)
	}
}

// A pod that somebody else deletes is not waited for.
func TestDeletedByAnother(t *testing.T) {
	x := probing()
	x.Kubernetes = fake.NewClientset()
	x.follow(t.Context(), "n1", "berth-probe-1")
	if why := x.seen.Failures["n1"]; why != "its pod was deleted" {
		t.Errorf("failure %q", why)
	}
}
