package nft

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// fake is a table in memory that behaves as the kernel's: a write succeeds as a whole or not at
// all.
type fake struct {
	mu       sync.Mutex
	elements map[int]bool // guarded by mu; nil: there is no table
	failure  error        // guarded by mu
	writes   int          // guarded by mu; those of everything
	changed  func()       // guarded by mu
}

func (f *fake) Replace(elements []int) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failure != nil {
		return f.failure
	}
	f.writes++
	f.elements = map[int]bool{}
	for _, e := range elements {
		f.elements[e] = true
	}
	return nil
}

func (f *fake) Change(add, remove []int) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failure != nil {
		return f.failure
	}
	next := maps.Clone(f.elements)
	for _, e := range remove {
		if !next[e] {
			return fmt.Errorf("there is no %d", e)
		}
		delete(next, e)
	}
	for _, e := range add {
		if next == nil || next[e] {
			return fmt.Errorf("%d cannot be added", e)
		}
		next[e] = true
	}
	f.elements = next
	return nil
}

func (f *fake) Check(elements []int) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	slices.Sort(elements)
	if have := slices.Sorted(maps.Keys(f.elements)); f.elements == nil || !slices.Equal(have, elements) {
		return fmt.Errorf("found %v", have)
	}
	return nil
}

func (f *fake) Remove() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.elements = nil
	return nil
}

func (f *fake) Watch(ctx context.Context, changed func()) error {
	f.mu.Lock()
	f.changed = changed
	f.mu.Unlock()
	<-ctx.Done()
	return nil
}

// harm does what somebody else may do, and tells of it as the kernel would.
func (f *fake) harm(do func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	do()
	f.changed()
}

// keep runs a keeper until the end of the test.
func keep(t *testing.T, f *fake) *Keeper[int] {
	k := NewKeeper(slog.New(slog.DiscardHandler), f, "nothing is kept")
	k.Whole = func(e int) bool { return e < 0 }
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- k.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	synctest.Wait()
	return k
}

func TestKeeper_randomHistories(t *testing.T) {
	for seed := range uint64(200) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 0))
			f := &fake{elements: map[int]bool{7: true}} // of a former process
			k := keep(t, f)
			groups := map[int][]int{}
			for range 50 {
				switch random.IntN(10) {
				case 0:
					f.harm(func() { f.elements = nil })
				case 1:
					f.harm(func() { delete(f.elements, random.IntN(10)) })
				case 2:
					f.mu.Lock()
					f.failure = nil
					if random.IntN(2) == 0 {
						f.failure = errors.New("no memory")
					}
					f.mu.Unlock()
				case 3:
					synctest.Wait()
				default:
					group, elements := random.IntN(3), []int(nil)
					for range random.IntN(4) {
						elements = append(elements, random.IntN(12)-2)
					}
					k.Update(elements, groups[group])
					groups[group] = elements
				}
			}
			f.mu.Lock()
			f.failure = nil
			f.mu.Unlock()
			<-time.After(k.Retry) // of synctest's clock: a failure is behind us
			synctest.Wait()
			want := slices.Concat(slices.Collect(maps.Values(groups))...)
			slices.Sort(want)
			if err := f.Check(slices.Compact(want)); err != nil || k.Err() != nil {
				t.Errorf("seed %d: %v, want %v; it says %v", seed, err, want, k.Err())
			}
		})
	}
}

func TestKeeper_Err(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{failure: errors.New("no such kernel")}
		k := keep(t, f)
		k.Update([]int{1}, nil)
		synctest.Wait()
		if err := k.Err(); err == nil || !strings.Contains(err.Error(), "nothing is kept: no such kernel") {
			t.Errorf("after a change it says %v", err)
		}
		f.mu.Lock()
		f.failure = nil
		f.mu.Unlock()
		<-time.After(k.Retry) // of synctest's clock
		synctest.Wait()
		if err := errors.Join(k.Err(), f.Check([]int{1})); err != nil {
			t.Error(err)
		}
	})
}

func TestKeeper_writesOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{}
		keep(t, f)
		f.harm(func() {}) // an element came and went
		<-time.After(2 * resync)
		synctest.Wait()
		if f.writes != 1 {
			t.Errorf("it was written %d times, want once", f.writes)
		}
	})
}

func TestKeeper_wholesale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{}
		k := keep(t, f)
		var many []int
		for e := range wholesale + 1 {
			many = append(many, e)
		}
		k.Update(many[1:], nil)
		synctest.Wait()
		if f.writes != 1 {
			t.Errorf("%d changes: it was written %d times as a whole, want only the first time", wholesale, f.writes)
		}
		k.Update(nil, many[1:])
		synctest.Wait()
		k.Update(many, nil)
		synctest.Wait()
		if err := f.Check(many); err != nil || f.writes != 2 {
			t.Errorf("%d changes: it was written %d times as a whole, want 2; %v", wholesale+1, f.writes, err)
		}
	})
}

func TestKeeper_Remove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{}
		k := keep(t, f)
		if err := k.Remove(); err != nil {
			t.Fatal(err)
		}
		k.Update([]int{1, -1}, nil)
		f.harm(func() {})
		<-time.After(2 * resync)
		synctest.Wait()
		if f.elements != nil {
			t.Errorf("the table is back with %v", f.elements)
		}
	})
}
