//go:build vm

package ipvs_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	lib "github.com/cloudflare/ipvs"
	"github.com/cloudflare/ipvs/netmask"

	"github.com/berth-lb/berth/speaker/dataplane/ipvs"
)

// raw is the kernel's table of the director, by the library alone.
func (s *site) raw(t testing.TB) lib.Client {
	t.Helper()
	c, err := in(s.director, lib.New)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func identity(f ipvs.Frontend) lib.Service {
	v := lib.Service{Address: f.Address, Port: f.Port, Protocol: lib.Protocol(f.Protocol), Family: lib.INET6}
	if f.Address.Is4() {
		v.Family = lib.INET
	}
	return v
}

// list returns the kernel's real servers of a frontend with their weights, in its order.
func list(t testing.TB, c lib.Client, f ipvs.Frontend) []string {
	t.Helper()
	found, err := c.Destinations(identity(f))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	var all []string
	for _, d := range found {
		all = append(all, fmt.Sprintf("%s*%d", d.Address, d.Weight))
	}
	return all
}

func names(t testing.TB, c lib.Client) []string {
	t.Helper()
	found, err := c.Services()
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	var all []string
	for _, s := range found {
		name := fmt.Sprintf("%s:%d", s.Address, s.Port)
		if s.FWMark != 0 {
			name = fmt.Sprintf("mark %d", s.FWMark)
		}
		all = append(all, name)
	}
	slices.Sort(all)
	return all
}

func TestDriftIsRepairedWithinSeconds(t *testing.T) {
	s := newSite(t)
	s.serve(t)
	tcp, mh, six := frontend(ipvs.TCP, service4, 80), frontend(ipvs.TCP, service4, 81), frontend(ipvs.TCP, service6, 80)
	hashed := simple("mh", real(4, false))
	hashed.Flags = ipvs.HashPort
	hashed.PersistenceTimeout = time.Hour
	table := ipvs.Table{tcp: simple("wrr", real(3, false)), mh: hashed, six: simple("rr", real(2, true))}
	s.direct(t, table)
	c := s.raw(t)
	destination := func(i int, weight uint32) lib.Destination {
		return lib.Destination{Address: server(i, false).Addr(), Port: 8080, Family: lib.INET, Weight: weight}
	}
	whole := func(f ipvs.Frontend, scheduler string) lib.Service {
		v := identity(f)
		v.Scheduler, v.Netmask = scheduler, netmask.MaskFrom(32, 32)
		return v
	}
	run := func(args ...string) func() error {
		return func() error { s.director.run(t, "", args[0], args[1:]...); return nil }
	}
	for name, drift := range map[string]func() error{
		"all virtual servers deleted": func() error {
			return errors.Join(c.RemoveService(identity(tcp)), c.RemoveService(identity(mh)), c.RemoveService(identity(six)))
		},
		"scheduler":        func() error { return c.UpdateService(whole(tcp, "lc")) },
		"persistence gone": func() error { return c.UpdateService(whole(mh, "mh")) },
		"weight":           func() error { return c.UpdateDestination(identity(tcp), destination(0, 9)) },
		"forwarding method": func() error {
			d := destination(0, 1)
			d.FwdMethod = lib.DirectRoute
			return c.UpdateDestination(identity(tcp), d)
		},
		"threshold": func() error {
			d := destination(0, 1)
			d.UpperThreshold = 7
			return c.UpdateDestination(identity(tcp), d)
		},
		"real server gone": func() error { return c.RemoveDestination(identity(tcp), destination(1, 1)) },
		"real server more": func() error { return c.CreateDestination(identity(tcp), destination(4, 1)) },
		"order": func() error {
			return errors.Join(
				c.RemoveDestination(identity(mh), destination(2, 1)), c.CreateDestination(identity(mh), destination(2, 1)),
			)
		},
		"virtual server more": func() error { return c.CreateService(whole(frontend(ipvs.UDP, service4, 5), "rr")) },
		"routes deleted":      run("ip", "route", "flush", "table", fmt.Sprint(ipvs.RoutingTable)),
		"rules deleted":       run("ip", "rule", "del", "pref", fmt.Sprint(ipvs.RulePriority)),
		"sysctl":              run("sysctl", "-qw", "net.ipv4.vs.expire_nodest_conn=1"),
	} {
		before := s.state(t)
		if err := drift(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if s.state(t) == before {
			t.Errorf("%s: nothing changed, so nothing is tested", name)
		}
		start := time.Now()
		eventually(t, 5*time.Second, func() error {
			if now := s.state(t); now != before {
				return fmt.Errorf("%s: now\n%s\nbefore\n%s", name, now, before)
			}
			return nil
		})
		t.Logf("%s: repaired after %s", name, time.Since(start).Round(10*time.Millisecond))
	}
}

// state is all that the driver writes, as the kernel shows it, without what connections add.
func (s *site) state(t testing.TB) string {
	t.Helper()
	c := s.raw(t)
	var all []string
	found, err := c.Services()
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	slices.SortFunc(found, func(a, b lib.ServiceExtended) int {
		return strings.Compare(fmt.Sprint(a.Service), fmt.Sprint(b.Service))
	})
	for _, v := range found {
		all = append(all, fmt.Sprint(v.Service))
		real, err := c.Destinations(v.Service)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		var servers []string
		for _, d := range real {
			servers = append(servers, fmt.Sprint(d.Destination))
		}
		if v.Scheduler != "mh" {
			slices.Sort(servers)
		}
		all = append(all, servers...)
	}
	if v, ok := c.(interface{ Close() error }); ok {
		v.Close()
	}
	if len(all) == 0 {
		all = []string{"empty"}
	}
	services := strings.Join(all, "\n")
	for _, args := range []string{
		"ip route show table all proto 72", "ip -6 route show table all proto 72", "ip rule", "ip -6 rule",
		"sysctl net.ipv4.vs.expire_nodest_conn",
	} {
		words := strings.Fields(args)
		out := strings.Split(s.director.run(t, "", words[0], words[1:]...), "\n")
		slices.Sort(out)
		services += "\n" + strings.Join(out, "\n")
	}
	return services
}

func TestAnotherProcessTakesOver(t *testing.T) {
	s := newSite(t)
	s.serve(t)
	kept, dropped := frontend(ipvs.TCP, service4, 80), frontend(ipvs.TCP, "192.0.2.11", 80)
	six, udp := frontend(ipvs.TCP, service6, 80), frontend(ipvs.UDP, service4, 53)
	table := ipvs.Table{
		kept: simple("mh", real(5, false)), dropped: simple("rr", real(2, false)),
		six: simple("wlc", real(3, true)), udp: simple("rr", real(2, false)),
	}
	kill := s.spawn(t, table)
	var connections []net.Conn
	var servers []string
	for _, f := range []ipvs.Frontend{kept, six, udp} {
		c, name, err := s.dial(strings.ToLower(f.Protocol.String()), target(f), 0)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		connections, servers = append(connections, c), append(servers, name)
	}
	busy := make(chan error, len(connections))
	for i, c := range connections {
		go func() { busy <- exchange(c, c.LocalAddr().Network(), servers[i]) }()
	}
	kill() // SIGKILL
	delete(table, dropped)
	foreign := identity(frontend(ipvs.TCP, "203.0.113.1", 80))
	foreign.Scheduler, foreign.Netmask = "rr", netmask.MaskFrom(32, 32)
	if err := s.raw(t).CreateService(foreign); err != nil {
		t.Fatal(err)
	}
	s.spawn(t, table)
	for range connections {
		if err := <-busy; err != nil {
			t.Errorf("a connection during the restart: %v", err)
		}
	}
	for i, c := range connections {
		if err := exchange(c, c.LocalAddr().Network(), servers[i]); err != nil {
			t.Errorf("a connection after the restart: %v", err)
		}
	}
	eventually(t, patience, func() error {
		if now := names(t, s.raw(t)); slices.Contains(now, target(dropped)) || !slices.Contains(now, "203.0.113.1:80") {
			return fmt.Errorf("virtual servers %v", now)
		}
		if now := s.director.run(t, "", "ip", "route", "show", "table", fmt.Sprint(ipvs.RoutingTable)); strings.Contains(
			now,
			dropped.Address.String(),
		) {
			return fmt.Errorf("routes %s", now)
		}
		return nil
	})
}

// Another program empties IPVS, as kube-proxy does when it starts. Connections wait until the table
// is restored, and new ones are answered then.
func TestConnectionsSurviveFlush(t *testing.T) {
	s := newSite(t)
	s.serve(t)
	f, six := frontend(ipvs.TCP, service4, 80), frontend(ipvs.TCP, service6, 80)
	s.direct(t, ipvs.Table{f: simple("rr", real(3, false)), six: simple("mh", real(3, true))})
	type held struct {
		c    net.Conn
		name string
	}
	var connections []held
	for _, to := range []ipvs.Frontend{f, f, six, six} {
		c, name, err := s.dial("tcp", target(to), 0)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		connections = append(connections, held{c, name})
	}
	// What comes while the kernel has no virtual server of the family goes on to the node's own TCP,
	// which sends a reset from an IPv6 address alone; nftables, which this kernel has not, keep it
	// from there.
	busy := make(chan error)
	for _, h := range connections[:2] {
		go func() { busy <- exchange(h.c, "tcp", h.name) }()
	}
	raw := s.raw(t)
	for range 3 {
		if err := errors.Join(raw.RemoveService(identity(f)), raw.RemoveService(identity(six))); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		eventually(t, 5*time.Second, func() error {
			if now := names(t, raw); len(now) != 2 {
				return fmt.Errorf("virtual servers %v", now)
			}
			return nil
		})
		t.Logf("back after %s", time.Since(start).Round(10*time.Millisecond))
	}
	for range connections[:2] {
		if err := <-busy; err != nil {
			t.Errorf("a connection whose virtual server was away for a moment: %v", err)
		}
	}
	for _, h := range connections {
		if err := exchange(h.c, "tcp", h.name); err != nil {
			t.Errorf("a connection when all was back: %v", err)
		}
	}
}

func TestWhatIsForeignStays(t *testing.T) {
	s := newSite(t)
	c := s.raw(t)
	mark := lib.Service{FWMark: 7, Family: lib.INET, Scheduler: "rr", Netmask: netmask.MaskFrom(32, 32)}
	other := identity(frontend(ipvs.TCP, "203.0.113.1", 80))
	other.Scheduler, other.Netmask = "lc", netmask.MaskFrom(24, 32)
	d := lib.Destination{Address: server(0, false).Addr(), Port: 1, Family: lib.INET, Weight: 3, FwdMethod: lib.Tunnel}
	if err := errors.Join(c.CreateService(mark), c.CreateService(other), c.CreateDestination(other, d)); err != nil {
		t.Fatal(err)
	}
	s.director.run(t, "", "ip", "rule", "add", "pref", "487", "fwmark", "9", "lookup", "9")
	before := s.state(t)
	f, six := frontend(ipvs.TCP, service4, 80), frontend(ipvs.SCTP, service6, 80)
	driver, stop := s.direct(t, ipvs.Table{f: simple("rr", real(2, false)), six: simple("rr", real(2, true))})
	if got, want := names(t, c), []string{"192.0.2.10:80", "203.0.113.1:80", "fd02::10:80", "mark 7"}; !slices.Equal(
		got,
		want,
	) {
		t.Errorf("virtual servers %v, want %v", got, want)
	}
	stop()
	if _, err := in(s.director, func() (struct{}, error) { return struct{}{}, driver.Remove() }); err != nil {
		t.Fatal(err)
	}
	after := strings.ReplaceAll(s.state(t), "expire_nodest_conn = 1", "expire_nodest_conn = 0")
	if after != before {
		t.Errorf("after Remove:\n%s\nwant as it was:\n%s", after, before)
	}
}

// Two directors that came to the same real servers in different ways send a client's port to the
// same one.
func TestMaglevIgnoresHistory(t *testing.T) {
	const seed = 6
	random := rand.New(rand.NewPCG(seed, seed))
	for _, scheduler := range []string{"mh", "sh"} {
		t.Run(scheduler, func(t *testing.T) {
			f, f6 := frontend(ipvs.TCP, service4, 80), frontend(ipvs.TCP, service6, 80)
			final := func(v6 bool) ipvs.VirtualServer {
				servers := real(5, v6)
				servers[1].Weight, servers[3].Weight = 2, 3
				v := simple(scheduler, servers)
				v.Flags = ipvs.HashPort
				return v
			}
			var chosen [2]map[string]string
			for director := range chosen {
				s := newSite(t)
				s.serve(t)
				history := func() ipvs.Table {
					table := ipvs.Table{f: final(false), f6: final(true)}
					for at, v := range table {
						v.RealServers = slices.Clone(v.RealServers)
						random.Shuffle(len(v.RealServers), func(i, j int) {
							v.RealServers[i], v.RealServers[j] = v.RealServers[j], v.RealServers[i]
						})
						v.RealServers = v.RealServers[:1+random.IntN(4)]
						table[at] = v
					}
					return table
				}
				d, _ := s.direct(t, history())
				for range 5 {
					apply(t, d, history())
				}
				apply(t, d, ipvs.Table{f: final(false), f6: final(true)})
				got, want := list(t, s.raw(t), f), []string{
					"10.1.0.11*1",
					"10.1.0.12*2",
					"10.1.0.13*1",
					"10.1.0.14*3",
					"10.1.0.15*1",
				}
				if !slices.Equal(got, want) {
					t.Fatalf("the list is %v, want %v", got, want)
				}
				chosen[director] = map[string]string{}
				for port := 20000; port < 20100; port++ {
					for _, at := range []ipvs.Frontend{f, f6} {
						c, name, err := s.dial("tcp", target(at), port)
						if err != nil {
							t.Fatal(err)
						}
						c.Close()
						chosen[director][fmt.Sprint(at, port)] = name
					}
				}
			}
			for connection, name := range chosen[0] {
				if other := chosen[1][connection]; other != name {
					t.Errorf("%s: the directors chose %s and %s", connection, name, other)
				}
			}
			used := map[string]bool{}
			for _, name := range chosen[0] {
				used[name] = true
			}
			if len(used) < 8 {
				t.Errorf("all connections went to %v", used)
			}
		})
	}
}

// Servers that are moved to their place in the list are missing for a moment. Their connections
// continue.
func TestMovedServersKeepTheirConnections(t *testing.T) {
	s := newSite(t)
	s.serve(t)
	f := frontend(ipvs.TCP, service4, 80)
	some := func(servers []ipvs.RealServer) ipvs.Table {
		v := simple("mh", servers)
		v.Flags = ipvs.HashPort
		return ipvs.Table{f: v}
	}
	all := real(5, false)
	d, _ := s.direct(t, some(all[:4]))
	type held struct {
		c    net.Conn
		name string
	}
	var connections []held
	for range 8 {
		c, name, err := s.dial("tcp", target(f), 0)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		connections = append(connections, held{c, name})
	}
	busy := make(chan error)
	for _, h := range connections {
		go func() { busy <- exchange(h.c, "tcp", h.name) }()
	}
	for range 5 { // the last of the list comes and goes: each time it comes, all others are moved
		apply(t, d, some(all))
		apply(t, d, some(all[:4]))
	}
	for range connections {
		if err := <-busy; err != nil {
			t.Errorf("a connection whose server was moved: %v", err)
		}
	}
}

func TestStatistics(t *testing.T) {
	s := newSite(t)
	s.serve(t)
	f := frontend(ipvs.TCP, service4, 80)
	servers := real(2, false)
	servers[0].Weight = 70000 // more than 16 bits
	d, _ := s.direct(t, ipvs.Table{f: simple("rr", servers)})
	s.ask(t, "tcp", target(f), 10, true)
	eventually(t, patience, func() error {
		all, err := in(s.director, d.Statistics)
		if err != nil {
			t.Fatal(err)
		}
		if len(all) != 1 || all[0].Frontend != f || len(all[0].RealServers) != 2 {
			t.Fatalf("statistics %+v", all)
		}
		v := all[0]
		if v.Connections != 10 || v.PacketsIn < 20 || v.PacketsOut < 20 || v.BytesIn == 0 || v.BytesOut == 0 {
			return fmt.Errorf("statistics %+v", v)
		}
		for _, r := range v.RealServers {
			if r.Connections != 5 || r.Active != 5 || r.Address == server(0, false).Addr() && r.Weight != 70000 {
				return fmt.Errorf("statistics %+v", r)
			}
		}
		return nil
	})
}

// A pod in the host's network has the host's own address.
func TestRealServerOnDirector(t *testing.T) {
	s := newSite(t)
	l, err := in(s.director, func() (net.Listener, error) { return net.Listen("tcp", "10.1.0.1:8080") })
	if err != nil {
		t.Fatal(err)
	}
	go serveTCP(l, "director")
	t.Cleanup(func() { l.Close() })
	f := frontend(ipvs.TCP, service4, 80)
	table := ipvs.Table{
		f: simple("rr", []ipvs.RealServer{{Address: netip.MustParseAddr("10.1.0.1"), Port: 8080, Weight: 1}}),
	}
	d, _ := s.direct(t, table)
	if got := s.ask(t, "tcp", target(f), 2, false); got["director"] != 2 {
		t.Errorf("served by %v", got)
	}
	if err := d.Serves(f); err != nil {
		t.Error(err)
	}
}
