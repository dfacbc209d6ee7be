//go:build root

package plugin

import (
	"slices"
	"testing"
)

// TestDoctor makes each thing wrong, and looks for the finding; at last, all is well again.
func TestDoctor(t *testing.T) {
	healthy(t)
	for _, a := range slices.Concat(clusterAilments, berthAilments) {
		t.Run(a.name(), func(t *testing.T) { a.find(t) })
	}
	healthy(t)
}
