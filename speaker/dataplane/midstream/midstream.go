// Package midstream resets connections that began on another node.
//
// When an address moves between nodes, a connection may begin through one node and go on through
// another. Nothing there knows it. At best its packets reach a pod, which resets it. But the kernel
// may take them for those of an older connection of the same client's port, which stays in its
// table for two minutes after its end, on this node or on the pod's. The sequence numbers do not
// fit, the packets are invalid, and kube-proxy drops them in silence: the client waits until its
// patience ends.
//
// So for some seconds after this node begins to answer for an address, it answers TCP packets to it
// that begin no connection, and belong to none that the kernel knows, with a reset. The client
// tries again at once. The rules are in an nftables table of Berth's own, "inet berth-midstream",
// before the kernel rewrites destinations. Linux only (5.9 or later); it needs CAP_NET_ADMIN.
package midstream

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/berth-lb/berth/internal/async"
	"github.com/berth-lb/berth/speaker/dataplane/nft"
)

// resetFor is for how long after it moved here an address is treated so. Later packets that belong
// to no known connection may be late, or of a connection whose entry somebody deleted.
const resetFor = 3 * time.Second

// Driver keeps the table. Its methods may be called from any goroutine.
type Driver struct {
	log   *slog.Logger
	table nft.Table
	wake  async.Signal

	mu    sync.Mutex
	moved []netip.Addr // guarded by mu; not written yet
}

// New returns a driver that resets nothing yet.
func New(log *slog.Logger) *Driver {
	return &Driver{log: log, table: nft.Table{Name: "berth-midstream"}, wake: async.NewSignal()}
}

// Moved says that this node is about to answer for the address. It returns at once.
func (d *Driver) Moved(address netip.Addr) {
	d.mu.Lock()
	d.moved = append(d.moved, address)
	d.mu.Unlock()
	d.wake.Notify()
}

// Run works until ctx ends, in the network namespace of the thread that it begins on. The table
// goes with it.
func (d *Driver) Run(ctx context.Context) error {
	if err := d.table.Replace(d.fill); err != nil {
		d.log.Warn("connections that began on another node are not reset: their clients may wait", "error", err)
		<-ctx.Done()
		return nil
	}
	for {
		select {
		case <-ctx.Done():
			return d.table.Remove()
		case <-d.wake:
		}
		d.mu.Lock()
		moved := d.moved
		d.moved = nil
		d.mu.Unlock()
		if err := d.write(moved); err != nil {
			d.log.Warn("connections that began on another node are not reset: their clients may wait", "error", err)
		}
	}
}

// write adds addresses to the table, which somebody may have deleted.
func (d *Driver) write(moved []netip.Addr) error {
	err := d.table.Change(func(c *nftables.Conn) error { return d.add(c, moved) })
	if err == nil {
		return nil
	}
	return errors.Join(d.table.Replace(d.fill), d.table.Change(func(c *nftables.Conn) error { return d.add(c, moved) }))
}

func (d *Driver) add(c *nftables.Conn, moved []netip.Addr) error {
	var failures []error
	for _, f := range nft.Families {
		var elements []nftables.SetElement
		for _, a := range moved {
			if f.Has(a) {
				elements = append(elements, nftables.SetElement{Key: a.AsSlice(), Timeout: resetFor})
			}
		}
		set := d.set(f)
		// An element that is there keeps its time, so it goes first.
		failures = append(failures, nft.AddElements(c, set, elements), nft.DeleteElements(c, set, elements))
		failures = append(failures, nft.AddElements(c, set, elements))
	}
	return errors.Join(failures...)
}

func (d *Driver) set(f nft.Family) *nftables.Set {
	set := d.table.Set("moved"+f.Suffix, f.KeyType)
	set.HasTimeout, set.Timeout = true, resetFor
	return set
}

// fill makes the sets, and a chain with a rule for each family. Priority -150 is after the kernel
// has looked up connections, and before it rewrites destinations.
func (d *Driver) fill(c *nftables.Conn) error {
	accept := nftables.ChainPolicyAccept
	chain := d.table.Chain("prerouting")
	chain.Type, chain.Policy, chain.Hooknum = nftables.ChainTypeFilter, &accept, nftables.ChainHookPrerouting
	chain.Priority = nftables.ChainPriorityMangle
	c.AddChain(chain)
	for _, f := range nft.Families {
		set := d.set(f)
		if err := c.AddSet(set, nil); err != nil {
			return err
		}
		c.AddRule(reset(f, chain, set))
	}
	return nil
}

// reset is the rule: ip daddr @moved4 tcp flags & (syn | rst) == 0 ct state invalid,new counter
// reject with tcp reset.
func reset(f nft.Family, chain *nftables.Chain, set *nftables.Set) *nftables.Rule {
	const flagsOffset, begins = 13, 0x02 | 0x04 // SYN, RST
	states := binaryutil.NativeEndian.PutUint32(expr.CtStateBitINVALID | expr.CtStateBitNEW)
	none := make([]byte, len(states))
	return &nftables.Rule{Table: chain.Table, Chain: chain, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{f.Protocol}},
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
		f.LoadDestination(1),
		&expr.Lookup{SourceRegister: 1, SetName: set.Name, SetID: set.ID},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: flagsOffset, Len: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{begins}, Xor: []byte{0}},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{0}},
		&expr.Ct{Register: 1, Key: expr.CtKeySTATE},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: uint32(len(states)), Mask: states, Xor: none},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: none},
		&expr.Counter{},
		&expr.Reject{Type: unix.NFT_REJECT_TCP_RST},
	}}
}
