package bgp

import (
	"strings"
	"testing"
	"time"
)

// watcher stands for BFD.
type watcher struct {
	watched chan []Peer
	changes chan PathChange
}

func newWatcher() *watcher {
	return &watcher{watched: make(chan []Peer, 16), changes: make(chan PathChange)}
}

func (w *watcher) Watch(peers []Peer)         { w.watched <- peers }
func (w *watcher) Changes() <-chan PathChange { return w.changes }

// watches waits for the names of the peers that are to be watched.
func (w *watcher) watches(t *testing.T, want string) {
	t.Helper()
	select {
	case peers := <-w.watched:
		var names []string
		for _, p := range peers {
			names = append(names, p.Name)
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("watched: %q, want %q", got, want)
		}
	case <-time.After(patience):
		t.Fatalf("%q are not watched", want)
	}
}

func TestAPathThatFailsEndsItsSessionAtOnceAndNoOther(t *testing.T) {
	atOnce(t)
	tor1, tor2 := newRouter(t, "127.0.0.2", 64513, nodeASN), newRouter(t, "127.0.0.3", 64514, nodeASN)
	w := newWatcher()
	d := run(t, func(c *Config) { c.Liveness = w })
	a, b := tor1.peer("tor1", nodeASN), tor2.peer("tor2", nodeASN)
	a.BFD.Enabled = true
	d.SyncPeers([]Peer{a, b})
	w.watches(t, "tor1")
	d.Sync("web", routes(nil, "192.0.2.1/32"))
	tor1.has(t, "192.0.2.1/32")
	tor2.has(t, "192.0.2.1/32")
	d.up(t, "tor1", "tor2")
	since := d.session(t, "tor2").Since

	// A path that is not up yet ends nothing, nor does a peer that stops watching.
	w.changes <- PathChange{Peer: "tor1", State: PathDown, Reason: "not heard yet"}
	w.changes <- PathChange{Peer: "tor1", State: PathUp}
	w.changes <- PathChange{Peer: "tor1", State: PathUnwatched}
	w.changes <- PathChange{Peer: "tor1", State: PathDown, Reason: "not heard since"}
	w.changes <- PathChange{Peer: "tor2", State: PathUp}
	w.changes <- PathChange{Peer: "tor2", State: PathDown, Reason: "tor2 has no BFD"}
	w.changes <- PathChange{Peer: "nobody", State: PathDown}
	w.changes <- PathChange{Peer: "tor1", State: PathUp}
	d.becomes(t, func(st Status) bool { return st.Peers[0].BFD == PathUp })
	if ended := tor1.ended(); len(ended) > 0 {
		t.Errorf("the session ended before the path failed: %v", ended)
	}

	w.changes <- PathChange{Peer: "tor1", State: PathDown, Reason: "control detection time expired"}
	o := d.observes(t, SessionDown, "tor1")
	if o.Reason != "BFD: control detection time expired" {
		t.Errorf("reason %q", o.Reason)
	}
	if s := d.session(t, "tor1"); s.LastError != o.Reason || s.BFD != PathDown {
		t.Errorf("status %+v", s)
	}
	await(
		t,
		tor1.changed,
		func() bool { return len(tor1.ended()) > 0 },
		func() string { return "the router did not see the end" },
	)
	if ended := tor1.ended()[0]; !strings.Contains(ended, "administrative reset") {
		t.Errorf("the router is told %q", ended)
	}

	// It may come back while the path is still down.
	d.observes(t, SessionUp, "tor1")
	tor1.has(t, "192.0.2.1/32")
	if s := d.session(t, "tor2"); !s.Established() || !s.Since.Equal(since) {
		t.Errorf("the other session is %s since %s, want established since %s", s.State, s.Since, since)
	}

	// Other timers, and an end without alarm.
	a.BFD.Multiplier = 5
	d.SyncPeers([]Peer{a, b})
	w.watches(t, "tor1")
	a.BFD.Enabled = false
	d.SyncPeers([]Peer{a, b})
	w.watches(t, "")
	a.BFD.Enabled = true
	d.SyncPeers([]Peer{a, b})
	w.watches(t, "tor1")
	if ended := tor1.ended(); len(ended) != 1 {
		t.Errorf("the router saw its session end %d times, want once: %v", len(ended), ended)
	}
	d.stop()
	w.watches(t, "")
}
