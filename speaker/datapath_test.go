package speaker

import (
	"context"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"
)

func TestOnlyAKubeProxyThatSaysSoIsUnhealthy(t *testing.T) {
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
	changes := make(chan bool, 16)
	ended := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		ended <- dataPath{url: server.URL, every: 5 * time.Millisecond, changed: func(u bool) { changes <- u }}.run(ctx)
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

func TestAKubeProxyThatIsNowhereIsNotAsked(t *testing.T) {
	if err := (dataPath{}).run(t.Context()); err != nil {
		t.Error(err)
	}
}
