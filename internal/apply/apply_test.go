package apply

import (
	"strings"
	"testing"

	"github.com/berth-lb/berth/manifests/crds"
)

func TestRead(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       string // the objects
		err        string
	}{
		{
			name: "objects and comments",
			text: "# nothing\n---\n{apiVersion: v1, kind: Namespace, metadata: {name: lb}}\n---\n" +
				"apiVersion: berth.dev/v1alpha1\nkind: LoadBalancerPool\nmetadata:\n  name: rack\n---\n",
			want: "Namespace lb, LoadBalancerPool rack",
		},
		{
			name: "nothing",
			text: "",
		},
		{
			name: "another kind",
			text: "{apiVersion: v1, kind: Secret, metadata: {name: a}}",
			err:  "document 1: Secret of v1 is not applied: write a LoadBalancerPool",
		},
		{
			name: "a kind of another version",
			text: "{apiVersion: berth.dev/v1, kind: LoadBalancerPool, metadata: {name: a}}",
			err:  "LoadBalancerPool of berth.dev/v1 is not applied",
		},
		{
			name: "no name",
			text: "---\n{apiVersion: v1, kind: Namespace}\n",
			err:  "metadata.name is missing",
		},
		{
			name: "a key twice",
			text: "apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\nkind: Secret\n",
			err:  `key "kind" already set`,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			objects, err := Read([]byte(c.text))
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Fatalf("says %v, want %q in it", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, o := range objects {
				got = append(got, o.GetKind()+" "+o.GetName())
			}
			if s := strings.Join(got, ", "); s != c.want {
				t.Errorf("reads %q, want %q", s, c.want)
			}
		})
	}
}

// The kinds that are applied are kinds of the built-in CRDs, by the right names.
func TestKindsAreOfTheCRDs(t *testing.T) {
	all, err := crds.All()
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != 7 {
		t.Errorf("%d CRDs are built in, want 7", len(all))
	}
	kinds := map[string]string{}
	for _, crd := range all {
		spec := crd.Object["spec"].(map[string]any)
		names := spec["names"].(map[string]any)
		if spec["scope"] == "Cluster" {
			kinds[names["kind"].(string)] = crd.GetName()
		}
	}
	for _, r := range resources {
		if got, want := r.of.GroupResource().String(), kinds[r.kind]; got != want {
			t.Errorf("objects of kind %s are applied as %s, want %q", r.kind, got, want)
		}
	}
}
