//go:build root

package api

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/restmapper"

	"github.com/berth-lb/berth/config/v1alpha1"
)

// names are those of a kind, as a CustomResourceDefinition has them, and its scope.
type names struct {
	Kind       string   `json:"kind"`
	Plural     string   `json:"plural"`
	Singular   string   `json:"singular"`
	ShortNames []string `json:"shortNames"`
	Categories []string `json:"categories"`
	Scope      string   `json:"scope"`
}

// own are the names that docs and messages may use.
var own = []names{
	{
		Kind:       "AddressReservation",
		Plural:     "addressreservations",
		Singular:   "addressreservation",
		ShortNames: []string{"addrres"},
		Categories: []string{"berth"},
		Scope:      "Namespaced",
	},
	{
		Kind:       "BGPNeighbor",
		Plural:     "bgpneighbors",
		Singular:   "bgpneighbor",
		ShortNames: []string{"bgpn"},
		Categories: []string{"berth"},
		Scope:      "Cluster",
	},
	{
		Kind:       "L2Owner",
		Plural:     "l2owners",
		Singular:   "l2owner",
		ShortNames: []string{"l2o"},
		Categories: []string{"berth"},
		Scope:      "Cluster",
	},
	{
		Kind:       "LoadBalancerPool",
		Plural:     "loadbalancerpools",
		Singular:   "loadbalancerpool",
		ShortNames: []string{"lbpool"},
		Categories: []string{"berth"},
		Scope:      "Cluster",
	},
	{
		Kind:       "RouteAnnouncement",
		Plural:     "routeannouncements",
		Singular:   "routeannouncement",
		ShortNames: []string{"routeann"},
		Categories: []string{"berth"},
		Scope:      "Cluster",
	},
	{
		Kind:       "SegmentAnnouncement",
		Plural:     "segmentannouncements",
		Singular:   "segmentannouncement",
		ShortNames: []string{"segann"},
		Categories: []string{"berth"},
		Scope:      "Cluster",
	},
	{
		Kind:       "Speaker",
		Plural:     "speakers",
		Singular:   "speaker",
		ShortNames: []string{"spk"},
		Categories: []string{"berth"},
		Scope:      "Cluster",
	},
}

// Each name of Berth's kinds is unique among the names of other projects.
func TestNamesDoNotCollide(t *testing.T) {
	ns := namespace(t)
	kubectl := kubectlWithItsOwnCache(t)
	foreign := readForeign(t)
	installForeign(t, foreign)
	groups, lists := discover(t, foreign)
	served := servedNames(t, lists)
	resolvers := []resolver{
		newResolver(t, "Berth first", -1, groups, lists, foreign),
		newResolver(t, "Berth last", +1, groups, lists, foreign),
	}

	t.Run("no other resource has a name of Berth's", func(t *testing.T) {
		if diff := gocmp.Diff(own, served[v1alpha1.GroupVersion.Group]); diff != "" {
			t.Errorf("kinds of Berth (-want +served):\n%s", diff)
		}
		for _, fault := range shared(served) {
			t.Error(fault)
		}
	})
	t.Run("client-go finds Berth's, in whichever order groups are discovered", func(t *testing.T) {
		for _, o := range own {
			for _, name := range o.callable() {
				want := schema.GroupResource{Group: v1alpha1.GroupVersion.Group, Resource: o.Plural}
				for _, r := range resolvers {
					if got, err := r.resolve(name, ""); err != nil || got != want {
						t.Errorf("%s: %s is %v (%v), want %v", r.order, name, got, err, want)
					}
				}
			}
		}
	})
	t.Run("kubectl finds Berth's", func(t *testing.T) { testKubectlFindsBerths(t, ns, kubectl) })
	t.Run("docs and messages use names of Berth's", func(t *testing.T) {
		for _, fault := range misnamed(t, resolvers) {
			t.Error(fault)
		}
	})
}

// kubectlWithItsOwnCache returns kubectl with a cache of what is discovered that ends with the
// test: in the lab's, the foreign kinds would outlive it.
func kubectlWithItsOwnCache(t *testing.T) func(stdin string, args ...string) (string, error) {
	cache := "--cache-dir=" + t.TempDir()
	return func(stdin string, args ...string) (string, error) {
		return scene.Kubectl(context.WithoutCancel(t.Context()), stdin, append(args, cache)...)
	}
}

// servedNames returns the names of all resources that are served, by group, sorted by plural.
func servedNames(t *testing.T, lists []*metav1.APIResourceList) map[string][]names {
	t.Helper()
	served := map[string][]names{}
	for _, list := range lists {
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		must(t, err)
		for _, r := range list.APIResources {
			if strings.Contains(r.Name, "/") {
				continue // a subresource
			}
			scope := "Cluster"
			if r.Namespaced {
				scope = "Namespaced"
			}
			served[gv.Group] = append(served[gv.Group], names{r.Kind, r.Name, r.SingularName, r.ShortNames, r.Categories, scope})
		}
	}
	for _, kinds := range served {
		slices.SortFunc(kinds, func(a, b names) int { return cmp.Compare(a.Plural, b.Plural) })
	}
	return served
}

// callable returns the names by which kubectl finds the kind.
func (n names) callable() []string {
	return slices.Compact(append([]string{n.Plural, strings.ToLower(n.Kind), n.Singular}, n.ShortNames...))
}

// shared returns which of Berth's names, categories among them, another resource has.
func shared(served map[string][]names) []string {
	taken := map[string]string{}
	for _, o := range own {
		for _, name := range append(o.callable(), o.Categories...) {
			taken[name] = o.Kind
		}
	}
	var faults []string
	for _, group := range slices.Sorted(maps.Keys(served)) {
		if group == v1alpha1.GroupVersion.Group {
			continue
		}
		for _, n := range served[group] {
			for _, name := range append(n.callable(), n.Categories...) {
				if kind := taken[name]; kind != "" {
					faults = append(faults, fmt.Sprintf("%s.%s has the name %q of Berth's %s", n.Plural, group, name, kind))
				}
			}
		}
	}
	return faults
}

func TestShared(t *testing.T) {
	want := []string{
		`pools.example.org has the name "lbpool" of Berth's LoadBalancerPool`,
		`speakers.example.org has the name "speakers" of Berth's Speaker`,
		`speakers.example.org has the name "speaker" of Berth's Speaker`,
		`speakers.example.org has the name "berth" of Berth's Speaker`,
	}
	got := shared(map[string][]names{
		"berth.dev":   own,
		"example.com": {{"BGPPeer", "bgppeers", "bgppeer", []string{"bgpp"}, []string{"all"}, "Cluster"}},
		"example.org": {
			{"Pool", "pools", "pool", []string{"p", "lbpool"}, nil, "Cluster"},
			{"Speaker", "speakers", "speaker", nil, []string{"berth"}, "Cluster"},
		},
	})
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// resolver finds resources as kubectl does.
type resolver struct {
	order   string
	mapper  meta.RESTMapper
	foreign map[string][]names // by group
}

// answered is a discovery client with its answer.
type answered struct {
	discovery.DiscoveryInterface // nobody asks for anything else
	groups                       []*metav1.APIGroup
	lists                        []*metav1.APIResourceList
}

func (a answered) ServerGroupsAndResources() ([]*metav1.APIGroup, []*metav1.APIResourceList, error) {
	return a.groups, a.lists, nil
}

// newResolver returns one for which Berth's group is the first of all (place -1) or the last.
func newResolver(
	t *testing.T,
	order string,
	place int,
	groups []*metav1.APIGroup,
	lists []*metav1.APIResourceList,
	foreign map[string][]names,
) resolver {
	t.Helper()
	rank := func(group string) int {
		if group == v1alpha1.GroupVersion.Group {
			return place
		}
		return 0
	}
	a := answered{groups: slices.Clone(groups), lists: slices.Clone(lists)}
	slices.SortStableFunc(a.groups, func(x, y *metav1.APIGroup) int { return rank(x.Name) - rank(y.Name) })
	slices.SortStableFunc(a.lists, func(x, y *metav1.APIResourceList) int {
		groupX, _, _ := strings.Cut(x.GroupVersion, "/")
		groupY, _, _ := strings.Cut(y.GroupVersion, "/")
		return rank(groupX) - rank(groupY)
	})
	resources, err := restmapper.GetAPIGroupResources(a)
	must(t, err)
	return resolver{order, restmapper.NewShortcutExpander(restmapper.NewDiscoveryRESTMapper(resources), a, nil), foreign}
}

func (r resolver) resolve(name, group string) (schema.GroupResource, error) {
	found, err := r.mapper.ResourceFor(schema.GroupVersionResource{Group: group, Resource: name})
	return found.GroupResource(), err
}

// testKubectlFindsBerths makes an object of each kind, and asks for them by each name.
func testKubectlFindsBerths(t *testing.T, ns string, kubectl func(string, ...string) (string, error)) {
	selectors := "nodeSelector: {}, serviceSelector: {}"
	var text strings.Builder
	for _, o := range []string{
		object("LoadBalancerPool", "names", "{addresses: [192.0.2.0/28], scopes: [{namespaceSelector: {}, serviceSelector: {}}]}"),
		object("SegmentAnnouncement", "names", "{poolNames: [names], "+selectors+"}"),
		object("RouteAnnouncement", "names", "{poolNames: [names], neighborNames: [names], "+selectors+"}"),
		object("BGPNeighbor", "names", "{localASN: 64512, remoteASN: 64513, address: 192.0.2.1, nodeSelector: {}}"),
		object("AddressReservation", "names", "{addresses: [192.0.2.1]}"),
		"apiVersion: berth.dev/v1alpha1\nkind: Speaker\nmetadata: {name: names}\n",
		"apiVersion: berth.dev/v1alpha1\nkind: L2Owner\nmetadata: {name: names}\n",
	} {
		text.WriteString(o + "---\n")
	}
	t.Cleanup(func() {
		if _, err := kubectl("", "delete", "-n", ns, "speaker/names", "l2owner/names", "--ignore-not-found"); err != nil {
			t.Error(err)
		}
	})
	if _, err := kubectl(text.String(), "create", "-n", ns, "-f", "-"); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"addressreservation.berth.dev/names", "bgpneighbor.berth.dev/names", "l2owner.berth.dev/names",
		"loadbalancerpool.berth.dev/names",
		"routeannouncement.berth.dev/names", "segmentannouncement.berth.dev/names", "speaker.berth.dev/names",
	}
	for _, resources := range []string{
		"berth",
		"addressreservations,bgpneighbors,l2owners,loadbalancerpools,routeannouncements,segmentannouncements,speakers",
		"addressreservation,bgpneighbor,l2owner,loadbalancerpool,routeannouncement,segmentannouncement,speaker",
		"AddressReservation,BGPNeighbor,L2Owner,LoadBalancerPool,RouteAnnouncement,SegmentAnnouncement,Speaker",
		"addrres,bgpn,l2o,lbpool,routeann,segann,spk",
	} {
		out, err := kubectl("", "get", resources, "-n", ns, "-o", "name")
		if diff := gocmp.Diff(want, slices.Sorted(strings.FieldsSeq(out))); err != nil || diff != "" {
			t.Errorf("kubectl get %s: %v\n%s", resources, err, diff)
		}
	}
}
