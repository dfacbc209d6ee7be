package steer

import (
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/berth-lb/berth/speaker/dataplane/steering"
	"github.com/berth-lb/berth/speaker/dataplane/steering/decide"
)

func counted(service, node string, reason decide.Reason, packets uint64) steering.Count {
	return steering.Count{Service: service, Node: node, Reason: reason, Packets: packets}
}

// Sums never fall, whatever becomes of the kernel's counters, and ports of a Service are one.
func TestTally(t *testing.T) {
	const web4, web6, other = "d/web 192.0.2.1:80/6", "d/web [2001:db8::1]:80/6", "d/other 192.0.2.2:80/6"
	s := newSeries()
	all := tally{of: s}
	all.last = packetsOf([]steering.Count{counted(web4, "n1", decide.First, 1000)}) // a process before this one
	for i, round := range []struct {
		counts  []steering.Count
		reasons map[decide.Reason]uint64
		packets map[ofService]uint64
	}{
		{
			[]steering.Count{counted(web4, "n1", decide.First, 1000)},
			map[decide.Reason]uint64{decide.First: 0}, map[ofService]uint64{},
		},
		{
			[]steering.Count{
				counted(web4, "n1", decide.First, 1010), counted(web6, "n1", decide.First, 5),
				counted(web4, "n2", decide.Second, 2), counted(other, "n1", decide.First, 7),
			},
			map[decide.Reason]uint64{decide.First: 22, decide.Second: 2},
			map[ofService]uint64{
				{"d", "web", "n1", decide.First}: 15, {"d", "web", "n2", decide.Second}: 2,
				{"d", "other", "n1", decide.First}: 7,
			},
		},
		{ // one Service is gone, and a port of the other one began again
			[]steering.Count{counted(web4, "n1", decide.First, 3), counted(web6, "n1", decide.First, 6)},
			map[decide.Reason]uint64{decide.First: 26, decide.Second: 2},
			map[ofService]uint64{{"d", "web", "n1", decide.First}: 19},
		},
	} {
		all.add(round.counts)
		if diff := cmp.Diff(round.reasons, all.byReason); diff != "" {
			t.Errorf("round %d: %s", i, diff)
		}
		if diff := cmp.Diff(round.packets, s.packets, cmp.AllowUnexported(ofService{})); diff != "" {
			t.Errorf("round %d: %s", i, diff)
		}
	}
}

// Of more series than fit those with most packets get in, and what is in stays until it is gone.
func TestSeriesAreBounded(t *testing.T) {
	of := func(service string) ofService { return ofService{"d", service, "n1", decide.First} }
	s := newSeries()
	for i, round := range []struct {
		news, want map[ofService]uint64
		omitted    int
	}{
		{
			map[ofService]uint64{of("a"): 1, of("b"): 3, of("c"): 2, of("quiet"): 0},
			map[ofService]uint64{of("b"): 3, of("c"): 2}, 1,
		},
		{
			map[ofService]uint64{of("a"): 100, of("b"): 1, of("c"): 0},
			map[ofService]uint64{of("b"): 4, of("c"): 2}, 1,
		},
		{map[ofService]uint64{of("a"): 5, of("c"): 0}, map[ofService]uint64{of("a"): 5, of("c"): 2}, 0},
	} {
		s.add(round.news, 2)
		if diff := cmp.Diff(round.want, s.packets, cmp.AllowUnexported(ofService{})); diff != "" ||
			s.omitted != round.omitted {
			t.Errorf("round %d: %d left out, want %d: %s", i, s.omitted, round.omitted, diff)
		}
	}
}

// The kernel has all that is desired only if the last Sync and the last Refresh say so.
func TestProgress(t *testing.T) {
	at := func(n int64) time.Time { return time.Unix(n, 0) }
	broken := errors.New("broken")
	var p progress
	p.synced(nil, at(1))
	p.refreshed(broken, at(2))
	p.synced(nil, at(3))
	if s := p.read(); s.at != at(1) || s.failures != 1 {
		t.Errorf("after a Refresh that failed: %v, %d failures", s.at, s.failures)
	}
	p.refreshed(nil, at(4))
	if s := p.read(); s.at != at(4) {
		t.Errorf("when all is well again: %v", s.at)
	}
	p.synced(broken, at(5))
	p.refreshed(nil, at(6))
	if s := p.read(); s.at != at(4) || s.failures != 2 {
		t.Errorf("after a Sync that failed: %v, %d failures", s.at, s.failures)
	}
}

// Without a driver there are metrics, which say that this node does not steer; none says so where
// it was turned off.
func TestMetrics_withoutDriver(t *testing.T) {
	s := New(Config{Logger: slog.New(slog.DiscardHandler), Pins: t.TempDir()})
	r := prometheus.NewPedanticRegistry()
	if err := s.Register(r, true); err != nil {
		t.Fatal(err)
	}
	const rest = `
# HELP berth_steering_sync_failures_total Times that the kernel could not be brought up to date, or not in full.
# TYPE berth_steering_sync_failures_total counter
berth_steering_sync_failures_total 0
`
	names := []string{
		"berth_steering_up",
		"berth_steering_synced_timestamp_seconds",
		"berth_steering_sync_failures_total",
	}
	up := "# HELP berth_steering_up 1 while this node steers.\n# TYPE berth_steering_up gauge\nberth_steering_up 0\n"
	if err := testutil.GatherAndCompare(r, strings.NewReader(up+rest), names...); err != nil {
		t.Error(err)
	}
	s.SetEnabled(false)
	if err := testutil.GatherAndCompare(r, strings.NewReader(rest), names...); err != nil {
		t.Error(err)
	}
}
