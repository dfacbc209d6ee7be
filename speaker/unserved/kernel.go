package unserved

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"go4.org/netipx"
	"golang.org/x/sys/unix"
)

// kernel is the table in the kernel of this network namespace.
type kernel struct{}

const (
	tableName = "berth"
	chainName = "forward"
	// perMessage bounds a netlink attribute, whose length has 16 bits.
	perMessage = 500
)

// family is the part of the table for one family of addresses. Sets of single addresses cost the same at any
// size; those of ranges are for aggregates, of which there are few.
type family struct {
	keyType   nftables.SetDatatype
	nfproto   byte
	offset    uint32 // of the destination in the header
	length    uint32
	addresses string
	ranges    string
}

var families = [...]family{
	{nftables.TypeIPAddr, unix.NFPROTO_IPV4, 16, 4, "addresses4", "aggregates4"},
	{nftables.TypeIP6Addr, unix.NFPROTO_IPV6, 24, 16, "addresses6", "aggregates6"},
}

func (f family) holds(a netip.Addr) bool { return uint32(a.BitLen()/8) == f.length }

func berthTable() *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyINet, Name: tableName}
}

func (f family) addressSet(t *nftables.Table) *nftables.Set {
	return &nftables.Set{Table: t, Name: f.addresses, KeyType: f.keyType}
}

func (f family) rangeSet(t *nftables.Table) *nftables.Set {
	return &nftables.Set{Table: t, Name: f.ranges, KeyType: f.keyType, Interval: true}
}

// largest is what a transaction may be long, in bytes: about 40 for each address.
const largest = 16 << 20

func open() (*nftables.Conn, error) {
	c, err := nftables.New(nftables.WithSockOptions(func(c *netlink.Conn) error { return c.SetWriteBuffer(largest) }))
	if err != nil {
		return nil, fmt.Errorf("nftables: %w", err)
	}
	return c, nil
}

func (kernel) replace(prefixes []netip.Prefix) error {
	c, err := open()
	if err != nil {
		return err
	}
	t := c.AddTable(berthTable()) // so that there is one to delete
	c.DelTable(t)
	c.AddTable(t)
	accept := nftables.ChainPolicyAccept
	chain := c.AddChain(&nftables.Chain{
		Table: t, Name: chainName, Type: nftables.ChainTypeFilter, Policy: &accept,
		Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityRef(*nftables.ChainPriorityFilter + 10),
	})
	for _, f := range families {
		addresses, ranges, err := f.elements(prefixes)
		if err != nil {
			return err
		}
		if err := errors.Join(f.fill(c, f.addressSet(t), chain, addresses), f.fill(c, f.rangeSet(t), chain, ranges)); err != nil {
			return err
		}
	}
	return flush(c, "write table inet "+tableName)
}

// fill makes a set with these elements, and the rule that drops what is for one of them.
func (f family) fill(c *nftables.Conn, set *nftables.Set, chain *nftables.Chain, elements []nftables.SetElement) error {
	if err := c.AddSet(set, nil); err != nil {
		return fmt.Errorf("make set %s: %w", set.Name, err)
	}
	for some := range slices.Chunk(elements, perMessage) {
		if err := c.SetAddElements(set, some); err != nil {
			return fmt.Errorf("fill set %s: %w", set.Name, err)
		}
	}
	c.AddRule(&nftables.Rule{Table: chain.Table, Chain: chain, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{f.nfproto}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: f.offset, Len: f.length},
		&expr.Lookup{SourceRegister: 1, SetName: set.Name, SetID: set.ID},
		&expr.Counter{},
		&expr.Verdict{Kind: expr.VerdictDrop},
	}})
	return nil
}

// elements returns the single addresses, and the ranges that the others make up together.
func (f family) elements(prefixes []netip.Prefix) (addresses, ranges []nftables.SetElement, err error) {
	var aggregates netipx.IPSetBuilder
	for _, p := range prefixes {
		switch {
		case !f.holds(p.Addr()):
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
		// The end is the first address after the range; the family's last address has none, and belongs to no pool.
		ranges = append(ranges, nftables.SetElement{Key: r.From().AsSlice()}, nftables.SetElement{Key: r.To().Next().AsSlice(), IntervalEnd: true})
	}
	return addresses, ranges, nil
}

func (kernel) change(add, remove []netip.Addr) error {
	c, err := open()
	if err != nil {
		return err
	}
	for _, f := range families {
		set := f.addressSet(berthTable())
		if some := f.keys(remove); len(some) > 0 {
			for part := range slices.Chunk(some, perMessage) {
				if err := c.SetDeleteElements(set, part); err != nil {
					return fmt.Errorf("change set %s: %w", set.Name, err)
				}
			}
		}
		if some := f.keys(add); len(some) > 0 {
			for part := range slices.Chunk(some, perMessage) {
				if err := c.SetAddElements(set, part); err != nil {
					return fmt.Errorf("change set %s: %w", set.Name, err)
				}
			}
		}
	}
	return flush(c, "change table inet "+tableName)
}

func (f family) keys(addresses []netip.Addr) []nftables.SetElement {
	var keys []nftables.SetElement
	for _, a := range addresses {
		if f.holds(a) {
			keys = append(keys, nftables.SetElement{Key: a.AsSlice()})
		}
	}
	return keys
}

func (kernel) holds(prefixes []netip.Prefix) (bool, error) {
	c, err := open()
	if err != nil {
		return false, err
	}
	t := berthTable()
	rules, err := c.GetRules(t, &nftables.Chain{Name: chainName, Table: t})
	if errors.Is(err, os.ErrNotExist) || err == nil && len(rules) != 2*len(families) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read table inet %s: %w", tableName, err)
	}
	for _, f := range families {
		addresses, ranges, err := f.elements(prefixes)
		if err != nil {
			return false, err
		}
		for set, want := range map[*nftables.Set][]nftables.SetElement{f.addressSet(t): addresses, f.rangeSet(t): ranges} {
			have, err := c.GetSetElements(set)
			switch {
			case errors.Is(err, os.ErrNotExist):
				return false, nil
			case err != nil:
				return false, fmt.Errorf("read set %s: %w", set.Name, err)
			case !same(have, want):
				return false, nil
			}
		}
	}
	return true, nil
}

// same tells whether two lists of elements are equal but for their order. The kernel shows an end at the
// family's first address for the space before the first range.
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

func (kernel) dropped() (map[string]uint64, error) {
	c, err := open()
	if err != nil {
		return nil, err
	}
	t := berthTable()
	rules, err := c.GetRules(t, &nftables.Chain{Name: chainName, Table: t})
	if err != nil {
		return nil, fmt.Errorf("read table inet %s: %w", tableName, err)
	}
	found := map[string]uint64{}
	for _, r := range rules {
		family, n := "IPv4", uint64(0)
		for _, e := range r.Exprs {
			switch v := e.(type) {
			case *expr.Cmp:
				if slices.Equal(v.Data, []byte{unix.NFPROTO_IPV6}) {
					family = "IPv6"
				}
			case *expr.Counter:
				n = v.Packets
			}
		}
		found[family] += n
	}
	return found, nil
}

func (kernel) remove() error {
	c, err := open()
	if err != nil {
		return err
	}
	c.DelTable(c.AddTable(berthTable()))
	return flush(c, "delete table inet "+tableName)
}

func (kernel) watch(ctx context.Context, lost func()) error {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return fmt.Errorf("watch nftables: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	defer c.Close()
	if err := c.JoinGroup(unix.NFNLGRP_NFTABLES); err != nil {
		return fmt.Errorf("watch nftables: %w", err)
	}
	lost() // something may have happened before
	for {
		messages, err := c.Receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS):
			lost() // and so were messages
		case err != nil:
			return fmt.Errorf("watch nftables: %w", err)
		}
		if slices.ContainsFunc(messages, takesFromUs) {
			lost()
		}
	}
}

// takesFromUs tells whether a message is that something of our table was deleted. Elements of sets are left
// out: we delete some ourselves, and the table is read back now and then anyway.
func takesFromUs(m netlink.Message) bool {
	const header, nameOfTable = 4, 1 // struct nfgenmsg; the table is attribute 1 of all of these
	deletion := []netlink.HeaderType{unix.NFT_MSG_DELTABLE, unix.NFT_MSG_DELCHAIN, unix.NFT_MSG_DELRULE, unix.NFT_MSG_DELSET}
	if m.Header.Type>>8 != unix.NFNL_SUBSYS_NFTABLES || !slices.Contains(deletion, m.Header.Type&0xff) ||
		len(m.Data) < header || m.Data[0] != unix.NFPROTO_INET {
		return false
	}
	attributes, err := netlink.UnmarshalAttributes(m.Data[header:])
	return err == nil && slices.ContainsFunc(attributes, func(a netlink.Attribute) bool {
		return a.Type == nameOfTable && string(bytes.TrimRight(a.Data, "\x00")) == tableName
	})
}

func flush(c *nftables.Conn, what string) error {
	err := c.Flush()
	switch {
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("%s: %w (give the speaker the capability NET_ADMIN)", what, err)
	case err != nil:
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}
