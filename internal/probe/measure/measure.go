// Package measure does what a probe.Request asks for, on the node and in the network of the
// process: it asks for addresses by ARP and NDP, listens to the hellos of other nodes, calls
// routers, and looks at the kernel. It needs CAP_NET_RAW, and changes nothing, but for the module
// ip_vs, which the kernel loads if it is asked for.
//
//   - measure.go: the whole, segment.go: an interface, router.go, path.go and kernel.go: the rest
package measure

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"go4.org/netipx"

	"github.com/berth-lb/berth/internal/probe"
	"github.com/berth-lb/berth/l2/packet"
)

// pollPause is the time between two looks whether there is something new to report.
const pollPause = 100 * time.Millisecond

// Run does what is asked, and writes Reports to out, until the context ends: its messages to other
// nodes are wanted until those were heard everywhere.
func Run(ctx context.Context, asked probe.Request, out io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	links, err := packet.Links()
	if err != nil {
		cancel()
		return err
	}
	n := &notes{asked: asked, hears: map[string]map[string]bool{}, answers: map[answered]uint8{}}
	segments := n.open(links)
	n.describe(links, segments)
	var work, greeting sync.WaitGroup
	defer func() { // in this order
		cancel()
		work.Wait()
		greeting.Wait()
		for _, s := range segments {
			s.sockets.Close()
			s.sockets.Wait()
		}
	}()
	for _, s := range segments {
		if !slices.Contains(asked.Speaks, s.link.Name) {
			greeting.Go(func() { s.greet(ctx) })
		}
		work.Go(func() { s.ask(ctx) })
	}
	work.Go(func() { n.paths(ctx, segments) })
	work.Go(func() { n.routers(ctx) })
	work.Go(func() { n.kernel() })
	done := make(chan struct{})
	go func() { // ends with the work, which ends with the context
		work.Wait()
		close(done)
	}()
	return n.write(ctx, out, done)
}

// notes is what was seen until now.
type notes struct {
	asked probe.Request

	mu      sync.Mutex
	report  probe.Report               // guarded by mu; what follows is added to a copy
	hears   map[string]map[string]bool // guarded by mu; nodes by interface
	heard   int                        // guarded by mu; grows with hears
	answers map[answered]uint8         // guarded by mu; rounds
}

type answered struct {
	address netip.Addr
	iface   string
	mac     [6]byte
}

func (n *notes) note(do func(*probe.Report)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	do(&n.report)
}

// fail notes what could not be measured, once.
func (n *notes) fail(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	n.note(func(r *probe.Report) {
		if !slices.Contains(r.Failures, text) {
			r.Failures = append(r.Failures, text)
		}
	})
}

func (n *notes) hear(iface, node string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if node == n.asked.Node || n.hears[iface][node] {
		return
	}
	if n.hears[iface] == nil {
		n.hears[iface] = map[string]bool{}
	}
	n.hears[iface][node] = true
	n.heard++
}

// write writes a report at once, when somebody else is heard, and when all is done.
func (n *notes) write(ctx context.Context, out io.Writer, done <-chan struct{}) error {
	encoder := json.NewEncoder(out)
	poll := time.NewTicker(pollPause)
	defer poll.Stop()
	for told := -1; ; {
		report, heard := n.snapshot()
		if heard > told {
			told = heard
			if err := encoder.Encode(report); err != nil {
				return fmt.Errorf("write the report: %w", err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-done:
			n.note(func(r *probe.Report) { r.Done = true })
			done, told = nil, -1
		case <-poll.C:
		}
	}
}

// snapshot returns the report, and how many messages of other nodes it is based on.
func (n *notes) snapshot() (probe.Report, int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	r := n.report
	r.Node = n.asked.Node
	r.Links = slices.Clone(r.Links)
	for i, l := range r.Links {
		r.Links[i].Hears = slices.Sorted(maps.Keys(n.hears[l.Name]))
	}
	if r.Done {
		r.Answers = n.answersNow()
	}
	return r, n.heard
}

// open opens the sockets of the interfaces that are asked for.
func (n *notes) open(links []packet.Link) []*segment {
	var segments []*segment
	for _, pattern := range n.asked.Interfaces {
		if !slices.ContainsFunc(links, func(l packet.Link) bool { return n.matches(l, pattern) }) {
			n.fail("no interface %s", cmp.Or(pattern, "holds an InternalIP of the node"))
		}
	}
	for _, l := range links {
		if !slices.ContainsFunc(n.asked.Interfaces, func(p string) bool { return n.matches(l, p) }) {
			continue
		}
		if !l.Up {
			n.fail("interface %s is down", l.Name)
			continue
		}
		s, err := n.segment(l)
		if err != nil {
			n.fail("%v", err)
			continue
		}
		segments = append(segments, s)
	}
	return segments
}

// matches reports whether the pattern of an announcement means an interface, as the speaker does.
func (n *notes) matches(l packet.Link, pattern string) bool {
	if pattern == "" {
		return slices.ContainsFunc(
			l.Addrs,
			func(a netip.Addr) bool { return slices.Contains(n.asked.InternalIPs, a) },
		)
	}
	ok, err := path.Match(pattern, l.Name)
	return err == nil && ok
}

// addresses returns those to ask for on an interface.
func (n *notes) addresses(l packet.Link) []netip.Addr {
	var b netipx.IPSetBuilder
	for _, a := range n.asked.Asks {
		if slices.ContainsFunc(a.Interfaces, func(p string) bool { return n.matches(l, p) }) {
			for _, r := range a.Ranges {
				b.AddRange(r)
			}
		}
	}
	set, err := b.IPSet()
	if err != nil {
		n.fail("addresses: %v", err)
		return nil
	}
	var all []netip.Addr
	for _, r := range set.Ranges() {
		for a := r.From(); a.IsValid() && !r.To().Less(a); a = a.Next() {
			if !isEdge(a, l.Subnets) {
				all = append(all, a)
			}
		}
	}
	return all
}

// isEdge reports whether no host can have an address, since it is the network or the broadcast
// address of a subnet, or that of all its routers (RFC 4291 section 2.6.1). Berth does not give
// those.
func isEdge(a netip.Addr, subnets []netip.Prefix) bool {
	return slices.ContainsFunc(subnets, func(p netip.Prefix) bool {
		r := netipx.RangeOfPrefix(p)
		return a.BitLen()-p.Bits() > 1 && (a == r.From() || a.Is4() && a == r.To())
	})
}

// describe notes what is known of the interfaces at once.
func (n *notes) describe(links []packet.Link, segments []*segment) {
	for _, l := range links {
		described := probe.Link{
			Name: l.Name, MAC: l.HardwareAddr().String(), MTU: l.MTU, Up: l.Up, Subnets: l.HostSubnets(),
		}
		if i := slices.IndexFunc(segments, func(s *segment) bool { return s.link.Name == l.Name }); i >= 0 {
			described.Segment, described.Asked = true, len(segments[i].addresses)
			n.routing(&described)
		}
		n.note(func(r *probe.Report) { r.Links = append(r.Links, described) })
	}
}

func (n *notes) answersNow() []probe.Answer {
	var all []probe.Answer
	for at, rounds := range n.answers {
		all = append(all, probe.Answer{
			Address: at.address, Interface: at.iface, MAC: net.HardwareAddr(at.mac[:]).String(), Rounds: rounds,
		})
	}
	slices.SortFunc(all, func(a, b probe.Answer) int {
		return cmp.Or(
			a.Address.Compare(b.Address), strings.Compare(a.Interface, b.Interface), strings.Compare(a.MAC, b.MAC),
		)
	})
	return all
}
