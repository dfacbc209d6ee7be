package podnat

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/berth-lb/berth/speaker/dataplane/nft"
)

// kernel is the table in the kernel of this network namespace.
type kernel struct{ *nft.Table }

func newKernel() kernel { return kernel{&nft.Table{Name: "berth-pods"}} }

const (
	chainName  = "prerouting"
	interfaces = "interfaces" // the set
	inside     = "from inside"
)

// The maps, and the rules that look connections up in them, of each family.
const (
	single   = "single"    // frontends with one Pod
	random   = "random"    // with several
	bySource = "by-source" // with several, and session affinity
)

var kinds = [...]string{single, random, bySource}

// seed of the hash of sources. Who knows it can choose his Pod, which harms nobody.
const seed = 0x62657274

// beforeKubeProxy is before its chain of type nat (-100), and after its filter (-110), which keeps
// loadBalancerSourceRanges in mode nftables.
var beforeKubeProxy = nftables.ChainPriorityRef(*nftables.ChainPriorityNATDest - 5)

// family is the part of the table for one family of addresses.
type family struct {
	suffix              string
	nfproto             byte
	keyType             nftables.SetDatatype
	source, destination uint32 // offsets in the header
	length              uint32
}

var families = [...]family{
	{"4", unix.NFPROTO_IPV4, nftables.TypeIPAddr, 12, 16, 4},
	{"6", unix.NFPROTO_IPV6, nftables.TypeIP6Addr, 8, 24, 16},
}

func familyOf(a netip.Addr) family {
	if a.Is4() {
		return families[0]
	}
	return families[1]
}

func (f family) name(kind string) string { return kind + f.suffix }

// register returns the register of a field in a key that begins in the first: address, protocol,
// port, slot, and what comes after it.
func (f family) register(field uint32) uint32 {
	if field == 0 {
		return unix.NFT_REG32_00
	}
	return unix.NFT_REG32_00 + f.length/4 + field - 1
}

// keyOf is a frontend's: address, protocol and port, each filled up to four bytes.
func (f Frontend) key() string {
	key := append(f.Address.AsSlice(), f.Protocol, 0, 0, 0)
	return string(append(binary.BigEndian.AppendUint16(key, f.Port), 0, 0))
}

func slotKey(slot int) string { return string(binary.NativeEndian.AppendUint32(nil, uint32(slot))) }

func valueOf(pod netip.AddrPort) string {
	return string(append(binary.BigEndian.AppendUint16(pod.Addr().AsSlice(), pod.Port()), 0, 0))
}

func interfaceElement(name string) element {
	key := make([]byte, unix.IFNAMSIZ)
	copy(key, name)
	return element{set: interfaces, key: string(key)}
}

// sets returns all of the table's, empty.
func (k kernel) sets() []*nftables.Set {
	names := k.Set(interfaces, nftables.TypeIFName)
	names.KeyByteOrder = binaryutil.NativeEndian
	names.HasTimeout, names.Timeout = true, Lease // without them nothing is translated
	all := []*nftables.Set{names}
	for _, f := range families {
		for _, kind := range kinds {
			key := []nftables.SetDatatype{f.keyType, nftables.TypeInetProto, nftables.TypeInetService}
			if kind != single {
				key = append(key, nftables.TypeMark) // a number of four bytes
			}
			s := k.Set(f.name(kind), nftables.MustConcatSetType(key...))
			s.Concatenation, s.IsMap, s.KeyByteOrder = true, true, binaryutil.BigEndian
			s.DataType = nftables.MustConcatSetType(f.keyType, nftables.TypeInetService)
			all = append(all, s)
		}
	}
	return all
}

func (k kernel) Replace(elements []element) error {
	return k.Table.Replace(func(c *nftables.Conn) error {
		accept := nftables.ChainPolicyAccept
		chain := k.Chain(chainName)
		chain.Type, chain.Policy, chain.Hooknum = nftables.ChainTypeNAT, &accept, nftables.ChainHookPrerouting
		chain.Priority = beforeKubeProxy
		c.AddChain(chain)
		for _, set := range k.sets() {
			if err := c.AddSet(set, nil); err != nil {
				return fmt.Errorf("make set %s: %w", set.Name, err)
			}
		}
		rule := func(comment string, exprs []expr.Any) {
			c.AddRule(&nftables.Rule{Table: chain.Table, Chain: chain, UserData: nft.Comment(comment), Exprs: exprs})
		}
		rule(inside, fromInside)
		for _, f := range families {
			for _, kind := range kinds {
				rule(f.name(kind), f.translate(kind))
			}
		}
		return k.queue(c, nft.AddElements, elements)
	})
}

// fromInside ends with what does not come by one of the interfaces.
var fromInside = []expr.Any{
	&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: unix.NFT_REG32_00},
	&expr.Lookup{SourceRegister: unix.NFT_REG32_00, SetName: interfaces, Invert: true},
	&expr.Verdict{Kind: expr.VerdictReturn},
}

// translate looks a frontend up in the map of a kind, and translates to the Pod that is there.
func (f family) translate(kind string) []expr.Any {
	to := f.register(4)
	exprs := []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: f.register(0)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: f.register(0), Data: []byte{f.nfproto}},
	}
	switch kind {
	case random:
		exprs = append(exprs, &expr.Numgen{Register: f.register(3), Modulus: Slots, Type: unix.NFT_NG_RANDOM})
	case bySource:
		exprs = append(exprs,
			&expr.Payload{DestRegister: to, Base: expr.PayloadBaseNetworkHeader, Offset: f.source, Len: f.length},
			&expr.Hash{
				SourceRegister: to, DestRegister: f.register(3), Length: f.length, Modulus: Slots, Type: expr.HashTypeJenkins,
				Seed: seed, // without one the kernel takes another each time that the rule is written
			})
	}
	return append(exprs,
		&expr.Payload{
			DestRegister: f.register(0), Base: expr.PayloadBaseNetworkHeader, Offset: f.destination, Len: f.length,
		},
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: f.register(1)},
		&expr.Payload{DestRegister: f.register(2), Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Lookup{SourceRegister: f.register(0), DestRegister: to, IsDestRegSet: true, SetName: f.name(kind)},
		&expr.Counter{},
		&expr.NAT{
			Type: expr.NATTypeDestNAT, Family: uint32(f.nfproto), RegAddrMin: to, RegProtoMin: to + f.length/4,
		},
	)
}

// prolong writes the interfaces again. If they are not all there, the keeper sees to it.
func (k kernel) prolong(names []element) { _ = k.Change(names, names) }

func (k kernel) Change(add, remove []element) error {
	return k.Table.Change(func(c *nftables.Conn) error {
		return errors.Join(k.queue(c, nft.DeleteElements, remove), k.queue(c, nft.AddElements, add))
	})
}

// queue does one thing to elements of all sets.
func (k kernel) queue(
	c *nftables.Conn,
	do func(*nftables.Conn, *nftables.Set, []nftables.SetElement) error,
	elements []element,
) error {
	of := map[string][]nftables.SetElement{}
	for _, e := range elements {
		of[e.set] = append(of[e.set], nftables.SetElement{Key: []byte(e.key), Val: []byte(e.val)})
	}
	for _, set := range k.sets() {
		if len(of[set.Name]) == 0 {
			continue
		}
		if err := do(c, set, of[set.Name]); err != nil {
			return err
		}
	}
	return nil
}

func (k kernel) Check(elements []element) error {
	rules, err := k.Rules()
	if err != nil {
		return err
	}
	var comments []string
	for _, r := range rules {
		comments = append(comments, r.Comment)
	}
	want := []string{inside}
	for _, f := range families {
		for _, kind := range kinds {
			want = append(want, f.name(kind))
		}
	}
	if !slices.Equal(comments, want) {
		return fmt.Errorf("rules %q in table inet %s, want %q", comments, k.Name, want)
	}
	missing := make(map[element]bool, len(elements))
	for _, e := range elements {
		missing[e] = true
	}
	for _, set := range k.sets() {
		have, err := k.Elements(set.Name)
		if err != nil {
			return err
		}
		for _, h := range have {
			e := element{set.Name, string(h.Key), string(h.Val)}
			if !missing[e] {
				return fmt.Errorf("set %s of table inet %s has %s, which is not wanted", set.Name, k.Name, e)
			}
			delete(missing, e)
		}
	}
	for e := range missing {
		return fmt.Errorf("set %s of table inet %s lacks %s", e.set, k.Name, e)
	}
	return nil
}

func (e element) String() string {
	return hex.EncodeToString([]byte(e.key)) + ": " + hex.EncodeToString([]byte(e.val))
}
