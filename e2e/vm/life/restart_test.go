//go:build qemu

package life_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/berth-lb/berth/e2e/vm/cluster"
)

// mostGap is the longest that new connections may wait for an answer: with packets lost for three
// seconds it would be longer, since TCP retries after one second and then after two more. The
// emulated machine itself sometimes stops for a second or two.
const mostGap = 5 * time.Second

// restarts kills the speaker, and then has it end cleanly while its DaemonSet exists. The kernel
// keeps forwarding all the time.
func (l *life) restarts(t, parent *testing.T) {
	toKubeProxy := func() int { return strings.Count(l.Log(t, "controller"), `"ipMode":"VIP"`) }
	talks := l.talk(t, 2)
	for _, signal := range []os.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		name := signal.String()
		entries := l.connections(t, talks)
		if len(entries) != len(talks) {
			t.Errorf("IPVS knows %d of %d connections: %q", len(entries), len(talks), entries)
		}
		told := toKubeProxy()
		_, counted := l.servers(t)
		come := cluster.StartNewcomers(t, web4, port)
		stop(t, l.speaker, signal)
		away := time.Now()
		come.AwaitMore(t, 10) // without a speaker
		l.start(parent, "--ipvs")
		t.Logf("%s: the speaker was away for %s", name, time.Since(away).Round(time.Millisecond))
		come.AwaitMore(t, 40) // what it does at first, and each 2 s
		for name, n := range l.since(t, counted) {
			if n < 0 {
				t.Errorf("%s was recreated: it had %d connections, and %d less now", name, counted[name], -n)
			}
		}
		if toKubeProxy() != told {
			t.Errorf("%s: for a while the status had kube-proxy forward", name)
		}
		answered, failed, longest := come.End()
		t.Logf("%s: %d new connections were answered, the longest time between two was %s", name, answered, longest.Round(time.Millisecond))
		if len(failed) > 0 || longest > mostGap {
			t.Errorf("%s: new connections failed: %v; longest gap %s", name, failed, longest)
		}
		// The kernel brings its counters up to date every 2 s.
		cluster.Eventually(t, func(context.Context) error {
			if n := l.since(t, counted)["TCP "+web4+":7000"]; n < int64(answered) {
				return fmt.Errorf("%s: the virtual server counts %d connections more, and %d were answered: it was recreated", name, n, answered)
			}
			return nil
		})
		if now := l.connections(t, talks); !slices.Equal(now, entries) {
			t.Errorf("%s: IPVS had\n%s\nand now has\n%s", name, strings.Join(entries, "\n"), strings.Join(now, "\n"))
		}
	}
	if broken := endAll(talks); len(broken) > 0 {
		t.Errorf("%d of %d broke:\n%s", len(broken), len(talks), strings.Join(broken, "\n"))
	}
}

// since returns how many connections each virtual server has had since then.
func (l *life) since(t *testing.T, counted map[string]uint64) map[string]int64 {
	t.Helper()
	_, now := l.servers(t)
	more := map[string]int64{}
	for name, n := range counted {
		more[name] = int64(now[name]) - int64(n)
	}
	return more
}

// connections returns those of the talks that IPVS knows: who talks, with whom, and which endpoint
// answers.
func (l *life) connections(t *testing.T, talks []*talk) []string {
	t.Helper()
	ours := map[string]bool{}
	for _, k := range talks {
		ours[k.inKernel()] = true
	}
	var found []string
	for line := range strings.Lines(cluster.Run(t, l.node.Name, "cat", "/proc/net/ip_vs_conn")) {
		// protocol, client, its port, address, port, endpoint, its port, state, seconds that are left
		f := strings.Fields(line)
		if len(f) > 7 && ours[strings.Join(f[:5], " ")] {
			found = append(found, strings.Join(f[:7], " "))
		}
	}
	slices.Sort(found)
	return found
}
