//go:build vm

package ipvs_test

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/berth-lb/berth/speaker/dataplane/ipvs"
)

func TestConnectionsAreForwarded(t *testing.T) {
	s := newSite(t)
	s.serve(t)
	table := ipvs.Table{}
	for _, p := range []ipvs.Protocol{ipvs.TCP, ipvs.UDP} {
		table[frontend(p, service4, 80)] = simple("rr", real(3, false))
		table[frontend(p, service6, 80)] = simple("rr", real(3, true))
	}
	s.direct(t, table)
	for f := range table {
		if served := s.ask(t, strings.ToLower(f.Protocol.String()), target(f), 9, false); len(served) != 3 {
			t.Errorf("%s: 9 connections by rr went to %v", f, served)
		}
	}
}

func TestKernelAnswersNoARPOrNDP(t *testing.T) {
	s := newSite(t)
	s.serve(t)
	const onSegment6 = "fd00::100"
	v4, v6 := frontend(ipvs.TCP, onSegment, 80), frontend(ipvs.TCP, onSegment6, 80)
	s.direct(t, ipvs.Table{v4: simple("rr", real(1, false)), v6: simple("rr", real(1, true))})
	for _, f := range []ipvs.Frontend{v4, v6} {
		if _, _, err := s.dial("tcp", target(f), 0); !errors.Is(err, syscall.EHOSTUNREACH) {
			t.Errorf("%s without a speaker: %v, want that the client finds no neighbor", f, err)
		}
	}
	// As the speaker's answer would.
	mac := strings.Fields(s.director.run(t, "", "ip", "-br", "link", "show", "clients"))[2]
	for _, f := range []ipvs.Frontend{v4, v6} {
		s.client.run(t, "", "ip", "neigh", "replace", f.Address.String(), "lladdr", mac, "dev", "eth0")
		c, _, err := s.dial("tcp", target(f), 0)
		if err != nil {
			t.Fatalf("%s with the neighbor known: %v", f, err)
		}
		c.Close()
	}
}

// The numbers follow from each scheduler's definition, with connections one after the other from
// one client.
func TestSchedulers(t *testing.T) {
	weigh := func(weights ...uint32) []ipvs.RealServer {
		all := real(len(weights), false)
		for i, w := range weights {
			all[i].Weight = w
		}
		return all
	}
	const a, b, c = "10.1.0.11", "10.1.0.12", "10.1.0.13"
	for _, test := range []struct {
		scheduler string
		flags     ipvs.Flags
		servers   []ipvs.RealServer
		hold      bool // connections stay open
		want      map[string]int
	}{
		{"rr", 0, weigh(1, 1, 1), false, map[string]int{a: 20, b: 20, c: 20}},
		{"rr", 0, weigh(5, 1, 0), false, map[string]int{a: 30, b: 30}}, // weight is nothing to rr, but for 0
		{"wrr", 0, weigh(3, 2, 1), false, map[string]int{a: 30, b: 20, c: 10}},
		{"lc", 0, weigh(3, 2, 1), true, map[string]int{a: 20, b: 20, c: 20}},
		{"wlc", 0, weigh(3, 2, 1), true, map[string]int{a: 30, b: 20, c: 10}},
		{"sed", 0, weigh(3, 2, 1), true, map[string]int{a: 31, b: 20, c: 9}}, // (n+1)/weight: the heaviest first
		{"nq", 0, weigh(3, 2, 1), true, map[string]int{a: 30, b: 20, c: 10}}, // who idles first, then as sed
		{"dh", 0, weigh(1, 1, 1), false, nil},                                // one service address, one server
		{"sh", 0, weigh(1, 1, 1), false, nil},                                // one client, one server
		{"mh", 0, weigh(1, 1, 1), false, nil},
	} {
		t.Run(fmt.Sprint(test.scheduler, test.flags), func(t *testing.T) {
			s := newSite(t)
			s.serve(t)
			f := frontend(ipvs.TCP, service4, 80)
			v := simple(test.scheduler, test.servers)
			v.Flags = test.flags
			s.direct(t, ipvs.Table{f: v})
			got := s.ask(t, "tcp", target(f), 60, test.hold)
			switch {
			case test.want == nil && len(got) != 1:
				t.Errorf("one client got %v, want one server", got)
			case test.want != nil:
				for name := range maps.Keys(test.want) {
					if d := got[name] - test.want[name]; d < -1 || d > 1 {
						t.Errorf("got %v, want %v (± 1)", got, test.want)
						break
					}
				}
				if len(got) != len(test.want) {
					t.Errorf("got %v, want %v", got, test.want)
				}
			}
		})
	}
}

func TestHashOfThePortSpreadsOneClient(t *testing.T) {
	for _, scheduler := range []string{"mh", "sh"} {
		t.Run(scheduler, func(t *testing.T) {
			s := newSite(t)
			s.serve(t)
			f := frontend(ipvs.TCP, service4, 80)
			v := simple(scheduler, real(3, false))
			v.Flags = ipvs.HashPort
			s.direct(t, ipvs.Table{f: v})
			for name, n := range s.ask(t, "tcp", target(f), 150, false) {
				if n < 20 || n > 90 {
					t.Errorf("%s got %d of 150", name, n)
				}
			}
		})
	}
}

func TestPersistence(t *testing.T) {
	s := newSite(t)
	s.serve(t)
	f := frontend(ipvs.TCP, service4, 80)
	v := simple("rr", real(3, false))
	v.PersistenceTimeout = 10800 * time.Second
	d, _ := s.direct(t, ipvs.Table{f: v})
	first := s.ask(t, "tcp", target(f), 20, false)
	if len(first) != 1 {
		t.Fatalf("one client went to %v, want one server", first)
	}
	// A server that drains keeps its client for established connections, not for new ones.
	var stuck string
	for stuck = range first {
	}
	drained := slices.Clone(v.RealServers)
	for i := range drained {
		drained[i].Draining = drained[i].Address.String() == stuck
	}
	v.RealServers = drained
	apply(t, d, ipvs.Table{f: v})
	if then := s.ask(t, "tcp", target(f), 20, false); len(then) != 1 || then[stuck] > 0 {
		t.Errorf("while %s drains its client went to %v, want one other", stuck, then)
	}
}

func TestADrainingServerLosesNothing(t *testing.T) {
	const hash = ipvs.HashPort | ipvs.Fallback
	for _, test := range []struct {
		network, scheduler string
		flags              ipvs.Flags
		v6                 bool
	}{
		{"tcp", "rr", 0, false}, {"tcp", "rr", 0, true}, {"udp", "rr", 0, false}, {"udp", "rr", 0, true},
		{"udp", "wrr", 0, false}, {"udp", "lc", 0, false}, {"udp", "wlc", 0, false}, {"udp", "sed", 0, false},
		{"udp", "nq", 0, false},
		{"udp", "sh", hash, false}, {"udp", "mh", hash, false}, {"tcp", "mh", hash, true},
	} {
		p, address := ipvs.TCP, service4
		if test.network == "udp" {
			p = ipvs.UDP
		}
		if test.v6 {
			address = service6
		}
		t.Run(fmt.Sprint(test.network, " ", address, " ", test.scheduler), func(t *testing.T) {
			s := newSite(t)
			s.serve(t)
			f := frontend(p, address, 80)
			servers := real(2, test.v6)
			to := func(servers []ipvs.RealServer) ipvs.Table {
				v := simple(test.scheduler, servers)
				v.Flags = test.flags
				return ipvs.Table{f: v}
			}
			d, _ := s.direct(t, to(servers))
			c, name, err := s.dial(test.network, target(f), 0)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			i := slices.IndexFunc(servers, func(r ipvs.RealServer) bool { return r.Address.String() == name })
			other := servers[1-i]
			draining := slices.Clone(servers)
			draining[i].Draining = true
			sent := make(chan error, 1)
			go func() { sent <- exchange(c, test.network, name) }()
			apply(t, d, to(draining))
			if got := s.ask(t, test.network, target(f), 10, false); got[name] > 0 {
				t.Errorf("new connections to the draining %s: %v", name, got)
			}
			if err := <-sent; err != nil {
				t.Errorf("an established connection, while its server drains: %v", err)
			}
			if err := exchange(c, test.network, name); err != nil {
				t.Errorf("an established connection, when its server drains: %v", err)
			}
			apply(t, d, to([]ipvs.RealServer{other}))
			eventually(t, patience, func() error {
				if all := s.director.run(t, "", "cat", "/proc/net/ip_vs_conn"); strings.Contains(all, connectionTo(servers[i])) {
					return fmt.Errorf("connections to the removed server:\n%s", all)
				}
				return nil
			})
			if test.network == "udp" {
				if err := exchange(c, test.network, other.Address.String()); err != nil {
					t.Errorf("a flow whose server is gone does not go on to the other: %v", err)
				}
				return
			}
			// The host answers packets of unknown connections. For IPv4 it sends no reset from an address
			// that is in none of its interfaces; that is left to nftables, which this kernel has not.
			err = exchange(c, test.network, name)
			if reset := errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE); test.v6 && !reset {
				t.Errorf("a connection whose server is gone: %v, want a reset", err)
			}
			if err == nil {
				t.Error("the removed server still answers")
			}
		})
	}
}

func TestADrainingServerOfDestinationHashHoldsNobodyUp(t *testing.T) {
	s := newSite(t)
	s.serve(t)
	f := frontend(ipvs.UDP, service4, 80)
	servers := real(3, false)
	d, _ := s.direct(t, ipvs.Table{f: simple("dh", servers)})
	for name := range s.ask(t, "udp", target(f), 1, false) {
		draining := slices.Clone(servers)
		i := slices.IndexFunc(draining, func(r ipvs.RealServer) bool { return r.Address.String() == name })
		draining[i].Draining = true
		apply(t, d, ipvs.Table{f: simple("dh", draining)})
		if got := s.ask(t, "udp", target(f), 5, false); len(got) != 1 || got[name] > 0 {
			t.Errorf("while %s drains its clients went to %v, want one other", name, got)
		}
	}
}

// connectionTo is how /proc/net/ip_vs_conn writes a real server.
func connectionTo(r ipvs.RealServer) string {
	if r.Address.Is4() {
		return fmt.Sprintf("%X %04X", r.Address.As4(), r.Port)
	}
	return fmt.Sprintf("%s %04X", r.Address.StringExpanded(), r.Port)
}

// exchange sends half a megabyte by TCP and has it echoed, or 200 packets by UDP that are answered
// by name.
func exchange(c net.Conn, network, name string) error {
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if network == "udp" {
		answer := make([]byte, 256)
		for range 200 {
			if _, err := c.Write([]byte("who?")); err != nil {
				return err
			}
			n, err := c.Read(answer)
			if err != nil {
				return err
			}
			if got := strings.TrimSpace(string(answer[:n])); got != name {
				return fmt.Errorf("%s answered", got)
			}
		}
		return nil
	}
	const size = 8 << 10
	out, back := make([]byte, size), make([]byte, size)
	for turn := range 64 {
		for i := range out {
			out[i] = byte(turn + i)
		}
		if _, err := c.Write(out); err != nil {
			return err
		}
		for n := 0; n < size; {
			m, err := c.Read(back[n:])
			if err != nil {
				return err
			}
			n += m
		}
		if !slices.Equal(out, back) {
			return errors.New("the echo is not what was sent")
		}
	}
	return nil
}
