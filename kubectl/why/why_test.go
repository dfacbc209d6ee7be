package why

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config/record"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/kubectl/cluster"
)

const address = "192.0.2.10"

var now = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

// healthy is a cluster of one node in which a client reaches Service shop/web.
func healthy() *cluster.State {
	labels := func(component string) map[string]string {
		return map[string]string{"app.kubernetes.io/component": component, "app.kubernetes.io/name": "berth"}
	}
	run := func(component string) corev1.PodTemplateSpec {
		return corev1.PodTemplateSpec{
			Spec: corev1.PodSpec{Containers: []corev1.Container{{Args: []string{component}}}},
		}
	}
	is := func(kind, reason string) metav1.Condition {
		return metav1.Condition{Type: kind, Status: metav1.ConditionTrue, Reason: reason, Message: "as it should be"}
	}
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:         "shop",
			Name:              "web",
			UID:               "7",
			CreationTimestamp: metav1.NewTime(now.Add(-time.Hour)),
		},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeLoadBalancer, IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol},
			ExternalTrafficPolicy: corev1.ServiceExternalTrafficPolicyCluster,
			Ports:                 []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolTCP}},
			Selector:              map[string]string{"app": "web"},
		},
	}
	given := record.Record{
		UID:       svc.UID,
		Request:   record.RequestOf(nil),
		Addresses: []netip.Addr{netip.MustParseAddr(address)},
	}
	svc.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: address}}
	svc.Status.Conditions = []metav1.Condition{
		is(v1alpha1.ServiceAllocated, "Allocated"), is(v1alpha1.ServiceAnnounced, "Announced"),
		given.Condition([]byte("key"), metav1.NewTime(now)),
	}
	speaker := &v1alpha1.Speaker{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}
	speaker.Status.Conditions = []metav1.Condition{is(v1alpha1.ConditionReady, string(v1alpha1.SpeakerAnnouncing))}
	speaker.Status.Version = "v0.1.0"
	speaker.Status.Segments = []v1alpha1.SegmentReport{{
		Interface: "eth0", State: v1alpha1.SegmentAnnouncing, MAC: "02:00:00:00:00:01", Subnets: []string{"192.0.2.0/24"},
	}}
	return &cluster.State{
		Taken: now, Namespace: "berth-system", ServerVersion: "v1.36.3",
		Services:   []*corev1.Service{svc},
		Namespaces: []*corev1.Namespace{{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}},
		Nodes: []*corev1.Node{{
			ObjectMeta: metav1.ObjectMeta{Name: "n1"},
			Status: corev1.NodeStatus{
				Addresses:  []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.2"}},
				Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
			},
		}},
		Pools: []*v1alpha1.LoadBalancerPool{{
			ObjectMeta: metav1.ObjectMeta{Name: "office"},
			Spec: v1alpha1.LoadBalancerPoolSpec{
				Addresses: []v1alpha1.AddressRange{"192.0.2.10-192.0.2.20"},
				Scopes: []v1alpha1.PoolScope{
					{NamespaceSelector: &v1alpha1.Selector{}, ServiceSelector: &v1alpha1.Selector{}},
				},
			},
		}},
		SegmentAnnouncements: []*v1alpha1.SegmentAnnouncement{{
			ObjectMeta: metav1.ObjectMeta{Name: "office"},
			Spec: v1alpha1.SegmentAnnouncementSpec{
				PoolNames: []string{
					"office",
				}, NodeSelector: &v1alpha1.Selector{}, ServiceSelector: &v1alpha1.Selector{},
			},
		}},
		Speakers: []*v1alpha1.Speaker{speaker},
		Owners: []*v1alpha1.L2Owner{{Status: v1alpha1.L2OwnerStatus{
			Address: address, Segment: "192.0.2.0/24", NodeName: "n1", Interface: "eth0", MAC: "02:00:00:00:00:01",
		}}},
		EndpointSlices: []*discoveryv1.EndpointSlice{{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: "shop",
				Name:      "web-x",
				Labels:    map[string]string{discoveryv1.LabelServiceName: "web"},
			},
			AddressType: discoveryv1.AddressTypeIPv4,
			Endpoints: []discoveryv1.Endpoint{
				{
					Addresses:  []string{"10.0.0.1"},
					NodeName:   new("n1"),
					Conditions: discoveryv1.EndpointConditions{Ready: new(true)},
				},
			},
			Ports: []discoveryv1.EndpointPort{
				{Name: new(""), Port: new(int32(80)), Protocol: new(corev1.ProtocolTCP)},
			},
		}},
		Deployments: []*appsv1.Deployment{{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: "berth-system",
				Name:      "berth-controller",
				Labels:    labels("controller"),
			},
			Spec:   appsv1.DeploymentSpec{Replicas: new(int32(1)), Template: run("controller")},
			Status: appsv1.DeploymentStatus{ReadyReplicas: 1},
		}},
		Leases: []*coordinationv1.Lease{{
			ObjectMeta: metav1.ObjectMeta{Namespace: "berth-system", Name: "berth-controller"},
			Spec: coordinationv1.LeaseSpec{
				HolderIdentity: new("berth-controller-1"), RenewTime: new(metav1.NewMicroTime(now.Add(-time.Second))),
			},
		}},
	}
}

// TestOf takes one thing away from a cluster in which all is well: the report ends with what it is,
// and with a command that goes on from there.
func TestOf(t *testing.T) {
	svc := func(s *cluster.State) *corev1.Service { return s.Services[0] }
	without := func(s *cluster.State, reason, message string) {
		svc(s).Status.LoadBalancer.Ingress = nil
		svc(s).Status.Conditions = []metav1.Condition{
			{Type: v1alpha1.ServiceAllocated, Status: metav1.ConditionFalse, Reason: reason, Message: message},
		}
	}
	for _, test := range []struct {
		name      string
		change    func(*cluster.State)
		reachable bool
		verdict   string // a part of it
		next      string // a part of it
	}{
		{
			name: "nothing is wrong", change: func(*cluster.State) {}, reachable: true,
			verdict: "nothing that the cluster shows keeps a client from " + address,
		},
		{
			name:    "another type",
			change:  func(s *cluster.State) { svc(s).Spec.Type = corev1.ServiceTypeClusterIP },
			verdict: "spec.type is ClusterIP: only Services of type LoadBalancer get an address", next: "kubectl patch service web -n shop",
		},
		{
			name: "a class that nobody serves",
			change: func(s *cluster.State) {
				svc(s).Spec.LoadBalancerClass = new("example.com/lb")
				without(s, "", "")
				svc(s).Status.Conditions = nil
			},
			verdict: `spec.loadBalancerClass is "example.com/lb", and Berth serves "berth.dev/lb"`, next: "kubectl get service web -n shop -o yaml",
		},
		{
			name: "another load balancer's",
			change: func(s *cluster.State) {
				svc(s).Status.Conditions = nil
				svc(s).ManagedFields = []metav1.ManagedFieldsEntry{{
					Manager: "metallb", Time: new(metav1.NewTime(now)),
					FieldsV1: metav1.NewFieldsV1(`{"f:status":{"f:loadBalancer":{"f:ingress":{}}}}`),
				}}
			},
			verdict: "field manager metallb gave it its address, so Berth leaves it alone", next: "kubectl get loadbalancerpools.berth.dev",
		},
		{
			name: "another load balancer's, of a class that Berth serves, too, and no pool",
			change: func(s *cluster.State) {
				s.Pools, svc(s).Status.Conditions = nil, nil
				svc(s).Spec.LoadBalancerClass = new("metallb.io/lb")
				s.Deployments[0].Spec.Template.Spec.Containers[0].Args = []string{"controller", "--classes=metallb.io/lb"}
			},
			verdict: "another implementation gave it its address, and no pool exists, so Berth leaves it alone",
			next:    "kubectl get loadbalancerpools.berth.dev",
		},
		{
			name:    "Berth is not installed",
			change:  func(s *cluster.State) { s.Uninstalled = true },
			verdict: "Berth is not installed in this cluster", next: "kubectl berth doctor",
		},
		{
			name: "no controller leads",
			change: func(s *cluster.State) {
				s.Deployments[0].Status.ReadyReplicas, s.Leases = 0, nil
				without(s, "", "")
				svc(s).Status.Conditions = nil
			},
			verdict: "controller", next: "kubectl",
		},
		{
			name: "no controller, and the Lease of one that has ended",
			change: func(s *cluster.State) {
				s.Deployments, s.Leases[0].Spec.RenewTime.Time = nil, now.Add(-time.Minute)
				without(s, "", "")
				svc(s).Status.Conditions = nil
			},
			verdict: "there is no controller of Berth in namespace berth-system",
			next:    "kubectl get pods -n berth-system",
		},
		{
			name:    "no pool",
			change:  func(s *cluster.State) { without(s, "NoPool", "no LoadBalancerPool gives IPv4 addresses") },
			verdict: "no LoadBalancerPool gives IPv4 addresses", next: "kubectl get loadbalancerpools.berth.dev",
		},
		{
			name:    "no announcement",
			change:  func(s *cluster.State) { s.SegmentAnnouncements = nil },
			verdict: "no SegmentAnnouncement or RouteAnnouncement selects LoadBalancerPool office", next: "kind: SegmentAnnouncement",
		},
		{
			name:    "no speaker",
			change:  func(s *cluster.State) { s.Speakers = nil },
			verdict: "n1", next: "kubectl get pods -n berth-system",
		},
		{
			name:    "the node is excluded",
			change:  func(s *cluster.State) { s.Nodes[0].Labels = map[string]string{v1alpha1.ExcludeLabel: ""} },
			verdict: v1alpha1.ExcludeLabel, next: "kubectl label nodes n1 node.kubernetes.io/exclude-from-external-load-balancers-",
		},
		{
			name: "another host has the address",
			change: func(s *cluster.State) {
				other := v1alpha1.ConflictReport{Address: address, MAC: "02:00:00:00:00:99", Interface: "eth0"}
				s.Speakers[0].Status.Conflicts = []v1alpha1.ConflictReport{other}
			},
			verdict: "02:00:00:00:00:99",
		},
		{
			name:    "no endpoint",
			change:  func(s *cluster.State) { s.EndpointSlices = nil },
			verdict: "no Pod in namespace shop has the labels of spec.selector (app=web)", next: "kubectl get pods -n shop",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := healthy()
			test.change(s)
			r := Of(s, "shop", "web", Pods{})
			if r.Reachable != test.reachable || !strings.Contains(r.Verdict, test.verdict) ||
				!strings.Contains(r.Next, test.next) {
				t.Errorf(
					"reachable %t\nverdict: %s\nnext:    %s\nwant %t, %q and %q",
					r.Reachable,
					r.Verdict,
					r.Next,
					test.reachable,
					test.verdict,
					test.next,
				)
			}
			if r.Next == "" {
				t.Error("no command goes on from there")
			}
		})
	}
	if Of(healthy(), "shop", "other", Pods{}) != nil {
		t.Error("a Service that is not there has a report")
	}
}

// Where hints leave out endpoints, a reader wonders why these have nothing to do.
func TestOfHints(t *testing.T) {
	const step = "Endpoints"
	hinted := func(s *cluster.State) {
		s.Nodes[0].Labels = map[string]string{corev1.LabelTopologyZone: "a"}
		slice := s.EndpointSlices[0]
		slice.Endpoints = nil
		for address, zone := range map[string]string{"10.0.0.1": "a", "10.0.0.2": "a", "10.0.1.1": "b"} {
			slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
				Addresses: []string{address}, NodeName: new("n1"),
				Conditions: discoveryv1.EndpointConditions{Ready: new(true)},
				Hints:      &discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{{Name: zone}}},
			})
		}
	}
	for _, test := range []struct {
		name   string
		change func(*cluster.State)
		grade  Grade
		text   string
	}{
		{
			name: "by zone", change: func(*cluster.State) {}, grade: Note,
			text: "3 ready, on n1; what arrives at n1 goes to 2 of the 3 ready endpoints: " +
				"those that EndpointSlices hint for zone a (spec.trafficDistribution)",
		},
		{
			name: "by node",
			change: func(s *cluster.State) {
				for i, node := range []string{"n1", "n2", "n2"} {
					s.EndpointSlices[0].Endpoints[i].Hints.ForNodes = []discoveryv1.ForNode{{Name: node}}
				}
			},
			grade: Note,
			text: "3 ready, on n1; what arrives at n1 goes to 1 of the 3 ready endpoints: " +
				"those that EndpointSlices hint for node n1 (spec.trafficDistribution)",
		},
		{
			name:   "the node is in no zone",
			change: func(s *cluster.State) { s.Nodes[0].Labels = nil }, grade: OK, text: "3 ready, on n1",
		},
		{
			name: "policy Local",
			change: func(s *cluster.State) {
				s.Services[0].Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
			},
			grade: OK, text: "3 ready, on n1",
		},
		{
			name: "zones may not be read",
			change: func(s *cluster.State) {
				s.Missing = map[cluster.Resource]error{cluster.Nodes: errors.New("no right")}
			},
			grade: OK, text: "3 ready, on n1",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := healthy()
			hinted(s)
			test.change(s)
			r := Of(s, "shop", "web", Pods{})
			i := slices.IndexFunc(r.Steps, func(s Step) bool { return s.Name == step })
			if i < 0 || r.Steps[i].Text != test.text || r.Steps[i].Grade != test.grade || !r.Reachable {
				t.Errorf("%+v\nwant %s: %q", r, test.grade, test.text)
			}
		})
	}
}

// What the user may not read is said, and nothing is concluded from it.
func TestOfWithoutRights(t *testing.T) {
	s := healthy()
	s.Speakers, s.Owners, s.Leases, s.EndpointSlices = nil, nil, nil, nil
	forbidden := apierrors.NewForbidden(
		v1alpha1.GroupVersion.WithResource("speakers").GroupResource(),
		"",
		errors.New("no right"),
	)
	s.Missing = map[cluster.Resource]error{
		cluster.Speakers: forbidden, cluster.Owners: forbidden, cluster.Leases: forbidden, cluster.EndpointSlices: forbidden,
	}
	r := Of(s, "shop", "web", Pods{Err: forbidden})
	if !r.Reachable || !strings.Contains(r.Verdict, "nothing that you could read") {
		t.Errorf("%+v", r)
	}
	said := 0
	for _, step := range r.Steps {
		if strings.Contains(step.Text, "not known, since you could not read") {
			said++
		}
	}
	if said == 0 {
		t.Errorf("nothing says what could not be read: %+v", r.Steps)
	}
}
