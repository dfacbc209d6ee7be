package verb

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/config/record"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/controller/allocation"
	"github.com/berth-lb/berth/controller/service"
	"github.com/berth-lb/berth/kubectl/cluster"
)

// Release has a Service give up addresses that are in no pool: those named, or all. The error names
// an address that it cannot give up in this way.
func Release(s *cluster.State, svc *corev1.Service, named []netip.Addr, all bool) (Change, error) {
	if len(s.Lack(cluster.Pools)) > 0 {
		return Change{}, errors.New(
			"it is not known which addresses are in a pool: you have no right to list loadbalancerpools.berth.dev",
		)
	}
	snapshot, _ := config.Compile(s.Objects())
	name := "Service " + svc.Namespace + "/" + svc.Name
	has := service.AddressesIn(svc)
	if all {
		named = slices.DeleteFunc(slices.Clone(has), func(a netip.Addr) bool { return snapshot.PoolOf(a) != nil })
		if len(named) == 0 {
			return Change{Text: name + " has no address that is in no pool"}, nil
		}
	}
	asked := service.AnnotationList(svc.Annotations, v1alpha1.AnnotationRelease)
	var now, news []string
	for _, a := range has { // what was asked for and is done need not be asked for any longer
		if slices.Contains(asked, a.String()) {
			now = append(now, a.String())
		}
	}
	for _, a := range named {
		p := snapshot.PoolOf(a)
		switch {
		case !slices.Contains(has, a):
			return Change{}, fmt.Errorf("%s does not have %s; it has %s", name, a, orNothing(texts(has)))
		case p != nil:
			return Change{}, fmt.Errorf(
				"%s: %s is in LoadBalancerPool %s, and is not released: only what is in no pool is; to have another address, ask for it with annotation %s",
				name,
				a,
				p.Name,
				v1alpha1.AnnotationAddresses,
			)
		case !slices.Contains(now, a.String()):
			now, news = append(now, a.String()), append(news, a.String())
		}
	}
	if len(news) == 0 {
		return Change{Text: fmt.Sprintf("%s is asked to release %s already", name, few(texts(named)))}, nil
	}
	return Change{
		Annotations: map[string]*string{v1alpha1.AnnotationRelease: new(strings.Join(now, ","))},
		Text:        fmt.Sprintf("%s releases %s", name, few(news)),
	}, nil
}

func texts(addresses []netip.Addr) []string {
	var all []string
	for _, a := range addresses {
		all = append(all, a.String())
	}
	return all
}

func orNothing(all []string) string {
	if len(all) == 0 {
		return "none"
	}
	return few(all)
}

// Refusal returns why the controller would not keep what a new AddressReservation asks for, "" if
// it would, as far as is known. It asks the controller's own allocator.
func Refusal(s *cluster.State, r *v1alpha1.AddressReservation) string {
	snapshot, _ := config.Compile(s.Objects())
	a := Allocations(s, snapshot)
	labelsOf := labels.Set{}
	for _, n := range s.Namespaces {
		if n.Name == r.Namespace {
			labelsOf = n.Labels
		}
	}
	_, err := a.Reserve(r.Namespace+"/"+r.Name, r, allocation.Rules{Snapshot: snapshot, Namespace: labelsOf})
	if err == nil {
		return ""
	}
	_, message := allocation.Explain(r, err)
	return message
}

// Allocations returns the controller's allocations, as the statuses of the cluster have them.
func Allocations(s *cluster.State, snapshot *config.Snapshot) *allocation.Allocations {
	indexer := cache.NewIndexer(
		cache.MetaNamespaceKeyFunc,
		cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc},
	)
	for _, svc := range s.Services {
		_ = indexer.Add(svc) // it has a key
	}
	flags := s.Controller()
	a := allocation.New(allocation.Config{
		Queue: noQueue{}, Logger: slog.New(slog.DiscardHandler), Services: corelisters.NewServiceLister(indexer),
		Rest: flags.Rest, ReleaseOutside: flags.ReleaseOutside,
		ReservationsPerNamespace: flags.ReservationsPerNamespace,
	})
	a.SetPools(allocation.Pools(snapshot))
	older := slices.SortedFunc(slices.Values(s.Services), func(a, b *corev1.Service) int {
		return a.CreationTimestamp.Compare(b.CreationTimestamp.Time)
	})
	for _, svc := range older {
		if given := cluster.Given(svc); len(given) > 0 {
			a.Adopt(svc.Namespace+"/"+svc.Name, svc, record.Record{Addresses: given})
		}
	}
	a.SetUsed(s.Uses(snapshot))
	for _, r := range s.Reservations {
		kept := r.DeepCopy()
		_, _ = a.Reserve(
			r.Namespace+"/"+r.Name,
			kept,
			allocation.Rules{Snapshot: snapshot},
		) // its status says what is wrong
	}
	return a
}

// noQueue forgets what it is told: nothing is decided again.
type noQueue struct{}

func (noQueue) Service(string)          {}
func (noQueue) Reservation(string)      {}
func (noQueue) UsageChanged()           {}
func (noQueue) WakeAfter(time.Duration) {}
