package podnat

import (
	"encoding/binary"
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
type family struct{ nft.Family }

func (f family) name(kind string) string { return kind + f.Suffix }

// key is a frontend's: address, protocol and port, each filled up to four bytes.
func (f Frontend) key() string {
	key := append(f.Address.AsSlice(), f.Protocol, 0, 0, 0)
	return string(append(binary.BigEndian.AppendUint16(key, f.Port), 0, 0))
}

func slotKey(slot int) string { return string(binary.NativeEndian.AppendUint32(nil, uint32(slot))) }

func valueOf(pod netip.AddrPort) string {
	return string(append(binary.BigEndian.AppendUint16(pod.Addr().AsSlice(), pod.Port()), 0, 0))
}

func interfaceElement(name string) nft.Element {
	key := make([]byte, unix.IFNAMSIZ)
	copy(key, name)
	return nft.Element{Set: interfaces, Key: string(key)}
}

// sets returns all of the table's, empty.
func (k kernel) sets() []*nftables.Set {
	names := k.Set(interfaces, nftables.TypeIFName)
	names.KeyByteOrder = binaryutil.NativeEndian
	names.HasTimeout, names.Timeout = true, Lease // without them nothing is translated
	all := []*nftables.Set{names}
	for _, its := range nft.Families {
		f := family{its}
		for _, kind := range kinds {
			key := []nftables.SetDatatype{f.KeyType, nftables.TypeInetProto, nftables.TypeInetService}
			if kind != single {
				key = append(key, nftables.TypeMark) // a number of four bytes
			}
			s := k.Set(f.name(kind), nftables.MustConcatSetType(key...))
			s.Concatenation, s.IsMap, s.KeyByteOrder = true, true, binaryutil.BigEndian
			s.DataType = nftables.MustConcatSetType(f.KeyType, nftables.TypeInetService)
			all = append(all, s)
		}
	}
	return all
}

func (k kernel) Replace(elements []nft.Element) error {
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
		for _, its := range nft.Families {
			f := family{its}
			for _, kind := range kinds {
				rule(f.name(kind), f.translate(kind))
			}
		}
		return k.QueueAdd(c, elements)
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
	to := f.Register(4)
	exprs := f.Is()
	switch kind {
	case random:
		exprs = append(exprs, &expr.Numgen{Register: f.Register(3), Modulus: Slots, Type: unix.NFT_NG_RANDOM})
	case bySource:
		exprs = append(exprs, f.LoadSource(to), &expr.Hash{
			SourceRegister: to, DestRegister: f.Register(3), Length: f.Length, Modulus: Slots, Type: expr.HashTypeJenkins,
			Seed: seed, // without one the kernel takes another each time that the rule is written
		})
	}
	return append(exprs,
		f.LoadDestination(f.Register(0)), f.LoadProtocol(), f.LoadPort(),
		&expr.Lookup{SourceRegister: f.Register(0), DestRegister: to, IsDestRegSet: true, SetName: f.name(kind)},
		&expr.Counter{},
		&expr.NAT{
			Type: expr.NATTypeDestNAT, Family: uint32(f.Protocol), RegAddrMin: to, RegProtoMin: to + f.Length/4,
		},
	)
}

// prolong writes the interfaces again. If they are not all there, the keeper sees to it.
func (k kernel) prolong(names []nft.Element) { _ = k.Change(names, names) }

func (k kernel) Change(add, remove []nft.Element) error { return k.ChangeElements(add, remove) }

func (k kernel) Check(elements []nft.Element) error {
	rules, err := k.Rules()
	if err != nil {
		return err
	}
	var comments []string
	for _, r := range rules {
		comments = append(comments, r.Comment)
	}
	want := []string{inside}
	for _, its := range nft.Families {
		f := family{its}
		for _, kind := range kinds {
			want = append(want, f.name(kind))
		}
	}
	if !slices.Equal(comments, want) {
		return fmt.Errorf("rules %q in table inet %s, want %q", comments, k.Name, want)
	}
	return k.CheckElements(k.sets(), elements)
}
