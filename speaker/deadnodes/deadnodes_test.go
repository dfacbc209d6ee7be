package deadnodes

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// rackOf is what a Detector sees of nodes.
type rackOf struct {
	mu      sync.Mutex
	answers map[string]bool
}

func (r *rackOf) set(node string, answers bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answers[node] = answers
}

func (r *rackOf) of(node string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.answers[node]
}

func TestDetector(t *testing.T) {
	rack := &rackOf{answers: map[string]bool{}}
	v := newDetector(func(_ context.Context, node string) bool { return rack.of(node) })
	v.every = time.Millisecond
	defer run(t, v)()
	becomes := func(node string, dead bool) {
		t.Helper()
		for v.Dead()[node] != dead {
			select {
			case <-v.Changed():
			case <-time.After(10 * time.Second):
				t.Fatalf("%s is dead: %v, want %v", node, !dead, dead)
			}
		}
	}

	for _, node := range []string{"stopped", "n2"} {
		v.Heard(node, "eth0")
		v.Heard(node, "eth1")
		v.Silent(node, "eth0", false)
	}
	if len(v.Dead()) > 0 {
		t.Errorf("%v are dead, which are heard on another segment", v.Dead())
	}
	rack.set("stopped", true) // its speaker has
	v.Silent("stopped", "eth1", false)
	v.Silent("n2", "eth1", false)
	becomes("n2", true)
	if v.Dead()["stopped"] {
		t.Error("a node whose kernel answers is called dead")
	}
	rack.set("n2", true) // it boots
	becomes("n2", false)
	rack.set("n2", false)
	becomes("n2", true)
	v.Heard("n2", "eth0") // heard is enough
	becomes("n2", false)
	rack.set("stopped", false)
	becomes("stopped", true) // later, without another word from the segment
	v.Silent("n2", "eth0", false)
	becomes("n2", true)
}

// What falls silent without a word is suspected at once, until its kernel answers.
func TestDetector_suspects(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(d *Detector)
		want string
	}{
		{"nobody", func(*Detector) {}, ""},
		{"one of two is silent", func(d *Detector) { d.Silent("a", "eth0", false) }, "a"},
		{"one says that its speaker ends", func(d *Detector) { d.Silent("a", "eth0", true) }, ""},
		{"all are silent", func(d *Detector) { d.Silent("a", "eth0", false); d.Silent("b", "eth0", false) }, ""},
		{"one was suspected before", func(d *Detector) { d.Suspect("c"); d.Suspect("a") }, "c"},
		{"a node is deleted", func(d *Detector) {
			d.Silent("a", "eth0", false)
			d.Keep(func(n string) bool { return n == "b" })
		}, ""},
		{"an unknown one is silent", func(d *Detector) { d.Silent("z", "eth0", false) }, ""},
		{"one is heard again", func(d *Detector) { d.Silent("a", "eth0", false); d.Heard("a", "eth1") }, ""},
	} {
		d := newDetector(nil)
		d.Heard("a", "eth0")
		d.Heard("b", "eth0")
		c.do(d)
		if got := strings.Join(slices.Sorted(maps.Keys(d.Suspects())), " "); got != c.want {
			t.Errorf("%s: %q are suspected, want %q", c.name, got, c.want)
		}
	}
	d := newDetector(nil)
	d.Heard("a", "eth0")
	d.Silent("a", "eth0", false)
	if !d.Suspects()["a"] {
		t.Error("the only other node is silent, and not suspected")
	}
	if s := d.silent["a"]; !d.note("a", s, false) || d.Suspects()["a"] {
		t.Error("its kernel answers, and it is suspected")
	} else if !d.note("a", s, true) || !d.Suspects()["a"] {
		t.Error("its kernel does not answer any more, and it is not suspected")
	} else if d.Heard("a", "eth0"); d.note("a", s, true) {
		t.Error("it is heard, and what a question found counts")
	} else if d.Ready("a"); d.Suspects()["a"] {
		t.Error("its speaker is ready, and it is suspected")
	}
}

// A node that hears nobody any more may be the one that others do not hear.
func TestDetector_alone(t *testing.T) {
	d := newDetector(nil)
	is := func(want bool, when string) {
		t.Helper()
		if got := d.Alone(); got != want {
			t.Errorf("%s: alone is %t, want %t", when, got, want)
		}
	}
	is(false, "nobody was ever heard")
	d.Heard("a", "eth0")
	d.Heard("b", "eth0")
	d.Silent("a", "eth0", false)
	is(false, "one of two is heard")
	d.Silent("b", "eth0", false)
	is(true, "both are silent")
	d.Heard("a", "eth0")
	is(false, "one is heard again")
}

// A node that was dead has no speaker yet when its kernel answers again: it is suspected until its
// speaker is ready, or cannot be expected any more.
func TestDetector_boots(t *testing.T) {
	d := newDetector(nil)
	d.Heard("a", "eth0")
	d.Heard("b", "eth0")
	is := func(want bool, when string) {
		t.Helper()
		if got := d.Suspects()["a"]; got != want {
			t.Errorf("%s: it is suspected: %t, want %t", when, got, want)
		}
		if got := d.Lost()["a"]; got != want {
			t.Errorf("%s: it is lost: %t, want %t", when, got, want)
		}
	}
	die := func() {
		d.Silent("a", "eth0", false)
		d.note("a", d.silent["a"], true)
		d.note("a", d.silent["a"], true)
	}
	die()
	is(true, "it is dead")
	d.note("a", d.silent["a"], false)
	is(true, "its kernel answers")
	if d.Dead()["a"] {
		t.Error("its kernel answers, and it is dead")
	}
	d.Heard("a", "eth0")
	is(true, "its speaker starts")
	d.Ready("a")
	is(false, "its speaker is ready")
	die()
	d.note("a", d.silent["a"], false)
	d.Ready("a")
	d.Silent("b", "eth0", true)
	d.note("b", d.silent["b"], false)
	if d.Suspects()["b"] {
		t.Error("a node that was not dead is suspected, and its kernel answers")
	}
	die()
	d.Keep(func(node string) bool { return node == "b" })
	is(false, "it is deleted")
}

// See makes good what was not told: nodes that were heard before, and segments that ended.
func TestDetector_See(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDetector(nil)
		on := func(interfaces ...string) map[string]bool {
			m := map[string]bool{}
			for _, i := range interfaces {
				m[i] = true
			}
			return m
		}
		d.See(map[string]map[string]bool{"a": on("eth0"), "b": on("eth0", "eth1")}, nil)
		d.Silent("a", "eth0", false)
		if !d.Suspects()["a"] {
			t.Error("a node that was heard before this process began falls silent, and is not suspected")
		}
		d.See(map[string]map[string]bool{"a": on("eth0"), "b": on("eth0", "eth1")}, nil)
		if !d.Suspects()["a"] {
			t.Error("an old status has a node heard that just fell silent")
		}
		<-time.After(staleAtMost)
		for range 2 { // once may be too early
			d.See(map[string]map[string]bool{"a": on("eth0"), "b": on("eth0")}, nil)
			<-time.After(staleAtMost)
		}
		if len(d.Suspects()) > 0 || len(d.heard["b"]) != 1 {
			t.Errorf("%v are suspected, %v are heard; a is heard again, and eth1 is gone", d.Suspects(), d.heard)
		}
		d.See(map[string]map[string]bool{"a": on("eth0")}, nil)
		if d.silent["b"] != nil {
			t.Error("a node that is missing once is asked")
		}
		<-time.After(staleAtMost)
		d.See(map[string]map[string]bool{"a": on("eth0")}, nil)
		if s := d.silent["b"]; s == nil || d.Suspects()["b"] {
			t.Error("a node whose last segment ended is not asked, or is suspected before")
		} else if d.note("b", s, true); !d.Suspects()["b"] {
			t.Error("its kernel does not answer, and it is not suspected")
		}
	})
}

// A node that was cut off hears the others one after the other. It does not think those dead that
// come last.
func TestDetector_rejoins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDetector(nil)
		others := []string{"a", "b", "c"}
		for _, node := range others {
			d.Heard(node, "eth0")
		}
		for _, node := range others {
			d.Silent(node, "eth0", false)
			d.note(node, d.silent[node], true)
		}
		is := func(when, want string) {
			t.Helper()
			suspects := strings.Join(slices.Sorted(maps.Keys(d.Suspects())), " ")
			if lost := strings.Join(slices.Sorted(maps.Keys(d.Lost())), " "); suspects != want || lost != want {
				t.Errorf("%s: %q are suspected, %q are lost, want %q", when, suspects, lost, want)
			}
		}
		is("it hears nobody", "")
		d.Heard("a", "eth0")
		d.Ready("a")
		is("it hears one again", "")
		<-time.After(rejoinsWithin)
		synctest.Wait()
		is("it does not hear the others for long", "b c")
		select {
		case <-d.Changed():
		default:
			t.Error("nobody is told")
		}
	})
}

// While it is cut off a node takes all others for dead, which say nothing and do not answer. Those
// that answer when it is back have not booted, even if they are not heard for longer.
func TestDetector_rejoinsThoseThatLive(t *testing.T) {
	for _, c := range []struct {
		name    string
		cutFor  time.Duration
		answers bool // the first to be noticed answers; else it is heard
		lost    string
	}{
		{name: "one is heard", cutFor: 2 * time.Second},
		{name: "one answers", cutFor: 2 * time.Second, answers: true},
		{name: "they may have booted", cutFor: bootsAtLeast, lost: "a b c"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rack := &rackOf{answers: map[string]bool{}}
				d := newDetector(func(context.Context, string) bool { return rack.of("all") })
				defer run(t, d)()
				others := []string{"a", "b", "c"}
				for _, node := range others {
					d.Heard(node, "eth0")
				}
				d.Silent("a", "eth0", false)
				<-time.After(50 * time.Millisecond) // it is known to be dead before the others are silent
				d.Silent("b", "eth0", false)
				d.Silent("c", "eth0", false)
				<-time.After(c.cutFor)
				rack.set("all", true)
				if !c.answers {
					d.Heard("a", "eth0")
				}
				for range 20 { // it may take until the next questions
					<-time.After(rejoinsWithin / 5)
					lost := strings.Join(slices.Sorted(maps.Keys(d.Lost())), " ")
					suspects := strings.Join(slices.Sorted(maps.Keys(d.Suspects())), " ")
					if c.lost == "" && lost+suspects != "" {
						t.Fatalf("lost %q, suspects %q, but all live, and did", lost, suspects)
					}
				}
				if lost := strings.Join(slices.Sorted(maps.Keys(d.Lost())), " "); lost != c.lost {
					t.Errorf("lost %q, want %q", lost, c.lost)
				}
			})
		})
	}
}

// What hears is another process, which has not heard who fell silent before.
func TestDetector_Miss(t *testing.T) {
	d := newDetector(nil)
	d.Heard("a", "eth0")
	d.Heard("b", "eth0")
	d.Heard("b", "eth1")
	d.Miss(map[string]map[string]bool{"b": {"eth1": true}})
	if d.silent["a"] == nil || d.silent["b"] != nil || len(d.heard["b"]) != 1 {
		t.Errorf("silent %v, heard %v; want a to be asked, and b not", d.silent, d.heard)
	}
	if d.Suspects()["a"] {
		t.Error("a is suspected before it is asked")
	}
	if d.note("a", d.silent["a"], true); !d.Suspects()["a"] {
		t.Error("a does not answer, and is not suspected")
	}
}

// A status that is older than a node's boot does not say that its speaker is ready.
func TestDetector_SeeReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDetector(nil)
		both := map[string]map[string]bool{"a": {"eth0": true}, "b": {"eth0": true}}
		see := func() { d.See(both, map[string]bool{"a": true, "b": true}) }
		see()
		d.Silent("a", "eth0", false)
		for _, dead := range []bool{true, true, false} {
			d.note("a", d.silent["a"], dead)
		}
		if see(); !d.Suspects()["a"] {
			t.Error("a node that boots is not suspected, by a status of before")
		}
		<-time.After(staleAtMost)
		if see(); d.Suspects()["a"] {
			t.Error("its speaker is ready, and it is suspected")
		}
	})
}

// A node that was dead gets new connections once its speaker is ready, or after 2 minutes.
func TestDetector_bootsForSoLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDetector(nil)
		dies := func() {
			d.Heard("a", "eth0")
			d.Heard("b", "eth0")
			d.Silent("a", "eth0", false)
			d.note("a", d.silent["a"], true)
			d.note("a", d.silent["a"], true)
			d.Heard("a", "eth0")
		}
		dies()
		if !d.Suspects()["a"] {
			t.Error("a node that boots is not suspected when it is heard")
		}
		<-time.After(speakerAtMost - 1)
		synctest.Wait()
		if !d.Suspects()["a"] {
			t.Error("it is not suspected any more before its speaker was ready")
		}
		<-time.After(1)
		synctest.Wait()
		if d.Suspects()["a"] {
			t.Error("its speaker is not ready after 2 minutes, and it is still suspected")
		}
		d.Silent("a", "eth0", false)
		for _, dead := range []bool{true, true, false} { // without a speaker
			d.note("a", d.silent["a"], dead)
		}
		<-time.After(speakerAtMost)
		synctest.Wait()
		if d.Suspects()["a"] {
			t.Error("its kernel has answered for 2 minutes, and it is still suspected")
		}
		dies()
		if d.Ready("a"); d.Suspects()["a"] {
			t.Error("its speaker is ready, and it is still suspected")
		}
	})
}

// Others that are long gone, or whose kernels answer, do not hide that a node dies.
func TestDetector_othersAreGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDetector(nil)
		for _, n := range []string{"a", "b"} {
			d.Heard(n, "eth0")
		}
		d.Silent("a", "eth0", true)
		d.note("a", d.silent["a"], false) // its speaker ended
		if d.Silent("b", "eth0", false); !d.Suspects()["b"] || d.Alone() {
			t.Errorf("%v are suspected, alone: %t; a's kernel answers, so this node hears", d.Suspects(), d.Alone())
		}
		d.Heard("b", "eth0")
		d.note("a", d.silent["a"], true)
		<-time.After(together + 1)
		if d.Silent("b", "eth0", false); !d.Suspects()["b"] || !d.Suspects()["a"] {
			t.Errorf("%v are suspected, and a is dead for long", d.Suspects())
		}
	})
}

// Who asks goes by Changed, whatever is known of the node.
func TestDetector_SuspectTells(t *testing.T) {
	d := newDetector(nil)
	d.Heard("a", "eth0")
	select {
	case <-d.Changed():
	default:
	}
	d.Suspect("a")
	select {
	case <-d.Changed():
	default:
		t.Error("nothing is told of a node that is heard")
	}
}

// A node is asked when its message is overdue: if it falls silent then, its death is known a moment
// later. What it answered then, or did not without falling silent, says nothing.
func TestDetector_overdue(t *testing.T) {
	const within = 200 * time.Millisecond
	for _, c := range []struct {
		name       string
		answers    bool          // when its message is overdue
		late, then bool          // whether one is; what its kernel answers later
		silent     time.Duration // after how long it falls silent
		death      time.Duration // is known, since then; negative: it is not
	}{
		{name: "it dies", late: true, silent: 100 * time.Millisecond, death: 100 * time.Millisecond},
		{name: "it dies long after", late: true, silent: time.Second},
		{name: "a question from too long ago", late: true, silent: 3 * time.Second, death: within},
		{name: "nothing was overdue", silent: time.Second, death: within},
		{name: "it answered before it died", late: true, answers: true, silent: 100 * time.Millisecond, death: within},
		{name: "its speaker ends", late: true, answers: true, then: true, silent: 100 * time.Millisecond, death: -1},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rack := &rackOf{answers: map[string]bool{"a": c.answers}}
				d := newDetector(func(ctx context.Context, node string) bool {
					rack.mu.Lock()
					answers := rack.answers[node]
					rack.mu.Unlock()
					if !answers {
						<-time.After(within)
					}
					return answers
				})
				defer run(t, d)()
				d.Heard("a", "eth0")
				d.Heard("b", "eth0")
				if c.late {
					d.Overdue("a")
				}
				synctest.Wait()
				rack.set("a", c.then)
				<-time.After(c.silent)
				d.Silent("a", "eth0", false)
				begun := time.Now()
				for !d.Dead()["a"] && time.Since(begun) < 500*time.Millisecond {
					<-time.After(time.Millisecond)
				}
				switch took := time.Since(begun).Truncate(5 * time.Millisecond); {
				case c.death < 0 && (d.Dead()["a"] || d.Suspects()["a"]):
					t.Error("it counts as dead, and its kernel answers")
				case c.death >= 0 && took != c.death:
					t.Errorf("its death was known after %s, want %s", took, c.death)
				}
			})
		})
	}
}

// run runs a Detector until the function that it returns is called.
func run(t *testing.T, d *Detector) (end func()) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- d.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// A message that is overdue again is a question of its own.
func TestDetector_overdueAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		questions := make(chan chan bool, 10)
		d := newDetector(func(ctx context.Context, _ string) bool {
			answer := make(chan bool)
			questions <- answer
			select {
			case answers := <-answer:
				return answers
			case <-ctx.Done():
				return false
			}
		})
		defer run(t, d)()
		d.Heard("a", "eth0")
		d.Overdue("a")
		d.Overdue("a")
		(<-questions) <- false // its host was stopped for a moment
		synctest.Wait()
		d.Overdue("a")
		second := <-questions
		d.Silent("a", "eth0", false)
		synctest.Wait()
		if len(questions) > 0 || d.Dead()["a"] {
			t.Errorf("%d questions more; dead: %v", len(questions), d.Dead())
		}
		second <- true
		(<-questions) <- true
		synctest.Wait()
		if d.Suspects()["a"] {
			t.Error("a node that answers is suspected")
		}
	})
}

// A node that was without hellos for long, and lived, dies. Eight of those that heard it notice
// that at once, and tell the others. On a large segment not all ask it each second.
func TestDetector_diesLater(t *testing.T) {
	for _, c := range []struct {
		name    string
		peers   int
		without time.Duration // hellos, before it dies
		most    int           // questions of this node in a minute
		within  time.Duration // its death is known
		tells   bool
	}{
		{"on a small segment", 2, 2 * time.Minute, 66, 1200 * time.Millisecond, true},
		{"after an hour", 2, time.Hour, 66, 1200 * time.Millisecond, true},
		{"on a large segment, where others tell", 200, 2 * time.Minute, 7, 200 * time.Millisecond, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rack := &rackOf{answers: map[string]bool{}}
				var asked atomic.Int32
				d, end := rack.asked(t)
				defer end()
				answers := d.answers
				d.answers = func(ctx context.Context, node string) bool {
					if node == "a" {
						asked.Add(1)
					}
					return answers(ctx, node)
				}
				rack.set("a", true)
				for i := range c.peers {
					rack.set(fmt.Sprint("n", i), true)
					d.Heard(fmt.Sprint("n", i), "eth0")
				}
				d.Heard("a", "eth0")
				d.Silent("a", "eth0", true)
				<-time.After(c.without)
				asked.Store(0)
				<-time.After(time.Minute - 4500*time.Millisecond) // not when all ask
				if n := int(asked.Load()); n > c.most {
					t.Errorf("it was asked %d times in a minute", n)
				}
				rack.set("a", false)
				begun := time.Now()
				if !c.tells {
					d.NoticeSilent("a")
				}
				for !d.Lost()["a"] && time.Since(begun) < time.Minute {
					<-time.After(10 * time.Millisecond)
				}
				if took := time.Since(begun); took > c.within {
					t.Errorf("it is known after %s", took)
				}
				if tells := slices.Contains(d.News(), "a"); tells != c.tells {
					t.Errorf("this node tells of it: %t", tells)
				}
			})
		})
	}
}

// In a large rack only those that tell of a death go on to ask the dead node each second. Others
// look again when it is heard, or when somebody says that it serves.
func TestDetector_asksTheDeadSeldom(t *testing.T) {
	for _, c := range []struct {
		name  string
		peers int
		far   bool // it was never heard, and others say that it is silent
		most  int  // questions in the first minute
		least int
	}{
		{"those that tell", mostWitnesses - 1, false, 60, 40},
		{"others", 200, false, 12, 9},
		{"those of other segments", 200, true, 12, 9},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rack := &rackOf{answers: map[string]bool{}}
				var asked atomic.Int32
				d, end := rack.asked(t)
				defer end()
				answers := d.answers
				d.answers = func(ctx context.Context, node string) bool {
					if node == "a" {
						asked.Add(1)
					}
					return answers(ctx, node)
				}
				for i := range c.peers {
					rack.set(fmt.Sprint("n", i), true)
					d.Heard(fmt.Sprint("n", i), "eth0")
				}
				if c.far {
					d.NoticeSilent("a")
				} else {
					d.Heard("a", "eth0")
					d.Silent("a", "eth0", false)
				}
				<-time.After(3 * time.Second)
				if !d.Lost()["a"] {
					t.Fatal("it is not known to be dead")
				}
				<-time.After(57 * time.Second)
				if n := int(asked.Load()); n > c.most || n < c.least {
					t.Errorf("it was asked %d times in a minute, want %d to %d", n, c.least, c.most)
				}
				rack.set("a", true)
				d.NoticeServes("a")
				<-time.After(time.Second) // a question may be under way
				if d.Dead()["a"] {
					t.Error("it serves again, and was not looked at")
				}
			})
		})
	}
}
