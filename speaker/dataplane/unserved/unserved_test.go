package unserved

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-lb/berth/config/inuse"
	"github.com/berth-lb/berth/speaker/dataplane/nft"
)

// fake is a table in memory that tells of each call.
type fake struct {
	calls chan string

	mu       sync.Mutex
	prefixes map[netip.Prefix]bool // guarded by mu
	failure  error                 // guarded by mu
	lost     func()                // guarded by mu
}

func newFake() *fake {
	return &fake{calls: make(chan string, 100), prefixes: map[netip.Prefix]bool{}}
}

func (f *fake) Replace(prefixes []netip.Prefix) error {
	return f.call(fmt.Sprintf("replace by %d", len(prefixes)), func() {
		clear(f.prefixes)
		for _, p := range prefixes {
			f.prefixes[p] = true
		}
	})
}

func (f *fake) Change(add, remove []netip.Prefix) error {
	return f.call(fmt.Sprintf("add %v, remove %v", add, remove), func() {
		for _, p := range add {
			f.prefixes[p] = true
		}
		for _, p := range remove {
			delete(f.prefixes, p)
		}
	})
}

func (f *fake) call(text string, do func()) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failure != nil {
		f.calls <- "failed to " + text
		return f.failure
	}
	do()
	f.calls <- text
	return nil
}

func (f *fake) Check(prefixes []netip.Prefix) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	want := map[netip.Prefix]bool{}
	for _, p := range prefixes {
		want[p] = true
	}
	if !maps.Equal(want, f.prefixes) {
		return errors.New("others")
	}
	return f.failure
}

func (f *fake) Remove() error { return f.call("remove", func() { clear(f.prefixes) }) }

func (f *fake) Watch(ctx context.Context, lost func()) error {
	f.mu.Lock()
	f.lost = lost
	f.mu.Unlock()
	<-ctx.Done()
	return nil
}

// fail has calls fail from now on, or with nil succeed again.
func (f *fake) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.failure = err
}

// told waits for the next call.
func (f *fake) told(t *testing.T, want string) {
	t.Helper()
	select {
	case got := <-f.calls:
		if got != want {
			t.Fatalf("the table was told to %s, want %s", got, want)
		}
	case <-time.After(time.Minute):
		t.Fatalf("the table was not told to %s", want)
	}
}

func prefixes(texts ...string) []netip.Prefix {
	var list []netip.Prefix
	for _, text := range texts {
		list = append(list, netip.MustParsePrefix(text))
	}
	return list
}

func run(t *testing.T, store nft.Store[netip.Prefix], retry time.Duration) *Driver {
	t.Helper()
	d := newDriver(slog.New(slog.DiscardHandler), store)
	d.keeper.Retry = retry
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := d.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	return d
}

func TestDriver_Run_restart(t *testing.T) {
	f := newFake()
	d := newDriver(slog.New(slog.DiscardHandler), f)
	d.Sync("web", prefixes("192.0.2.1/32", "2001:db8::1/128"))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- d.Run(ctx) }()
	f.told(t, "replace by 2")
	d.Sync("dns", prefixes("192.0.2.1/32", "192.0.2.2/32")) // shares an address
	f.told(t, "add [192.0.2.2/32], remove []")
	d.Sync("dns", prefixes("192.0.2.2/32", "192.0.2.3/32"))
	f.told(t, "add [192.0.2.3/32], remove []")
	d.Sync("web", nil)
	select {
	case got := <-f.calls:
		if got != "add [], remove [192.0.2.1/32 2001:db8::1/128]" && got != "add [], remove [2001:db8::1/128 192.0.2.1/32]" {
			t.Errorf("the table was told to %s", got)
		}
	case <-time.After(time.Minute):
		t.Error("what nobody wants any more was not removed")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if want := map[netip.Prefix]bool{prefixes("192.0.2.2/32")[0]: true, prefixes("192.0.2.3/32")[0]: true}; !maps.Equal(
		f.prefixes,
		want,
	) {
		t.Errorf("it leaves %v, want %v", slices.Collect(maps.Keys(f.prefixes)), slices.Collect(maps.Keys(want)))
	}
}

func TestDriver_Sync_aggregates(t *testing.T) {
	f := newFake()
	d := run(t, f, time.Hour)
	f.told(t, "replace by 0")
	d.Sync("web", prefixes("192.0.2.0/24"))
	f.told(t, "replace by 1")
	d.Sync("dns", prefixes("192.0.2.0/25", "192.0.2.1/32"))
	f.told(t, "replace by 3")
	d.Sync("web", nil)
	f.told(t, "replace by 2")
}

func TestDriver_Err(t *testing.T) {
	f := newFake()
	f.fail(errors.New("no such kernel"))
	d := run(t, f, time.Millisecond)
	f.told(t, "failed to replace by 0")
	f.told(t, "failed to replace by 0")
	if err := d.Err(); err == nil || !strings.Contains(err.Error(), "are not dropped: no such kernel") {
		t.Errorf("the error is %v", err)
	}
	d.Sync("web", prefixes("192.0.2.1/32"))
	f.fail(nil)
	for got := ""; got != "replace by 1"; {
		select {
		case got = <-f.calls:
		case <-time.After(time.Minute):
			t.Fatal("it was not tried again")
		}
	}
}

func TestDriver_Run_drift(t *testing.T) {
	f := newFake()
	d := run(t, f, time.Hour)
	f.told(t, "replace by 0")
	d.Sync("web", prefixes("192.0.2.1/32"))
	f.told(t, "add [192.0.2.1/32], remove []")
	f.mu.Lock()
	clear(f.prefixes)
	f.mu.Unlock()
	for { // until it watches
		f.mu.Lock()
		lost := f.lost
		f.mu.Unlock()
		if lost != nil {
			lost()
			break
		}
	}
	f.told(t, "replace by 1")
}

// wanted checks that the table in memory has just these prefixes.
func (f *fake) wanted(t *testing.T, what string, want ...string) {
	t.Helper()
	var have []string
	f.mu.Lock()
	for _, p := range slices.SortedFunc(maps.Keys(f.prefixes), netip.Prefix.Compare) {
		have = append(have, p.String())
	}
	f.mu.Unlock()
	if !slices.Equal(have, want) {
		t.Errorf("%s: the table has %v, want %v", what, have, want)
	}
}

func TestDriver_Answering(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		d := run(t, f, time.Hour)
		a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
		for _, step := range []struct {
			what string
			do   func()
			want []string
		}{
			{
				what: "nothing yet",
				do:   func() {},
			},
			{
				what: "on one segment",
				do:   func() { d.Answering(a, true) },
				want: []string{"192.0.2.1/32"},
			},
			{
				what: "on two",
				do:   func() { d.Answering(a, true); d.Answering(b, true) },
				want: []string{"192.0.2.1/32", "2001:db8::1/128"},
			},
			{
				what: "on one again",
				do:   func() { d.Answering(a, false) },
				want: []string{"192.0.2.1/32", "2001:db8::1/128"},
			},
			{
				what: "by BGP too",
				do:   func() { d.Sync("web", prefixes("192.0.2.1/32")) },
				want: []string{"192.0.2.1/32", "2001:db8::1/128"},
			},
			{
				what: "by BGP alone",
				do:   func() { d.Answering(a, false); d.Answering(b, false) },
				want: []string{"192.0.2.1/32"},
			},
			{
				what: "no more than once",
				do:   func() { d.Answering(a, false); d.Sync("web", nil) },
			},
			{
				what: "again",
				do:   func() { d.Answering(a, true) },
				want: []string{"192.0.2.1/32"},
			},
		} {
			step.do()
			synctest.Wait()
			f.wanted(t, step.what, step.want...)
		}
	})
}

// inUse are addresses of nodes.
func inUse(addresses ...string) *inuse.Set {
	node := &corev1.Node{}
	for _, a := range addresses {
		node.Status.Addresses = append(node.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a})
	}
	return inuse.Compile(inuse.Sources{Nodes: []*corev1.Node{node}})
}

func TestDriver_SetUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		d := run(t, f, time.Hour)
		a := netip.MustParseAddr("192.0.2.9")
		whole := []string{"192.0.2.8/30", "192.0.2.9/32"}
		for _, step := range []struct {
			what string
			do   func()
			want []string
		}{
			{
				what: "nothing is in use",
				do:   func() { d.Sync("web", prefixes("192.0.2.8/30")); d.Answering(a, true) },
				want: whole,
			},
			{
				what: "another address is",
				do:   func() { d.SetUsed(inUse("192.0.2.1")) },
				want: whole,
			},
			{
				what: "the address is",
				do:   func() { d.SetUsed(inUse("192.0.2.9")) },
				want: []string{"192.0.2.8/32", "192.0.2.10/31"},
			},
			{
				what: "and is asked for again",
				do:   func() { d.Answering(a, false); d.Answering(a, true) },
				want: []string{"192.0.2.8/32", "192.0.2.10/31"},
			},
			{
				what: "two are",
				do:   func() { d.SetUsed(inUse("192.0.2.9", "192.0.2.11")) },
				want: []string{"192.0.2.8/32", "192.0.2.10/32"},
			},
			{
				what: "nothing is any more",
				do:   func() { d.SetUsed(nil) },
				want: whole,
			},
			{
				what: "a host is heard",
				do:   func() { d.SetConflicts([]netip.Addr{a}) },
				want: []string{"192.0.2.8/32", "192.0.2.10/31"},
			},
			{
				what: "and another is in use",
				do:   func() { d.SetUsed(inUse("192.0.2.8")) },
				want: []string{"192.0.2.10/31"},
			},
			{
				what: "the host is not heard any more",
				do:   func() { d.SetConflicts(nil) },
				want: []string{"192.0.2.9/32", "192.0.2.10/31"},
			},
			{
				what: "all of it is",
				do:   func() { d.SetUsed(inUse("192.0.2.8", "192.0.2.9", "192.0.2.10", "192.0.2.11")) },
			},
			{
				what: "and is not asked for any more",
				do:   func() { d.Answering(a, false); d.Sync("web", nil); d.SetUsed(nil) },
			},
		} {
			step.do()
			synctest.Wait()
			f.wanted(t, step.what, step.want...)
		}
	})
}
