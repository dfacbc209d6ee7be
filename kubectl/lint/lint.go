package lint

import (
	"context"
	"errors"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/config/v1alpha1"
)

// Severity says how bad a finding is.
type Severity string

// The severities.
const (
	// Error: the API server or Berth refuses it, or a part of it is not in effect.
	Error Severity = "error"
	// Warning: it is in effect, or depends on what is not among the files.
	Warning Severity = "warning"
)

// Finding is something wrong with an object.
type Finding struct {
	File string `json:"file"`
	// Line of the field that the message begins with, or of the one around it if it is missing; of
	// the object's beginning if the message is about all of it. From 1.
	Line int `json:"line"`
	// Object is its kind and name; empty for what is not an object.
	Object   string   `json:"object,omitempty"`
	Severity Severity `json:"severity"`
	Message  string   `json:"message"`
}

// File is what is in a file.
type File struct {
	Name string
	Text []byte
}

// Result is what became of files.
type Result struct {
	Findings []Finding `json:"findings"`
	// Judged and Passed count the objects that were judged, and those of other kinds.
	Judged int `json:"judged"`
	Passed int `json:"passed"`
}

// Failed reports whether there is an error, or with strict any finding.
func (r Result) Failed(strict bool) bool {
	return slices.ContainsFunc(r.Findings, func(f Finding) bool { return strict || f.Severity == Error })
}

// linter is at work on files.
type linter struct {
	schemas  *Schemas
	complete bool
	Result
	seen map[string]Object // objects by kind and name

	objects      config.Objects
	services     []Object
	reservations []reservation
	keys         map[config.Key]Object
	secrets      map[string][]secret // by name
}

// Files judges the objects in files together. With complete, what they name has to be among them.
func (s *Schemas) Files(ctx context.Context, files []File, complete bool) Result {
	l := &linter{
		schemas: s, complete: complete, seen: map[string]Object{}, keys: map[config.Key]Object{},
		secrets: map[string][]secret{}, objects: config.Objects{Passwords: map[string]string{}},
		Result: Result{Findings: []Finding{}},
	}
	objects, findings := Parse(files)
	l.Findings = append(l.Findings, findings...)
	for _, o := range objects {
		l.object(ctx, o)
	}
	l.compile()
	slices.SortStableFunc(l.Findings, func(a, b Finding) int {
		if a.File != b.File {
			return strings.Compare(a.File, b.File)
		}
		return a.Line - b.Line
	})
	return l.Result
}

func (l *linter) say(o Object, severity Severity, format string, args ...any) {
	l.Findings = append(l.Findings, o.finding(severity, format, args...))
}

// object judges one object by itself, and keeps it for the compiler.
func (l *linter) object(ctx context.Context, o Object) {
	group := o.GroupVersionKind().Group
	switch {
	case group == l.schemas.group:
	case group == "" && (o.GetKind() == "Service" || o.GetKind() == "Secret"):
		l.core(o)
		return
	case l.schemas.kinds[o.GetKind()] != nil && !strings.Contains(group, "."),
		strings.HasPrefix(group, l.schemas.group):
		l.Judged++
		l.say(
			o,
			Error,
			"apiVersion %q is not that of kind %s; write %s/%s",
			o.GetAPIVersion(),
			o.GetKind(),
			l.schemas.group,
			l.schemas.version,
		)
		return
	default:
		l.Passed++
		return
	}
	l.Judged++
	if l.twice(o) {
		return
	}
	if texts := l.schemas.Check(ctx, o.Unstructured); len(texts) > 0 {
		for _, text := range texts {
			l.say(o, Error, "%s", text)
		}
		return
	}
	l.keep(o)
}

// twice reports whether the object is in the files already.
func (l *linter) twice(o Object) bool {
	namespace := o.GetNamespace()
	if namespace == "" { // of what has none, all are in one
		namespace = metav1.NamespaceDefault
	}
	key := strings.Join([]string{o.GroupVersionKind().Group, o.GetKind(), namespace, o.GetName()}, " ")
	if first, is := l.seen[key]; is && o.GetName() != "" {
		l.say(
			o,
			Error,
			"it is in %s line %d, too; only the last one that is applied would count",
			first.File,
			first.Line,
		)
		return true
	}
	l.seen[key] = o
	return false
}

// keep adds an accepted object to what is compiled.
func (l *linter) keep(o Object) {
	var err error
	switch o.GetKind() {
	case "LoadBalancerPool":
		l.objects.Pools, err = with(l.objects.Pools, o)
	case "SegmentAnnouncement":
		l.objects.SegmentAnnouncements, err = with(l.objects.SegmentAnnouncements, o)
	case "RouteAnnouncement":
		l.objects.RouteAnnouncements, err = with(l.objects.RouteAnnouncements, o)
	case "BGPNeighbor":
		l.objects.BGPNeighbors, err = with(l.objects.BGPNeighbors, o)
	case "AddressReservation":
		var its []*v1alpha1.AddressReservation
		if its, err = with(its, o); err == nil {
			l.reservations = append(l.reservations, reservation{its[0], o})
		}
	}
	if err != nil {
		l.say(o, Error, "it cannot be read: %v", err)
		return
	}
	l.keys[config.Key{Kind: o.GetKind(), Name: o.GetName()}] = o
}

// with returns the objects and one more, unless it cannot be read.
func with[T any](all []*T, o Object) ([]*T, error) {
	x := new(T)
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, x); err != nil {
		return all, err
	}
	return append(all, x), nil
}

// core keeps Secrets with passwords, and Services.
func (l *linter) core(o Object) {
	if o.GetKind() == "Service" {
		l.Judged++
		if !l.twice(o) {
			l.services = append(l.services, o)
		}
		return
	}
	l.Passed++
	l.secret(o)
}

// compile says what the controller would of the objects together.
func (l *linter) compile() {
	snapshot, problems := config.Compile(l.objects)
	for key, all := range problems {
		o, is := l.keys[key]
		if !is {
			continue
		}
		for _, p := range all {
			severity := Error
			text := p.Message
			switch {
			case p.Reason == config.ReasonMissingSecret && l.wrongSecret(o, text):
				continue
			case p.Harmless:
				severity = Warning
			case !l.complete && elsewhere(p.Reason):
				severity = Warning
				text += " (it is not among these files)"
			}
			l.say(o, severity, "%s", text)
		}
	}
	for _, o := range l.services {
		l.service(o, snapshot)
	}
	l.reserve(snapshot)
}

// elsewhere reports whether the reason may be only that an object is not among the files.
func elsewhere(reason string) bool {
	switch reason {
	case config.ReasonUnknownPool,
		config.ReasonUnknownNeighbor,
		config.ReasonMissingSecret,
		config.ReasonNothingSelected:
		return true
	}
	return false
}

// ErrNothing says that the files have nothing to judge.
var ErrNothing = errors.New("there is no object of Berth's, and no Service, in these files")
