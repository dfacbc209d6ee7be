package steering

import (
	"maps"
	"slices"

	"github.com/berth-lb/berth/speaker/dataplane/steering/program"
	"github.com/berth-lb/berth/speaker/dataplane/steering/table"
)

// location is where in the kernel's pages a table is.
type location struct{ page, start uint32 }

// locations gives places to tables. What was freed is not given away
// again before the next round: packets may still be looking there.
type locations struct {
	pages map[uint32]*page
	freed []location // in this round
	// reserved are pages of a process that was here before.
	reserved map[uint32]bool
}

type page struct {
	free []uint32
	used int
}

func newLocations(reserved []uint32) *locations {
	l := &locations{pages: map[uint32]*page{}, reserved: map[uint32]bool{}}
	for _, p := range reserved {
		l.reserved[p] = true
	}
	return l
}

// take returns a place for a table, and whether it is on a new page. Not ok: there is none left.
func (l *locations) take() (at location, fresh, ok bool) {
	best := uint32(program.MaxPages)
	for i, p := range l.pages {
		if len(p.free) > 0 && i < best {
			best = i
		}
	}
	if best == program.MaxPages {
		if best, ok = l.newPage(); !ok {
			return location{}, false, false
		}
		fresh = true
	}
	p := l.pages[best]
	start := p.free[len(p.free)-1]
	p.free = p.free[:len(p.free)-1]
	p.used++
	return location{best, start}, fresh, true
}

func (l *locations) newPage() (index uint32, ok bool) {
	for index = range uint32(program.MaxPages) {
		if l.pages[index] != nil || l.reserved[index] {
			continue
		}
		p := &page{}
		for start := uint32(0); start+table.Slots <= program.PageSlots; start += table.Slots {
			p.free = append(p.free, start)
		}
		slices.Reverse(p.free)
		l.pages[index] = p
		return index, true
	}
	return 0, false
}

// give frees a place from the next round on.
func (l *locations) give(at location) { l.freed = append(l.freed, at) }

// endRound frees what was given, and returns the pages that nothing is on any more, but for one
// that the next tables find.
func (l *locations) endRound() (empty []uint32) {
	for _, at := range l.freed {
		p := l.pages[at.page]
		p.free = append(p.free, at.start)
		p.used--
	}
	l.freed = nil
	spare := false
	for _, i := range slices.Sorted(maps.Keys(l.pages)) {
		p := l.pages[i]
		if p.used == 0 && spare {
			empty = append(empty, i)
			delete(l.pages, i)
			continue
		}
		spare = spare || len(p.free) > 0
	}
	for i := range l.reserved {
		empty = append(empty, i)
	}
	clear(l.reserved)
	return empty
}
