//go:build root

package api

import (
	"context"
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilversion "k8s.io/apimachinery/pkg/util/version"

	"github.com/berth-lb/berth/e2e/stage"
)

var rewrite = flag.Bool("rewrite", false, "rewrite the answers in testdata/inputs.txtar")

const inputsFile = "testdata/inputs.txtar"

// An input of the file is what a user applies; its answer is what the API server says if it refuses
// that, or otherwise what the conditions of the object say once the controller has looked at it.
// Each pair is of one name, NAME.yaml and NAME.answer. Objects stay until the end of their section,
// which a comment in front of the first input begins: # section NAME. An input with the comment
// # server-side is applied that way.
func TestEachInputGetsItsAnswer(t *testing.T) {
	archive, err := txtar.ParseFile(inputsFile)
	must(t, err)
	ns := namespace(t)
	start(t)
	var made []*unstructured.Unstructured
	cleanUp := func() {
		for _, o := range slices.Backward(made) {
			must(t, resource(t, o.GetKind(), ns).Delete(context.WithoutCancel(t.Context()), o.GetName(), metav1.DeleteOptions{}))
		}
		made = nil
	}
	defer cleanUp()
	named := namesValues(t)
	inputs := 0
	for i := 0; i+1 < len(archive.Files); i += 2 {
		input, answer := archive.Files[i], &archive.Files[i+1]
		name, isInput := strings.CutSuffix(input.Name, ".yaml")
		if !isInput || answer.Name != name+".answer" {
			t.Fatalf("%s is followed by %s: want NAME.yaml and NAME.answer", input.Name, answer.Name)
		}
		if strings.Contains(string(input.Data), "# section") {
			cleanUp()
		}
		inputs++
		got, o := answerTo(t, ns, string(input.Data))
		if o != nil {
			made = append(made, o)
		}
		if *rewrite {
			answer.Data = []byte(got)
		} else if diff := cmp.Diff(named(string(answer.Data)), named(got)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	if inputs < 60 {
		t.Errorf("%d inputs, want 60 or more", inputs)
	}
	if *rewrite {
		must(t, os.WriteFile(inputsFile, txtar.Format(archive), 0o644))
	}
}

// invalidValue matches the value that a rule of a CRD refused.
var invalidValue = regexp.MustCompile(`Invalid value: (?:"(?:[^"\\]|\\.)*"|null): `)

// since reports whether the cluster's version is that one or later.
func since(t *testing.T, version string) bool {
	t.Helper()
	info, err := scene.Kubernetes.Discovery().ServerVersion()
	must(t, err)
	have, err := utilversion.ParseGeneric(info.GitVersion)
	must(t, err)
	return have.AtLeast(utilversion.MustParseGeneric(version))
}

// namesValues returns what leaves the refused values out of an answer on a cluster that names their
// types instead: before 1.35 the API server does.
func namesValues(t *testing.T) func(string) string {
	t.Helper()
	if since(t, "1.35.0") {
		return func(answer string) string { return answer }
	}
	return func(answer string) string { return invalidValue.ReplaceAllString(answer, "Invalid value: ") }
}

// answerTo returns what a user is told who applies this, and the object, if it was taken.
func answerTo(t *testing.T, ns, input string) (string, *unstructured.Unstructured) {
	t.Helper()
	o := parsed(t, input)
	of := resource(t, o.GetKind(), ns)
	how := []string{"apply", "-n", ns, "-f", "-"}
	if strings.HasPrefix(input, "# server-side\n") {
		how = append(how, "--server-side") // kubectl drops nulls otherwise
	}
	_, err := scene.Kubectl(t.Context(), input, how...)
	if err != nil {
		return refusal(err, ns), nil
	}
	var answer string
	must(t, stage.Eventually(t.Context(), patience, func(ctx context.Context) error {
		seen, err := of.Get(ctx, o.GetName(), metav1.GetOptions{})
		if err != nil {
			return err
		}
		observed, _, _ := unstructured.NestedInt64(seen.Object, "status", "observedGeneration")
		if observed != seen.GetGeneration() && o.GetKind() != "Speaker" { // no speaker runs here
			return fmt.Errorf("%s %s: generation %d was observed, want %d", o.GetKind(), o.GetName(), observed, seen.GetGeneration())
		}
		answer = strings.ReplaceAll(conditionsIn(seen), ns, "NAMESPACE")
		return nil
	}))
	return answer, o
}

// refusal is the API server's answer, one line for each field.
func refusal(err error, ns string) string {
	text := err.Error()
	if i := strings.Index(text, "The "); i >= 0 {
		text = text[i:]
	} else if i := strings.LastIndex(text, "strict decoding error"); i >= 0 {
		text = text[i:]
	}
	return strings.TrimSpace(strings.ReplaceAll(text, ns, "NAMESPACE")) + "\n"
}

// conditionsIn returns the conditions of an object that say something, one on a line.
func conditionsIn(o *unstructured.Unstructured) string {
	list, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions")
	var lines []string
	for _, c := range list {
		condition, ok := c.(map[string]any)
		if !ok {
			continue
		}
		status, kind := fmt.Sprint(condition["status"]), fmt.Sprint(condition["type"])
		quiet := kind != "Ready" && kind != "Accepted"
		if quiet && status == string(metav1.ConditionFalse) || kind == "Established" {
			continue
		}
		lines = append(lines, fmt.Sprintf("%s=%s %s: %s\n", kind, status, condition["reason"], condition["message"]))
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}
