//go:build release

package release

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/berth-lb/berth/e2e/lab"
	"github.com/berth-lb/berth/e2e/stage"
)

// foretold is how many connections are compared with what kubectl berth says.
const foretold = 20

// foretell opens connections, and has kubectl berth why say for each where it is.
func (r *steeringRack) foretell(t *testing.T) {
	t.Helper()
	on := map[string]int{}
	for range foretold {
		conn, err := r.Dial(t.Context(), lab.Client, "tcp", r.segment.port())
		if err != nil {
			t.Fatal(err)
		}
		answer, err := stage.Say(conn, time.Now().Add(patience))
		client := conn.LocalAddr().String()
		conn.Close()
		if err != nil {
			t.Fatal(err)
		}
		out, errOut, code := plugin(
			t, r.Stage, "why", r.segment.name, "-n", steeredNamespace, "--client", client, "--port", "7000",
			"--protocol", "TCP", "-o", "json",
		)
		var report struct {
			To    string
			Nodes []struct {
				By    string
				Owner bool
				Node  string
			}
		}
		if err := json.Unmarshal([]byte(out), &report); err != nil || code != 0 {
			t.Fatalf("why --client %s: exit code %d, %v\n%s%s", client, code, err, out, errOut)
		}
		if report.To != answer.Node {
			t.Errorf("%s is on %s, and kubectl berth says %s:\n%s", client, answer.Node, report.To, out)
		}
		if len(report.Nodes) != len(r.Nodes()) {
			t.Errorf("%d nodes say where %s goes, of %d", len(report.Nodes), client, len(r.Nodes()))
		}
		for _, n := range report.Nodes {
			if n.Owner != (n.By == "n1") || n.Node != answer.Node {
				t.Errorf("%s is on %s, and %+v", client, answer.Node, n)
			}
		}
		on[answer.Node]++
	}
	if on["n2"] == 0 || on["n3"] == 0 {
		t.Errorf("the connections are on %v, want some on each of n2 and n3", on)
	}
	out, errOut, code := plugin(
		t, r.Stage, "why", r.segment.name, "-n", steeredNamespace, "--client", "172.30.0.9:40000", "--port", "line",
	)
	if code != 0 || !strings.Contains(out, "\nWhy:  a new connection goes to n") {
		t.Errorf("why --client: exit code %d\n%s%s", code, out, errOut)
	}
	t.Log(out)
}
