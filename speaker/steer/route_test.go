package steer

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/berth-lb/berth/internal/steerquery"
	"github.com/berth-lb/berth/speaker/dataplane/steering"
	"github.com/berth-lb/berth/speaker/dataplane/steering/decide"
)

func TestRoute_withoutDriver(t *testing.T) {
	s := New(Config{Logger: slog.New(slog.DiscardHandler), Pins: t.TempDir()})
	if a := s.Route(steerquery.Query{}); a.Lacking != "this node does not steer: the program is not loaded yet" {
		t.Errorf("answered %+v", a)
	}
	if a := (&None{}).Route(steerquery.Query{}); !strings.HasSuffix(a.Lacking, "runs without --steering") {
		t.Errorf("answered %+v", a)
	}
}

// The answer has all that the driver says.
func TestAnswerOf(t *testing.T) {
	got := answerOf(steering.Route{
		Slot: 7, Slots: 4096, BySource: true, Node: "n2", Reason: decide.First, Asks: "n3",
		Ranks: []steering.Rank{{Node: "n1", Dead: true}, {Node: "n3", Draining: true}, {Node: "n2"}},
	})
	want := steerquery.Answer{
		Slot: 7, Slots: 4096, BySource: true, Node: "n2", Reason: "first", Asks: "n3",
		Ranks: []steerquery.Rank{{Node: "n1", Dead: true}, {Node: "n3", Draining: true}, {Node: "n2"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
