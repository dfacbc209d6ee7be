package allocation

import (
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"testing"
	"time"

	"go4.org/netipx"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/config/record"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/config/v1alpha1/v1alpha1test"
	"github.com/berth-lb/berth/controller/service"
	"github.com/berth-lb/berth/ipam"
)

// requeued records what Allocations requeues.
type requeued struct {
	services, reservations []string
	wakes                  []time.Duration
}

func (r *requeued) Service(key string)        { r.services = append(r.services, key) }
func (r *requeued) Reservation(key string)    { r.reservations = append(r.reservations, key) }
func (r *requeued) UsageChanged()             {}
func (r *requeued) WakeAfter(d time.Duration) { r.wakes = append(r.wakes, d) }

// one is the address of the only pool.
const one = "192.0.2.1"

func newAllocations(t *testing.T, rest time.Duration) (*Allocations, *requeued) {
	t.Helper()
	queue := &requeued{}
	services := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{})
	a := New(Config{
		Queue:                    queue,
		Logger:                   slog.New(slog.DiscardHandler),
		Services:                 corelisters.NewServiceLister(services),
		Rest:                     rest,
		ReservationsPerNamespace: 1,
	})
	address := netip.MustParseAddr(one)
	a.SetPools([]ipam.Pool{{
		Name:       "one",
		Ranges:     []netipx.IPRange{netipx.IPRangeFrom(address, address)},
		Allocation: ipam.Automatic,
	}})
	return a, queue
}

func serviceNamed(name string) *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID(name)}}
}

// assign asks for any IPv4 address.
func assign(a *Allocations, svc *corev1.Service) Outcome {
	asked := &service.Request{Request: ipam.Request{Families: []ipam.Family{ipam.IPv4}, Pools: []string{"one"}}}
	return a.Assign(svc.Namespace+"/"+svc.Name, svc, asked, nil, record.Record{})
}

func TestFreeRequeuesServicesThatWait(t *testing.T) {
	a, queue := newAllocations(t, 0)
	first, second := serviceNamed("first"), serviceNamed("second")
	if got := assign(a, first); got.Err != nil || !got.Changed || !a.Gave(first) {
		t.Fatalf("first: %+v", got)
	}
	var exhausted *ipam.ExhaustedError
	if got := assign(a, second); !errors.As(got.Err, &exhausted) {
		t.Fatalf("second: %+v, want an ExhaustedError", got)
	}
	// A Service keeps what it is to lose until no status shows it.
	a.Surrender("shop/first")
	if got := assign(a, second); got.Err == nil {
		t.Fatal("second got an address that a status may still show")
	}
	generation := a.Generation()
	a.Free("shop/first", a.Holdings("shop/first"))
	if !slices.Contains(queue.services, "shop/second") || a.Generation() == generation {
		t.Errorf("requeued %v, generation %d after %d; want shop/second, and another generation", queue.services, a.Generation(), generation)
	}
	if got := assign(a, second); got.Err != nil || a.Gave(first) {
		t.Errorf("second: %+v", got)
	}
}

// Who wrote the status of a Service without addresses is not looked for: it is in the managed
// fields, which are long.
func TestOccupyNothing(t *testing.T) {
	a, _ := newAllocations(t, 0)
	svc := serviceNamed("inside")
	svc.Spec.Type = corev1.ServiceTypeClusterIP
	occupy := func() { a.Occupy("shop/inside", svc, false) }
	least := testing.AllocsPerRun(100, occupy)
	svc.ManagedFields = []metav1.ManagedFieldsEntry{{
		Manager: "kubectl", Time: new(metav1.Now()), FieldsV1: metav1.NewFieldsV1(`{"f:spec":{"f:ports":{}}}`),
	}}
	if n := testing.AllocsPerRun(100, occupy); n > least {
		t.Errorf("%v allocations for a Service that has no addresses, and %v without managed fields", n, least)
	}
}

func TestFreeLetsAddressesRest(t *testing.T) {
	a, queue := newAllocations(t, time.Minute)
	assign(a, serviceNamed("first"))
	a.Release("shop/first")
	var exhausted *ipam.ExhaustedError
	if got := assign(a, serviceNamed("second")); !errors.As(got.Err, &exhausted) {
		t.Errorf("%+v, want an ExhaustedError while the address rests", got)
	}
	if !slices.Equal(queue.wakes, []time.Duration{time.Minute}) {
		t.Errorf("wakes %v, want one in a minute", queue.wakes)
	}
	a.Wake(time.Now().Add(2 * time.Minute))
	if got := assign(a, serviceNamed("second")); got.Err != nil {
		t.Error(got.Err)
	}
}

// rulesOfOne returns the rules for reservations of the only pool.
func rulesOfOne(t *testing.T) Rules {
	t.Helper()
	snapshot, problems := config.Compile(config.Objects{Pools: v1alpha1test.SelectAll([]*v1alpha1.LoadBalancerPool{
		{
			ObjectMeta: metav1.ObjectMeta{Name: "one"},
			Spec:       v1alpha1.LoadBalancerPoolSpec{Addresses: []v1alpha1.AddressRange{one}},
		},
	})})
	for key, found := range problems {
		if len(found) > 0 {
			t.Fatal(key, found)
		}
	}
	return Rules{Snapshot: snapshot}
}

// asks returns a reservation of any IPv4 address of the only pool.
func asks(name string) *v1alpha1.AddressReservation {
	return &v1alpha1.AddressReservation{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name},
		Spec: v1alpha1.AddressReservationSpec{
			PoolNames:  []string{"one"},
			IPFamilies: []v1alpha1.Family{v1alpha1.IPv4},
		},
	}
}

// A reservation of any address of a full pool is told the same when one was freed a moment ago.
func TestReserveWhileAddressesRest(t *testing.T) {
	a, _ := newAllocations(t, time.Minute)
	rules := rulesOfOne(t)
	assign(a, serviceNamed("first"))
	_, full := a.Reserve("shop/front", asks("front"), rules)
	a.Release("shop/first")
	_, rests := a.Reserve("shop/front", asks("front"), rules)
	if full == nil || rests == nil || full.Error() != rests.Error() {
		t.Errorf("while an address rests it is told %v, and before %v", rests, full)
	}
}

func TestReserve(t *testing.T) {
	a, queue := newAllocations(t, 0)
	rules := rulesOfOne(t)
	kept, err := a.Reserve("shop/front", asks("front"), rules)
	if err != nil || len(kept) != 1 || kept[0].String() != one {
		t.Fatalf("kept %v, %v", kept, err)
	}
	if _, err := a.Reserve("shop/back", asks("back"), rules); err == nil {
		t.Error("a second reservation of a namespace that may have one is in effect")
	} else if reason, _ := Explain(asks("back"), err); reason != ReasonTooMany {
		t.Errorf("reason %s, want %s", reason, ReasonTooMany)
	}
	if got := assign(a, serviceNamed("first")); got.Err == nil {
		t.Error("a Service got a reserved address")
	}
	a.Unreserve("shop/front")
	if !slices.Contains(queue.services, "shop/first") || !slices.Contains(queue.reservations, "shop/back") {
		t.Errorf("requeued %v and %v, want shop/first and shop/back", queue.services, queue.reservations)
	}
}
