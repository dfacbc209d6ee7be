package announcement

import (
	"testing"
	"time"

	"github.com/berth-lb/berth/config/v1alpha1"
)

func TestExpected(t *testing.T) {
	begun := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	const never = 24 * time.Hour
	for _, c := range []struct {
		name    string
		service Service
		reason  string
		created time.Duration // before now
		leads   time.Duration // before now
		want    time.Duration
	}{
		{
			name:    "Pods of a new Service",
			service: Service{Local: true},
			reason:  ReasonNoEndpoints,
			created: 2 * time.Second,
			leads:   never,
			want:    28 * time.Second,
		},
		{
			name:    "Pods of a Service that is new by a clock ahead of this one",
			service: Service{Local: true},
			reason:  ReasonNoEndpoints,
			created: -time.Hour,
			leads:   never,
			want:    30 * time.Second,
		},
		{
			name:    "Pods that do not come",
			service: Service{Local: true},
			reason:  ReasonNoEndpoints,
			created: 30 * time.Second,
			leads:   never,
		},
		{
			name:    "Pods on the nodes that are selected, after the first one elsewhere",
			service: Service{Local: true},
			reason:  ReasonNoCandidate,
			created: 10 * time.Second,
			leads:   never,
			want:    20 * time.Second,
		},
		{
			name:    "no candidate, whatever Pods do",
			reason:  ReasonNoCandidate,
			created: time.Second,
			leads:   time.Second,
		},
		{
			name:    "an announcement that is missing",
			service: Service{Local: true},
			reason:  ReasonNoAnnouncement,
			created: time.Second,
			leads:   time.Second,
		},
		{
			name: "the first speakers",
			service: Service{Nodes: map[string]Node{
				"n1": {Alive: true},
				"n2": {Alive: true, Speaker: v1alpha1.SpeakerStarting},
			}},
			reason:  ReasonNoSpeaker,
			created: never,
			leads:   5 * time.Second,
			want:    25 * time.Second,
		},
		{
			name: "no speaker, where there was one",
			service: Service{Nodes: map[string]Node{
				"n1": {Alive: true},
				"n2": {Alive: true, Speaker: v1alpha1.SpeakerStopped},
			}},
			reason:  ReasonNoSpeaker,
			created: never,
			leads:   5 * time.Second,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := c.service.Expected(c.reason, begun.Add(-c.created), begun.Add(-c.leads), begun)
			if got != c.want {
				t.Errorf("expected for %s, want %s", got, c.want)
			}
		})
	}
}

func TestAwaitedReview(t *testing.T) {
	var a Awaited
	for i, step := range []struct{ misses, ended bool }{
		{misses: false, ended: false},
		{misses: true, ended: false},
		{misses: true, ended: false},
		{misses: false, ended: true},
		{misses: false, ended: false},
	} {
		if got := a.Review("a/web", step.misses); got != step.ended {
			t.Errorf("step %d: ended %t, want %t", i, got, step.ended)
		}
	}
}
