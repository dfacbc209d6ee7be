package controller

import (
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/config/record"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/config/v1alpha1/v1alpha1test"
	"github.com/berth-lb/berth/controller/allocation"
	"github.com/berth-lb/berth/controller/service"
	"github.com/berth-lb/berth/ipam"
)

// idleQueue requeues nothing.
type idleQueue struct{}

func (idleQueue) Service(string)          {}
func (idleQueue) Reservation(string)      {}
func (idleQueue) UsageChanged()           {}
func (idleQueue) WakeAfter(time.Duration) {}

func TestMetricsCollect(t *testing.T) {
	addresses := allocation.New(allocation.Config{Queue: idleQueue{}, Logger: slog.New(slog.DiscardHandler)})
	var snapshot atomic.Pointer[config.Snapshot]
	snapshot.Store(&config.Snapshot{})
	registry := prometheus.NewPedanticRegistry()
	if _, err := newMetrics(registry, addresses, snapshot.Load); err != nil {
		t.Fatal(err)
	}
	// configure does what the controller does with new pools: see compile.
	configure := func(specs map[string][]v1alpha1.AddressRange) {
		t.Helper()
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
		snapshot.Store(compiled)
	}
	check := func(step string, series ...string) {
		t.Helper()
		var want strings.Builder
		if len(series) > 0 {
			want.WriteString("# HELP berth_pool_addresses_assigned Addresses of a pool that Services hold.\n" +
				"# TYPE berth_pool_addresses_assigned gauge\n")
		}
		for _, s := range series {
			want.WriteString("berth_pool_addresses_assigned" + s + "\n")
		}
		err := testutil.GatherAndCompare(registry, strings.NewReader(want.String()), "berth_pool_addresses_assigned")
		if err != nil {
			t.Errorf("%s: %v", step, err)
		}
	}

	check("without pools")
	configure(map[string][]v1alpha1.AddressRange{
		"dual":  {"192.0.2.1-192.0.2.9", "2001:db8::1-2001:db8::9"},
		"spare": {"198.51.100.0/30"},
	})
	check("before any Service",
		`{family="IPv4",pool="dual"} 0`, `{family="IPv4",pool="spare"} 0`, `{family="IPv6",pool="dual"} 0`)
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "web"}}
	got := addresses.Assign("shop/web", svc, &service.Request{Request: ipam.Request{
		Families: []ipam.Family{ipam.IPv6},
		Pools:    []string{"dual"},
	}}, nil, record.Record{})
	if got.Err != nil {
		t.Fatal(got.Err)
	}
	// Nothing was published since: the numbers do not wait for a status.
	check("an address is given",
		`{family="IPv4",pool="dual"} 0`, `{family="IPv4",pool="spare"} 0`, `{family="IPv6",pool="dual"} 1`)
	configure(map[string][]v1alpha1.AddressRange{"dual": {"2001:db8::1-2001:db8::9"}})
	check("a pool and a family are gone", `{family="IPv6",pool="dual"} 1`)
	addresses.Release("shop/web")
	check("the address is freed", `{family="IPv6",pool="dual"} 0`)
}
