package liveness

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

func TestLoops_Stuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		loops := New()
		ctx := loops.Context(t.Context())
		idle := Of(ctx, "idle", Limit)
		busy := Of(ctx, "busy", Limit)
		patient := Of(ctx, "patient", 2*Limit)
		stuck := func(want ...string) {
			t.Helper()
			var got []string
			for _, s := range loops.Stuck() {
				got = append(got, s.Loop)
			}
			if len(got) != len(want) || len(got) > 0 && got[0] != want[0] {
				t.Errorf("stuck: %q, want %q", got, want)
			}
		}
		idle.Begin()
		idle.End()
		patient.Begin()
		busy.Begin()
		begun := time.Now()
		<-time.After(Limit)
		stuck()
		<-time.After(time.Second)
		stuck("busy")
		if since := loops.Stuck()[0].Since; !since.Equal(begun) {
			t.Errorf("stuck since %s, want %s", since, begun)
		}
		Progress(busy.Context(ctx))
		stuck()
		<-time.After(Limit + time.Second)
		stuck("patient", "busy")
		busy.End()
		Progress(busy.Context(ctx))
		patient.End()
		<-time.After(time.Hour)
		stuck()
	})
}

// What runs without Loops notes nothing.
func TestOf_without_loops(t *testing.T) {
	l := Of(t.Context(), "none", Limit)
	l.Begin()
	Progress(l.Context(t.Context()))
	Progress(context.Background())
	l.End()
	if l != nil {
		t.Error("a loop of nobody")
	}
}
