package lint

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
)

func schemas(t testing.TB) *Schemas {
	t.Helper()
	s, err := NewSchemas()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestWhatTheAPIServerSays takes the inputs whose answers the tests of the API recorded: lint has
// to find what the API server refuses, and to say what the conditions say.
func TestWhatTheAPIServerSays(t *testing.T) {
	archive, err := txtar.ParseFile("../../e2e/api/testdata/inputs.txtar")
	if err != nil {
		t.Fatal(err)
	}
	answers := map[string]string{}
	for _, f := range archive.Files {
		if name, is := strings.CutSuffix(f.Name, ".answer"); is {
			answers[name] = string(f.Data)
		}
	}
	s := schemas(t)
	var section []File
	judged := 0
	for _, f := range archive.Files {
		name, is := strings.CutSuffix(f.Name, ".yaml")
		if !is {
			continue
		}
		if strings.HasPrefix(string(f.Data), "# section:") {
			section = nil
		}
		answer := answers[name]
		refused := !strings.Contains(answer, "=True") && !strings.Contains(answer, "=False") &&
			!strings.Contains(answer, "=Unknown")
		file := File{Name: name, Text: f.Data}
		var said []string
		failed := false
		for _, finding := range s.Files(t.Context(), append(section[:len(section):len(section)], file), false).Findings {
			if finding.File == name {
				said = append(said, finding.Message)
				failed = failed || finding.Severity == Error
			}
		}
		text := strings.Join(said, "\n")
		judged++
		switch {
		case refused && !failed:
			t.Errorf("%s: the API server says %q, lint says %q", name, answer, text)
		case !refused:
			section = append(section, file)
			if condition := of(answer, "Ready=False "); condition != "" && text == "" {
				t.Errorf("%s: the condition says %q, and lint nothing", name, condition)
			}
			if of(answer, "Ready=True ") != "" && failed {
				t.Errorf("%s: the condition says %q, and lint %q", name, answer, text)
			}
		}
	}
	if judged < 100 {
		t.Errorf("there were %d inputs", judged)
	}
}

// of returns the line that begins so.
func of(answer, prefix string) string {
	for line := range strings.Lines(answer) {
		if strings.HasPrefix(line, prefix) {
			return line
		}
	}
	return ""
}

// The examples of the documentation are right.
func TestExamples(t *testing.T) {
	names, err := filepath.Glob("../../docs/reference/examples/*.yaml")
	if err != nil || len(names) == 0 {
		t.Fatalf("%d examples, %v", len(names), err)
	}
	var files []File
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, File{Name: filepath.Base(name), Text: text})
	}
	for _, f := range schemas(t).Files(t.Context(), files, false).Findings {
		if f.Severity == Error {
			t.Errorf("%+v", f)
		}
	}
}

const pool = `apiVersion: berth.dev/v1alpha1
kind: LoadBalancerPool
metadata: {name: office}
spec: {addresses: [192.0.2.0/28], scopes: [{namespaceSelector: {}, serviceSelector: {}}]}
`

const neighbor = `apiVersion: berth.dev/v1alpha1
kind: BGPNeighbor
metadata: {name: tor}
spec:
  address: 192.0.2.1
  localASN: 64512
  remoteASN: 64513
  nodeSelector: {}
  authentication:
    type: TCPMD5
    tcpMD5:
      secretName: tor
`

// In files nobody is older: both pools are told of the other.
func TestPoolsThatOverlapInFiles(t *testing.T) {
	other := strings.Replace(pool, "name: office", "name: rack", 1)
	findings := schemas(
		t,
	).Files(t.Context(), []File{{"a.yaml", []byte(pool)}, {"b.yaml", []byte(other)}}, true).
		Findings
	if len(findings) != 2 {
		t.Fatalf("found %+v", findings)
	}
	for i, name := range []string{"rack", "office"} {
		remedy := ""
		if i == 1 { // by its name it would come second
			remedy = ": of office to have it here"
		}
		want := "spec.addresses: 192.0.2.0/28 is in LoadBalancerPool " + name +
			" too, and only one of them can have it; take it out of one of the two" + remedy
		if f := findings[i]; f.Message != want || f.Line != 4 {
			t.Errorf("found %+v, want line 4 with %q", f, want)
		}
	}
}

func TestFindings(t *testing.T) {
	s := schemas(t)
	for _, test := range []struct {
		name, text string
		complete   bool
		severity   Severity
		says       string // in the only finding; empty: there is none
		line       int
	}{
		{name: "nothing wrong", text: pool},
		{
			name:     "a field that is not there",
			text:     strings.Replace(pool, "addresses:", "adresses: [], addresses:", 1),
			severity: Error,
			says:     "spec.adresses: there is no such field",
			line:     4,
		},
		{
			name:     "a kind that is not there",
			text:     strings.Replace(pool, "LoadBalancerPool", "IPPool", 1),
			severity: Error,
			says:     `kind "IPPool" is not one of berth.dev's`,
			line:     2,
		},
		{
			name:     "a version that is not there",
			text:     strings.Replace(pool, "v1alpha1", "v1", 1),
			severity: Error,
			says:     "write berth.dev/v1alpha1",
			line:     1,
		},
		{
			name:     "a rule of a kind",
			text:     strings.Replace(pool, "192.0.2.0/28", "192.0.2.1/28", 1),
			severity: Error,
			says:     "192.0.2.1/28 has host bits set",
			line:     4,
		},
		{
			name:     "the compiler",
			text:     strings.Replace(pool, "192.0.2.0/28", "192.0.2.9-192.0.2.2", 1),
			severity: Error,
			says:     "is reversed; write 192.0.2.2-192.0.2.9",
			line:     4,
		},
		{
			name:     "twice",
			text:     pool + "---\n# again\n" + pool,
			severity: Error,
			says:     "it is in f.yaml line 1, too",
			line:     7,
		},
		{
			name:     "a key twice",
			text:     strings.Replace(pool, "spec:", "spec: {}\nspec:", 1),
			severity: Error,
			says:     "already set in map",
			line:     1,
		},
		{name: "no YAML", text: "a: [", severity: Error, says: "it is not YAML", line: 1},
		{name: "no object", text: "- a\n- b\n", severity: Error, says: "it has no fields", line: 1},
		{name: "other kinds", text: "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n"},
		{
			name: "a group without a version", text: strings.Replace(pool, "/v1alpha1", "", 1),
			severity: Error, says: "write berth.dev/v1alpha1", line: 1,
		},
		{
			name: "no version", text: strings.Replace(pool, "apiVersion: berth.dev/v1alpha1\n", "", 1),
			severity: Error, says: "write berth.dev/v1alpha1", line: 1,
		},
		{
			name: "another group", text: strings.Replace(pool, "berth.dev/", "berth.dev.io/", 1),
			severity: Error, says: "write berth.dev/v1alpha1", line: 1,
		},
		{
			name: "on the line of ---", text: "--- {apiVersion: berth.dev/v1alpha1, kind: LoadBalancerPol}\n",
			severity: Error, says: "is not one of berth.dev's", line: 1,
		},
		{
			name: "a list in a list", text: `{"kind": "List", "items": [{"kind": "List", "items": [{"apiVersion": "berth.dev/v1alpha1", "kind": "x"}]}]}`,
			severity: Error, says: "is not one of berth.dev's", line: 1,
		},
		{
			name: "twice, once with the namespace default",
			text: "apiVersion: v1\nkind: Service\nmetadata: {name: x}\n---\n" +
				"apiVersion: v1\nkind: Service\nmetadata: {name: x, namespace: default}\n",
			severity: Error, says: "too; only the last one", line: 5,
		},
		{
			name:     "a pool that is elsewhere",
			text:     "apiVersion: berth.dev/v1alpha1\nkind: SegmentAnnouncement\nmetadata: {name: x}\nspec: {poolNames: [offce], nodeSelector: {}, serviceSelector: {}}\n",
			severity: Warning, says: "(it is not among these files)", line: 4,
		},
		{
			name:     "a pool that is nowhere",
			text:     "apiVersion: berth.dev/v1alpha1\nkind: SegmentAnnouncement\nmetadata: {name: x}\nspec: {poolNames: [offce], nodeSelector: {}, serviceSelector: {}}\n",
			complete: true, severity: Error, says: `no LoadBalancerPool "offce" exists`, line: 4,
		},
		{
			name:     "an annotation with a typing error",
			text:     "apiVersion: v1\nkind: Service\nmetadata: {name: x, annotations: {berth.dev/loadbalancer-ips: 192.0.2.1}}\nspec: {type: LoadBalancer}\n",
			severity: Error, says: "did you mean berth.dev/load-balancer-ips?", line: 3,
		},
		{
			name:     "an annotation of another load balancer",
			text:     "apiVersion: v1\nkind: Service\nmetadata: {name: x, annotations: {metallb.io/loadBalancerIPs: 192.0.2.1}}\nspec: {type: LoadBalancer}\n",
			severity: Warning, says: "is MetalLB's, and Berth ignores it", line: 3,
		},
		{
			name:     "an address that is none",
			text:     "apiVersion: v1\nkind: Service\nmetadata: {name: x, annotations: {berth.dev/load-balancer-ips: 192.0.2}}\nspec: {type: LoadBalancer}\n",
			severity: Error, says: "192.0.2", line: 3,
		},
		{
			name:     "an address that no pool has",
			text:     pool + "---\napiVersion: v1\nkind: Service\nmetadata: {name: x}\nspec: {type: LoadBalancer, loadBalancerIP: 203.0.113.1}\n",
			complete: true, severity: Error, says: "203.0.113.1 is in no LoadBalancerPool", line: 6,
		},
		{
			name: "the line of a field in a list",
			text: "apiVersion: v1\nkind: List\nitems:\n- apiVersion: berth.dev/v1alpha1\n  kind: LoadBalancerPool\n" +
				"  metadata:\n    name: office\n  spec:\n    scopes: [{namespaceSelector: {}, serviceSelector: {}}]\n" +
				"    addresses:\n    - 192.0.2.0/28\n    # a comment\n    - 192.0.2.9-192.0.2.2\n",
			severity: Error, says: "spec.addresses[1]", line: 13,
		},
		{
			name:     "the line around a field that is missing",
			text:     "# first\n" + strings.Replace(pool, "addresses: [192.0.2.0/28], ", "", 1),
			severity: Error, says: "spec.addresses: Required value", line: 5,
		},
		{
			name: "the line of a field by an alias",
			text: "apiVersion: berth.dev/v1alpha1\nkind: LoadBalancerPool\nmetadata: {name: office, annotations: &all {a: b}}\n" +
				"spec:\n  addresses: [192.0.2.0/28]\n  scopes:\n  - namespaceSelector: {}\n    serviceSelector:\n" +
				"      matchLabels: *all\n      matchExpresions: []\n",
			severity: Error, says: "spec.scopes[0].serviceSelector.matchExpresions: there is no such field", line: 10,
		},
		{
			name: "the line of an annotation",
			text: "apiVersion: v1\nkind: Service\nmetadata:\n  name: x\n  annotations:\n    a: b\n" +
				"    berth.dev/pools: offce\nspec: {type: LoadBalancer}\n",
			severity: Warning, says: `no LoadBalancerPool "offce" exists`, line: 7,
		},
		{
			name:     "a Secret of another type",
			text:     neighbor + "---\napiVersion: v1\nkind: Secret\nmetadata: {name: tor}\nstringData: {password: x}\n",
			severity: Error, says: "Secret tor in f.yaml line 14 is of type Opaque", line: 12,
		},
		{
			name: "a Secret with another key",
			text: neighbor + "---\napiVersion: v1\nkind: Secret\ntype: kubernetes.io/basic-auth\n" +
				"metadata: {name: tor}\nstringData: {pasword: x}\n",
			severity: Error, says: `the value of "password" in Secret "tor" has 0 bytes`, line: 12,
		},
		{
			name:     "a Secret that is elsewhere",
			text:     neighbor,
			severity: Warning, says: "(it is not among these files)", line: 12,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := s.Files(t.Context(), []File{{"f.yaml", []byte(test.text)}}, test.complete)
			if test.says == "" {
				if len(r.Findings) > 0 {
					t.Errorf("found %+v", r.Findings)
				}
				return
			}
			if len(r.Findings) != 1 || r.Findings[0].Severity != test.severity || r.Findings[0].Line != test.line ||
				!strings.Contains(r.Findings[0].Message, test.says) {
				t.Errorf("found %+v, want one %s in line %d with %q", r.Findings, test.severity, test.line, test.says)
			}
		})
	}
}

// FuzzFiles: whatever is in a file, there is an answer.
func FuzzFiles(f *testing.F) {
	f.Add([]byte(pool))
	f.Add([]byte("kind: List\nitems: [1, {kind: Service}]"))
	f.Add([]byte("---\n--- a\n\x00"))
	s := schemas(f)
	f.Fuzz(func(t *testing.T, text []byte) {
		s.Files(t.Context(), []File{{"f", text}}, true)
	})
}
