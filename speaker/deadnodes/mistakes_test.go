package deadnodes

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// segment is what a Detector hears of the nodes of a rack.
type segment struct {
	*Detector
	rack *rackOf
}

func each(nodes string, do func(node string)) {
	for node := range strings.FieldsSeq(nodes) {
		do(node)
	}
}

// answer says of nodes whether their kernels do.
func (s segment) answer(answers bool, nodes string) {
	each(nodes, func(node string) { s.rack.set(node, answers) })
}

// hear has nodes be heard that are ready.
func (s segment) hear(nodes string) {
	each(nodes, func(node string) { s.Heard(node, "eth0"); s.Ready(node) })
}

// miss has nodes fall silent without a word.
func (s segment) miss(nodes string) { each(nodes, func(node string) { s.Silent(node, "eth0", false) }) }

// cut has this node be cut off from others, and hear of it.
func (s segment) cut(nodes string) {
	s.answer(false, nodes)
	<-time.After(200 * time.Millisecond)
	s.miss(nodes)
}

// watch has nodes beyond the segment answer this one's watch for so long.
func (s segment) watch(long time.Duration, nodes string) {
	for begun := time.Now(); time.Since(begun) < long; <-time.After(50 * time.Millisecond) {
		each(nodes, func(node string) { s.Ward(node, true) })
	}
}

// A node that did not hear or reach others for a moment does not take those for dead, or for
// booting, that live, whether or not they are heard. It never forgets one that is dead.
func TestDetector_mistakes(t *testing.T) {
	for _, c := range []struct {
		name   string
		before func(s segment)
		do     func(s segment) // nil: nothing
		// lives is never lost from then on; dead is suspected all along.
		lives, dead string
	}{
		{
			name: "one of those that are cut off with this one is heard all the time",
			before: func(s segment) {
				s.hear("a b c near")
				s.cut("a b c")
				<-time.After(2 * time.Second)
				s.answer(true, "a b c")
				s.hear("a c")
			},
			lives: "b",
		},
		{
			name: "one question has no answer in time",
			before: func(s segment) {
				s.hear("a b c")
				s.Silent("b", "eth0", true)
				<-time.After(30500 * time.Millisecond)
				s.answer(false, "b")
				<-time.After(time.Second)
				s.answer(true, "b")
				<-time.After(1200 * time.Millisecond)
			},
			lives: "b",
		},
		{
			name: "a node beyond the segment is the first to answer again",
			before: func(s segment) {
				s.hear("a b c")
				s.Ward("far", true)
				<-time.After(time.Second)
				s.answer(false, "far")
				s.cut("a b c")
				s.Ward("far", false)
				<-time.After(2 * time.Second)
				s.answer(true, "a b c far")
				for s.Dead()["far"] {
					<-time.After(time.Millisecond)
				}
			},
			do: func(s segment) {
				s.hear("a")
				<-time.After(20 * time.Millisecond)
				s.hear("c")
			},
			lives: "b",
		},
		{
			name: "its speaker was away long before",
			before: func(s segment) {
				s.hear("a b c")
				s.miss("b")
				<-time.After(20 * time.Second)
				s.answer(false, "b")
				s.cut("a c")
				<-time.After(2 * time.Second)
				s.answer(true, "a b c")
				s.hear("a c")
			},
			lives: "b",
		},
		{
			name: "another one has no speaker, and is asked seldom",
			before: func(s segment) {
				var many []string // on a small segment it is asked each second
				for i := range 50 {
					many = append(many, fmt.Sprint("n", i))
				}
				others := "b c " + strings.Join(many, " ")
				s.answer(true, others)
				s.hear("a " + others)
				s.Silent("a", "eth0", true)
				<-time.After(63 * time.Second)
				s.answer(false, "a")
				s.cut(others)
				<-time.After(2 * time.Second)
				s.answer(true, "a "+others)
				s.hear("c")
			},
			lives: "b",
		},
		{
			name: "its kernel is found again after a second only",
			before: func(s segment) {
				s.hear("a b c")
				s.cut("a b c")
				<-time.After(2 * time.Second)
				s.answer(true, "a c")
				s.hear("a c")
			},
			do: func(s segment) {
				<-time.After(1200 * time.Millisecond)
				s.answer(true, "b")
			},
			lives: "b",
		},
		{
			name: "others are beyond the segment only",
			before: func(s segment) {
				s.Ward("a", true)
				s.Ward("b", true)
				<-time.After(time.Second)
				s.answer(false, "a b")
				<-time.After(250 * time.Millisecond)
				s.Ward("a", false)
				s.Ward("b", false)
				s.CutOff(true)
				<-time.After(2200 * time.Millisecond)
				s.answer(true, "a b")
				s.Ward("a", true)
				s.CutOff(false)
			},
			lives: "b",
		},
		{
			name: "another one's hellos pause while one is dead",
			before: func(s segment) {
				s.hear("a b")
				s.answer(false, "a")
				s.miss("a")
				<-time.After(500 * time.Millisecond)
			},
			do: func(s segment) {
				for range 8 {
					s.miss("b")
					<-time.After(400 * time.Millisecond)
					s.hear("b")
					<-time.After(300 * time.Millisecond)
				}
			},
			lives: "b", dead: "a",
		},
		{
			name: "this node is cut off while one has been dead for minutes",
			before: func(s segment) {
				s.hear("a b c")
				s.answer(false, "a")
				s.miss("a")
				<-time.After(3 * time.Minute)
			},
			do: func(s segment) {
				s.cut("b c")
				<-time.After(time.Second)
				s.answer(true, "b c")
				s.hear("b c")
			},
			lives: "b", dead: "a",
		},
		{
			name: "the last one on the segment dies soon after another one",
			before: func(s segment) {
				s.hear("a b")
				s.answer(false, "a")
				s.miss("a")
				<-time.After(8700 * time.Millisecond)
				s.answer(false, "b")
				<-time.After(300 * time.Millisecond)
			},
			do:   func(s segment) { s.miss("b") },
			dead: "a",
		},
		{
			name: "this node is cut off, and one whose hellos may pause is silent later",
			before: func(s segment) {
				s.hear("a b c")
				s.cut("a b c")
				s.hear("c") // its speaker is replaced
				<-time.After(6 * time.Second)
				s.miss("c")
				<-time.After(time.Second)
			},
			do: func(s segment) {
				s.answer(true, "a c")
				s.hear("a")
				<-time.After(time.Second)
				s.answer(true, "b")
			},
			lives: "b",
		},
		{
			name: "it answers again while this node is cut off from others",
			before: func(s segment) {
				s.hear("a b")
				s.answer(false, "b")
				s.miss("b")
				<-time.After(4 * time.Second)
				s.answer(true, "b")
				<-time.After(3 * time.Second)
				s.Ready("b")
			},
			do: func(s segment) {
				s.cut("a b")
				<-time.After(2 * time.Second)
				s.answer(true, "a b")
				s.hear("a b")
			},
			lives: "b",
		},
		{
			name: "all others on the segment are dead, and one beyond it answers",
			before: func(s segment) {
				s.hear("a b")
				s.watch(time.Second, "far")
				s.answer(false, "a b")
				s.watch(300*time.Millisecond, "far")
				s.miss("a b")
				s.watch(400*time.Millisecond, "far")
			},
			do:   func(s segment) { s.watch(3*time.Minute, "far") },
			dead: "a",
		},
		{
			name: "this node is cut off, and what it watches is the last to be missed",
			before: func(s segment) {
				s.hear("a b")
				s.watch(time.Second, "far")
				s.answer(false, "a b far")
				<-time.After(200 * time.Millisecond)
			},
			do: func(s segment) {
				s.miss("a b")
				s.Ward("far", true) // its answer was on its way
				<-time.After(250 * time.Millisecond)
				s.Ward("far", false)
			},
			lives: "b",
		},
		{
			name: "after a minute a node beyond the segment is the first to answer",
			before: func(s segment) {
				s.hear("a b")
				s.watch(time.Second, "far")
				s.answer(false, "far")
				s.cut("a b")
				s.Ward("far", false)
				s.CutOff(true)
				<-time.After(time.Minute)
				s.answer(true, "far")
				s.Ward("far", true)
				s.CutOff(false)
			},
			do: func(s segment) {
				s.watch(time.Second, "far")
				s.answer(true, "a b")
				s.hear("a b")
			},
			lives: "b",
		},
		{
			name: "a node beyond the segment answers long before those on it do",
			before: func(s segment) {
				s.hear("a b")
				s.watch(time.Second, "far")
				s.answer(false, "a b far")
				<-time.After(250 * time.Millisecond)
				s.Ward("far", false)
				s.miss("a b")
				<-time.After(2 * time.Second)
			},
			do: func(s segment) {
				s.watch(time.Second, "far")
				s.answer(true, "a b far")
				s.watch(time.Second, "far")
			},
			lives: "b",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rack := &rackOf{answers: map[string]bool{}}
				d, end := rack.asked(t)
				defer end()
				s := segment{d, rack}
				s.answer(true, "a b c near far")
				c.before(s)
				var doing sync.WaitGroup
				defer doing.Wait()
				if c.do != nil {
					doing.Go(func() { c.do(s) })
				}
				for begun := time.Now(); time.Since(begun) < speakerAtMost+10*time.Second; <-time.After(5 * time.Millisecond) {
					synctest.Wait()
					if d.Lost()[c.lives] {
						t.Fatalf("%s lives, and is lost after %s", c.lives, time.Since(begun))
					}
					if c.dead != "" && !d.Suspects()[c.dead] {
						t.Fatalf("%s is dead, and not suspected after %s", c.dead, time.Since(begun))
					}
				}
			})
		})
	}
}

// The last one alive on its segment knows by those that it watches beyond it that it is not the one
// that is cut off. Once they do not answer either it may be that one.
func TestDetector_lastOfItsSegment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rack := &rackOf{answers: map[string]bool{}}
		d, end := rack.asked(t)
		defer end()
		s := segment{d, rack}
		is := func(when, lost, news string, alone bool) {
			t.Helper()
			synctest.Wait()
			if got := named(d.Suspects()); got != lost {
				t.Errorf("%s: suspects %q, want %q", when, got, lost)
			}
			if got := named(d.Lost()); got != lost {
				t.Errorf("%s: lost %q, want %q", when, got, lost)
			}
			if got := strings.Join(d.News(), " "); got != news {
				t.Errorf("%s: news %q, want %q", when, got, news)
			}
			if got := d.Alone(); got != alone {
				t.Errorf("%s: alone is %t", when, got)
			}
		}
		s.answer(true, "far")
		s.hear("a b")
		s.watch(time.Second, "far")
		s.miss("a b")
		s.watch(wardsMiss, "far")
		is("a cut would not be known yet", "", "", true)
		for len(d.Changed()) > 0 {
			<-d.Changed()
		}
		s.watch(time.Millisecond, "far")
		is("it is none", "a b", "a b", false)
		if len(d.Changed()) == 0 {
			t.Error("nobody is told")
		}
		s.watch(5*time.Second, "far")
		s.answer(false, "far")
		<-time.After(250 * time.Millisecond)
		d.Ward("far", false)
		is("now it is cut off", "", "", true)
		<-time.After(time.Minute)
		s.answer(true, "far")
		s.watch(rejoinsWithin-100*time.Millisecond, "far")
		is("it was a moment ago", "", "", false)
		s.watch(time.Second, "far")
		is("those that are dead still are", "a b", "a b", false)
		d.WardLeft("far")
		is("nobody is left who can say so", "", "", true)
	})
}

// A node that is back tells nobody that those are silent that it did not reach.
func TestDetector_newsOfMistakes(t *testing.T) {
	for _, peers := range []string{"", "a b"} {
		synctest.Test(t, func(t *testing.T) {
			rack := &rackOf{answers: map[string]bool{}}
			d, end := rack.asked(t)
			defer end()
			s := segment{d, rack}
			s.answer(true, "a b far")
			s.hear(peers)
			d.Ward("far", true)
			<-time.After(time.Second)
			s.answer(false, "far")
			d.Ward("far", false)
			d.CutOff(true)
			s.cut(peers)
			<-time.After(2 * time.Second)
			s.answer(true, "a b far")
			if len(peers) > 0 {
				s.hear("a")
			} else {
				d.CutOff(false) // a datagram came
			}
			for range 1000 {
				if news := d.News(); len(news) > 0 {
					t.Fatalf("with peers %q it tells that %v are silent", peers, news)
				}
				<-time.After(2 * time.Millisecond)
			}
		})
	}
}
