package bgp

import (
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"
)

// A router that takes connections and closes them is called ever more seldom, and that by
// connectRetryTime's measure; and the session comes up once it is willing.
func TestARouterThatRefusesIsNotHammered(t *testing.T) {
	r := newRogue(t, "127.0.0.3", 64528)
	d := run(t)
	p := r.peer("rogue")
	p.ConnectRetryTime = 4 * time.Second
	p.TTLSecurityHops = 1 // nobody but the session itself calls such a peer
	must(t, r.listener.Close())
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) {
			must(t, syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IP, syscall.IP_TTL, 255))
		})
	}}
	config.SetMultipathTCP(false) // it knows no TTL
	listener, err := config.Listen(t.Context(), "tcp", netip.AddrPortFrom(r.address, r.port).String())
	must(t, err)
	r.listener = listener.(*net.TCPListener)
	defer r.listener.Close()
	d.SyncPeers([]Peer{p})
	var calls []time.Time
	for range 6 {
		conn, err := r.listener.AcceptTCP()
		must(t, err)
		calls = append(calls, time.Now())
		must(t, conn.Close())
	}
	// Pauses of 0.5, 1, 2, 4 and 4 s, less a quarter at most.
	if took := calls[5].Sub(calls[0]); took < 8*time.Second {
		t.Errorf("six calls within %s: %v", took, calls)
	} else {
		t.Logf("six calls of a router that refuses took %s", took.Round(100*time.Millisecond))
	}
	d.becomes(t, func(st Status) bool {
		return st.Peers[0].LastError == "peer closed the connection before the session was established"
	})
	conn, err := r.establish()
	must(t, err)
	defer conn.Close()
	d.up(t, "rogue")
}

// A router that lets a session come up again at once gets it at once.
func TestASessionThatLastedIsBackAtTheNextCall(t *testing.T) {
	r := newRogue(t, "127.0.0.3", 64528)
	d := run(t, func(c *Config) { c.LastingSession = time.Nanosecond })
	d.SyncPeers([]Peer{r.peer("rogue")})
	for range 3 {
		conn, err := r.establish()
		must(t, err)
		d.up(t, "rogue")
		must(t, conn.SetLinger(0))
		must(t, conn.Close())
		ended := time.Now()
		d.observes(t, SessionDown, "rogue")
		var again *net.TCPConn
		again, err = r.establish()
		must(t, err)
		t.Logf("called again after %s", time.Since(ended).Round(time.Millisecond))
		d.up(t, "rogue")
		must(t, again.Close())
		d.observes(t, SessionDown, "rogue")
	}
}
