package bfd

import (
	"encoding/hex"
	"errors"
	"strings"
	"testing"
	"time"
)

func newSigned(a, b Authentication) *world {
	w := newWorld(1, timers{ms(100), ms(100), 3}, timers{ms(100), ms(100), 3})
	w.ends[0].s.auth, w.ends[1].s.auth = a, b
	return w
}

func TestSignedSessions(t *testing.T) {
	key := Authentication{KeyID: 7, Key: "secret"}
	meticulous := key
	meticulous.Meticulous = true
	other, otherID := key, key
	other.Key, otherID.KeyID = "another", 8
	for _, c := range []struct {
		name string
		a, b Authentication
		want string // why packets of b do not count; empty: the session is up
	}{
		{name: "the same key", a: key, b: key},
		{name: "meticulous", a: meticulous, b: meticulous},
		{name: "none", want: ""},
		{name: "the other does not sign", a: key, want: errUnsigned.Error()},
		{name: "the other signs", b: key, want: errSigned.Error()},
		{name: "another key", a: key, b: other, want: errHash.Error()},
		{name: "another number", a: key, b: otherID, want: "with the key 8, and spec.bfd.authentication.keyID is 7"},
		{name: "another type", a: key, b: meticulous, want: "by method 5 of RFC 5880, and spec.bfd.authentication.type is method 4"},
	} {
		w := newSigned(c.a, c.b)
		w.run(5 * time.Second)
		s, refused := w.ends[0].s, w.ends[0].refused
		switch {
		case c.want == "" && (s.state != Up || len(refused) > 0):
			t.Errorf("%s: the session is %s, and refused %v", c.name, s.state, refused)
		case c.want != "" && (s.state != Down || len(refused) == 0 || !strings.Contains(refused[0].Error(), c.want)):
			t.Errorf("%s: the session is %s, and refused %v, want %q", c.name, s.state, refused, c.want)
		}
	}
}

func TestAPacketIsNotTakenTwice(t *testing.T) {
	for _, meticulous := range []bool{false, true} {
		key := Authentication{Meticulous: meticulous, KeyID: 1, Key: "secret"}
		w := newSigned(key, key)
		w.run(5 * time.Second)
		w.up(t)
		a, b := w.ends[0].s, w.ends[1].s
		old := reread(
			b,
			packet{state: Down, multiplier: 3, mine: b.local, yours: a.local, desiredTx: ms(100), requiredRx: ms(100)},
		)
		w.run(5 * time.Second) // the numbers have gone on by more than 3 times the multiplier
		if err := a.receive(w.clock(), old); !errors.Is(err, errReplayed) {
			t.Errorf("meticulous %v: an old packet is taken: %v", meticulous, err)
		}
		next := reread(
			b,
			packet{state: Up, multiplier: 3, mine: b.local, yours: a.local, desiredTx: ms(100), requiredRx: ms(100)},
		)
		if err := a.receive(w.clock(), next); err != nil {
			t.Errorf("meticulous %v: the next packet is not taken: %v", meticulous, err)
		}
		if err := a.receive(w.clock(), next); (err != nil) != meticulous {
			t.Errorf("meticulous %v: the same packet again: %v", meticulous, err)
		}
		if a.state != Up {
			t.Errorf("meticulous %v: the session is %s", meticulous, a.state)
		}
		// After a silence numbers begin again: the other may have.
		b.sequences.out = 0
		w.ends[1].frozen = true
		w.run(3 * time.Second)
		w.ends[1].frozen = false
		w.run(5 * time.Second)
		w.up(t)
	}
}

// TestHash compares with what `openssl dgst -sha1` makes of the packet with the key in the place of
// the hash.
func TestHash(t *testing.T) {
	b := packet{state: Down, multiplier: 3, mine: 1, desiredTx: time.Second, requiredRx: time.Second}.append(nil)
	b = Authentication{Meticulous: true, KeyID: 1, Key: "secret"}.sign(b, 42)
	const want = "2044033400000001" + "00000000" + "000f4240" + "000f4240" + "00000000" +
		"051c01000000002a" + "21154e37d84b7c833f9954eaffe9b807f7b1772b"
	if got := hex.EncodeToString(b); got != want {
		t.Errorf("signed packet\n%s, want\n%s", got, want)
	}
}
