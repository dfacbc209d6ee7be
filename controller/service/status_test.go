package service

import (
	"net/netip"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/controller/condition"
	"github.com/berth-lb/berth/ipam"
)

// A status that is right is not written again.
func TestWithStatus(t *testing.T) {
	addresses := []netip.Addr{netip.MustParseAddr("192.0.2.1")}
	ok := Allocated(Request{}, ipam.Assignment{Addresses: addresses}, nil, nil)
	now := metav1.NewTime(time.Unix(1000, 0))
	fresh := &corev1.Service{}
	vip := IngressOf(addresses, corev1.LoadBalancerIPModeVIP)
	written, news := WithStatus(fresh, vip, []condition.Condition{ok}, nil, now)
	if written == fresh || len(news) != 1 {
		t.Fatalf("a fresh Service: news %v, want one and a write", news)
	}
	later := metav1.NewTime(time.Unix(2000, 0))
	if again, news := WithStatus(written, vip, []condition.Condition{ok}, nil, later); again != written ||
		len(news) != 0 {
		t.Errorf("a status that is right would be written again (%v)", news)
	}
	unset := written.DeepCopy()
	unset.Status.LoadBalancer.Ingress[0].IPMode = nil
	if again, _ := WithStatus(unset, vip, []condition.Condition{ok}, nil, now); again != unset {
		t.Error("an ipMode left out is VIP, and no reason to write")
	}
	proxy := IngressOf(addresses, corev1.LoadBalancerIPModeProxy)
	for _, vip := range []*corev1.Service{written, unset} {
		moved, news := WithStatus(vip, proxy, []condition.Condition{ok}, nil, now)
		if moved == vip || ModeOf(moved) != corev1.LoadBalancerIPModeProxy || len(news) != 0 {
			t.Errorf("from VIP to Proxy: %+v, news %v", moved.Status, news)
		}
		if again, _ := WithStatus(moved, proxy, []condition.Condition{ok}, nil, now); again != moved {
			t.Error("an ipMode that is right would be written again")
		}
	}
	foreign := written.DeepCopy()
	foreign.Status.LoadBalancer.Ingress[0].IP = "192.0.2.9"
	if again, _ := WithStatus(foreign, vip, []condition.Condition{ok}, nil, now); again == foreign ||
		again.Status.LoadBalancer.Ingress[0].IP != "192.0.2.1" {
		t.Error("a status that somebody changed is put back")
	}
}

// Only a status that gives and takes nothing may wait for its turn.
func TestOnlyTells(t *testing.T) {
	addresses := []netip.Addr{netip.MustParseAddr("192.0.2.1")}
	vip := IngressOf(addresses, corev1.LoadBalancerIPModeVIP)
	now := metav1.Now()
	allocated := Allocated(Request{}, ipam.Assignment{Addresses: addresses}, nil, nil)
	announced := condition.Condition{Kind: v1alpha1.ServiceAnnounced, OK: true, Reason: "Announced"}
	away := condition.Condition{Kind: v1alpha1.ServiceAnnounced, Reason: "NoSession"}
	signed := &metav1.Condition{Type: v1alpha1.ServiceRecord, Message: "signed"}
	both := []condition.Condition{allocated, announced}
	shown, _ := WithStatus(&corev1.Service{}, vip, both, signed, now)
	first, _ := WithStatus(&corev1.Service{}, vip, []condition.Condition{allocated}, signed, now)
	for _, c := range []struct {
		name       string
		from       *corev1.Service
		ingress    []corev1.LoadBalancerIngress
		conditions []condition.Condition
		signed     *metav1.Condition
		want       bool
	}{
		{"a session that is away", shown, vip, []condition.Condition{allocated, away}, signed, true},
		{"the first address", &corev1.Service{}, vip, both, signed, false},
		{"no address, and why", &corev1.Service{}, nil, []condition.Condition{away}, nil, false},
		{"the first word on announcing", first, vip, both, signed, false},
		{"an address less", shown, nil, []condition.Condition{allocated, away}, signed, false},
		{"another ipMode", shown, IngressOf(addresses, corev1.LoadBalancerIPModeProxy), both, signed, false},
		{"another record", shown, vip, both, &metav1.Condition{Type: v1alpha1.ServiceRecord, Message: "new"}, false},
	} {
		desired, _ := WithStatus(c.from, c.ingress, c.conditions, c.signed, now)
		if got := OnlyTells(c.from, desired); got != c.want || desired == c.from {
			t.Errorf("%s only tells: %t, want %t of a write", c.name, got, c.want)
		}
	}
}

func TestClassesSelectsBySpec(t *testing.T) {
	class := func(s string) *string { return &s }
	for _, c := range []struct {
		name      string
		spec      corev1.ServiceSpec
		classless bool
		want      bool
	}{
		{
			name:      "no class",
			spec:      corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer},
			classless: true,
			want:      true,
		},
		{
			name: "no class, and only Berth's is served",
			spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer},
		},
		{
			name: "Berth's class",
			spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, LoadBalancerClass: class("berth.dev/lb")},
			want: true,
		},
		{
			name:      "another class",
			spec:      corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, LoadBalancerClass: class("example.com/lb")},
			classless: true,
		},
		{
			name:      "ClusterIP",
			spec:      corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP},
			classless: true,
		},
		{
			name:      "NodePort",
			spec:      corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort},
			classless: true,
		},
		{
			name:      "ExternalName",
			spec:      corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName},
			classless: true,
		},
	} {
		classes := Classes{Names: []string{"berth.dev/lb"}, Classless: c.classless}
		if got := classes.Selects(&corev1.Service{Spec: c.spec}); got != c.want {
			t.Errorf("%s: served %v, want %v", c.name, got, c.want)
		}
	}
}

// A class that another implementation serves, too, is not Berth's own.
func TestIsOthersWithoutPool(t *testing.T) {
	pools := []*config.Pool{{}}
	for name, x := range map[string]struct {
		svc   *corev1.Service
		pools []*config.Pool
		want  bool
	}{
		"a class of another's, and an address": {svc: balancer("metallb.io/lb", ip("192.0.2.1")), want: true},
		"a pool, too":                          {svc: balancer("metallb.io/lb", ip("192.0.2.1")), pools: pools},
		"a class of another's, and none":       {svc: balancer("metallb.io/lb")},
		"Berth's class":                        {svc: balancer("berth.dev/lb", ip("192.0.2.1"))},
		"no class":                             {svc: balancer("", ip("192.0.2.1"))},
	} {
		if got := IsOthersWithoutPool(x.svc, &config.Snapshot{Pools: x.pools}); got != x.want {
			t.Errorf("%s: %t, want %t", name, got, x.want)
		}
	}
}
