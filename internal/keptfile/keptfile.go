// Package keptfile keeps what a process knows over its end, for its next process on the same boot
// of the machine.
package keptfile

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-lb/berth/internal/async"
)

// kept is the file.
type kept struct {
	Version int
	Boot    string        // ID of the boot: times count from it
	Written time.Duration // of CLOCK_BOOTTIME
	State   json.RawMessage
}

// Write writes the state to a file that root alone reads, so that a reader has all of it or what
// was there before. The version is that of the state's form.
func Write(path string, version int, state any) error {
	text, err := json.Marshal(state)
	if err == nil {
		text, err = json.Marshal(kept{Version: version, Boot: BootID(), Written: SinceBoot(), State: text})
	}
	if err == nil {
		err = replace(path, text)
	}
	if err != nil {
		return fmt.Errorf("write the state: %w", err)
	}
	return nil
}

func replace(path string, text []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".state-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }() // fails after the rename
	_, err = f.Write(text)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// Read reads a state of this version, of this boot, and not older than that, and returns its age.
// The error wraps fs.ErrNotExist if there is no file.
func Read(path string, version int, atMost time.Duration, state any) (age time.Duration, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, fmt.Errorf("read the state: %w", err)
	}
	var k kept
	if err := json.Unmarshal(text, &k); err != nil {
		return 0, fmt.Errorf("read the state: %w", err)
	}
	age = SinceBoot() - k.Written
	switch {
	case k.Version != version:
		return age, fmt.Errorf("the state is of version %d, and this program writes %d", k.Version, version)
	case k.Boot != BootID() || age < 0:
		return age, errors.New("the state is of another boot")
	case age > atMost:
		return age, fmt.Errorf("the state is %s old", age.Round(time.Minute))
	}
	if err := json.Unmarshal(k.State, state); err != nil {
		return age, fmt.Errorf("read the state: %w", err)
	}
	return age, nil
}

// Remove removes the file, if there is one.
func Remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the state: %w", err)
	}
	return nil
}

// soon is how long changes are gathered before they are written.
const soon = 100 * time.Millisecond

// Keep has a state written when it has changed, until ctx ends, and removes the file then: a
// process that ends on purpose leaves nothing. A change is written soon, so that of processes that
// crash again and again each gets as far as the one before, and the next not before every is over.
// Write reports whether it has written; there may be nothing whole yet.
func Keep(
	ctx context.Context, path string, changed <-chan struct{}, every time.Duration, write func() (bool, error),
	logger *slog.Logger,
) {
	said := ""
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
			continue
		case <-changed:
		}
		if async.Sleep(ctx, soon) != nil {
			break
		}
		written, err := write()
		text := ""
		if err != nil {
			text = err.Error()
		}
		if text != "" && text != said {
			logger.Warn("what this node announces is not kept over an end of this process", "error", err)
		}
		said = text
		if written {
			_ = async.Sleep(ctx, every)
		}
	}
	if err := Remove(path); err != nil {
		logger.Warn("the state was left behind", "error", err)
	}
}

// SinceBoot is CLOCK_BOOTTIME, which counts while the machine sleeps, and has no steps.
func SinceBoot() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		return 0
	}
	return time.Duration(t.Nano())
}

// BootID is the kernel's ID of this boot of the machine.
func BootID() string {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return string(id)
}
