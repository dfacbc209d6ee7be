package retain

import (
	"errors"
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/config/v1alpha1"
)

func whole(string) (bool, error)  { return true, nil }
func gone(string) (bool, error)   { return false, nil }
func silent(string) (bool, error) { return false, errors.New("no answer") }

func TestMissing_Keep(t *testing.T) {
	begun := time.Unix(1000, 0)
	m := Missing{Resource: "addressreservations"}
	for _, s := range []struct {
		name   string
		at     time.Duration
		served Served
		kept   bool
	}{
		{name: "gone a moment ago", served: whole, kept: true},
		{name: "gone for a second", at: BelievedAfter, served: whole},
		{name: "gone once more", at: time.Minute, served: silent, kept: true},
		{name: "no answer yet", at: time.Hour, served: silent, kept: true},
		{name: "the kind is gone, too", at: 2 * time.Hour, served: gone, kept: true},
		{name: "the kind is back", at: 2*time.Hour + time.Minute, served: whole, kept: true},
		{name: "long since", at: 2*time.Hour + HeldFor, served: whole},
	} {
		if again := m.Keep("a/b", begun.Add(s.at), s.served); (again > 0) != s.kept {
			t.Errorf("%s: look again in %s, want it to be kept: %t", s.name, again, s.kept)
		}
	}
	_ = m.Keep("a/c", begun, whole)
	m.Found("a/c")
	if again := m.Keep("a/c", begun.Add(3*time.Hour), whole); again != AskEvery {
		t.Errorf("one that was found again is looked at in %s, want %s", again, AskEvery)
	}
}

// lookUntilSure has a pool go while others are left, and looks as often as it is told to. It
// returns how often served was asked, and when it was known whether the pool is given up.
func lookUntilSure(left []string, served func(at time.Duration) bool) (asked int, at time.Duration, gaveUp bool) {
	var kept Configuration
	pools := func(names ...string) (stored config.Objects) {
		for _, name := range names {
			stored.Pools = append(stored.Pools, &v1alpha1.LoadBalancerPool{ObjectMeta: metav1.ObjectMeta{Name: name}})
		}
		return stored
	}
	begun := time.Unix(1000, 0)
	_, _ = kept.Apply(begun, pools(append(left, "a")...), nil)
	for {
		_, again := kept.Apply(begun.Add(at), pools(left...), func(string) (bool, error) {
			asked++
			return served(at), nil
		})
		if gone := len(kept.Gone()) > 0; gone || again == 0 {
			return asked, at, !gone
		}
		at += again
	}
}

// All speakers ask when one object is deleted, so each asks seldom while others are left.
func TestConfiguration_Apply_asksSeldom(t *testing.T) {
	always := func(time.Duration) bool { return true }
	for _, c := range []struct {
		left []string
		want int
	}{{left: []string{"b"}, want: 5}, {want: 11}} {
		if asked, at, gaveUp := lookUntilSure(c.left, always); asked != c.want || at != BelievedAfter || !gaveUp {
			t.Errorf("with %v left: asked %d times, given up: %t, after %s; want %d times, in %s",
				c.left, asked, gaveUp, at, c.want, BelievedAfter)
		}
	}
}

// A definition that is made again within the second is seen to be gone, also while the last objects
// that went with it still seem to be there.
func TestConfiguration_Apply_replacedWithinASecond(t *testing.T) {
	for from := time.Duration(0); from <= BelievedAfter-400*time.Millisecond; from += 10 * time.Millisecond {
		served := func(at time.Duration) bool { return at < from || at >= from+400*time.Millisecond }
		if _, at, gaveUp := lookUntilSure([]string{"b"}, served); gaveUp {
			t.Errorf("the definition was gone from %s to %s: the pool was given up after %s",
				from, from+400*time.Millisecond, at)
		}
	}
}

func TestConfiguration_Apply(t *testing.T) {
	type step struct {
		at     time.Duration
		stored []string
		served Served
		want   []string // with a question mark: doubtful
		again  bool
		gone   bool
	}
	for _, c := range []struct {
		name  string
		steps []step
	}{
		{
			name: "an object is deleted",
			steps: []step{
				{stored: []string{"a", "b"}, want: []string{"a", "b"}},
				{at: time.Second, stored: []string{"a"}, served: whole, want: []string{"a", "b?"}, again: true},
				{at: 1900 * time.Millisecond, stored: []string{"a"}, served: whole, want: []string{"a", "b?"}, again: true},
				{at: 2 * time.Second, stored: []string{"a"}, served: whole, want: []string{"a"}},
			},
		},
		{
			name: "an object is deleted, and another one made in its place",
			steps: []step{
				{stored: []string{"a", "b"}, want: []string{"a", "b"}},
				{at: time.Second, stored: []string{"b"}, served: whole, want: []string{"a?", "b"}, again: true},
				{at: 1010 * time.Millisecond, stored: []string{"b", "c"}, served: whole, want: []string{"b", "c"}},
			},
		},
		{
			name: "a definition is deleted, and made again with another object",
			steps: []step{
				{stored: []string{"a"}, want: []string{"a"}},
				{at: time.Second, served: gone, want: []string{"a"}, again: true, gone: true},
				{at: time.Minute, stored: []string{"b"}, served: whole, want: []string{"a", "b"}, again: true, gone: true},
			},
		},
		{
			name: "a definition is deleted, and made again with one of its objects",
			steps: []step{
				{stored: []string{"a", "b"}, want: []string{"a", "b"}},
				{at: time.Second, stored: []string{"b"}, served: gone, want: []string{"a", "b"}, again: true, gone: true},
				{at: time.Hour, served: gone, want: []string{"a", "b"}, again: true, gone: true},
				{at: time.Hour + time.Minute, served: whole, want: []string{"a", "b"}, again: true, gone: true},
				{
					at: time.Hour + 2*time.Minute, stored: []string{"a"}, served: whole,
					want: []string{"a", "b"}, again: true, gone: true,
				},
				{at: time.Hour + HeldFor, stored: []string{"a"}, served: whole, want: []string{"a"}},
			},
		},
		{
			name: "a definition is replaced within a second",
			steps: []step{
				{stored: []string{"a"}, want: []string{"a"}},
				{at: time.Second, served: gone, want: []string{"a"}, again: true, gone: true},
				{at: 1100 * time.Millisecond, served: whole, want: []string{"a"}, again: true, gone: true},
				{at: time.Minute, served: whole, want: []string{"a"}, again: true, gone: true},
				{at: 2 * time.Minute, stored: []string{"a"}, want: []string{"a"}},
			},
		},
		{
			name: "the API server does not answer",
			steps: []step{
				{stored: []string{"a"}, want: []string{"a"}},
				{at: time.Second, served: silent, want: []string{"a?"}, again: true},
				{at: time.Hour, served: silent, want: []string{"a?"}, again: true},
				{at: time.Hour + time.Second, served: whole},
			},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			var kept Configuration
			begun := time.Unix(1000, 0)
			for _, s := range c.steps {
				var stored config.Objects
				for _, name := range s.stored {
					stored.Pools = append(
						stored.Pools,
						&v1alpha1.LoadBalancerPool{ObjectMeta: metav1.ObjectMeta{Name: name}},
					)
				}
				got, again := kept.Apply(begun.Add(s.at), stored, s.served)
				var names []string
				for _, o := range got.Pools {
					name := o.Name
					if kept.Doubtful(name) {
						name += "?"
					}
					names = append(names, name)
				}
				slices.Sort(names)
				isGone := slices.Contains(kept.Gone(), "loadbalancerpools")
				if !slices.Equal(names, s.want) || (again > 0) != s.again || isGone != s.gone {
					t.Errorf("after %s: %v, again in %s, gone: %t; want %v, again: %t, gone: %t",
						s.at, names, again, isGone, s.want, s.again, s.gone)
				}
			}
		})
	}
}
