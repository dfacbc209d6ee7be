package l2

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// Ranges that no network uses, from which some decoys come.
var (
	unused  = netip.MustParsePrefix("198.18.0.0/15")
	unused6 = netip.MustParsePrefix("2001:2::/48")
)

// Once a router that answers for every address counted as the holder of each, so that none was ever
// answered for.
func TestProxyIsNoHolder(t *testing.T) {
	for name, answersFor := range map[string]func(netip.Addr) bool{
		"everything": everything,
		"beyond the segment": func(a netip.Addr) bool {
			return a.String() == svc || unused.Contains(a) || unused6.Contains(a)
		},
		"the segment's own": func(a netip.Addr) bool { return !unused.Contains(a) && !unused6.Contains(a) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := &ether{}
				e.host(printer, answersFor)
				a := e.node(t, "a", 1)
				a.Sync(svc4, by("a"))
				pass(2 * time.Second)
				if got := e.whoHas(t, svc); !slices.Contains(got, a.mac) {
					t.Errorf("answered by %v, want %s", got, a.mac)
				}
				var kinds []string
				for _, o := range a.seen() {
					kinds = append(kinds, fmt.Sprintf("%s %s", o.Kind, o.MAC))
				}
				if !slices.Contains(kinds, "proxy found "+printerMAC) || slices.Contains(kinds, "conflict "+
					printerMAC) {
					t.Errorf("observed %v, want that it is a proxy and no conflict", kinds)
				}
				if got := a.Status().Segments[0].ProxyARP.String(); got != printerMAC {
					t.Errorf("the status tells of %q, want %s", got, printerMAC)
				}
				pass(6 * time.Minute)
				if got := a.Status().Segments[0].ProxyARP; got != nil {
					t.Errorf("the status tells of %s, which was not heard for long", got)
				}
				a.system.wire.mu.Lock()
				defer a.system.wire.mu.Unlock()
				if len(a.system.wire.joined) != 1 {
					t.Errorf("it listens for %v, want the wanted address", a.system.wire.joined)
				}
			})
		})
	}
}

// Linux does this. What such a host answers to a probe is its own.
func TestProxyThatIgnoresProbes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &ether{}
		h := e.host(printer, everything)
		h.unlessProbed = with("192.0.2.201")
		a := e.node(t, "a", 1)
		a.sync(by("a"), svc, "192.0.2.201")
		pass(4 * time.Second)
		if got := e.whoHas(t, svc); !slices.Contains(got, a.mac) {
			t.Errorf("%s is answered by %v, want %s", svc, got, a.mac)
		}
		if got := e.whoHas(t, "192.0.2.201"); slices.Contains(got, a.mac) {
			t.Errorf("the other's own address is answered by %v", got)
		}
		h.says(svc) // as it answers a gratuitous ARP
		expectEqual(t, "conflicts", a.conflicts(), []string{fmt.Sprintf("192.0.2.201 %s %q", printerMAC, "")})
		if got := a.Status().Segments[0].ProxyARP.String(); got != printerMAC {
			t.Errorf("the status tells of %q, want %s", got, printerMAC)
		}
	})
}

// A router may become a proxy just after it was found not to be one.
func TestProxyAfterSurvey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &ether{}
		proxy := false
		h := e.host(printer, func(netip.Addr) bool { return proxy })
		h.unlessProbed = with("192.0.2.201")
		a := e.node(t, "a", 1)
		a.Sync(svc4, by("a"))
		pass(20 * time.Second)
		proxy = true
		h.says(svc) // as it answers a gratuitous ARP
		pass(2 * time.Second)
		expectEqual(t, "conflicts", a.conflicts(), nil)
		if got := a.Status().Segments[0].ProxyARP.String(); got != printerMAC {
			t.Errorf("the status tells of %q, want %s", got, printerMAC)
		}
	})
}

func TestHolderBesideProxyIsConflict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &ether{}
		e.host([]byte{2, 0xff, 0, 0, 0, 1}, everything)
		e.host(printer, with(svc))
		a := e.node(t, "a", 1)
		a.Sync(svc4, by("a"))
		pass(3 * time.Second)
		if got := e.whoHas(t, svc); slices.Contains(got, a.mac) {
			t.Errorf("answered by %v", got)
		}
		expectEqual(t, "conflicts", a.conflicts(), []string{fmt.Sprintf("%s %s %q", svc, printerMAC, "")})
	})
}
