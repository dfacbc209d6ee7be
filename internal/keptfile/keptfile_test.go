package keptfile

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	var got map[string]int
	if _, err := Read(path, 1, time.Hour, &got); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	if err := Write(path, 1, map[string]int{"a": 1}); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file has mode %v, %v", info.Mode(), err)
	}
	age, err := Read(path, 1, time.Hour, &got)
	if err != nil || got["a"] != 1 || age < 0 || age > time.Hour {
		t.Errorf("read %v, %s old: %v", got, age, err)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		text    string
		version int
		atMost  time.Duration
		want    string
	}{
		"of another version": {string(good), 2, time.Hour, "the state is of version 1, and this program writes 2"},
		"old":                {string(good), 1, 0, "the state is 0s old"},
		"of another boot": {
			strings.Replace(string(good), strings.TrimSpace(BootID()), "x", 1), 1, time.Hour, "the state is of another boot",
		},
		"of the future": {
			strings.Replace(string(good), `"Written":`, `"Written":9`, 1), 1, time.Hour, "the state is of another boot",
		},
		"cut off": {string(good[:len(good)/2]), 1, time.Hour, "read the state: unexpected end of JSON input"},
		"of another form": {
			strings.Replace(string(good), `{"a":1}`, `[]`, 1), 1, time.Hour, "read the state: json: cannot unmarshal array",
		},
	} {
		if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Read(path, c.version, c.atMost, &got); err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("a state that is %s: %v, want %s", name, err, c.want)
		}
	}
	for range 2 {
		if err := Remove(path); err != nil {
			t.Error(err)
		}
	}
}

func TestKeep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "state")
		ctx, end := context.WithCancel(t.Context())
		changed, done := make(chan struct{}, 1), make(chan struct{})
		var writes []time.Duration
		var whole atomic.Bool
		begun := time.Now()
		go func() {
			defer close(done)
			Keep(ctx, path, changed, 5*time.Second, func() (bool, error) {
				writes = append(writes, time.Since(begun))
				return whole.Load(), Write(path, 1, 1)
			}, slog.New(slog.DiscardHandler))
		}()
		change := func(after time.Duration) {
			<-time.After(after)
			changed <- struct{}{}
		}
		change(time.Second) // nothing is whole yet
		change(time.Second)
		<-time.After(time.Second / 2)
		whole.Store(true)
		change(time.Second / 2)
		change(time.Second) // too soon after the last
		<-time.After(10 * time.Second)
		end()
		<-done
		ms := func(n int) time.Duration { return time.Duration(n) * time.Millisecond }
		if want := []time.Duration{ms(1100), ms(2100), ms(3100), ms(8200)}; !slices.Equal(writes, want) {
			t.Errorf("written at %v, want %v", writes, want)
		}
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("after its end there is a file: %v", err)
		}
	})
}
