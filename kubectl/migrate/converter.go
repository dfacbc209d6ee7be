package migrate

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go4.org/netipx"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/kubectl/lint"
)

// Outcome says what became of an object or a field.
type Outcome string

// The outcomes.
const (
	// Converted: Berth does the same by what the message names.
	Converted Outcome = "converted"
	// Note: it is converted, and there is something to do or to know.
	Note Outcome = "note"
	// NoCounterpart: Berth has nothing for it. The message says what to do.
	NoCounterpart Outcome = "no counterpart"
)

// Line is a line of the report.
type Line struct {
	// Object is the kind and name of what was converted.
	Object  string  `json:"object"`
	Outcome Outcome `json:"outcome"`
	// Field of the object, and its value; empty for the object itself. A password is no value.
	Field   string `json:"field,omitempty"`
	Value   string `json:"value,omitempty"`
	Message string `json:"message"`
	// LeftOut: an object of Berth's that would have come of it is not in the result.
	LeftOut bool `json:"-"`
}

// Text is the line without its object and outcome.
func (l Line) Text() string {
	switch {
	case l.Field == "":
		return l.Message
	case l.Value == "":
		return l.Field + ": " + l.Message
	}
	return l.Field + ": " + l.Value + ": " + l.Message
}

// item is an object of the source.
type item struct {
	from                  string // kind and name, for the report
	kind, namespace, name string
	labels                map[string]string
	spec                  map[string]any
}

// output is an object of Berth's, and where it is from.
type output struct {
	from string
	*unstructured.Unstructured
}

// converter is at work on the objects of a source.
type converter struct {
	namespace string // Berth's
	input     []*unstructured.Unstructured
	output    []output
	report    []Line

	used    sets.Set[string]    // kinds and names of the output
	names   map[string][]string // names in the output, by kind, namespace and name in the input
	secrets map[string]string   // names in the output, by namespace and name in the input
	taken   netipx.IPSetBuilder // addresses that are in a pool
	sharing map[string]sets.Set[string]
}

func newConverter(namespace string, input []*unstructured.Unstructured) *converter {
	return &converter{
		namespace: namespace, input: input, used: sets.New[string](), names: map[string][]string{},
		secrets: map[string]string{}, sharing: map[string]sets.Set[string]{},
	}
}

// itemOf returns an object of the input as an item.
func itemOf(o *unstructured.Unstructured) item {
	spec, _, _ := unstructured.NestedMap(o.Object, "spec")
	return item{nameIn(o), o.GetKind(), o.GetNamespace(), o.GetName(), o.GetLabels(), spec}
}

// nameIn returns the kind and name of an object.
func nameIn(o *unstructured.Unstructured) string {
	name := o.GetName()
	if o.GetNamespace() != "" {
		name = o.GetNamespace() + "/" + name
	}
	return o.GetKind() + " " + name
}

// of returns the objects of a group and a kind as items.
func (c *converter) of(group, kind string) []item {
	var found []item
	for _, o := range c.input {
		if o.GetKind() == kind && o.GroupVersionKind().Group == group {
			found = append(found, itemOf(o))
		}
	}
	return found
}

// unknown reports objects of a group whose kinds nobody converts.
func (c *converter) unknown(group string, known ...string) {
	for _, o := range c.input {
		if o.GroupVersionKind().Group == group && !slices.Contains(known, o.GetKind()) {
			c.lacks(
				nameIn(o),
				"",
				"",
				"this command does not know the kind; look up what it does, and whether Berth has it",
			)
		}
	}
}

func (c *converter) say(from string, outcome Outcome, field, value, message string) {
	c.report = append(c.report, Line{Object: from, Outcome: outcome, Field: field, Value: value, Message: message})
}

// lacks reports a field without a counterpart.
func (c *converter) lacks(from, field string, value any, remedy string) {
	c.say(from, NoCounterpart, field, fmt.Sprint(value), remedy)
}

// note reports something to do or to know about a field.
func (c *converter) note(from, field string, value any, message string) {
	c.say(from, Note, field, fmt.Sprint(value), message)
}

// decode reads a map into a struct. Fields that T does not have are reported, and whether a field
// is of the wrong type.
func decode[T any](c *converter, from, field string, value map[string]any) (into T, ok bool) {
	err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(value, &into, true)
	if err == nil {
		return into, true
	}
	strict, is := runtime.AsStrictDecodingError(err)
	if !is {
		c.lacks(from, field, "", "it cannot be read: "+err.Error())
		return into, false
	}
	for _, each := range strict.Errors() {
		_, path, _ := strings.Cut(each.Error(), "unknown field ")
		if unquoted, err := strconv.Unquote(path); err == nil {
			path = unquoted
		}
		c.lacks(from, field+"."+path, "",
			"this command does not know the field; look up what it does, and whether Berth has it")
	}
	return into, true
}

// lenient reads a map into a struct of those of its fields that matter.
func lenient[T any](value map[string]any) (into T, err error) {
	err = runtime.DefaultUnstructuredConverter.FromUnstructured(value, &into)
	return into, err
}

// add puts out an object of Berth's, and reports it.
func (c *converter) add(from, kind string, object any, details ...string) {
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(object)
	if err != nil { // our own types
		c.lacks(from, "", "", err.Error())
		return
	}
	o := &unstructured.Unstructured{Object: fields}
	o.SetAPIVersion(v1alpha1.GroupVersion.String())
	o.SetKind(kind)
	delete(fields, "status")
	c.output = append(c.output, output{from, o})
	details = slices.DeleteFunc(details, func(text string) bool { return text == "" })
	c.say(from, Converted, "", "", strings.Join(append([]string{kind + " " + o.GetName()}, details...), ", "))
}

const longestName = 253

var notInNames = regexp.MustCompile(`[^a-z0-9.]+|[.][-.]+`)

// valid returns the name as that of an object. What has to be cut or left out makes room for a
// hash, so that names that differ still do.
func valid(name string) string {
	if len(validation.IsDNS1123Subdomain(name)) == 0 {
		return name
	}
	cleaned := notInNames.ReplaceAllStringFunc(strings.ToLower(name), func(text string) string {
		if text[0] == '.' {
			return "."
		}
		return "-"
	})
	cleaned = strings.ReplaceAll(strings.Trim(cleaned, "-."), "-.", ".")
	if cleaned == "" || len(cleaned) > longestName {
		sum := sha256.Sum256([]byte(name))
		cut := strings.TrimRight(cleaned[:min(len(cleaned), longestName-9)], "-.")
		cleaned = strings.TrimLeft(cut+"-"+hex.EncodeToString(sum[:4]), "-")
	}
	return cleaned
}

// nameFor returns a name for an object that comes from another one, and keeps it for namesOf.
func (c *converter) nameFor(kind string, i item, wanted string) string {
	base := valid(wanted)
	name := base
	for n := 2; c.used.Has(kind + " " + name); n++ {
		suffix := "-" + strconv.Itoa(n)
		name = strings.TrimRight(base[:min(len(base), longestName-len(suffix))], "-.") + suffix
	}
	c.used.Insert(kind + " " + name)
	key, short := kind+" "+i.namespace+"/"+i.name, kind+" "+i.name
	if name != wanted && len(c.names[key]) == 0 { // the second of several is expected to be renamed
		c.note(i.from, "metadata.name", wanted, kind+" "+name+" is its name: the old one is not valid, or in use")
	}
	c.names[key] = append(c.names[key], name)
	if len(c.names[short]) == 0 { // of the same name in several namespaces the first is meant
		c.names[short] = c.names[key]
	}
	return name
}

// namesOf returns the names of the objects that come from the one of this name.
func (c *converter) namesOf(kind, namespace, name string) []string {
	for _, key := range []string{kind + " " + namespace + "/" + name, kind + " " + name} {
		if names := c.names[key]; len(names) > 0 {
			return names
		}
	}
	return []string{valid(name)} // it is not among the files
}

// order of kinds in the output: what others name comes first.
var order = []string{
	"Secret", "LoadBalancerPool", "BGPNeighbor", "Speaker", "SegmentAnnouncement", "RouteAnnouncement", "Service",
}

// objects returns the output.
func (c *converter) objects() []*unstructured.Unstructured {
	slices.SortStableFunc(c.output, func(a, b output) int {
		return cmp.Compare(slices.Index(order, a.GetKind()), slices.Index(order, b.GetKind()))
	})
	var objects []*unstructured.Unstructured
	for _, o := range c.output {
		objects = append(objects, o.Unstructured)
	}
	return objects
}

// judge takes objects out that Berth would refuse, until it refuses none, and reports what lint
// says.
func (c *converter) judge(ctx context.Context, schemas *lint.Schemas) error {
	for {
		files := make([]lint.File, len(c.output))
		for i, o := range c.output {
			text, err := json.Marshal(o.Object)
			if err != nil {
				return errors.New(o.from + ": it cannot be written: " + err.Error())
			}
			files[i] = lint.File{Name: strconv.Itoa(i), Text: text}
		}
		findings := schemas.Files(ctx, files, false).Findings
		refused := map[int]bool{}
		for _, f := range findings {
			i, err := strconv.Atoi(f.File)
			if err != nil || f.Severity != lint.Error || refused[i] {
				continue
			}
			refused[i] = true
			c.refuse(i, f)
		}
		if len(refused) == 0 {
			c.warn(findings)
			return nil
		}
		c.output = slices.DeleteFunc(c.output, func(o output) bool { return o.Unstructured == nil })
	}
}

// dispensable are fields of a RouteAnnouncement without which it announces the same addresses.
var dispensable = []string{"aggregation", "localPreference"}

// refuse takes out what lint finds wrong: a field that is dispensable, or else the object.
func (c *converter) refuse(i int, f lint.Finding) {
	o := &c.output[i]
	for _, field := range dispensable {
		if strings.HasPrefix(f.Message, "spec."+field) && o.GetKind() == "RouteAnnouncement" {
			unstructured.RemoveNestedField(o.Object, "spec", field)
			c.lacks(o.from, f.Object, "", "without "+field+", since Berth would refuse it: "+f.Message)
			return
		}
	}
	c.report = slices.DeleteFunc(c.report, func(l Line) bool {
		return l.Object == o.from && l.Outcome == Converted && strings.HasPrefix(l.Message+",", f.Object+",")
	})
	c.lacks(o.from, f.Object, "", "Berth would refuse it, so it is left out: "+f.Message)
	c.report[len(c.report)-1].LeftOut = true
	o.Unstructured = nil
}

// warn reports what lint warns of.
func (c *converter) warn(findings []lint.Finding) {
	for _, f := range findings {
		if i, err := strconv.Atoi(f.File); err == nil {
			c.note(c.output[i].from, f.Object, "", f.Message)
		}
	}
}
