package controller

import (
	"net/netip"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/ipam"
)

func named(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Name: name} }

func TestAStatusThatIsRightIsNotWrittenAgain(t *testing.T) {
	addresses := []netip.Addr{netip.MustParseAddr("192.0.2.1")}
	ok := allocated(request{}, ipam.Assignment{Addresses: addresses}, nil, nil)
	now := metav1.NewTime(time.Unix(1000, 0))
	fresh := &corev1.Service{}
	vip := outlook{addresses: addresses}.ingress()
	written, news := withStatus(fresh, vip, []condition{ok}, nil, now)
	if written == fresh || len(news) != 1 {
		t.Fatalf("a fresh Service: news %v, want one and a write", news)
	}
	if again, news := withStatus(written, vip, []condition{ok}, nil, metav1.NewTime(time.Unix(2000, 0))); again != written || len(news) != 0 {
		t.Errorf("a status that is right would be written again (%v)", news)
	}
	unset := written.DeepCopy()
	unset.Status.LoadBalancer.Ingress[0].IPMode = nil
	if again, _ := withStatus(unset, vip, []condition{ok}, nil, now); again != unset {
		t.Error("an ipMode left out is VIP, and no reason to write")
	}
	proxy := outlook{addresses: addresses, forwarder: forwarder{scheduler: "rr"}}.ingress()
	for _, vip := range []*corev1.Service{written, unset} {
		moved, news := withStatus(vip, proxy, []condition{ok}, nil, now)
		if moved == vip || modeOf(moved) != corev1.LoadBalancerIPModeProxy || len(news) != 0 {
			t.Errorf("from VIP to Proxy: %+v, news %v", moved.Status, news)
		}
		if again, _ := withStatus(moved, proxy, []condition{ok}, nil, now); again != moved {
			t.Error("an ipMode that is right would be written again")
		}
	}
	foreign := written.DeepCopy()
	foreign.Status.LoadBalancer.Ingress[0].IP = "192.0.2.9"
	if again, _ := withStatus(foreign, vip, []condition{ok}, nil, now); again == foreign || again.Status.LoadBalancer.Ingress[0].IP != "192.0.2.1" {
		t.Error("a status that somebody changed is put back")
	}
}

func TestApplyNews(t *testing.T) {
	announced := func(message string) condition {
		return condition{kind: v1alpha1.ServiceAnnounced, ok: true, reason: ReasonAnnounced, message: message}
	}
	not := func(message string) condition {
		return condition{kind: v1alpha1.ServiceAnnounced, reason: ReasonNoSpeaker, message: message}
	}
	for _, c := range []struct {
		name          string
		before, after condition
		news          bool
	}{
		{"nothing changed", announced("by SegmentAnnouncement l2"), announced("by SegmentAnnouncement l2"), false},
		{"it is announced now", not("nobody"), announced("by SegmentAnnouncement l2"), true},
		{"another announcement", announced("by SegmentAnnouncement l2"), announced("by RouteAnnouncement bgp"), true},
		{"not announced, for the same reason on another node", not("n1"), not("n2"), true},
	} {
		var list []metav1.Condition
		c.before.apply(&list, 0, metav1.Now())
		if changed, news := c.after.apply(&list, 0, metav1.Now()); changed != c.news || news != c.news {
			t.Errorf("%s: changed %v, news %v; want both %v", c.name, changed, news, c.news)
		}
		if changed, news := c.after.apply(&list, 7, metav1.Now()); !changed || news {
			t.Errorf("%s: another generation: changed %v, news %v; want a change that is no news", c.name, changed, news)
		}
	}
}

func TestWhichServicesAreServed(t *testing.T) {
	class := func(s string) *string { return &s }
	for _, c := range []struct {
		name      string
		spec      corev1.ServiceSpec
		classless bool
		want      bool
	}{
		{"no class", corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer}, true, true},
		{"no class, and only Berth's is served", corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer}, false, false},
		{"Berth's class", corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, LoadBalancerClass: class("berth.dev/lb")}, false, true},
		{"another class", corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, LoadBalancerClass: class("example.com/lb")}, true, false},
		{"ClusterIP", corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP}, true, false},
		{"NodePort", corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort}, true, false},
		{"ExternalName", corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName}, true, false},
	} {
		if got := (ofClasses{[]string{"berth.dev/lb"}, c.classless}).selects(&corev1.Service{Spec: c.spec}); got != c.want {
			t.Errorf("%s: served %v, want %v", c.name, got, c.want)
		}
	}
}
