package speaker

import (
	"strings"
	"testing"
)

func TestNew_onRestart(t *testing.T) {
	_, err := New(Options{OnRestart: "drop"})
	if err == nil || !strings.Contains(err.Error(), "--on-restart=drop: want hand-over or hold") {
		t.Errorf("%v", err)
	}
}
