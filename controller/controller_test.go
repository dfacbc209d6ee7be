package controller

import (
	"testing"
	"time"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/config/v1alpha1/v1alpha1test"
)

// The next process of a speaker is expected for a while.
func TestSuccessorsExpected(t *testing.T) {
	report := func(state v1alpha1.SpeakerState) v1alpha1.SpeakerStatus {
		return v1alpha1.SpeakerStatus{
			Conditions: v1alpha1test.InState(state),
			IPVS:       v1alpha1.IPVSReport{Schedulers: []string{"rr"}, VirtualServers: new(int32)},
		}
	}
	s, begun := successors{}, time.Now()
	for _, c := range []struct {
		after  time.Duration
		report v1alpha1.SpeakerStatus
		want   time.Duration
	}{
		{
			report: report(v1alpha1.SpeakerRestarting),
		},
		{
			after:  time.Second,
			report: report(v1alpha1.SpeakerStopped),
		},
		{
			after:  2 * time.Second,
			report: v1alpha1.SpeakerStatus{Conditions: v1alpha1test.InState(v1alpha1.SpeakerReplaced)},
		},
		{
			after:  3 * time.Second,
			report: report(v1alpha1.SpeakerReplaced),
			want:   successorWithin,
		},
		{
			after:  13 * time.Second,
			report: report(v1alpha1.SpeakerReplaced),
			want:   successorWithin - 10*time.Second,
		},
		{
			after:  time.Hour,
			report: report(v1alpha1.SpeakerReplaced),
		},
		{
			after:  2 * time.Hour,
			report: report(v1alpha1.SpeakerStarting),
		},
		{
			after:  3 * time.Hour,
			report: report(v1alpha1.SpeakerReplaced),
			want:   successorWithin,
		},
	} {
		if got := s.expected("n1", c.report, begun.Add(c.after)); got != c.want {
			t.Errorf("after %s, %s: the next process is expected for %s, want %s", c.after, c.report.Conditions[0].Reason, got, c.want)
		}
	}
}
