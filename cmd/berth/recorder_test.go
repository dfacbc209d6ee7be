package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/fake"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	clienttesting "k8s.io/client-go/testing"
)

// written collects the events that a recorder writes to an API server.
type written struct {
	*recorder
	log    strings.Builder
	server *fake.Clientset

	mu     sync.Mutex // guards what follows
	events []write
	answer func(try int, e *eventsv1.Event) error // to each try; nil: all are taken
	tries  int
}

// write is one write of an event.
type write struct {
	namespace, reason, note string
	at                      time.Duration // since the start of the test
}

// startRecorder runs a recorder until the test ends. answer decides what the API server does with
// each try to create an event; nil: it takes all.
func startRecorder(t *testing.T, answer func(try int, e *eventsv1.Event) error) *written {
	t.Helper()
	w := &written{server: fake.NewClientset(), answer: answer}
	start := time.Now()
	w.server.PrependReactor("create", "events", func(a clienttesting.Action) (bool, runtime.Object, error) {
		e := a.(clienttesting.CreateAction).GetObject().(*eventsv1.Event)
		w.mu.Lock()
		w.tries++
		try := w.tries
		w.mu.Unlock()
		if w.answer != nil {
			if err := w.answer(try, e); err != nil {
				return true, nil, err
			}
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.events = append(w.events, write{
			namespace: e.Namespace, reason: e.Reason, note: e.Note, at: time.Since(start),
		})
		return false, nil, nil
	})
	w.server.PrependReactor("patch", "events", func(a clienttesting.Action) (bool, runtime.Object, error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.events = append(w.events, write{
			namespace: a.GetNamespace(), note: string(a.(clienttesting.PatchAction).GetPatch()), at: time.Since(start),
		})
		return false, nil, nil
	})
	w.recorder = newRecorder(
		w.server.EventsV1(),
		clientscheme.Scheme,
		"test",
		slog.New(slog.NewTextHandler(&w.log, nil)),
	)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { w.run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait() })
	return w
}

// all returns what was written until now.
func (w *written) all() []write {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.events)
}

// find returns the first event with the reason, waiting for it up to the time.
func (w *written) find(t *testing.T, reason string, within time.Duration) write {
	t.Helper()
	<-time.After(within) // of the test's own clock
	synctest.Wait()
	for _, e := range w.all() {
		if e.reason == reason {
			return e
		}
	}
	t.Fatalf("no event %s within %s; %d others", reason, within, len(w.all()))
	return write{}
}

func in(namespace string) *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "web", UID: "1"}}
}

var (
	eventsKind = schema.GroupResource{Group: "events.k8s.io", Resource: "events"}
	errReset   = errors.New("read tcp 10.0.0.1:51234->10.96.0.1:443: read: connection reset by peer")
)

func terminating(namespace string) error {
	err := apierrors.NewForbidden(eventsKind, "", errors.New("it is being terminated"))
	err.ErrStatus.Details.Causes = []metav1.StatusCause{{Type: corev1.NamespaceTerminatingCause, Field: namespace}}
	return err
}

func TestRecorder(t *testing.T) {
	for _, c := range []struct {
		name   string
		answer func(try int, e *eventsv1.Event) error
		before func(w *written) // events that are made first
		kind   string
	}{
		{name: "a Normal event with nothing before it", kind: corev1.EventTypeNormal},
		{name: "a Warning with nothing before it", kind: corev1.EventTypeWarning},
		{
			name: "a connection that breaks at the first try",
			answer: func(try int, _ *eventsv1.Event) error {
				if try == 1 {
					return errReset
				}
				return nil
			},
			kind: corev1.EventTypeNormal,
		},
		{
			name: "an API server that is overloaded at the first try",
			answer: func(try int, _ *eventsv1.Event) error {
				if try == 1 {
					return apierrors.NewServerTimeout(eventsKind, "create", 0)
				}
				return nil
			},
			kind: corev1.EventTypeWarning,
		},
		{
			name: "an API server without its store at the first try",
			answer: func(try int, _ *eventsv1.Event) error {
				if try == 1 {
					return apierrors.NewInternalError(errors.New("etcdserver: leader changed"))
				}
				return nil
			},
			kind: corev1.EventTypeWarning,
		},
		{
			name: "a Warning after a thousand Normal events of its namespace",
			before: func(w *written) {
				for i := range 1000 {
					w.Eventf(in("calm"), nil, corev1.EventTypeNormal, fmt.Sprint("normal-", i), "Test", "")
				}
			},
			kind: corev1.EventTypeWarning,
		},
		{
			name: "a Warning after a thousand of another namespace",
			before: func(w *written) {
				for i := range 1000 {
					w.Eventf(in("noisy"), nil, corev1.EventTypeWarning, fmt.Sprint("noisy-", i), "Test", "")
				}
			},
			kind: corev1.EventTypeWarning,
		},
		{
			name: "a Warning after one of each of a hundred other namespaces",
			before: func(w *written) {
				for i := range 100 {
					w.Eventf(in(fmt.Sprint("noisy-", i)), nil, corev1.EventTypeWarning, "Noise", "Test", "")
				}
			},
			kind: corev1.EventTypeWarning,
		},
		{
			name: "a Warning beside a namespace whose events cannot be written",
			answer: func(_ int, e *eventsv1.Event) error {
				if e.Namespace == "broken" {
					return errReset
				}
				return nil
			},
			before: func(w *written) {
				for i := range 1000 {
					w.Eventf(in("broken"), nil, corev1.EventTypeWarning, fmt.Sprint("noise-", i), "Test", "")
				}
			},
			kind: corev1.EventTypeWarning,
		},
	} {
		t.Run(c.name+" is written within a second", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := startRecorder(t, c.answer)
				if c.before != nil {
					c.before(w)
				}
				w.Eventf(in("calm"), nil, c.kind, "News", "Test", "%s has %d", "web", 1)
				if e := w.find(t, "News", time.Second); e.note != "web has 1" || e.namespace != "calm" {
					t.Errorf("wrote %+v", e)
				}
			})
		})
	}
}

func TestRecorderOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startRecorder(t, func(try int, _ *eventsv1.Event) error {
			if try == 1 {
				return errReset
			}
			return nil
		})
		for i := range 20 {
			w.Eventf(in("a"), nil, corev1.EventTypeNormal, fmt.Sprint(i), "Test", "")
		}
		w.find(t, "19", time.Second)
		var got, want []string
		for i, e := range w.all() {
			got, want = append(got, e.reason), append(want, fmt.Sprint(i))
		}
		if !slices.Equal(got, want) {
			t.Errorf("events of a namespace came as %v", got)
		}
	})
}

func TestRecorderRepeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startRecorder(t, nil)
		say := func(note string) {
			w.Eventf(in("a"), nil, corev1.EventTypeWarning, "Failed", "Test", "%s", note)
			<-time.After(time.Second) // of the test's own clock
			synctest.Wait()
		}
		say("cannot connect")
		say("cannot connect")
		say("cannot connect")
		say("refused")
		<-time.After(repeatWithin) // of the test's own clock
		say("refused")
		var got []string
		for _, e := range w.all() {
			got = append(got, e.note)
		}
		want := []string{
			"cannot connect",
			`{"series":{"count":2,"lastObservedTime":"2000-01-01T00:00:01.000000Z"}}`,
			`{"series":{"count":3,"lastObservedTime":"2000-01-01T00:00:02.000000Z"}}`,
			"refused",
			"refused",
		}
		if !slices.Equal(got, want) {
			t.Errorf("wrote\n%q, want\n%q", got, want)
		}
	})
}

func TestRecorderGivesUp(t *testing.T) {
	for _, c := range []struct {
		name   string
		answer error
		tries  int
		logs   string
	}{
		{
			name:   "a namespace that is being deleted",
			answer: terminating("a"),
			tries:  1,
		},
		{
			name:   "a namespace that is gone",
			answer: apierrors.NewNotFound(schema.GroupResource{Resource: "namespaces"}, "a"),
			tries:  1,
		},
		{
			name:   "an event that was taken, though the connection broke",
			answer: apierrors.NewAlreadyExists(eventsKind, "web.1"),
			tries:  1,
		},
		{
			name:   "an event that is refused",
			answer: apierrors.NewForbidden(eventsKind, "web.1", errReset),
			tries:  1,
			logs:   "an event was not written",
		},
		{
			name:   "an API server that is away",
			answer: errReset,
			tries:  124,
			logs:   "an event was not written",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := startRecorder(t, func(int, *eventsv1.Event) error { return c.answer })
				w.Eventf(in("a"), nil, corev1.EventTypeNormal, "News", "Test", "")
				<-time.After(time.Hour) // of the test's own clock
				synctest.Wait()
				if w.tries != c.tries {
					t.Errorf("%d tries, want %d", w.tries, c.tries)
				}
				if log := w.log.String(); c.logs == "" && log != "" || !strings.Contains(log, c.logs) {
					t.Errorf("logged %q, want %q", log, c.logs)
				}
				if lost := testutil.ToFloat64(w.lost) > 0; lost != (c.logs != "") {
					t.Errorf("counted as lost: %t", lost)
				}
			})
		})
	}
}

func TestRecorderNote(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startRecorder(t, nil)
		w.Eventf(in("a"), nil, corev1.EventTypeNormal, "Long", "Test", "%s", strings.Repeat("ä", 1000))
		if e := w.find(t, "Long", time.Second); e.note != strings.Repeat("ä", 510)+"..." {
			t.Errorf("wrote %d bytes, %q at the end", len(e.note), e.note[len(e.note)-8:])
		}
	})
}

func TestBacklogPush(t *testing.T) {
	t.Run("a namespace that is full loses its oldest", func(t *testing.T) {
		b := newBacklog(eventsLost())
		for i := range eventsOfOne + 5 {
			b.push(&event{statement: statement{namespace: "a", note: fmt.Sprint(i)}, count: 1})
		}
		if e := b.pop(); e.note != "5" {
			t.Errorf("the first is %s, want 5", e.note)
		}
		if n := testutil.ToFloat64(b.lost); n != 5 {
			t.Errorf("%v events count as lost, want 5", n)
		}
	})
	t.Run("a full backlog loses from the namespace that has most", func(t *testing.T) {
		b := newBacklog(eventsLost())
		for i := range eventsWaiting {
			b.push(&event{statement: statement{namespace: fmt.Sprint("n", i%50), note: fmt.Sprint(i)}, count: 1})
		}
		b.push(&event{statement: statement{namespace: "n0", note: "more"}, count: 1})
		b.push(&event{statement: statement{namespace: "calm", note: "calm"}, count: 1})
		if n := testutil.ToFloat64(b.lost); n != 2 {
			t.Errorf("%v events count as lost, want 2", n)
		}
		if b.length != eventsWaiting {
			t.Errorf("%d events wait, want %d", b.length, eventsWaiting)
		}
		for range 50 {
			b.pop()
		}
		if e := b.pop(); e.note != "calm" {
			t.Errorf("the event of the calm namespace is not the 51st, but %+v", e)
		}
	})
	t.Run("what is said twice waits once", func(t *testing.T) {
		b := newBacklog(eventsLost())
		for range 3 {
			b.push(&event{statement: statement{namespace: "a", note: "same"}, count: 1})
		}
		if e := b.pop(); b.length != 0 || e.count != 3 {
			t.Errorf("%d wait, the first counts %d", b.length, e.count)
		}
	})
}
