package forecast

import (
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-lb/berth/config/record"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/controller/service"
	"github.com/berth-lb/berth/kubectl/cluster"
	"github.com/berth-lb/berth/kubectl/lint"
	"github.com/berth-lb/berth/kubectl/view"
)

const (
	everything = "scopes: [{namespaceSelector: {}, serviceSelector: {}}]"
	aPool      = "apiVersion: berth.dev/v1alpha1\nkind: LoadBalancerPool\nmetadata: {name: a}\nspec: {addresses: [192.0.2.10-192.0.2.12], " + everything + "}\n"
	segments   = "apiVersion: berth.dev/v1alpha1\nkind: SegmentAnnouncement\nmetadata: {name: a}\nspec: {poolNames: [a], nodeSelector: {}, serviceSelector: {}}\n"
	router     = "apiVersion: berth.dev/v1alpha1\nkind: BGPNeighbor\nmetadata: {name: tor}\nspec: {localASN: 64512, remoteASN: 64513, address: 192.0.2.1, nodeSelector: {}}\n"
	routes     = "apiVersion: berth.dev/v1alpha1\nkind: RouteAnnouncement\nmetadata: {name: a}\nspec: {poolNames: [a], neighborNames: [tor], nodeSelector: {}, serviceSelector: {}}\n"
)

func web(name, spec string) string {
	return "apiVersion: v1\nkind: Service\nmetadata: {name: " + name + ", namespace: shop}\n" +
		"spec: {type: LoadBalancer, ports: [{port: 80}]" + spec + "}\n"
}

// world is a cluster of two nodes with one segment, and what the files have made of it.
func world(t *testing.T, files ...string) *cluster.State {
	t.Helper()
	s := &cluster.State{
		Taken: time.Now(), Namespace: "berth-system",
		Services: []*corev1.Service{{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "kubernetes"},
			Spec:       corev1.ServiceSpec{IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}},
		}},
		Namespaces: []*corev1.Namespace{{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}},
	}
	for i, name := range []string{"n1", "n2"} {
		s.Nodes = append(s.Nodes, &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)},
			Status: corev1.NodeStatus{
				Addresses: []corev1.NodeAddress{
					{Type: corev1.NodeInternalIP, Address: netip.AddrFrom4([4]byte{192, 0, 2, byte(2 + i)}).String()},
				},
			},
		})
		speaker := &v1alpha1.Speaker{ObjectMeta: metav1.ObjectMeta{Name: name}}
		speaker.Status.Segments = []v1alpha1.SegmentReport{{
			Interface: "eth0", State: v1alpha1.SegmentAnnouncing, Subnets: []string{"192.0.2.0/24"},
		}}
		speaker.Status.Conditions = []metav1.Condition{{
			Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, Reason: string(v1alpha1.SpeakerAnnouncing),
		}}
		s.Speakers = append(s.Speakers, speaker)
	}
	changed, done := Apply(t.Context(), s, schemas(t), objects(t, files...), false)
	for _, o := range done {
		if o.Change != Created {
			t.Fatalf("%+v", o)
		}
	}
	l := newLedger(changed)
	return l.result()
}

var readSchemas = sync.OnceValues(lint.NewSchemas)

func schemas(t *testing.T) *lint.Schemas {
	t.Helper()
	all, err := readSchemas()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func objects(t *testing.T, files ...string) []lint.Object {
	t.Helper()
	all, findings := lint.Parse([]lint.File{{Text: []byte(strings.Join(files, "---\n"))}})
	if len(findings) > 0 {
		t.Fatal(findings)
	}
	return all
}

// say returns a report as JSON without its objects, for comparison.
func say(t *testing.T, r Report) string {
	t.Helper()
	r.Objects = nil
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func reservation(address string) string {
	return "apiVersion: berth.dev/v1alpha1\nkind: AddressReservation\nmetadata: {name: kept, namespace: shop}\n" +
		"spec: {addresses: [" + address + "]}\n"
}

// TestSecrets: what becomes of sessions when their password does, with the right to read it and
// without.
func TestSecrets(t *testing.T) {
	secret := func(kind, data string) string {
		return "apiVersion: v1\nkind: Secret\ntype: " + kind + "\nmetadata: {name: tor, namespace: berth-system}\n" +
			"stringData: {" + data + "}\n"
	}
	const basic = "kubernetes.io/basic-auth"
	signed := strings.Replace(
		router,
		"nodeSelector",
		"authentication: {type: TCPMD5, tcpMD5: {secretName: tor}}, nodeSelector",
		1,
	)
	const reset = `[{"change":"changed","node":"n1","neighbor":"tor"},{"change":"changed","node":"n2","neighbor":"tor"}]`
	for _, test := range []struct {
		name      string
		passwords map[string]*string
		before    []string
		change    string
		deletes   bool
		is        Change
		sessions  string
		says      string // in the messages
	}{
		{
			name: "another password", passwords: map[string]*string{"tor": new("old")}, before: []string{signed},
			change: secret(basic, "password: s3cret"), is: Changed, sessions: reset,
		},
		{
			name: "the same password", passwords: map[string]*string{"tor": new("s3cret")}, before: []string{signed},
			change: secret(basic, "password: s3cret"), is: Unchanged, sessions: `[]`,
		},
		{
			name: "a password that may not be read", before: []string{signed},
			change: secret(basic, "password: s3cret"), is: Changed, sessions: reset,
			says: "if it is this one, no session is reset",
		},
		{
			name: "a Secret that is deleted", passwords: map[string]*string{"tor": new("old")}, before: []string{signed},
			change: secret(basic, ""), deletes: true, is: Deleted, sessions: `[]`,
			says: "until then speakers that knew a password go on with it",
		},
		{
			name: "a key with a typing error", passwords: map[string]*string{"tor": new("old")}, before: []string{signed},
			change: secret(basic, "pasword: s3cret"), is: Changed, sessions: `[]`, says: `in Secret \"tor\" has 0 bytes`,
		},
		{
			name: "another type", passwords: map[string]*string{"tor": new("old")}, before: []string{signed},
			change: secret("Opaque", "password: s3cret"), is: Refused, sessions: `[]`, says: "type: may not change",
		},
		{
			name: "a Secret that comes", passwords: map[string]*string{"tor": nil}, before: []string{signed},
			change: secret(basic, "password: s3cret"), is: Created, sessions: strings.ReplaceAll(reset, "changed", "created"),
		},
		{
			name: "a neighbor without its Secret", passwords: map[string]*string{"tor": nil},
			change: signed, is: Created, sessions: `[]`, says: `there is no Secret \"tor\"`,
		},
		{name: "a Secret that nobody names", change: secret(basic, "password: s3cret"), is: PassedOver, sessions: `[]`},
	} {
		t.Run(test.name, func(t *testing.T) {
			before := world(t, append([]string{aPool}, test.before...)...)
			before.Passwords = test.passwords
			r := Files(t.Context(), before, schemas(t), In("shop", objects(t, test.change)), test.deletes)
			text, err := json.Marshal(r)
			if err != nil {
				t.Fatal(err)
			}
			if r.Objects[0].Change != test.is {
				t.Errorf("it is %s, want %s", r.Objects[0].Change, test.is)
			}
			for _, part := range []string{`"sessions":` + test.sessions, test.says} {
				if !strings.Contains(string(text), part) {
					t.Errorf("it does not say %s:\n%s", part, text)
				}
			}
			if strings.Contains(string(text), "s3cret") {
				t.Errorf("it has the password:\n%s", text)
			}
		})
	}
}

func TestFiles(t *testing.T) {
	all := []string{aPool, segments, web("one", ""), web("two", "")}
	for _, test := range []struct {
		name    string
		before  []string
		change  string
		deletes bool
		// says are parts of the report, lacks are not.
		says, lacks []string
	}{
		{
			name: "a new Service", before: all, change: web("three", ""),
			says: []string{
				`"service":"shop/three","before":[],"after":["192.0.2.12"],"likely":["192.0.2.12"],"reason":"Allocated"`,
				`"address":"192.0.2.12","segment":"192.0.2.0/24","after":"n`,
			},
			lacks: []string{"shop/one", "shop/two"},
		},
		{
			name: "a pool that is narrowed takes nothing away, but is announced no longer", before: all,
			change: strings.Replace(aPool, "192.0.2.10-192.0.2.12", "192.0.2.12", 1),
			says: []string{
				`"before":["192.0.2.10"],"after":["192.0.2.10"],"reason":"OutsidePools"`,
				`{"address":"192.0.2.10","segment":"192.0.2.0/24","before":"n1"}`,
			},
		},
		{
			name: "a Service that is deleted", before: all, change: web("one", ""), deletes: true,
			says: []string{`"service":"shop/one","before":["192.0.2.10"],"after":[]`, `"address":"192.0.2.10","segment":"192.0.2.0/24","before":"n`},
		},
		{
			name:   "an address that has to rest first",
			before: []string{strings.Replace(aPool, "-192.0.2.12", "", 1), web("one", ""), web("two", "")},
			change: web("one", ""), deletes: true,
			says: []string{`"service":"shop/two","before":[],"after":["192.0.2.10"],"likely":["192.0.2.10"],"reason":"Allocated","message":"has 192.0.2.10","later":true`},
		},
		{
			name: "another type", before: all, change: strings.Replace(web("one", ""), "LoadBalancer", "ClusterIP", 1),
			says: []string{`"service":"shop/one","before":["192.0.2.10"],"after":[]}`},
		},
		{
			name: "a route and a session", before: slices.Concat(all, []string{router}), change: routes,
			says: []string{`{"change":"created","prefix":"192.0.2.10/32","node":"n1","neighbor":"tor"}`, `"sessions":[]`, `"addresses":[]`},
		},
		{
			name: "a session that is reset", before: slices.Concat(all, []string{router, routes}),
			change: strings.Replace(router, "64513", "64514", 1),
			says:   []string{`"sessions":[{"change":"changed","node":"n1","neighbor":"tor"},{"change":"changed","node":"n2","neighbor":"tor"}]`, `"routes":[]`},
		},
		{
			name: "defaults written out", before: slices.Concat(all, []string{router, routes}),
			change: strings.Replace(router, "nodeSelector", "holdTime: 90s, nodeSelector", 1),
			says:   []string{`"sessions":[]`},
		},
		{
			name: "a namespace with all that is in it", before: all,
			change: "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n", deletes: true,
			says: []string{`"service":"shop/one","before":["192.0.2.10"],"after":[]`, `"service":"shop/two"`},
		},
		{
			name: "a namespace that kustomize writes", before: all,
			change: strings.Replace(aPool, "name: a", "name: a, namespace: prod", 1),
			says:   []string{`"refused":false`, `"addresses":[]`},
		},
		{
			name: "a field with a typing error", before: all, change: web("three", ", prots: []"),
			says: []string{`"refused":true`, `"addresses":[]`},
		},
		{
			name: "a namespace that is not there", before: all,
			change: strings.Replace(web("three", ""), "namespace: shop", "namespace: shoo", 1),
			says:   []string{`"refused":true`, `"addresses":[]`},
		},
		{
			name: "two families where there is one", before: all,
			change: web("three", ", ipFamilyPolicy: RequireDualStack"),
			says:   []string{`"refused":true`, `"addresses":[]`},
		},
		{
			name: "what the API server refuses", before: all, change: strings.Replace(aPool, "192.0.2.10-", "192.0.2.", 1),
			says: []string{`"addresses":[]`, `"refused":true`},
		},
		{
			name: "a reservation that the controller would refuse", before: all, change: reservation("203.0.113.1"),
			says: []string{
				`"reservations":[{"name":"shop/kept","before":[],"after":[],"wrong":true,"reason":"AddressOutsidePools",` +
					`"message":"spec.addresses: 203.0.113.1 is in no LoadBalancerPool`,
			},
		},
		{
			name: "a reservation of another namespace's address", before: all,
			change: strings.Replace(reservation("192.0.2.10"), "namespace: shop", "namespace: desk", 1),
			says:   []string{`"wrong":true,"reason":"AddressInUse","message":"spec.addresses: 192.0.2.10 is held by Service shop/one`},
		},
		{
			name: "a reservation", before: all, change: reservation("192.0.2.12"),
			says: []string{`{"name":"shop/kept","before":[],"after":["192.0.2.12"],"reason":"Reserved","message":"192.0.2.12 is kept for namespace shop"}`},
		},
		{
			name: "a pool without which a reservation is nothing", before: slices.Concat(all, []string{reservation("192.0.2.12")}),
			change: aPool, deletes: true,
			says: []string{`{"name":"shop/kept","before":["192.0.2.12"],"after":[],"wrong":true,"reason":"AddressOutsidePools"`},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			said := say(
				t,
				Files(t.Context(), world(t, test.before...), schemas(t), objects(t, test.change), test.deletes),
			)
			for _, part := range test.says {
				if !strings.Contains(said, part) {
					t.Errorf("it does not say %s:\n%s", part, said)
				}
			}
			for _, part := range test.lacks {
				if strings.Contains(said, part) {
					t.Errorf("it says %s:\n%s", part, said)
				}
			}
		})
	}
}

// What is not in the file any longer goes, if the file was applied before; what others set stays.
func TestApplyMerges(t *testing.T) {
	s := world(t, aPool, web("one", ""))
	svc := s.Service("shop", "one")
	svc.Labels = map[string]string{"kept": "x", "ours": "x", "theirs": "y"}
	svc.Annotations = map[string]string{
		corev1.LastAppliedConfigAnnotation: `{"apiVersion":"v1","kind":"Service","metadata":{"name":"one","namespace":"shop","labels":{"kept":"x","ours":"x"}},"spec":{"type":"LoadBalancer","ports":[{"port":80}]}}`,
	}
	file := strings.Replace(web("one", ""), "namespace: shop", "namespace: shop, labels: {kept: x}", 1)
	after, done := Apply(t.Context(), s, schemas(t), objects(t, file), false)
	if got := after.Service("shop", "one").Labels; len(got) != 2 || got["theirs"] != "y" ||
		done[0].Change != Changed {
		t.Errorf("labels %v, %+v", got, done)
	}
	if svc.Labels["ours"] != "x" || len(service.AddressesIn(after.Service("shop", "one"))) != 1 {
		t.Error("the State before was changed, or the status was lost")
	}
}

// The record that the controller signed counts, though only it has the key.
func TestSignedRecords(t *testing.T) {
	s := world(t, aPool)
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "old", UID: "7"},
		Spec: corev1.ServiceSpec{
			Type:       corev1.ServiceTypeLoadBalancer,
			IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol},
			Ports:      []corev1.ServicePort{{Port: 80}},
		},
	}
	given := record.Record{
		UID:       "7",
		Request:   record.RequestOf(nil),
		Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.11")},
	}
	svc.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "192.0.2.11"}}
	svc.Status.Conditions = []metav1.Condition{given.Condition([]byte("a key that nobody else has"), metav1.Now())}
	s.Services = append(s.Services, svc)
	if said := say(t, Files(t.Context(), s, schemas(t), objects(t, web("new", "")), false)); strings.Contains(
		said,
		"shop/old",
	) ||
		!strings.Contains(said, `"after":["192.0.2.10"]`) {
		t.Error(said)
	}
}

// A class that another implementation serves, too, is that one's until there is a pool.
func TestClassOfAnother(t *testing.T) {
	s := world(t)
	s.Deployments = controllerWith(s.Namespace, "--classes=metallb.io/lb")
	s.Services = append(s.Services, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "7"},
		Spec: corev1.ServiceSpec{
			Type:              corev1.ServiceTypeLoadBalancer,
			LoadBalancerClass: new("metallb.io/lb"),
			IPFamilies:        []corev1.IPFamily{corev1.IPv4Protocol},
			Ports:             []corev1.ServicePort{{Port: 80}},
		},
		Status: corev1.ServiceStatus{LoadBalancer: corev1.LoadBalancerStatus{
			Ingress: []corev1.LoadBalancerIngress{{IP: "192.0.2.11"}},
		}},
	})
	if v := newLedger(s).verdicts["shop/web"]; v.Whose != service.Others || v.Reason != "" ||
		!slices.Equal(v.Addresses, []netip.Addr{netip.MustParseAddr("192.0.2.11")}) {
		t.Errorf("without a pool it is %+v, want another's with its address", v)
	}
	said := say(t, Files(t.Context(), s, schemas(t), objects(t, aPool), false))
	if !strings.Contains(said, `"before":["192.0.2.11"],"after":["192.0.2.11"],"reason":"Allocated"`) {
		t.Error(said)
	}
}

// controllerWith is the Deployment of a controller with a flag.
func controllerWith(namespace, flag string) []*appsv1.Deployment {
	return []*appsv1.Deployment{{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace,
			Labels:    map[string]string{"app.kubernetes.io/component": "controller", "app.kubernetes.io/name": "berth"},
		},
		Spec: appsv1.DeploymentSpec{
			Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{
				Args: []string{"controller", flag},
			}}}},
		},
	}}
}

// A node that is drained hands over what it answers for, and the flags of the controller count.
func TestBetween(t *testing.T) {
	s := world(t, aPool, segments, web("one", ""))
	s.Owners = []*v1alpha1.L2Owner{
		{Status: v1alpha1.L2OwnerStatus{Address: "192.0.2.10", Segment: "192.0.2.0/24", NodeName: "n2"}},
	}
	node := s.Node("n2").DeepCopy()
	node.Labels = map[string]string{v1alpha1.ExcludeLabel: ""}
	r := Between(s, WithNode(s, node))
	if len(r.Owners) != 1 || r.Owners[0] != (Owner{"192.0.2.10", "192.0.2.0/24", "n2", "n1"}) ||
		len(r.Addresses) > 0 {
		t.Errorf("%+v", r)
	}
	if text := r.Summary(); text != "1 address moves to another node." {
		t.Error(text)
	}
	if r := Between(s, s); !r.Empty() || r.Summary() != "No address, route or session changes." {
		t.Errorf("%+v", r)
	}

	s.Deployments = controllerWith(s.Namespace, "--release-outside-pools")
	narrowed := strings.Replace(aPool, "192.0.2.10-192.0.2.12", "192.0.2.12", 1)
	if said := say(t, Files(t.Context(), s, schemas(t), objects(t, narrowed), false)); !strings.Contains(
		said,
		`"before":["192.0.2.10"],"after":["192.0.2.12"]`,
	) {
		t.Error(said)
	}
}

// An address that nodes may answer for and none does is told from one that is answered for.
func TestOwnerless(t *testing.T) {
	s := world(t, aPool, segments, web("one", ""), web("two", ""))
	s.Owners = []*v1alpha1.L2Owner{{Status: v1alpha1.L2OwnerStatus{
		Address: "192.0.2.10", Segment: "192.0.2.0/24", NodeName: "n2",
	}}}
	rows := view.Ownerless(s)
	if len(rows) != 1 || rows[0].Address != "192.0.2.11" || !slices.Equal(rows[0].Services, []string{"shop/two"}) ||
		rows[0].Problem != "nobody answers; these nodes may: n1, n2" {
		t.Errorf("%+v", rows)
	}
}
