package ipvs

import (
	"cmp"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/berth-lb/berth/internal/scheduler"
)

// Protocol is a transport protocol by its IANA number.
type Protocol uint8

// The protocols that IPVS balances.
const (
	TCP  Protocol = 6
	UDP  Protocol = 17
	SCTP Protocol = 132
)

// String returns the name as Services write it.
func (p Protocol) String() string {
	switch p {
	case TCP:
		return "TCP"
	case UDP:
		return "UDP"
	case SCTP:
		return "SCTP"
	}
	return fmt.Sprintf("protocol %d", uint8(p))
}

// Frontend identifies a virtual server: by address, port and protocol, or by firewall mark.
type Frontend struct {
	Address  netip.Addr // without zone, not IPv4 in IPv6; by mark, the unspecified one of the family
	Port     uint16     // 1 to 65535; by mark 0
	Protocol Protocol   // by mark 0
	// Mark is that of the packets, whatever they are for; one of Marks, or 0. Virtual servers by mark
	// come before those by address. They have no persistence, with which the kernel leaves ports as
	// they are (ip_vs_sched_persist in ip_vs_core.c).
	Mark uint32
}

// Marks are firewall marks that begin with these eight bits, and are Berth's: virtual servers by
// them are no one else's.
const Marks, MarksMask uint32 = 0xb7000000, 0xff000000

// Marked returns the frontend of packets with that mark, for addresses of the same family as one.
func Marked(mark uint32, like netip.Addr) Frontend {
	if like.Is4() {
		return Frontend{Address: netip.IPv4Unspecified(), Mark: mark}
	}
	return Frontend{Address: netip.IPv6Unspecified(), Mark: mark}
}

// String returns, say, "TCP 192.0.2.1:80", or "mark 0xb7000001 (IPv4)".
func (f Frontend) String() string {
	switch {
	case f.Mark == 0:
		return f.Protocol.String() + " " + netip.AddrPortFrom(f.Address, f.Port).String()
	case f.Address.Is4():
		return fmt.Sprintf("mark %#x (IPv4)", f.Mark)
	}
	return fmt.Sprintf("mark %#x (IPv6)", f.Mark)
}

func (f Frontend) compare(g Frontend) int {
	return cmp.Or(
		f.Address.Compare(g.Address),
		cmp.Compare(f.Protocol, g.Protocol),
		cmp.Compare(f.Port, g.Port),
		cmp.Compare(f.Mark, g.Mark),
	)
}

// Flags are a virtual server's, as in include/uapi/linux/ip_vs.h.
type Flags uint32

const (
	// HashPort makes the schedulers mh and sh hash the client's port together with its address
	// (mh-port, sh-port).
	HashPort Flags = 0x0010
	// Fallback makes them choose another real server when the one of the hash has weight 0
	// (mh-fallback, sh-fallback). Without it the new connections of its clients are dropped.
	Fallback Flags = 0x0008
)

// Settings are a virtual server's own.
type Settings struct {
	Scheduler string // one of scheduler.Names
	Flags     Flags
	// PersistenceTimeout is how long after its last connection a client's next one goes to the same
	// real server; 0: no persistence. It is rounded up to whole seconds; at most a day, as in the
	// Service API.
	PersistenceTimeout time.Duration

	// foreign: the kernel shows something that is never written here, like a netmask of persistence.
	foreign bool
}

const longestPersistence = 24 * time.Hour

// RealServer is an endpoint behind a virtual server. Packets reach it with their destination
// rewritten (masquerading in the terms of ipvsadm(8)); their source stays.
type RealServer struct {
	Address netip.Addr // of the frontend's family
	Port    uint16     // 1 to 65535
	// Weight is its share, 0 to 2147483647; 0: no new connections. Scheduler dh knows no such thing:
	// beside others with a weight, one of 0 is left out, and its connections are reset.
	Weight uint32
	// Draining stands for weight 0, whatever Weight says: established connections go on for as long as
	// the real server is desired. One that is no longer desired has its connections reset.
	Draining bool

	foreign bool // as in Settings: another forwarding method, thresholds
}

func (r RealServer) backend() netip.AddrPort { return netip.AddrPortFrom(r.Address, r.Port) }

// VirtualServer is what a frontend serves. Its real servers need no order.
type VirtualServer struct {
	Settings
	RealServers []RealServer
}

// Table is a set of virtual servers.
type Table map[Frontend]VirtualServer

// canonical returns v as it is to be in the kernel: real servers by address and port, each once, in
// whole seconds. Of two with the same address and port the one with the larger weight counts.
func canonical(f Frontend, v VirtualServer) (VirtualServer, error) {
	if err := check(f, v); err != nil {
		return VirtualServer{}, err
	}
	v.PersistenceTimeout = (v.PersistenceTimeout + time.Second - 1).Truncate(time.Second)
	v.RealServers = slices.Clone(v.RealServers)
	for i := range v.RealServers {
		if r := &v.RealServers[i]; r.Draining {
			r.Draining, r.Weight = false, 0
		}
	}
	takes := func(r RealServer) bool { return r.Weight > 0 }
	if v.Scheduler == "dh" && slices.ContainsFunc(v.RealServers, takes) {
		// It chooses by the hash whatever the weight, and drops what is for a weight of 0.
		v.RealServers = slices.DeleteFunc(v.RealServers, func(r RealServer) bool { return !takes(r) })
	}
	slices.SortFunc(v.RealServers, func(a, b RealServer) int {
		return cmp.Or(a.backend().Compare(b.backend()), cmp.Compare(b.Weight, a.Weight))
	})
	v.RealServers = slices.CompactFunc(v.RealServers, func(a, b RealServer) bool { return a.backend() == b.backend() })
	return v, nil
}

func check(f Frontend, v VirtualServer) error {
	refuse := func(field string, value any, want string) error {
		return fmt.Errorf("virtual server %s: %s %v is not %s", f, field, value, want)
	}
	switch {
	case f.Mark != 0:
		if f != Marked(f.Mark, f.Address) || f.Mark&MarksMask != Marks {
			return refuse(
				"mark",
				fmt.Sprintf("%#x", f.Mark),
				fmt.Sprintf("of %#x/%#x, without address, port and protocol", Marks, MarksMask),
			)
		}
	case !plain(f.Address):
		return refuse("address", f.Address, "an address of one host without zone")
	case f.Port == 0:
		return refuse("port", f.Port, "1 to 65535")
	case f.Protocol != TCP && f.Protocol != UDP && f.Protocol != SCTP:
		return refuse("protocol", uint8(f.Protocol), "TCP, UDP or SCTP")
	}
	switch {
	case !slices.Contains(scheduler.Names(), v.Scheduler):
		return refuse("scheduler", fmt.Sprintf("%q", v.Scheduler), "one of "+strings.Join(scheduler.Names(), ", "))
	case v.Flags&^(HashPort|Fallback) != 0, v.Flags != 0 && v.Scheduler != "mh" && v.Scheduler != "sh":
		return refuse(
			"flags",
			fmt.Sprintf("%#x", uint32(v.Flags)),
			fmt.Sprintf("0 (bits of %#x with schedulers mh and sh)", uint32(HashPort|Fallback)),
		)
	case v.PersistenceTimeout < 0 || v.PersistenceTimeout > longestPersistence:
		return refuse("persistence timeout", v.PersistenceTimeout, "0 to "+longestPersistence.String())
	case v.PersistenceTimeout > 0 && f.Mark != 0:
		return refuse("persistence timeout", v.PersistenceTimeout, "0, as by mark it must be")
	}
	for _, r := range v.RealServers {
		switch {
		case !plain(r.Address) || r.Address.Is4() != f.Address.Is4():
			return refuse("real server", r.Address, "an address of the same family")
		case r.Port == 0:
			return refuse("port of real server "+r.Address.String(), r.Port, "1 to 65535")
		case r.Weight > math.MaxInt32:
			return refuse("weight of real server "+r.Address.String(), r.Weight, "0 to 2147483647")
		}
	}
	return nil
}

func plain(a netip.Addr) bool {
	return a.IsValid() && !a.IsUnspecified() && !a.Is4In6() && !a.IsMulticast() && a.Zone() == ""
}

// hashes reports whether a scheduler fills a table from the list of real servers, whose order then
// decides who gets a client: nodes agree if their lists do.
func hashes(scheduler string) bool {
	return scheduler == "mh" || scheduler == "sh" || scheduler == "dh"
}

// Kind says what an Operation does.
type Kind uint8

// The kinds of operations.
const (
	CreateVirtualServer Kind = iota + 1
	UpdateVirtualServer
	DeleteVirtualServer // with its real servers
	CreateRealServer    // at the head of the list, as the kernel does it
	UpdateRealServer
	MoveRealServer // to the head of the list: deleted and created; its connections stay
	DeleteRealServer
)

// String names the kind for logs.
func (k Kind) String() string {
	return [...]string{"none", "create virtual server", "update virtual server", "delete virtual server",
		"create real server", "update real server", "move real server", "delete real server"}[k]
}

// Operation is one change of the kernel's table.
type Operation struct {
	Kind       Kind
	Frontend   Frontend
	Settings   Settings   // of a virtual server that is created or updated
	RealServer RealServer // of the kinds that concern one
}

// String describes the operation for logs and errors.
func (o Operation) String() string {
	switch o.Kind {
	case CreateVirtualServer, UpdateVirtualServer:
		return fmt.Sprintf("%s %s (scheduler %s)", o.Kind, o.Frontend, o.Settings.Scheduler)
	case DeleteVirtualServer:
		return fmt.Sprintf("%s %s", o.Kind, o.Frontend)
	}
	return fmt.Sprintf("%s %s of %s", o.Kind, o.RealServer.backend(), o.Frontend)
}

// Diff returns the operations that make actual equal to desired, in the order to do them. Virtual
// servers that are not desired are deleted if owned holds for them, and left alone otherwise. Those
// that cannot be programmed as they are desired are left as they are; problems tells what is wrong
// with them.
//
// The real servers of actual are in the kernel's order. A kernel puts new ones at the head of the
// list (net/netfilter/ipvs/ip_vs_ctl.c) and lists them from there; where the scheduler depends on
// the order, those that stand in the wrong place are moved, and as many as possible stay at the
// tail. Nothing is deleted before all is created, so that a virtual server has somebody to serve
// all the time.
func Diff(desired, actual Table, owned func(Frontend) bool) (operations []Operation, problems map[Frontend]error) {
	var deletions []Operation
	problems = map[Frontend]error{}
	for _, f := range frontends(desired) {
		want, err := canonical(f, desired[f])
		if err != nil {
			problems[f] = err
			continue
		}
		have, exists := actual[f]
		switch {
		case !exists:
			operations = append(operations, Operation{Kind: CreateVirtualServer, Frontend: f, Settings: want.Settings})
		case have.Settings != want.Settings:
			operations = append(operations, Operation{Kind: UpdateVirtualServer, Frontend: f, Settings: want.Settings})
		}
		add, remove := diffRealServers(f, want, have.RealServers)
		operations = append(operations, add...)
		deletions = append(deletions, remove...)
	}
	for _, f := range frontends(actual) {
		if _, wanted := desired[f]; !wanted && owned(f) {
			deletions = append(deletions, Operation{Kind: DeleteVirtualServer, Frontend: f})
		}
	}
	return append(operations, deletions...), problems
}

func frontends(t Table) []Frontend {
	all := make([]Frontend, 0, len(t))
	for f := range t {
		all = append(all, f)
	}
	slices.SortFunc(all, Frontend.compare)
	return all
}

func diffRealServers(f Frontend, want VirtualServer, have []RealServer) (additions, deletions []Operation) {
	if slices.Equal(want.RealServers, have) {
		return nil, nil
	}
	present := make(map[netip.AddrPort]RealServer, len(have))
	for _, r := range have {
		present[r.backend()] = r
	}
	stay := 0 // from here on the order of want is the order of the kernel
	if hashes(want.Scheduler) {
		stay = len(want.RealServers) - inOrder(want.RealServers, have)
	}
	for i, r := range slices.Backward(want.RealServers) { // each is put before those that went before
		old, exists := present[r.backend()]
		delete(present, r.backend())
		kind := UpdateRealServer
		switch {
		case !exists:
			kind = CreateRealServer
		case i < stay:
			kind = MoveRealServer
		case old == r:
			continue
		}
		additions = append(additions, Operation{Kind: kind, Frontend: f, RealServer: r})
	}
	for _, r := range have {
		if _, left := present[r.backend()]; left {
			deletions = append(deletions, Operation{Kind: DeleteRealServer, Frontend: f, RealServer: r})
		}
	}
	return additions, deletions
}

// inOrder returns how many of the last of want come in the same order in have, with others between
// them or not.
func inOrder(want, have []RealServer) int {
	n, j := 0, len(have)
	for _, r := range slices.Backward(want) {
		for j--; j >= 0 && have[j].backend() != r.backend(); j-- {
		}
		if j < 0 {
			break
		}
		n++
	}
	return n
}
