package forecast

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/kubectl/cluster"
	"github.com/berth-lb/berth/kubectl/lint"
)

// Secrets returns the names of the Secrets in Berth's namespace that a change of these objects is
// about: those among them, and those that their BGPNeighbors name.
func Secrets(s *cluster.State, objects []lint.Object) []string {
	names := map[string]bool{}
	for _, o := range objects {
		switch o.GroupVersionKind().GroupKind().String() {
		case "Secret":
			names[o.GetName()] = names[o.GetName()] || o.GetNamespace() == s.Namespace
		case berth("BGPNeighbor"):
			for _, path := range [][]string{
				{"spec", "authentication", "tcpMD5", "secretName"}, {"spec", "bfd", "authentication", "secretName"},
			} {
				if name, is, _ := unstructured.NestedString(o.Object, path...); is {
					names[name] = true
				}
			}
		}
	}
	maps.DeleteFunc(names, func(name string, ours bool) bool { return name == "" || !ours })
	return slices.Sorted(maps.Keys(names))
}

// secret changes the password of a Secret, if a BGPNeighbor names it.
func (e *edit) secret(o *unstructured.Unstructured) Object {
	name := o.GetName()
	if o.GetNamespace() != e.Namespace || len(neighborsOf(e.State, name)) == 0 {
		return Object{Change: PassedOver}
	}
	before, read := e.Passwords[name]
	if e.Passwords == nil {
		e.Passwords = map[string]*string{}
	}
	if e.deletes {
		e.Passwords[name] = nil
		if read && before == nil {
			return Object{Change: Absent}
		}
		return Object{Change: Deleted}
	}
	var secret corev1.Secret
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &secret); err != nil {
		return Object{Change: Refused, Messages: []string{"it cannot be read: " + err.Error()}}
	}
	after := passwordIn(&secret)
	if after == nil && before != nil {
		return Object{Change: Refused, Messages: []string{
			"type: may not change, and Berth reads " + string(corev1.SecretTypeBasicAuth) + " only; write that",
		}}
	}
	e.Passwords[name] = after
	const field = "data.password"
	switch {
	case !read:
		return Object{Change: Changed, Fields: []string{field}, Messages: []string{
			"which password it has now is not known, for lack of the right to get it; if it is this one, no session is reset",
		}}
	case before == nil && after != nil:
		return Object{Change: Created}
	case before == nil || after != nil && *before == *after:
		return Object{Change: Unchanged}
	}
	return Object{Change: Changed, Fields: []string{field}}
}

// passwordIn returns the password of a Secret; nil: it is of a type that Berth does not read.
func passwordIn(secret *corev1.Secret) *string {
	if secret.Type != corev1.SecretTypeBasicAuth {
		return nil
	}
	if text, is := secret.StringData[corev1.BasicAuthPasswordKey]; is {
		return &text
	}
	return new(string(secret.Data[corev1.BasicAuthPasswordKey]))
}

// neighborsOf returns the names of the BGPNeighbors that name a Secret.
func neighborsOf(s *cluster.State, secret string) (names []string) {
	for _, n := range s.BGPNeighbors {
		if slices.Contains(cluster.SecretsOf(n), secret) {
			names = append(names, n.Name)
		}
	}
	return names
}

// missing returns what the compiler says of a Secret that cannot be used.
func missing(s *cluster.State, secret string, problems map[config.Key][]config.Problem) (texts []string) {
	for _, name := range neighborsOf(s, secret) {
		for _, p := range problems[config.Key{Kind: "BGPNeighbor", Name: name}] {
			if p.Reason == config.ReasonMissingSecret &&
				strings.Contains(p.Message, fmt.Sprintf("Secret %q", secret)) {
				texts = append(texts, "BGPNeighbor "+name+": "+p.Message)
			}
		}
	}
	return texts
}
