// Package scheduler is the table of the schedulers of IPVS that Berth knows (ipvsadm(8)): what
// pools and Services may name, what nodes tell each other that they can, and what the kernel is
// asked for.
package scheduler

import "slices"

// Default is that of a pool, and of a Service whose pools no longer name one.
const Default = "rr"

// table gives each scheduler the bit that stands for it in hellos. It means the same on all nodes,
// so entries are added at the end and never change: see docs/design/l2-protocol.md.
var table = [...]struct {
	name string
	bit  uint16
}{
	{"rr", 1 << 0},
	{"wrr", 1 << 1},
	{"lc", 1 << 2},
	{"wlc", 1 << 3},
	{"dh", 1 << 4},
	{"sh", 1 << 5},
	{"sed", 1 << 6},
	{"nq", 1 << 7},
	{"mh", 1 << 8},
}

// Names returns all schedulers, Default first.
func Names() []string {
	names := make([]string, 0, len(table))
	for _, s := range table {
		names = append(names, s.name)
	}
	return names
}

// Known reports whether there is a scheduler of that name.
func Known(name string) bool { return slices.Contains(Names(), name) }

// Bits returns the bits that stand for these schedulers; names that are not known have none.
func Bits(names ...string) uint16 {
	var bits uint16
	for _, s := range table {
		if slices.Contains(names, s.name) {
			bits |= s.bit
		}
	}
	return bits
}
