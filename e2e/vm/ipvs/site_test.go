//go:build vm

// Package ipvs_test runs Berth's IPVS data plane on a kernel that has IPVS: go test -tags vm -exec
// .cache/bin/vm-exec ./vm/ipvs
package ipvs_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os/exec"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netns"

	"github.com/berth-lb/berth/speaker/dataplane/ipvs"
)

// A site is a client, a director and backends behind it, each in a network namespace:
//
//	client 10.0.0.2, fd00::2 ── 10.0.0.1 director 10.1.0.1 ── backends 10.1.0.11…, fd01::11…
//
// Replies come back through the director. The client's way to 192.0.2.0/24 and fd02::/64 is the
// director.
type site struct {
	client, director, backends *space
}

const (
	service4  = "192.0.2.10"
	service6  = "fd02::10"
	onSegment = "10.0.0.100" // an address of the client's own subnet
	backendN  = 5
)

func newSite(t testing.TB) *site {
	t.Helper()
	s := &site{newSpace(t), newSpace(t), newSpace(t)}
	// Without a link-local address, which duplicate address detection delays, IPv6 is not forwarded.
	s.director.run(t, "", "sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0")
	s.client.move(t, "eth0", s.director, "clients")
	s.backends.move(t, "eth0", s.director, "pods")
	ip := func(in *space, lines ...string) {
		t.Helper()
		in.run(t, strings.Join(lines, "\n"), "ip", "-batch", "-")
	}
	ip(s.director, "link set lo up", "link set clients up", "link set pods up",
		"addr add 10.0.0.1/24 dev clients", "addr add fd00::1/64 dev clients nodad",
		"addr add 10.1.0.1/24 dev pods", "addr add fd01::1/64 dev pods nodad")
	ip(s.client, "link set lo up", "link set eth0 up",
		"addr add 10.0.0.2/24 dev eth0", "addr add fd00::2/64 dev eth0 nodad",
		"route add 192.0.2.0/24 via 10.0.0.1", "route add fd02::/64 via fd00::1")
	lines := []string{"link set lo up", "link set eth0 up"}
	for i := range backendN {
		lines = append(
			lines, fmt.Sprintf("addr add 10.1.0.%d/24 dev eth0", 11+i),
			fmt.Sprintf("addr add fd01::%d/64 dev eth0 nodad", 11+i),
		)
	}
	ip(s.backends, append(lines, "route add default via 10.1.0.1", "route add default via fd01::1")...)
	s.director.run(t, "", "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
	return s
}

// space is a network namespace, and a thread in it.
type space struct {
	handle netns.NsHandle
	tasks  chan func()
}

func newSpace(t testing.TB) *space {
	t.Helper()
	s := &space{tasks: make(chan func())}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		var err error
		s.handle, err = netns.New()
		ready <- err
		for task := range s.tasks {
			task()
		}
	}()
	if err := <-ready; err != nil {
		t.Fatalf("make a network namespace: %v", err)
	}
	t.Cleanup(func() { close(s.tasks); s.handle.Close() })
	return s
}

// in runs f on the space's thread. Sockets that it makes stay in the space.
func in[T any](s *space, f func() (T, error)) (T, error) {
	var v T
	var err error
	done := make(chan struct{})
	s.tasks <- func() { defer close(done); v, err = f() }
	<-done
	return v, err
}

// start runs f on a thread of its own in the space.
func (s *space) start(f func()) {
	go func() {
		runtime.LockOSThread()
		if err := netns.Set(s.handle); err != nil {
			panic(err)
		}
		f()
	}()
}

func (s *space) run(t testing.TB, stdin, name string, args ...string) string {
	t.Helper()
	out, err := in(s, func() ([]byte, error) {
		cmd := exec.Command(name, args...)
		cmd.Stdin = strings.NewReader(stdin)
		return cmd.CombinedOutput()
	})
	if err != nil {
		t.Fatalf("%s %s: %v: %s\n%s", name, strings.Join(args, " "), err, out, stdin)
	}
	return string(out)
}

// move makes a pair of links, one end here and one in the other space.
func (s *space) move(t testing.TB, here string, other *space, there string) {
	t.Helper()
	pid := make(chan string)
	release := make(chan struct{})
	other.start(func() { pid <- fmt.Sprintf("/proc/self/task/%d/ns/net", gettid()); <-release })
	path := <-pid
	defer close(release)
	s.run(t, "", "ip", "link", "add", here, "type", "veth", "peer", "name", there)
	if _, err := in(s, func() (struct{}, error) { return struct{}{}, moveLink(there, path) }); err != nil {
		t.Fatalf("move %s: %v", there, err)
	}
}

func server(i int, v6 bool) netip.AddrPort {
	if v6 {
		return netip.MustParseAddrPort(fmt.Sprintf("[fd01::%d]:8080", 11+i))
	}
	return netip.MustParseAddrPort(fmt.Sprintf("10.1.0.%d:8080", 11+i))
}

// real returns the first n servers with weight 1.
func real(n int, v6 bool) []ipvs.RealServer {
	var all []ipvs.RealServer
	for i := range n {
		a := server(i, v6)
		all = append(all, ipvs.RealServer{Address: a.Addr(), Port: a.Port(), Weight: 1})
	}
	return all
}

// serve starts all servers: TCP ones say who they are and echo then, UDP ones answer each packet
// with who they are.
func (s *site) serve(t testing.TB) {
	t.Helper()
	for i := range 2 * backendN {
		at := server(i%backendN, i >= backendN)
		l, err := in(s.backends, func() (net.Listener, error) { return net.Listen("tcp", at.String()) })
		if err != nil {
			t.Fatal(err)
		}
		u, err := in(s.backends, func() (net.PacketConn, error) { return net.ListenPacket("udp", at.String()) })
		if err != nil {
			t.Fatal(err)
		}
		var running sync.WaitGroup
		running.Go(func() { serveTCP(l, at.Addr().String()) })
		running.Go(func() { serveUDP(u, at.Addr().String()) })
		t.Cleanup(func() { l.Close(); u.Close(); running.Wait() })
	}
}

func serveTCP(l net.Listener, name string) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			if _, err := io.WriteString(c, name+"\n"); err == nil {
				_, _ = io.Copy(c, c)
			}
		}()
	}
}

func serveUDP(u net.PacketConn, name string) {
	buffer := make([]byte, 2048)
	for {
		_, from, err := u.ReadFrom(buffer)
		if err != nil {
			return
		}
		_, _ = u.WriteTo([]byte(name+"\n"), from)
	}
}

const patience = 10 * time.Second

// dial connects from the client; port 0 is any.
func (s *site) dial(network, to string, port int) (net.Conn, string, error) {
	c, err := in(s.client, func() (net.Conn, error) {
		d := net.Dialer{Timeout: patience, Control: reuse}
		switch network {
		case "tcp":
			d.LocalAddr = &net.TCPAddr{Port: port}
		case "udp":
			d.LocalAddr = &net.UDPAddr{Port: port}
		}
		return d.Dial(network, to)
	})
	if err != nil {
		return nil, "", err
	}
	if err := c.SetDeadline(time.Now().Add(6 * patience)); err != nil {
		return nil, "", err
	}
	if network == "udp" {
		if _, err := c.Write([]byte("who?")); err != nil {
			c.Close()
			return nil, "", err
		}
	}
	var name strings.Builder
	one := make([]byte, 256)
	if network == "tcp" {
		one = one[:1]
	}
	for !strings.HasSuffix(name.String(), "\n") {
		n, err := c.Read(one)
		if err != nil {
			c.Close()
			return nil, "", fmt.Errorf("read the server's name: %w", err)
		}
		name.Write(one[:n])
	}
	return c, strings.TrimSpace(name.String()), nil
}

// ask makes n connections, one after the other, and counts who served them. Those that hold are
// kept open.
func (s *site) ask(t testing.TB, network, to string, n int, hold bool) map[string]int {
	t.Helper()
	served := map[string]int{}
	for range n {
		c, name, err := s.dial(network, to, 0)
		if err != nil {
			t.Fatalf("after %v: %v", served, err)
		}
		served[name]++
		if hold {
			t.Cleanup(func() { c.Close() })
		} else {
			c.Close()
		}
	}
	return served
}

// direct runs a driver in the director, and waits until the kernel shows the table.
func (s *site) direct(t testing.TB, table ipvs.Table) (*running, context.CancelFunc) {
	t.Helper()
	d := ipvs.New(ipvs.Config{
		Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	d.SetSources([]netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")})
	d.Sync("test", table)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	s.director.start(func() {
		defer close(done)
		if err := d.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	stop := func() { cancel(); <-done }
	t.Cleanup(stop)
	shown(t, d, table)
	return &running{d, "test", table}, stop
}

// running is a driver and what it was told last of one group.
type running struct {
	*ipvs.Driver
	group string
	table ipvs.Table
}

// apply replaces the table and waits until the kernel shows it.
func apply(t testing.TB, d *running, table ipvs.Table) {
	t.Helper()
	for len(d.Observed()) > 0 {
		<-d.Observed()
	}
	waiting := map[ipvs.Frontend]bool{}
	for f, v := range table {
		old, had := d.table[f]
		waiting[f] = !had || !reflect.DeepEqual(old, v)
	}
	for f := range d.table {
		if _, still := table[f]; !still {
			waiting[f] = true
		}
	}
	maps.DeleteFunc(waiting, func(_ ipvs.Frontend, changed bool) bool { return !changed })
	d.Sync(d.group, table)
	d.table = table
	limit := time.After(6 * patience)
	for len(waiting) > 0 {
		select {
		case o := <-d.Observed():
			if o.Err != nil {
				t.Fatalf("%s: %v", o.Frontend, o.Err)
			}
			delete(waiting, o.Frontend)
		case <-limit:
			t.Fatalf("not seen in the kernel: %v", waiting)
		}
	}
}

func shown(t testing.TB, d *ipvs.Driver, table ipvs.Table) {
	t.Helper()
	eventually(t, 6*patience, func() error {
		var problems []error
		for f := range table {
			problems = append(problems, d.Serves(f))
		}
		return errors.Join(append(problems, d.Err())...)
	})
}

func eventually(t testing.TB, limit time.Duration, f func() error) {
	t.Helper()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	end := time.After(limit)
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-ticker.C:
		case <-end:
			t.Fatalf("after %s: %v", limit, err)
		}
	}
}

func frontend(p ipvs.Protocol, address string, port uint16) ipvs.Frontend {
	return ipvs.Frontend{Address: netip.MustParseAddr(address), Port: port, Protocol: p}
}

func target(f ipvs.Frontend) string { return netip.AddrPortFrom(f.Address, f.Port).String() }

func simple(scheduler string, servers []ipvs.RealServer) ipvs.VirtualServer {
	return ipvs.VirtualServer{Settings: ipvs.Settings{Scheduler: scheduler}, RealServers: servers}
}
