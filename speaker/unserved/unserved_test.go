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
	"time"
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

func (f *fake) replace(prefixes []netip.Prefix) error {
	return f.call(fmt.Sprintf("replace by %d", len(prefixes)), func() {
		clear(f.prefixes)
		for _, p := range prefixes {
			f.prefixes[p] = true
		}
	})
}

func (f *fake) change(add, remove []netip.Addr) error {
	return f.call(fmt.Sprintf("add %v, remove %v", add, remove), func() {
		for _, a := range add {
			f.prefixes[netip.PrefixFrom(a, a.BitLen())] = true
		}
		for _, a := range remove {
			delete(f.prefixes, netip.PrefixFrom(a, a.BitLen()))
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

func (f *fake) holds(prefixes []netip.Prefix) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	want := map[netip.Prefix]bool{}
	for _, p := range prefixes {
		want[p] = true
	}
	return maps.Equal(want, f.prefixes), f.failure
}

func (f *fake) dropped() (map[string]uint64, error) { return nil, nil }

func (f *fake) remove() error { return f.call("remove", func() { clear(f.prefixes) }) }

func (f *fake) watch(ctx context.Context, lost func()) error {
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

func run(t *testing.T, table table, retry time.Duration) *Driver {
	t.Helper()
	d := newDriver(slog.New(slog.DiscardHandler), table)
	d.retry = retry
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

func TestWhatAFormerProcessLeftIsReplacedAndThenOnlyChangesAreWritten(t *testing.T) {
	f := newFake()
	d := newDriver(slog.New(slog.DiscardHandler), f)
	d.Sync("web", prefixes("192.0.2.1/32", "2001:db8::1/128"))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- d.Run(ctx) }()
	f.told(t, "replace by 2")
	d.Sync("dns", prefixes("192.0.2.1/32", "192.0.2.2/32")) // shares an address
	f.told(t, "add [192.0.2.2], remove []")
	d.Sync("dns", prefixes("192.0.2.2/32", "192.0.2.3/32"))
	f.told(t, "add [192.0.2.3], remove []")
	d.Sync("web", nil)
	select {
	case got := <-f.calls:
		if got != "add [], remove [192.0.2.1 2001:db8::1]" && got != "add [], remove [2001:db8::1 192.0.2.1]" {
			t.Errorf("the table was told to %s", got)
		}
	case <-time.After(time.Minute):
		t.Error("what nobody wants any more was not removed")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if want := map[netip.Prefix]bool{prefixes("192.0.2.2/32")[0]: true, prefixes("192.0.2.3/32")[0]: true}; !maps.Equal(f.prefixes, want) {
		t.Errorf("it leaves %v, want %v", slices.Collect(maps.Keys(f.prefixes)), slices.Collect(maps.Keys(want)))
	}
}

func TestAggregatesAreWrittenTogether(t *testing.T) {
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

func TestAFailureIsToldWithItsCauseAndTriedAgain(t *testing.T) {
	f := newFake()
	f.fail(errors.New("no such kernel"))
	d := run(t, f, time.Millisecond)
	f.told(t, "failed to replace by 0")
	f.told(t, "failed to replace by 0")
	if text := d.Err(); !strings.Contains(text, "are not dropped: no such kernel") {
		t.Errorf("the error is %q", text)
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

func TestWhatSomebodyElseTakesOutIsWrittenAgain(t *testing.T) {
	f := newFake()
	d := run(t, f, time.Hour)
	f.told(t, "replace by 0")
	d.Sync("web", prefixes("192.0.2.1/32"))
	f.told(t, "add [192.0.2.1], remove []")
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

func TestNothingIsWrittenAfterTheTableIsRemoved(t *testing.T) {
	f := newFake()
	d := run(t, f, time.Hour)
	f.told(t, "replace by 0")
	if err := d.Remove(); err != nil {
		t.Fatal(err)
	}
	f.told(t, "remove")
	d.Sync("web", prefixes("192.0.2.1/32", "198.51.100.0/24"))
	k := keeper{Driver: d, applied: map[netip.Prefix]bool{}}
	if err := errors.Join(k.apply(), k.restore(), k.repair()); err != nil {
		t.Error(err)
	}
	if len(f.calls) > 0 {
		t.Errorf("the table was told to %s", <-f.calls)
	}
}
