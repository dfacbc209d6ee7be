//go:build !root

package bgp

import "testing"

func TestMain(m *testing.M) { verify(m) }
