package controller

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/ipam"
)

func named(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Name: name} }

func TestTheAnnouncedConditionSaysWhoAnnouncesOrWhyNobodyDoes(t *testing.T) {
	snapshot, _ := config.Compile(config.Objects{
		Pools: []*v1alpha1.IPPool{
			{ObjectMeta: named("rack"), Spec: v1alpha1.IPPoolSpec{Addresses: []string{"192.0.2.0/24"}}},
			{ObjectMeta: named("routed"), Spec: v1alpha1.IPPoolSpec{Addresses: []string{"198.51.100.0/24"}}},
			{ObjectMeta: named("silent"), Spec: v1alpha1.IPPoolSpec{Addresses: []string{"203.0.113.0/24"}}},
		},
		L2Advertisements:  []*v1alpha1.L2Advertisement{{ObjectMeta: named("l2"), Spec: v1alpha1.L2AdvertisementSpec{Pools: []string{"rack"}, Interfaces: []string{"eth0", "bond*"}}}},
		BGPAdvertisements: []*v1alpha1.BGPAdvertisement{{ObjectMeta: named("bgp"), Spec: v1alpha1.BGPAdvertisementSpec{Pools: []string{"routed"}, Peers: []string{"tor"}}}},
		BGPPeers:          []*v1alpha1.BGPPeer{{ObjectMeta: named("tor"), Spec: v1alpha1.BGPPeerSpec{Address: "192.0.2.254", LocalASN: 1, PeerASN: 2}}},
	})
	const nobody = "192.0.2.1 is selected by L2Advertisement l2, but no selected node, the excluded ones left out, has a speaker that announces on an interface named there; see kubectl get speakerstatuses and the label node.kubernetes.io/exclude-from-external-load-balancers of the nodes"
	up := map[string]nodeView{"n1": {ready: true, segments: []string{"eth0"}, sessions: []string{"tor"}}}
	apart := map[string]nodeView{"n1": {ready: true, segments: []string{"eth0"}, sessions: []string{"other"}}}
	for _, c := range []struct {
		name      string
		addresses []string
		nodes     map[string]nodeView
		want      condition
	}{
		{"a speaker is on a segment", []string{"192.0.2.1"}, up, condition{v1alpha1.ServiceAnnounced, true, "Announced", "by L2Advertisement l2"}},
		{"both families of announcing", []string{"192.0.2.1", "198.51.100.1"}, up, condition{v1alpha1.ServiceAnnounced, true, "Announced", "by L2Advertisement l2, BGPAdvertisement bgp"}},
		{"nothing selects the pool", []string{"203.0.113.1"}, up, condition{v1alpha1.ServiceAnnounced, false, "NoAdvertisement", "203.0.113.1 answers nowhere: no L2Advertisement or BGPAdvertisement selects IPPool silent; create one"}},
		{"policy Local", []string{"192.0.2.1"}, up, condition{v1alpha1.ServiceAnnounced, true, "Announced", "by L2Advertisement l2, from nodes with a ready Pod (externalTrafficPolicy Local)"}},
		{"an interface that no node has", []string{"192.0.2.1"}, map[string]nodeView{"n1": {ready: true, segments: []string{"eth1"}}}, condition{v1alpha1.ServiceAnnounced, false, "NoSpeaker", nobody}},
		{"in no pool", []string{"10.0.0.1"}, up, condition{v1alpha1.ServiceAnnounced, false, "NoAdvertisement", "10.0.0.1 answers nowhere: it is in no IPPool, and no L2Advertisement or BGPAdvertisement selects all pools; add it to a pool that is announced"}},
		{"no speaker runs", []string{"192.0.2.1"}, nil, condition{v1alpha1.ServiceAnnounced, false, "NoSpeaker", nobody}},
		{"every node is excluded", []string{"192.0.2.1"}, map[string]nodeView{"n1": {ready: true, segments: []string{"eth0"}, excluded: "is being deleted"}}, condition{v1alpha1.ServiceAnnounced, false, "NoSpeaker", nobody}},
		{"no session with the peer", []string{"198.51.100.1"}, apart, condition{v1alpha1.ServiceAnnounced, false, "NoSession", "198.51.100.1 is selected by BGPAdvertisement bgp, but no selected node has an established session with its peers; see kubectl get speakerstatuses"}},
		{"nothing to announce", nil, up, condition{v1alpha1.ServiceAnnounced, false, "NoAddress", "no address to announce: see condition berth.dev/Allocated"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var addresses []netip.Addr
			for _, a := range c.addresses {
				addresses = append(addresses, netip.MustParseAddr(a))
			}
			if diff := cmp.Diff(c.want, announced(addresses, c.name == "policy Local", snapshot, c.nodes), cmp.AllowUnexported(condition{})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestAStatusThatIsRightIsNotWrittenAgain(t *testing.T) {
	addresses := []netip.Addr{netip.MustParseAddr("192.0.2.1")}
	ok := allocated(request{}, ipam.Assignment{Addresses: addresses}, nil, nil)
	now := metav1.NewTime(time.Unix(1000, 0))
	fresh := &corev1.Service{}
	written, news := withStatus(fresh, addresses, []condition{ok}, now)
	if written == fresh || len(news) != 1 {
		t.Fatalf("a fresh Service: news %v, want one and a write", news)
	}
	if again, news := withStatus(written, addresses, []condition{ok}, metav1.NewTime(time.Unix(2000, 0))); again != written || len(news) != 0 {
		t.Errorf("a status that is right would be written again (%v)", news)
	}
	unset := written.DeepCopy()
	unset.Status.LoadBalancer.Ingress[0].IPMode = nil
	if again, _ := withStatus(unset, addresses, []condition{ok}, now); again != unset {
		t.Error("an ipMode left out is VIP, and no reason to write")
	}
	foreign := written.DeepCopy()
	foreign.Status.LoadBalancer.Ingress[0].IP = "192.0.2.9"
	if again, _ := withStatus(foreign, addresses, []condition{ok}, now); again == foreign || again.Status.LoadBalancer.Ingress[0].IP != "192.0.2.1" {
		t.Error("a status that somebody changed is put back")
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
		if got := serves(&corev1.Service{Spec: c.spec}, c.classless); got != c.want {
			t.Errorf("%s: served %v, want %v", c.name, got, c.want)
		}
	}
}
