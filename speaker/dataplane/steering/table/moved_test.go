package table

import (
	"testing"
	"time"
)

func moved(h History) int {
	n, bits := 0, make([]uint64, words)
	h.AddTo(bits)
	for i := range Slots {
		if h.Moved(i) {
			n++
		}
		if h.Moved(i) != bit(bits, i) {
			return -1
		}
	}
	return n
}

func TestHistory(t *testing.T) {
	b, now := NewBuilder(), time.Unix(1e9, 0)
	empty := b.Build(nil)
	one := b.Build(Normalize([]Member{{"a", 1, false}}))
	two := b.Build(Normalize([]Member{{"a", 1, false}, {"b", 1, false}}))
	taken := two.Shares()[1]

	h := History{known: true, since: now}.Next(empty, one, now)
	if n := moved(h); n != 0 {
		t.Errorf("%d slots moved of a Service that gets its first endpoints", n)
	}
	h = h.Next(one, two, now.Add(time.Hour))
	if n := moved(h); n != taken {
		t.Errorf("%d slots moved when a node took %d", n, taken)
	}
	again := h.Next(two, two, now.Add(2*time.Hour))
	if n := moved(again); n != taken {
		t.Errorf("%d slots moved after nothing happened, want %d", n, taken)
	}
	if at := again.Again(); !at.Equal(now.Add(MovedFor)) {
		t.Errorf("again at %v", at)
	}
	period := now.Add(MovedFor)
	h = h.Next(two, two, period).Forget(period)
	if n := moved(h); n != taken {
		t.Errorf("%d slots moved in the period after, want %d", n, taken)
	}
	if n := moved(h.Next(two, two, period.Add(2*MovedFor))); n != taken {
		t.Errorf("%d slots moved after a change long after, want %d: nothing says that they may be forgotten", n, taken)
	}
	h = h.Forget(period.Add(MovedFor))
	if n := moved(h); n != 0 || !h.Again().IsZero() {
		t.Errorf("%d slots moved two periods later, again %v", n, h.Again())
	}
}

func TestHistory_Keep(t *testing.T) {
	b, now := NewBuilder(), time.Unix(1e9, 0)
	one := b.Build(Normalize([]Member{{"a", 1, false}}))
	two := b.Build(Normalize([]Member{{"a", 1, false}, {"b", 1, false}}))
	h := History{known: true, since: now}.Next(one, two, now)
	h = h.Forget(now.Add(MovedFor)).Next(two, one, now.Add(MovedFor))
	want := moved(h)
	h = h.Keep(now.Add(2 * MovedFor))
	h = h.Forget(now.Add(3 * MovedFor))
	if n := moved(h); n != want || n == 0 {
		t.Errorf("%d slots moved, want the %d that were kept", n, want)
	}
}

func TestHistory_unknown(t *testing.T) {
	b, now := NewBuilder(), time.Unix(1e9, 0)
	two := b.Build(Normalize([]Member{{"a", 1, false}, {"b", 1, false}}))
	var h History
	if !h.Moved(3) {
		t.Error("of what nothing is known, nothing moved")
	}
	h = h.Next(nil, two, now)
	if n := moved(h); n != Slots {
		t.Errorf("%d slots moved after a restart, want all", n)
	}
	if n := moved(h.Forget(now.Add(MovedFor - 1))); n != Slots {
		t.Errorf("%d slots moved shortly before it is forgotten", n)
	}
	h = h.Forget(now.Add(2 * MovedFor))
	if n := moved(h); n != 0 {
		t.Errorf("%d slots moved long after", n)
	}
}
