//go:build root

package bgp

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/berth-lb/berth/bgp/community"
)

const (
	manyRoutes   = 450 // of each driver
	manyFlapping = 30  // of these, which change
	manyRounds   = 15  // in which every one of them changes, and all routers are waited for
	manyHeld     = 9 * time.Second
)

// TestManySessions has drivers announce 450 routes to each of some routers, while 30 of the routes
// come, go and change. No session ends, and no router hears again of a route that did not change:
// each counts what it hears. A route that goes to fewer or to more routers is one that changes, of
// which those hear again that keep it: for GoBGP it is another one. There are 8 sessions, or 2 with
// the race detector; BERTH_BGP_SPEAKERS=16 and BERTH_BGP_ROUTERS=4 make them 64, and
// BERTH_BGP_FLAPS=1m has routes flap for a minute, not for 5 s.
func TestManySessions(t *testing.T) {
	m := newMesh(t, number(t, "BERTH_BGP_SPEAKERS", driversAtOnce), number(t, "BERTH_BGP_ROUTERS", 2))
	began := time.Now()
	m.load(t)
	t.Logf(
		"%d sessions have %d routes each after %s",
		m.sessions(),
		manyRoutes,
		time.Since(began).Round(time.Millisecond),
	)
	m.listen(t)
	for range manyRounds {
		for i := range manyFlapping {
			m.change(i)
		}
		m.heardAll(t)
	}
	if again := m.judge(t); again != m.again {
		t.Errorf("routers heard %d times of what they had, want %d", again, m.again)
	}
	t.Logf("%d changes were heard of, each once by each session that has the route", m.told)

	// Now faster than routers are told. One that hears of a route only after it is back hears of what
	// it had; but of none that did not flap.
	flaps := 0
	pace := time.NewTicker(10 * time.Millisecond)
	defer pace.Stop()
	for end := time.Now().Add(duration(t, "BERTH_BGP_FLAPS", 5*time.Second)); time.Now().Before(end); flaps++ {
		<-pace.C
		m.change(m.chance.IntN(manyFlapping))
	}
	m.settled(t)
	again, heard := m.judge(t), 0
	for _, r := range m.routers {
		heard += r.count(r.heard)
	}
	t.Logf(
		"%d changes of %d routes, one each 10 ms: all routers heard of %d of %d, %d times of what they had, and of no other",
		flaps,
		manyFlapping,
		heard,
		m.told,
		again,
	)
}

// mesh is some drivers, each with a session with each of some routers.
type mesh struct {
	drivers []*running
	routers []*meshRouter
	chance  *rand.Rand
	now     []flap // what the flapping routes are now
	told    int    // how many messages the routers were to hear since listen
	again   int    // how many of these are of what they had
}

// meshRouter is FRR, and what it heard of.
type meshRouter struct {
	*frr
	number int
	log    *os.File
	rest   []byte           // of a line
	heard  map[string]heard // by the driver's address
	wanted map[string]heard // in the rounds
	again  int              // how often it heard of what it had
}

// heard counts messages by prefix.
type heard map[string]int

func (h heard) messages() (n int) {
	for _, one := range h {
		n += one
	}
	return n
}

// flap is what a route is told as.
type flap int

const (
	asItWas flap = iota
	withMED
	withCommunity
	toTheFirst // router only
	gone
	flaps // is how many there are
)

// to returns what a router is told of a route; empty: nothing.
func (f flap) to(router int) string {
	switch {
	case f == gone, f == toTheFirst && router > 0:
		return ""
	case f == toTheFirst:
		f = asItWas
	}
	return fmt.Sprint(f)
}

func (f flap) route(i int) Desired {
	r := Route{Prefix: meshPrefix(i)}
	med := uint32(100 + i) // one of its own, so that GoBGP's policy changes with it
	switch f {
	case gone:
		return Desired{}
	case withMED:
		r.Attributes.MED = &med
	case withCommunity:
		r.Attributes.Communities = []community.Community{{A: nodeASN, B: uint32(i)}}
	case toTheFirst:
		r.Peers = []string{meshPeerName(0)}
	}
	return Desired{Routes: []Route{r}}
}

func meshPrefix(i int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 18, byte(i / 250), byte(i % 250)}), 32)
}

func meshPeerName(router int) string { return fmt.Sprintf("tor%d", router) }

// near returns the drivers' addresses on a router's segment.
func (m *mesh) near(router int) []string {
	var all []string
	for i := range m.drivers {
		all = append(all, meshAddress(router, i))
	}
	return all
}

func meshAddress(router, driver int) string { return fmt.Sprintf("10.1.%d.%d", router, 10+driver) }

func (m *mesh) sessions() int { return len(m.drivers) * len(m.routers) }

func newMesh(t *testing.T, drivers, routers int) *mesh {
	m := &mesh{
		chance: rand.New(rand.NewPCG(1, 2)), now: make([]flap, manyFlapping), drivers: make([]*running, drivers),
	}
	for n := range routers {
		r := &meshRouter{number: n, heard: map[string]heard{}, wanted: map[string]heard{}}
		ends := cableEnds{router: []string{fmt.Sprintf("10.1.%d.1/24", n)}}
		config := fmt.Sprintf("router bgp %d\n bgp router-id 10.1.%d.1\n no bgp ebgp-requires-policy\n", frrASN+n, n)
		for _, near := range m.near(n) {
			ends.near = append(ends.near, near+"/24")
			config += fmt.Sprintf(" neighbor %[1]s remote-as %d\n neighbor %[1]s timers 3 9\n", near, nodeASN)
			r.heard[near], r.wanted[near] = heard{}, heard{}
		}
		r.frr = newFRRAt(t, config, ends)
		m.routers = append(m.routers, r)
	}
	for i := range m.drivers {
		m.drivers[i] = run(t, quiet, func(c *Config) {
			c.Node = fmt.Sprintf("node-%d", i)
			c.RouterID = netip.MustParseAddr(fmt.Sprintf("10.2.0.%d", i+1))
			c.ResyncInterval = time.Second // which is to send nothing
		})
	}
	return m
}

// peers returns a driver's routers.
func (m *mesh) peers(driver int) []Peer {
	var all []Peer
	for n := range m.routers {
		all = append(all, Peer{
			Name: meshPeerName(n), Address: netip.MustParseAddr(fmt.Sprintf("10.1.%d.1", n)),
			SourceAddress: netip.MustParseAddr(meshAddress(n, driver)),
			LocalASN:      nodeASN, RemoteASN: uint32(frrASN + n), HoldTime: manyHeld, ConnectRetryTime: time.Second,
		})
	}
	return all
}

// load announces all routes, and waits until all routers have them.
func (m *mesh) load(t *testing.T) {
	t.Helper()
	for i, d := range m.drivers {
		d.SyncPeers(m.peers(i))
		for k := range manyRoutes {
			d.Sync(fmt.Sprintf("group-%d", k), asItWas.route(k))
		}
	}
	m.awaitRoutes(t)
}

// awaitRoutes waits until each router has from each driver as many routes as it is to have.
func (m *mesh) awaitRoutes(t *testing.T) {
	t.Helper()
	for n, r := range m.routers {
		want := manyRoutes
		for _, now := range m.now {
			if now.to(n) == "" {
				want--
			}
		}
		var counts map[string]int
		r.await(t, "routes", func() bool {
			counts = r.accepted(t)
			return len(counts) == len(m.drivers) &&
				!slices.ContainsFunc(slices.Collect(maps.Values(counts)), func(n int) bool { return n != want })
		}, func() string { return fmt.Sprintf("router %d has %v, want %d of each", n, counts, want) })
	}
}

// accepted counts the routes that FRR has, by driver.
func (r *meshRouter) accepted(t *testing.T) map[string]int {
	t.Helper()
	var summary struct {
		IPv4Unicast struct {
			Peers map[string]struct{ PfxRcd int }
		}
	}
	must(t, json.Unmarshal([]byte(r.vtysh("bgpd", "show bgp summary json")), &summary))
	counts := map[string]int{}
	for near, p := range summary.IPv4Unicast.Peers {
		counts[near] = p.PfxRcd
	}
	return counts
}

// listen has the routers note every route that they hear of from now on.
func (m *mesh) listen(t *testing.T) {
	t.Helper()
	for _, r := range m.routers {
		file := filepath.Join(r.dir, "updates")
		r.vtysh("bgpd", "configure terminal", "log file "+file+" debugging", "debug bgp updates in")
		var err error
		r.log, err = os.Open(file)
		must(t, err)
		t.Cleanup(func() { r.log.Close() })
	}
}

// routeHeard is what FRR notes of each route in an UPDATE. Of one that it has already it says so.
var routeHeard = regexp.MustCompile(
	`(10\.1\.\d+\.\d+)\S* rcvd (?:UPDATE about )?(\d[^ ]*/\d+) \S+ \S+?(\.\.\.duplicate ignored)?( -- .*)?$`,
)

// read reads what the router noted since it was read last.
func (r *meshRouter) read(t *testing.T) {
	t.Helper()
	var text bytes.Buffer
	_, err := text.ReadFrom(r.log)
	must(t, err)
	r.rest = append(r.rest, text.Bytes()...)
	for {
		line, rest, whole := bytes.Cut(r.rest, []byte("\n"))
		if !whole {
			return
		}
		r.rest = rest
		found := routeHeard.FindSubmatch(line)
		if found == nil {
			continue
		}
		if len(found[3]) > 0 {
			r.again++
		}
		r.heard[string(found[1])][string(found[2])]++
	}
}

// change makes another thing of a flapping route, at all drivers.
func (m *mesh) change(i int) {
	was := m.now[i]
	m.now[i] = (was + 1 + flap(m.chance.IntN(int(flaps)-1))) % flaps
	for k, d := range m.drivers {
		d.SyncPeers(m.peers(k)) // no change, as a planner may say
		d.Sync(fmt.Sprintf("group-%d", i), m.now[i].route(i))
		for n, r := range m.routers {
			had, has := was.to(n), m.now[i].to(n)
			if m.now[i] != gone && had == "" && has == "" { // GoBGP withdraws from all, also if they had nothing
				continue
			}
			m.told++
			r.wanted[meshAddress(n, k)][meshPrefix(i).String()]++
			if had == has && has != "" {
				m.again++
			}
		}
	}
}

// heardAll waits until each router heard of each change once, and of nothing else.
func (m *mesh) heardAll(t *testing.T) {
	t.Helper()
	for _, r := range m.routers {
		r.await(t, "changes", func() bool {
			r.read(t)
			return r.count(r.heard) >= r.count(r.wanted)
		}, func() string { return fmt.Sprintf("heard of %d, want %d", r.count(r.heard), r.count(r.wanted)) })
		for near, want := range r.wanted {
			if !maps.Equal(want, r.heard[near]) {
				t.Fatalf("router %d heard from %s of %v, want %v", r.number, near, r.heard[near], want)
			}
		}
	}
}

func (r *meshRouter) count(all map[string]heard) (n int) {
	for _, one := range all {
		n += one.messages()
	}
	return n
}

// settled waits until the routers have heard of all changes: sessions keep to the order.
func (m *mesh) settled(t *testing.T) {
	t.Helper()
	last := netip.MustParsePrefix("198.19.0.1/32")
	for _, d := range m.drivers {
		d.Sync("last", Desired{Routes: []Route{{Prefix: last}}})
	}
	for _, r := range m.routers {
		r.await(t, "the last change", func() bool {
			r.read(t)
			for _, of := range r.heard {
				if of[last.String()] == 0 {
					return false
				}
			}
			return true
		})
		for _, of := range r.heard {
			delete(of, last.String())
		}
	}
	for _, d := range m.drivers {
		d.Sync("last", Desired{})
	}
	m.awaitRoutes(t)
}

// judge checks that no session ended, and that the routers heard of no route but those that flap.
// It returns how often they heard of what they had.
func (m *mesh) judge(t *testing.T) (again int) {
	t.Helper()
	var flapping []string
	for i := range manyFlapping {
		flapping = append(flapping, meshPrefix(i).String())
	}
	for _, r := range m.routers {
		again += r.again
		for near, of := range r.heard {
			for prefix, n := range of {
				if n > r.wanted[near][prefix] {
					t.Errorf(
						"router %d heard from %s %d times of %s, which changed %d times",
						r.number,
						near,
						n,
						prefix,
						r.wanted[near][prefix],
					)
				}
				if !slices.Contains(flapping, prefix) {
					t.Errorf(
						"router %d heard from %s %d times of %s, which did not change",
						r.number,
						near,
						n,
						prefix,
					)
				}
			}
		}
		var neighbors map[string]struct{ ConnectionsEstablished, ConnectionsDropped int }
		must(t, json.Unmarshal([]byte(r.vtysh("bgpd", "show bgp neighbors json")), &neighbors))
		if len(neighbors) != len(m.drivers) {
			t.Errorf("router %d has %d neighbors", r.number, len(neighbors))
		}
		for near, s := range neighbors {
			if s.ConnectionsEstablished != 1 || s.ConnectionsDropped != 0 {
				t.Errorf("router %d with %s: %+v, want one session for all the time", r.number, near, s)
			}
		}
	}
	return again
}

func number(t *testing.T, variable string, otherwise int) int {
	t.Helper()
	text := os.Getenv(variable)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s: %v", variable, err)
	}
	return n
}

func duration(t *testing.T, variable string, otherwise time.Duration) time.Duration {
	t.Helper()
	text := strings.TrimSpace(os.Getenv(variable))
	if text == "" {
		return otherwise
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatalf("%s: %v", variable, err)
	}
	return d
}
