package main

import (
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"
)

// recorded collects the reasons of events.
type recorded struct{ reasons []string }

func (r *recorded) Eventf(_, _ runtime.Object, _, reason, _, _ string, _ ...any) {
	r.reasons = append(r.reasons, reason)
}

func TestWarningsOvertakeOtherEvents(t *testing.T) {
	var to recorded
	u := newUnhurried(&to)
	u.Eventf(nil, nil, "Normal", "one", "", "")
	u.Eventf(nil, nil, "Normal", "two", "", "")
	u.Eventf(nil, nil, "Warning", "three", "", "")
	for range 3 {
		u.next(t.Context())()
	}
	if want := []string{"three", "one", "two"}; !slices.Equal(to.reasons, want) {
		t.Errorf("recorded %v, want %v", to.reasons, want)
	}
}

func TestEventsBeyondTheQueueAreDroppedAndNobodyWaits(t *testing.T) {
	var to recorded
	u := newUnhurried(&to)
	for range eventsWaiting + 1 {
		u.Eventf(nil, nil, "Normal", "kept", "", "")
	}
	if got := len(u.normal); got != eventsWaiting {
		t.Errorf("%d events wait, want %d", got, eventsWaiting)
	}
}
