package service

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/controller/condition"
)

// Bounds of how Berth answers a controller that overwrites what it wrote.
const (
	contestWindow   = time.Minute // within which overwritten statuses count
	contestPatience = 3           // so many are put right at once
	contestFirst    = 2 * time.Second
	explainEvery    = 2 * time.Second // at most, to a Service whose status is another controller's still
	contestLongest  = 10 * time.Minute
	contestOver     = 45 * time.Minute // without another overwritten status
)

// Contests knows which statuses are written by another controller too. The zero value is ready to use.
type Contests struct {
	// Lost is called for each status that was overwritten.
	Lost func()

	mu    sync.Mutex              // guards what follows
	last  map[string]string       // what Berth wrote last, by Service
	waits map[string]time.Time    // when a wait was explained last, by Service
	fight map[string]*statusFight // by Service
}

// statusFight is a status that two controllers write.
type statusFight struct {
	overwritten []time.Time // within the window
	seen        string      // resourceVersion that was counted last
	writer      string      // the other one, in words
	delay       time.Duration
	until       time.Time // when Berth writes again
	told        bool      // of this delay
}

// Wrote notes what Berth wrote into a Service, as the API server has it.
func (c *Contests) Wrote(key string, svc *corev1.Service) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.prepare()
	c.last[key] = essence(svc)
}

// prepare makes the maps. The mutex is held.
func (c *Contests) prepare() {
	if c.last == nil {
		c.last, c.fight, c.waits = map[string]string{}, map[string]*statusFight{}, map[string]time.Time{}
	}
}

// Forget forgets a Service that is gone.
func (c *Contests) Forget(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.last, key)
	delete(c.fight, key)
	delete(c.waits, key)
}

// Explained reports how long not to explain again why a Service waits: who has it still may take the words off. Zero: it may be
// explained now, and is.
func (c *Contests) Explained(key string, now time.Time) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.prepare()
	if left := c.waits[key].Add(explainEvery).Sub(now); left > 0 {
		return left
	}
	c.waits[key] = now
	return 0
}

// Review reports how long Berth is to leave the status of the Service as it is: another controller has overwritten it again
// and again.
func (c *Contests) Review(key string, svc *corev1.Service, now time.Time) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := c.fight[key]
	wrote := c.last[key]
	if !strings.HasPrefix(wrote, string(svc.UID)+" ") { // nothing, or into another Service of that name
		delete(c.last, key)
		delete(c.fight, key)
		return 0
	}
	if wrote == essence(svc) {
		if f != nil && len(f.overwritten) > 0 && now.Sub(f.overwritten[len(f.overwritten)-1]) > contestOver {
			delete(c.fight, key)
		}
		return 0
	}
	if f == nil {
		f = &statusFight{}
		c.fight[key] = f
	}
	if f.seen != svc.ResourceVersion {
		f.count(svc, now)
		if c.Lost != nil {
			c.Lost()
		}
	}
	return max(0, f.until.Sub(now))
}

// count takes one more overwritten status. What is overwritten while Berth waits costs nothing, and counts for nothing.
func (f *statusFight) count(svc *corev1.Service, now time.Time) {
	f.seen, f.writer = svc.ResourceVersion, WriterOf(svc)
	if now.Before(f.until) {
		return
	}
	window := max(contestWindow, 3*f.delay) // the pauses themselves are no peace
	f.overwritten = append(slices.DeleteFunc(f.overwritten, func(at time.Time) bool { return now.Sub(at) >= window }), now)
	if len(f.overwritten) < contestPatience {
		f.delay = 0
		return
	}
	f.delay = min(max(contestFirst, 2*f.delay), contestLongest)
	f.until, f.told = now.Add(f.delay), false
}

// Writer names who else writes the status of the Service, "" if nobody did again and again.
func (c *Contests) Writer(key string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f := c.fight[key]; f != nil && f.delay > 0 {
		return f.writer
	}
	return ""
}

// News returns who else writes the status of the Service, and how long Berth waits, once for each wait.
func (c *Contests) News(key string) (writer string, delay time.Duration, is bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := c.fight[key]
	if f == nil || f.told || f.delay == 0 {
		return "", 0, false
	}
	f.told = true
	return f.writer, f.delay, true
}

// essence is what of a status is Berth's to write, beside conditions in prose.
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

// ContestedBy returns the condition Allocated of a Service whose status another controller overwrites;
// as it is where the writer is "": nobody does.
func ContestedBy(writer string, c condition.Condition) condition.Condition {
	if writer == "" || !c.OK {
		return c
	}
	c.Reason = ReasonStatusContested
	c.Message += fmt.Sprintf("; %s overwrites status.loadBalancer again and again: give the Service to one of the two by its spec.loadBalancerClass, or end the other", writer)
	return c
}
