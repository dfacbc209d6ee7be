package bgp

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"testing"

	"github.com/osrg/gobgp/v4/api"
)

// muchReceived is more than a router has a use for that gets routes of nodes.
const muchReceived = 10000

// flood returns UPDATE messages that announce n IPv4 prefixes of 32 bits, 500 each.
func flood(n int) [][]byte {
	var messages [][]byte
	for first := 0; first < n; first += 500 {
		var nlri []byte
		for i := first; i < min(n, first+500); i++ {
			nlri = binary.BigEndian.AppendUint32(append(nlri, 32), 0x14000000+uint32(i))
		}
		messages = append(messages, update(nil, [][]byte{okOrigin, okPath, okHop}, nlri...))
	}
	return messages
}

func TestARouterThatConnectsToUsAndSendsMuchKeepsItsSession(t *testing.T) {
	atOnce(t)
	r := &rogue{address: netip.MustParseAddr("127.0.0.3"), asn: 64528}
	passive := Peer{Name: "rogue", Address: r.address, Passive: true, LocalASN: nodeASN, RemoteASN: uint32(r.asn)}
	prefix := loopback("racks", "127.0.0.0/29")
	prefix.RemoteASN = uint32(r.asn)
	for _, p := range []Peer{passive, prefix} {
		t.Run(p.Name, func(t *testing.T) {
			at, listen := ear(t)
			d := run(t, listen)
			d.SyncPeers([]Peer{p})
			d.Sync("web", routes(nil, "192.0.2.1/32"))
			d.becomes(t, func(st Status) bool { return len(st.Peers) == 1 })
			conn := r.connects(t, at)
			must(t, r.hears(conn))
			must(t, r.floods(conn, 20*muchReceived))
			must(t, d.owner.server.bgp.ListPeer(t.Context(), &api.ListPeerRequest{}, func(p *api.Peer) {
				if n := p.GetState().GetMessages().GetReceived().GetUpdate(); n > 0 {
					t.Errorf("GoBGP got %d UPDATE messages", n)
				}
			}))
			d.Sync("web", routes(nil, "192.0.2.2/32"))
			must(t, r.hears(conn))
			d.up(t, p.Name)
		})
	}
}

// connects connects to the driver until it has a session, as far as the rogue can tell.
func (r *rogue) connects(t testing.TB, to netip.AddrPort) *net.TCPConn {
	t.Helper()
	for t.Context().Err() == nil {
		conn := dial(t, r.address.String(), to).(*net.TCPConn)
		if r.greet(conn) == nil {
			return conn
		}
		conn.Close()
	}
	t.Fatal("the driver lets no session come up")
	return nil
}

// Of a router that we connect to, nothing is kept and nothing is decoded.
func TestAPeerThatSendsMuchKeepsItsSession(t *testing.T) {
	atOnce(t)
	r := newRogue(t, "127.0.0.3", 64528)
	d := run(t)
	d.SyncPeers([]Peer{r.peer("rogue")})
	d.Sync("web", routes(nil, "192.0.2.1/32"))
	conn, err := r.establish()
	must(t, err)
	defer conn.Close()
	must(t, r.hears(conn))
	d.up(t, "rogue")
	must(t, r.floods(conn, 20*muchReceived))
	if s := d.session(t, "rogue"); !s.Established() {
		t.Fatalf("the session ended: %s", s.LastError)
	}
	must(t, d.owner.server.bgp.ListPeer(t.Context(), &api.ListPeerRequest{}, func(p *api.Peer) {
		if n := p.GetState().GetMessages().GetReceived().GetUpdate(); n > 0 {
			t.Errorf("GoBGP got %d UPDATE messages", n)
		}
	}))
	d.Sync("web", routes(nil, "192.0.2.2/32"))
	must(t, r.hears(conn))
}

// BenchmarkUpdateOfAPeer measures what one UPDATE with one prefix costs from a router that has sent
// almost as many as were once allowed.
func BenchmarkUpdateOfAPeer(b *testing.B) {
	r := newRogue(b, "127.0.0.3", 64528)
	d := run(b, quiet)
	d.SyncPeers([]Peer{r.peer("rogue")})
	d.Sync("web", routes(nil, "192.0.2.1/32"))
	conn, err := r.establish()
	must(b, err)
	defer conn.Close()
	must(b, r.hears(conn))
	must(b, r.floods(conn, muchReceived-10))
	one := bytes.Repeat(flood(1)[0], 100)
	for b.Loop() {
		_, err := conn.Write(append(bytes.Clone(one), message(5, 0, 1, 0, 1)...))
		must(b, err)
		must(b, r.hears(conn))
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(100*b.N), "ns/UPDATE")
}

// floods sends n prefixes and waits until the driver has read them: it answers a ROUTE-REFRESH
// after them.
func (r *rogue) floods(conn net.Conn, n int) error {
	for _, m := range append(flood(n), message(5, 0, 1, 0, 1)) {
		if _, err := conn.Write(m); err != nil {
			return err
		}
	}
	return r.hears(conn)
}

// hears waits for a route of the driver's.
func (r *rogue) hears(conn net.Conn) error {
	for {
		kind, body, err := readRaw(conn)
		switch {
		case err != nil:
			return err
		case kind == 3:
			return fmt.Errorf("NOTIFICATION %v", body)
		case kind == 2 && len(body) > 4+23: // no End-of-RIB
			return nil
		}
	}
}

// BenchmarkReceivedRoutes measures what routes cost that a router sends and nobody wants.
func BenchmarkReceivedRoutes(b *testing.B) {
	for _, n := range []int{1000, muchReceived} {
		b.Run(fmt.Sprintf("%d", n), func(b *testing.B) {
			r := newRogue(b, "127.0.0.3", 64528)
			d := run(b, quiet)
			d.SyncPeers([]Peer{r.peer("rogue")})
			d.Sync("web", routes(nil, "192.0.2.1/32"))
			conn, err := r.establish()
			must(b, err)
			defer conn.Close()
			must(b, r.hears(conn))
			before := heap()
			for b.Loop() {
				must(b, r.floods(conn, n))
			}
			b.ReportMetric(float64(heap()-before)/float64(n), "B/route")
		})
	}
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
