package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/berth-lb/berth/kubectl/dashboard"
	"github.com/berth-lb/berth/kubectl/view"
	"github.com/berth-lb/berth/kubectl/why"
)

func TestScreen(t *testing.T) {
	f := dashboard.Frame{Title: "lab", Stale: "no answer", Snapshot: &dashboard.Snapshot{
		Problems: []string{"node n2 is not ready"},
		Pools: []dashboard.Pool{{
			Pool:        view.Pool{Name: "rack", IPv4: &view.Usage{Total: "51", Assigned: "6", Free: "45"}},
			PercentIPv4: 12, PercentIPv6: -1,
		}},
		Nodes: []dashboard.Node{{Name: "n2", State: "NotReady", Problem: "the node is not ready"}},
		Services: []dashboard.Service{
			{Service: view.Service{Namespace: "shop", Name: "web"}, Health: why.OK},
			{
				Service: view.Service{Namespace: "shop", Name: "api"},
				Health:  why.Failure,
				Problem: "no Pod is\x1b[2J ready",
			},
		},
	}}
	var b bytes.Buffer
	draw(&b, screenOf(f), 80, 24)
	for _, want := range []string{
		"This is old: no answer", "WRONG  node n2 is not ready", "██░░░░░░░░", "6 used, 45 free",
		"Services with problems: 1 of 2", "FAIL   shop/api   no Pod is?[2J ready",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q is not on the screen:\n%s", want, b.String())
		}
	}
	if strings.Contains(b.String(), "shop/web") {
		t.Errorf("a Service without a problem is on the screen:\n%s", b.String())
	}
	b.Reset()
	draw(&b, screenOf(f), 10, 3)
	if got := strings.Count(b.String(), "\n"); got != 2 {
		t.Errorf("a screen of 3 lines has %d line breaks", got)
	}
	if !strings.Contains(b.String(), "This is o…") {
		t.Errorf("a line is not cut to 10 columns: %q", b.String())
	}
}
