// Package conntrack has the kernel forget connections to an address that are over.
//
// When an address moves between nodes, a connection may begin through one node and go on through
// another. The kernel there takes its packets for those of an older connection of the same client's
// port, if that one is still in its table: TIME_WAIT lasts two minutes. The sequence numbers do not
// fit, the packets are invalid, and kube-proxy drops them in silence: the client waits until its
// patience ends. Without the old entry the packets reach a pod, which resets the connection, and
// the client tries again at once.
package conntrack

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/berth-lb/berth/internal/async"
)

// Cleaner forgets connections that are over. Its methods may be called from any goroutine.
type Cleaner struct {
	log  *slog.Logger
	wake async.Signal

	mu    sync.Mutex
	moved map[netip.Addr]bool // guarded by mu; addresses to look at
}

// New returns a Cleaner with nothing to do.
func New(log *slog.Logger) *Cleaner {
	return &Cleaner{log: log, wake: async.NewSignal(), moved: map[netip.Addr]bool{}}
}

// Moved says that this node begins or ceases to answer for the address. It returns at once.
func (c *Cleaner) Moved(address netip.Addr) {
	c.mu.Lock()
	c.moved[address] = true
	c.mu.Unlock()
	c.wake.Notify()
}

// Run works until ctx ends, in the network namespace of the thread that it begins on.
func (c *Cleaner) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c.wake:
		}
		c.mu.Lock()
		moved := c.moved
		c.moved = map[netip.Addr]bool{}
		c.mu.Unlock()
		if err := Forget(moved); err != nil {
			c.log.Warn("old connections to addresses that moved are still known to the kernel", "addresses", len(moved), "error", err)
		}
	}
}

// From linux/netfilter/nfnetlink_conntrack.h, nf_conntrack_tcp.h and net/netfilter/nf_internals.h.
const (
	messageGet    = unix.NFNL_SUBSYS_CTNETLINK<<8 | 1
	messageDelete = unix.NFNL_SUBSYS_CTNETLINK<<8 | 2

	attributeTuple      = 1
	attributeProtocol   = 4
	attributeID         = 12
	attributeZone       = 18
	attributeFilter     = 25 // since Linux 5.8; what is older sends everything
	tupleIP             = 1
	ipDestination4      = 2
	ipDestination6      = 4
	protocolTCP         = 1
	tcpState            = 1
	filterOriginalFlags = 1
	filterReplyFlags    = 2
	filterDestination   = 1 << 1

	stateTimeWait = 7
	stateClose    = 8
)

// headerLength is that of struct nfgenmsg: family, version, resource.
const headerLength = 4

// manyAddresses is from how many addresses the whole table is read once.
const manyAddresses = 16

// Forget deletes the entries of TCP connections to the addresses that are in the state TIME_WAIT or
// CLOSE, in the network namespace of the calling thread. A kernel that tracks no connections has
// none.
func Forget(addresses map[netip.Addr]bool) error {
	if len(addresses) == 0 {
		return nil
	}
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("connect to the connection tracking: %w", err)
	}
	defer conn.Close()
	var failures []error
	four, six := 0, 0
	for a := range addresses {
		if a.Is4() {
			four++
		} else {
			six++
		}
	}
	all := netip.Addr{}
	if four >= manyAddresses {
		failures = append(failures, forget(conn, unix.AF_INET, all, addresses))
	}
	for a := range addresses {
		if a.Is4() && four < manyAddresses {
			failures = append(failures, forget(conn, unix.AF_INET, a, addresses))
		}
	}
	if six > 0 {
		// Linux 6.18 sends all others when it is asked for one IPv6 address: its comparison is reversed
		// (ctnetlink_filter_match_tuple).
		failures = append(failures, forget(conn, unix.AF_INET6, all, addresses))
	}
	return errors.Join(failures...)
}

// forget reads the entries of a family, or those to one address alone, and deletes what is over.
func forget(conn *netlink.Conn, family byte, only netip.Addr, addresses map[netip.Addr]bool) error {
	found, err := request(conn, family, messageGet, netlink.Dump, func(e *netlink.AttributeEncoder) {
		if only.IsValid() {
			destination(e, only)
		}
	})
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil // the module nf_conntrack_netlink is not there
	}
	if err != nil {
		return fmt.Errorf("read the table: %w", err)
	}
	for _, m := range found {
		x, err := parse(m.Data)
		if err != nil {
			return fmt.Errorf("read the table: %w", err)
		}
		if !addresses[x.to] || !slices.Contains([]uint8{stateTimeWait, stateClose}, x.state) {
			continue
		}
		_, err = request(conn, family, messageDelete, netlink.Acknowledge, func(e *netlink.AttributeEncoder) {
			for _, a := range x.identity {
				e.Bytes(a.kind, a.value)
			}
		})
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("delete a connection to %s: %w", x.to, err)
		}
	}
	return nil
}

// destination has the kernel send the entries to one IPv4 address alone.
func destination(e *netlink.AttributeEncoder, a netip.Addr) {
	e.Nested(attributeTuple, func(e *netlink.AttributeEncoder) error {
		e.Nested(tupleIP, func(e *netlink.AttributeEncoder) error {
			e.Bytes(ipDestination4, a.AsSlice())
			return nil
		})
		return nil
	})
	e.Nested(attributeFilter, func(e *netlink.AttributeEncoder) error {
		e.Uint32(filterOriginalFlags, filterDestination)
		e.Uint32(filterReplyFlags, 0)
		return nil
	})
}

// entry is a connection in the kernel's table.
type entry struct {
	to       netip.Addr // the destination of its first packet
	state    uint8      // of TCP; 0: another protocol
	identity []attribute
}

// attribute is one of those that name an entry.
type attribute struct {
	kind  uint16
	value []byte
}

func parse(message []byte) (entry, error) {
	var x entry
	if len(message) < headerLength {
		return x, errors.New("the kernel sent a short message")
	}
	d, err := netlink.NewAttributeDecoder(message[headerLength:])
	if err != nil {
		return x, err
	}
	for d.Next() {
		switch kind := d.Type(); kind {
		case attributeTuple:
			x.identity = append(x.identity, attribute{kind | unix.NLA_F_NESTED, d.Bytes()})
			d.Nested(x.parseTuple)
		case attributeID, attributeZone:
			x.identity = append(x.identity, attribute{kind, d.Bytes()})
		case attributeProtocol:
			d.Nested(x.parseProtocol)
		}
	}
	return x, d.Err()
}

func (x *entry) parseTuple(d *netlink.AttributeDecoder) error {
	for d.Next() {
		if d.Type() != tupleIP {
			continue
		}
		d.Nested(func(d *netlink.AttributeDecoder) error {
			for d.Next() {
				if kind := d.Type(); kind == ipDestination4 || kind == ipDestination6 {
					x.to, _ = netip.AddrFromSlice(d.Bytes())
				}
			}
			return d.Err()
		})
	}
	return d.Err()
}

func (x *entry) parseProtocol(d *netlink.AttributeDecoder) error {
	for d.Next() {
		if d.Type() != protocolTCP {
			continue
		}
		d.Nested(func(d *netlink.AttributeDecoder) error {
			for d.Next() {
				if d.Type() == tcpState {
					x.state = d.Uint8()
				}
			}
			return d.Err()
		})
	}
	return d.Err()
}

func request(
	conn *netlink.Conn,
	family byte,
	kind netlink.HeaderType,
	flags netlink.HeaderFlags,
	attributes func(*netlink.AttributeEncoder),
) ([]netlink.Message, error) {
	e := netlink.NewAttributeEncoder()
	attributes(e)
	b, err := e.Encode()
	if err != nil {
		return nil, err
	}
	return conn.Execute(netlink.Message{
		Header: netlink.Header{Type: kind, Flags: netlink.Request | flags},
		Data:   append([]byte{family, unix.NFNETLINK_V0, 0, 0}, b...),
	})
}
