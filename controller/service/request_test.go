package service

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/config/v1alpha1/v1alpha1test"
	"github.com/berth-lb/berth/ipam"
)

// FuzzRequest checks that, whatever is written in the field and the annotations, the outcome is a
// request for at most one address of each family, all of which were written there, or an error of
// one line that says where the fault is.
func FuzzRequest(f *testing.F) {
	for _, seed := range [][5]string{
		{"", "", "", "", ""},
		{"192.0.2.1", "", "", "", ""},
		{"192.0.2.1", "192.0.2.1,2001:db8::1", "four,six", "key", "198.51.100.1"},
		{"192.0.2.1", "192.0.2.2", "four", "", ""},
		{"::ffff:192.0.2.1", "192.0.2.1", "six", "", ""},
		{"fe80::1%eth0", "fe80::1%eth0", "four,,four", "", "x"},
		{" 192.0.2.1", " 192.0.2.1 , ", " , ", " ", ","},
		{"192.0.2.256", "::1,::2", "none", "\n", "::ffff:1.2.3.4,1.2.3.4"},
		{"0.0.0.0", "255.255.255.255,::", "four", strings.Repeat("k", 300), ""},
	} {
		f.Add(seed[0], seed[1], seed[2], seed[3], seed[4])
	}
	pool := func(name string, addresses v1alpha1.AddressRange) *v1alpha1.LoadBalancerPool {
		return &v1alpha1.LoadBalancerPool{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec:       v1alpha1.LoadBalancerPoolSpec{Addresses: []v1alpha1.AddressRange{addresses}},
		}
	}
	snapshot, _ := config.Compile(
		config.Objects{
			Pools: v1alpha1test.SelectAll(
				[]*v1alpha1.LoadBalancerPool{pool("four", "192.0.2.0/24"), pool("six", "2001:db8::/64")},
			),
		},
	)
	f.Fuzz(func(t *testing.T, field, addresses, pools, key, release string) {
		svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "s", Annotations: map[string]string{
			v1alpha1.AnnotationSharingKey: key, v1alpha1.AnnotationRelease: release,
		}}}
		svc.Spec.LoadBalancerIP = field
		for annotation, text := range map[string]string{
			v1alpha1.AnnotationAddresses: addresses, v1alpha1.AnnotationPools: pools,
		} {
			if text != "" {
				svc.Annotations[annotation] = text
			}
		}
		r, err := RequestOf(svc, nil, snapshot, nil, nil)
		if err != nil {
			var invalid *InvalidRequest
			if !errors.As(err, &invalid) {
				t.Fatalf("error of type %T", err)
			}
			if strings.ContainsAny(invalid.Message, "\n\r") ||
				!strings.HasPrefix(invalid.Message, "spec.loadBalancerIP") &&
					!strings.HasPrefix(invalid.Message, "annotation berth.dev/") {
				t.Errorf("message %q", invalid.Message)
			}
			return
		}
		seen := map[ipam.Family]bool{}
		for _, a := range r.Pinned {
			if seen[ipam.FamilyOf(a)] || a.Is4In6() || a.Zone() != "" || r.field[a] == "" {
				t.Errorf("pinned %v from %q and %q", r.Pinned, field, addresses)
			}
			seen[ipam.FamilyOf(a)] = true
		}
		if field != "" && !slices.Contains(r.Pinned, netip.MustParseAddr(field).Unmap()) {
			t.Errorf("pinned %v, without spec.loadBalancerIP %q", r.Pinned, field)
		}
		for _, name := range r.Pools {
			if snapshot.Pool(name) == nil {
				t.Errorf("pool %q, which does not exist", name)
			}
		}
		held := []netip.Addr{netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("1.2.3.4")}
		if r.Release(svc, held, false); len(r.Drop) > len(held) {
			t.Errorf("drops %v of %v", r.Drop, held)
		}
	})
}
