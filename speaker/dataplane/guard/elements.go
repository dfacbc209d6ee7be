//go:build linux

package guard

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"go4.org/netipx"
	"golang.org/x/sys/unix"

	"github.com/berth-lb/berth/speaker/dataplane/nft"
)

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

// elements returns what the frontend has in the sets, by which the kernel knows it. Others may
// have the same: those of its address.
func (f Frontend) elements() []nft.Element {
	family := family{nft.FamilyOf(f.Address)}
	var list []nft.Element
	for _, p := range protocols {
		list = append(list, nft.Element{Set: guarded + family.Suffix, Key: key(f.Address, p)})
	}
	key := key(f.Address, f.Protocol) + field(binary.BigEndian.AppendUint16(nil, f.Port))
	list = append(list, nft.Element{Set: frontends + family.Suffix, Key: key})
	if f.Masquerade {
		list = append(list, nft.Element{Set: masqueraded + family.Suffix, Key: key})
	}
	if f.Refuse {
		list = append(list, nft.Element{Set: refused + family.Suffix, Key: key})
	}
	if f.Mark != 0 {
		list = append(list, nft.Element{Set: marks + family.Suffix, Key: key, Val: string(native(f.Mark))})
	}
	if len(f.Sources) == 0 {
		return list
	}
	list = append(list, nft.Element{Set: restricted + family.Suffix, Key: key})
	for _, p := range family.parts(f.Sources) {
		list = append(list, nft.Element{Set: family.sources(p.Bits()), Key: key + field(p.Addr().AsSlice())})
	}
	return list
}

// podElements are those of the ranges that pods have their addresses from. The kernel refuses
// ranges that overlap.
func podElements(prefixes []netip.Prefix) []nft.Element {
	var builder netipx.IPSetBuilder
	for _, p := range prefixes {
		builder.AddPrefix(p)
	}
	set, err := builder.IPSet()
	if err != nil {
		return nil // invalid prefixes
	}
	var list []nft.Element
	for _, r := range set.Ranges() {
		for _, p := range protocols {
			protocol := field([]byte{p})
			list = append(list, nft.Element{
				Set: pods + nft.FamilyOf(r.From()).Suffix,
				Key: protocol + field(r.From().AsSlice()), End: protocol + field(r.To().AsSlice()),
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
func (f family) sources(bits int) string { return fmt.Sprintf("%s%s/%d", sources, f.Suffix, bits) }

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
