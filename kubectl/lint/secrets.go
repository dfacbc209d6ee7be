package lint

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

// secret is a Secret, and where it is.
type secret struct {
	*corev1.Secret
	at Object
}

// secret keeps a Secret, and its password if Berth would read it.
func (l *linter) secret(o Object) {
	s := secret{&corev1.Secret{}, o}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, s.Secret); err != nil {
		return // somebody else judges Secrets
	}
	if s.Type == "" {
		s.Type = corev1.SecretTypeOpaque // as an API server does
	}
	l.secrets[s.Name] = append(l.secrets[s.Name], s)
	if s.Type != corev1.SecretTypeBasicAuth {
		return
	}
	password := s.StringData[corev1.BasicAuthPasswordKey]
	if data := s.Data[corev1.BasicAuthPasswordKey]; password == "" && len(data) > 0 {
		password = string(data)
	}
	l.objects.Passwords[s.Name] = password
}

// wrongSecret reports what is wrong with the Secret whose lack a BGPNeighbor is told of, if one of
// this name is in the files.
func (l *linter) wrongSecret(neighbor Object, text string) bool {
	field, _, _ := strings.Cut(text, ":")
	name, _, _ := unstructured.NestedString(neighbor.Object, pathIn(field)...)
	found := l.secrets[name]
	if len(found) == 0 {
		return false
	}
	for _, s := range found {
		place := fmt.Sprintf("Secret %s in %s line %d", s.Name, s.at.File, s.at.Line)
		if s.Type != corev1.SecretTypeBasicAuth {
			l.say(neighbor, Error, "%s: %s is of type %s, and Berth reads those of type %s only; "+
				"write that type there (of one that exists it cannot be changed: delete it first)",
				field, place, s.Type, corev1.SecretTypeBasicAuth)
			continue
		}
		l.say(neighbor, Error, "%s (%s)", text, place)
	}
	return true
}
