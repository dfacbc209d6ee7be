package unserved

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"sync/atomic"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"go4.org/netipx"

	"github.com/berth-lb/berth/speaker/dataplane/nft"
)

// kernel is the table in the kernel of this network namespace.
type kernel struct {
	*nft.Table
	log *slog.Logger
	// stateless: the kernel does not track connections.
	stateless *atomic.Bool
}

const (
	chainName = "forward"
	// established is the comment of the rule by which packets of established connections pass.
	established = "established"
)

// family is the part of the table for one family of addresses. Sets of single addresses cost the
// same at any size; those of ranges are for aggregates, of which there are few.
type family struct {
	nft.Family
	name string // in the metrics, and in nft's comments
}

var families = [...]family{{nft.Families[0], "IPv4"}, {nft.Families[1], "IPv6"}}

func (f family) addresses() string { return "addresses" + f.Suffix }

func (f family) ranges() string { return "aggregates" + f.Suffix }

func newKernel(log *slog.Logger) kernel {
	return kernel{&nft.Table{Name: "berth"}, log, new(atomic.Bool)}
}

func (k kernel) addressSet(f family) *nftables.Set { return k.Set(f.addresses(), f.KeyType) }

func (k kernel) rangeSet(f family) *nftables.Set {
	set := k.Set(f.ranges(), f.KeyType)
	set.Interval = true
	return set
}

// Replace writes the table. Where the kernel does not track connections, which only somebody who
// built it without can have, packets that go back and forth without end are the greater evil, and
// all is dropped.
func (k kernel) Replace(prefixes []netip.Prefix) error {
	err := k.write(prefixes, true)
	stateless := err != nil && !errors.Is(err, os.ErrPermission)
	if stateless {
		if k.write(prefixes, false) != nil {
			return err // it was not for that
		}
		if !k.stateless.Load() {
			k.log.Warn(
				"the kernel tracks no connections (load the modules nf_conntrack and nft_ct): packets of established ones are not spared",
				"error",
				err,
			)
		}
		err = nil
	}
	k.stateless.Store(stateless)
	return err
}

func (k kernel) write(prefixes []netip.Prefix, stateful bool) error {
	return k.Table.Replace(func(c *nftables.Conn) error {
		accept := nftables.ChainPolicyAccept
		chain := k.Chain(chainName)
		chain.Type, chain.Policy, chain.Hooknum = nftables.ChainTypeFilter, &accept, nftables.ChainHookForward
		chain.Priority = nftables.ChainPriorityRef(*nftables.ChainPriorityFilter + 10)
		c.AddChain(chain)
		if stateful {
			c.AddRule(spare(chain))
		}
		for _, f := range families {
			addresses, ranges, err := f.elements(prefixes)
			if err != nil {
				return err
			}
			if err := errors.Join(
				f.fill(c, k.addressSet(f), chain, addresses),
				f.fill(c, k.rangeSet(f), chain, ranges),
			); err != nil {
				return err
			}
		}
		return nil
	})
}

// spare is the rule: ct state established,related accept.
func spare(chain *nftables.Chain) *nftables.Rule {
	states := binaryutil.NativeEndian.PutUint32(expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED)
	none := make([]byte, len(states))
	return &nftables.Rule{Table: chain.Table, Chain: chain, UserData: nft.Comment(established), Exprs: []expr.Any{
		&expr.Ct{Register: 1, Key: expr.CtKeySTATE},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: uint32(len(states)), Mask: states, Xor: none},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: none},
		&expr.Verdict{Kind: expr.VerdictAccept},
	}}
}

// comments are those of the rules, in order.
func (k kernel) comments() []string {
	var all []string
	if !k.stateless.Load() {
		all = append(all, established)
	}
	for _, f := range families {
		all = append(all, f.name, f.name)
	}
	return all
}

// fill makes a set with these elements, and the rule that drops what is for one of them.
func (f family) fill(c *nftables.Conn, set *nftables.Set, chain *nftables.Chain, elements []nftables.SetElement) error {
	if err := c.AddSet(set, nil); err != nil {
		return fmt.Errorf("make set %s: %w", set.Name, err)
	}
	c.AddRule(&nftables.Rule{Table: chain.Table, Chain: chain, UserData: nft.Comment(f.name), Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{f.Protocol}},
		f.LoadDestination(1),
		&expr.Lookup{SourceRegister: 1, SetName: set.Name, SetID: set.ID},
		&expr.Counter{},
		&expr.Verdict{Kind: expr.VerdictDrop},
	}})
	return nft.AddElements(c, set, elements)
}

// elements returns the single addresses, and the ranges that the others make up together.
func (f family) elements(prefixes []netip.Prefix) (addresses, ranges []nftables.SetElement, err error) {
	var aggregates netipx.IPSetBuilder
	for _, p := range prefixes {
		switch {
		case !f.Has(p.Addr()):
		case p.IsSingleIP():
			addresses = append(addresses, nftables.SetElement{Key: p.Addr().AsSlice()})
		default:
			aggregates.AddPrefix(p)
		}
	}
	union, err := aggregates.IPSet()
	if err != nil {
		return nil, nil, fmt.Errorf("unite aggregates: %w", err)
	}
	for _, r := range union.Ranges() {
		// The end is the first address after the range; the family's last address has none, and belongs
		// to no pool.
		ranges = append(
			ranges,
			nftables.SetElement{Key: r.From().AsSlice()},
			nftables.SetElement{Key: r.To().Next().AsSlice(), IntervalEnd: true},
		)
	}
	return addresses, ranges, nil
}

// Change takes single addresses only.
func (k kernel) Change(add, remove []netip.Prefix) error {
	return k.Table.Change(func(c *nftables.Conn) error {
		for _, f := range families {
			set := k.addressSet(f)
			if err := errors.Join(nft.DeleteElements(c, set, f.keys(remove)), nft.AddElements(c, set, f.keys(add))); err != nil {
				return err
			}
		}
		return nil
	})
}

func (f family) keys(addresses []netip.Prefix) []nftables.SetElement {
	var keys []nftables.SetElement
	for _, p := range addresses {
		if f.Has(p.Addr()) {
			keys = append(keys, nftables.SetElement{Key: p.Addr().AsSlice()})
		}
	}
	return keys
}

func (k kernel) Check(prefixes []netip.Prefix) error {
	rules, err := k.Rules()
	if err != nil {
		return err
	}
	var comments []string
	for _, r := range rules {
		comments = append(comments, r.Comment)
	}
	if want := k.comments(); !slices.Equal(comments, want) {
		return fmt.Errorf("rules %q in table inet %s, want %q", comments, k.Name, want)
	}
	for _, f := range families {
		addresses, ranges, err := f.elements(prefixes)
		if err != nil {
			return err
		}
		for name, want := range map[string][]nftables.SetElement{f.addresses(): addresses, f.ranges(): ranges} {
			have, err := k.Elements(name)
			switch {
			case err != nil:
				return err
			case !same(have, want):
				return fmt.Errorf("set %s of table inet %s has other elements than were written", name, k.Name)
			}
		}
	}
	return nil
}

// same reports whether two lists of elements are equal but for their order. The kernel shows an end
// at the family's first address for the space before the first range.
func same(have, want []nftables.SetElement) bool {
	type point struct {
		key string
		end bool
	}
	points := func(elements []nftables.SetElement) map[point]bool {
		all := make(map[point]bool, len(elements))
		for _, e := range elements {
			if first := !slices.ContainsFunc(e.Key, func(b byte) bool { return b != 0 }); first && e.IntervalEnd {
				continue
			}
			all[point{string(e.Key), e.IntervalEnd}] = true
		}
		return all
	}
	a, b := points(have), points(want)
	if len(a) != len(b) {
		return false
	}
	for p := range a {
		if !b[p] {
			return false
		}
	}
	return true
}

// dropped counts packets, by family.
func (k kernel) dropped() (map[string]uint64, error) {
	rules, err := k.Rules()
	if err != nil {
		return nil, err
	}
	found := map[string]uint64{}
	for _, r := range rules {
		if r.Comment != established {
			found[r.Comment] += r.Packets
		}
	}
	return found, nil
}
