//go:build root

package api

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"

	"github.com/berth-lb/berth/config/client"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/e2e/stage"
)

// What must hold of all tests of the package together: every reason that is
// published was on an object of a real API server, and every right that manifests/
// give was used.

// complete reports whether all tests of the package run.
func complete() bool {
	for _, name := range []string{"test.run", "test.skip"} {
		if f := flag.Lookup(name); f != nil && f.Value.String() != "" {
			return false
		}
	}
	return true
}

// published is where docs/reference/conditions.md lists the reasons of a condition.
var published = map[string]struct {
	heading string // above the table
	anchor  string // what the anchors of the reasons begin with
}{
	"Service " + v1alpha1.ServiceAllocated: {
		heading: "## Services: `berth.dev/Allocated`",
		anchor:  "allocated-",
	},
	"Service " + v1alpha1.ServiceAnnounced: {
		heading: "## Services: `berth.dev/Announced`",
		anchor:  "announced-",
	},
	"configuration Ready": {
		heading: "## Configuration objects: `Accepted`, `PartiallyInvalid`, `Ready`",
		anchor:  "ready-",
	},
	"AddressReservation Ready": {
		heading: "## AddressReservations: `Accepted`, `PartiallyInvalid`, `Ready`",
		anchor:  "reservation-",
	},
}

// reasonInTable matches the beginning of a row: a reason with its anchor.
var reasonInTable = regexp.MustCompile("(?m)^[|] <a id=\"([^\"]*)\"></a>`([A-Za-z]+)` [|]")

// recorder remembers the reasons of all conditions that it saw.
type recorder struct {
	mu   sync.Mutex
	seen map[string]map[string]bool // reasons by the keys of published
}

// record watches all objects that have conditions of Berth's until the context ends.
func record(ctx context.Context, s *stage.Stage) (*recorder, error) {
	r := &recorder{seen: map[string]map[string]bool{}}
	for key := range published {
		r.seen[key] = map[string]bool{}
	}
	configuration := func(c metav1.Condition) string { return "configuration " + c.Type }
	services := informers.NewSharedInformerFactory(s.Kubernetes, 0).Core().V1().Services().Informer()
	for _, w := range []struct {
		informer cache.SharedIndexInformer
		key      func(metav1.Condition) string
	}{
		{services, func(c metav1.Condition) string { return "Service " + c.Type }},
		{client.NewInformer(s.Berth.LoadBalancerPools, &v1alpha1.LoadBalancerPool{}), configuration},
		{client.NewInformer(s.Berth.SegmentAnnouncements, &v1alpha1.SegmentAnnouncement{}), configuration},
		{client.NewInformer(s.Berth.RouteAnnouncements, &v1alpha1.RouteAnnouncement{}), configuration},
		{client.NewInformer(s.Berth.BGPNeighbors, &v1alpha1.BGPNeighbor{}), configuration},
		{
			client.NewInformer(s.Berth.AddressReservations(""), &v1alpha1.AddressReservation{}),
			func(c metav1.Condition) string { return "AddressReservation " + c.Type },
		},
	} {
		see := func(o any) {
			for _, c := range conditionsOf(o) {
				r.see(w.key(c), c.Reason)
			}
		}
		_, err := w.informer.AddEventHandler(
			cache.ResourceEventHandlerFuncs{AddFunc: see, UpdateFunc: func(_, o any) { see(o) }},
		)
		if err != nil {
			return nil, fmt.Errorf("record reasons: %w", err)
		}
		go w.informer.RunWithContext(ctx)
	}
	return r, nil
}

func conditionsOf(o any) []metav1.Condition {
	switch o := o.(type) {
	case *corev1.Service:
		return o.Status.Conditions
	case interface{ ConditionList() *[]metav1.Condition }:
		return *o.ConditionList()
	}
	return nil
}

func (r *recorder) see(key, reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if reasons := r.seen[key]; reasons != nil {
		reasons[reason] = true
	}
}

// unlike returns what differs between the reasons published and those seen.
func (r *recorder) unlike() ([]string, error) {
	manifest, err := stage.Manifest()
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(filepath.Join(filepath.Dir(filepath.Dir(manifest)), "docs", "reference", "conditions.md"))
	if err != nil {
		return nil, fmt.Errorf("read what is published: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var faults []string
	for _, key := range slices.Sorted(maps.Keys(published)) {
		listed := map[string]bool{}
		for _, row := range reasonInTable.FindAllStringSubmatch(section(string(text), published[key].heading), -1) {
			anchor, reason := row[1], row[2]
			listed[reason] = true
			if want := published[key].anchor + strings.ToLower(reason); anchor != want {
				faults = append(faults, fmt.Sprintf("conditions.md has the anchor %s at reason %s of %s, want %s", anchor, reason, key, want))
			}
		}
		if len(listed) == 0 {
			return nil, fmt.Errorf("conditions.md publishes no reasons of %s", key)
		}
		for _, reason := range slices.Sorted(maps.Keys(listed)) {
			if !r.seen[key][reason] {
				faults = append(faults, fmt.Sprintf("no test brings about %s with the published reason %s", key, reason))
			}
		}
		for _, reason := range slices.Sorted(maps.Keys(r.seen[key])) {
			if !listed[reason] {
				faults = append(faults, fmt.Sprintf("conditions.md does not publish the reason %s of %s", reason, key))
			}
		}
	}
	return faults, nil
}

// section returns the part of a page between a heading of the second level and the next.
func section(page, heading string) string {
	_, found, _ := strings.Cut(page, "\n"+heading+"\n")
	found, _, _ = strings.Cut(found, "\n## ")
	return found
}

// unusedRights returns the rights that no test needed.
func unusedRights(s *stage.Stage) ([]string, error) {
	manifest, err := stage.Manifest()
	if err != nil {
		return nil, err
	}
	dir := filepath.Dir(manifest)
	rights, err := stage.Rights(
		filepath.Join(dir, "rbac-controller.yaml"),
		filepath.Join(dir, "cloud-provider", "rbac.yaml"),
		filepath.Join(dir, "..", "e2e", "helm", "testdata", "hooks.yaml"), // of the chart
	)
	if err != nil {
		return nil, err
	}
	served, err := s.Kubernetes.Discovery().ServerResourcesForGroupVersion(networkingv1.SchemeGroupVersion.String())
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(served.APIResources, func(r metav1.APIResource) bool { return r.Name == "servicecidrs" }) {
		maps.DeleteFunc(rights, func(r stage.Right, _ bool) bool { return r.Resource == "servicecidrs" }) // before 1.33
	}
	unused, err := s.Unused(rights)
	if err != nil {
		return nil, err
	}
	var faults []string
	for _, right := range unused {
		faults = append(faults, "no test needs the right that "+right.String())
	}
	return faults, nil
}
