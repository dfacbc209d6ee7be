package main

import (
	"bytes"
	"io"
	"log/slog"
	"strings"
	"testing"
)

func TestControllerCommandRefusesContradictoryFlags(t *testing.T) {
	c := command()
	c.SetArgs([]string{"controller", "--cloud-provider", "--serve-classless=false"})
	c.SetOut(io.Discard)
	c.SetErr(io.Discard)
	err := c.ExecuteContext(t.Context())
	want := "--cloud-provider and --serve-classless=false contradict each other: as cloud provider Berth serves only Services without spec.loadBalancerClass; remove one of the two flags"
	if err == nil || err.Error() != want {
		t.Errorf("error\n got %v\nwant %s", err, want)
	}
}

func TestModeLogLeader(t *testing.T) {
	const elected, otherMode = `level=INFO msg="leader elected"`, `level=WARN msg="the leader runs in the other mode`
	tests := map[string]struct {
		self   mode
		holder string
		want   string
	}{
		"both reconcilers": {
			self:   reconcilerMode,
			holder: "b",
			want:   elected + " leader=b self=false",
		},
		"itself": {
			self:   reconcilerMode,
			holder: "a",
			want:   elected + " leader=a self=true",
		},
		"itself, as cloud provider": {
			self:   providerMode,
			holder: "a/cloud-provider",
			want:   elected + " leader=a self=true",
		},
		"both cloud providers": {
			self:   providerMode,
			holder: "b/cloud-provider",
			want:   elected + " leader=b self=false",
		},
		"a reconciler and a leading cloud provider": {
			self:   reconcilerMode,
			holder: "b/cloud-provider",
			want:   otherMode,
		},
		"a cloud provider and a leading reconciler": {
			self:   providerMode,
			holder: "b",
			want:   otherMode,
		},
		"its own name, in the other mode": {
			self:   providerMode,
			holder: "a",
			want:   otherMode,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			test.self.logLeader(slog.New(slog.NewTextHandler(&out, nil)), test.holder, "a")
			if !strings.Contains(out.String(), test.want) {
				t.Errorf("logged %q, want %q", out.String(), test.want)
			}
		})
	}
}
