package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	eventsclient "k8s.io/client-go/kubernetes/typed/events/v1"
	"k8s.io/client-go/tools/record/util"
	"k8s.io/client-go/tools/reference"
	"k8s.io/utils/lru"

	"github.com/berth-lb/berth/internal/async"
)

// Events are slowed down so that statuses are not: a write of either takes the API server about as
// long, and a large change causes two events for each status. Warnings have a pace of their own, so
// that Normal events do not delay them.
const (
	warningsPerSecond = 50
	warningsAtOnce    = 200
	normalPerSecond   = 10
	normalAtOnce      = 50
	writersAtOnce     = 100 // per type of event

	answerWithin = 10 * time.Second       // how long one try to write takes at most
	firstPause   = 100 * time.Millisecond // after a try that failed; it doubles up to lastPause
	lastPause    = time.Second
	tryFor       = 2 * time.Minute

	repeatWithin = 6 * time.Minute // how long after an event the same one is counted, not written again
	knownEvents  = 4096            // how many events a repetition is noticed of

	longestNote = 1024 // the API takes no longer one
)

// recorder writes events. A Warning is written within a second, unless hundreds of namespaces have
// one at the same time. Namespaces take turns, so that the problems of one do not hide another's.
//
// client-go's own recorder waits 10 s after a connection that broke, drops an event when the API
// server is overloaded, keeps no order, and takes events for the same that differ in their notes.
type recorder struct {
	events               eventsclient.EventsV1Interface
	scheme               *runtime.Scheme
	logger               *slog.Logger
	controller, instance string
	warnings, normal     *backlog
	known                *lru.Cache // record by statement
	lost                 prometheus.Counter

	mu   sync.Mutex
	last time.Time // guarded by mu: when the last event was made
}

// record is where an event is in the API.
type record struct {
	name  string
	count int32
	last  time.Time
}

func newRecorder(
	events eventsclient.EventsV1Interface,
	scheme *runtime.Scheme,
	component string,
	logger *slog.Logger,
) *recorder {
	controller, lost := "berth-"+component, eventsLost()
	return &recorder{
		events:     events,
		scheme:     scheme,
		logger:     logger,
		controller: controller,
		instance:   controller + "-" + hostname(),
		warnings:   newBacklog(lost),
		normal:     newBacklog(lost),
		known:      lru.New(knownEvents),
		lost:       lost,
	}
}

// eventsLost returns the metric of a recorder, to be registered.
func eventsLost() prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{
		Name: "berth_events_lost_total",
		Help: "Events that were not written: too many waited, or the API server refused them or was away for 2 minutes.",
	})
}

// Eventf has an event written soon. It never blocks.
func (r *recorder) Eventf(regarding, _ runtime.Object, kind, reason, action, note string, args ...any) {
	about, err := reference.GetReference(r.scheme, regarding)
	if err != nil {
		return // the object's kind is unknown, so the event cannot refer to it
	}
	s := statement{
		regarding: *about, namespace: about.Namespace, kind: kind, reason: reason, action: action,
		note: shortened(fmt.Sprintf(note, args...)),
	}
	s.regarding.ResourceVersion = "" // what happens again is to be counted as such
	if s.namespace == "" {
		s.namespace = metav1.NamespaceDefault
	}
	to := r.normal
	if kind == corev1.EventTypeWarning {
		to = r.warnings
	}
	now := r.now()
	to.push(&event{statement: s, first: now, last: now, count: 1})
}

// now returns a time of its own for each event, since the event's name contains it.
func (r *recorder) now() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	if !now.After(r.last) {
		now = r.last.Add(1)
	}
	r.last = now
	return now
}

// shortened returns as much of the note as the API takes.
func shortened(note string) string {
	const more = "..."
	if len(note) <= longestNote {
		return note
	}
	end := longestNote - len(more)
	for !utf8.RuneStart(note[end]) {
		end--
	}
	return note[:end] + more
}

// run writes events until the context ends.
func (r *recorder) run(ctx context.Context) {
	var both sync.WaitGroup
	both.Go(func() { r.drain(ctx, r.warnings, rate.NewLimiter(warningsPerSecond, warningsAtOnce)) })
	both.Go(func() { r.drain(ctx, r.normal, rate.NewLimiter(normalPerSecond, normalAtOnce)) })
	both.Wait()
}

// drain writes what waits in the backlog until the context ends.
func (r *recorder) drain(ctx context.Context, from *backlog, pace *rate.Limiter) {
	var writers sync.WaitGroup
	defer writers.Wait()
	slots := make(chan struct{}, writersAtOnce)
	for {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		if pace.Wait(ctx) != nil {
			return
		}
		e := from.next(ctx)
		if e == nil {
			return
		}
		writers.Go(func() {
			r.write(ctx, e)
			from.done(e.namespace)
			<-slots
		})
	}
}

// write writes an event, and tries again while that may help.
func (r *recorder) write(ctx context.Context, e *event) {
	since, pause := time.Now(), firstPause
	for {
		err := r.try(ctx, e)
		if err == nil || ctx.Err() != nil || orphaned(err) {
			return
		}
		if !passing(err) || time.Since(since) >= tryFor {
			r.lost.Add(float64(e.count))
			r.logger.Warn("an event was not written", "kind", e.regarding.Kind, "namespace", e.regarding.Namespace,
				"name", e.regarding.Name, "reason", e.reason, "note", e.note, "error", err)
			return
		}
		if async.Sleep(ctx, pause) != nil {
			return
		}
		pause = min(2*pause, lastPause)
	}
}

// orphaned reports whether an event was refused because its namespace is gone, or is being deleted.
func orphaned(err error) bool {
	return apierrors.IsNotFound(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause)
}

// passing reports whether a try that failed like this may succeed later: the API server did not
// answer, or could not do it at that moment.
func passing(err error) bool {
	var answer apierrors.APIStatus
	return !errors.As(err, &answer) || answer.Status().Code >= 500 || apierrors.IsTooManyRequests(err)
}

// try makes an event in the API, or counts it with an earlier one that says the same.
func (r *recorder) try(ctx context.Context, e *event) error {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	found, _ := r.known.Get(e.statement)
	if earlier, ok := found.(record); ok && e.first.Sub(earlier.last) < repeatWithin {
		err := r.repeat(ctx, e, earlier)
		if !apierrors.IsNotFound(err) {
			return err
		}
		// The API server forgets events after an hour.
	}
	made := e.object(r.controller, r.instance)
	_, err := r.events.Events(e.namespace).Create(ctx, made, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) { // an earlier try came through
		return err //nolint:wrapcheck // write says what it is about
	}
	r.known.Add(e.statement, record{name: made.Name, count: e.count, last: e.last})
	return nil
}

// repeat counts an event with an earlier one that says the same.
func (r *recorder) repeat(ctx context.Context, e *event, earlier record) error {
	series := eventsv1.EventSeries{Count: earlier.count + e.count, LastObservedTime: metav1.NewMicroTime(e.last)}
	patch, err := json.Marshal(map[string]any{"series": series})
	if err != nil {
		return err
	}
	_, err = r.events.Events(e.namespace).Patch(ctx, earlier.name, types.MergePatchType, patch, metav1.PatchOptions{})
	if err != nil {
		return err
	}
	r.known.Add(e.statement, record{name: earlier.name, count: series.Count, last: e.last})
	return nil
}

// object returns the event as an object of the API.
func (e *event) object(controller, instance string) *eventsv1.Event {
	o := &eventsv1.Event{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: e.namespace,
			Name:      util.GenerateEventName(e.regarding.Name, e.first.UnixNano()),
		},
		EventTime:           metav1.NewMicroTime(e.first),
		ReportingController: controller,
		ReportingInstance:   instance,
		Action:              e.action,
		Reason:              e.reason,
		Regarding:           e.regarding,
		Note:                e.note,
		Type:                e.kind,
	}
	if e.count > 1 {
		o.Series = &eventsv1.EventSeries{Count: e.count, LastObservedTime: metav1.NewMicroTime(e.last)}
	}
	return o
}
