package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/berth-lb/berth/kubectl/migrate"
	"github.com/berth-lb/berth/kubectl/migrate/steps"
)

const fromMetalLB = `apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: office, namespace: metallb-system}
spec: {addresses: [192.0.2.0/28]}
`

// Objects come on the standard output, the report on the standard error, in the format of -o.
func TestMigrate(t *testing.T) {
	for _, test := range []struct {
		name, in string
		args     []string
		code     int
		out, err string // in the output, and in the report
	}{
		{
			"all is converted", fromMetalLB,
			[]string{"--from", "metallb", "-"}, exitFine, "kind: LoadBalancerPool", "converted",
		},
		{
			"a field has no counterpart", strings.Replace(fromMetalLB, "spec: {", "spec: {color: blue, ", 1),
			[]string{"--from", "metallb", "-o", "json", "-"}, exitFinds, "kind: LoadBalancerPool", `"field": "spec.color"`,
		},
		{"the source is another one", fromMetalLB, []string{"--from", "purelb", "-"}, exitFailed, "", "is --from right?"},
		{"there is no such source", fromMetalLB, []string{"--from", "lvs", "-"}, exitFailed, "", "write one of cilium"},
		{"the source is not named", fromMetalLB, []string{"-"}, exitFailed, "", "from"},
		{
			"a cluster moves from metallb only", "",
			[]string{"--from", "cilium", "--plan"}, exitFailed, "", "from metallb only",
		},
		{
			"a cluster moves without files", fromMetalLB,
			[]string{"--from", "metallb", "--next", "-"}, exitFailed, "", `"-"`,
		},
		{"there are two directions", "", []string{"--from", "metallb", "--next", "--back"}, exitFailed, "", "next"},
		{"it is not YAML", "a: [", []string{"--from", "metallb", "-"}, exitFailed, "", "(standard input)"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var out, errOut bytes.Buffer
			streams := genericiooptions.IOStreams{In: strings.NewReader(test.in), Out: &out, ErrOut: &errOut}
			code := run(t.Context(), streams, append([]string{"migrate"}, test.args...))
			if code != test.code || !strings.Contains(out.String(), test.out) ||
				!strings.Contains(errOut.String(), test.err) {
				t.Errorf("exit code %d, output:\n%s\nreport:\n%s", code, &out, &errOut)
			}
			if test.code == exitFailed && out.Len() > 0 {
				t.Errorf("a command that failed printed\n%s", &out)
			}
			if test.code == exitFinds {
				var result migrate.Result
				if err := json.Unmarshal(errOut.Bytes(), &result); err != nil || len(result.Report) == 0 {
					t.Errorf("the report is not JSON: %v\n%s", err, &errOut)
				}
			}
		})
	}
}

// The steps with -o wide are a script of the next one, with what to check.
func TestPrintPlan(t *testing.T) {
	remove := steps.Action{
		Resource:  schema.GroupVersionResource{Version: "v1", Resource: "pods"},
		Namespace: "a",
		Name:      "b",
	}
	all := []steps.Step{{
		Name: "one", Text: "it is the first",
		Do:   []steps.Phase{{Actions: []steps.Action{remove}, Check: "look"}},
		Undo: []steps.Phase{{Actions: []steps.Action{remove}, Check: "look again", Pending: "not yet"}},
	}, {
		Name: "two", Text: "it is the second",
		Do: []steps.Phase{
			{Actions: []steps.Action{remove}, Check: "look", Pending: "not yet", Stay: 3 * time.Second},
		},
		Undo: []steps.Phase{{Check: "look again"}},
	}, {
		Name: "three", Text: "its commands depend on the second",
		Do: []steps.Phase{{Actions: []steps.Action{remove}, Check: "look", Pending: "not yet"}},
	}}
	for format, want := range map[string]string{
		"wide": `# Run the commands of one step only, wait until its checks hold, and print the plan again: those of
# the steps after it depend on what is there by then. What undoes a step is commented out.

# 1 one (done): it is the first
# to undo it:
# kubectl -n a delete pods/b --ignore-not-found
# check: look again

# 2 two (to do): it is the second
# to do it:
kubectl -n a delete pods/b --ignore-not-found
# check: look, for 3s

# 3 three (to do): its commands depend on the second

`,
		"table": `STEP   NAME    STATE   WHAT IT DOES
1      one     done    it is the first
2      two     to do   it is the second
3      three   to do   its commands depend on the second
`,
	} {
		var out bytes.Buffer
		err := printPlan(&common{IOStreams: genericiooptions.IOStreams{Out: &out}}, &output{format}, all)
		if !errors.Is(err, errFinds) {
			t.Errorf("error %v, want %v since a step is to be done", err, errFinds)
		}
		if got := out.String(); got != want {
			t.Errorf("-o %s printed\n%s\nwant\n%s", format, got, want)
		}
	}
}
