package l2

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"

	"github.com/mdlayher/ndp"
	"golang.org/x/sys/unix"
)

// groupsPerSocket stays below what one socket may join: its option memory ends at about 2300 groups.
const groupsPerSocket = 1000

// solicitedNodes keeps an interface a listener of the solicited-node groups (RFC 4291 section 2.7.1) of this
// node's addresses, so that network cards and MLD-snooping switches let solicitations through. Joining takes a
// kernel lock that can be held for long, so what count notes down is done by settle, in another goroutine.
type solicitedNodes struct {
	ifi *net.Interface

	mu     sync.Mutex
	wanted map[netip.Addr]int      // guarded by mu; addresses for each group
	dirty  map[netip.Addr]struct{} // guarded by mu; groups to look at

	// Owned by settle's goroutine.
	joined map[netip.Addr]*listener
	shards []*listener
}

// listener is a socket that exists for its memberships: it is bound to nothing, so that no packet comes near it.
type listener struct {
	fd     int
	groups int
}

func newSolicitedNodes(ifi *net.Interface) *solicitedNodes {
	return &solicitedNodes{
		ifi: ifi, wanted: make(map[netip.Addr]int),
		dirty: make(map[netip.Addr]struct{}), joined: make(map[netip.Addr]*listener),
	}
}

// count adds n to the addresses that need addr's group.
func (s *solicitedNodes) count(addr netip.Addr, n int) {
	group, err := ndp.SolicitedNodeMulticast(addr)
	if err != nil {
		return
	}
	s.mu.Lock()
	if s.wanted[group] += n; s.wanted[group] <= 0 {
		delete(s.wanted, group)
	}
	s.dirty[group] = struct{}{}
	s.mu.Unlock()
}

// close ends all memberships.
func (s *solicitedNodes) close() {
	for _, l := range s.shards {
		_ = unix.Close(l.fd)
	}
}

// settle works on all groups that changed; one that fails waits for the next time, and is no obstacle.
func (s *solicitedNodes) settle() error {
	var failures []error
	var again []netip.Addr
	for {
		group, wanted, found := s.take()
		if !found {
			break
		}
		if err := s.settleGroup(group, wanted); err != nil {
			failures, again = append(failures, err), append(again, group)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, group := range again {
		s.dirty[group] = struct{}{}
	}
	return first(failures)
}

// take returns one group that changed, and whether it is wanted.
func (s *solicitedNodes) take() (group netip.Addr, wanted, found bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for group := range s.dirty {
		delete(s.dirty, group)
		return group, s.wanted[group] > 0, true
	}
	return netip.Addr{}, false, false
}

func (s *solicitedNodes) settleGroup(group netip.Addr, wanted bool) error {
	l, joined := s.joined[group]
	switch {
	case wanted && !joined:
		l, err := s.room()
		if err != nil {
			return err
		}
		if err := unix.SetsockoptIPv6Mreq(l.fd, unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP, s.membership(group)); err != nil {
			return fmt.Errorf("join %s on %s: %w", group, s.ifi.Name, os.NewSyscallError("setsockopt", err))
		}
		l.groups++
		s.joined[group] = l
	case !wanted && joined:
		// The kernel may have dropped it with the interface's IPv6; then nothing is left to leave.
		_ = unix.SetsockoptIPv6Mreq(l.fd, unix.IPPROTO_IPV6, unix.IPV6_LEAVE_GROUP, s.membership(group))
		l.groups--
		delete(s.joined, group)
	}
	return nil
}

// room returns a socket that may join one more group.
func (s *solicitedNodes) room() (*listener, error) {
	for _, l := range s.shards {
		if l.groups < groupsPerSocket {
			return l, nil
		}
	}
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open a socket for solicited-node groups on %s: %w", s.ifi.Name, os.NewSyscallError("socket", err))
	}
	l := &listener{fd: fd}
	s.shards = append(s.shards, l)
	return l, nil
}

func (s *solicitedNodes) membership(group netip.Addr) *unix.IPv6Mreq {
	return &unix.IPv6Mreq{Multiaddr: group.As16(), Interface: uint32(s.ifi.Index)}
}
