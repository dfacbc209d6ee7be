package main

import (
	"bytes"
	"io"
	"log/slog"
	"strings"
	"testing"
)

func TestContradictoryFlagsAreRefusedWithOneLine(t *testing.T) {
	c := command()
	c.SetArgs([]string{"controller", "--cloud-provider", "--serve-classless=false"})
	c.SetOut(io.Discard)
	c.SetErr(io.Discard)
	err := c.ExecuteContext(t.Context())
	want := "--cloud-provider and --serve-classless=false contradict each other: as cloud provider Berth serves the Services without spec.loadBalancerClass, and no others; take one of the two out"
	if err == nil || err.Error() != want {
		t.Errorf("error\n got %v\nwant %s", err, want)
	}
}

func TestAnInstanceSaysWhetherTheLeaderRunsTheOtherWay(t *testing.T) {
	for _, c := range []struct {
		name   string
		self   way
		holder string
		want   string
	}{
		{"both reconcilers", false, "b", `level=INFO msg=leader leader=b self=false`},
		{"itself", false, "a", `level=INFO msg=leader leader=a self=true`},
		{"itself, as cloud provider", true, "a/cloud-provider", `level=INFO msg=leader leader=a self=true`},
		{"both cloud providers", true, "b/cloud-provider", `level=INFO msg=leader leader=b self=false`},
		{"a reconciler meets a cloud provider", false, "b/cloud-provider", `level=WARN msg="the leader runs the other way`},
		{"a cloud provider meets a reconciler", true, "b", `level=WARN msg="the leader runs the other way`},
		{"its own name, led the other way", true, "a", `level=WARN msg="the leader runs the other way`},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out bytes.Buffer
			c.self.meet(slog.New(slog.NewTextHandler(&out, nil)), c.holder, "a")
			if !strings.Contains(out.String(), c.want) {
				t.Errorf("logged %q, want %q", out.String(), c.want)
			}
		})
	}
}
