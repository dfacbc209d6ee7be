package l2

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// at is a moment of a test's own time.
func at(ms int) time.Time {
	return time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(ms) * time.Millisecond)
}

func from(node string, boot, sequence uint64, state State) hello {
	return hello{node: node, boot: boot, sequence: sequence, interval: 100 * time.Millisecond, state: state}
}

func TestAPeerIsAliveWhileItsSequenceAdvances(t *testing.T) {
	r := newRoster("self")
	c, err := r.hear(at(0), from("a", 1, 1, Ready))
	if want := (&change{peer: "a", alive: true, state: Ready, cause: PeerReady}); err != nil || !cmp.Equal(c, want, cmp.AllowUnexported(change{})) {
		t.Fatalf("first hello: %+v, %v; want %+v", c, err, want)
	}
	if c, err := r.hear(at(100), from("a", 1, 2, Ready)); c != nil || err != nil {
		t.Fatalf("second hello: %+v, %v; want nothing new", c, err)
	}
	if dead := r.judge(at(400)); len(dead) != 0 || !r.ready("a") {
		t.Fatalf("300 ms after its last hello: %+v, ready %v; want it alive", dead, r.ready("a"))
	}
	dead := r.judge(at(401))
	if want := []change{{peer: "a", state: Ready, cause: PeerSilent}}; !cmp.Equal(dead, want, cmp.AllowUnexported(change{})) || r.ready("a") {
		t.Fatalf("301 ms after its last hello: %+v, ready %v; want %+v", dead, r.ready("a"), want)
	}
	if dead := r.judge(at(500)); len(dead) != 0 {
		t.Fatalf("declared dead twice: %+v", dead)
	}
}

func TestAPeerIsGivenTheTimeItAsksFor(t *testing.T) {
	r := newRoster("self")
	slow := from("a", 1, 1, Ready)
	slow.interval = time.Second
	if _, err := r.hear(at(0), slow); err != nil {
		t.Fatal(err)
	}
	if dead := r.judge(at(3000)); len(dead) != 0 {
		t.Errorf("after 3 s: %+v, want it alive", dead)
	}
	if dead := r.judge(at(3001)); len(dead) != 1 {
		t.Errorf("after 3.001 s: %+v, want it dead", dead)
	}
}

func TestReplayedHellosKeepNobodyAlive(t *testing.T) {
	r := newRoster("self")
	for i, step := range []struct {
		at   int
		h    hello
		want error
	}{
		{0, from("self", 9, 1, Ready), rejectOwn},
		{0, from("a", 1, 5, Ready), nil},
		{10, from("a", 1, 5, Ready), rejectReplay},
		{20, from("a", 1, 4, Leaving), rejectReplay},
		{30, from("a", 2, 1, Leaving), rejectReplay}, // another boot while the first lives
		{40, from("a", 1, 6, Restarting), nil},
		{50, from("a", 3, 1, Starting), nil},         // as announced
		{60, from("a", 1, 7, Ready), rejectReplay},   // the first boot is over
		{400, from("a", 1, 99, Ready), rejectReplay}, // for good
	} {
		if step.at == 400 {
			r.judge(at(step.at))
		}
		if _, err := r.hear(at(step.at), step.h); !errors.Is(err, step.want) {
			t.Errorf("step %d: %v, want %v", i, err, step.want)
		}
	}
	if _, err := r.hear(at(500), from("a", 4, 1, Ready)); err != nil {
		t.Errorf("a new boot after silence: %v", err)
	}
}

func TestAStateCountsAtOnce(t *testing.T) {
	for to, want := range map[State]Cause{Leaving: PeerLeft, Restarting: PeerLeft, Starting: PeerLeft} {
		r := newRoster("self")
		if _, err := r.hear(at(0), from("a", 1, 1, Ready)); err != nil {
			t.Fatal(err)
		}
		c, err := r.hear(at(1), from("a", 1, 2, to))
		if err != nil || c == nil || c.cause != want || r.ready("a") {
			t.Errorf("ready to %s: %+v, %v, still ready %v; want cause %s", to, c, err, r.ready("a"), want)
		}
	}
}

func TestThePeersRememberedAreBounded(t *testing.T) {
	r := newRoster("self")
	for i := range maxPeers {
		if _, err := r.hear(at(0), from(fmt.Sprint("n", i), 1, 1, Ready)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.hear(at(0), from("one more", 1, 1, Ready)); !errors.Is(err, rejectTooMany) {
		t.Errorf("%v, want %v", err, rejectTooMany)
	}
	r.judge(at(1000))
	if _, err := r.hear(at(1000), from("one more", 1, 1, Ready)); err != nil || len(r.members) != maxPeers {
		t.Errorf("%v, %d members; want it to take a silent one's place", err, len(r.members))
	}
}
