package forecast

import (
	"cmp"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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

// key signs the records of the ledger's own Services: only the controller has the real one.
var key = []byte("a record of kubectl berth, not of the controller")

// Verdict is how a Service stands in the end.
type Verdict struct {
	Whose     service.Ownership
	Addresses []netip.Addr
	// named are those that it asks for by name.
	named []netip.Addr
	// Reason and Message are those of the condition berth.dev/Allocated, if Berth serves it.
	Reason, Message string
}

// held is how an AddressReservation stands.
type held struct {
	addresses       []netip.Addr
	reason, message string // of its condition Ready
	kept            bool   // all that it asks for
}

// ledger does what the controller does with the addresses, in memory and at once.
type ledger struct {
	flags       cluster.ControllerFlags
	state       *cluster.State
	snapshot    *config.Snapshot
	allocations *allocation.Allocations
	store       cache.Indexer // the Services, with the status that they come to have
	verdicts    map[string]Verdict
	held        map[string]held // by AddressReservation

	services, reservations map[string]bool // to be reconciled
}

// newLedger returns the ledger of a controller that has kept up with the State.
func newLedger(s *cluster.State) *ledger {
	l := &ledger{
		flags: s.Controller(), verdicts: map[string]Verdict{}, held: map[string]held{},
		services: map[string]bool{}, reservations: map[string]bool{},
		store: cache.NewIndexer(
			cache.MetaNamespaceKeyFunc,
			cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc},
		),
	}
	l.allocations = allocation.New(allocation.Config{
		Queue: l, Logger: slog.New(slog.DiscardHandler), Services: corelisters.NewServiceLister(l.store),
		Honored: l.flags.Honored, Rest: l.flags.Rest, ReleaseOutside: l.flags.ReleaseOutside,
		ReservationsPerNamespace: l.flags.ReservationsPerNamespace,
	})
	l.see(s)
	var resting []*v1alpha1.LoadBalancerPool
	for _, p := range s.Pools {
		p = p.DeepCopy()
		p.Status.Recent = nil // that is for a new leader, which does not know what rests
		resting = append(resting, p)
	}
	l.allocations.RestoreResting(resting, s.Taken)
	l.adopt()
	l.allocations.Resume(s.Pools, s.Taken)
	l.settle()
	return l
}

// The ledger is its allocations' queue.
var _ allocation.Queue = (*ledger)(nil)

func (l *ledger) Service(key string)      { l.services[key] = true }
func (l *ledger) Reservation(key string)  { l.reservations[key] = true }
func (l *ledger) UsageChanged()           {}
func (l *ledger) WakeAfter(time.Duration) {}

// see takes a State, and has everything reconciled.
func (l *ledger) see(s *cluster.State) {
	gone := map[string]bool{}
	for _, name := range l.store.ListKeys() {
		gone[name] = true
	}
	for _, svc := range s.Services {
		delete(gone, nameOf(svc))
		if have := l.service(nameOf(svc)); have != nil && have.UID == svc.UID {
			status := have.Status
			svc = svc.DeepCopy()
			svc.Status = status
		} else {
			svc = signed(svc)
		}
		_ = l.store.Update(svc)
		l.services[nameOf(svc)] = true
	}
	for name := range gone {
		_ = l.store.Delete(l.service(name)) // its name is valid
		l.services[name] = true
	}
	if l.state != nil {
		for _, r := range l.state.Reservations {
			l.reservations[nameOf(r)] = true
		}
	}
	for _, r := range s.Reservations {
		l.reservations[nameOf(r)] = true
	}
	l.state = s
	l.snapshot, _ = config.Compile(s.Objects())
	l.allocations.SetPools(allocation.Pools(l.snapshot))
	l.allocations.SetUsed(s.Uses(l.snapshot))
}

func nameOf(o metav1.Object) string { return o.GetNamespace() + "/" + o.GetName() }

// signed returns the Service with its record signed by the ledger. That the signature of the
// controller holds is taken for granted.
func signed(svc *corev1.Service) *corev1.Service {
	given, is := cluster.Record(svc)
	if !is {
		return svc
	}
	svc = svc.DeepCopy()
	for i, c := range svc.Status.Conditions {
		if c.Type == v1alpha1.ServiceRecord {
			svc.Status.Conditions[i] = given.Condition(key, c.LastTransitionTime)
		}
	}
	return svc
}

func (l *ledger) service(key string) *corev1.Service {
	o, _, _ := l.store.GetByKey(key)
	svc, _ := o.(*corev1.Service)
	return svc
}

// older orders objects by age.
func older(a, b metav1.Object) int {
	created := func(o metav1.Object) time.Time { return o.GetCreationTimestamp().Time }
	return cmp.Or(created(a).Compare(created(b)), cmp.Compare(nameOf(a), nameOf(b)))
}

// adopt is what a controller does first when it starts.
func (l *ledger) adopt() {
	for _, r := range l.reservationsInTurn() {
		if len(r.Spec.Addresses) > 0 || len(allocation.HadBefore(r, nil)) > 0 {
			_, _ = l.allocations.Reserve(nameOf(r), r, l.rules(r.Namespace)) // reconciled again
		}
	}
	var rest []*corev1.Service
	for _, svc := range l.inTurn() {
		whose, given := l.judge(svc)
		if whose != service.Own {
			rest = append(rest, svc)
			continue
		}
		l.allocations.Adopt(nameOf(svc), svc, given)
		asked, err := l.requestOf(svc)
		l.pin(svc, whose, asked, err)
	}
	for _, svc := range rest {
		l.allocations.Occupy(nameOf(svc), svc, false)
	}
}

// inTurn returns the Services in the order of a controller that looks at all: first those that have
// an address, then those that ask for one by name, then the rest, older ones first.
func (l *ledger) inTurn() []*corev1.Service {
	var all []*corev1.Service
	for _, o := range l.store.List() {
		if svc, is := o.(*corev1.Service); is {
			all = append(all, svc)
		}
	}
	service.InTurn(all, l.flags.Honored)
	return all
}

// reservationsInTurn returns the reservations, older ones first.
func (l *ledger) reservationsInTurn() []*v1alpha1.AddressReservation {
	return slices.SortedFunc(
		slices.Values(l.state.Reservations),
		func(a, b *v1alpha1.AddressReservation) int { return older(a, b) },
	)
}

// settle reconciles until nothing is left to do.
func (l *ledger) settle() {
	for len(l.services)+len(l.reservations) > 0 {
		due := l.reservations
		l.reservations = map[string]bool{}
		for _, r := range l.reservationsInTurn() {
			if name := nameOf(r); due[name] {
				delete(due, name)
				kept, problem := l.allocations.Reserve(name, r, l.rules(r.Namespace))
				is := held{addresses: kept, kept: problem == nil}
				is.reason, is.message = allocation.Judgement(r, kept, problem)
				l.held[name] = is
			}
		}
		for gone := range due {
			l.allocations.Unreserve(gone)
			delete(l.held, gone)
		}
		due, l.services = l.services, map[string]bool{}
		for key := range due {
			if l.service(key) == nil {
				l.allocations.Release(key)
				l.allocations.Vacate(key)
				delete(l.verdicts, key)
			}
		}
		for _, svc := range l.inTurn() {
			if due[nameOf(svc)] {
				l.reconcile(svc)
			}
		}
	}
}

// wake lets all rest end, and settles what waited for that.
func (l *ledger) wake() {
	l.allocations.Wake(time.Now().Add(l.flags.Rest + time.Minute))
	l.settle()
}

func (l *ledger) namespaceLabels(name string) labels.Set {
	for _, n := range l.state.Namespaces {
		if n.Name == name {
			return n.Labels
		}
	}
	return nil
}

func (l *ledger) rules(namespace string) allocation.Rules {
	return allocation.Rules{Snapshot: l.snapshot, Namespace: l.namespaceLabels(namespace)}
}

func (l *ledger) classes() service.Classes {
	return service.Classes{Names: l.flags.Classes, Classless: l.flags.Classless}
}

// judge returns to whom the Service belongs, and what Berth gave it.
func (l *ledger) judge(svc *corev1.Service) (service.Ownership, record.Record) {
	if !l.classes().Selects(svc) {
		return service.NotServed, record.Record{}
	}
	namespace := l.namespaceLabels(svc.Namespace)
	given, recorded := service.RecordOf(svc, key, namespace, l.snapshot)
	return service.OwnershipOf(svc, recorded, l.allocations.Gave(svc), namespace, l.snapshot), given
}

func (l *ledger) requestOf(svc *corev1.Service) (service.Request, error) {
	reserved := map[netip.Addr]string{}
	for _, r := range l.state.Reservations {
		if r.Namespace != svc.Namespace || r.Spec.ServiceName != svc.Name {
			continue
		}
		for _, address := range l.allocations.Reserved(nameOf(r)) {
			reserved[address] = nameOf(r)
		}
		for _, text := range r.Spec.Addresses {
			if address, err := netip.ParseAddr(text); err == nil {
				reserved[address.Unmap()] = nameOf(r)
			}
		}
	}
	return service.RequestOf(svc, l.namespaceLabels(svc.Namespace), l.snapshot, reserved, l.flags.Honored)
}

// pin keeps what a Service asks for by name from being given to others.
func (l *ledger) pin(svc *corev1.Service, whose service.Ownership, asked service.Request, invalid error) {
	var pins []netip.Addr
	if whose == service.Own && invalid == nil {
		pins = asked.Pins(l.snapshot)
	}
	l.allocations.SetPins(nameOf(svc), pins)
}

// reconcile gives one Service what it asks for, and changes its status.
func (l *ledger) reconcile(svc *corev1.Service) {
	name := nameOf(svc)
	whose, given := l.judge(svc)
	var asked service.Request
	var invalid error
	if whose == service.Own || whose == service.TakenOver {
		asked, invalid = l.requestOf(svc)
	}
	l.pin(svc, whose, asked, invalid)
	switch whose {
	case service.NotServed:
		if service.Marked(svc) {
			gave := append(l.allocations.Holdings(name), given.Addresses...)
			l.put(service.WithoutStatus(svc, gave), Verdict{Whose: whose})
		}
		l.leave(svc, whose)
		return
	case service.Others:
		l.leave(svc, whose)
		return
	case service.TakenOver:
		if err := l.allocations.TakeOver(name, svc, l.isTakenOver); err != nil {
			l.allocations.Occupy(name, svc, true)
			l.verdicts[name] = Verdict{
				Whose: whose, Addresses: service.AddressesIn(svc), Reason: service.ReasonTakeOverWaits, Message: err.Error(),
			}
			return
		}
	case service.Own:
	}
	l.allocations.Vacate(name)
	l.serve(svc, asked, invalid, given)
}

// leave is for a Service that Berth does not serve.
func (l *ledger) leave(svc *corev1.Service, whose service.Ownership) {
	name := nameOf(svc)
	l.allocations.Release(name)
	l.allocations.Occupy(name, l.service(name), false)
	l.verdicts[name] = Verdict{Whose: whose, Addresses: service.AddressesIn(l.service(name))}
}

func (l *ledger) serve(svc *corev1.Service, asked service.Request, invalid error, given record.Record) {
	name := nameOf(svc)
	o := l.allocations.Assign(name, svc, &asked, invalid, given)
	idle := len(o.Addresses)+len(o.Surplus)+len(l.snapshot.Pools) == 0
	if idle && service.IsOthersWithoutPool(svc, l.snapshot) {
		l.put(service.WithoutStatus(svc, nil), Verdict{Whose: service.Others, Addresses: service.AddressesIn(svc)})
		return
	}
	is := service.Allocated(asked, o.Assignment, o.Err, o.Outside)
	shown := service.IngressOf(o.Addresses, service.ModeOf(svc))
	if idle {
		shown = svc.Status.LoadBalancer.Ingress
	}
	var recorded *metav1.Condition
	if len(o.Addresses) > 0 {
		gave := l.allocations.Given(name)
		gave.UID, gave.Addresses = svc.UID, o.Addresses
		signed := gave.Condition(key, metav1.Time{})
		recorded = &signed
	}
	desired, _ := service.WithStatus(svc, shown, nil, recorded, metav1.Time{})
	l.put(desired, Verdict{
		Whose: service.Own, Addresses: o.Addresses, named: asked.Pinned, Reason: is.Reason, Message: is.Message,
	})
	l.allocations.Free(name, o.Surplus)
}

func (l *ledger) put(svc *corev1.Service, v Verdict) {
	_ = l.store.Update(svc)
	l.verdicts[nameOf(svc)] = v
}

// isTakenOver reports whether a Service of another implementation is to be taken over.
func (l *ledger) isTakenOver(name string) bool {
	svc := l.service(name)
	namespace, _, _ := strings.Cut(name, "/")
	return svc != nil && l.classes().Selects(svc) && svc.Spec.LoadBalancerClass == nil &&
		service.TakesOver(svc, l.namespaceLabels(namespace), l.snapshot)
}

// result returns the State as it is in the end.
func (l *ledger) result() *cluster.State {
	after := *l.state
	after.Services = slices.SortedFunc(
		slices.Values(l.inTurn()),
		func(a, b *corev1.Service) int { return older(a, b) },
	)
	return &after
}
