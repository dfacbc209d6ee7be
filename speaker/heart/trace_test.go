package heart

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/berth-lb/berth/internal/trace"
	"github.com/berth-lb/berth/l2"
	"github.com/berth-lb/berth/l2/neighbor"
)

// The trace has observations with their reasons.
func TestEntryOf(t *testing.T) {
	now := time.Date(2026, 11, 29, 4, 0, 0, 0, time.UTC)
	address := netip.MustParseAddr("192.0.2.1")
	for _, c := range []struct {
		seen l2.Observation
		want trace.Entry
	}{
		{
			l2.Observation{Kind: l2.AddressLost, Address: address, Node: "n2", Cause: "peer_ready"},
			trace.Entry{What: "address lost", Address: address, Node: "n2", Detail: "PeerReady"},
		},
		{
			l2.Observation{Kind: l2.PeerUp, Node: "n2", State: l2.Ready},
			trace.Entry{What: "peer up", Node: "n2", Detail: "ready"},
		},
		{
			l2.Observation{Kind: l2.Conflict, Address: address, MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}},
			trace.Entry{What: "conflict", Address: address, MAC: trace.MAC{2, 0, 0, 0, 0, 1}},
		},
		{l2.Observation{Kind: l2.Failure, Err: errors.New("no")}, trace.Entry{What: "failure", Detail: "no"}},
	} {
		c.seen.Time, c.want.Time, c.seen.Interface, c.want.Interface = now, now, "eth0", "eth0"
		if got := entryOf(c.seen); got != c.want {
			t.Errorf("got %+v, want %+v", got, c.want)
		}
	}
}

// A heart remembers questions, and one without a trace does not mind.
func TestAsked(t *testing.T) {
	h := &Heart{Config: Config{Trace: trace.New()}}
	q := neighbor.Question{Addr: netip.MustParseAddr("192.0.2.1"), MAC: [6]byte{2}}
	h.asked("eth0", q)
	q.Answered = true
	h.asked("eth0", q)
	var got []trace.What
	for _, e := range h.Trace.Read(trace.Query{}) {
		got = append(got, e.What)
	}
	if want := []trace.What{trace.Ignored, trace.Answered}; !slices.Equal(got, want) {
		t.Errorf("it remembers %v, want %v", got, want)
	}
	new(Heart).asked("eth0", q)
}
