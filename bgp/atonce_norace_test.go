//go:build !race

package bgp

import "testing"

// atOnce lets a test run at the same time as others: most wait for GoBGP's next attempt to connect.
func atOnce(t *testing.T) { t.Parallel() }

// driversAtOnce is how many drivers a test runs at once.
const driversAtOnce = 4
