package contact

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// calls are what a listener heard.
type calls struct {
	mu        sync.Mutex
	confirmed time.Time
	lost      int
}

func (c *calls) Confirmed(at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.confirmed = at
}

func (c *calls) Lost() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lost++
}

func (c *calls) await(t *testing.T, what string, within time.Duration, holds func(*calls) bool) {
	t.Helper()
	deadline := time.Now().Add(within)
	for {
		c.mu.Lock()
		ok := holds(c)
		c.mu.Unlock()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", within, what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// apiServer answers lists and watches of Services, until it is told to refuse.
type apiServer struct {
	*httptest.Server
	refuses atomic.Bool
	closed  chan struct{}
}

func newServer(t *testing.T) *apiServer {
	s := &apiServer{closed: make(chan struct{})}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch {
		case s.refuses.Load():
			w.WriteHeader(http.StatusForbidden)
		case r.URL.Path == "/readyz":
			_, _ = io.WriteString(w, "ok")
		case r.URL.Query().Get("watch") == "true":
			w.WriteHeader(http.StatusOK)
			w.(http.Flusher).Flush()
			select {
			case <-r.Context().Done():
			case <-s.closed:
			}
		default:
			_, _ = io.WriteString(w, `{"kind":"ServiceList","apiVersion":"v1","metadata":{"resourceVersion":"1"},"items":[]}`)
		}
	}))
	return s
}

// The port of an API server that has ended refuses connections: client-go says nothing about that.
func TestMonitorLosesServerThatEnds(t *testing.T) {
	server := newServer(t)
	m, err := New(nil)
	if err != nil {
		t.Fatal(err)
	}
	m.times = times{
		every:     300 * time.Millisecond,
		atMost:    200 * time.Millisecond,
		settled:   100 * time.Millisecond,
		lostAfter: 800 * time.Millisecond,
	}
	config := &rest.Config{Host: server.URL}
	config.Wrap(m.Transport)
	set, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	factory := informers.NewSharedInformerFactory(set, 0)
	factory.Core().V1().Services().Informer()
	factory.Start(ctx.Done())
	heard := &calls{}
	ended := make(chan error, 1)
	go func() {
		ended <- m.Run(ctx, func(ctx context.Context) error {
			return set.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
		}, heard)
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		factory.Shutdown()
	})
	heard.await(t, "confirmed", 10*time.Second, func(c *calls) bool { return !c.confirmed.IsZero() })
	close(server.closed)
	server.CloseClientConnections()
	server.Close()
	heard.await(t, "lost", 10*time.Second, func(c *calls) bool { return c.lost == 1 })
}

// A watch that is not open makes the picture of the API incomplete, whatever the API server
// answers.
func TestMonitorNeedsAllWatches(t *testing.T) {
	server := newServer(t)
	defer server.Close()
	defer close(server.closed)
	m, err := New(nil)
	if err != nil {
		t.Fatal(err)
	}
	http := &http.Client{Transport: m.Transport(http.DefaultTransport)}
	open := func(path string) io.Closer {
		t.Helper()
		response, err := http.Get(server.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		return response.Body
	}
	expect := func(when string, want bool) {
		t.Helper()
		if got := m.open(time.Now().Add(2 * m.times.settled)); got != want {
			t.Errorf("%s: open %t, want %t", when, got, want)
		}
	}
	expect("no watch yet", false)
	services := open("/api/v1/services?watch=true&resourceVersion=1")
	expect("one", true)
	if m.open(time.Now()) {
		t.Error("a watch counts before what was missed had time to arrive")
	}
	nodes := open("/api/v1/nodes?watch=true&resourceVersion=1")
	expect("two", true)
	if err := nodes.Close(); err != nil {
		t.Fatal(err)
	}
	expect("one has ended", false)
	server.refuses.Store(true)
	_ = open("/api/v1/nodes?watch=true&resourceVersion=2").Close()
	expect("it is refused", false)
	server.refuses.Store(false)
	nodes = open("/api/v1/nodes?watch=true&resourceVersion=3")
	expect("it is open again", true)
	if err := errors.Join(nodes.Close(), services.Close()); err != nil {
		t.Fatal(err)
	}
	if key := keyOf("/api/v1/secrets", metav1Query()); key == keyOf("/api/v1/secrets", nil) {
		t.Error("two watches of one resource count as one")
	}
}

func metav1Query() map[string][]string {
	return map[string][]string{"fieldSelector": {metav1.ObjectNameField + "=" + "key"}}
}
