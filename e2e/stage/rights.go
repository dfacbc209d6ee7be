//go:build linux

package stage

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/util/yaml"
)

// Right is a verb that one of Berth's ServiceAccounts may use on a kind of object.
type Right struct {
	Account  string // of the namespace berth-system
	Group    string // of the API, empty for the core
	Resource string // with its subresource: services/status
	Verb     string
}

func (r Right) String() string {
	return fmt.Sprintf("%s may %s %s of group %q", r.Account, r.Verb, r.Resource, r.Group)
}

// Rights returns the rights that manifests grant, each once.
func Rights(files ...string) (map[Right]bool, error) {
	type role struct{ kind, name string }
	rules := map[role][]rbacv1.PolicyRule{}
	rights := map[Right]bool{}
	var bindings []rbacv1.RoleBinding // or ClusterRoleBindings, which have the same fields
	for _, name := range files {
		file, err := os.Open(name)
		if err != nil {
			return nil, fmt.Errorf("read rights: %w", err)
		}
		defer file.Close()
		documents := yaml.NewYAMLOrJSONDecoder(bufio.NewReader(file), 4096)
		for {
			var object struct {
				rbacv1.RoleBinding
				Rules []rbacv1.PolicyRule `json:"rules"`
			}
			if err := documents.Decode(&object); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				return nil, fmt.Errorf("read rights from %s: %w", name, err)
			}
			switch object.Kind {
			case "Role", "ClusterRole":
				rules[role{object.Kind, object.Name}] = object.Rules
			case "RoleBinding", "ClusterRoleBinding":
				bindings = append(bindings, object.RoleBinding)
			}
		}
	}
	for _, b := range bindings {
		for _, subject := range b.Subjects {
			for _, rule := range rules[role{b.RoleRef.Kind, b.RoleRef.Name}] {
				for _, group := range rule.APIGroups {
					for _, resource := range rule.Resources {
						for _, verb := range rule.Verbs {
							rights[Right{subject.Name, group, resource, verb}] = true
						}
					}
				}
			}
		}
	}
	return rights, nil
}

// Used returns the rights that one of Berth's ServiceAccounts has used since the lab came up, and
// how often.
func (s *Stage) Used(account string) (map[Right]int, error) {
	used := map[Right]int{}
	err := s.audited(func(r auditedRequest) {
		if r.Account == account {
			used[r.right()]++
		}
	})
	return used, err
}

// Unused returns the rights that no request since the lab came up has needed.
func (s *Stage) Unused(rights map[Right]bool) ([]Right, error) {
	unused := []Right{}
	used := map[Right]bool{}
	err := s.audited(func(r auditedRequest) {
		if r.Code == http.StatusForbidden {
			return
		}
		right := r.right()
		used[right] = true
		if r.Verb == "patch" && r.Code == http.StatusCreated {
			right.Verb = "create" // server-side apply needs both
			used[right] = true
		}
	})
	if err != nil {
		return nil, err
	}
	for r := range rights {
		if !used[r] {
			unused = append(unused, r)
		}
	}
	slices.SortFunc(unused, func(a, b Right) int { return cmp.Compare(a.String(), b.String()) })
	return unused, nil
}
