// Package podnat hands connections to this node's own Pods without kube-proxy's help: what is
// steered here of a Service of externalTrafficPolicy Cluster gets the address of one of its Pods
// on this node, in a table of nftables of Berth's. Nothing is masqueraded, so the Pods see the
// client's address, as with policy Local.
//
// The table comes before kube-proxy's: what a connection's first packet was translated to there
// stays, and kube-proxy's chains of type nat are not asked (nf_nat_core.c of Linux: the first chain
// that translates ends the hook). Only packets by the node's outer interfaces are translated; Pods
// and processes of the node reach the Service by kube-proxy, as always. A Service without a ready
// Pod here is left to kube-proxy, too.
package podnat

import (
	"context"
	"hash/fnv"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/berth-lb/berth/speaker/dataplane/nft"
)

// Frontend is a port of a Service, with the Pods of this node that take its connections.
type Frontend struct {
	Address  netip.Addr
	Port     uint16
	Protocol uint8 // TCP, UDP or SCTP, as in the IP header
	Pods     []netip.AddrPort
	// Affinity: connections of one client's address go to the same Pod.
	Affinity bool
}

// Slots is how many parts the connections of a frontend with several Pods come in, one Pod each. A
// node has not more Pods than that (the kubelet's default is 110).
const Slots = 256

// Lease is for how long the table counts after a process wrote it, or the last Prolong. Where a
// speaker is away for longer, kube-proxy forwards: it knows which Pods there are.
const Lease = 10 * time.Minute

// Table keeps the table. Its methods may be called from any goroutine, also before Run.
type Table struct {
	keeper  *nft.Keeper[nft.Element]
	prolong func(interfaces []nft.Element)

	mu         sync.Mutex
	groups     map[string][]nft.Element // guarded by mu
	interfaces []nft.Element            // guarded by mu
}

// New returns a Table that has nothing in it.
func New(log *slog.Logger) *Table {
	k := newKernel()
	return &Table{
		keeper: nft.NewKeeper(
			log, k, "steered connections of Services of policy Cluster are forwarded by kube-proxy, which hides the client",
		),
		prolong: k.prolong,
		groups:  map[string][]nft.Element{},
	}
}

// Sync replaces the frontends of some groups. Those without Pods are left to kube-proxy. A frontend
// may go from one of the groups to another.
func (t *Table) Sync(groups map[string][]Frontend) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var before, after []nft.Element
	for group, frontends := range groups {
		before = append(before, t.groups[group]...)
		delete(t.groups, group)
		for _, f := range frontends {
			t.groups[group] = append(t.groups[group], f.elements()...)
		}
		after = append(after, t.groups[group]...)
	}
	t.replace(before, after)
}

// SetInterfaces replaces the interfaces that clients' packets come by.
func (t *Table) SetInterfaces(names []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	before := t.interfaces
	t.interfaces = nil
	for _, name := range names {
		t.interfaces = append(t.interfaces, interfaceElement(name))
	}
	t.replace(before, t.interfaces)
}

// replace needs the lock.
func (t *Table) replace(before, after []nft.Element) {
	was, is := map[nft.Element]bool{}, map[nft.Element]bool{}
	for _, e := range before {
		was[e] = true
	}
	for _, e := range after {
		is[e] = true
	}
	without := func(all []nft.Element, these map[nft.Element]bool) []nft.Element {
		return slices.DeleteFunc(slices.Clone(all), func(e nft.Element) bool { return these[e] })
	}
	add, remove := without(after, was), without(before, is)
	if len(add)+len(remove) > 0 {
		t.keeper.Update(add, remove)
	}
}

// Prolong has the table count for another Lease. Call it at least once a minute.
func (t *Table) Prolong() {
	t.mu.Lock()
	names := t.interfaces
	t.mu.Unlock()
	t.prolong(names)
}

// Run keeps the table until ctx ends, and leaves it as it is then, for a Lease.
func (t *Table) Run(ctx context.Context) error { return t.keeper.Run(ctx) }

// Err returns why the table is not as wanted; nil: it is, or will be in a moment.
func (t *Table) Err() error { return t.keeper.Err() }

// Remove deletes the table that whatever process left. One that runs must have ended.
func Remove() error { return newKernel().Remove() }

// elements are those of the maps. One Pod needs no choice.
func (f Frontend) elements() []nft.Element {
	of := family{nft.FamilyOf(f.Address)}
	switch len(f.Pods) {
	case 0:
		return nil
	case 1:
		return []nft.Element{{Set: of.name(single), Key: f.key(), Val: valueOf(f.Pods[0])}}
	}
	set := of.name(random)
	if f.Affinity {
		set = of.name(bySource)
	}
	all := make([]nft.Element, Slots)
	for i := range all {
		all[i] = nft.Element{Set: set, Key: f.key() + slotKey(i), Val: valueOf(f.podOf(i))}
	}
	return all
}

// podOf returns the Pod of a slot. With affinity, most slots keep theirs when another Pod comes or
// goes (rendezvous hashing); without, all Pods have as many.
func (f Frontend) podOf(slot int) netip.AddrPort {
	if !f.Affinity {
		return f.Pods[slot%len(f.Pods)]
	}
	return slices.MaxFunc(f.Pods, func(a, b netip.AddrPort) int {
		if x, y := score(a, slot), score(b, slot); x != y {
			if x > y {
				return 1
			}
			return -1
		}
		return a.Compare(b)
	})
}

func score(pod netip.AddrPort, slot int) uint64 {
	h := fnv.New64a()
	b, _ := pod.MarshalBinary()                          // never fails
	_, _ = h.Write(append(b, byte(slot), byte(slot>>8))) // never fails
	// FNV's last bytes move its upper bits little: mix them (the finalizer of MurmurHash3).
	x := h.Sum64()
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}
