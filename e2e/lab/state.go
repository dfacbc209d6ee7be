//go:build linux

package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// The phases of a lab, as its state file has them.
const (
	phaseComing = "coming up"
	phaseUp     = "up"
)

// state is what a lab stores for later processes. It is written before anything else is made. Down
// reads from the kernel what really exists.
type state struct {
	Phase   string
	Options Options
	// Builder is the process that brings the lab up, and Begun its start time in the kernel's ticks,
	// so that a later process with the same number is not mistaken for it.
	Builder int
	Begun   string
}

func (l *Lab) statePath() string { return filepath.Join(l.dir(), "state.json") }

func (l *Lab) store(phase string) error {
	begun, err := startTime(os.Getpid())
	if err != nil {
		return fmt.Errorf("store the lab's state: %w", err)
	}
	text, err := json.MarshalIndent(state{Phase: phase, Options: l.opts, Builder: os.Getpid(), Begun: begun}, "", "  ")
	if err != nil {
		return fmt.Errorf("store the lab's state: %w", err)
	}
	if err := os.WriteFile(l.statePath()+".new", text, 0o600); err != nil {
		return fmt.Errorf("store the lab's state: %w", err)
	}
	return os.Rename(l.statePath()+".new", l.statePath())
}

func (l *Lab) load() (state, error) {
	var s state
	text, err := os.ReadFile(l.statePath())
	if err != nil {
		return s, fmt.Errorf("read the lab's state: %w", err)
	}
	if err := json.Unmarshal(text, &s); err != nil {
		return s, fmt.Errorf("read the lab's state: %w", err)
	}
	return s, nil
}

// claim makes the lab's folder, after removing what a dead Up left.
func (l *Lab) claim(ctx context.Context) error {
	if s, err := l.load(); err == nil {
		switch begun, err := startTime(s.Builder); {
		case s.Phase == phaseUp && l.alive():
			return fmt.Errorf("lab %q is up already: take it down first with `lab down --name %s`", l.opts.Name, l.opts.Name)
		case s.Phase == phaseComing && err == nil && begun == s.Begun:
			return fmt.Errorf("lab %q is just being brought up by process %d", l.opts.Name, s.Builder)
		}
	}
	left, err := l.remains()
	if err != nil {
		return err
	}
	if len(left) > 0 {
		l.say("clearing away what an earlier lab %q left behind", l.opts.Name)
		if err := l.Down(ctx); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(filepath.Dir(l.dir()), 0o755); err != nil {
		return fmt.Errorf("make the lab's folder: %w", err)
	}
	if err := os.Mkdir(l.dir(), 0o755); errors.Is(err, os.ErrExist) {
		return fmt.Errorf("lab %q is just being brought up by another process", l.opts.Name)
	} else if err != nil {
		return fmt.Errorf("make the lab's folder: %w", err)
	}
	return l.store(phaseComing)
}

// alive reports whether any host of the lab runs.
func (l *Lab) alive() bool {
	inits, err := l.inits()
	return err == nil && len(inits) > 0
}
