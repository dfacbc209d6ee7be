package steps

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/berth-lb/berth/kubectl/cluster"
)

// tainted adds a node with a taint that MetalLB's DaemonSet does not tolerate, and Berth's does.
func tainted(w *world) {
	w.put("nodes", `{"metadata": {"name": "gpu1", "labels": {"kubernetes.io/hostname": "gpu1"}},
	  "spec": {"taints": [{"key": "gpu", "effect": "NoSchedule"}]},
	  "status": {"conditions": [{"type": "Ready", "status": "True"}]}}`)
}

// classed gives Services a class of MetalLB's, which Berth serves as well, in several pools.
func classed(w *world) {
	w.berthArgs("controller", "--classes=metallb.io/lb,berth.dev/lb")
	for _, name := range []string{"segment-0", "segment-1", "routed"} {
		w.set("services/shop/"+name, class("metallb.io/lb"), "spec")
	}
}

// Clusters with nodes that are unlike each other move there and back, too.
func TestOtherClusters(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*world){
		"a node is excluded":               func(w *world) { w.exclude("n1"); w.exclude("n2") },
		"MetalLB keeps off a tainted node": tainted,
		"Services have a class":            classed,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, change)
				w.walk(t, false, 1)
				w.walk(t, true, 1)
				if diff := cmp.Diff(w.started, w.copy()); diff != "" {
					t.Errorf("it is not as it was (-before +after):\n%s", diff)
				}
			})
		})
	}
}

// A node that fails in the midst keeps nobody from going on, or back.
func TestNodeFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		healthy := newWorld(t)
		for range 11 { // steps
			healthy.run(t, false, 0)
			for _, back := range []bool{false, true} {
				w := healthy.fork()
				w.broken = true
				w.ready("n3", "Unknown")
				w.react()
				w.walk(t, back, 0)
			}
		}
	})
}

// What the migration has changed is changed back although MetalLB's objects are gone.
func TestObjectsDeletedMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		for !strings.HasPrefix(w.step(t), "bgp/n3") {
			w.run(t, false, 0)
		}
		w.broken = true // nothing is announced any longer
		for _, name := range []string{
			"bgppeers/metallb-system/tor", "bgpadvertisements/metallb-system/tor", "l2advertisements/metallb-system/rack",
		} {
			delete(w.objects, name)
			delete(w.started, name)
		}
		w.react()
		w.walk(t, true, 1)
		for name := range w.started {
			if strings.HasPrefix(name, "servicel2statuses/") {
				delete(w.started, name)
			}
		}
		if diff := cmp.Diff(w.started, w.copy()); diff != "" {
			t.Errorf("it is not as it was (-before +after):\n%s", diff)
		}
	})
}

// What a tool changes back in the midst is changed again, and MetalLB ends all the same.
func TestChangedBack(t *testing.T) {
	for _, back := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			for w.step(t) != "speakers" {
				w.run(t, false, 0)
			}
			selectors, _, _ := unstructured.NestedSlice(
				w.started["l2advertisements/metallb-system/rack"].(map[string]any), "spec", "nodeSelectors",
			)
			w.set("l2advertisements/metallb-system/rack", selectors, "spec", "nodeSelectors")
			w.broken = true // both announce
			w.react()
			if step := w.step(t); !back && step != "pin" {
				t.Errorf("the next step is %s, want pin again", step)
			}
			w.walk(t, back, 1)
			if !back {
				if statuses := of[unstructured.Unstructured](w, "servicel2statuses"); len(statuses) > 0 {
					t.Errorf("MetalLB announces %d Services when all is done", len(statuses))
				}
				w.walk(t, true, 1)
			}
			if diff := cmp.Diff(w.started, w.copy()); diff != "" {
				t.Errorf("it is not as it was (-before +after):\n%s", diff)
			}
		})
	}
}

// step returns the name of the next step.
func (w *world) step(t *testing.T) string {
	t.Helper()
	s, err := w.read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	all, err := Plan(s)
	if err != nil {
		t.Fatal(err)
	}
	step, _ := Next(all)
	return step.Name
}

// Without its record of what was there before, a step is not undone by a guess.
func TestRecordIsLost(t *testing.T) {
	for name, test := range map[string]struct{ object, until, want string }{
		"of an L2Advertisement": {
			"l2advertisements/metallb-system/rack", "configuration", "write the field as it was before the migration",
		},
		"of the DaemonSet":  {"daemonsets/metallb-system/speaker", "bgp/n1", "write them as they were before the migration"},
		"of the Deployment": {"deployments/metallb-system/controller", "pin", "write them as they were before the migration"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				for w.step(t) != test.until {
					w.run(t, false, 0)
				}
				unstructured.RemoveNestedField(w.objects[test.object], "metadata", "annotations")
				before := w.copy()
				s, err := w.read(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				all, err := Plan(s)
				if err == nil {
					step, _ := Back(all)
					r := &Runner{
						Read:    w.read,
						Act:     w.act,
						Poll:    time.Second,
						Timeout: time.Minute,
						Say:     func(string) {},
					}
					err = r.Run(t.Context(), step.Name, true)
				}
				if err == nil || !strings.Contains(err.Error(), test.want) {
					t.Errorf("error %v, want %q", err, test.want)
				}
				if diff := cmp.Diff(before, w.copy()); diff != "" {
					t.Errorf("it was undone by a guess (-before +after):\n%s", diff)
				}
			})
		})
	}
}

// A session alone does not end the step of a node: routes must be announced, too.
func TestRoutesAreMissing(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*world)
		want   string
	}{
		"the session has none": {
			func(w *world) { w.routeless = true }, "Berth announces no prefix to tor from n1 yet",
		},
		"the RouteAnnouncement is for other pools": {
			func(w *world) { w.set("routeannouncements//tor", []any{"rack"}, "spec", "poolNames") },
			"no RouteAnnouncement announces Service shop/routed from n1",
		},
		"the Service is not announced": {
			func(w *world) { w.unannounced = true }, "Service shop/routed is not announced by Berth yet",
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				for w.step(t) != "bgp/n1" {
					w.run(t, false, 0)
				}
				test.change(w)
				if err := w.next(t); err == nil || !strings.Contains(err.Error(), test.want) {
					t.Errorf("error %v, want %q", err, test.want)
				}
				if w.step(t) != "bgp/n1" {
					t.Errorf("the step counts as done")
				}
			})
		})
	}
}

// No Service is pinned before it is known from where MetalLB announces each, and from there only.
func TestPinWaits(t *testing.T) {
	for name, test := range map[string]struct{ status, want string }{
		"MetalLB has not said yet": {
			"", "no ServiceL2Status says from which node MetalLB announces Service shop/segment-0",
		},
		"it moves": {
			"n1", "Service shop/segment-0 moves: MetalLB announces it from",
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.run(t, false, 0)
				w.late = map[string]string{"segment-0": test.status}
				w.react()
				if err := w.next(t); err == nil || !strings.Contains(err.Error(), test.want) {
					t.Errorf("error %v, want %q", err, test.want)
				}
				for name := range w.objects {
					if strings.HasPrefix(name, "l2advertisements/metallb-system/rack-at") {
						t.Errorf("%s is there although it is not known where each Service is", name)
					}
				}
				w.late = nil
				w.react()
				w.walk(t, false, 1)
				w.walk(t, true, 1)
				if diff := cmp.Diff(w.started, w.copy()); diff != "" {
					t.Errorf("it is not as it was (-before +after):\n%s", diff)
				}
			})
		})
	}
}

// MetalLB does not end while Berth answers on another segment than the address is on.
func TestWrongSegment(t *testing.T) {
	for _, untold := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.segment, w.untold = "203.0.113.0/24", untold
			var err error
			for range 20 {
				if err = w.next(t); err != nil {
					break
				}
			}
			_, refused := errors.AsType[*RefusedError](err)
			if err == nil || !strings.Contains(err.Error(), "in spec.interfaces") || refused == untold {
				t.Fatalf("error %v, want one that names spec.interfaces; refused: %t", err, !untold)
			}
			if statuses := of[unstructured.Unstructured](w, "servicel2statuses"); len(statuses) != 2 {
				t.Errorf("MetalLB announces %d Services, want both", len(statuses))
			}
			w.walk(t, true, 1)
			if diff := cmp.Diff(w.started, w.copy()); diff != "" {
				t.Errorf("it is not as it was (-before +after):\n%s", diff)
			}
		})
	}
}

// A Service that is created in the midst is announced all the time, on the way back, too.
func TestServiceCreatedMeanwhile(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		before := newWorld(t, tainted)
		for _, step := range []string{"segment/n1", "segment/n3", "segments", "speakers", "bgp/n3"} {
			for before.step(t) != step {
				before.run(t, false, 0)
			}
			for _, owner := range []string{"", "gpu1"} {
				createdMeanwhile(t, before.fork(), step, owner)
			}
		}
	})
}

// createdMeanwhile creates a Service before a step, of which Berth is the owner on a node or, if
// that is empty, where it likes, and goes back.
func createdMeanwhile(t *testing.T, w *world, step, owner string) {
	t.Helper()
	w.put(
		"services",
		`{"metadata": {"namespace": "shop", "name": "late"}, "spec": {"type": "LoadBalancer",
	  "ports": [{"port": 80}]}, "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.19"}]}}}`,
	)
	w.endpoints("late", "n1", "n2")
	created := w.copy()
	for _, name := range []string{"services/shop/late", "endpointslices/shop/late"} {
		w.started[name] = created[name]
	}
	if owner != "" {
		w.put(
			"l2owners",
			fmt.Sprintf(`{"metadata": {"name": "late"}, "status": {"address": "192.0.2.19", "nodeName": %q,
		  "segment": "192.0.2.0/24"}}`, owner),
		)
	}
	w.react()
	w.walk(t, true, 1)
	now := w.copy()
	if now["servicel2statuses/metallb-system/l2-late"] == nil {
		t.Errorf("created before %s: MetalLB does not announce the Service", step)
	}
	w.started["servicel2statuses/metallb-system/l2-late"] = now["servicel2statuses/metallb-system/l2-late"]
	if diff := cmp.Diff(w.started, now); diff != "" {
		t.Errorf("created before %s: it is not as it was (-before +after):\n%s", step, diff)
	}
}

// A node that is not ready for a moment is waited for.
func TestDown(t *testing.T) {
	taken := time.Now()
	for _, test := range []struct {
		status corev1.ConditionStatus
		since  time.Duration
		want   bool
	}{
		{corev1.ConditionTrue, time.Hour, false},
		{corev1.ConditionUnknown, failed - time.Second, false},
		{corev1.ConditionUnknown, failed, true},
		{corev1.ConditionFalse, failed, true},
	} {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}
		n.Status.Conditions = []corev1.NodeCondition{{
			Type: corev1.NodeReady, Status: test.status, LastTransitionTime: metav1.NewTime(taken.Add(-test.since)),
		}}
		s := &Snapshot{State: &cluster.State{Taken: taken, Nodes: []*corev1.Node{n}}}
		if got := s.down("n1"); got != test.want {
			t.Errorf("Ready %s for %s: down %t, want %t", test.status, test.since, got, test.want)
		}
	}
}
