//go:build race

package bgp

import "testing"

// atOnce does nothing: servers of GoBGP v4.8.0 in one process share variables that each writes when
// it starts.
func atOnce(*testing.T) {}

// driversAtOnce is how many drivers run at once, for the same reason.
const driversAtOnce = 1
