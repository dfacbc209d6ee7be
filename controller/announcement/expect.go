package announcement

import (
	"sync"
	"time"

	"github.com/berth-lb/berth/config/v1alpha1"
)

// expectedWithin is how long what is missing at the beginning is no alarm: Pods of a new Service
// become ready, and speakers of a new installation report for the first time.
const expectedWithin = 30 * time.Second

// Expected returns how much longer the reason of the condition Announced is no alarm, since what is
// missing is expected to come by itself: for a Service that was created then, and a controller that
// leads since then. Zero: it is an alarm.
func (s Service) Expected(reason string, created, leads, now time.Time) time.Duration {
	begun := time.Time{}
	switch reason {
	case ReasonNoEndpoints, ReasonNoCandidate:
		if s.Local {
			begun = created
		}
	case ReasonNoSpeaker:
		if !s.spoken() {
			begun = leads
		}
	}
	return min(max(0, begun.Add(expectedWithin).Sub(now)), expectedWithin)
}

// spoken reports whether the speaker of any node did more than to begin.
func (s Service) spoken() bool {
	for _, n := range s.Nodes {
		switch n.Speaker {
		case "", v1alpha1.SpeakerPending, v1alpha1.SpeakerStarting:
		default:
			return true
		}
	}
	return false
}

// Awaited remembers the Services that miss something that is expected to come by itself.
type Awaited struct {
	mu   sync.Mutex
	keys map[string]bool // guarded by mu
}

// Review takes whether the Service misses something expected. It reports whether it did so far, and
// does not any longer: it has it, or the time is over.
func (a *Awaited) Review(key string, misses bool) (ended bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	before := a.keys[key]
	switch {
	case misses && !before:
		if a.keys == nil {
			a.keys = map[string]bool{}
		}
		a.keys[key] = true
	case !misses:
		delete(a.keys, key)
	}
	return before && !misses
}
