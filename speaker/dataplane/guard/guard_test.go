//go:build linux

package guard

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	"go4.org/netipx"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/berth-lb/berth/speaker/dataplane/nft"
)

func prefixes(texts ...string) []netip.Prefix {
	var list []netip.Prefix
	for _, text := range texts {
		list = append(list, netip.MustParsePrefix(text))
	}
	return list
}

// distinct returns the elements of several frontends.
func distinct(list ...Frontend) []nft.Element {
	all := map[nft.Element]bool{}
	for _, f := range list {
		for _, e := range f.elements() {
			all[e] = true
		}
	}
	return slices.Collect(maps.Keys(all))
}

func TestFrontend_elements(t *testing.T) {
	for _, c := range []struct {
		name string
		of   Frontend
		want []string
	}{
		{
			name: "everybody may connect",
			of:   Frontend{Address: netip.MustParseAddr("192.0.2.1"), Port: 80, Protocol: unix.IPPROTO_TCP},
			want: []string{
				"guarded4 c000020106000000",
				"guarded4 c000020111000000",
				"guarded4 c000020184000000",
				"frontends4 c00002010600000000500000",
			},
		},
		{
			name: "it is masqueraded, and has sources",
			of: Frontend{
				Address: netip.MustParseAddr("192.0.2.1"), Port: 53, Protocol: unix.IPPROTO_UDP, Masquerade: true,
				Sources: prefixes("10.0.0.222/26", "10.0.0.7/32", "2001:db8::/32"),
			},
			want: []string{
				"guarded4 c000020106000000", "guarded4 c000020111000000", "guarded4 c000020184000000",
				"frontends4 c00002011100000000350000", "masqueraded4 c00002011100000000350000",
				"restricted4 c00002011100000000350000",
				"sources4/26 c000020111000000003500000a0000c0", "sources4/32 c000020111000000003500000a000007",
			},
		},
		{
			name: "a prefix is of a length that is not looked up",
			of: Frontend{
				Address:  netip.MustParseAddr("2001:db8::1"),
				Port:     1,
				Protocol: unix.IPPROTO_SCTP,
				Sources:  prefixes("ff00::/14"),
			},
			want: []string{
				"guarded6 20010db800000000000000000000000106000000", "guarded6 20010db800000000000000000000000111000000",
				"guarded6 20010db800000000000000000000000184000000",
				"frontends6 20010db80000000000000000000000018400000000010000", "restricted6 20010db80000000000000000000000018400000000010000",
				"sources6/16 20010db80000000000000000000000018400000000010000ff000000000000000000000000000000",
				"sources6/16 20010db80000000000000000000000018400000000010000ff010000000000000000000000000000",
				"sources6/16 20010db80000000000000000000000018400000000010000ff020000000000000000000000000000",
				"sources6/16 20010db80000000000000000000000018400000000010000ff030000000000000000000000000000",
			},
		},
		{
			name: "no source is of its family, so nobody may connect",
			of: Frontend{
				Address:  netip.MustParseAddr("2001:db8::1"),
				Port:     1,
				Protocol: unix.IPPROTO_SCTP,
				Sources:  prefixes("0.0.0.0/0"),
			},
			want: []string{
				"guarded6 20010db800000000000000000000000106000000", "guarded6 20010db800000000000000000000000111000000",
				"guarded6 20010db800000000000000000000000184000000",
				"frontends6 20010db80000000000000000000000018400000000010000", "restricted6 20010db80000000000000000000000018400000000010000",
			},
		},
	} {
		var got []string
		for _, e := range c.of.elements() {
			got = append(got, e.Set+" "+e.String())
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", c.name, diff)
		}
	}
}

func TestFamily_parts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := family{rapid.SampledFrom(nft.Families[:]).Draw(t, "family")}
		draw := func(name string) netip.Addr {
			a, _ := netip.AddrFromSlice(rapid.SliceOfN(rapid.Byte(), int(f.Length), int(f.Length)).Draw(t, name))
			return a
		}
		p := netip.PrefixFrom(draw("prefix"), rapid.IntRange(0, f.bits()).Draw(t, "bits"))
		parts := f.parts([]netip.Prefix{p})
		for _, a := range []netip.Addr{
			p.Addr(),
			p.Masked().Addr(),
			p.Masked().Addr().Prev(),
			netipx.PrefixLastIP(p),
			netipx.PrefixLastIP(p).Next(),
			draw("another"),
		} {
			if within := slices.ContainsFunc(
				parts,
				func(part netip.Prefix) bool { return part.Contains(a) },
			); within != p.Contains(
				a,
			) {
				t.Errorf("%s: its parts %v have %s: %t", p, parts, a, within)
			}
		}
		for _, part := range parts {
			if !slices.Contains(f.lengths(), part.Bits()) || len(parts) > 8 {
				t.Errorf("%s has %d parts, one of them %s", p, len(parts), part)
			}
		}
	})
}

func TestFamily_looks(t *testing.T) {
	for _, its := range nft.Families {
		f := family{its}
		looks := slices.Concat(f.looks()...)
		for _, old := range f.lengths() {
			for _, replaced := range f.lengths() {
				for at := range len(looks) + 1 {
					if !slices.Contains(looks[:at], old) && !slices.Contains(looks[at:], replaced) {
						t.Errorf("/%d is replaced by /%d after look %d of %v", old, replaced, at, looks)
					}
				}
			}
		}
	}
}

// fake is a table in memory. It refuses what the kernel would, and remembers the last change.
type fake struct {
	mu       sync.Mutex
	elements map[nft.Element]bool // guarded by mu
	changed  []string             // guarded by mu; the last change
	refused  error                // guarded by mu
}

func (f *fake) Replace(elements []nft.Element) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.elements, f.changed = map[nft.Element]bool{}, nil
	for _, e := range elements {
		f.elements[e] = true
	}
	return nil
}

func (f *fake) Change(add, remove []nft.Element) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.changed = nil
	for _, e := range remove {
		if !f.elements[e] {
			f.refused = fmt.Errorf("there is no %s in %s", e, e.Set)
		}
		delete(f.elements, e)
		f.changed = append(f.changed, "-"+e.Set)
	}
	for _, e := range add {
		if f.elements[e] {
			f.refused = fmt.Errorf("%s cannot be added to %s", e, e.Set)
		}
		f.elements[e] = true
		f.changed = append(f.changed, "+"+e.Set)
	}
	slices.Sort(f.changed)
	return f.refused
}

func (f *fake) Check([]nft.Element) error { return nil }
func (f *fake) Remove() error             { return nil }

func (f *fake) Watch(ctx context.Context, _ func()) error {
	<-ctx.Done()
	return nil
}

// keep runs a driver on a fake until the end of the test.
func keep(t *testing.T) (*Driver, *fake) {
	f := &fake{}
	d := newDriver(slog.New(slog.DiscardHandler), f)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- d.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	synctest.Wait()
	return d, f
}

func TestDriver_Sync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, f := keep(t)
		web := Frontend{Address: netip.MustParseAddr("192.0.2.1"), Port: 80, Protocol: unix.IPPROTO_TCP}
		dns := Frontend{
			Address:  netip.MustParseAddr("192.0.2.1"),
			Port:     53,
			Protocol: unix.IPPROTO_UDP,
			Sources:  prefixes("10.0.0.0/8"),
		}
		masqueraded := web
		masqueraded.Masquerade = true
		moved := dns
		moved.Sources = prefixes("10.0.0.0/12", "192.168.0.0/16")
		for _, step := range []struct {
			name  string
			group string
			to    []Frontend
			want  []string
		}{
			{
				name:  "the first of an address",
				group: "a",
				to:    []Frontend{web},
				want:  []string{"+frontends4", "+guarded4", "+guarded4", "+guarded4"},
			},
			{
				name:  "the second",
				group: "a",
				to:    []Frontend{web, dns},
				want:  []string{"+frontends4", "+restricted4", "+sources4/8"},
			},
			{
				name:  "sources",
				group: "a",
				to:    []Frontend{web, moved},
				want:  []string{"+sources4/12", "+sources4/16", "-sources4/8"},
			},
			{
				name:  "masquerade",
				group: "a",
				to:    []Frontend{masqueraded, moved},
				want:  []string{"+masqueraded4"},
			},
			{
				name:  "of two of the same the first",
				group: "a",
				to:    []Frontend{masqueraded, web, moved},
			},
			{
				name:  "a group later by name claims it too",
				group: "b",
				to:    []Frontend{web},
			},
			{
				name:  "the first group gives it up",
				group: "a",
				to:    []Frontend{moved},
				want:  []string{"-masqueraded4"},
			},
			{
				name:  "the first group is gone",
				group: "a",
				want:  []string{"-frontends4", "-restricted4", "-sources4/12", "-sources4/16"},
			},
			{
				name:  "nobody claims the address",
				group: "b",
				want:  []string{"-frontends4", "-guarded4", "-guarded4", "-guarded4"},
			},
		} {
			f.mu.Lock()
			f.changed = nil
			f.mu.Unlock()
			d.Sync(step.group, step.to)
			synctest.Wait()
			if diff := cmp.Diff(step.want, f.changed); diff != "" {
				t.Errorf("%s: (-want +got)\n%s", step.name, diff)
			}
		}
	})
}

func TestDriver_Sync_randomHistories(t *testing.T) {
	frontend := rapid.Custom(func(t *rapid.T) Frontend {
		return Frontend{
			Address: rapid.SampledFrom(
				[]netip.Addr{
					netip.MustParseAddr("192.0.2.1"),
					netip.MustParseAddr("192.0.2.2"),
					netip.MustParseAddr("2001:db8::1"),
				},
			).Draw(
				t,
				"address",
			),
			Port:       rapid.Uint16Range(1, 3).Draw(t, "port"),
			Protocol:   rapid.SampledFrom(protocols[:]).Draw(t, "protocol"),
			Masquerade: rapid.Bool().Draw(t, "masquerade"),
			Sources: rapid.SliceOfN(
				rapid.SampledFrom(prefixes("10.0.0.0/8", "10.1.0.0/16", "0.0.0.0/0", "192.0.2.7/32", "::/0", "fd00::/64")),
				0,
				3,
			).Draw(
				t,
				"sources",
			),
		}
	})
	type step struct {
		group     string
		frontends []Frontend
		together  bool // with the next
	}
	history := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) step {
		return step{
			rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "group"),
			rapid.SliceOfN(frontend, 0, 5).Draw(t, "frontends"),
			rapid.Bool().Draw(t, "together"),
		}
	}), 1, 20)
	rapid.Check(t, func(r *rapid.T) {
		steps, wrong := history.Draw(r, "history"), ""
		synctest.Test(t, func(t *testing.T) {
			d, f := keep(t)
			groups := map[string][]Frontend{}
			for _, s := range steps {
				d.Sync(s.group, s.frontends)
				if groups[s.group] = s.frontends; !s.together {
					synctest.Wait()
				}
			}
			synctest.Wait()
			winners := map[endpoint]Frontend{}
			for _, group := range slices.Sorted(maps.Keys(groups)) {
				for _, w := range groups[group] {
					if _, taken := winners[endpoint{w.Address, w.Port, w.Protocol}]; !taken {
						winners[endpoint{w.Address, w.Port, w.Protocol}] = w
					}
				}
			}
			want := map[nft.Element]bool{}
			for _, e := range distinct(slices.Collect(maps.Values(winners))...) {
				want[e] = true
			}
			if err := errors.Join(f.refused, d.Err()); err != nil || !maps.Equal(f.elements, want) {
				wrong = fmt.Sprintf("%v; the table has %v, want %v", err, f.elements, want)
			}
		})
		if wrong != "" {
			r.Fatal(wrong)
		}
	})
}
