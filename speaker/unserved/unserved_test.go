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

	"github.com/berth-lb/berth/speaker/nft"
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

func TestWhatAFormerProcessLeftIsReplacedAndThenOnlyChangesAreWritten(t *testing.T) {
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

func TestWhatSomebodyElseTakesOutIsWrittenAgain(t *testing.T) {
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
