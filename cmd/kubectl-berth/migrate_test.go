package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/berth-lb/berth/kubectl/migrate"
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
