//go:build vm

package ipvs_test

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-lb/berth/speaker/dataplane/ipvs"
)

// Programs of the node's own network, with endpoints whose replies come back to the node.
func TestDirectorAsClient(t *testing.T) {
	s := newSite(t)
	s.serve(t)
	four, six := frontend(ipvs.TCP, service4, 80), frontend(ipvs.TCP, service6, 80)
	d, _ := s.direct(t, ipvs.Table{four: simple("rr", real(2, false)), six: simple("rr", real(2, true))})
	itself := &site{client: s.director}
	served := func(when string) {
		t.Helper()
		for _, f := range []ipvs.Frontend{four, six} {
			if got := itself.ask(t, "tcp", target(f), 4, false); len(got) != 2 {
				t.Errorf("%s: %s: served by %v", when, f, got)
			}
		}
	}
	served("at first")
	s.director.run(t, "", "sh", "-ec", `ip addr del 10.0.0.1/24 dev clients; ip -6 addr del fd00::1/64 dev clients
ip addr add 10.0.0.9/24 dev clients; ip -6 addr add fd00::9/64 dev clients nodad`)
	d.SetSources([]netip.Addr{netip.MustParseAddr("10.0.0.9"), netip.MustParseAddr("fd00::9")})
	eventually(t, patience, func() error {
		routes := s.director.run(t, "", "sh", "-c", "ip route show table 48679; ip -6 route show table 48679")
		if !strings.Contains(routes, "src 10.0.0.9") || !strings.Contains(routes, "src fd00::9") {
			return fmt.Errorf("routes %q", routes)
		}
		return nil
	})
	served("after the node's addresses have changed")
}

func TestSCTP(t *testing.T) {
	s := newSite(t)
	for i := range 2 {
		l, err := in(s.backends, func() (int, error) { return sctpListen(server(i, false)) })
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(l) })
		go func() {
			for {
				c, _, err := unix.Accept(l)
				if err != nil {
					return
				}
				_, _ = unix.Write(c, []byte(server(i, false).Addr().String()))
				unix.Close(c)
			}
		}()
		t.Cleanup(func() { _ = unix.Shutdown(l, unix.SHUT_RDWR) })
	}
	f := frontend(ipvs.SCTP, service4, 80)
	s.direct(t, ipvs.Table{f: simple("rr", real(2, false))})
	got := map[string]int{}
	for range 4 {
		name, err := in(s.client, func() (string, error) { return sctpAsk(netip.AddrPortFrom(f.Address, f.Port)) })
		if err != nil {
			t.Fatal(err)
		}
		got[name]++
	}
	if len(got) != 2 {
		t.Errorf("served by %v", got)
	}
}

func sctpSocket() (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_SCTP)
	if err != nil {
		return 0, fmt.Errorf("SCTP socket: %w", err)
	}
	limit := unix.NsecToTimeval(patience.Nanoseconds())
	for _, o := range []int{unix.SO_RCVTIMEO, unix.SO_SNDTIMEO} { // a connect is bounded by the latter
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, o, &limit); err != nil {
			return 0, err
		}
	}
	return fd, nil
}

func sctpListen(at netip.AddrPort) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_SCTP)
	if err != nil {
		return 0, fmt.Errorf("SCTP socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: at.Addr().As4(), Port: int(at.Port())}); err != nil {
		return 0, err
	}
	return fd, unix.Listen(fd, 8)
}

func sctpAsk(to netip.AddrPort) (string, error) {
	fd, err := sctpSocket()
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())}); err != nil {
		return "", fmt.Errorf("connect to %s: %w", to, err)
	}
	name := make([]byte, 64)
	n, err := unix.Read(fd, name)
	return string(name[:max(n, 0)]), err
}

// Packets with a mark have a virtual server of their own, which comes before that of the address.
func TestByMark(t *testing.T) {
	s := newSite(t)
	s.serve(t)
	for _, address := range []string{service4, service6} {
		f := frontend(ipvs.TCP, address, 81)
		marked := ipvs.Marked(ipvs.Marks|7, f.Address)
		servers := real(3, f.Address.Is6())
		table := ipvs.Table{f: simple("rr", servers[:1]), marked: simple("rr", servers[1:])}
		_, stop := s.direct(t, table)
		for range 4 {
			if name := s.askMarked(t, target(f), marked.Mark); name != servers[1].Address.String() &&
				name != servers[2].Address.String() {
				t.Errorf("%s: marked packets went to %s", f, name)
			}
			if name := s.askMarked(t, target(f), 0); name != servers[0].Address.String() {
				t.Errorf("%s: others went to %s", f, name)
			}
		}
		// Another driver takes over what it finds, and removes what is no longer desired.
		stop()
		taken, end := s.direct(t, ipvs.Table{f: simple("rr", servers[:1])})
		shown(t, taken.Driver, ipvs.Table{f: simple("rr", servers[:1])})
		if name := s.askMarked(t, target(f), marked.Mark); name != servers[0].Address.String() {
			t.Errorf("%s: with the virtual server by mark gone, marked packets went to %s", f, name)
		}
		end()
	}
}

// askMarked connects from the director itself, whose packets are marked.
func (s *site) askMarked(t testing.TB, to string, mark uint32) string {
	t.Helper()
	name, err := in(s.director, func() (string, error) {
		d := net.Dialer{Timeout: patience, Control: func(_, _ string, c syscall.RawConn) error {
			var failed error
			err := c.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, int(mark)) })
			return errors.Join(err, failed)
		}}
		c, err := d.Dial("tcp", to)
		if err != nil {
			return "", err
		}
		defer c.Close()
		return bufio.NewReader(c).ReadString('\n')
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(name)
}
