package steps

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// set changes a field of an object that is there.
func (w *world) set(name string, value any, fields ...string) {
	w.t.Helper()
	if err := unstructured.SetNestedField(w.objects[name], value, fields...); err != nil {
		w.t.Fatal(err)
	}
}

// next does the next step.
func (w *world) next(t *testing.T) error {
	t.Helper()
	s, err := w.read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	all, err := Plan(s)
	if err != nil {
		return err
	}
	step, _ := Next(all)
	r := &Runner{Read: w.read, Act: w.act, Poll: time.Second, Timeout: time.Minute, Say: func(string) {}}
	return r.Run(t.Context(), step.Name, false)
}

func class(name string) map[string]any {
	return map[string]any{
		"type": "LoadBalancer", "loadBalancerClass": name, "ports": []any{map[string]any{"port": int64(80)}},
	}
}

// What cannot be done safely is refused before anything changes, in words that name the object, the
// field and the remedy.
func TestRefuses(t *testing.T) {
	const (
		odd = `{"kind": "BGPAdvertisement", "apiVersion": "metallb.io/v1beta1", "metadata": {"namespace": "metallb-system",
		  "name": "odd"}, "spec": {"ipAddressPools": ["routed"], "communities": ["no-such-alias"]}}`
	)
	for name, test := range map[string]struct {
		change func(*world)
		want   []string
	}{
		"a BGPAdvertisement is not converted": {
			func(w *world) { w.put("bgpadvertisements", odd) },
			[]string{"BGPAdvertisement metallb-system/odd would have no counterpart", "spec.communities: no-such-alias"},
		},
		"a BGPPeer would be refused by Berth": {
			func(w *world) { w.set("bgppeers/metallb-system/tor", int64(0), "spec", "myASN") },
			[]string{"BGPPeer metallb-system/tor would have no counterpart", "localASN"},
		},
		"a Service has a class that Berth does not serve": {
			func(w *world) { w.set("services/shop/routed", class("metallb.io/lb"), "spec") },
			[]string{"Service shop/routed has spec.loadBalancerClass metallb.io/lb", "--classes"},
		},
		"Berth serves no Service without a class": {
			func(w *world) { w.berthArgs("controller", "--serve-classless=false") },
			[]string{"Service shop/routed has no spec.loadBalancerClass", "--serve-classless=false"},
		},
		"an object of Berth's has the name of a converted one": {
			func(w *world) {
				w.put("loadbalancerpools", `{"metadata": {"name": "rack"}, "spec": {"addresses": ["203.0.113.0/24"]}}`)
			},
			[]string{"LoadBalancerPool rack is there, without the label berth.dev/migration=metallb", "rename it"},
		},
		"Argo CD reconciles MetalLB": {
			func(w *world) {
				w.set("daemonsets/metallb-system/speaker", map[string]any{"argocd.argoproj.io/tracking-id": "metallb"},
					"metadata", "annotations")
			},
			[]string{"DaemonSet metallb-system/speaker is reconciled by Argo CD", "--managed"},
		},
		"Flux reconciles an L2Advertisement": {
			func(w *world) {
				w.set("l2advertisements/metallb-system/rack", map[string]any{"kustomize.toolkit.fluxcd.io/name": "lb"},
					"metadata", "labels")
			},
			[]string{"L2Advertisement metallb-system/rack is reconciled by Flux", "flux suspend kustomization"},
		},
		"an operator runs MetalLB": {
			func(w *world) {
				w.set("deployments/metallb-system/controller", []any{map[string]any{"kind": "MetalLB", "name": "metallb"}},
					"metadata", "ownerReferences")
			},
			[]string{"Deployment metallb-system/controller belongs to MetalLB metallb", "scale the operator to none"},
		},
		"a node is down": {
			func(w *world) { w.ready("n2", "Unknown") },
			[]string{"Node n2 is not ready", "repair it"},
		},
		"Berth has no speaker where MetalLB has one": {
			func(w *world) { w.speakers = map[string]string{"n3": ""} },
			[]string{"Berth has no speaker on n3", "kubectl get speakers.berth.dev"},
		},
		"a speaker of Berth's does not announce": {
			func(w *world) { w.speakers = map[string]string{"n3": "Starting"} },
			[]string{"Berth's speaker on n3 is Starting"},
		},
		"MetalLB announces from a node that is excluded": {
			func(w *world) {
				for _, n := range []string{"n1", "n2", "n3"} {
					w.exclude(n)
				}
			},
			[]string{"MetalLB announces Service shop/segment-", "take that off the node"},
		},
		"MetalLB announces routes from a node that is excluded": {
			func(w *world) {
				w.exclude("n1")
				w.set("daemonsets/metallb-system/speaker", []any{map[string]any{
					"name": "speaker", "args": []any{"--ignore-exclude-lb"},
				}}, "spec", "template", "spec", "containers")
			},
			[]string{"MetalLB announces routes from Node n1, which has the label node.kubernetes.io/exclude"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				test.change(w)
				before := w.copy()
				err := w.next(t)
				if _, is := errors.AsType[*RefusedError](err); !is {
					t.Fatalf("error %v, want a RefusedError", err)
				}
				for _, text := range test.want {
					if !strings.Contains(err.Error(), text) {
						t.Errorf("error %q, want %q in it", err, text)
					}
				}
				if diff := cmp.Diff(before, w.copy()); diff != "" {
					t.Errorf("what is refused changed something (-before +after):\n%s", diff)
				}
			})
		})
	}
}

// That an address may be on another interface is said before the first step, as far as Nodes tell.
func TestElsewhere(t *testing.T) {
	inRack := func(w *world) {
		for i, n := range []string{"n1", "n2", "n3"} {
			w.set("nodes//"+n, []any{
				map[string]any{"type": "Hostname", "address": "192.0.2.1"},
				map[string]any{"type": "InternalIP", "address": fmt.Sprintf("203.0.113.%d", i+1)},
			}, "status", "addresses")
		}
	}
	for name, test := range map[string]struct {
		change func(*world)
		want   []string
	}{
		"the addresses are not beside the nodes'": {
			func(*world) {},
			[]string{
				"L2Advertisement metallb-system/rack has no spec.interfaces", "192.0.2.1", "Service shop/segment-", "on n",
				"write that into spec.interfaces before you begin",
			},
		},
		"the L2Advertisement names an interface": {
			func(w *world) {
				w.set("l2advertisements/metallb-system/rack", []any{"eth1"}, "spec", "interfaces")
			}, nil,
		},
		"they are beside the nodes'": {
			func(w *world) {
				for _, n := range []string{"n1", "n2", "n3"} {
					w.set("nodes//"+n, []any{map[string]any{"type": "InternalIP", "address": "192.0.2.99"}}, "status", "addresses")
				}
			}, nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, inRack, test.change)
			s, err := w.read(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			notes := s.Elsewhere()
			if len(notes) > 0 != (len(test.want) > 0) {
				t.Fatalf("notes %q, want %q in them", notes, test.want)
			}
			for _, text := range test.want {
				if !strings.Contains(notes[0], text) {
					t.Errorf("note %q, want %q in it", notes[0], text)
				}
			}
		})
	}
}

// Only what L2Advertisements say of the node that announces counts: what others leave out is no
// reason against a step.
func TestInterfacesOfTheNode(t *testing.T) {
	onNode := func(name string) []any {
		return []any{map[string]any{"matchLabels": map[string]any{"kubernetes.io/hostname": name}}}
	}
	for name, test := range map[string]struct {
		announcing string // the node that vlan selects; rack selects n2
		warns      bool
	}{
		"the one of the node names an interface": {announcing: "n1"},
		"one of two does":                        {announcing: "n2"},
		"none of the node's does":                {announcing: "n3", warns: true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, func(w *world) {
				for i, n := range []string{"n1", "n2", "n3"} {
					w.set("nodes//"+n, []any{
						map[string]any{"type": "InternalIP", "address": fmt.Sprintf("203.0.113.%d", i+1)},
					}, "status", "addresses")
				}
				w.put("l2advertisements", `{"kind": "L2Advertisement", "apiVersion": "metallb.io/v1beta1",
				  "metadata": {"namespace": "metallb-system", "name": "vlan"},
				  "spec": {"ipAddressPools": ["rack"], "interfaces": ["vlan5"]}}`)
				w.set("l2advertisements/metallb-system/vlan", onNode(test.announcing), "spec", "nodeSelectors")
				w.set("l2advertisements/metallb-system/rack", onNode("n2"), "spec", "nodeSelectors")
				if test.announcing != "n2" && !test.warns {
					w.exclude("n2") // so that only vlan's node is left
				}
				if test.warns {
					w.exclude("n3")
				}
			})
			s, err := w.read(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if notes := s.Elsewhere(); len(notes) > 0 != test.warns {
				t.Errorf("notes %q; want some: %t", notes, test.warns)
			}
			w.put("segmentannouncements", `{"metadata": {"name": "rack"}}`)
			w.segment = "203.0.113.0/24"
			if s, err = w.read(t.Context()); err != nil {
				t.Fatal(err)
			}
			if reasons := s.offSegment(); len(reasons) > 0 != test.warns {
				t.Errorf("reasons %q; want some: %t", reasons, test.warns)
			}
		})
	}
}

// What is reconciled moves once the user says that the tool is suspended.
func TestManaged(t *testing.T) {
	w := newWorld(t)
	w.set("daemonsets/metallb-system/speaker", "lb", "metadata", "labels", "helm.toolkit.fluxcd.io/name")
	w.set("daemonsets/metallb-system/speaker", "Helm", "metadata", "labels", "app.kubernetes.io/managed-by")
	s, err := w.read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	all, err := Plan(s)
	if err != nil {
		t.Fatal(err)
	}
	if reasons := Refusals(s, all, false); len(reasons) != 1 {
		t.Errorf("refused for %q, want one reason", reasons)
	}
	if reasons := Refusals(s, all, true); len(reasons) > 0 {
		t.Errorf("refused for %q although reconciliation is suspended", reasons)
	}
	if notes := s.OfHelm(); len(notes) != 1 ||
		!strings.Contains(notes[0], "DaemonSet metallb-system/speaker is Helm's") {
		t.Errorf("notes about Helm: %q, want one about the DaemonSet", notes)
	}
}
