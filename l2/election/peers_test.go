package election

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

func from(node string, boot, sequence uint64, state State) Message {
	return Message{
		kind:     kindHello,
		Node:     node,
		Boot:     boot,
		sequence: sequence,
		interval: 100 * time.Millisecond,
		state:    state,
	}
}

// selfBoot is the boot of the node under test.
const selfBoot = 77

func rosterOf(node string) *peerTable {
	n := uint64(0)
	return newPeerTable(node, selfBoot, func() uint64 { n++; return n })
}

// meet has the table hear a message of a new boot, and then the proof that it is alive.
func meet(t *testing.T, r *peerTable, now time.Time, x Message) *PeerChange {
	t.Helper()
	_, challenge, err := r.hear(now, x)
	if !errors.Is(err, RejectBoot) || challenge == nil || challenge.kind != kindChallenge || challenge.to != x.Boot {
		t.Fatalf("a new boot: %+v, %v; want a challenge", challenge, err)
	}
	x.kind, x.to, x.nonce = kindProof, selfBoot, challenge.nonce
	c, _, err := r.hear(now, x)
	if err != nil {
		t.Fatalf("the proof: %v", err)
	}
	return c
}

func TestPeerTableSequence(t *testing.T) {
	r := rosterOf("self")
	c := meet(t, r, at(0), from("a", 1, 1, Ready))
	if want := (&PeerChange{
		Node:  "a",
		Alive: true,
		State: Ready,
		Cause: PeerReady,
	}); !cmp.Equal(c, want, cmp.AllowUnexported(PeerChange{})) {
		t.Fatalf("first hello: %+v; want %+v", c, want)
	}
	if c, _, err := r.hear(at(100), from("a", 1, 2, Ready)); c != nil || err != nil {
		t.Fatalf("second hello: %+v, %v; want nothing new", c, err)
	}
	if dead := r.declareSilent(at(400)); len(dead) != 0 || !r.isReady("a") {
		t.Fatalf("300 ms after its last hello: %+v, ready %v; want it alive", dead, r.isReady("a"))
	}
	dead := r.declareSilent(at(401))
	if want := []PeerChange{{
		Node:  "a",
		State: Ready,
		Cause: PeerSilent,
	}}; !cmp.Equal(dead, want, cmp.AllowUnexported(PeerChange{})) || r.isReady("a") {
		t.Fatalf("301 ms after its last hello: %+v, ready %v; want %+v", dead, r.isReady("a"), want)
	}
	if dead := r.declareSilent(at(500)); len(dead) != 0 {
		t.Fatalf("declared dead twice: %+v", dead)
	}
}

// A peer may be silent for three of the intervals that it announced.
func TestPeerTableInterval(t *testing.T) {
	r := rosterOf("self")
	slow := from("a", 1, 1, Ready)
	slow.interval = time.Second
	meet(t, r, at(0), slow)
	if dead := r.declareSilent(at(3000)); len(dead) != 0 {
		t.Errorf("after 3 s: %+v, want it alive", dead)
	}
	if dead := r.declareSilent(at(3001)); len(dead) != 1 {
		t.Errorf("after 3.001 s: %+v, want it dead", dead)
	}
}

func TestPeerTableReplay(t *testing.T) {
	r := rosterOf("self")
	meet(t, r, at(0), from("a", 1, 5, Ready))
	for i, step := range []struct {
		at   int
		x    Message
		want error
	}{
		{0, from("self", 9, 1, Ready), RejectOwn},
		{10, from("a", 1, 5, Ready), RejectReplay},
		{20, from("a", 1, 4, Leaving), RejectReplay},
		{30, from("a", 2, 1, Leaving), RejectBoot},
		{40, Message{
			kind:     kindProof,
			Node:     "a",
			Boot:     2,
			sequence: 2,
			to:       selfBoot,
			nonce:    12345,
			interval: time.Second,
		}, RejectBoot},
		{50, Message{
			kind:     kindProof,
			Node:     "a",
			Boot:     2,
			sequence: 3,
			to:       1,
			nonce:    2,
			interval: time.Second,
		}, RejectBoot},
		{60, from("a", 1, 6, Ready), nil},
	} {
		if _, _, err := r.hear(at(step.at), step.x); !errors.Is(err, step.want) {
			t.Errorf("step %d: %v, want %v", i, err, step.want)
		}
	}
	// Another process of the node is accepted when it has proved that it is alive. The former one
	// never is again.
	meet(t, r, at(500), from("a", 3, 1, Starting))
	if _, _, err := r.hear(at(510), from("a", 1, 99, Ready)); !errors.Is(err, RejectBoot) {
		t.Errorf("the former process: %v, want %v", err, RejectBoot)
	}
	if r.isReady("a") || !r.isAlive("a") {
		t.Error("the new process is starting, and not taken for that")
	}
}

// A replayed boot does not keep another one from proving that it is alive.
func TestPeerTableReplayedBoot(t *testing.T) {
	r := rosterOf("self")
	hear := func(ms int, x Message) *Message {
		_, challenge, _ := r.hear(at(ms), x)
		return challenge
	}
	if hear(0, from("a", 1, 1, Ready)) == nil {
		t.Fatal("the replayed boot is not challenged")
	}
	if c := hear(10, from("a", 1, 2, Ready)); c != nil {
		t.Errorf("challenged twice in 10 ms: %+v", c)
	}
	if c := hear(100, from("a", 2, 1, Ready)); c != nil {
		t.Errorf("another boot is challenged before the first had its time: %+v", c)
	}
	if c := hear(200, from("a", 2, 2, Ready)); c == nil || c.to != 2 {
		t.Errorf("the living boot is not challenged after that time: %+v", c)
	}
	if c := hear(210, from("a", 1, 3, Ready)); c != nil {
		t.Errorf("the replayed boot takes the place back: %+v", c)
	}
}

func TestPeerTableState(t *testing.T) {
	for to, want := range map[State]Cause{Leaving: PeerLeft, Restarting: PeerLeft, Starting: PeerLeft} {
		r := rosterOf("self")
		meet(t, r, at(0), from("a", 1, 1, Ready))
		c, _, err := r.hear(at(1), from("a", 1, 2, to))
		if err != nil || c == nil || c.Cause != want || r.isReady("a") {
			t.Errorf("ready to %s: %+v, %v, still ready %v; want cause %s", to, c, err, r.isReady("a"), want)
		}
	}
}

func TestPeerTableIsBounded(t *testing.T) {
	r := rosterOf("self")
	for i := range MaxPeers {
		meet(t, r, at(0), from(fmt.Sprint("n", i), 1, 1, Ready))
	}
	if _, _, err := r.hear(at(0), from("one more", 1, 1, Ready)); !errors.Is(err, RejectTooMany) {
		t.Errorf("%v, want %v", err, RejectTooMany)
	}
	r.declareSilent(at(1000))
	meet(t, r, at(1000), from("one more", 1, 1, Ready))
	if len(r.peers) != MaxPeers {
		t.Errorf("%d members; want it to take a silent one's place", len(r.peers))
	}
}

// A message is overdue once, until the next one comes. Of a peer that leaves none is.
func TestPeerTableOverdue(t *testing.T) {
	r := rosterOf("self")
	meet(t, r, at(0), from("a", 1, 1, Ready))
	meet(t, r, at(0), from("b", 2, 1, Leaving))
	check := func(ms int, next time.Time, want ...string) {
		t.Helper()
		if got := r.declareOverdue(at(ms)); !cmp.Equal(got, want) {
			t.Errorf("at %d ms: messages of %v are overdue, want %v", ms, got, want)
		}
		if got := r.nextOverdue(); !got.Equal(next) {
			t.Errorf("at %d ms: the next is overdue at %s, want %s", ms, got, next)
		}
	}
	check(200, at(200).Add(1))
	check(201, time.Time{}, "a")
	check(250, time.Time{})
	if _, _, err := r.hear(at(260), from("a", 1, 2, Ready)); err != nil {
		t.Fatal(err)
	}
	check(460, at(460).Add(1))
	check(461, time.Time{}, "a")
	r.declareSilent(at(600))
	check(600, time.Time{})
}
