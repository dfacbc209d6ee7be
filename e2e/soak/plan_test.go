package soak

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var testNodes = []string{"n1", "n2", "n3"}

func testKinds() []Kind {
	return []Kind{
		{Name: "speaker killed"},
		{Name: "cut"},
		{Name: "deaf", Deaf: true},
		{Name: "dark", Deaf: true, Dark: true},
		{Name: "no API", NoAPI: true},
		{Name: "no etcd", NoAPI: true},
		{Name: "excluded", ByAPI: true},
		{Name: "replaced", ByAPI: true, Alone: true},
		{Name: "stale", AtLeast: 17 * time.Second},
		{Name: "router", Router: true, NoRoutes: true},
		{Name: "session", Router: true},
		{Name: "crash", Apart: 100},
	}
}

func rounds(seed uint64, n int) []Round {
	p := NewPlan(seed, testNodes, testKinds())
	var all []Round
	for range n {
		all = append(all, p.Next())
	}
	return all
}

func TestPlan(t *testing.T) {
	t.Run("a seed repeats the order", func(t *testing.T) {
		if diff := cmp.Diff(rounds(7, 500), rounds(7, 500)); diff != "" {
			t.Error(diff)
		}
		if cmp.Equal(rounds(7, 500), rounds(8, 500)) {
			t.Error("two seeds give the same rounds")
		}
	})
	t.Run("what is to come seldom does", func(t *testing.T) {
		last := map[string]int{}
		for _, r := range rounds(1, 1000) {
			for _, s := range r.Strikes {
				if s.Kind.Name != "crash" {
					continue
				}
				if before, had := last[s.Node]; had && r.Number-before <= 100 {
					t.Errorf("rounds %d and %d", before, r.Number)
				}
				last[s.Node] = r.Number
			}
		}
	})
	t.Run("everything comes", func(t *testing.T) {
		seen := map[string]bool{}
		for _, r := range rounds(1, 1000) {
			for _, s := range r.Strikes {
				seen[s.Kind.Name] = true
			}
			for _, c := range r.Changes {
				seen[c.Name] = true
			}
		}
		for _, k := range testKinds() {
			if !seen[k.Name] {
				t.Errorf("no %s", k.Name)
			}
		}
		for _, name := range first {
			if !seen[name] || pairs[name] != "" && !seen[pairs[name]] {
				t.Errorf("no %s, or no end of it", name)
			}
		}
	})
	t.Run("one node is well all the time", func(t *testing.T) {
		out := ""
		for _, r := range rounds(2, 5000) {
			bad := map[string]bool{out: out != ""}
			for _, s := range r.Strikes {
				if bad[s.Node] {
					t.Fatalf("%s is struck twice, or is out: %s", s.Node, r)
				}
				bad[s.Node] = true
			}
			for _, c := range r.Changes {
				switch c.Name {
				case PodsReplaced:
					if len(r.Strikes) > 1 || out != "" {
						t.Fatalf("Pods are replaced where one node is well: %s, %q is out", r, out)
					}
				case NodeLabeled:
					if slices.ContainsFunc(r.Changes, func(c Change) bool { return c.Name == PodsReplaced }) {
						t.Fatalf("Pods are replaced where one node is well: %s", r)
					}
					out = c.Node
					bad[out] = true
				case NodeUnlabeled:
					out = ""
				}
			}
			delete(bad, "")
			if len(bad) == len(testNodes) {
				t.Fatalf("no node is well: %s, %q is out", r, out)
			}
		}
	})
	t.Run("faults that exclude each other do not come at once", func(t *testing.T) {
		for _, r := range rounds(3, 5000) {
			noAPI := r.Has(func(k Kind) bool { return k.NoAPI })
			twice := len(r.Changes) == 2 && r.Changes[0].Name == r.Changes[1].Name
			switch {
			case twice:
				t.Fatalf("a change comes twice: %s", r)
			case len(r.Strikes) == 0 || len(r.Strikes) > 2:
				t.Fatalf("%d faults: %s", len(r.Strikes), r)
			case noAPI && (len(r.Changes) > 0 || r.Has(func(k Kind) bool { return k.ByAPI })):
				t.Fatalf("the API is needed: %s", r)
			case !noAPI && len(r.Changes) == 0:
				t.Fatalf("nothing changes: %s", r)
			case len(r.Strikes) == 2 && r.Has(func(k Kind) bool { return k.Alone }):
				t.Fatalf("it is not alone: %s", r)
			case len(r.Strikes) == 2 && r.Strikes[0].Kind.NoAPI:
				t.Fatalf("the API comes back too late: %s", r)
			case len(r.Strikes) == 2 && r.Strikes[0].Kind.Router && r.Strikes[1].Kind.Router:
				t.Fatalf("the router is struck twice: %s", r)
			case r.Has(func(k Kind) bool { return k.AtLeast > r.Lasts }):
				t.Fatalf("it is too short: %s", r)
			}
		}
	})
	t.Run("what was begun is ended", func(t *testing.T) {
		p := NewPlan(4, testNodes, testKinds())
		open := map[string]string{}
		note := func(c Change) {
			if pairs[c.Name] != "" {
				if _, twice := open[c.Name]; twice {
					t.Fatalf("%s comes twice", c.Name)
				}
				open[c.Name] = c.Node
			}
			for begins, ends := range pairs {
				if c.Name != ends {
					continue
				}
				node, begun := open[begins]
				if !begun || node != c.Node {
					t.Fatalf("%s of %q ends %q", c.Name, c.Node, node)
				}
				delete(open, begins)
			}
		}
		for range 1000 {
			for range 7 {
				for _, c := range p.Next().Changes {
					note(c)
				}
			}
			for _, c := range p.Finish() {
				if c.Name != NodeUnlabeled {
					c.Node = ""
				}
				note(c)
			}
			if len(open) > 0 {
				t.Fatalf("not ended: %v", open)
			}
		}
	})
}

func TestRound_Gap(t *testing.T) {
	cut, dark, router := Kind{Name: "cut"}, Kind{Name: "dark", Dark: true}, Kind{Name: "router", NoRoutes: true}
	strikes := func(kinds ...Kind) Round {
		r := Round{Lasts: 2 * time.Second}
		for i, k := range kinds {
			r.Strikes = append(r.Strikes, Strike{Kind: k, Node: testNodes[i]})
		}
		return r
	}
	for _, c := range []struct {
		name       string
		round      Round
		gap, route time.Duration
	}{
		{name: "one", round: strikes(cut), gap: 3 * time.Second, route: 15 * time.Second},
		{name: "two", round: strikes(cut, router), gap: 15 * time.Second},
		{
			name: "no slices", round: strikes(Kind{Name: "none makes them", NoSlices: true}), gap: 5 * time.Second,
			route: 15 * time.Second,
		},
		{name: "dark", round: strikes(dark), gap: 5 * time.Second, route: 17 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := []time.Duration{c.round.Gap(), c.round.RouteGap()}
			if want := []time.Duration{c.gap, c.route}; !slices.Equal(got, want) {
				t.Errorf("%v, want %v", got, want)
			}
		})
	}
}
