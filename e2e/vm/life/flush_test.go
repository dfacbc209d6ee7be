//go:build qemu && release

package life_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/berth-lb/berth/e2e/vm/cluster"
)

// longParts take minutes: nothing tells the speaker that virtual servers were deleted, it looks.
func (l *life) longParts() []part {
	return []part{{"a kube-proxy that starts deletes all virtual servers", l.flushed}}
}

// flushed restarts kube-proxy in mode nftables, which empties the kernel's table of IPVS when it
// finds the module: for that it asks modprobe, which finds nothing in this guest, so another stands
// in for it.
func (l *life) flushed(t, parent *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "modprobe"), []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	var talks []*talk
	for range established {
		talks = append(talks, newTalk(t, "tcp", web4))
	}
	const repaired = "IPVS table was not as desired, and was repaired"
	before := strings.Count(l.Log(t, "speaker-n1"), repaired)
	come := cluster.StartNewcomers(t, web4, port)
	stop(t, l.proxy, syscall.SIGTERM)
	l.proxy = l.startProxy(parent, "nftables", "PATH="+dir+":"+os.Getenv("PATH"))
	cluster.Eventually(t, func(context.Context) error {
		if strings.Count(l.Log(t, "speaker-n1"), repaired) == before {
			return errors.New("nobody deleted virtual servers")
		}
		return nil
	})
	l.awaitIPVS(t)
	come.AwaitMore(t, 20)
	answered, failed, longest := come.End()
	broken := endAll(talks)
	t.Logf("%d of %d established connections broke; %d new ones were answered and %d failed, longest time between two %s",
		len(broken), established, answered, len(failed), longest.Round(time.Millisecond))
}
