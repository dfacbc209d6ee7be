package allocation

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
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

// What is freed soon after a leader began rests longer: nodes that came back later than the leader
// may have waited for others, which still answer for it.
func TestFreeSoonAfterALeaderBegan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := newAllocations(t, time.Minute)
		a.config.Settling = 150 * time.Second
		a.RestoreResting(nil, time.Now())
		for _, rests := range []time.Duration{140 * time.Second, time.Minute} { // it begins in 10 s
			<-time.After(10 * time.Second)
			assign(a, serviceNamed("first"))
			a.Release("shop/first")
			<-time.After(rests - time.Second)
			a.Wake(time.Now())
			if got := assign(a, serviceNamed("second")); got.Err == nil {
				t.Errorf("given before it rested for %s", rests)
			}
			<-time.After(2 * time.Second)
			a.Wake(time.Now())
			if got := assign(a, serviceNamed("second")); got.Err != nil {
				t.Errorf("not given after %s: %v", rests, got.Err)
			}
			a.Release("shop/second")
			<-time.After(5 * time.Minute)
			a.Wake(time.Now())
		}
	})
}

// An outage may last longer than what was freed before it had to rest. Who had it is known even so.
func TestRestoreRestingThatIsOver(t *testing.T) {
	a, _ := newAllocations(t, time.Minute)
	a.config.Settling = 150 * time.Second
	pool := &v1alpha1.LoadBalancerPool{ObjectMeta: metav1.ObjectMeta{Name: "one"}}
	pool.Status.Recent = []string{one}
	pool.Status.Resting = []v1alpha1.RestingAddress{{
		Address: one, Service: "shop/first", UntilTime: new(metav1.NewTime(time.Now().Add(-10 * time.Second))),
	}}
	a.RestoreResting([]*v1alpha1.LoadBalancerPool{pool}, time.Now())
	if got := assign(a, serviceNamed("second")); got.Err == nil {
		t.Error("another Service got what a speaker may still answer for")
	}
	if got := assign(a, serviceNamed("first")); got.Err != nil {
		t.Errorf("the Service that had it: %v, want that it gets it back", got.Err)
	}
}

// Who waits for an address until it has rested is told otherwise once its owner has it again.
func TestRegainedIsToldToThoseThatWait(t *testing.T) {
	a, queue := newAllocations(t, time.Minute)
	assign(a, serviceNamed("first"))
	a.Release("shop/first")
	pin := netip.MustParseAddr(one)
	asked := &service.Request{Request: ipam.Request{
		Families: []ipam.Family{ipam.IPv4}, Pools: []string{"one"}, Pinned: []netip.Addr{pin},
	}}
	a.SetPins("shop/second", asked.Pinned)
	again := func() Outcome { return a.Assign("shop/second", serviceNamed("second"), asked, nil, record.Record{}) }
	var rests *ipam.RestingError
	if got := again(); !errors.As(got.Err, &rests) {
		t.Fatalf("%+v, want a RestingError", got)
	}
	queue.services = nil
	assign(a, serviceNamed("first"))
	var taken *ipam.TakenError
	if got := again(); !slices.Equal(queue.services, []string{"shop/second"}) || !errors.As(got.Err, &taken) {
		t.Errorf("requeued %q, and told %v; want that it is told who has the address", queue.services, got.Err)
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

// waker is a queue that calls Wake when it is asked to.
type waker struct {
	requeued
	mu    sync.Mutex // of requeued and due
	due   time.Time  // the next wake; zero: none
	wakes func(time.Time)
}

func (w *waker) WakeAfter(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	at := time.Now().Add(d)
	if !w.due.IsZero() && !at.Before(w.due) {
		return
	}
	w.due = at
	time.AfterFunc(d, func() {
		w.mu.Lock()
		due := w.due.Equal(at)
		if due {
			w.due = time.Time{}
		}
		w.mu.Unlock()
		if due {
			w.wakes(time.Now())
		}
	})
}

func (w *waker) Service(key string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !slices.Contains(w.services, key) {
		w.services = append(w.services, key)
	}
}

// taken returns what was requeued since, in order.
func (w *waker) taken() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	taken := w.services
	w.services = nil
	return taken
}

// waking returns Allocations that are woken as they ask for, with these pools.
func waking(rest time.Duration, pools map[string]string) (*Allocations, *waker) {
	queue := &waker{}
	a := New(Config{
		Queue: queue, Logger: slog.New(slog.DiscardHandler), Rest: rest, RetryApart: 300 * time.Millisecond,
		Services: corelisters.NewServiceLister(cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{})),
	})
	queue.wakes = a.Wake
	var all []ipam.Pool
	for name, addresses := range pools {
		var ranges []netipx.IPRange
		for text := range strings.SplitSeq(addresses, " ") {
			ranges = append(ranges, netipx.MustParseIPRange(text))
		}
		all = append(all, ipam.Pool{Name: name, Ranges: ranges, Allocation: ipam.Automatic})
	}
	a.SetPools(all)
	return a, queue
}

// While many addresses of a pool are freed, many that wait for any of it are requeued now and then,
// in turn, and those that wait for another pool are not. A few are requeued each time.
func TestFreeRequeuesNowAndThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, queue := waking(0, map[string]string{"a": "192.0.2.1-192.0.2.1", "b": "198.51.100.0-198.51.100.99"})
		ask := func(name, pool string) Outcome {
			asked := &service.Request{Request: ipam.Request{Families: []ipam.Family{ipam.IPv4}, Pools: []string{pool}}}
			return a.Assign("shop/"+name, serviceNamed(name), asked, nil, record.Record{})
		}
		ask("a", "a")
		for i := range 100 {
			ask(fmt.Sprint("b", i), "b")
		}
		for i := range 20 {
			ask(fmt.Sprint("waits ", i), "a")
			ask(fmt.Sprint("waits for b ", i), "b")
		}
		ask("waits 0", "a") // it looks again, and waits as long as before
		got := map[string]int{}
		free := func(from, to int) {
			for i := from; i < to; i++ {
				a.Release(fmt.Sprint("shop/b", i))
				<-time.After(50 * time.Millisecond)
				for _, key := range queue.taken() {
					got[key]++
				}
			}
		}
		free(0, 60)
		for i := range 20 {
			if n := got[fmt.Sprint("shop/waits for b ", i)]; n < 6 || n > 11 || len(got) != 20 {
				t.Errorf("requeued how often in 3 s: %v, want those that wait for the pool 6 to 11 times", got)
				break
			}
		}
		for i := 1; i < 20; i++ {
			a.Release(fmt.Sprint("shop/waits for b ", i))
		}
		<-time.After(300 * time.Millisecond)
		queue.taken()
		clear(got)
		free(60, 100)
		if n := got["shop/waits for b 0"]; n != 40 || len(got) != 1 {
			t.Errorf("requeued %v, want the only one that waits for the pool each time that something was freed", got)
		}
		a.Release("shop/a")
		<-time.After(300 * time.Millisecond)
		synctest.Wait()
		all := slices.DeleteFunc(queue.taken(), func(key string) bool { return key == "shop/waits for b 0" })
		if len(all) != 20 || all[0] != "shop/waits 0" || all[1] != "shop/waits 1" || all[19] != "shop/waits 19" {
			t.Errorf("requeued %q, want all that wait for the pool, in turn", all)
		}
	})
}

// Nobody waits for what is free, whatever was freed when: who is not requeued would get nothing.
func TestNobodyWaitsForWhatIsFree(t *testing.T) {
	for seed := range uint64(200) {
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 0))
			a, queue := waking(time.Duration(r.IntN(2))*time.Second, map[string]string{
				"a": "192.0.2.1-192.0.2.3 2001:db8::1-2001:db8::2", "b": "198.51.100.1-198.51.100.2", "c": "2001:db8:1::1-2001:db8:1::2",
			})
			pinnable := []string{"192.0.2.1", "198.51.100.2", "2001:db8:1::1"}
			requests := map[string]ipam.Request{}
			look := func(key string) Outcome {
				asked, known := requests[key]
				if !known {
					a.Release(key)
					return Outcome{}
				}
				a.SetPins(key, asked.Pinned)
				name := strings.TrimPrefix(key, "shop/")
				o := a.Assign(key, serviceNamed(name), &service.Request{Request: asked}, nil, record.Record{})
				a.Free(key, o.Surplus)
				return o
			}
			drain := func() {
				for keys := queue.taken(); len(keys) > 0; keys = queue.taken() {
					for _, key := range keys {
						look(key)
					}
				}
			}
			for range 120 {
				key := fmt.Sprint("shop/", r.IntN(14))
				if r.IntN(3) == 0 {
					delete(requests, key)
				} else {
					asked := ipam.Request{
						All:      r.IntN(2) == 0,
						Families: [][]ipam.Family{{ipam.IPv4}, {ipam.IPv6}, {ipam.IPv4, ipam.IPv6}}[r.IntN(3)],
						Pools:    [][]string{{"a"}, {"b"}, {"a", "c"}, {"a", "b", "c"}}[r.IntN(4)],
					}
					if pin := netip.MustParseAddr(pinnable[r.IntN(3)]); r.IntN(4) == 0 {
						asked.Pinned, asked.Families = []netip.Addr{pin}, []ipam.Family{ipam.FamilyOf(pin)}
					}
					if r.IntN(4) == 0 {
						asked.Terms = ipam.Terms{Key: "k", Ports: []ipam.Port{{Number: int32(r.IntN(3))}}}
					}
					requests[key] = asked
				}
				look(key)
				drain()
				<-time.After(time.Duration(r.IntN(200)) * time.Millisecond)
				drain()
			}
			for range 20 {
				<-time.After(time.Second)
				drain()
			}
			for key := range requests {
				if o := look(key); o.Changed {
					t.Fatalf("seed %d: %s waited for %v, which is free", seed, key, o.Addresses)
				}
			}
		})
	}
}

// What a pool shows is found only once, until something of that pool changes.
func TestUsage_unchanged(t *testing.T) {
	a, _ := newAllocations(t, time.Minute)
	ranges := func(text string) []netipx.IPRange { return []netipx.IPRange{netipx.MustParseIPRange(text)} }
	a.SetPools([]ipam.Pool{
		{Name: "one", Ranges: ranges("192.0.2.1-192.0.2.9"), Allocation: ipam.Automatic},
		{Name: "two", Ranges: ranges("198.51.100.1-198.51.100.9"), Allocation: ipam.Automatic},
	})
	before := map[string]Usage{}
	// found has a mark put into what is found, which is there still if it is not found again.
	found := func(step string, want ...string) {
		t.Helper()
		var again []string
		for _, pool := range []string{"one", "two"} {
			u := a.Usage(pool, 9, before[pool])
			if len(u.Full) == 0 {
				again = append(again, pool)
			}
			u.Full = []ipam.Family{ipam.IPv6}
			before[pool] = u
		}
		if !slices.Equal(again, want) {
			t.Errorf("%s: found of %v, want %v", step, again, want)
		}
	}
	found("at first", "one", "two")
	found("then")
	assign(a, serviceNamed("first"))
	found("an address is given", "one")
	assign(a, serviceNamed("first"))
	found("it is asked for again")
	a.Release("shop/first")
	found("it is freed", "one")
	if u := before["one"]; len(u.Recent) != 1 || len(u.Resting) != 1 || u.Counts[ipam.IPv4].Resting != 1 {
		t.Errorf("one shows %+v, want the address that rests", u)
	}
	a.Wake(time.Now().Add(time.Hour))
	found("it has rested", "one")
	a.SetPins("shop/second", []netip.Addr{netip.MustParseAddr("198.51.100.3")})
	found("a Service asks for an address by name", "two")
	a.Disable([]string{"two"})
	found("a pool is disabled", "two")
	a.SetPools(nil)
	found("the pools are gone", "one", "two")
}
