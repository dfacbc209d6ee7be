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
	"sync"

	corev1 "k8s.io/api/core/v1"
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

// complete tells whether all tests of the package run.
func complete() bool {
	for _, name := range []string{"test.run", "test.skip"} {
		if f := flag.Lookup(name); f != nil && f.Value.String() != "" {
			return false
		}
	}
	return true
}

// The tables and lists of docs/operations.md in which reasons are published.
var published = map[string]*regexp.Regexp{
	"Service " + v1alpha1.ServiceAllocated: regexp.MustCompile("(?s)\nCondition `berth.dev/Allocated`:\n(.*?)\n\n[^|]"),
	"Service " + v1alpha1.ServiceAnnounced: regexp.MustCompile("(?s)\nCondition `berth.dev/Announced`:\n(.*?)\n\n[^|]"),
	"configuration Ready":                  regexp.MustCompile("(?s)Reasons of the condition `Ready` on configuration objects:(.*?)[.]\n"),
	"AddressReservation Ready":             regexp.MustCompile("(?s)Reasons of its condition `Ready`:(.*?)[.]\n"),
}

// A table has a reason at the beginning of each line; a list is of nothing else.
var (
	reasonInTable = regexp.MustCompile("(?m)^[|] `([A-Za-z]+)` [|]")
	reasonInList  = regexp.MustCompile("`([A-Za-z]+)`")
)

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
	text, err := os.ReadFile(filepath.Join(filepath.Dir(filepath.Dir(manifest)), "docs", "operations.md"))
	if err != nil {
		return nil, fmt.Errorf("read what is published: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var faults []string
	for _, key := range slices.Sorted(maps.Keys(published)) {
		part := published[key].FindSubmatch(text)
		if part == nil {
			return nil, fmt.Errorf("docs/operations.md publishes no reasons of %s", key)
		}
		listed, reason := map[string]bool{}, reasonInList
		if reasonInTable.Match(part[1]) {
			reason = reasonInTable
		}
		for _, m := range reason.FindAllSubmatch(part[1], -1) {
			listed[string(m[1])] = true
		}
		for _, reason := range slices.Sorted(maps.Keys(listed)) {
			if !r.seen[key][reason] {
				faults = append(faults, fmt.Sprintf("no test brings about %s with the published reason %s", key, reason))
			}
		}
		for _, reason := range slices.Sorted(maps.Keys(r.seen[key])) {
			if !listed[reason] {
				faults = append(faults, fmt.Sprintf("docs/operations.md does not publish the reason %s of %s", reason, key))
			}
		}
	}
	return faults, nil
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
	)
	if err != nil {
		return nil, err
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
