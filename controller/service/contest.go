package service

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/controller/condition"
)

// How Berth answers a controller that overwrites what it wrote.
const (
	contestWindow   = time.Minute // within which overwritten statuses count
	contestPatience = 3           // that many are put right at once
	contestFirst    = 2 * time.Second
	explainEvery    = 2 * time.Second // for a Service whose status another controller still writes
	contestLongest  = 10 * time.Minute
	contestOver     = 45 * time.Minute // without an overwritten status ends the contest
)

// Writes remembers what Berth wrote into the statuses of Services, and where another controller
// overwrites it. The zero value is ready to use.
type Writes struct {
	// Lost is called for each status that was overwritten.
	Lost func()

	mu    sync.Mutex              // guards what follows
	last  map[string]string       // what Berth last wrote, by Service
	waits map[string]time.Time    // when a wait was last explained, by Service
	fight map[string]*statusFight // by Service
	// superseded is the resourceVersion that Berth last wrote over, by Service.
	superseded map[string]string
	leftAlone  map[string]types.UID // Services of others with an event that says so
}

// statusFight is a status that two controllers write.
type statusFight struct {
	overwritten []time.Time // within the window
	seen        string      // resourceVersion that was last counted
	writer      string      // the other controller, in words
	delay       time.Duration
	until       time.Time // when Berth writes again
	told        bool      // News returned this delay
}

// Wrote records what Berth wrote into a Service, as the API server returned it.
func (w *Writes) Wrote(key string, svc *corev1.Service) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.prepare()
	w.last[key] = essence(svc)
}

// prepare makes the maps. The mutex is held.
func (w *Writes) prepare() {
	if w.last == nil {
		w.last, w.fight, w.waits = map[string]string{}, map[string]*statusFight{}, map[string]time.Time{}
		w.superseded, w.leftAlone = map[string]string{}, map[string]types.UID{}
	}
}

// Supersede records which version of a Service Berth wrote over.
func (w *Writes) Supersede(key, resourceVersion string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.prepare()
	w.superseded[key] = resourceVersion
}

// Outdated reports whether the Service, as the cache has it, is the version that Berth last wrote
// over. A write based on it would only conflict.
func (w *Writes) Outdated(key string, svc *corev1.Service) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.superseded[key] == svc.ResourceVersion {
		return true
	}
	delete(w.superseded, key)
	return false
}

// LeaveAlone records that another implementation serves the Service, and reports whether that is
// new.
func (w *Writes) LeaveAlone(key string, svc *corev1.Service) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.prepare()
	if w.leftAlone[key] == svc.UID {
		return false
	}
	w.leftAlone[key] = svc.UID
	return true
}

// Take undoes LeaveAlone.
func (w *Writes) Take(key string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.leftAlone, key)
}

// Gone forgets everything about a Service that is gone.
func (w *Writes) Gone(key string) {
	w.Forget(key)
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.superseded, key)
	delete(w.leftAlone, key)
}

// Forget forgets what was written into a Service that is no longer served.
func (w *Writes) Forget(key string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.last, key)
	delete(w.fight, key)
	delete(w.waits, key)
}

// Explained returns how long to wait before the Service is explained again: the controller that
// still writes its status may remove the explanation. Zero: it may be explained now, and that
// counts as done.
func (w *Writes) Explained(key string, now time.Time) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.prepare()
	if left := w.waits[key].Add(explainEvery).Sub(now); left > 0 {
		return left
	}
	w.waits[key] = now
	return 0
}

// Review returns how long Berth does not write the status of the Service, since another controller
// keeps overwriting it.
func (w *Writes) Review(key string, svc *corev1.Service, now time.Time) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	f := w.fight[key]
	wrote := w.last[key]
	if !strings.HasPrefix(wrote, string(svc.UID)+" ") { // nothing was written, or to another Service of that name
		delete(w.last, key)
		delete(w.fight, key)
		return 0
	}
	if wrote == essence(svc) {
		if f != nil && len(f.overwritten) > 0 && now.Sub(f.overwritten[len(f.overwritten)-1]) > contestOver {
			delete(w.fight, key)
		}
		return 0
	}
	if f == nil {
		f = &statusFight{}
		w.fight[key] = f
	}
	if f.seen != svc.ResourceVersion {
		f.count(svc, now)
		if w.Lost != nil {
			w.Lost()
		}
	}
	return max(0, f.until.Sub(now))
}

// count counts an overwritten status. One that is overwritten while Berth waits anyway does not
// count.
func (f *statusFight) count(svc *corev1.Service, now time.Time) {
	f.seen, f.writer = svc.ResourceVersion, WriterOf(svc)
	if now.Before(f.until) {
		return
	}
	window := max(contestWindow, 3*f.delay) // a pause does not count as peace
	f.overwritten = append(slices.DeleteFunc(f.overwritten, func(at time.Time) bool { return now.Sub(at) >= window }), now)
	if len(f.overwritten) < contestPatience {
		f.delay = 0
		return
	}
	f.delay = min(max(contestFirst, 2*f.delay), contestLongest)
	f.until, f.told = now.Add(f.delay), false
}

// Writer returns who else keeps writing the status of the Service, "" if nobody does.
func (w *Writes) Writer(key string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if f := w.fight[key]; f != nil && f.delay > 0 {
		return f.writer
	}
	return ""
}

// News returns who else writes the status of the Service and how long Berth waits, once for each
// wait. is reports whether there is such news.
func (w *Writes) News(key string) (writer string, delay time.Duration, is bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f := w.fight[key]
	if f == nil || f.told || f.delay == 0 {
		return "", 0, false
	}
	f.told = true
	return f.writer, f.delay, true
}

// essence returns the part of a status that Berth writes, apart from the conditions.
func essence(svc *corev1.Service) string {
	text := string(svc.UID) + " "
	for _, i := range svc.Status.LoadBalancer.Ingress {
		text += fmt.Sprintf("%s %s %s %d,", i.IP, i.Hostname, ipMode(i), len(i.Ports))
	}
	for _, c := range svc.Status.Conditions {
		if c.Type == v1alpha1.ServiceRecord {
			text += c.Message
		}
	}
	return text
}

// ContestedBy returns the condition Allocated of a Service whose status the writer keeps
// overwriting; for "" the condition as it is.
func ContestedBy(writer string, c condition.Condition) condition.Condition {
	if writer == "" || !c.OK {
		return c
	}
	c.Reason = ReasonStatusContested
	c.Message += fmt.Sprintf("; %s overwrites status.loadBalancer again and again: give the Service to one of the two by its spec.loadBalancerClass, or end the other", writer)
	return c
}
