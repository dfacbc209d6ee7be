package speaker

import (
	"context"

	"github.com/berth-lb/berth/bgp"
	"github.com/berth-lb/berth/l2"
)

// Driver makes one means of announcing agree with what the plans want. It compares
// what is desired with what is, repairs the difference, and reports what it saw.
type Driver[Desired, Observation any] interface {
	// Sync replaces what is desired of one group, and returns at once. The zero
	// Desired removes the group. Its cost does not depend on other groups.
	Sync(group string, desired Desired)
	// Run does the work until the context ends.
	Run(ctx context.Context) error
	// Observed is the stream of what was seen. It is bounded: who reads slowly
	// loses the oldest, and delays nothing.
	Observed() <-chan Observation
}

var (
	_ Driver[l2.Desired, l2.Observation]   = (*l2.Driver)(nil)
	_ Driver[bgp.Desired, bgp.Observation] = (*bgp.Driver)(nil)
)
