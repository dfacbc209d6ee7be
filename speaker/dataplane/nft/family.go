package nft

import (
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Family is one of the two families of addresses in a table.
type Family struct {
	Suffix              string // of names of its sets
	Protocol            byte   // NFPROTO
	KeyType             nftables.SetDatatype
	Source, Destination uint32 // offsets in the header, in bytes
	Length              uint32 // of an address, in bytes
}

// Families are IPv4 and IPv6.
var Families = [...]Family{
	{"4", unix.NFPROTO_IPV4, nftables.TypeIPAddr, 12, 16, 4},
	{"6", unix.NFPROTO_IPV6, nftables.TypeIP6Addr, 8, 24, 16},
}

// FamilyOf returns the family of an address, which is not an IPv4 address in IPv6.
func FamilyOf(a netip.Addr) Family {
	if a.Is4() {
		return Families[0]
	}
	return Families[1]
}

// Has reports whether the address is of the family.
func (f Family) Has(a netip.Addr) bool { return uint32(a.BitLen()/8) == f.Length }

// Register returns the register of a field in a key that begins in the first: an address, and
// fields of up to 4 bytes.
func (f Family) Register(field uint32) uint32 {
	if field == 0 {
		return unix.NFT_REG32_00
	}
	return unix.NFT_REG32_00 + f.Length/4 + field - 1
}

// Is goes on with packets of the family.
func (f Family) Is() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: f.Register(0)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: f.Register(0), Data: []byte{f.Protocol}},
	}
}

// LoadSource loads the source into a register.
func (f Family) LoadSource(register uint32) expr.Any {
	return &expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: f.Source, Len: f.Length}
}

// LoadDestination loads the destination into a register.
func (f Family) LoadDestination(register uint32) expr.Any {
	return &expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: f.Destination, Len: f.Length}
}

// LoadProtocol loads the protocol in the IP header as the second field of a key.
func (f Family) LoadProtocol() expr.Any {
	return &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: f.Register(1)}
}

// LoadPort loads the destination's port as the third field of a key. It is in the same place in
// TCP, UDP and SCTP.
func (f Family) LoadPort() expr.Any {
	return &expr.Payload{DestRegister: f.Register(2), Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}
}
