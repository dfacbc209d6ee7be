package table

import "time"

// MovedFor is for how long at least a slot counts as moved after its first node changed: for so
// long a connection may be elsewhere than new ones of its slot. Who sees that some still are calls
// Keep.
const MovedFor = 6 * time.Hour

// History knows which slots of a Service have moved lately: where a node that does not know a
// connection has to ask another. Elsewhere it need not even look, which is the cheaper case.
//
// The zero value is for a Service that nothing is known about, as after a restart, or one that was
// not steered until now: all have moved.
type History struct {
	known         bool
	recent, older []uint64 // bits; nil: none
	since         time.Time
}

// Next returns the History after a Service's table was replaced at a time; nil: it was
// not. If nothing is known of it yet, all slots have moved.
func (h History) Next(old, next *Table, now time.Time) History {
	if !h.known {
		h = History{known: true, recent: all(), since: now}
	}
	if old == nil || next == nil || len(old.Slots) == 0 || len(next.Slots) == 0 {
		return h
	}
	recent := append([]uint64(nil), h.recent...)
	for i := range next.Slots {
		if first(old, i) != first(next, i) {
			if recent == nil {
				recent = make([]uint64, words)
			}
			recent[i/64] |= 1 << (i % 64)
		}
	}
	h.recent = recent
	return h
}

func first(t *Table, slot int) string {
	if m := t.First(slot); m != None {
		return t.Members[m].Node
	}
	return ""
}

// Forget begins a new period if the last one lasted long enough. A slot moved in this period or in
// the one before.
func (h History) Forget(now time.Time) History {
	switch {
	case !h.known:
	case now.Sub(h.since) >= 2*MovedFor:
		return History{known: true, since: now}
	case now.Sub(h.since) >= MovedFor:
		return History{known: true, older: h.recent, since: now}
	}
	return h
}

// Keep returns the History with all that moved counted as if it had moved now: connections are
// still elsewhere.
func (h History) Keep(now time.Time) History {
	kept := append([]uint64(nil), h.recent...)
	for i, word := range h.older {
		if i < len(kept) {
			kept[i] |= word
		} else {
			kept = append(kept, word)
		}
	}
	return History{known: h.known, recent: kept, since: now}
}

// Again is when Forget, or Keep, should be called. Zero: never.
func (h History) Again() time.Time {
	if h.recent == nil && h.older == nil {
		return time.Time{}
	}
	return h.since.Add(MovedFor)
}

// Moved reports whether a slot moved lately.
func (h History) Moved(slot int) bool {
	return !h.known || bit(h.recent, slot) || bit(h.older, slot)
}

// AddTo marks in bits, one for each slot, those that moved lately.
func (h History) AddTo(bits []uint64) {
	for i := range bits {
		if !h.known {
			bits[i] = ^uint64(0)
			continue
		}
		if i < len(h.recent) {
			bits[i] |= h.recent[i]
		}
		if i < len(h.older) {
			bits[i] |= h.older[i]
		}
	}
}

func bit(bits []uint64, i int) bool { return i/64 < len(bits) && bits[i/64]>>(i%64)&1 != 0 }

const words = Slots / 64

func all() []uint64 {
	bits := make([]uint64, words)
	for i := range bits {
		bits[i] = ^uint64(0)
	}
	return bits
}
