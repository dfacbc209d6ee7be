package localnet

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestAddressesOf(t *testing.T) {
	on := func(index int, cidr string) netlink.Addr {
		ip, subnet, err := net.ParseCIDR(cidr)
		if err != nil {
			t.Fatal(err)
		}
		return netlink.Addr{LinkIndex: index, IPNet: &net.IPNet{IP: ip, Mask: subnet.Mask}}
	}
	got := addressesOf([]netlink.Addr{
		on(2, "192.0.2.11/24"), on(1, "127.0.0.1/8"), on(1, "::1/128"), on(2, "fe80::1/64"), on(2, "2001:db8::11/64"),
		on(3, "192.0.2.5/32"), on(2, "192.0.2.5/24"), on(2, "169.254.1.1/16"), {LinkIndex: 2},
	}, map[int]string{1: "lo", 2: "eth0", 3: "vip0"})
	want := []Address{
		{netip.MustParsePrefix("192.0.2.5/24"), "eth0"}, {netip.MustParsePrefix("192.0.2.5/32"), "vip0"},
		{netip.MustParsePrefix("192.0.2.11/24"), "eth0"}, {netip.MustParsePrefix("2001:db8::11/64"), "eth0"},
	}
	if !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestGatewaysOf(t *testing.T) {
	hop := func(ip string) *netlink.NexthopInfo { return &netlink.NexthopInfo{Gw: net.ParseIP(ip)} }
	got := gatewaysOf([]netlink.Route{
		{Gw: net.ParseIP("192.0.2.1")},
		{Gw: net.ParseIP("192.0.2.1"), Table: 7},
		{MultiPath: []*netlink.NexthopInfo{hop("192.0.2.3"), hop("192.0.2.2"), hop("fe80::3")}},
		{Gw: net.ParseIP("fe80::1")},
		{Gw: net.ParseIP("2001:db8::1")},
		{Via: &netlink.Via{AddrFamily: unix.AF_INET6, Addr: net.ParseIP("2001:db8::2")}},
		{LinkIndex: 3}, // by an interface alone
	})
	var text []string
	for _, a := range got {
		text = append(text, a.String())
	}
	if want := []string{"192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1", "2001:db8::2"}; !slices.Equal(text, want) {
		t.Errorf("%v, want %v", text, want)
	}
}

func TestIsDefault(t *testing.T) {
	to := func(cidr string) *net.IPNet {
		_, subnet, err := net.ParseCIDR(cidr)
		if err != nil {
			t.Fatal(err)
		}
		return subnet
	}
	for _, c := range []struct {
		route netlink.Route
		want  bool
	}{
		{netlink.Route{Type: unix.RTN_UNICAST}, true},
		{netlink.Route{Type: unix.RTN_UNICAST, Dst: to("0.0.0.0/0")}, true},
		{netlink.Route{Type: unix.RTN_UNICAST, Dst: to("::/0")}, true},
		{netlink.Route{Type: unix.RTN_UNICAST, Dst: to("0.0.0.0/1")}, false},
		{netlink.Route{Type: unix.RTN_UNICAST, Dst: to("10.0.0.0/8")}, false},
		{netlink.Route{Type: unix.RTN_UNREACHABLE, Dst: to("::/0")}, false},
	} {
		if got := isDefault(c.route); got != c.want {
			t.Errorf("%v: %v, want %v", c.route, got, c.want)
		}
	}
}

func TestWatcher_OfService(t *testing.T) {
	w := &Watcher{}
	for _, a := range []struct{ address, iface string }{
		{
			"192.0.2.1/32",
			"kube-ipvs0",
		}, {"192.0.2.2/24", "eth0"}, {"192.0.2.2/32", "kube-ipvs0"}, {"192.0.2.3/24", "eth0"}, {"192.0.2.4/32", "kube-lb0"},
	} {
		w.now.Addresses = append(w.now.Addresses, Address{netip.MustParsePrefix(a.address), a.iface})
	}
	for address, want := range map[string]bool{
		"192.0.2.1": true,
		"192.0.2.2": false,
		"192.0.2.3": false,
		"192.0.2.4": true,
		"192.0.2.5": false,
		"192.0.2.0": false,
	} {
		if got := w.OfService(netip.MustParseAddr(address)); got != want {
			t.Errorf("%s: %v, want %v", address, got, want)
		}
	}
}

// fake is a kernel that says what it is told to.
type fake struct {
	says   atomic.Pointer[Network] // nil: nothing can be read
	reads  atomic.Int32
	lists  atomic.Int32 // of routes
	events chan event
	breaks chan struct{}
}

func newFake() *fake { return &fake{events: make(chan event), breaks: make(chan struct{})} }

func (f *fake) addresses() ([]Address, error) {
	f.reads.Add(1)
	if n := f.says.Load(); n != nil {
		return n.Addresses, nil
	}
	return nil, errors.New("interrupted")
}

func (f *fake) gateways() ([]netip.Addr, map[int]bool, error) {
	f.lists.Add(1)
	if n := f.says.Load(); n != nil {
		return n.Gateways, map[int]bool{2: true}, nil
	}
	return nil, nil, errors.New("interrupted")
}

func (f *fake) watch(ctx context.Context, changed func(event)) error {
	changed(event{routes: true})
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-f.breaks:
			return errors.New("lost some")
		case e := <-f.events:
			changed(e)
		}
	}
}

func TestWatcher_Run(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		one := Network{Gateways: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}
		two := Network{Gateways: []netip.Addr{netip.MustParseAddr("192.0.2.2")}}
		f.says.Store(&one)
		told := int32(0)
		w := New(slog.New(slog.DiscardHandler))
		w.kernel = f
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- w.Run(ctx) }()
		check := func(what string, want Network, times int32) {
			t.Helper()
			<-time.After(settle) // of synctest's clock
			synctest.Wait()
			select {
			case <-w.Changed():
				told++
			default:
			}
			if got := w.Current(); !got.Equal(want) || told != times {
				t.Errorf("%s: %v, changed %d times, want %v, %d times", what, got, told, want, times)
			}
		}
		check("at the start", one, 1)
		before := f.reads.Load()
		for range 10 {
			f.events <- event{}
		}
		check("after events that change nothing", one, 1)
		if n := f.reads.Load() - before; n != 1 {
			t.Errorf("ten events at once: read %d times, want once", n)
		}
		f.says.Store(nil)
		f.events <- event{routes: true}
		check("while nothing can be read", one, 1)
		f.says.Store(&two)
		<-time.After(retry)
		check("once it can", two, 2)
		f.says.Store(&one)
		f.breaks <- struct{}{}
		<-time.After(retry)
		check("after events were lost", one, 3)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// Interfaces and addresses of pods come and go all the time, and routes are not listed for that.
func TestWatcher_Run_routes(t *testing.T) {
	for _, routes := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			f := newFake()
			f.says.Store(&Network{})
			w := OfAddresses(slog.New(slog.DiscardHandler))
			w.kernel, w.routes = f, routes
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error)
			go func() { done <- w.Run(ctx) }()
			<-time.After(2 * settle) // of synctest's clock
			for _, step := range []struct {
				name  string
				do    func()
				lists int32
			}{
				{"a pod's interface comes", func() { f.events <- event{} }, 0},
				{"it goes", func() { f.events <- event{link: 7} }, 0},
				{"a default route's is down", func() { f.events <- event{link: 2} }, 1},
				{"a default route comes", func() { f.events <- event{routes: true} }, 1},
				{"events are lost", func() { f.breaks <- struct{}{}; <-time.After(retry) }, 1},
				{"something happens long after", func() { <-time.After(relist); f.events <- event{} }, 1},
			} {
				reads, lists := f.reads.Load(), f.lists.Load()
				step.do()
				<-time.After(2 * settle)
				reads, lists = f.reads.Load()-reads, f.lists.Load()-lists
				if want := step.lists; reads != 1 || routes && lists != want || !routes && lists != 0 {
					t.Errorf("%s, routes %v: read addresses %d times, and routes %d times, want %d", step.name, routes, reads, lists, want)
				}
			}
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}

// Routes to the node itself are left out by the kernel: with --ipvs there are thousands.
func TestEachUnicast(t *testing.T) {
	all, err := netlink.RouteListFiltered(
		netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_LOCAL}, netlink.RT_FILTER_TABLE)
	if err != nil || len(all) == 0 {
		t.Fatalf("the table local has %v, %v", all, err)
	}
	if err := eachUnicast(func(r netlink.Route) {
		if r.Type != unix.RTN_UNICAST {
			t.Errorf("read %v", r)
		}
	}); err != nil {
		t.Fatal(err)
	}
}
