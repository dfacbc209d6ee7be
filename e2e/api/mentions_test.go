//go:build root

package api

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/e2e/stage"
)

// mention is a resource that a kubectl command in a text names.
type mention struct{ verb, name, group string }

var (
	verbs = []string{"get", "describe", "explain", "wait", "annotate", "label", "delete", "patch", "edit"}
	// Flags with a value of their own behind them.
	valued = []string{
		"-n", "--namespace", "-l", "--selector", "-o", "--output", "-f", "--filename", "-k", "--kustomize", "-p", "--patch",
		"--type", "--for", "--timeout", "--context", "--field-selector", "--sort-by", "--subresource",
	}
	resourceArgument = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9.,-]*`)
)

// mentions returns what the kubectl commands in a text name. A command ends with its line or,
// where it stands in inline code, with that.
func mentions(text string) []mention {
	var found []mention
	for {
		before, after, ok := strings.Cut(text, "kubectl")
		if !ok {
			return found
		}
		text = after
		if strings.TrimLeft(after, " \n") == after {
			continue // another word
		}
		end := "`\n"
		if strings.HasSuffix(before, "`") {
			end = "`"
		}
		if i := strings.IndexAny(after, end); i >= 0 {
			after = after[:i]
		}
		found = append(found, named(strings.Fields(after))...)
	}
}

// named returns what a command of these words names.
func named(words []string) []mention {
	var arguments []string
	for i := 0; i < len(words); i++ {
		switch {
		case slices.Contains(valued, words[i]):
			i++
		case !strings.HasPrefix(words[i], "-"):
			arguments = append(arguments, words[i])
		}
	}
	if len(arguments) < 2 || !slices.Contains(verbs, arguments[0]) {
		return nil
	}
	verb, resources := arguments[0], arguments[1:2]
	if strings.Contains(arguments[1], "/") { // TYPE/NAME; there may be more
		resources = slices.DeleteFunc(arguments[1:], func(a string) bool { return !strings.Contains(a, "/") })
	}
	var found []mention
	for _, r := range resources {
		for name := range strings.SplitSeq(strings.TrimRight(resourceArgument.FindString(r), ".,"), ",") {
			name, group, _ := strings.Cut(name, ".")
			if name == strings.ToUpper(name) {
				continue // stands for a name
			}
			found = append(found, mention{verb, strings.ToLower(name), groupOf(verb, group)})
		}
	}
	return found
}

// groupOf returns the group of what follows the first dot of an argument: a group, with a
// version or without, or a path of fields.
func groupOf(verb, suffix string) string {
	own := v1alpha1.GroupVersion
	group := strings.TrimPrefix(suffix, own.Version+".")
	switch {
	case strings.HasPrefix(group+".", own.Group+"."):
		return own.Group
	case verb == "explain":
		return ""
	}
	return group
}

// literals returns the string literals of a Go file, those that are added up as one.
func literals(file *ast.File) []string {
	var found []string
	ast.Inspect(file, func(n ast.Node) bool {
		if e, ok := n.(ast.Expr); ok {
			if s, ok := constant(e); ok {
				found = append(found, s)
				return false
			}
		}
		return true
	})
	return found
}

// constant returns the text of a literal or a sum with one, whose other terms stand as %v.
func constant(e ast.Expr) (text string, ok bool) {
	switch e := e.(type) {
	case *ast.BasicLit:
		text, err := strconv.Unquote(e.Value)
		return text, e.Kind == token.STRING && err == nil
	case *ast.BinaryExpr:
		left, l := constant(e.X)
		right, r := constant(e.Y)
		return left + right, e.Op == token.ADD && (l || r)
	}
	return "%v", false
}

// misnamed returns what docs and messages call by names that are not Berth's or Kubernetes' own,
// and what messages call by names that are not qualified: those reach people whose cluster has
// kinds that nobody here knows.
func misnamed(t *testing.T, resolvers []resolver) []string {
	t.Helper()
	manifest, err := stage.Manifest()
	must(t, err)
	root := filepath.Dir(filepath.Dir(manifest))
	var faults []string
	for _, file := range files(t, root, ".md", "README.md", "docs") {
		text, err := os.ReadFile(filepath.Join(root, file))
		must(t, err)
		for _, m := range mentions(string(text)) {
			faults = append(faults, m.faults(file, resolvers, false)...)
		}
	}
	for _, file := range files(t, root, ".go", ".") {
		if strings.HasPrefix(file, "e2e/") {
			continue // no user reads it, and it speaks of other projects
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, file), nil, parser.SkipObjectResolution)
		must(t, err)
		for _, literal := range literals(parsed) {
			for _, m := range mentions(literal) {
				faults = append(faults, m.faults(file, resolvers, true)...)
			}
		}
	}
	return faults
}

// files returns the files with a suffix in or below folders, without tests and hidden folders.
func files(t *testing.T, root, suffix string, in ...string) []string {
	t.Helper()
	var found []string
	for _, name := range in {
		before := len(found)
		must(t, fs.WalkDir(os.DirFS(root), name, func(path string, entry fs.DirEntry, err error) error {
			if err == nil && entry.IsDir() && path != "." && strings.HasPrefix(entry.Name(), ".") {
				return fs.SkipDir
			}
			if err == nil && strings.HasSuffix(path, suffix) && !strings.HasSuffix(path, "_test.go") {
				found = append(found, path)
			}
			return err
		}))
		if len(found) == before {
			t.Fatalf("%s has no files %s", name, suffix)
		}
	}
	return found
}

// faults returns what is wrong with the mention.
func (m mention) faults(file string, resolvers []resolver, qualified bool) []string {
	berth := v1alpha1.GroupVersion.Group
	if m.group == "" && slices.ContainsFunc(own, func(n names) bool { return slices.Contains(n.Categories, m.name) }) {
		return nil // a category has no group, and is nobody else's
	}
	var faults []string
	for _, r := range resolvers {
		found, err := r.resolve(m.name, m.group)
		switch {
		case err != nil:
			faults = append(faults, fmt.Sprintf("%s: kubectl %s %s: %v", file, m.verb, m.name, err))
		case found.Group == berth && qualified && m.group == "":
			faults = append(faults, fmt.Sprintf("%s: kubectl %s %s: write %s", file, m.verb, m.name, found))
		case m.group == "" && r.foreign[found.Group] != nil:
			faults = append(faults, fmt.Sprintf("%s: kubectl %s %s: that is %s", file, m.verb, m.name, found))
		}
	}
	return slices.Compact(faults)
}

func TestMentions(t *testing.T) {
	for text, want := range map[string][]mention{
		"see kubectl get speakers.":                                      {{"get", "speakers", ""}},
		"(kubectl get loadbalancerpools.berth.dev), or add it":           {{"get", "loadbalancerpools", "berth.dev"}},
		"Then `kubectl get lbpool,segann,routeann` (column READY) and":   {{"get", "lbpool", ""}, {"get", "segann", ""}, {"get", "routeann", ""}},
		"`kubectl\nget -A l2owners.v1alpha1.berth.dev` shows":            {{"get", "l2owners", "berth.dev"}},
		"    kubectl -n berth-system delete daemonset/a deployment/b -f": {{"delete", "daemonset", ""}, {"delete", "deployment", ""}},
		"kubectl explain LoadBalancerPool.spec.ipvs.scheduler":           {{"explain", "loadbalancerpool", ""}},
		"kubectl explain loadbalancerpools.berth.dev.spec":               {{"explain", "loadbalancerpools", "berth.dev"}},
		"kubectl get ippools.crd.projectcalico.org -o yaml":              {{"get", "ippools", "crd.projectcalico.org"}},
		"kubectl annotate --overwrite node n1 a=b\nkubectl get pods":     {{"annotate", "node", ""}, {"get", "pods", ""}},
		"kubectl wait --for condition=Ready bgpn/tor":                    {{"wait", "bgpn", ""}},
		"kubectl explain KIND.spec":                                      nil,
		"kubectl get %s":                                                 nil,
		"kubectl apply -k manifests; kubectl wait, Flux and kubectl-ko":  nil,
		"`kubectl describe` what\nyou see":                               nil,
	} {
		if diff := cmp.Diff(want, mentions(text), cmp.AllowUnexported(mention{})); diff != "" {
			t.Errorf("%q:\n%s", text, diff)
		}
	}
}

func TestLiterals(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "", `package p
const one = "a" + "b" // "comment"
var two = f(1, "see kubectl "+"get %s for "+name+" or "+"c", `+"`d`"+`)`, parser.SkipObjectResolution)
	must(t, err)
	want := []string{"ab", "see kubectl get %s for %v or c", "d"}
	if diff := cmp.Diff(want, literals(file)); diff != "" {
		t.Error(diff)
	}
}
