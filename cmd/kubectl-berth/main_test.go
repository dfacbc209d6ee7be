package main

import (
	"os"
	"os/signal"
	"slices"
	"syscall"
	"testing"
	"time"
)

// Who interrupts the plugin, ends it, or closes its terminal lets it clean up.
func TestInterruptible(t *testing.T) {
	signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP) // also if the tests run under nohup
	defer signal.Reset(syscall.SIGHUP)
	for _, s := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		ctx, stop := interruptible()
		defer stop()
		if err := syscall.Kill(os.Getpid(), s); err != nil {
			t.Fatal(err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(10 * time.Second):
			t.Errorf("%v does not end the context", s)
		}
	}
}

// What was started with nohup outlives its terminal.
func TestHangupIgnored(t *testing.T) {
	signal.Ignore(syscall.SIGHUP)
	defer signal.Reset(syscall.SIGHUP)
	if all := interrupts(); slices.Contains(all, os.Signal(syscall.SIGHUP)) || len(all) != 2 {
		t.Errorf("signals %v", all)
	}
}
