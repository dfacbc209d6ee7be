package deadnodes

import (
	"context"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berth-lb/berth/internal/tcpprobe"
)

// asked returns a Detector of node self that asks the rack, until end. No answer takes as long as
// in the field.
func (r *rackOf) asked(t *testing.T) (d *Detector, end func()) {
	t.Helper()
	d = newDetector(func(_ context.Context, node string) bool {
		r.mu.Lock()
		answers := r.answers[node]
		r.mu.Unlock()
		if !answers {
			<-time.After(tcpprobe.Within) // of the clock of the bubble
		}
		return answers
	})
	d.self, d.exists = "self", func(node string) bool { return node != "nobody" }
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- d.Run(ctx) }()
	return d, func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func named(nodes map[string]bool) string { return strings.Join(slices.Sorted(maps.Keys(nodes)), " ") }

// What others say of a node has it asked, whether this one hears it, or never did; only what the
// kernel says counts for long.
func TestDetector_notices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rack := &rackOf{answers: map[string]bool{"lives": true, "heard": true}}
		d, end := rack.asked(t)
		defer end()
		is := func(when, suspects, lost string) {
			t.Helper()
			synctest.Wait()
			if got := named(d.Suspects()); got != suspects {
				t.Errorf("%s: suspects %q, want %q", when, got, suspects)
			}
			if got := named(d.Lost()); got != lost {
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
		<-time.After(10 * time.Second)
		rack.set("lives", true)
		<-time.After(2 * time.Second)
		is("one has booted", "heard lives", "heard lives")
		d.NoticeServes("lives")
		is("its speaker is ready", "heard", "heard")
		<-time.After(10 * time.Second)
		is("no notice of the other one came for long, and it is heard", "", "")
		rack.set("lives", false)
		d.NoticeSilent("lives")
		<-time.After(250 * time.Millisecond)
		is("the first one dies again", "lives", "lives")
		<-time.After(5 * time.Minute)
		is("it stays dead, whether others say so or not", "lives", "lives")
		rack.set("lives", true)
		<-time.After(20 * time.Second)
		is("nobody says that its speaker is ready", "lives", "lives")
		<-time.After(2 * time.Minute)
		is("it may have none", "", "")
		rack.set("lives", false)
		d.NoticeSilent("lives")
		<-time.After(2 * time.Second)
		rack.set("lives", true)
		<-time.After(2 * time.Second)
		is("it was not reached for a moment", "", "")
		if len(d.far) > 0 {
			t.Errorf("%d nodes are still asked", len(d.far))
		}
		// What this node hears itself it tells, whatever others said before.
		rack.set("heard", false)
		d.Heard("third", "eth0")
		d.NoticeSilent("heard")
		<-time.After(250 * time.Millisecond)
		is("others say so, and it does not answer", "heard", "heard")
		d.Silent("heard", "eth0", false)
		<-time.After(250 * time.Millisecond)
		if s := d.Silences(); len(s) != 1 || s[0].Node != "heard" ||
			!slices.Equal(s[0].Interfaces, []string{"eth0"}) {
			t.Errorf("silences: %v", s)
		}
		d.Heard("heard", "eth0")
		if d.Serves("heard") || !d.Serves("third") || d.Serves("lives") {
			t.Error("this node can tell only of those that it hears and that are ready")
		}
		d.Ready("heard")
		is("it is heard, and ready", "", "")
		// Of what a process before this one suspected nobody knows who heard it.
		rack.set("lives", false)
		d.Suspect("lives")
		<-time.After(250 * time.Millisecond)
		is("a process before this one suspected it", "lives", "lives")
	})
}

// A node that this one watches and that does not answer is asked on and on. Others are told while
// its kernel does not answer, and once it serves again.
func TestDetector_wards(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rack := &rackOf{answers: map[string]bool{"ward": true}}
		d, end := rack.asked(t)
		defer end()
		is := func(when, suspects, lost, news string, serves bool) {
			t.Helper()
			synctest.Wait()
			if got := named(d.Suspects()); got != suspects {
				t.Errorf("%s: suspects %q, want %q", when, got, suspects)
			}
			if got := named(d.Lost()); got != lost {
				t.Errorf("%s: lost %q, want %q", when, got, lost)
			}
			if got := strings.Join(d.News(), " "); got != news {
				t.Errorf("%s: news %q, want %q", when, got, news)
			}
			if got := d.Serves("ward"); got != serves {
				t.Errorf("%s: serves %t", when, got)
			}
			if got := d.Silences(); len(got) > 0 {
				t.Errorf("%s: it tells those that fence: %v", when, got)
			}
		}
		wait := func(d time.Duration) { <-time.After(d) }
		d.Ward("nobody", true)
		d.Ward("nobody", false)
		d.Ward("ward", true)
		is("it answers", "", "", "", true)
		d.NoticeSilent("ward")
		is("others say that it does not, and this node knows better", "", "", "", true)
		d.Ward("ward", false)
		is("its speaker is away", "", "", "", false)
		wait(time.Minute)
		rack.set("ward", false)
		d.NoticeSilent("ward")
		is("it dies while its speaker is away, as others say", "ward", "", "ward", false)
		wait(250 * time.Millisecond)
		is("its kernel does not answer", "ward", "ward", "ward", false)
		wait(bootsAtLeast)
		rack.set("ward", true)
		wait(2 * time.Second)
		is("it boots", "ward", "ward", "", false)
		d.Ward("ward", true)
		is("its speaker is ready", "", "", "", true)
		rack.set("ward", false)
		d.Ward("ward", false)
		is("it does not answer at once", "ward", "", "", false)
		wait(2 * hesitates)
		is("its kernel would have answered by now", "ward", "", "ward", false)
		wait(250 * time.Millisecond)
		is("its kernel does not", "ward", "ward", "ward", false)
		d.CutOff(true)
		is("it may be this node", "ward", "ward", "", false)
		if !d.Alone() {
			t.Error("cut off, and not alone")
		}
		d.CutOff(false)
		is("it may have been this node", "", "", "", false)
		wait(rejoinsWithin)
		is("it was not", "ward", "ward", "ward", false)
		wait(newsFor)
		is("it has been told for long", "ward", "ward", "", false)
		d.WardLeft("ward")
		wait(time.Minute)
		is("it is watched no longer, and dead", "ward", "ward", "", false)
		rack.set("ward", true)
		wait(speakerAtMost + time.Minute)
		is("it lives", "", "", "", false)
		if len(d.far) > 0 || len(d.wards) > 0 {
			t.Errorf("it is remembered: %v %v", d.far, d.wards)
		}
		rack.set("ward", false)
		d.Ward("ward", true)
		wait(time.Second)
		d.Ward("ward", false)
		wait(time.Second)
		is("something filters TCP: no answer says nothing", "", "", "", false)
		d.Suspect("ward")
		d.Suspect("self")
		wait(bootsAtLeast)
		is("a process before this one suspected it", "ward", "ward", "", false)
		d.NoticeServes("ward")
		wait(2 * time.Second)
		is("its speaker is heard elsewhere, and its kernel does not answer here", "", "", "", false)
		d.Ward("ward", true)
		d.Keep(func(string) bool { return false })
		is("there is no such node any more", "", "", "", false)
	})
}
