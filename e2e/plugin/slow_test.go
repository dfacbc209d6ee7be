//go:build release

package plugin

import (
	"os"
	"testing"

	"github.com/berth-lb/berth/e2e/stock"
)

// TestDoctorSlowly is TestDoctor for what needs another API server.
func TestDoctorSlowly(t *testing.T) {
	folder, err := stock.Find()
	if err != nil {
		t.Fatal(err)
	}
	if err := folder.BuildKubernetes(t.Context(), os.Stdout, oldKubernetes, "kube-apiserver"); err != nil {
		t.Fatal(err)
	}
	healthy(t)
	for _, a := range slowAilments {
		t.Run(a.name(), func(t *testing.T) { a.find(t) })
		healthy(t)
	}
}
