package plan

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestGroups_Set(t *testing.T) {
	g := NewGroups()
	service := func(name string, addresses ...string) Service {
		return Service{Name: name, Addresses: addrs(addresses...)}
	}
	step := func(s Service, wantNow map[string][]string, wantGone ...string) {
		t.Helper()
		now, gone := g.Set(s)
		got := map[string][]string{}
		for _, group := range now {
			for _, member := range group.Services {
				got[group.ID] = append(got[group.ID], member.Name)
			}
		}
		if diff := cmp.Diff(wantNow, got, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("set %s: %s", s.Name, diff)
		}
		if diff := cmp.Diff(
			wantGone,
			gone,
			cmpopts.EquateEmpty(),
			cmpopts.SortSlices(func(a, b string) bool { return a < b }),
		); diff != "" {
			t.Fatalf("set %s: gone %s", s.Name, diff)
		}
	}
	step(service("b", "192.0.2.1"), map[string][]string{"b": {"b"}})
	step(service("d", "192.0.2.5", "2001:db8::1"), map[string][]string{"d": {"d"}})
	step(service("c", "192.0.2.1", "2001:db8::1"), map[string][]string{"b": {"b", "c", "d"}}, "d")
	step(service("other", "192.0.2.9"), map[string][]string{"other": {"other"}})
	step(service("c"), map[string][]string{"b": {"b"}, "d": {"d"}})
	step(service("b"), nil, "b")
	step(service("d", "2001:db8::1"), map[string][]string{"d": {"d"}})
	if n := len(g.All()); n != 2 {
		t.Errorf("%d groups, want 2", n)
	}
}
