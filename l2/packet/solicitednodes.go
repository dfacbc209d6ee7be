package packet

import (
	"cmp"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"

	"github.com/mdlayher/ndp"
	"golang.org/x/sys/unix"

	"github.com/berth-lb/berth/l2/neighbor"
)

// kernelGroups is how many groups the kernel is asked to join. For each IPv6 multicast that arrives
// it searches the list of all groups: a thousand cost as much as the answer, ten thousand a hundred
// times as much. For other groups the interface receives all multicasts, the filter selects, and
// this process reports to switches and routers. It is also well below what one socket may join.
const kernelGroups = 64

// solicitedNodes keeps an interface a listener of the solicited-node groups (RFC 4291 section
// 2.7.1) of this node's addresses, so that network cards and MLD-snooping switches pass
// solicitations. Joining takes a kernel lock that can be held for long, so settle does in another
// goroutine what count notes.
type solicitedNodes struct {
	ifi    *net.Interface
	socket multicastSocket

	mu      sync.Mutex
	wanted  map[netip.Addr]int      // guarded by mu; addresses for each group
	dirty   map[netip.Addr]struct{} // guarded by mu; groups for settle to work on
	queries []neighbor.MLDQuery     // guarded by mu; to be answered

	// Only settle's goroutine uses these.
	joined    *multicastGroups
	reported  map[netip.Addr]struct{} // joined by this process, not the kernel
	hearsAll  bool
	toRepeat  []listenerChange // changes to be reported once more
	v1Querier bool             // the last querier speaks MLD's first version
}

// multicastSocket is what solicitedNodes needs of the interface's socket.
type multicastSocket interface {
	SendNDP(frame []byte) error
	// hearAll sets whether the socket receives all multicasts.
	hearAll(bool) error
}

// listenerChange is a change to report.
type listenerChange struct {
	change neighbor.ListenerChange
	groups []netip.Addr
}

func newSolicitedNodes(ifi *net.Interface, m multicastSocket) *solicitedNodes {
	return &solicitedNodes{
		ifi: ifi, socket: m, wanted: make(map[netip.Addr]int), dirty: make(map[netip.Addr]struct{}),
		joined: &multicastGroups{
			ifi:    ifi,
			fd:     -1,
			groups: make(map[netip.Addr]struct{}),
		}, reported: make(map[netip.Addr]struct{}),
	}
}

// count adds n to the number of addresses that need addr's group.
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

// unsettled returns how many groups settle has yet to work on.
func (s *solicitedNodes) unsettled() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.dirty)
}

// queried notes a query for answer.
func (s *solicitedNodes) queried(q neighbor.MLDQuery) {
	const enough = 16 // a flood of them gets one answer
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queries) < enough {
		s.queries = append(s.queries, q)
	}
}

// close ends all memberships.
func (s *solicitedNodes) close() { s.joined.close() }

// settle works on all groups that changed. A group that fails waits for the next time and does not
// delay others. It reports whether repeat is to be called after a while.
func (s *solicitedNodes) settle() (retell bool, err error) {
	var failures []error
	var came, went, failed []netip.Addr
	for {
		group, wanted, found := s.take()
		if !found {
			break
		}
		_, reported := s.reported[group]
		switch {
		case !wanted && reported:
			delete(s.reported, group)
			went = append(went, group)
		case !wanted:
			s.joined.leave(group)
		case reported || s.joined.has(group):
		case len(s.joined.groups) < kernelGroups:
			if err := s.joined.join(group); err != nil {
				failures, failed = append(failures, err), append(failed, group)
			}
		default:
			s.reported[group] = struct{}{}
			came = append(came, group)
		}
	}
	s.mu.Lock()
	for _, group := range failed {
		s.dirty[group] = struct{}{}
	}
	s.mu.Unlock()
	failures = append(failures, s.setHearAll(), s.report(listenerChange{
		neighbor.NowListener, came,
	}), s.report(listenerChange{neighbor.NotListener, went}))
	return len(s.toRepeat) > 0, cmp.Or(failures...)
}

// setHearAll receives all multicasts while that is needed.
func (s *solicitedNodes) setHearAll() error {
	all := len(s.reported) > 0
	if all == s.hearsAll {
		return nil
	}
	if err := s.socket.hearAll(all); err != nil {
		return fmt.Errorf("receive all multicasts on %s: %w", s.ifi.Name, err)
	}
	s.hearsAll = all
	return nil
}

// report reports a change. It will be repeated, because a report may be lost (RFC 3810 section
// 6.1).
func (s *solicitedNodes) report(m listenerChange) error {
	if len(m.groups) == 0 {
		return nil
	}
	s.toRepeat = append(s.toRepeat, m)
	return s.send(m)
}

// repeat repeats what was reported since the last time.
func (s *solicitedNodes) repeat() error {
	var failures []error
	for _, m := range s.toRepeat {
		failures = append(failures, s.send(listenerChange{m.change, s.unchanged(m)}))
	}
	s.toRepeat = nil
	return cmp.Or(failures...)
}

// unchanged returns the groups of a change that are still as it left them.
func (s *solicitedNodes) unchanged(m listenerChange) []netip.Addr {
	return slices.DeleteFunc(slices.Clone(m.groups), func(g netip.Addr) bool {
		_, listening := s.reported[g]
		return listening == (m.change == neighbor.NotListener)
	})
}

// answer reports to queriers what this process listens to. The kernel reports what it has joined.
func (s *solicitedNodes) answer() error {
	s.mu.Lock()
	queries := s.queries
	s.queries = nil
	s.mu.Unlock()
	groups := make(map[netip.Addr]struct{})
	for _, q := range queries {
		s.v1Querier = q.V1
		if q.Group.IsUnspecified() {
			groups = s.reported
			break
		}
		if _, ok := s.reported[q.Group]; ok {
			groups[q.Group] = struct{}{}
		}
	}
	return s.send(listenerChange{neighbor.IsListener, slices.Collect(maps.Keys(groups))})
}

func (s *solicitedNodes) send(m listenerChange) error {
	frames := neighbor.ListenerReports
	if s.v1Querier {
		frames = neighbor.ListenerReportsV1
	}
	for _, frame := range frames(s.ifi.HardwareAddr, m.change, m.groups) {
		if err := s.socket.SendNDP(frame); err != nil {
			return fmt.Errorf("report solicited-node groups on %s: %w", s.ifi.Name, err)
		}
	}
	return nil
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

// multicastGroups are the groups that the kernel has joined for a socket. The socket is not bound,
// so it receives no packets.
type multicastGroups struct {
	ifi    *net.Interface
	fd     int // -1: not open yet
	groups map[netip.Addr]struct{}
}

func (m *multicastGroups) has(group netip.Addr) bool {
	_, ok := m.groups[group]
	return ok
}

func (m *multicastGroups) join(group netip.Addr) error {
	if m.fd < 0 {
		fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open a socket for solicited-node groups on %s: %w",
				m.ifi.Name, os.NewSyscallError("socket", err))
		}
		m.fd = fd
	}
	if err := unix.SetsockoptIPv6Mreq(m.fd, unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP, m.request(group)); err != nil {
		return fmt.Errorf("join %s on %s: %w", group, m.ifi.Name, os.NewSyscallError("setsockopt", err))
	}
	m.groups[group] = struct{}{}
	return nil
}

func (m *multicastGroups) leave(group netip.Addr) {
	if m.has(group) {
		// The kernel may have dropped it when the interface lost IPv6. Then there is nothing to
		// leave.
		_ = unix.SetsockoptIPv6Mreq(m.fd, unix.IPPROTO_IPV6, unix.IPV6_LEAVE_GROUP, m.request(group))
		delete(m.groups, group)
	}
}

func (m *multicastGroups) request(group netip.Addr) *unix.IPv6Mreq {
	return &unix.IPv6Mreq{Multiaddr: group.As16(), Interface: uint32(m.ifi.Index)}
}

func (m *multicastGroups) close() {
	if m.fd >= 0 {
		_ = unix.Close(m.fd)
	}
}
