package main

import (
	"fmt"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
)

// recorded collects the reasons of events.
type recorded struct{ reasons []string }

func (r *recorded) Eventf(_, _ runtime.Object, _, reason, _, _ string, _ ...any) {
	r.reasons = append(r.reasons, reason)
}

// drain records all queued events.
func (r *recorded) drain(u *pacedRecorder) {
	for {
		e, ok := u.take()
		if !ok {
			return
		}
		u.to.Eventf(e.regarding, nil, e.kind, e.reason, e.action, e.note, e.args...)
	}
}

func in(namespace string) *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "web"}}
}

func TestPacedRecorderTakesWarningsFirst(t *testing.T) {
	var to recorded
	u := newPacedRecorder(&to, clientscheme.Scheme)
	u.Eventf(in("a"), nil, "Normal", "one", "", "")
	u.Eventf(in("a"), nil, "Normal", "two", "", "")
	u.Eventf(in("a"), nil, "Warning", "three", "", "")
	to.drain(u)
	if want := []string{"three", "one", "two"}; !slices.Equal(to.reasons, want) {
		t.Errorf("recorded %v, want %v", to.reasons, want)
	}
}

func TestPacedRecorderTakesNamespacesInTurn(t *testing.T) {
	var to recorded
	u := newPacedRecorder(&to, clientscheme.Scheme)
	for i := range 5000 {
		u.Eventf(in("noisy"), nil, "Warning", fmt.Sprint("noisy-", i), "", "")
	}
	u.Eventf(in("calm"), nil, "Warning", "calm", "", "")
	to.drain(u)
	if at := slices.Index(to.reasons, "calm"); at != 1 {
		t.Errorf("the warning of the other namespace came as number %d, want 1", at)
	}
	if n := len(to.reasons); n != eventsOfOne+1 {
		t.Errorf("%d events were kept, want %d", n, eventsOfOne+1)
	}
}

func TestPacedRecorderDropsWhatDoesNotFit(t *testing.T) {
	u := newPacedRecorder(&recorded{}, clientscheme.Scheme)
	for i := range eventsWaiting + 1 {
		u.Eventf(in(fmt.Sprint(i%50)), nil, "Normal", "kept", "", "")
	}
	if got := u.normal.Len(); got != eventsWaiting {
		t.Errorf("%d events wait, want %d", got, eventsWaiting)
	}
}
