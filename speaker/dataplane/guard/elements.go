//go:build linux

package guard

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"go4.org/netipx"
	"golang.org/x/sys/unix"
)

// element is an element of a set. The kernel knows a frontend as its elements.
type element struct {
	set string
	key string // its bytes
	end string // the last key of a range; empty: a single one
	val string // what a map has for the key
}

// The sets. Each address family has its own.
const (
	guarded     = "guarded"     // address, protocol: all ports are dropped but frontends
	frontends   = "frontends"   // address, protocol, port
	restricted  = "restricted"  // address, protocol, port: only some sources may connect
	sources     = "sources"     // address, protocol, port, prefix of sources: a set for each length that is looked up
	masqueraded = "masqueraded" // address, protocol, port
	refused     = "refused"     // address, protocol, port: no endpoint takes new connections
	marks       = "marks"       // address, protocol, port: the mark of what pods and processes of this node send
	pods        = "pods"        // protocol, range of sources
)

// protocols are those that are guarded.
var protocols = [...]uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_SCTP}

// elements returns what the frontend has in the sets. Others may have the same: those of its
// address.
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
	if f.Refuse {
		list = append(list, element{set: refused + family.suffix, key: key})
	}
	if f.Mark != 0 {
		list = append(list, element{set: marks + family.suffix, key: key, val: string(native(f.Mark))})
	}
	if len(f.Sources) == 0 {
		return list
	}
	list = append(list, element{set: restricted + family.suffix, key: key})
	for _, p := range family.parts(f.Sources) {
		list = append(list, element{set: family.sources(p.Bits()), key: key + field(p.Addr().AsSlice())})
	}
	return list
}

// podElements are those of the ranges that pods have their addresses from. The kernel refuses
// ranges that overlap.
func podElements(prefixes []netip.Prefix) []element {
	var builder netipx.IPSetBuilder
	for _, p := range prefixes {
		builder.AddPrefix(p)
	}
	set, err := builder.IPSet()
	if err != nil {
		return nil // invalid prefixes
	}
	var list []element
	for _, r := range set.Ranges() {
		for _, p := range protocols {
			protocol := field([]byte{p})
			list = append(list, element{
				set: pods + familyOf(r.From()).suffix,
				key: protocol + field(r.From().AsSlice()), end: protocol + field(r.To().AsSlice()),
			})
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

// sources returns the name of the set for prefixes of a length.
func (f family) sources(bits int) string { return fmt.Sprintf("%s%s/%d", sources, f.suffix, bits) }

// parts returns prefixes of the lengths that are looked up, which together have the addresses of
// those of this family.
func (f family) parts(prefixes []netip.Prefix) []netip.Prefix {
	var parts []netip.Prefix
	for _, p := range prefixes {
		if !p.IsValid() || p.Addr().BitLen() != f.bits() {
			continue
		}
		bits := (p.Bits() + f.stride() - 1) / f.stride() * f.stride()
		for a := p.Masked().Addr(); p.Contains(a); {
			part := netip.PrefixFrom(a, bits)
			parts = append(parts, part)
			a = netipx.PrefixLastIP(part).Next()
		}
	}
	return parts
}
