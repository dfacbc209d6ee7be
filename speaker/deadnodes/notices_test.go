package deadnodes

import (
	"context"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// What others say of a node has it asked, whether this one hears it, or never did; only what the
// kernel says counts for long.
func TestDetector_notices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rack := &rackOf{answers: map[string]bool{"lives": true, "heard": true}}
		d := newDetector(func(ctx context.Context, node string) bool {
			rack.mu.Lock()
			answers := rack.answers[node]
			rack.mu.Unlock()
			if !answers {
				<-time.After(200 * time.Millisecond) // of the clock of the bubble
			}
			return answers
		})
		d.self = "self"
		d.exists = func(node string) bool { return node != "nobody" }
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- d.Run(ctx) }()
		is := func(when, suspects, lost string) {
			t.Helper()
			synctest.Wait()
			text := func(nodes map[string]bool) string { return strings.Join(slices.Sorted(maps.Keys(nodes)), " ") }
			if got := text(d.Suspects()); got != suspects {
				t.Errorf("%s: suspects %q, want %q", when, got, suspects)
			}
			if got := text(d.Lost()); got != lost {
				t.Errorf("%s: lost %q, want %q", when, got, lost)
			}
			if got := d.Silences(); len(got) > 0 {
				t.Errorf("%s: it tells what it was told: %v", when, got)
			}
		}
		d.Heard("heard", "eth0")
		for _, node := range []string{"self", "nobody", "lives", "heard"} {
			d.NoticeSilent(node)
		}
		is("they live, or do not exist", "", "")
		<-time.After(2 * time.Second)
		rack.set("lives", false)
		rack.set("heard", false)
		d.NoticeSilent("lives")
		d.NoticeSilent("heard")
		is("they are asked", "lives", "") // the other one is heard
		<-time.After(250 * time.Millisecond)
		is("they do not answer", "heard lives", "heard lives")
		rack.set("lives", true)
		<-time.After(2 * time.Second)
		is("one has booted", "heard lives", "heard lives")
		d.NoticeServes("lives")
		is("its speaker is ready", "heard", "heard")
		rack.set("heard", true)
		d.NoticeServes("heard")
		is("the other one, before it was asked again", "", "")
		<-time.After(time.Minute)
		is("nobody is asked any more", "", "")
		if len(d.silent) > 0 {
			t.Errorf("%d nodes are still asked", len(d.silent))
		}
		// Notices count once in a second, however many come.
		rack.set("lives", false)
		d.NoticeSilent("lives")
		<-time.After(250 * time.Millisecond)
		rack.set("lives", true)
		<-time.After(2 * time.Second)
		d.NoticeServes("lives")
		if !d.Serves("heard") || d.Serves("lives") {
			t.Error("this node can tell only of those that it hears")
		}
		// A node that falls silent here, too, after a notice is told of, and followed.
		rack.set("heard", false)
		d.Heard("third", "eth0")
		d.NoticeSilent("heard")
		d.Silent("heard", "eth0", false)
		<-time.After(250 * time.Millisecond)
		if s := d.Silences(); len(s) != 1 || s[0].Node != "heard" ||
			!slices.Equal(s[0].Interfaces, []string{"eth0"}) {
			t.Errorf("silences: %v", s)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
