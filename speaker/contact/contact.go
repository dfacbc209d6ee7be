// Package contact knows until when this process heard from the API server, so that it can say how
// old its picture of the API may be.
//
// Errors alone do not tell: client-go repeats a watch that is refused, and says nothing, and a
// connection that a firewall cuts stays silent for a minute. So all watches must be open, and the
// API server is asked every few seconds whether it is ready, at a rate that does not grow with what
// is watched.
package contact

import (
	"bytes"
	"context"
	"io"
	"maps"
	"net/http"
	"net/url"
	"path"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/internal/async"
)

// times are how patient a Monitor is.
type times struct {
	every     time.Duration // between two questions to the API server
	atMost    time.Duration // until it answers
	settled   time.Duration // for which a watch must have been open: what was missed arrives first
	lostAfter time.Duration // after the last confirmation the API counts as lost
	patience  time.Duration // with refusals: an API server that has just started does not know all rights yet
}

// unasked is for how long a resource that was refused was not asked for if it is not needed any
// more: informers try again within a minute.
const unasked = 3 * time.Minute

// Listener hears about the contact. The calls come from one goroutine.
type Listener interface {
	// Confirmed says that everything that the API had at that time was received.
	Confirmed(at time.Time)
	// Lost says that nothing was confirmed for 8 s.
	Lost()
	// Refused says which resources the API server does not show, with the HTTP status of its answer.
	// It is called when that changes.
	Refused(resources map[string]int)
}

// Monitor watches the contact with the API server. Make one with New, and send all requests of the
// process through Transport.
type Monitor struct {
	mu      sync.Mutex
	watches map[string]time.Time // guarded by mu; since when each is open, zero: it is not
	refused map[string]refusal   // guarded by mu; by key
	at      prometheus.Gauge
	times   times
}

// New returns a monitor that has seen no watch yet. Without a registerer its metric is registered
// nowhere. The error is that of the registration.
func New(registerer prometheus.Registerer) (*Monitor, error) {
	m := &Monitor{
		times: times{
			every: 3 * time.Second, atMost: 2 * time.Second, settled: time.Second, lostAfter: 8 * time.Second,
			patience: 5 * time.Second,
		},
		watches: map[string]time.Time{},
		refused: map[string]refusal{},
		at: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "berth_api_confirmed_timestamp_seconds",
			Help: "When the speaker last had everything that the API server has, in seconds since 1970.",
		}),
	}
	m.at.SetToCurrentTime() // no alarm before it had the time to ask
	if registerer == nil {
		return m, nil
	}
	return m, registerer.Register(m.at)
}

// Transport returns a round tripper that notes which watches are open.
func (m *Monitor) Transport(next http.RoundTripper) http.RoundTripper { return &transport{m, next} }

type aside struct{}

// Aside returns a context for requests whose watches need not be open: what they deliver is not
// desired state.
func Aside(ctx context.Context) context.Context { return context.WithValue(ctx, aside{}, true) }

type transport struct {
	*Monitor
	next http.RoundTripper
}

// RoundTrip makes a request.
func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	query := r.URL.Query()
	watches := query.Get("watch") == "true" || query.Get("watch") == "1"
	if lists := query.Has("limit") || query.Has("resourceVersion"); !watches && !lists {
		return t.next.RoundTrip(r)
	}
	key := keyOf(r.URL.Path, query)
	counts := watches && r.Context().Value(aside{}) == nil
	if counts {
		t.set(key, time.Time{})
	}
	response, err := t.next.RoundTrip(r)
	if err != nil {
		if counts && r.Context().Err() != nil {
			t.forget(key)
		}
		return response, err
	}
	t.answered(key, path.Base(r.URL.Path), response.StatusCode)
	if !counts || response.StatusCode != http.StatusOK {
		return response, nil
	}
	b := &body{
		ReadCloser: response.Body,
		begins:     func() { t.set(key, time.Now()) },
		ended: func() {
			if r.Context().Err() != nil {
				t.forget(key)
			} else {
				t.set(key, time.Time{})
			}
		},
	}
	if b.initial = query.Get("sendInitialEvents") == "true"; !b.initial {
		b.begins()
	}
	response.Body = b
	return response, nil
}

// keyOf names what is watched.
func keyOf(path string, query url.Values) string {
	return path + "?" + query.Get("labelSelector") + "&" + query.Get("fieldSelector")
}

func (m *Monitor) set(key string, since time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.watches[key] = since
}

// forget notes that this process does not want a watch any longer.
func (m *Monitor) forget(key string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.watches, key)
	delete(m.refused, key)
}

// refusal is the answer of an API server that does not show a resource.
type refusal struct {
	resource    string
	status      int
	since, last time.Time
}

// answered notes how the API server answered a list or a watch. What it answers when it has much to
// do, or is not ready, is no refusal.
func (m *Monitor) answered(key, resource string, status int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound:
		since := m.refused[key].since
		if since.IsZero() {
			since = time.Now()
		}
		m.refused[key] = refusal{resource, status, since, time.Now()}
	case http.StatusOK:
		delete(m.refused, key)
	}
}

// refusals returns the resources that the API server does not show.
func (m *Monitor) refusals(now time.Time) map[string]int {
	m.mu.Lock()
	defer m.mu.Unlock()
	resources := map[string]int{}
	for key, r := range m.refused {
		switch {
		case now.Sub(r.last) >= unasked:
			delete(m.refused, key)
		case now.Sub(r.since) >= m.times.patience:
			resources[r.resource] = r.status
		}
	}
	return resources
}

// body is the stream of a watch.
type body struct {
	io.ReadCloser
	initial bool   // the list is still arriving (KEP-3157)
	tail    []byte // the last bytes that were read of it
	begins  func() // the watch itself
	once    sync.Once
	ended   func()
}

// initialEnd annotates the bookmark that ends the list, in JSON and in Protobuf.
const initialEnd = metav1.InitialEventsAnnotationKey

// Read reads from the stream, and notes the end of the list and its own.
func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.initial {
		b.tail = append(b.tail, p[:n]...)
		if bytes.Contains(b.tail, []byte(initialEnd)) {
			b.initial, b.tail = false, nil
			b.begins()
		} else {
			b.tail = b.tail[max(0, len(b.tail)-len(initialEnd)):]
		}
	}
	if err != nil {
		b.once.Do(b.ended)
	}
	return n, err
}

// Close ends the stream.
func (b *body) Close() error {
	b.once.Do(b.ended)
	return b.ReadCloser.Close()
}

// open reports whether all watches were open for a while at that time.
func (m *Monitor) open(now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, since := range m.watches {
		if since.IsZero() || now.Sub(since) < m.times.settled {
			return false
		}
	}
	return len(m.watches) > 0
}

// Run asks the API server until the context ends, and tells the listener what follows from its
// answers. ask returns an error unless the API server, and what it stores its objects in, is there.
func (m *Monitor) Run(ctx context.Context, ask func(context.Context) error, to Listener) error {
	last, lost := time.Now(), false
	var refused map[string]int
	for {
		began := time.Now()
		if now := m.refusals(began); !maps.Equal(now, refused) {
			refused = now
			to.Refused(refused)
		}
		if m.open(began) && m.answers(ctx, ask) {
			last, lost = began, false
			m.at.Set(float64(began.UnixMilli()) / 1000)
			to.Confirmed(began)
		}
		left := m.times.lostAfter - time.Since(last)
		if left <= 0 && !lost && ctx.Err() == nil {
			lost = true
			to.Lost()
		}
		pause := m.times.every - time.Since(began)
		if !lost {
			pause = min(pause, left)
		}
		if async.Sleep(ctx, max(pause, 0)) != nil {
			return nil
		}
	}
}

func (m *Monitor) answers(ctx context.Context, ask func(context.Context) error) bool {
	ctx, cancel := context.WithTimeout(ctx, m.times.atMost)
	defer cancel()
	return ask(ctx) == nil
}
