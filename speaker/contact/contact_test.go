package contact

import (
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/berth-lb/berth/internal/async"
)

// calls are what a listener hears.
type calls struct {
	confirmed, lost async.Signal
	refused         chan map[string]int
}

func (c *calls) Confirmed(time.Time) { c.confirmed.Notify() }
func (c *calls) Lost()               { c.lost.Notify() }
func (c *calls) Refused(resources map[string]int) {
	if c.refused != nil {
		c.refused <- resources
	}
}

// await waits for a call.
func await(t *testing.T, what string, call async.Signal) {
	t.Helper()
	select {
	case <-call:
	case <-time.After(10 * time.Second):
		t.Fatalf("not within 10 s: %s", what)
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
			if r.URL.Query().Get("sendInitialEvents") == "true" {
				_, _ = io.WriteString(w, `{"type":"BOOKMARK","object":{"kind":"Service","apiVersion":"v1","metadata":`+
					`{"resourceVersion":"1","annotations":{"k8s.io/initial-events-end":"true"}}}}`)
			}
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
	heard := &calls{confirmed: async.NewSignal(), lost: async.NewSignal()}
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
	await(t, "confirmed", heard.confirmed)
	close(server.closed)
	server.CloseClientConnections()
	server.Close()
	await(t, "lost", heard.lost)
}

// What the API server does not show is named, until it shows it again. That an informer tries again
// changes nothing.
func TestMonitor_Refused(t *testing.T) {
	server := newServer(t)
	defer server.Close()
	defer close(server.closed)
	m, err := New(nil)
	if err != nil {
		t.Fatal(err)
	}
	m.times.every, m.times.patience = 10*time.Millisecond, 0
	client := &http.Client{Transport: m.Transport(http.DefaultTransport)}
	get := func(ctx context.Context, query string) {
		t.Helper()
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+"/api/v1/services"+query, nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := client.Do(request)
		if err == nil {
			err = response.Body.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	heard := &calls{confirmed: async.NewSignal(), lost: async.NewSignal(), refused: make(chan map[string]int, 1)}
	ended := make(chan error, 1)
	go func() {
		ended <- m.Run(ctx, func(context.Context) error { return errors.New("away") }, heard)
	}()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	server.refuses.Store(true)
	for _, query := range []string{"?watch=true&resourceVersion=1", "?limit=500", "?watch=true&resourceVersion=1"} {
		get(t.Context(), query)
	}
	if got := <-heard.refused; !maps.Equal(got, map[string]int{"services": http.StatusForbidden}) {
		t.Errorf("refused: %v", got)
	}
	server.refuses.Store(false)
	get(t.Context(), "?watch=true&resourceVersion=1")
	for left := <-heard.refused; len(left) > 0; left = <-heard.refused { // of the list
		get(t.Context(), "?limit=500")
	}
	get(Aside(t.Context()), "?watch=true&resourceVersion=1&fieldSelector=a")
	if m.mu.Lock(); len(m.watches) != 1 {
		t.Errorf("watches %v, want the one that counts", m.watches)
	}
	m.mu.Unlock()
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

// A list that arrives as the beginning of a watch is not there before its end.
func TestMonitorAwaitsInitialEvents(t *testing.T) {
	end := make(chan struct{})
	const marker = `{"type":"BOOKMARK","object":{"metadata":{"annotations":{"k8s.io/initial-events-end":"true"}}}}`
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusOK)
		_, _ = io.WriteString(w, `{"type":"ADDED"}`+marker[:40])
		w.(http.Flusher).Flush()
		<-end
		_, _ = io.WriteString(w, marker[40:])
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}))
	defer server.Close()
	m, err := New(nil)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: m.Transport(http.DefaultTransport)}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet,
		server.URL+"/api/v1/services?watch=true&sendInitialEvents=true", nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	read := func(n int) {
		t.Helper()
		if _, err := io.ReadFull(response.Body, make([]byte, n)); err != nil {
			t.Fatal(err)
		}
	}
	later := func() time.Time { return time.Now().Add(2 * m.times.settled) }
	read(len(`{"type":"ADDED"}`) + 40)
	if m.open(later()) {
		t.Error("it counts before all of the list has arrived")
	}
	close(end)
	read(len(marker) - 40)
	if !m.open(later()) {
		t.Error("it does not count when all of the list has arrived")
	}
}

func metav1Query() map[string][]string {
	return map[string][]string{"fieldSelector": {metav1.ObjectNameField + "=" + "key"}}
}

// The age of the picture of the API is small at first, so that no alert about it fires at a start.
func TestMetricAtFirst(t *testing.T) {
	began := time.Now()
	m, err := New(nil)
	if err != nil {
		t.Fatal(err)
	}
	if age := time.Since(time.Unix(0, int64(testutil.ToFloat64(m.at)*1e9))); age > time.Since(began)+time.Millisecond {
		t.Errorf("the metric says that the last confirmation was %s ago", age)
	}
}
