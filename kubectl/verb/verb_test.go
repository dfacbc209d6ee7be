package verb

import (
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/berth-lb/berth/config/record"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/kubectl/cluster"
)

func node(labels, annotations map[string]string) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: labels, Annotations: annotations}}
}

func patchOf(t *testing.T, c Change) string {
	t.Helper()
	if c.Empty() {
		return ""
	}
	text, err := json.Marshal(c.Patch())
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestDrainSetsAndUndoRemovesOnlyItsOwnLabel(t *testing.T) {
	label, ours := map[string]string{v1alpha1.ExcludeLabel: ""}, map[string]string{AnnotationDrained: "true"}
	for name, c := range map[string]struct {
		node              *corev1.Node
		drain, undo, fail string
	}{
		"in service": {
			node(nil, nil),
			`{"metadata":{"annotations":{"berth.dev/drained":"true"},"labels":{"node.kubernetes.io/exclude-from-external-load-balancers":""}}}`,
			"", "",
		},
		"drained": {
			node(label, ours), "",
			`{"metadata":{"annotations":{"berth.dev/drained":null},"labels":{"node.kubernetes.io/exclude-from-external-load-balancers":null}}}`, "",
		},
		"labeled by somebody": {node(label, nil), "", "", "drain did not set its label"},
		"label taken away": {
			node(nil, ours),
			`{"metadata":{"annotations":{"berth.dev/drained":"true"},"labels":{"node.kubernetes.io/exclude-from-external-load-balancers":""}}}`,
			`{"metadata":{"annotations":{"berth.dev/drained":null}}}`,
			"",
		},
	} {
		t.Run(name, func(t *testing.T) {
			if got := patchOf(t, Drain(c.node)); got != c.drain {
				t.Errorf("drain: %s, want %s", got, c.drain)
			}
			undo, err := Undo(c.node)
			if got := patchOf(t, undo); got != c.undo {
				t.Errorf("undo: %s, want %s", got, c.undo)
			}
			if (err != nil) != (c.fail != "") || err != nil && !strings.Contains(err.Error(), c.fail) {
				t.Errorf("undo: %v", err)
			}
		})
	}
	tainted := node(label, ours)
	tainted.Spec.Taints = []corev1.Taint{{Key: corev1.TaintNodeOutOfService}}
	if c, _ := Undo(tainted); !strings.Contains(c.Text, "stays out of load balancing, for it has the taint") {
		t.Errorf("undo of a tainted node: %s", c.Text)
	}
}

func speaker(name string, state v1alpha1.SpeakerState, prefixes int32, keys ...string) *v1alpha1.Speaker {
	s := &v1alpha1.Speaker{ObjectMeta: metav1.ObjectMeta{Name: name}}
	s.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionReady, Reason: string(state), Message: "because"}}
	s.Status.PrefixesAnnounced = &prefixes
	if len(keys) > 0 {
		s.Status.SigningKey, s.Status.AcceptedKeys = keys[0], keys
	}
	return s
}

func owner(address, node string) *v1alpha1.L2Owner {
	return &v1alpha1.L2Owner{Status: v1alpha1.L2OwnerStatus{Address: address, NodeName: node}}
}

func TestWhatADrainedNodeStillDoes(t *testing.T) {
	for name, c := range map[string]struct {
		speaker *v1alpha1.Speaker
		owners  []*v1alpha1.L2Owner
		want    string
	}{
		"nothing": {speaker("n1", v1alpha1.SpeakerLeaving, 0), []*v1alpha1.L2Owner{owner("192.0.2.1", "n2")}, ""},
		"owns": {
			speaker("n1", v1alpha1.SpeakerLeaving, 0),
			[]*v1alpha1.L2Owner{owner("192.0.2.1", "n1")},
			"answers for 192.0.2.1",
		},
		"has routes":      {speaker("n1", v1alpha1.SpeakerLeaving, 2), nil, "announces 2 prefixes by BGP"},
		"has not noticed": {speaker("n1", v1alpha1.SpeakerAnnouncing, 2), nil, "announces still"},
		"has ended":       {speaker("n1", v1alpha1.SpeakerStopped, 2), nil, ""},
		"no speaker":      {nil, nil, ""},
	} {
		if got := Left("n1", c.speaker, c.owners); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	if got := Returned("n1", speaker("n1", v1alpha1.SpeakerAnnouncing, 0)); got != "" {
		t.Errorf("returned: %q", got)
	}
	if got := Returned("n1", speaker("n1", v1alpha1.SpeakerLeaving, 0)); got != "has a speaker that is Leaving: because" {
		t.Errorf("not returned: %q", got)
	}
}

func TestARotationEndsWhenEverySpeakerAcceptsANewKeyAlone(t *testing.T) {
	before := []string{"aa"}
	n1 := func(keys ...string) *v1alpha1.Speaker { return speaker("n1", v1alpha1.SpeakerAnnouncing, 0, keys...) }
	n2 := func(keys ...string) *v1alpha1.Speaker { return speaker("n2", v1alpha1.SpeakerAnnouncing, 0, keys...) }
	for name, c := range map[string]struct {
		speakers []*v1alpha1.Speaker
		want     string
	}{
		"not begun":       {[]*v1alpha1.Speaker{n1("aa")}, "n1"},
		"accepts both":    {[]*v1alpha1.Speaker{n1("aa", "bb"), n2("bb", "aa")}, "n1,n2"},
		"done":            {[]*v1alpha1.Speaker{n1("bb"), n2("bb")}, ""},
		"one ended":       {[]*v1alpha1.Speaker{speaker("n1", v1alpha1.SpeakerStopped, 0, "aa"), n2("bb")}, ""},
		"one lags behind": {[]*v1alpha1.Speaker{n1("aa", "bb"), n2("bb")}, "n1"},
	} {
		if got := strings.Join(Unrotated(c.speakers, before), ","); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	got := Keys([]*v1alpha1.Speaker{n1("bb", "aa"), n2("aa")})
	if !slices.Equal(got, []string{"aa", "bb"}) {
		t.Errorf("keys: %v", got)
	}
}

// state has a pool 192.0.2.0/29 for namespace shop, Service shop/web with 192.0.2.1 of it, and
// Service bank/old with 198.51.100.1, which is in no pool.
func state() *cluster.State {
	pool := &v1alpha1.LoadBalancerPool{ObjectMeta: metav1.ObjectMeta{Name: "rack"}}
	pool.Spec.Addresses = []v1alpha1.AddressRange{"192.0.2.0/29"}
	pool.Spec.Scopes = []v1alpha1.PoolScope{{
		NamespaceSelector: &v1alpha1.Selector{MatchLabels: map[string]string{"kubernetes.io/metadata.name": "shop"}},
		ServiceSelector:   &v1alpha1.Selector{},
	}}
	s := &cluster.State{Pools: []*v1alpha1.LoadBalancerPool{pool}, Missing: map[cluster.Resource]error{}}
	for _, name := range []string{"shop", "bank"} {
		s.Namespaces = append(s.Namespaces, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
			Name: name, Labels: map[string]string{"kubernetes.io/metadata.name": name},
		}})
	}
	s.Services = []*corev1.Service{serviceWith("shop", "web", "192.0.2.1"), serviceWith("bank", "old", "198.51.100.1")}
	s.Nodes = []*corev1.Node{{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Status: corev1.NodeStatus{
		Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.5"}},
	}}}
	return s
}

func serviceWith(namespace, name, address string) *corev1.Service {
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: "u"}}
	svc.Spec.Type = corev1.ServiceTypeLoadBalancer
	svc.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: address}}
	given := record.Record{UID: svc.UID, Request: "r", Addresses: []netip.Addr{netip.MustParseAddr(address)}}
	svc.Status.Conditions = []metav1.Condition{given.Condition([]byte("a key of sixteen"), metav1.Time{})}
	return svc
}

func TestReleaseTakesOnlyWhatIsInNoPool(t *testing.T) {
	s := state()
	for _, c := range []struct {
		service   int
		addresses string
		all       bool
		patch     string
		fail      string
	}{
		{1, "", true, `{"metadata":{"annotations":{"berth.dev/release":"198.51.100.1"}}}`, ""},
		{1, "198.51.100.1", false, `{"metadata":{"annotations":{"berth.dev/release":"198.51.100.1"}}}`, ""},
		{1, "198.51.100.2", false, "", "Service bank/old does not have 198.51.100.2; it has 198.51.100.1"},
		{0, "", true, "", ""},
		{0, "192.0.2.1", false, "", "192.0.2.1 is in LoadBalancerPool rack, and is not released"},
	} {
		var named []netip.Addr
		if c.addresses != "" {
			named = append(named, netip.MustParseAddr(c.addresses))
		}
		change, err := Release(s, s.Services[c.service], named, c.all)
		if got := patchOf(t, change); got != c.patch {
			t.Errorf("%+v: %s", c, got)
		}
		if (err != nil) != (c.fail != "") || err != nil && !strings.Contains(err.Error(), c.fail) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	s.Services[1].Annotations = map[string]string{v1alpha1.AnnotationRelease: "198.51.100.1"}
	if c, err := Release(
		s,
		s.Services[1],
		nil,
		true,
	); err != nil || !c.Empty() ||
		c.Text != "Service bank/old is asked to release 198.51.100.1 already" {
		t.Errorf("again: %+v, %v", c, err)
	}
	s.Missing[cluster.Pools] = apierrors.NewForbidden(schema.GroupResource{}, "", nil)
	if _, err := Release(s, s.Services[1], nil, true); err == nil || !strings.Contains(err.Error(), "it is not known") {
		t.Errorf("without the right to read pools: %v", err)
	}
}

func TestReserveRefusesWhatTheControllerWould(t *testing.T) {
	for _, c := range []struct{ namespace, address, want string }{
		{"shop", "192.0.2.2", ""},
		{"shop", "192.0.2.1", ""}, // its own Service has it
		{"shop", "203.0.113.1", "spec.addresses: 203.0.113.1 is in no LoadBalancerPool; add it to one, or reserve an address that is"},
		{"bank", "192.0.2.2", "LoadBalancerPool rack does not serve namespace bank (its spec.scopes); reserve an address of another pool"},
		{"shop", "192.0.2.5", "spec.addresses: 192.0.2.5 is the InternalIP of node n1, so it is not kept; reserve another"},
	} {
		r := &v1alpha1.AddressReservation{ObjectMeta: metav1.ObjectMeta{Namespace: c.namespace, Name: "r"}}
		r.Spec.Addresses = []string{c.address}
		if got := Refusal(state(), r); got != c.want {
			t.Errorf("%s in %s: %q, want %q", c.address, c.namespace, got, c.want)
		}
	}
}
