package deadnodes

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// Silences say of each node on what it was heard, and whether it was asked.
func TestDetector_silences(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rack := &rackOf{answers: map[string]bool{}}
		d := newDetector(func(_ context.Context, node string) bool {
			rack.mu.Lock()
			defer rack.mu.Unlock()
			return rack.answers[node]
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		begun := time.Now()
		is := func(want, when string) {
			t.Helper()
			synctest.Wait()
			var found []string
			for _, s := range d.Silences() {
				found = append(found, fmt.Sprintf("%s%v %v %t", s.Node, s.Interfaces, s.Since.Sub(begun), s.Probed))
			}
			if got := strings.Join(found, " "); got != want {
				t.Errorf("%s: %q, want %q", when, got, want)
			}
		}
		for _, node := range []string{"a", "b", "c"} {
			d.Heard(node, "eth0")
			d.Heard(node, "eth1")
		}
		d.Silent("a", "eth0", false)
		is("", "a is heard on another segment")
		d.Silent("a", "eth1", false)
		is("a[eth0 eth1] 0s false", "nobody has asked a yet")
		go func() { done <- d.Run(ctx) }()
		is("a[eth0 eth1] 0s true", "a was asked")
		<-time.After(20 * time.Second) // of the clock of the bubble
		d.Silent("b", "eth1", true)
		d.Silent("b", "eth0", true)
		is("b[eth0 eth1] 20s true a[eth0 eth1] 0s true", "b said farewell, and its kernel is gone, too")
		rack.set("a", true)
		<-time.After(20 * time.Second)
		is("b[eth0 eth1] 20s true", "the kernel of a answers")
		d.Silent("c", "eth1", false)
		<-time.After(20 * time.Second)
		d.Silent("c", "eth0", false)
		d.Heard("b", "eth0")
		is("c[eth0] 1m0s true", "c was not heard on eth1 for long")
		<-time.After(newsFor)
		is("", "that c is silent is no news any more")
		rack.set("a", false)
		<-time.After(20 * time.Second)
		d.Silent("b", "eth0", false)
		is("", "nobody is heard: this node may be the silent one")
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// Of a hundred nodes, eight tell that one is silent, also when others are dead; those on other
// segments do not take their places.
func TestDetector_tells(t *testing.T) {
	var names []string
	for i := range 100 {
		names = append(names, fmt.Sprint("n", i))
	}
	for _, dead := range [][]string{{"n0"}, {"n0", "n1", "n2", "n3"}} {
		tell := map[string]int{}
		for _, self := range names[len(dead):] {
			d := newDetector(nil)
			d.self = self
			for _, node := range names {
				if node != self {
					d.Heard(node, "eth0")
				}
				d.Heard("far-"+node, "eth1")
			}
			for _, node := range dead {
				d.Silent(node, "eth0", false)
			}
			for _, s := range d.Silences() {
				tell[s.Node]++
			}
		}
		for _, node := range dead {
			if tell[node] != mostWitnesses {
				t.Errorf("%v are dead: %d tell of %s, want %d", dead, tell[node], node, mostWitnesses)
			}
		}
	}
}
