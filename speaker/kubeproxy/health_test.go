package kubeproxy

import (
	"context"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berth-lb/berth/internal/async"
)

func TestHealth_Run(t *testing.T) {
	var status atomic.Int64
	status.Store(http.StatusOK)
	answered := make(chan int, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		now := int(status.Load())
		w.WriteHeader(now)
		select {
		case answered <- now:
		default:
		}
	}))
	defer server.Close()
	health := &Health{url: server.URL, every: 5 * time.Millisecond, changes: async.NewStream[bool](16)}
	changes := health.Changes()
	ended := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		ended <- health.Run(ctx)
	}()
	// Twice: the first may have been on its way when the status changed.
	seen := func(want int) {
		t.Helper()
		for n := 0; n < 2; {
			select {
			case got := <-answered:
				if got == want {
					n++
				}
			case <-time.After(10 * time.Second):
				t.Fatalf("kube-proxy is not asked any more")
			}
		}
	}
	expect := func(want bool) {
		t.Helper()
		select {
		case got := <-changes:
			if got != want {
				t.Fatalf("unhealthy %v, want %v", got, want)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("nothing changed, want unhealthy %v", want)
		}
	}
	seen(http.StatusOK)
	status.Store(http.StatusServiceUnavailable)
	expect(true)
	status.Store(http.StatusNotFound) // no kube-proxy of ours
	expect(false)
	seen(http.StatusNotFound)
	status.Store(http.StatusServiceUnavailable)
	expect(true)
	server.CloseClientConnections()
	server.Close() // no answer
	expect(false)
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if len(changes) != 0 {
		t.Errorf("changed once more, to %v", <-changes)
	}
}

func TestHealth_Run_withoutURL(t *testing.T) {
	if err := NewHealth("").Run(t.Context()); err != nil {
		t.Error(err)
	}
}
