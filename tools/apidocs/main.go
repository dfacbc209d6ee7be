// Command apidocs writes the reference of the API, as Markdown, from the CRDs: they hold what is in
// the types, and what the API server makes of it. Arguments: the directory of the CRDs, that of
// examples, and the Go file with the annotations.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/yaml"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "apidocs:", err)
		os.Exit(1)
	}
}

// order in which a reader meets the kinds.
var order = []string{
	"LoadBalancerPool", "SegmentAnnouncement", "RouteAnnouncement", "BGPNeighbor", "AddressReservation",
	"Speaker", "L2Owner",
}

func run(args []string) error {
	if len(args) != 3 {
		return errors.New("want the directories of CRDs and examples, and the file with the annotations")
	}
	files, err := filepath.Glob(filepath.Join(args[0], "*.yaml"))
	if err != nil {
		return err
	}
	var definitions []*apiextensions.CustomResourceDefinition
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		crd := &apiextensions.CustomResourceDefinition{}
		if err := yaml.UnmarshalStrict(text, crd); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		definitions = append(definitions, crd)
	}
	rank := func(c *apiextensions.CustomResourceDefinition) int { return slices.Index(order, c.Spec.Names.Kind) }
	slices.SortFunc(definitions, func(a, b *apiextensions.CustomResourceDefinition) int { return rank(a) - rank(b) })
	p := &page{}
	p.line("# API reference\n\nGenerated from `config/v1alpha1` by `make generate`. Group `berth.dev`, version `v1alpha1`. `kubectl explain` prints the same text.\n")
	for _, crd := range definitions {
		p.line("- [%s](#%s)", crd.Spec.Names.Kind, strings.ToLower(crd.Spec.Names.Kind))
	}
	p.line("- [Annotations and labels](#annotations-and-labels)")
	for _, crd := range definitions {
		example, err := os.ReadFile(filepath.Join(args[1], crd.Spec.Names.Plural+".yaml"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		p.kind(crd, string(example))
	}
	if err := p.annotations(args[2]); err != nil {
		return err
	}
	_, err = os.Stdout.Write(p.Bytes())
	return err
}

// page collects the text of the reference.
type page struct{ bytes.Buffer }

func (p *page) line(format string, args ...any) { fmt.Fprintf(p, format+"\n", args...) }

func (p *page) kind(crd *apiextensions.CustomResourceDefinition, example string) {
	names, version := crd.Spec.Names, crd.Spec.Versions[0]
	scope := "cluster-scoped"
	if crd.Spec.Scope == apiextensions.NamespaceScoped {
		scope = "namespaced"
	}
	p.line("\n## %s\n\n%s\n", names.Kind, prose(version.Schema.OpenAPIV3Schema.Description))
	p.line("It is %s. `kubectl get %s`, or `kubectl get %s`.\n", scope, names.Plural, strings.Join(names.ShortNames, ", "))
	if example != "" {
		p.line("```yaml\n%s```", example)
	}
	for _, part := range []string{"spec", "status"} {
		schema, ok := version.Schema.OpenAPIV3Schema.Properties[part]
		if !ok {
			continue
		}
		p.line("\n### %s: %s\n\n%s\n", names.Kind, part, prose(schema.Description))
		p.fields(schema, 0)
		if rules := rulesOf(schema); len(rules) > 0 {
			p.line("\nThe API server refuses what breaks a rule of these:\n")
			for _, r := range rules {
				p.line("- %s", r)
			}
		}
	}
	p.columns(version.AdditionalPrinterColumns)
}

func (p *page) columns(columns []apiextensions.CustomResourceColumnDefinition) {
	var usual, wide []string
	for _, c := range columns {
		name := strings.ToUpper(c.Name)
		if c.Priority > 0 {
			wide = append(wide, name)
		} else {
			usual = append(usual, name)
		}
	}
	p.line("\nColumns of `kubectl get`: %s; with `-o wide` also %s.", strings.Join(usual, ", "), strings.Join(wide, ", "))
}

// fields lists the fields of an object, and below each those of its own.
func (p *page) fields(schema apiextensions.JSONSchemaProps, depth int) {
	names := make([]string, 0, len(schema.Properties))
	for name := range schema.Properties {
		names = append(names, name)
	}
	required := func(name string) bool { return slices.Contains(schema.Required, name) }
	slices.SortFunc(names, func(a, b string) int {
		if required(a) != required(b) {
			if required(a) {
				return -1
			}
			return 1
		}
		return strings.Compare(a, b)
	})
	indent := strings.Repeat("  ", depth)
	for _, name := range names {
		field := schema.Properties[name]
		facts := factsOf(field)
		if required(name) {
			facts = append(facts[:1], append([]string{"required"}, facts[1:]...)...)
		}
		text := prose(strings.TrimSpace(strings.TrimPrefix(field.Description, name)))
		p.line("%s- `%s` %s *(%s)*", indent, name, text, strings.Join(facts, "; "))
		inner := field
		if field.Items != nil && field.Items.Schema != nil {
			inner = *field.Items.Schema
		}
		if name == "conditions" || isSelector(inner) {
			continue
		}
		p.fields(inner, depth+1)
		if depth > 0 || field.Type == "array" {
			for _, r := range rulesOf(inner) {
				p.line("%s  - Refused: %s", indent, r)
			}
		}
	}
}

// prose is a description on one line.
func prose(text string) string { return strings.Join(strings.Fields(text), " ") }

func isSelector(s apiextensions.JSONSchemaProps) bool {
	_, labels := s.Properties["matchLabels"]
	_, expressions := s.Properties["matchExpressions"]
	return labels && expressions
}

// factsOf says in a few words what a field may hold; its type first.
func factsOf(s apiextensions.JSONSchemaProps) []string {
	facts := []string{typeOf(s)}
	element := s
	if s.Items != nil && s.Items.Schema != nil {
		element = *s.Items.Schema
	}
	if len(element.Enum) > 0 {
		var values []string
		for _, v := range element.Enum {
			values = append(values, literal(v))
		}
		facts = append(facts, "one of "+strings.Join(values, ", "))
	}
	if s.Minimum != nil && s.Maximum != nil {
		facts = append(facts, fmt.Sprintf("%.0f to %.0f", *s.Minimum, *s.Maximum))
	}
	if s.MinItems != nil && s.MaxItems != nil {
		facts = append(facts, fmt.Sprintf("%d to %d entries", *s.MinItems, *s.MaxItems))
	}
	if s.Default != nil && s.Type != "object" && !strings.Contains(string(s.Default.Raw), "lastTransitionTime") {
		facts = append(facts, "default "+literal(*s.Default))
	}
	return facts
}

func typeOf(s apiextensions.JSONSchemaProps) string {
	switch {
	case isSelector(s):
		return "label selector"
	case s.Type == "array" && s.Items != nil && s.Items.Schema != nil:
		kind := "list of "
		if s.XListType != nil && *s.XListType == "set" {
			kind = "set of "
		}
		return kind + strings.TrimSuffix(typeOf(*s.Items.Schema), "s") + "s"
	case s.Format == "date-time":
		return "time"
	}
	return s.Type
}

func literal(v apiextensions.JSON) string {
	var text string
	if json.Unmarshal(v.Raw, &text) == nil {
		if text == "" {
			return `""`
		}
		return "`" + text + "`"
	}
	return "`" + string(v.Raw) + "`"
}

// rulesOf returns what the CEL rules of a schema say when they are broken, a value as VALUE.
func rulesOf(s apiextensions.JSONSchemaProps) []string {
	var rules []string
	for _, v := range s.XValidations {
		text := v.Message
		if text == "" {
			text = expressed(v.MessageExpression)
		}
		rules = append(rules, text)
	}
	return rules
}

// expressed is a CEL expression that puts texts and values together, with each value in capitals.
func expressed(expression string) string {
	var text strings.Builder
	for i, part := range strings.Split(expression, "'") {
		if i%2 == 1 {
			text.WriteString(part)
		} else if value := strings.Trim(part, " +"); value != "" {
			text.WriteString("VALUE")
		}
	}
	return text.String()
}
