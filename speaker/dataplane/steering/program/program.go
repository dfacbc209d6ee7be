// Package program is the BPF program that steers packets, compiled, and what its maps hold.
//
// The source is in C, in the folder bpf, under the license "BSD-2-Clause OR GPL-2.0-only": the
// kernel wants one that is compatible with the GPL for some of what the program calls. `make bpf`
// compiles it; `make verify` finds out whether what is committed is fresh.
package program

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"

	"github.com/cilium/ebpf"
)

//go:generate go tool bpf2go -target bpfel -output-stem steer -no-global-types steer bpf/steer.c -- -O2 -mcpu=v3 -Wall -Wextra -Werror -Wno-unused-parameter -nostdinc
//go:generate go tool bpf2go -target bpfel -tags root -output-stem xdp -no-global-types xdp bpf/xdp.c -- -O2 -mcpu=v3 -Wall -Wextra -Werror -Wno-unused-parameter -nostdinc

// Limits of the maps (bpf/maps.h).
const (
	MaxServices = 65536 // addresses with ports
	MaxPages    = 1024
	PageSlots   = 131072
)

// Address is an IPv6 address, or an IPv4 address that is mapped to one.
type Address [16]byte

// AddressOf returns a as the maps have it. The zero netip.Addr is the zero Address.
func AddressOf(a netip.Addr) Address {
	if !a.IsValid() {
		return Address{}
	}
	return a.As16()
}

// On is the flag of a Configuration that lets the program steer.
const On = 1

// Configuration is the only element of the map config.
type Configuration struct {
	// Deadline is a time of CLOCK_MONOTONIC in ns. After it the program lets everything pass.
	Deadline uint64
	// Settled is a time of CLOCK_MONOTONIC in ns. Until then other nodes may have other tables.
	Settled uint64
	Seed    [2]uint64
	Flags   uint32
	// Self is the index of this node.
	Self  uint32
	Self4 [4]byte
	_     uint32
	Self6 [16]byte
}

// ServiceKey is an address, port and protocol of a Service.
type ServiceKey struct {
	Address  Address
	Port     [2]byte // big endian
	Protocol uint8
	_        uint8
}

// Flags of a Service.
const (
	TCPChance uint32 = 1 << iota // connections of TCP have a second chance
	UDPChance
	Local    // ready endpoints are on this node
	Affinity // by source only
	Ranges   // only sources in the map source_ranges
)

// Service is where its table is: Slots slots of the page, from Start on.
type Service struct {
	ID, Flags          uint32
	Page, Start, Slots uint32
}

// Flags of a Node.
const (
	Alive       uint32 = 1 << iota
	Returned           // it was thought dead lately
	Encapsulate        // it is not on a segment with this node
	Dead               // beyond doubt, beside that it is not alive
)

// Node is where a node is.
type Node struct {
	// Name is a hash of its name.
	Name uint64
	// Flags, the interface to it, and the largest packet in bytes that the path to it takes.
	Flags, Interface, MTU uint32
	Addr4                 [4]byte
	Addr6                 [16]byte
}

// StatsKey is what packets are counted by.
type StatsKey struct {
	Service      uint32
	Node, Reason uint16
}

// RangeKey is a range of sources that a Service is open to.
type RangeKey struct {
	// PrefixLen is in bits: 32 of the Service, and those of the address.
	PrefixLen uint32
	Service   uint32
	Address   Address
}

// Objects are the program and its maps in the kernel.
type Objects struct {
	Steer        *ebpf.Program `ebpf:"berth_steer"`
	Config       *ebpf.Map     `ebpf:"config"`
	Services     *ebpf.Map     `ebpf:"services"`
	Tables       *ebpf.Map     `ebpf:"tables"`
	Nodes        *ebpf.Map     `ebpf:"nodes"`
	NodeByAddr   *ebpf.Map     `ebpf:"node_by_addr"`
	SourceRanges *ebpf.Map     `ebpf:"source_ranges"`
	Fragments    *ebpf.Map     `ebpf:"fragments"`
	Stats        *ebpf.Map     `ebpf:"stats"`
}

// Close closes all of them. What is pinned or attached stays.
func (o *Objects) Close() error {
	var errs []error
	for _, c := range []io.Closer{
		o.Steer, o.Config, o.Services, o.Tables, o.Nodes, o.NodeByAddr, o.SourceRanges, o.Fragments, o.Stats,
	} {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// Load loads the program. Its maps are those that are pinned in a folder of a bpffs, and are pinned
// there if they are not. The folder must exist. Empty: nothing is pinned. Without conntrack there
// is no second chance, and any kernel will do that has the rest.
func Load(pins string, conntrack bool) (*Objects, error) {
	spec, err := loadSteer()
	if err != nil {
		return nil, fmt.Errorf("read the steering program: %w", err)
	}
	if pins != "" {
		for name, m := range spec.Maps {
			if !strings.HasPrefix(name, ".") { // constants
				m.Pinning = ebpf.PinByName
			}
		}
	}
	if conntrack {
		if err := spec.Variables["conntrack"].Set(uint8(1)); err != nil {
			return nil, fmt.Errorf("prepare the steering program: %w", err)
		}
	}
	var o Objects
	if err := spec.LoadAndAssign(&o, &ebpf.CollectionOptions{Maps: ebpf.MapOptions{PinPath: pins}}); err != nil {
		return nil, fmt.Errorf("load the steering program: %w", err)
	}
	return &o, nil
}

// NewPage returns a page for the map tables.
func NewPage() (*ebpf.Map, error) {
	spec, err := loadSteer()
	if err != nil {
		return nil, fmt.Errorf("read the steering program: %w", err)
	}
	m, err := ebpf.NewMap(spec.Maps["tables"].InnerMap)
	if err != nil {
		return nil, fmt.Errorf("make a page of tables: %w", err)
	}
	return m, nil
}
