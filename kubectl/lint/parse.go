package lint

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// Object is an object of a file.
type Object struct {
	*unstructured.Unstructured
	File string
	// Line on which it begins, from 1.
	Line int
	at   place
}

func (o Object) name() string {
	name := o.GetName()
	if o.GetNamespace() != "" {
		name = o.GetNamespace() + "/" + name
	}
	return strings.TrimSpace(o.GetKind() + " " + name)
}

func (o Object) finding(severity Severity, format string, args ...any) Finding {
	message := fmt.Sprintf(format, args...)
	line := o.Line
	if path := pathIn(message); len(path) > 0 {
		line = o.at.line(path, line)
	}
	return Finding{File: o.File, Line: line, Object: o.name(), Severity: severity, Message: message}
}

// Parse returns the objects in files, those in lists too, and what is no such thing.
func Parse(files []File) ([]Object, []Finding) {
	var p parser
	for _, f := range files {
		for _, d := range documents(f.Text) {
			p.document(Object{Unstructured: &unstructured.Unstructured{}, File: f.Name, Line: d.line}, d.text)
		}
	}
	return p.objects, p.findings
}

// document is one of a file.
type document struct {
	line int // from 1
	text []byte
}

// documents splits a file at its lines of ---.
func documents(text []byte) []document {
	var all []document
	current := document{line: 1}
	line := 0
	for each := range bytes.Lines(text) {
		line++
		trimmed := bytes.TrimRight(each, " \t\r\n")
		if rest, is := bytes.CutPrefix(trimmed, []byte("---")); is &&
			(len(rest) == 0 || rest[0] == ' ' || rest[0] == '\t') {
			all = append(all, current)
			current = document{line: line + 1}
			if rest = bytes.TrimSpace(rest); len(rest) > 0 && rest[0] != '#' { // it begins on the same line
				current = document{line: line, text: append(rest, '\n')}
			}
			continue
		}
		if len(bytes.TrimSpace(current.text)) == 0 &&
			(len(bytes.TrimSpace(each)) == 0 || bytes.HasPrefix(bytes.TrimSpace(each), []byte("#"))) {
			current.line = line + 1 // the object begins below
			current.text = nil
			continue
		}
		current.text = append(current.text, each...)
	}
	return append(all, current)
}

type parser struct {
	objects  []Object
	findings []Finding
}

func (p *parser) say(at Object, format string, args ...any) {
	p.findings = append(p.findings, at.finding(Error, format, args...))
}

func (p *parser) document(at Object, text []byte) {
	if len(bytes.TrimSpace(text)) == 0 {
		return
	}
	converted, err := yaml.YAMLToJSONStrict(text)
	if err != nil {
		p.say(at, "it is not YAML, or not of one kind: %v", err)
		return
	}
	var value any
	if err := json.Unmarshal(converted, &value); err != nil {
		p.say(at, "it is not YAML: %v", err)
		return
	}
	fields, ok := value.(map[string]any)
	switch {
	case value == nil:
	case !ok:
		p.say(at, "it is not an object of Kubernetes: it has no fields")
	default:
		at.at = placeOf(text, at.Line)
		p.value(at, fields)
	}
}

// value takes an object, or those in a list.
func (p *parser) value(at Object, fields map[string]any) {
	items, isList := fields["items"].([]any)
	if kind, _ := fields["kind"].(string); isList && strings.HasSuffix(kind, "List") {
		for i, item := range items {
			at := at.item(i)
			inner, ok := item.(map[string]any)
			if !ok {
				p.say(at, "an item of the list is not an object of Kubernetes")
				continue
			}
			p.value(at, inner)
		}
		return
	}
	if kind, _ := fields["kind"].(string); kind == "" { // the decoder would print all of it
		p.say(at, "it is not an object of Kubernetes: it has no kind")
		return
	}
	// As a decoder does: numbers are int64 where they can be.
	text, err := json.Marshal(fields)
	decoded := &unstructured.Unstructured{}
	if err == nil {
		err = decoded.UnmarshalJSON(text)
	}
	if err != nil {
		p.say(at, "it is not an object of Kubernetes: %v", err)
		return
	}
	at.Unstructured = decoded
	p.objects = append(p.objects, at)
}
