package main

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func TestLibraryLog(t *testing.T) {
	for _, c := range []struct {
		name string
		err  error
		want string
	}{
		{
			name: "another instance was first",
			err:  apierrors.NewAlreadyExists(schema.GroupResource{Resource: "leases"}, "berth-controller"),
			want: "level=INFO",
		},
		{name: "an error", err: errors.New("refused"), want: "level=ERROR"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var log bytes.Buffer
			logger := logr.FromSlogHandler(libraryLog{slog.NewTextHandler(&log, nil)}).WithName("election").WithValues("a", 1)
			logger.Error(c.err, "Error initially creating lease lock", "lock", "berth-system/berth-controller")
			if !strings.Contains(log.String(), c.want) {
				t.Errorf("logged %q, want %s", log.String(), c.want)
			}
		})
	}
}
