package decide

// Ranks is how many nodes a slot ranks.
const Ranks = 4

const (
	rankBits = 16
	nodeMask = 0x3fff
	movedBit = 0x4000 // in the first rank
	wasBit   = 0x4000 // in the others; the program does not look at it
	drainBit = 0x8000

	// Nobody is the index of no node.
	Nobody = nodeMask
	// MaxNodes is how many nodes there may be; their indices are below it.
	MaxNodes = 4096
)

// Slot is a slot of a table as the program has it: four nodes in order of rank. It is written and
// read in one piece.
type Slot uint64

// NoSlot ranks nobody.
const NoSlot Slot = nodeMask | nodeMask<<rankBits | nodeMask<<(2*rankBits) | nodeMask<<(3*rankBits)

// With returns the slot with a node at a rank.
func (s Slot) With(rank int, node uint16, drains bool) Slot {
	e := uint64(node & nodeMask)
	if drains {
		e |= drainBit
	}
	keep := uint64(s) &^ ((nodeMask | drainBit) << (rank * rankBits))
	return Slot(keep | e<<(rank*rankBits))
}

// WithMoved returns the slot, marked as one that moved lately or not.
func (s Slot) WithMoved(moved bool) Slot {
	if moved {
		return s | movedBit
	}
	return s &^ movedBit
}

// At returns who is at a rank, and whether it drains.
func (s Slot) At(rank int) (node uint16, drains bool) {
	e := uint16(s >> (rank * rankBits))
	return e & nodeMask, e&drainBit != 0
}

// WithWas returns the slot with a mark at a rank but the best one: its node was the first lately.
func (s Slot) WithWas(rank int) Slot { return s | wasBit<<(rank*rankBits) }

// Was reports whether a rank has that mark.
func (s Slot) Was(rank int) bool { return rank > 0 && s>>(rank*rankBits)&wasBit != 0 }

// Moved reports whether the slot's first node changed lately.
func (s Slot) Moved() bool { return s&movedBit != 0 }

// First returns the best node that does not drain; Nobody if there is none.
func (s Slot) First() uint16 {
	for i := range Ranks {
		if n, drains := s.At(i); n != Nobody && !drains {
			return n
		}
	}
	return Nobody
}
