package guard

import (
	"encoding/binary"
	"net/netip"

	"go4.org/netipx"
	"golang.org/x/sys/unix"
)

// element is an element of a set: what a frontend is for the kernel.
type element struct {
	set string
	key string // its bytes
	end string // the last key of a range; empty: a single one
	val string // what a map has for the key
}

// The sets, of which each family of addresses has its own.
const (
	guarded     = "guarded"     // address, protocol: all ports are dropped but frontends
	frontends   = "frontends"   // address, protocol, port
	restricted  = "restricted"  // address, protocol, port: only some sources may connect
	sources     = "sources"     // address, protocol, port, range of sources
	masqueraded = "masqueraded" // address, protocol, port
	marks       = "marks"       // address, protocol, port: the mark of what pods and processes of this node send
	pods        = "pods"        // protocol, range of sources
)

// protocols are those that are guarded.
var protocols = [...]uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_SCTP}

// elements returns what the frontend has in the sets. Others may have the same: those of its address.
func (f Frontend) elements() []element {
	family := familyOf(f.Address)
	var list []element
	for _, p := range protocols {
		list = append(list, element{set: guarded + family.suffix, key: key(f.Address, p)})
	}
	key := key(f.Address, f.Protocol) + field(binary.BigEndian.AppendUint16(nil, f.Port))
	list = append(list, element{set: frontends + family.suffix, key: key})
	if f.Masquerade {
		list = append(list, element{set: masqueraded + family.suffix, key: key})
	}
	if f.Mark != 0 {
		list = append(list, element{set: marks + family.suffix, key: key, val: string(native(f.Mark))})
	}
	if len(f.Sources) == 0 {
		return list
	}
	list = append(list, element{set: restricted + family.suffix, key: key})
	for _, r := range family.union(f.Sources) {
		list = append(list, element{
			set: sources + family.suffix,
			key: key + field(r.From().AsSlice()), end: key + field(r.To().AsSlice()),
		})
	}
	return list
}

// podElements are those of the ranges that pods have their addresses from.
func podElements(prefixes []netip.Prefix) []element {
	var list []element
	for _, f := range families {
		for _, r := range f.union(prefixes) {
			for _, p := range protocols {
				protocol := field([]byte{p})
				list = append(list, element{set: pods + f.suffix, key: protocol + field(r.From().AsSlice()), end: protocol + field(r.To().AsSlice())})
			}
		}
	}
	return list
}

func key(a netip.Addr, protocol uint8) string { return field(a.AsSlice()) + field([]byte{protocol}) }

// field returns a field of a concatenated key, which is as long as whole registers of 4 bytes.
func field(b []byte) string {
	const register = 4
	return string(append(b, make([]byte, (register-len(b)%register)%register)...))
}

// union returns what the prefixes of this family make up together: the kernel refuses ranges that overlap.
func (f family) union(prefixes []netip.Prefix) []netipx.IPRange {
	var all netipx.IPSetBuilder
	for _, p := range prefixes {
		if p.IsValid() && p.Addr().BitLen() == f.bits() {
			all.AddPrefix(p)
		}
	}
	set, err := all.IPSet()
	if err != nil {
		return nil // it has no invalid ones
	}
	return set.Ranges()
}
