package async

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"
)

func TestStreamLosesTheOldest(t *testing.T) {
	s := NewStream[int](2)
	for i := range 5 {
		s.Send(i)
	}
	if got := []int{<-s.C(), <-s.C()}; !slices.Equal(got, []int{3, 4}) {
		t.Errorf("read %v, want [3 4]", got)
	}
	if got := s.Dropped(); got != 3 {
		t.Errorf("dropped %d, want 3", got)
	}
}

func TestStreamCountsWhatItsWritersLose(t *testing.T) {
	s := NewStream[int](8)
	var writers sync.WaitGroup
	for range 4 {
		writers.Go(func() {
			for i := range 1000 {
				s.Send(i)
			}
		})
	}
	writers.Wait()
	if read := uint64(len(s.C())); read+s.Dropped() != 4000 {
		t.Errorf("read %d and dropped %d, want 4000 together", read, s.Dropped())
	}
}

func TestSignalIsSeenOnce(t *testing.T) {
	s := NewSignal()
	s.Notify()
	s.Notify()
	<-s
	select {
	case <-s:
		t.Error("notified twice before it was read, and read twice")
	default:
	}
}

func TestSleepEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Sleep(ctx, time.Hour); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
	if err := Sleep(t.Context(), time.Nanosecond); err != nil {
		t.Error(err)
	}
}
