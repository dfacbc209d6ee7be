//go:build linux

package ipvs

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	lib "github.com/cloudflare/ipvs"
	"golang.org/x/sys/unix"
)

// fake is the kernel's side. What it really does is seen in e2e/vm/ipvs.
type fake struct {
	mu       sync.Mutex
	absent   error // no IPVS
	servers  model
	routes   map[netip.Addr]bool
	rules    int
	values   map[string]string
	log      []string // operations, routes and the sysctl of interest, in their order
	reads    int
	refuse   func(Operation) error
	forget   func(Operation) bool // an operation that succeeds and does nothing
	unrouted map[netip.Addr]bool  // addresses that had a virtual server without a route
}

func newFake() *fake {
	return &fake{
		servers:  model{},
		routes:   map[netip.Addr]bool{},
		values:   map[string]string{},
		unrouted: map[netip.Addr]bool{},
	}
}

func (f *fake) connect() (edge, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return edge{f, fakeRoutes{f}, f}, f.absent
}

func (f *fake) table() (Table, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reads += 1 + len(f.servers)
	return maps.Clone(Table(f.servers)), nil
}

func (f *fake) glance() (map[Frontend]uint64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := map[Frontend]uint64{}
	for at, v := range f.servers {
		all[at] = maphash.String(digestSeed, fmt.Sprint(v))
	}
	return all, nil
}

func (f *fake) virtualServer(at Frontend) (VirtualServer, bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reads += 2
	v, ok := f.servers[at]
	return v, ok, nil
}

func (f *fake) apply(o Operation) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.log = append(f.log, o.String())
	if f.refuse != nil && f.refuse(o) != nil {
		return f.refuse(o)
	}
	if f.forget != nil && f.forget(o) {
		return nil
	}
	if !f.routes[o.Frontend.Address] {
		f.unrouted[o.Frontend.Address] = true
	}
	return f.servers.apply(o)
}

func (f *fake) statistics(func(Frontend) bool) ([]FrontendStatistics, error) { return nil, nil }
func (f *fake) probe(string) error                                           { return nil }
func (f *fake) close() error                                                 { return nil }

func (f *fake) set(name, value string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.values[name] != value && name == nodestConnections {
		f.log = append(f.log, name+"="+value)
	}
	f.values[name] = value
	return nil
}

type fakeRoutes struct{ *fake }

func (f fakeRoutes) addresses() (routed map[netip.Addr]bool, err error) {
	f.with(func() { routed = maps.Clone(f.routes) })
	return routed, nil
}

func (f fakeRoutes) ensureRules(family) error  { f.with(func() { f.rules++ }); return nil }
func (f fakeRoutes) add(a netip.Addr) error    { f.with(func() { f.routes[a] = true }); return nil }
func (f fakeRoutes) remove(a netip.Addr) error { f.with(func() { delete(f.routes, a) }); return nil }
func (f fakeRoutes) removeRules() error        { f.with(func() { f.rules = 0 }); return nil }

// with lets a test look at the kernel, or change it.
func (f *fake) with(do func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	do()
}

func (f *fake) took() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	log := f.log
	f.log = nil
	return log
}

func (f *fake) at(at Frontend) []RealServer {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.servers[at].RealServers
}

// pass lets synthetic time pass, and all settle.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// run starts a driver on the kernel inside a bubble of synthetic time, with one group.
func run(t *testing.T, f *fake, desired Table) *Driver {
	d := New(Config{})
	d.connect = f.connect
	d.Sync("a", desired)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = d.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	synctest.Wait()
	return d
}

func TestDriver_Run_restart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		gone := Frontend{Address: netip.MustParseAddr("192.0.2.2"), Port: 80, Protocol: TCP}
		foreign := Frontend{Address: netip.MustParseAddr("192.0.2.3"), Port: 80, Protocol: TCP}
		for _, at := range []Frontend{at(80), gone, foreign} {
			f.servers[at] = server("rr", "2 1")
		}
		f.routes[at(80).Address], f.routes[gone.Address] = true, true
		run(t, f, Table{at(80): server("rr", "1 2")})
		want := []string{
			"expire_nodest_conn=0",
			"expire_nodest_conn=1",
			"delete virtual server " + gone.String(),
			"expire_nodest_conn=0",
		}
		if got := f.took(); !slices.Equal(got, want) {
			t.Errorf("did %q, want %q", got, want)
		}
		if f.routes[gone.Address] || !f.routes[at(80).Address] {
			t.Errorf("routes %v", f.routes)
		}
		if len(f.servers) != 2 {
			t.Errorf("virtual servers %v", f.servers)
		}
	})
}

func TestDriver_Sync_oneChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		desired := Table{}
		for port := uint16(1); port <= 1000; port++ {
			desired[at(port)] = server("rr", "1 2")
		}
		d := run(t, f, desired)
		f.took()
		f.with(func() { f.reads = 0 })
		d.Sync("b", Table{at(2000): server("rr", "1")})
		synctest.Wait()
		changed := maps.Clone(desired)
		changed[at(7)] = server("rr", "1 3")
		d.Sync("a", changed)
		synctest.Wait()
		if got := f.took(); len(got) != 6 || f.reads != 8 {
			t.Errorf("%d questions, operations %q; want 2 before and 2 after each of two changes", f.reads, got)
		}
	})
}

func TestDriver_Run_drift(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		desired := Table{at(80): server("rr", "1 2"), at(443): server("mh", "1 2")}
		run(t, f, desired)
		f.with(func() {
			clear(f.servers)
			clear(f.routes)
			f.values[nodestConnections] = "1"
		})
		pass(2 * time.Second)
		if len(f.servers) != 2 || !f.routes[at(80).Address] || f.values[nodestConnections] != "0" {
			t.Errorf("after the interval: %v, %v, %v", f.servers, f.routes, f.values)
		}
	})
}

// kube-proxy does that when it starts.
func TestDriver_Run_emptied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		run(t, f, Table{at(80): server("rr", "1 2"), at(443): server("mh", "1 2")})
		f.took()
		f.with(func() { clear(f.servers) })
		pass(250 * time.Millisecond)
		if len(f.servers) != 2 {
			t.Errorf("after a quarter of a second: %v", f.servers)
		}
		for _, o := range f.took() {
			if strings.Contains(o, nodestConnections) {
				t.Errorf("connections end: %s", o)
			}
		}
	})
}

func TestDriver_Run_glance(t *testing.T) {
	const looks = 2 * 4 // questions in a second for the one that is looked for
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		many := Table{}
		for port := uint16(1); port <= 1000; port++ {
			many[at(port)] = server("rr", "1 2")
		}
		run(t, f, many)
		pass(2 * time.Second) // the first comparison that finds nothing to do
		f.with(func() { f.reads = 0 })
		pass(20 * time.Second)
		f.with(func() {
			if f.reads > 20*looks {
				t.Errorf("%d questions while nothing changed, want %d", f.reads, 20*looks)
			}
		})
		pass(12 * time.Second)
		f.with(func() {
			if f.reads != 32*looks+1001 {
				t.Errorf("%d questions in half a minute, want %d and that all is read once", f.reads, 32*looks)
			}
		})
	})
}

// What a glance does not show is soon seen where there is little to read.
func TestDriver_Run_few(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		run(t, f, Table{at(80): server("rr", "1 2")})
		pass(2 * time.Second)
		f.with(func() { f.reads = 0 })
		pass(10 * time.Second)
		f.with(func() {
			if all := f.reads - 10*2*4; all != 5*2 {
				t.Errorf("%d questions in five passes, want two in each", all)
			}
		})
	})
}

func TestDigests(t *testing.T) {
	const text = "IP Virtual Server version 1.2.1 (size=4096)\n" +
		"Prot LocalAddress:Port Scheduler Flags\n" +
		"  -> RemoteAddress:Port Forward Weight ActiveConn InActConn\n" +
		"TCP  C000020A:0050 rr persistent 10800 FFFFFFFF\n" +
		"  -> 0A01000B:1F90      Masq    1      0          0         \n" +
		"UDP  [2001:0db8:0000:0000:0000:0000:0000:000a]:0035 mh (mh-port) \n" +
		"  -> [fd00:0000:0000:0000:0000:0000:0000:0001]:0035      Masq    1      7          8         \n" +
		"FWM  B7000001 lc \n" +
		"FWM  B7000001 sh \n" +
		"FWM  00000007 lc \n"
	four := Frontend{Address: netip.MustParseAddr("192.0.2.10"), Port: 80, Protocol: TCP}
	six := Frontend{Address: netip.MustParseAddr("2001:db8::a"), Port: 53, Protocol: UDP}
	mark4, mark6 := Marked(0xb7000001, four.Address), Marked(0xb7000001, six.Address)
	before, err := digests([]byte(text))
	if err != nil || len(before) != 4 {
		t.Fatalf("digests of %v, %v", before, err)
	}
	for _, test := range []struct {
		old, new string
		changed  []Frontend
	}{
		{
			old: "0          0 ",
			new: "23         4 ",
		},
		{
			old: "7          8 ",
			new: "0          0 ",
		},
		{
			old:     "Masq    1      0",
			new:     "Masq    2      0",
			changed: []Frontend{four},
		},
		{
			old:     "Masq    1      7",
			new:     "Route   1      7",
			changed: []Frontend{six},
		},
		{
			old:     "10800",
			new:     "10801",
			changed: []Frontend{four},
		},
		{
			old:     "rr",
			new:     "lc",
			changed: []Frontend{four},
		},
		{
			old:     "mh-port",
			new:     "mh-fallback",
			changed: []Frontend{six},
		},
		{
			old:     " sh ",
			new:     " dh ",
			changed: []Frontend{mark4, mark6},
		},
		{
			old:     "FWM  B7000001 sh \n",
			changed: []Frontend{mark4, mark6},
		},
		{
			old: "00000007 lc",
			new: "00000008 rr",
		},
		{
			old:     "C000020A:0050",
			new:     "C000020A:0051",
			changed: []Frontend{four},
		},
	} {
		text := strings.Replace(text, test.old, test.new, 1)
		after, err := digests([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		var changed []Frontend
		for _, f := range []Frontend{four, six, mark4, mark6} {
			if before[f] != after[f] {
				changed = append(changed, f)
			}
		}
		if !slices.Equal(changed, test.changed) {
			t.Errorf("%q for %q: changed are %v, want %v", test.new, test.old, changed, test.changed)
		}
	}
	for _, bad := range []string{
		"TCP  C000020A rr\n",
		"TCP  C000020A:10000 rr\n",
		"UDP  [2001:zz]:0035 rr\n",
		"FWM  7FFFFFFFF rr\n",
	} {
		if found, err := digests([]byte(bad)); err == nil {
			t.Errorf("%q was understood as %v", bad, found)
		}
	}
}

func FuzzDigests(f *testing.F) {
	f.Add("TCP  C000020A:0050 rr \n  -> 0A01000B:1F90      Masq    1      0          0         \nFWM  B7000001 sh \n")
	f.Add("SCTP [2001:0db8:0000:0000:0000:0000:0000:000a]:0035 mh (mh-port) \nUDP  : rr\n")
	f.Fuzz(func(t *testing.T, listing string) {
		found, err := digests([]byte(listing))
		for at := range found {
			if err != nil || !at.Address.IsValid() || at.Mark != 0 && at.Mark&MarksMask != Marks {
				t.Errorf("%q: %v, %v", listing, at, err)
			}
		}
	})
}

// One changed virtual server costs its own questions, not those of all others.
func TestDriver_Sync_comparedAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		d := run(t, f, Table{at(80): server("rr", "1")})
		many := Table{}
		for i := range 1000 {
			other := at(80)
			other.Address = netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)})
			many[other] = server("rr", "1 2")
		}
		deleted := at(80)
		deleted.Address = netip.MustParseAddr("198.18.2.1")
		d.Sync("many", many)
		pass(4 * time.Second)
		f.with(func() { f.reads = 0 })
		d.Sync("a", Table{at(80): server("rr", "2")})
		pass(200 * time.Millisecond)
		f.with(func() { t.Logf("%d questions for the change", f.reads); f.reads = 0 })
		f.with(func() { delete(f.servers, deleted) }) // by somebody else
		pass(4 * time.Second)
		f.with(func() {
			if _, there := f.servers[deleted]; !there {
				t.Error("what somebody deleted is not there")
			}
			if f.reads > 200 {
				t.Errorf("%d questions in four seconds, of more than a thousand virtual servers", f.reads)
			}
		})
	})
}

// A node that dies changes hundreds of virtual servers of thousands: nothing else is read before it
// is no longer sent anything.
func TestDriver_Sync_someOfMany(t *testing.T) {
	const all, some = 4000, 500
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		desired := Table{}
		for i := range all {
			other := at(80)
			other.Address = netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)})
			desired[other] = server("rr", "1 2")
		}
		d := run(t, f, desired)
		pass(4 * time.Second)
		f.with(func() { f.reads = 0 })
		changed := maps.Clone(desired)
		for i := range some {
			other := at(80)
			other.Address = netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)})
			changed[other] = server("rr", "1 3")
		}
		d.Sync("a", changed)
		synctest.Wait()
		f.with(func() {
			if want := 2 * 2 * some; f.reads != want {
				t.Errorf("%d questions for %d changes of %d virtual servers, want %d: two before and two after each",
					f.reads, some, all, want)
			}
			f.reads = 0
		})
		pass(2 * time.Second)
		f.with(func() {
			if f.reads > 3*some {
				t.Errorf("%d questions when they are compared once more", f.reads)
			}
		})
	})
}

func TestDriver_Run_moves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		d := run(t, f, Table{at(80): server("mh", "1 2")})
		f.took()
		d.Sync("a", Table{at(80): server("mh", "2 3")}) // 3 is new, so 2 goes before it
		synctest.Wait()
		const vs = " of TCP 192.0.2.1:80"
		want := []string{
			"create real server 10.0.0.3:8080" + vs, "move real server 10.0.0.2:8080" + vs,
			"expire_nodest_conn=1", "delete real server 10.0.0.1:8080" + vs, "expire_nodest_conn=0",
		}
		if got := f.took(); !slices.Equal(got, want) {
			t.Errorf("did %q, want %q", got, want)
		}
		// The kernel may still be at what the deletion left.
		deleted := time.Now()
		d.Sync("a", Table{at(80): server("mh", "2 3 4")})
		for !slices.Equal(f.at(at(80)), backends("2 3 4")) {
			pass(time.Millisecond)
		}
		if waited := time.Since(deleted); waited < flushing || waited > 2*flushing {
			t.Errorf("moved %s after a deletion, want %s", waited, flushing)
		}
	})
}

func TestDriver_Serves_notShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.forget = func(o Operation) bool { return o.Frontend == at(80) && o.Kind == CreateRealServer }
		d := run(t, f, Table{at(80): server("rr", "1"), at(443): server("rr", "1")})
		if err := d.Serves(at(80)); err == nil ||
			!strings.Contains(
				err.Error(),
				"the kernel accepted a change of virtual server TCP 192.0.2.1:80 and does not show it",
			) {
			t.Errorf("what is not in the kernel: %v", err)
		}
		if err := d.Serves(at(443)); err != nil {
			t.Errorf("what is: %v", err)
		}
		f.with(func() { f.forget = nil })
		pass(2 * time.Second)
		if err := d.Serves(at(80)); err != nil {
			t.Errorf("after the kernel recovered: %v", err)
		}
	})
}

func TestDriver_Serves_refused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.refuse = func(o Operation) error {
			if o.Frontend == at(80) {
				return fmt.Errorf("%s: %w", o, ErrNoScheduler)
			}
			return nil
		}
		d := run(t, f, Table{at(80): server("mh", "1 2 3"), at(443): server("rr", "1")})
		if err := d.Serves(at(80)); !errors.Is(err, ErrNoScheduler) {
			t.Errorf("refused: %v", err)
		}
		if err := d.Serves(at(443)); err != nil {
			t.Errorf("the other: %v", err)
		}
		if got := f.took(); slices.ContainsFunc(got, func(o string) bool { return strings.Contains(o, "10.0.0.2") }) {
			t.Errorf("went on after the refusal: %q", got)
		}
		pass(10 * time.Second)
		if got := f.took(); len(got) > 0 {
			t.Errorf("has the kernel look for a module again and again: %q", got)
		}
		f.with(func() { f.refuse = nil })
		pass(thorough)
		if err := d.Serves(at(80)); err != nil {
			t.Errorf("with the module: %v", err)
		}
	})
}

func TestDriver_Err_noIPVS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.absent = fmt.Errorf("%w (%w)", ErrNoIPVS, unix.ENOENT)
		d := run(t, f, Table{at(80): server("rr", "1")})
		if err := d.Serves(at(80)); !errors.Is(err, ErrNoIPVS) {
			t.Errorf("Serves: %v", err)
		}
		if o := <-d.Observed(); !errors.Is(o.Err, ErrNoIPVS) || o.Frontend != (Frontend{}) {
			t.Errorf("observed %v", o)
		}
		pass(2 * time.Second)
		if err := d.Serves(at(80)); !errors.Is(err, ErrNoIPVS) {
			t.Errorf("Serves: %v", err)
		}
		f.with(func() { f.absent = nil })
		pass(thorough)
		if err := d.Serves(at(80)); err != nil {
			t.Errorf("with the module: %v", err)
		}
		for _, want := range []Frontend{{}, at(80)} {
			if o := <-d.Observed(); o.Err != nil || o.Frontend != want {
				t.Errorf("observed %v, want %v", o, want)
			}
		}
	})
}

func TestDriver_Sync_twoGroups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		d := run(t, f, Table{at(80): server("rr", "1")})
		d.Sync("b", Table{at(80): server("rr", "2")})
		synctest.Wait()
		if got := f.servers[at(80)].RealServers; !slices.Equal(got, backends("1")) {
			t.Errorf("with both: %v", got)
		}
		d.Sync("a", nil)
		synctest.Wait()
		if got := f.servers[at(80)].RealServers; !slices.Equal(got, backends("2")) {
			t.Errorf("with the second: %v", got)
		}
	})
}

func TestDriver_Sync_lastVirtualServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		d := run(t, f, Table{at(80): server("rr", "1"), at(443): server("rr", "1")})
		d.Sync("a", Table{at(80): server("rr", "1")})
		pass(2 * time.Second)
		f.with(func() {
			if !f.routes[at(80).Address] {
				t.Error("the address has a virtual server and no route")
			}
		})
		d.Sync("a", nil)
		pass(2 * time.Second)
		if len(f.servers)+len(f.routes)+f.rules > 0 {
			t.Errorf("left: %v, %v, %d rules", f.servers, f.routes, f.rules)
		}
		if len(f.unrouted) > 0 {
			t.Errorf("changed without a route that tells whose they are: %v", f.unrouted)
		}
	})
}

func TestDriver_Remove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		foreign := Frontend{Address: netip.MustParseAddr("192.0.2.3"), Port: 80, Protocol: TCP}
		f.servers[foreign] = server("rr", "1")
		d := run(t, f, Table{at(80): server("rr", "1")})
		f.with(func() { // of a process that ran when the node had another address
			f.servers[Frontend{Address: netip.MustParseAddr("192.0.2.4"), Port: 80, Protocol: TCP}] = server("rr", "1")
			f.routes[netip.MustParseAddr("192.0.2.4")] = false
		})
		if err := d.Remove(); err != nil {
			t.Fatal(err)
		}
		pass(time.Minute)
		if len(f.servers) != 1 || len(f.routes)+f.rules > 0 {
			t.Errorf("left: %v, %v, %d rules; want only %s", f.servers, f.routes, f.rules, foreign)
		}
	})
}

// flushed is a kernel whose virtual servers another program has deleted by the time that one is
// removed.
type flushed struct{ lib.Client }

func (flushed) CreateService(lib.Service) error { return nil }
func (flushed) RemoveService(lib.Service) error { return unix.ESRCH }
func (flushed) Close() error                    { return nil }

// A kube-proxy that starts deletes all virtual servers, also that of a probe. The scheduler is
// there.
func TestKernel_probe_flushed(t *testing.T) {
	if err := (kernel{flushed{}}).probe("rr"); err != nil {
		t.Error(err)
	}
}
