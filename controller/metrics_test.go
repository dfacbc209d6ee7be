package controller

import (
	"log/slog"
	"math"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/config/record"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/config/v1alpha1/v1alpha1test"
	"github.com/berth-lb/berth/controller/allocation"
	"github.com/berth-lb/berth/controller/announcement"
	"github.com/berth-lb/berth/controller/service"
	"github.com/berth-lb/berth/controller/verdict"
	"github.com/berth-lb/berth/ipam"
)

// idleQueue requeues nothing.
type idleQueue struct{}

func (idleQueue) Service(string)          {}
func (idleQueue) Reservation(string)      {}
func (idleQueue) UsageChanged()           {}
func (idleQueue) WakeAfter(time.Duration) {}

// poolsOf compiles pools as the controller does with new ones: see compile.
func poolsOf(addresses *allocation.Allocations, specs map[string][]v1alpha1.AddressRange) *config.Snapshot {
	var pools []*v1alpha1.LoadBalancerPool
	for name, ranges := range specs {
		pools = append(pools, &v1alpha1.LoadBalancerPool{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec:       v1alpha1.LoadBalancerPoolSpec{Addresses: ranges},
		})
	}
	compiled, _ := config.Compile(config.Objects{Pools: v1alpha1test.SelectAll(pools)})
	var given []ipam.Pool
	for _, p := range compiled.Pools {
		given = append(given, ipam.Pool{Name: p.Name, Ranges: p.Ranges, Allocation: ipam.Automatic})
	}
	addresses.SetPools(given)
	return compiled
}

// waiting is what a controller that does not lead is scraped from.
func waiting(addresses *allocation.Allocations) scraped {
	return scraped{
		addresses: addresses,
		snapshot:  func() *config.Snapshot { return &config.Snapshot{} },
		nodes:     func() map[string]announcement.Node { return nil },
		services:  func() []*corev1.Service { return nil },
		objects:   func() map[string][]v1alpha1.Object { return nil },
		leads:     func() bool { return false },
	}
}

func newAllocations() *allocation.Allocations {
	return allocation.New(allocation.Config{Queue: idleQueue{}, Logger: slog.New(slog.DiscardHandler)})
}

// gathered returns the metrics with these names, each series on a line of its own.
func gathered(t *testing.T, registry *prometheus.Registry, names ...string) []string {
	t.Helper()
	text, err := testutil.CollectAndFormat(registry, expfmt.TypeTextPlain, names...)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return slices.DeleteFunc(lines, func(l string) bool { return l == "" || strings.HasPrefix(l, "#") })
}

func TestPoolMetrics(t *testing.T) {
	addresses := newAllocations()
	from := waiting(addresses)
	var snapshot atomic.Pointer[config.Snapshot]
	snapshot.Store(&config.Snapshot{})
	from.snapshot = snapshot.Load
	registry := prometheus.NewPedanticRegistry()
	if _, err := newMetrics(registry, from); err != nil {
		t.Fatal(err)
	}
	check := func(step string, want ...string) {
		t.Helper()
		got := gathered(t, registry, "berth_pool_addresses", "berth_pool_exhausted")
		got = slices.DeleteFunc(got, func(l string) bool { return strings.HasSuffix(l, " 0") })
		if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s: series that are not 0 (-want +got):\n%s", step, diff)
		}
	}

	check("without pools")
	snapshot.Store(poolsOf(addresses, map[string][]v1alpha1.AddressRange{
		"dual":  {"192.0.2.1-192.0.2.9", "2001:db8::1"},
		"spare": {"198.51.100.0/30"},
	}))
	check("before any Service",
		`berth_pool_addresses{family="IPv4",pool="dual",state="free"} 9`,
		`berth_pool_addresses{family="IPv4",pool="spare",state="free"} 4`,
		`berth_pool_addresses{family="IPv6",pool="dual",state="free"} 1`)
	if n := len(gathered(t, registry, "berth_pool_addresses", "berth_pool_exhausted")); n != 3*5+3 {
		t.Errorf("%d series, want 5 states and whether it is exhausted for each of 3 families of pools", n)
	}
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "web"}}
	got := addresses.Assign("shop/web", svc, &service.Request{Request: ipam.Request{
		Families: []ipam.Family{ipam.IPv6},
		Pools:    []string{"dual"},
	}}, nil, record.Record{})
	if got.Err != nil {
		t.Fatal(got.Err)
	}
	// Nothing was published since: the numbers do not wait for a status.
	check("the last address of a family is given",
		`berth_pool_addresses{family="IPv4",pool="dual",state="free"} 9`,
		`berth_pool_addresses{family="IPv4",pool="spare",state="free"} 4`,
		`berth_pool_addresses{family="IPv6",pool="dual",state="assigned"} 1`,
		`berth_pool_exhausted{family="IPv6",pool="dual"} 1`)
	snapshot.Store(poolsOf(addresses, map[string][]v1alpha1.AddressRange{"dual": {"2001:db8::1-2001:db8::9"}}))
	check("a pool and a family are gone",
		`berth_pool_addresses{family="IPv6",pool="dual",state="assigned"} 1`,
		`berth_pool_addresses{family="IPv6",pool="dual",state="free"} 8`)
	addresses.Release("shop/web")
	check("the address is freed", `berth_pool_addresses{family="IPv6",pool="dual",state="free"} 9`)
}

// serviceWith returns a Service with conditions, each "type=status:reason".
func serviceWith(name string, conditions ...string) *corev1.Service {
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}}
	for _, c := range conditions {
		kind, rest, _ := strings.Cut(c, "=")
		status, reason, _ := strings.Cut(rest, ":")
		svc.Status.Conditions = append(svc.Status.Conditions, metav1.Condition{
			Type: kind, Status: metav1.ConditionStatus(status), Reason: reason,
		})
	}
	return svc
}

func TestLeaderMetrics(t *testing.T) {
	from := waiting(newAllocations())
	leads := false
	from.leads = func() bool { return leads }
	from.services = func() []*corev1.Service {
		return []*corev1.Service{
			serviceWith("a", "berth.dev/Allocated=True:Allocated", "berth.dev/Announced=True:Announced"),
			serviceWith("b", "berth.dev/Allocated=True:Allocated", "berth.dev/Announced=False:NoEndpoints"),
			serviceWith("c", "berth.dev/Allocated=False:Gibberish", "example.com/Nice=True:Foreign"),
		}
	}
	from.objects = func() map[string][]v1alpha1.Object {
		partial, fresh := &v1alpha1.BGPNeighbor{}, &v1alpha1.BGPNeighbor{}
		verdict.Of(true, []config.Problem{{Reason: "Conflict"}}).Apply(partial)
		return map[string][]v1alpha1.Object{"BGPNeighbor": {partial, fresh}}
	}
	from.nodes = func() map[string]announcement.Node {
		return map[string]announcement.Node{
			"n1": {Alive: true, Speaker: v1alpha1.SpeakerAnnouncing},
			"n2": {Alive: false, Speaker: v1alpha1.SpeakerAnnouncing},
			"n3": {Alive: true},
		}
	}
	registry := prometheus.NewPedanticRegistry()
	if _, err := newMetrics(registry, from); err != nil {
		t.Fatal(err)
	}
	names := []string{
		"berth_leader", "berth_services", "berth_service_condition", "berth_configuration_objects", "berth_speakers",
	}
	if diff := cmp.Diff([]string{"berth_leader 0"}, gathered(t, registry, names...)); diff != "" {
		t.Errorf("a controller that waits (-want +got):\n%s", diff)
	}
	leads = true
	want := []string{
		`berth_configuration_objects{kind="BGPNeighbor",state="accepted"} 0`,
		`berth_configuration_objects{kind="BGPNeighbor",state="partial"} 1`,
		`berth_configuration_objects{kind="BGPNeighbor",state="pending"} 1`,
		`berth_configuration_objects{kind="BGPNeighbor",state="rejected"} 0`,
		`berth_leader 1`,
		`berth_services{condition="berth.dev/Allocated",reason="Allocated",status="True"} 2`,
		`berth_services{condition="berth.dev/Allocated",reason="Other",status="False"} 1`,
		`berth_services{condition="berth.dev/Announced",reason="Announced",status="True"} 1`,
		`berth_services{condition="berth.dev/Announced",reason="NoEndpoints",status="False"} 1`,
		`berth_speakers{state="Announcing"} 1`,
		`berth_speakers{state="Leaving"} 0`,
		`berth_speakers{state="NodeNotReady"} 1`,
		`berth_speakers{state="None"} 1`,
		`berth_speakers{state="Pending"} 0`,
		`berth_speakers{state="Replaced"} 0`,
		`berth_speakers{state="Restarting"} 0`,
		`berth_speakers{state="Starting"} 0`,
		`berth_speakers{state="Stopped"} 0`,
	}
	if diff := cmp.Diff(want, gathered(t, registry, names...)); diff != "" {
		t.Errorf("the leader (-want +got):\n%s", diff)
	}
}

func TestMetricsPerServiceAreAnOption(t *testing.T) {
	from := waiting(newAllocations())
	from.leads, from.perService = func() bool { return true }, true
	from.services = func() []*corev1.Service {
		return []*corev1.Service{serviceWith("b", "berth.dev/Announced=False:NoEndpoints")}
	}
	registry := prometheus.NewPedanticRegistry()
	if _, err := newMetrics(registry, from); err != nil {
		t.Fatal(err)
	}
	want := []string{`berth_service_condition{condition="berth.dev/Announced",namespace="shop",reason="NoEndpoints",service="b",status="False"} 1`}
	if diff := cmp.Diff(want, gathered(t, registry, "berth_service_condition")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// constant matches a reason in the source.
var constant = regexp.MustCompile(`(?m)^\tReason\w+\s+= "(\w+)"`)

// Metrics name each reason that Berth gives.
func TestReasonsAreKnown(t *testing.T) {
	for file, known := range map[string]func(string) bool{
		"service/explain.go":       service.KnownReason,
		"announcement/announce.go": announcement.KnownReason,
	} {
		code, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		found := constant.FindAllSubmatch(code, -1)
		if len(found) < 5 {
			t.Errorf("%s has %d reasons: the test does not find them", file, len(found))
		}
		for _, m := range found {
			if !known(string(m[1])) {
				t.Errorf("reason %s of %s is missing in its list of reasons", m[1], file)
			}
		}
	}
}

func TestNewcomers(t *testing.T) {
	var now time.Time
	leads := true
	n := newNewcomers(func() bool { return leads })
	n.now = func() time.Time { return now }
	n.classes = func(svc *corev1.Service) bool { return svc.Name != "other-class" }
	addressed := func(name string, conditions ...string) *corev1.Service {
		svc := serviceWith(name, conditions...)
		svc.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "192.0.2.1"}}
		return svc
	}
	const allocated, announced = "berth.dev/Allocated=True:Allocated", "berth.dev/Announced=True:Announced"

	n.OnAdd(serviceWith("initial"), true)
	n.OnAdd(serviceWith("other-class"), false)
	n.OnAdd(addressed("older", allocated), false)
	n.OnAdd(serviceWith("web"), false)
	n.OnAdd(serviceWith("foreign"), false)
	n.OnAdd(serviceWith("short-lived"), false)
	leads = false
	n.OnAdd(serviceWith("standby"), false)
	now = now.Add(200 * time.Millisecond)
	for _, name := range []string{"initial", "other-class", "older", "standby"} {
		n.OnUpdate(nil, addressed(name, allocated, announced))
	}
	n.OnUpdate(nil, addressed("foreign"))
	n.OnDelete(serviceWith("short-lived"))
	n.OnUpdate(nil, addressed("web", allocated, "berth.dev/Announced=False:NoEndpoints"))
	now = now.Add(2 * time.Second)
	n.OnUpdate(nil, addressed("web", allocated, announced))
	n.OnUpdate(nil, addressed("web", allocated, announced))

	for _, c := range []struct {
		histogram prometheus.Histogram
		sum       float64
	}{{n.addressed, 0.2}, {n.announced, 2.2}} {
		var m dto.Metric
		if err := c.histogram.Write(&m); err != nil {
			t.Fatal(err)
		}
		if m.Histogram.GetSampleCount() != 1 || math.Abs(m.Histogram.GetSampleSum()-c.sum) > 1e-9 {
			t.Errorf("%s: got %v, want one of %v s", c.histogram.Desc(), m.Histogram, c.sum)
		}
	}
	if len(n.waiting) != 0 {
		t.Errorf("still waiting: %v", n.waiting)
	}
}
