package rival

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berth-lb/berth/bgp"
)

// scene is what a Filter sees: the sockets of others, and our sessions.
type scene struct {
	*Filter
	mu    sync.Mutex
	found []Connection
	err   error
	up    map[string]bool
	looks int
	told  []string
	freed []string // peers that were given to BGP last
	peers []bgp.Peer
}

func newScene(peers ...bgp.Peer) *scene {
	s := &scene{up: map[string]bool{}, peers: peers}
	look := func([]Router) ([]Connection, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.looks++
		return s.found, s.err
	}
	s.Filter = NewFilter(slog.New(slog.DiscardHandler), look, func() map[string]bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.up
	})
	return s
}

func (s *scene) sync() {
	s.freed = nil
	for _, p := range s.Free(s.peers) {
		s.freed = append(s.freed, p.Name)
	}
	for len(s.Begun()) > 0 {
		s.told = append(s.told, (<-s.Begun()).Name)
	}
}

// set changes what is seen.
func (s *scene) set(up []string, err error, routers ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.up, s.err, s.found = map[string]bool{}, err, nil
	for _, name := range up {
		s.up[name] = true
	}
	for _, r := range routers {
		s.found = append(
			s.found,
			Connection{Local: netip.MustParseAddrPort("172.30.0.11:40000"), Remote: netip.MustParseAddrPort(r), Inode: 7},
		)
	}
}

func TestFilter_Free(t *testing.T) {
	tor := bgp.Peer{Name: "tor", Address: netip.MustParseAddr("172.30.0.1")}
	spine := bgp.Peer{Name: "spine", Address: netip.MustParseAddr("172.30.0.2")}
	passive := bgp.Peer{Name: "passive", Address: netip.MustParseAddr("172.30.0.3"), Passive: true}
	prefix := bgp.Peer{Name: "prefix", Prefix: netip.MustParsePrefix("172.30.0.0/28")}
	s := newScene(tor, spine, passive, prefix)
	for _, step := range []struct {
		name  string
		up    []string
		err   error
		found []string
		want  []string
		told  []string // so far
	}{
		{
			name: "nobody else",
			want: []string{"tor", "spine", "passive", "prefix"},
		},
		{
			name:  "sessions with routers that dial us",
			found: []string{"172.30.0.3:179", "172.30.0.4:179"},
			want:  []string{"tor", "spine", "passive", "prefix"},
		},
		{
			name:  "a session with tor",
			found: []string{"172.30.0.1:179"},
			want:  []string{"spine", "passive", "prefix"},
			told:  []string{"tor"},
		},
		{
			name:  "it goes on",
			up:    []string{"spine"},
			found: []string{"172.30.0.1:179"},
			want:  []string{"spine", "passive", "prefix"},
			told:  []string{"tor"},
		},
		{
			name: "nothing can be seen",
			up:   []string{"spine"},
			err:  errors.New("interrupted"),
			want: []string{"spine", "passive", "prefix"},
			told: []string{"tor"},
		},
		{
			name: "it ended",
			up:   []string{"spine"},
			want: []string{"tor", "spine", "passive", "prefix"},
			told: []string{"tor"},
		},
		{
			name:  "with a router that we have a session with",
			up:    []string{"tor", "spine"},
			found: []string{"172.30.0.1:179"},
			want:  []string{"tor", "spine", "passive", "prefix"},
			told:  []string{"tor"},
		},
		{
			name: "nothing can be seen and nothing was",
			err:  errors.New("no inet_diag"),
			want: []string{"tor", "spine", "passive", "prefix"},
			told: []string{"tor"},
		},
		{
			name:  "again",
			found: []string{"172.30.0.1:179", "172.30.0.2:179"},
			want:  []string{"passive", "prefix"},
			told:  []string{"tor", "spine", "tor"},
		},
	} {
		s.set(step.up, step.err, step.found...)
		s.sync()
		if !slices.Equal(s.freed, step.want) || !slices.Equal(s.told, step.told) {
			t.Errorf(
				"%s: %v are dialed or may dial, events on %v, want %v and %v",
				step.name,
				s.freed,
				s.told,
				step.want,
				step.told,
			)
		}
	}
}

func TestFilter_Held(t *testing.T) {
	s := newScene(
		bgp.Peer{Name: "tor", Address: netip.MustParseAddr("172.30.0.1")},
		bgp.Peer{Name: "link", Interface: "eth1"},
	)
	began := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	s.now = func() time.Time { return began }
	s.set(nil, nil, "172.30.0.1:179")
	s.found = append(
		s.found,
		Connection{
			Local:     netip.MustParseAddrPort("[fe80::11]:40000"),
			Remote:    netip.MustParseAddrPort("[fe80::1]:179"),
			Interface: "eth1",
			Inode:     8,
		},
	)
	s.sync()
	s.now = func() time.Time { return began.Add(time.Hour) }
	s.sync()
	const rest = ", and a router takes one per node; end that one, or leave this BGPNeighbor to other nodes with nodeSelector"
	var got []string
	for _, h := range s.Held() {
		got = append(got, h.Name+": "+h.Reason())
		if !h.Since.Equal(began) {
			t.Errorf("%s is held back since %s, want %s", h.Name, h.Since, began)
		}
	}
	want := []string{
		"link: another BGP speaker on this node (MetalLB's, for one) has a session with the router on eth1" + rest,
		"tor: another BGP speaker on this node (MetalLB's, for one) has a session with 172.30.0.1" + rest,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestFilter_Run(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(bgp.Peer{Name: "tor", Address: netip.MustParseAddr("172.30.0.1")})
		s.set([]string{"tor"}, nil)
		s.sync()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- s.Run(ctx) }()
		again := 0
		go func() { // the planner
			for {
				select {
				case <-s.Changed():
					s.mu.Lock()
					again++
					s.mu.Unlock()
					s.sync()
				case <-ctx.Done():
					return
				}
			}
		}()
		later := func(what string, after time.Duration, looks, changes int, freed string) {
			t.Helper()
			s.mu.Lock()
			before, begun := s.looks, again
			s.mu.Unlock()
			<-time.After(after) // of synctest's clock
			synctest.Wait()
			if s.looks-before != looks || again-begun != changes || strings.Join(s.freed, " ") != freed {
				t.Errorf(
					"%s: looked %d times, changed %d times, dialed: %v; want %d, %d, %s",
					what,
					s.looks-before,
					again-begun,
					s.freed,
					looks,
					changes,
					freed,
				)
			}
		}
		later("established", time.Hour, 0, 0, "tor")
		s.set(nil, nil)
		s.Check() // BGP says that it is down
		later("down", 7*time.Second, 3, 0, "tor")
		s.set(nil, nil, "172.30.0.1:179")
		later("another one dialed", 2*time.Second, 2, 1, "") // one by the timer, one when the peers were synced
		later("and stays", 6*time.Second, 3, 0, "")
		s.set(nil, nil)
		later("and ends", 2*time.Second, 2, 1, "tor")
		s.set([]string{"tor"}, nil)
		s.Check()
		later("established again", time.Hour, 0, 0, "tor")
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
