package plan

import (
	"fmt"
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

// sharers returns so many Services that share an address.
func sharers(n int) *Groups {
	g := NewGroups()
	for i := range n {
		s := Service{Name: fmt.Sprintf("s%d", i), Addresses: addrs("192.0.2.1", "2001:db8::1")}
		g.services[s.Name] = s
		for _, a := range s.Addresses {
			g.holders[a] = append(g.holders[a], s.Name)
		}
	}
	return g
}

// An address that many Services share is visited once, or a group would cost the square of them.
func TestGroups_sharers(t *testing.T) {
	all := sharers(1000).Of("s0")
	if len(all) != 1 || len(all[0].Services) != 1000 || len(all[0].Addresses) != 2 {
		t.Fatalf("%d groups, want one of 1000 Services with 2 addresses", len(all))
	}
	if n := cap(all[0].Addresses); n > 16 {
		t.Errorf("there was room for %d addresses, want one visit of each", n)
	}
}

func BenchmarkGroups_sharers(b *testing.B) {
	g := sharers(1000)
	for b.Loop() {
		g.Of("s0")
	}
}
