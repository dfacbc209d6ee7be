package allocation

import (
	"cmp"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"go4.org/netipx"
	"k8s.io/apimachinery/pkg/util/sets"
	corelisters "k8s.io/client-go/listers/core/v1"

	"github.com/berth-lb/berth/config/dialect"
	"github.com/berth-lb/berth/config/inuse"
	"github.com/berth-lb/berth/config/record"
	"github.com/berth-lb/berth/ipam"
)

// Queue requeues objects. Its methods are called with a mutex held, and must not block.
type Queue interface {
	// Service and Reservation requeue one object, named namespace/name.
	Service(key string)
	Reservation(key string)
	// UsageChanged reports that addresses were given or freed.
	UsageChanged()
	// WakeAfter asks for a call of Wake after that time.
	WakeAfter(time.Duration)
}

// Config says how to allocate.
type Config struct {
	Queue  Queue
	Logger *slog.Logger
	// Services looks up a Service, as the cache has it.
	Services corelisters.ServiceLister
	// Honored are the load balancers whose annotations count beside Berth's own.
	Honored dialect.Honored
	// Rest is how long a freed address is given only to the Service that had it. Zero: it is not.
	Rest time.Duration
	// Settling is how long after RestoreResting what was freed before, and what is freed since, rests
	// at least, if that is longer than Rest.
	Settling time.Duration
	// ReleaseOutside takes away addresses at once that are no longer in a pool.
	ReleaseOutside bool
	// RetryApart is how long after those that wait were requeued they are requeued again at the
	// soonest, by Wake, if they are more than few. Zero: at once.
	RetryApart time.Duration
	// ReservationsPerNamespace is how many AddressReservations of a namespace take effect at most.
	ReservationsPerNamespace int
}

// Allocations keeps all addresses that are given, reserved or resting. Its methods may be called
// from any goroutine, and do no I/O.
type Allocations struct {
	config Config

	mu           sync.Mutex // guards what follows
	allocator    *ipam.Allocator
	used         *inuse.Set                  // addresses in use elsewhere
	waiting      map[string]wait             // Services without all they ask for
	waitingFor   map[string]sets.Set[string] // the same by pool; anywhere: what may be helped by all
	turns        int                         // how many have waited
	freed        map[string]bool             // pools where something was freed since retried, or anywhere
	retried      time.Time                   // when those that wait were requeued
	settled      time.Time                   // when what is freed need not rest for longer any more
	outside      map[string]bool             // Services with addresses in no pool
	given        map[string]record.Record    // what each Service was given, and for which request
	reservations map[string]reservation      // in effect, by namespace/name
	reservedBy   map[string]int              // how many are in effect, by namespace
	failed       map[string]bool             // AddressReservations that are not in full effect
	generation   int                         // how often something was freed
}

// New returns Allocations without pools.
func New(c Config) *Allocations {
	return &Allocations{
		config:       c,
		allocator:    ipam.New(),
		used:         inuse.Compile(inuse.Sources{}),
		waiting:      map[string]wait{},
		waitingFor:   map[string]sets.Set[string]{},
		freed:        map[string]bool{},
		outside:      map[string]bool{},
		given:        map[string]record.Record{},
		reservations: map[string]reservation{},
		reservedBy:   map[string]int{},
		failed:       map[string]bool{},
	}
}

// SetPools replaces the pools. Addresses that are no longer in any pool stay with their holders.
func (a *Allocations) SetPools(pools []ipam.Pool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.allocator.SetPools(pools)
}

// Disable has pools give no more addresses until SetPools.
func (a *Allocations) Disable(pools []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, pool := range pools {
		a.allocator.Disable(pool)
	}
}

// Holdings returns what the Service holds, including what it is about to lose.
func (a *Allocations) Holdings(key string) []netip.Addr {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.allocator.Holdings(key)
}

// Surplus returns what the Service holds apart from the addresses.
func (a *Allocations) Surplus(key string, addresses []netip.Addr) []netip.Addr {
	return slices.DeleteFunc(a.Holdings(key), func(held netip.Addr) bool { return slices.Contains(addresses, held) })
}

// Holders returns the Services that have the address.
func (a *Allocations) Holders(address netip.Addr) []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.allocator.Holders(address)
}

// Generation changes whenever something is freed: a request that failed before may succeed now.
func (a *Allocations) Generation() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.generation
}

// Outside returns how many Services have an address in no pool.
func (a *Allocations) Outside() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.outside)
}

// Counts returns the usage of the pool by family, and the families without a free address; nothing
// if there is no such pool.
func (a *Allocations) Counts(pool string) (usage map[ipam.Family]ipam.Usage, full []ipam.Family) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.allocator.Usage(pool), a.allocator.Full(pool)
}

// Usage describes how full a pool is.
type Usage struct {
	Counts  map[ipam.Family]ipam.Usage
	Full    []ipam.Family    // families without a free address
	Resting []ipam.Rested    // those that rest longest first
	Recent  []netipx.IPRange // of addresses that are held or rest
	version uint64           // of the pool then
}

// Usage returns how full the pool is, with at most that many resting addresses and recent ranges.
// If nothing of it changed since it returned before, that is what it returns.
func (a *Allocations) Usage(pool string, most int, before Usage) Usage {
	u, recent, changed := a.usage(pool, most, before.version)
	if !changed {
		return before
	}
	u.Recent = recent.Ranges(most) // which sorts all addresses, and must not keep others waiting
	return u
}

func (a *Allocations) usage(pool string, most int, before uint64) (u Usage, recent ipam.Recent, changed bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if u.version = a.allocator.Version(pool); u.version == before {
		return u, recent, false
	}
	u.Counts, u.Full = a.allocator.Usage(pool), a.allocator.Full(pool)
	u.Resting = a.allocator.Resting(pool, most)
	return u, a.allocator.Recent(pool), true
}

// wait is what a Service waits for.
type wait struct {
	turn  int      // lower for those that wait longer
	pools []string // one of them must give an address; nil: anything that is freed may help
}

// helpers returns the pools that may help, as keys of waitingFor.
func (w wait) helpers() []string {
	if w.pools == nil {
		return []string{anywhere}
	}
	return w.pools
}

// await notes that the Service waits, or no longer does.
func (a *Allocations) await(key string, waits bool, pools []string) {
	w, known := a.waiting[key]
	if known {
		for _, pool := range w.helpers() {
			if a.waitingFor[pool].Delete(key); a.waitingFor[pool].Len() == 0 {
				delete(a.waitingFor, pool)
			}
		}
	}
	if !waits {
		delete(a.waiting, key)
		return
	}
	if !known {
		a.turns++
		w.turn = a.turns
	}
	w.pools = pools
	a.waiting[key] = w
	for _, pool := range w.helpers() {
		if a.waitingFor[pool] == nil {
			a.waitingFor[pool] = sets.Set[string]{}
		}
		a.waitingFor[pool].Insert(key)
	}
}

// anywhere stands for all pools, and nowhere for none: only those that any pool may help.
const (
	anywhere = "*"
	nowhere  = ""
)

// few are requeued at once, whenever it was done before: else new Services, which need not wait for
// that, would get each address that is freed.
const few = 16

// retryWaiting requeues the reservations that do not have all they ask for, and the Services that
// may get it now that these addresses are free. Without any, that may be all. The mutex is held.
func (a *Allocations) retryWaiting(freed ...netip.Addr) {
	a.generation++
	for _, address := range freed {
		a.freed[a.allocator.PoolOf(address)] = true
	}
	if len(freed) == 0 {
		a.freed[anywhere] = true
	}
	a.requeueWaiting()
}

// retryNaming is retryWaiting for addresses that begin or end to rest without being free, so that
// they help no Service that takes any of their pool. The mutex is held.
func (a *Allocations) retryNaming() {
	a.generation++
	a.freed[nowhere] = true
	a.requeueWaiting()
}

// requeueWaiting does what retryWaiting is to do, or has Wake do it if those are many and that was
// done a moment ago: to each address that is freed while many are, nobody looks. The mutex is held.
func (a *Allocations) requeueWaiting() {
	if len(a.freed) == 0 {
		return
	}
	pools := a.waitingFor
	if !a.freed[anywhere] {
		pools = map[string]sets.Set[string]{anywhere: a.waitingFor[anywhere]}
		for pool := range a.freed {
			pools[pool] = a.waitingFor[pool]
		}
	}
	many := len(a.failed)
	for _, waiting := range pools {
		many += waiting.Len()
	}
	if many > few {
		if pause := time.Until(a.retried.Add(a.config.RetryApart)); pause > 0 {
			a.config.Queue.WakeAfter(pause)
			return
		}
		a.retried = time.Now()
	}
	keys := sets.Set[string]{}
	for _, waiting := range pools {
		maps.Copy(keys, waiting)
	}
	byTurn := func(x, y string) int { return cmp.Compare(a.waiting[x].turn, a.waiting[y].turn) }
	for _, key := range slices.SortedFunc(maps.Keys(keys), byTurn) {
		a.config.Queue.Service(key)
	}
	for key := range a.failed {
		a.config.Queue.Reservation(key)
	}
	clear(a.freed)
}
