// Package nft keeps tables of nftables that belong to Berth: it writes what changes, sees when
// somebody else writes to them, and repairs them. Linux only; writing needs CAP_NET_ADMIN.
package nft

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/google/nftables"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	// largest is what a transaction, and the answers to it, may be long, in bytes: up to 100 for each
	// element.
	largest = 16 << 20
	// perMessage bounds a netlink attribute, whose length has 16 bits.
	perMessage = 500
)

// Table is a table of family inet in this network namespace that one process writes.
type Table struct {
	Name string

	mu   sync.Mutex
	conn *nftables.Conn // guarded by mu; nil: to be opened

	port atomic.Uint32 // of conn; the kernel says of each change which port it came from
}

func (t *Table) table() *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyINet, Name: t.Name}
}

// Chain returns the chain of that name, to refer to it.
func (t *Table) Chain(name string) *nftables.Chain {
	return &nftables.Chain{Table: t.table(), Name: name}
}

// Set returns the set of that name, to refer to it.
func (t *Table) Set(name string, key nftables.SetDatatype) *nftables.Set {
	return &nftables.Set{Table: t.table(), Name: name, KeyType: key}
}

// Replace writes a new table in place of the old one, whose elements and counters are gone.
func (t *Table) Replace(fill func(*nftables.Conn) error) error {
	return t.write("write", func(c *nftables.Conn) error {
		c.AddTable(t.table()) // so that there is one to delete
		c.DelTable(t.table())
		c.AddTable(t.table())
		return fill(c)
	})
}

// Change writes what change queues, in one transaction.
func (t *Table) Change(change func(*nftables.Conn) error) error {
	return t.write("change", change)
}

// Remove deletes the table.
func (t *Table) Remove() error {
	return t.write("delete", func(c *nftables.Conn) error {
		c.DelTable(c.AddTable(t.table()))
		return nil
	})
}

func (t *Table) write(what string, queue func(*nftables.Conn) error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	err := t.open()
	if err == nil {
		err = queue(t.conn)
	}
	if err == nil {
		err = t.conn.Flush()
	}
	if err == nil {
		return nil
	}
	if t.conn != nil { // answers to the rest of the transaction may still come
		_ = t.conn.CloseLasting()
		t.conn = nil
	}
	err = fmt.Errorf("%s table inet %s: %w", what, t.Name, err)
	if errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("%w (give the speaker the capability NET_ADMIN)", err)
	}
	return err
}

// open makes the connection for writing. It stays, so that its port is no other process's.
func (t *Table) open() error {
	if t.conn != nil {
		return nil
	}
	c, err := nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(c *netlink.Conn) error {
		return errors.Join(c.SetWriteBuffer(largest), c.SetReadBuffer(largest), t.learnPort(c))
	}))
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	t.conn = c
	return nil
}

func (t *Table) learnPort(c *netlink.Conn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var name unix.Sockaddr
	var failed error
	if err := raw.Control(func(fd uintptr) { name, failed = unix.Getsockname(int(fd)) }); err != nil || failed != nil {
		return errors.Join(err, failed)
	}
	if address, ok := name.(*unix.SockaddrNetlink); ok {
		t.port.Store(address.Pid)
	}
	return nil
}

// AddElements queues elements that are added to a set.
func AddElements(c *nftables.Conn, set *nftables.Set, elements []nftables.SetElement) error {
	for some := range slices.Chunk(elements, perMessage) {
		if err := c.SetAddElements(set, some); err != nil {
			return fmt.Errorf("add to set %s: %w", set.Name, err)
		}
	}
	return nil
}

// DeleteElements queues elements that are deleted from a set. Flush fails when the set has one of
// them not.
func DeleteElements(c *nftables.Conn, set *nftables.Set, elements []nftables.SetElement) error {
	for some := range slices.Chunk(elements, perMessage) {
		if err := c.SetDeleteElements(set, some); err != nil {
			return fmt.Errorf("delete from set %s: %w", set.Name, err)
		}
	}
	return nil
}

// Elements reads a set.
func (t *Table) Elements(name string) ([]nftables.SetElement, error) {
	c, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	elements, err := c.GetSetElements(t.Set(name, nftables.TypeInvalid))
	if err != nil {
		return nil, fmt.Errorf("read set %s of table inet %s: %w", name, t.Name, err)
	}
	return elements, nil
}

// Rule is a rule as the kernel has it, by the comment it was given.
type Rule struct {
	Chain, Comment string
	Packets        uint64 // its counter's
}

// Comment makes a comment of a rule.
func Comment(text string) []byte {
	return userdata.AppendString(nil, userdata.TypeComment, text)
}

// Rules reads the rules of all chains, those of one chain in their order. It fails when there is no
// table, or one that is switched off.
//
// nftables.Conn cannot read rules with expression ct and a direction: it takes that for 4 bytes.
func (t *Table) Rules() ([]Rule, error) {
	c, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	table, err := c.ListTableOfFamily(t.Name, nftables.TableFamilyINet)
	switch {
	case err != nil:
		return nil, fmt.Errorf("read table inet %s: %w", t.Name, err)
	case table.Flags&unix.NFT_TABLE_F_DORMANT != 0:
		return nil, fmt.Errorf("table inet %s is dormant", t.Name)
	}
	raw, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	defer raw.Close()
	name, err := netlink.MarshalAttributes(
		[]netlink.Attribute{{Type: unix.NFTA_RULE_TABLE, Data: []byte(t.Name + "\x00")}},
	)
	if err != nil {
		return nil, err
	}
	messages, err := raw.Execute(netlink.Message{
		Header: netlink.Header{
			Type:  unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETRULE,
			Flags: netlink.Request | netlink.Dump,
		},
		Data: append([]byte{unix.NFPROTO_INET, unix.NFNETLINK_V0, 0, 0}, name...),
	})
	if err != nil {
		return nil, fmt.Errorf("read rules of table inet %s: %w", t.Name, err)
	}
	var rules []Rule
	for _, m := range messages {
		r, err := ruleOf(m)
		if err != nil {
			return nil, fmt.Errorf("read rules of table inet %s: %w", t.Name, err)
		}
		rules = append(rules, r)
	}
	return rules, nil
}

// sizeofNfgenmsg is the length of the header before the attributes.
const sizeofNfgenmsg = 4

func ruleOf(m netlink.Message) (Rule, error) {
	if len(m.Data) < sizeofNfgenmsg {
		return Rule{}, fmt.Errorf("message of %d bytes", len(m.Data))
	}
	d, err := netlink.NewAttributeDecoder(m.Data[sizeofNfgenmsg:])
	if err != nil {
		return Rule{}, err
	}
	d.ByteOrder = binary.BigEndian
	var r Rule
	for d.Next() {
		switch d.Type() {
		case unix.NFTA_RULE_CHAIN:
			r.Chain = d.String()
		case unix.NFTA_RULE_USERDATA:
			r.Comment, _ = userdata.GetString(d.Bytes(), userdata.TypeComment)
		case unix.NFTA_RULE_EXPRESSIONS:
			d.Nested(func(list *netlink.AttributeDecoder) error {
				for list.Next() {
					list.Nested(func(e *netlink.AttributeDecoder) error { return readCounter(e, &r.Packets) })
				}
				return nil
			})
		}
	}
	return r, d.Err()
}

// readCounter reads one expression, if it is a counter.
func readCounter(d *netlink.AttributeDecoder, packets *uint64) error {
	counter := false
	for d.Next() {
		switch d.Type() {
		case unix.NFTA_EXPR_NAME:
			counter = d.String() == "counter"
		case unix.NFTA_EXPR_DATA:
			if !counter {
				continue
			}
			d.Nested(func(values *netlink.AttributeDecoder) error {
				for values.Next() {
					if values.Type() == unix.NFTA_COUNTER_PACKETS {
						*packets = values.Uint64()
					}
				}
				return nil
			})
		}
	}
	return nil
}

// Watch calls changed when anything in the table may have been written by somebody else, until ctx
// ends or it fails.
func (t *Table) Watch(ctx context.Context, changed func()) error {
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
	changed() // something may have happened before
	for {
		messages, err := c.Receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS):
			changed() // and so were messages lost
		case err != nil:
			return fmt.Errorf("watch nftables: %w", err)
		}
		if slices.ContainsFunc(messages, t.isBySomebodyElse) {
			changed()
		}
	}
}

// isBySomebodyElse reports whether a message is of a change of this table that we did not write.
func (t *Table) isBySomebodyElse(m netlink.Message) bool {
	const nameOfTable = 1 // the attribute of all messages but that of a new generation
	if m.Header.Type>>8 != unix.NFNL_SUBSYS_NFTABLES || m.Header.Type&0xff == unix.NFT_MSG_NEWGEN ||
		m.Header.PID == t.port.Load() || len(m.Data) < sizeofNfgenmsg || m.Data[0] != unix.NFPROTO_INET {
		return false
	}
	attributes, err := netlink.UnmarshalAttributes(m.Data[sizeofNfgenmsg:])
	return err == nil && slices.ContainsFunc(attributes, func(a netlink.Attribute) bool {
		return a.Type == nameOfTable && string(bytes.TrimRight(a.Data, "\x00")) == t.Name
	})
}
