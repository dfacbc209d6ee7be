package speaker

import (
	"context"
	"fmt"
	"log/slog"
	"time"
)

// freshness tells the drivers how old this speaker's picture of the API is.
type freshness struct {
	drivers
	logger *slog.Logger
	lost   bool
}

// Confirmed says that everything that the API had at that time was received.
func (f *freshness) Confirmed(at time.Time) {
	f.l2.Confirm(at)
	if f.lost {
		f.lost = false
		f.logger.Info("the API server is back")
		f.mirror.Refresh()
	}
}

// Lost says that nothing was confirmed for long.
func (f *freshness) Lost() {
	f.lost = true
	f.logger.Warn("no word from the API server; what is announced stays, unless a node that hears from it takes over")
	f.l2.MirrorLost()
}

// askAPI returns an error unless the API server and its storage are ready. Every user may ask that.
func (s *Speaker) askAPI(ctx context.Context) error {
	if err := s.Kubernetes.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error(); err != nil {
		return fmt.Errorf("ask the API server whether it is ready: %w", err)
	}
	return nil
}
