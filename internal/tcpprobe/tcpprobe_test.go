package tcpprobe

import (
	"context"
	"net/netip"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func TestAnswers(t *testing.T) {
	ports := []uint16{10250, 7470}
	loopback := netip.MustParseAddr("127.0.0.1")
	// Nothing on this machine listens on these ports of that address, or something does: both are
	// answers.
	if !Answers(t.Context(), []netip.Addr{loopback}, ports) {
		t.Error("this machine does not answer")
	}
	if Answers(t.Context(), nil, ports) {
		t.Error("no address answers")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if Answers(ctx, []netip.Addr{loopback}, ports) {
		t.Error("an answer without time for one")
	}
}

// A node is asked three times within a moment: two packets may be lost.
func TestAnyAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			lost int
			want bool
			took time.Duration
		}{{0, true, 0}, {2, true, 2 * attemptEvery}, {3, false, Within}} {
			var asked atomic.Int32
			begun := time.Now()
			got := anyAnswers(t.Context(), []netip.Addr{netip.MustParseAddr("192.0.2.1")}, []uint16{1},
				func(ctx context.Context, to string) error {
					if asked.Add(1) <= int32(c.lost) {
						<-ctx.Done()
						return ctx.Err()
					}
					return syscall.ECONNREFUSED
				})
			if took := time.Since(begun); got != c.want || took != c.took {
				t.Errorf("%d of 3 lost: answers %t after %s, want %t after %s", c.lost, got, took, c.want, c.took)
			}
		}
	})
}
