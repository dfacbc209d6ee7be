package migrate

import (
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
	"sigs.k8s.io/yaml"

	"github.com/berth-lb/berth/kubectl/lint"
)

var update = flag.Bool("update", false, "write what comes out into testdata")

func newSchemas(t testing.TB) *lint.Schemas {
	t.Helper()
	s, err := lint.NewSchemas()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// convert converts a text, and returns the output as YAML, and the report as lines.
func convert(t testing.TB, s *lint.Schemas, source, text string) (yamlText, report string, result Result) {
	t.Helper()
	objects, err := Read(lint.File{Name: "input", Text: []byte(text)})
	if err != nil {
		t.Fatal(err)
	}
	result, err = From(t.Context(), s, source, "berth-system", objects)
	if err != nil {
		t.Fatal(err)
	}
	var lines, documents []string
	for _, l := range result.Report {
		lines = append(lines, l.Object+"\t"+string(l.Outcome)+"\t"+l.Text()+"\n")
	}
	for _, o := range result.Objects {
		document, err := yaml.Marshal(o.Object)
		if err != nil {
			t.Fatal(err)
		}
		documents = append(documents, string(document))
	}
	return strings.Join(documents, "---\n"), strings.Join(lines, ""), result
}

// Each file of testdata is a configuration, and what becomes of it. The file's name begins with
// that of the source. All that comes out has to be right by the schemas, the rules and the
// compiler.
func TestGolden(t *testing.T) {
	s := newSchemas(t)
	paths, err := filepath.Glob("testdata/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	tried := map[string]bool{}
	for _, path := range paths {
		name := strings.TrimSuffix(filepath.Base(path), ".txtar")
		source, _, _ := strings.Cut(name, "_")
		tried[source] = true
		t.Run(name, func(t *testing.T) {
			archive, err := txtar.ParseFile(path)
			if err != nil {
				t.Fatal(err)
			}
			files := map[string]*txtar.File{}
			for i := range archive.Files {
				files[archive.Files[i].Name] = &archive.Files[i]
			}
			input := string(files["input.yaml"].Data)
			output, report, _ := convert(t, s, source, input)
			for _, f := range s.Files(t.Context(), []lint.File{{Name: "output", Text: []byte(output)}}, true).Findings {
				t.Errorf("lint of the output: line %d: %s: %s: %s", f.Line, f.Object, f.Severity, f.Message)
			}
			for _, secret := range []string{"s3cret", "hunter2"} {
				if strings.Contains(report, secret) {
					t.Errorf("the report has the password %s", secret)
				}
			}
			if *update {
				archive.Files = []txtar.File{
					{Name: "input.yaml", Data: []byte(input)}, {Name: "output.yaml", Data: []byte(output)},
					{Name: "report.txt", Data: []byte(report)},
				}
				if err := os.WriteFile(path, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if want := string(files["output.yaml"].Data); output != want {
				t.Errorf("the output is\n%s\nand should be\n%s", output, want)
			}
			if want := string(files["report.txt"].Data); report != want {
				t.Errorf("the report is\n%s\nand should be\n%s", report, want)
			}
		})
	}
	for _, source := range Sources() {
		if !tried[source] {
			t.Errorf("there is no file for %s", source)
		}
	}
}

// MetalLB uses the pool with the lowest priority first, then those with serviceAllocation and none,
// then those without; Berth uses the highest first.
func TestPrioritiesKeepTheirOrder(t *testing.T) {
	var input strings.Builder
	for i, allocation := range []string{"", "{}", "{priority: 100}", "{priority: 1}", "{priority: 20}", "{priority: 20}"} {
		input.WriteString("---\napiVersion: metallb.io/v1beta1\nkind: IPAddressPool\n")
		input.WriteString("metadata: {name: p" + string(rune('0'+i)) + "}\n")
		input.WriteString("spec:\n  addresses: [198.51.100." + string(rune('0'+i)) + "/32]\n")
		if allocation != "" {
			input.WriteString("  serviceAllocation: " + allocation + "\n")
		}
	}
	_, _, result := convert(t, newSchemas(t), "metallb", input.String())
	want := map[string]int64{"p0": 0, "p1": 10, "p2": 20, "p3": 40, "p4": 30, "p5": 30}
	for _, o := range result.Objects {
		spec, _ := o.Object["spec"].(map[string]any)
		got, _ := spec["priority"].(int64)
		if got != want[o.GetName()] {
			t.Errorf("pool %s has priority %d; it should be %d", o.GetName(), got, want[o.GetName()])
		}
	}
	if len(result.Objects) != len(want) {
		t.Errorf("there are %d pools; there should be %d", len(result.Objects), len(want))
	}
}

func TestNames(t *testing.T) {
	long := strings.Repeat("a", 300)
	c := newConverter("berth-system", nil)
	var got []string
	for _, name := range []string{
		"office", "office", "Rack 7 / tor", "--", long, long + "b", "a..b.-c", strings.Repeat("b", 253),
	} {
		got = append(got, c.nameFor("BGPNeighbor", item{from: "x", name: name}, name))
	}
	got = append(got, c.nameFor("BGPNeighbor", item{from: "x"}, strings.Repeat("b", 253)))
	seen := map[string]bool{}
	for _, name := range got {
		if seen[name] || len(name) > longestName || name != valid(name) {
			t.Errorf("%q is used twice, too long or not valid", name)
		}
		seen[name] = true
	}
	if want := []string{"office", "office-2", "rack-7-tor"}; !slices.Equal(got[:3], want) {
		t.Errorf("the names are %q; they should be %q", got[:3], want)
	}
}

func TestWhatCannotBeConverted(t *testing.T) {
	s := newSchemas(t)
	_, err := From(t.Context(), s, "lvs", "berth-system", nil)
	if err == nil || !strings.Contains(err.Error(), "metallb") {
		t.Errorf("an unknown source: %v", err)
	}
	if _, err := From(t.Context(), s, "metallb", "berth-system", nil); err == nil {
		t.Error("nothing to convert is not an error")
	}
	for _, text := range []string{"kind: [", "a: b", "- x", "kind: XList\nitems: [1]\n"} {
		_, err := Read(lint.File{Name: "f.yaml", Text: []byte(text)})
		if err == nil || !strings.Contains(err.Error(), "f.yaml") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func FuzzFrom(f *testing.F) {
	paths, err := filepath.Glob("testdata/*.txtar")
	if err != nil {
		f.Fatal(err)
	}
	for _, path := range paths {
		archive, err := txtar.ParseFile(path)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range archive.Files {
			if file.Name == "input.yaml" {
				f.Add(file.Data)
			}
		}
	}
	s := newSchemas(f)
	f.Fuzz(func(t *testing.T, text []byte) {
		objects, err := Read(lint.File{Name: "input", Text: text})
		if err != nil {
			return
		}
		for _, source := range Sources() {
			result, err := From(t.Context(), s, source, "berth-system", objects)
			if err != nil {
				continue
			}
			var files []lint.File
			for _, o := range result.Objects {
				document, err := yaml.Marshal(o.Object)
				if err != nil {
					t.Fatal(err)
				}
				files = append(files, lint.File{Name: o.GetName(), Text: document})
			}
			if found := s.Files(t.Context(), files, false); found.Failed(false) {
				t.Errorf("lint of what came of %s: %+v", source, found.Findings)
			}
		}
	})
}
