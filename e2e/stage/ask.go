//go:build linux

package stage

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/berth-lb/berth/e2e/lab"
)

func port(name string, protocol corev1.Protocol, number int32, target string) corev1.ServicePort {
	return corev1.ServicePort{Name: name, Protocol: protocol, Port: number, TargetPort: intstr.FromString(target)}
}

// Answer is the answer of an echo server.
type Answer struct {
	Pod, Node, Address, Client, Protocol, Host string
	// ForwardedFor and RealIP are what a proxy in front said of its client.
	ForwardedFor, RealIP string
}

// ClientAddress returns the source address that the server saw.
func (a Answer) ClientAddress() netip.Addr {
	p, err := netip.ParseAddrPort(a.Client)
	if err != nil {
		return netip.Addr{}
	}
	return p.Addr().Unmap()
}

// AskHTTP requests http://address/ from a host, on a new connection.
func (s *Stage) AskHTTP(ctx context.Context, host string, address netip.Addr) (Answer, error) {
	return ask(ctx, s.HTTPClient(host), address)
}

func ask(ctx context.Context, c *http.Client, address netip.Addr) (Answer, error) {
	var answer Answer
	url := "http://" + netip.AddrPortFrom(address, 80).String() + "/"
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return answer, err
	}
	response, err := c.Do(request)
	if err != nil {
		return answer, err
	}
	defer response.Body.Close()
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		return answer, fmt.Errorf("%s answered %s: %w", url, response.Status, err)
	}
	return answer, nil
}

// AskLine sends a line to port 7000, by network "tcp" or "udp", and returns the answer.
func (s *Stage) AskLine(ctx context.Context, host, network string, address netip.Addr) (Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	conn, err := s.Dial(ctx, host, network, netip.AddrPortFrom(address, 7000).String())
	if err != nil {
		return Answer{}, err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	return Say(conn, deadline)
}

// Say sends a line on a connection, and returns the answer if it comes in time.
func Say(conn net.Conn, deadline time.Time) (Answer, error) {
	var answer Answer
	if err := conn.SetDeadline(deadline); err != nil {
		return answer, err
	}
	if _, err := conn.Write([]byte("hello\n")); err != nil {
		return answer, err
	}
	line, err := bufio.NewReader(conn).ReadBytes('\n')
	if err != nil {
		return answer, err
	}
	return answer, json.Unmarshal(line, &answer)
}

// Addresses returns the addresses in a Service's status, in their order.
func Addresses(svc *corev1.Service) []netip.Addr {
	var addresses []netip.Addr
	for _, ingress := range svc.Status.LoadBalancer.Ingress {
		if a, err := netip.ParseAddr(ingress.IP); err == nil {
			addresses = append(addresses, a)
		}
	}
	return addresses
}

// Owner returns the node that answers ARP or NDP for the address, as the local client sees it with
// a fresh cache.
func (s *Stage) Owner(ctx context.Context, address netip.Addr) (string, error) {
	if err := s.FlushNeighbors(lab.Client); err != nil {
		return "", err
	}
	// Even if the connection fails, the kernel resolves the neighbor.
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if conn, err := s.Dial(ctx, lab.Client, "tcp", netip.AddrPortFrom(address, 80).String()); err == nil {
		_ = conn.Close()
	}
	mac, err := s.Neighbor(lab.Client, address)
	if err != nil {
		return "", err
	}
	if mac == nil {
		return "", fmt.Errorf("nobody answers for %s", address)
	}
	if host := s.HostOf(mac); host != "" {
		return host, nil
	}
	return "", fmt.Errorf("%s answers for %s, and is no host of the lab", mac, address)
}

// Routes returns the nodes to which the router sends packets for the address, according to FRR's
// BGP table.
func (s *Stage) Routes(ctx context.Context, address netip.Addr) ([]string, error) {
	family := "ipv4"
	if address.Is6() {
		family = "ipv6"
	}
	out, err := s.Vtysh(ctx, fmt.Sprintf("show bgp %s unicast %s/%d json", family, address, address.BitLen()))
	if err != nil {
		return nil, err
	}
	var table struct {
		Paths []struct {
			Valid     bool
			Multipath bool
			BestPath  struct{ Overall bool }
			NextHops  []struct{ IP string } `json:"nexthops"`
		}
	}
	if err := json.Unmarshal([]byte(out), &table); err != nil {
		return nil, fmt.Errorf("routes to %s: %w in %q", address, err, out)
	}
	var nodes []string
	for _, p := range table.Paths {
		for _, hop := range p.NextHops {
			if !p.Valid || !p.Multipath && !p.BestPath.Overall {
				continue
			}
			if node := s.nodeAt(hop.IP); node != "" && !slices.Contains(nodes, node) {
				nodes = append(nodes, node)
			}
		}
	}
	slices.Sort(nodes)
	return nodes, nil
}

// AwaitRoutes waits until the router sends packets for the address to these nodes and no others,
// according to its BGP table and its kernel, which follows a moment later.
func (s *Stage) AwaitRoutes(ctx context.Context, patience time.Duration, address netip.Addr, nodes ...string) error {
	return Eventually(ctx, patience, func(ctx context.Context) error {
		got, err := s.Routes(ctx, address)
		if err == nil && !slices.Equal(got, nodes) {
			err = fmt.Errorf("routes to %s are by %v, want %v", address, got, nodes)
		}
		if err != nil {
			return err
		}
		hops, err := s.kernelHops(ctx, address)
		if err == nil && hops != len(nodes) {
			err = fmt.Errorf("the router's kernel has %d next hops to %s, want %d", hops, address, len(nodes))
		}
		return err
	})
}

// kernelHops counts the next hops to the address in the router's kernel. It does not name them:
// those of IPv6 can be link-local addresses.
func (s *Stage) kernelHops(ctx context.Context, address netip.Addr) (int, error) {
	family := "-4"
	if address.Is6() {
		family = "-6"
	}
	out, err := s.Exec(
		ctx, lab.Router, "ip", family, "-json", "route", "show",
		netip.PrefixFrom(address, address.BitLen()).String(),
	).Output()
	if err != nil {
		return 0, fmt.Errorf("the router's kernel routes to %s: %w", address, err)
	}
	if len(strings.TrimSpace(string(out))) == 0 {
		return 0, nil
	}
	var routes []struct {
		NextHops []struct{} `json:"nexthops"`
	}
	if err := json.Unmarshal(out, &routes); err != nil {
		return 0, fmt.Errorf("the router's kernel routes to %s: %w in %q", address, err, out)
	}
	hops := 0
	for _, r := range routes {
		hops += max(1, len(r.NextHops))
	}
	return hops, nil
}

func (s *Stage) nodeAt(ip string) string {
	want, err := netip.ParseAddr(ip)
	if err != nil {
		return ""
	}
	for _, n := range s.Nodes() {
		if addresses, err := s.Lab.Addresses(n); err == nil && slices.Contains(addresses, want) {
			return n
		}
	}
	return ""
}

// Gap is what a client saw that sent requests all the time.
type Gap struct {
	Asked, Failed int
	// Broken is how many of the failed requests were connected, and reset before the answer, as
	// happens to connections that are open while an address moves.
	Broken int
	// Longest is the longest time between two answers.
	Longest time.Duration
	// Errors holds the first few errors.
	Errors []string
}

// Probe requests http://address/ from a host periodically, each time on a new connection with the
// given timeout, until Stop is called.
type Probe struct {
	cancel context.CancelFunc
	done   chan Gap
}

// StartProbe starts a Probe. With fresh, the host's neighbor caches are flushed before each
// request.
func (s *Stage) StartProbe(
	ctx context.Context,
	host string,
	address netip.Addr,
	every, timeout time.Duration,
	fresh bool,
) *Probe {
	ctx, cancel := context.WithCancel(ctx)
	p := &Probe{cancel: cancel, done: make(chan Gap, 1)}
	go func() { p.done <- s.probe(ctx, host, address, every, timeout, fresh) }()
	return p
}

// Stop ends the probe and returns what it saw.
func (p *Probe) Stop() Gap {
	p.cancel()
	return <-p.done
}

func (s *Stage) probe(
	ctx context.Context,
	host string,
	address netip.Addr,
	every, timeout time.Duration,
	fresh bool,
) Gap {
	var gap Gap
	c := s.HTTPClient(host)
	tick := time.NewTicker(every)
	defer tick.Stop()
	last := time.Now()
	for ctx.Err() == nil {
		if fresh {
			if err := s.FlushNeighbors(host); err != nil {
				gap.Errors = append(gap.Errors, err.Error())
			}
		}
		one, cancel := context.WithTimeout(ctx, timeout)
		_, err := ask(one, c, address)
		cancel()
		if ctx.Err() != nil && errors.Is(err, context.Canceled) {
			break // ended, not failed
		}
		gap.Asked++
		now := time.Now()
		if err != nil {
			gap.Failed++
			if broken(err) {
				gap.Broken++
			}
			if len(gap.Errors) < 5 {
				gap.Errors = append(gap.Errors, err.Error())
			}
		} else {
			gap.Longest = max(gap.Longest, now.Sub(last))
			last = now
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
	gap.Longest = max(gap.Longest, time.Since(last))
	return gap
}

// broken reports whether a connection was established and lost. One that only went silent does not
// count.
func broken(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

func (g Gap) String() string {
	s := fmt.Sprintf(
		"%d requests, %d failed (%d of them broken when connected), longest time without an answer %s", g.Asked,
		g.Failed, g.Broken, g.Longest.Round(time.Millisecond),
	)
	if len(g.Errors) > 0 {
		s += ": " + strings.Join(g.Errors, "; ")
	}
	return s
}
