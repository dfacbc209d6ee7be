package controller

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/controller/allocation"
	"github.com/berth-lb/berth/controller/announcement"
)

// stored are the objects that an API server has, by resource; nil: the kind is gone. written takes
// the paths of writes.
type stored struct {
	objects map[string][]any
	written chan string
	refuses *atomic.Int32 // writes, until it is 0
}

func (s stored) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet {
		s.written <- strings.TrimPrefix(r.URL.Path, "/apis/berth.dev/v1alpha1/")
		if s.refuses.Add(-1) >= 0 {
			w.WriteHeader(http.StatusConflict)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"kind":"LoadBalancerPool","apiVersion":"berth.dev/v1alpha1","metadata":{"name":"old"}}`)
		return
	}
	items := s.objects[path.Base(r.URL.Path)]
	if items == nil {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"items": items}) // the test sees what is missing
}

// What reservations have and what rests is read from the API server: the cache may lag behind what
// the former leader wrote last. If a kind is gone, the cache still counts.
func TestController_restore(t *testing.T) {
	reservation := func(ready bool) *v1alpha1.AddressReservation {
		r := &v1alpha1.AddressReservation{
			ObjectMeta: metav1.ObjectMeta{Namespace: "b", Name: "front"},
			Spec: v1alpha1.AddressReservationSpec{
				PoolNames: []string{"old"}, IPFamilies: []v1alpha1.Family{v1alpha1.IPv4},
			},
		}
		if ready {
			r.Status.Addresses = []v1alpha1.ReservedAddress{{Family: v1alpha1.IPv4, Address: "192.0.2.1"}}
		}
		return r
	}
	resting := func(rests bool) *v1alpha1.LoadBalancerPool {
		pool := poolOf("192.0.2.1-192.0.2.3")
		if rests {
			until := metav1.NewTime(time.Now().Add(time.Hour))
			pool.Status.Resting = []v1alpha1.RestingAddress{{Address: "192.0.2.2", Service: "b/gone", UntilTime: &until}}
			pool.Status.Recent = []string{"192.0.2.2"}
		}
		return pool
	}
	for _, c := range []struct {
		name           string
		live           map[string][]any
		cached         bool // whether the cache has what the former leader wrote last
		reserved, rest bool
	}{
		{
			name: "the cache lags", reserved: true, rest: true,
			live: map[string][]any{"addressreservations": {reservation(true)}, "loadbalancerpools": {resting(true)}},
		},
		{
			name: "the cache has what is gone", cached: true,
			live: map[string][]any{"addressreservations": {}, "loadbalancerpools": {resting(false)}},
		},
		{name: "the kinds are gone", cached: true, reserved: true, rest: true},
	} {
		server := httptest.NewServer(stored{objects: c.live})
		defer server.Close()
		p := newPoolsOf(t, server.URL, "web")
		p.stores(p.informers.pool.GetStore().Add(resting(c.cached)))
		p.stores(p.informers.reservation.GetStore().Add(reservation(c.cached)))
		p.compile()
		p.stores(p.restore(t.Context()))
		reserved := len(p.allocations.Reserved("b/front")) > 0
		resting := p.allocations.Usage("old", 9, allocation.Usage{}).Resting
		rests := len(resting) > 0
		if rests && resting[0].Owner != "b/gone" {
			t.Errorf("%s: %+v rests, want that its Service gets it back", c.name, resting[0])
		}
		if reserved != c.reserved || rests != c.rest {
			t.Errorf("%s: reserved %t, rests %t; want %t, %t", c.name, reserved, rests, c.reserved, c.rest)
		}
		want := netip.MustParseAddr("192.0.2.1")
		if c.reserved {
			want = netip.MustParseAddr("192.0.2.3")
		}
		p.gets("web")
		if got := p.allocations.Holdings("a/web"); len(got) != 1 || got[0] != want {
			t.Errorf("%s: a Service got %v, want %s", c.name, got, want)
		}
	}
	p := newPools(t) // nobody answers there
	if err := p.restore(t.Context()); err == nil {
		t.Error("it leads without knowing what is reserved")
	}
}

// A leader that ends publishes usage that is due, also if its cache lags behind what it wrote last.
func TestController_publishLast(t *testing.T) {
	server := stored{written: make(chan string, 9), refuses: &atomic.Int32{}}
	server.refuses.Store(1)
	s := httptest.NewServer(server)
	defer s.Close()
	p := newPoolsOf(t, s.URL, "web")
	p.stores(p.informers.pool.GetStore().Add(poolOf("192.0.2.1")))
	p.compile()
	if p.publishLast(t.Context()); len(server.written) != 0 {
		t.Error("usage that did not change was published")
	}
	p.gets("web")
	p.publishLast(t.Context())
	close(server.written)
	for range 2 {
		if got := <-server.written; got != "loadbalancerpools/old/status" {
			t.Errorf("%q was written at the end, want the status of the pool", got)
		}
	}
	if p.usageDue.Load() {
		t.Error("usage is due still")
	}
}

// Usage that changes all the time is published seldom in a large cluster.
func TestController_publishObjects_pace(t *testing.T) {
	p := newPools(t)
	nodes := map[string]announcement.Node{}
	for i := range 500 {
		nodes[fmt.Sprint("n", i)] = announcement.Node{}
	}
	p.view.Store(&announcement.View{Nodes: nodes})
	for range 9 {
		p.stores(p.publishObjects(t.Context(), nil))
	}
	if wait := p.usagePause.Wait(time.Now()); wait < 4*time.Second {
		t.Errorf("the next change is published after %s, want about 5 s", wait)
	}
}
