//go:build release

package release

import (
	"bytes"
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/berth-lb/berth/e2e/lab"
	"github.com/berth-lb/berth/e2e/stage"
)

// The pace of the clients that use MetalLB's Services all the time.
const (
	probeEvery   = 20 * time.Millisecond
	probeTimeout = 2 * time.Second
)

// startWitness has clients ask MetalLB's Services all the time, watches the Services'
// statuses, and counts who dials the router.
func (b *beside) startWitness(t *testing.T) {
	t.Helper()
	var err error
	if b.statuses, err = b.WatchStatuses(t.Context(), metalApp.Namespace); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.statuses.Stop(); err != nil {
			t.Error(err)
		}
	})
	const counter = `
add table inet witness
delete table inet witness
add table inet witness
add counter inet witness dials
add chain inet witness input { type filter hook input priority 0; }
add rule inet witness input tcp dport 179 tcp flags & (syn | ack) == syn counter name dials
`
	cmd := b.Exec(t.Context(), lab.Router, "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(counter)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("count who dials the router: %v\n%s", err, bytes.TrimSpace(out))
	}
	b.probes = map[string]*stage.Watch{}
	for _, svc := range b.metal {
		w := b.StartWatch(t.Context(), hostFor(svc), addressOf(svc), probeEvery, probeTimeout, false)
		t.Cleanup(func() { w.Stop() })
		b.probes[svc.Name] = w
	}
}

// mark is a moment in what the witness sees.
type mark struct {
	at      time.Time
	changes int
	dials   int
}

func (b *beside) mark(t *testing.T) mark {
	t.Helper()
	dials, err := b.dials(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return mark{time.Now(), len(b.statuses.Changes()), dials}
}

// unharmed checks that since the mark nobody who uses what MetalLB serves has noticed
// anything.
func (b *beside) unharmed(t *testing.T, since mark) {
	t.Helper()
	for name, probe := range b.probes {
		asked, failed := 0, stage.Record{}
		for _, request := range probe.Record() {
			if request.Done.Before(since.at) {
				continue
			}
			asked++
			if request.Err != nil {
				failed = append(failed, request)
			}
		}
		if asked == 0 {
			t.Errorf("nobody asked for MetalLB's Service %s", name)
		}
		if len(failed) > 0 {
			t.Errorf(
				"%d of %d requests to MetalLB's Service %s failed, first at %s with %v", len(failed), asked, name,
				failed[0].Sent.Format("15:04:05.000"), failed[0].Err,
			)
		}
	}
	b.statusesKept(t, since)
	sessions, err := b.RouterSessions(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, node := range b.Nodes() {
		if sessions[node] != b.sessions[node] {
			t.Errorf("the router's session with MetalLB on %s was %+v and is %+v", node, b.sessions[node], sessions[node])
		}
	}
	if n := b.mark(t).dials - since.dials; n > 0 {
		t.Errorf("the nodes sent the router %d requests for a connection to its BGP port, want none", n)
	}
}

// statusesKept checks that the addresses in the statuses did not change, and that Berth
// wrote nothing as long as no pool of it takes over.
func (b *beside) statusesKept(t *testing.T, since mark) {
	t.Helper()
	var foreign []stage.StatusChange
	for _, change := range b.statuses.Changes()[since.changes:] {
		if !b.adopting || !slices.Equal(change.Before, change.After) {
			foreign = append(foreign, change)
		}
	}
	if len(foreign) > 0 {
		t.Errorf("statuses of MetalLB's Services changed %d times, first: %s", len(foreign), foreign[0])
	}
	if !b.adopting {
		b.noWrites(t)
	}
}

// noWrites checks that Berth has never written MetalLB's Services, nor is among those who
// have.
func (b *beside) noWrites(t *testing.T) {
	t.Helper()
	writes, err := b.Writes(metalApp.Namespace)
	if err != nil {
		t.Fatal(err)
	}
	if len(writes) > 0 {
		t.Errorf("Berth wrote MetalLB's Services %d times, first: %s", len(writes), writes[0])
	}
	for _, change := range b.statuses.Changes() {
		if strings.Contains(strings.Join(change.Managers, " "), "berth") {
			t.Errorf("Berth is among the managers of a Service of MetalLB's: %s", change)
			return
		}
	}
}

var packets = regexp.MustCompile(`packets (\d+)`)

// dials returns how many connections to its BGP port the router was asked for since the
// witness was started.
func (b *beside) dials(ctx context.Context) (int, error) {
	out, err := b.Exec(ctx, lab.Router, "nft", "list", "counter", "inet", "witness", "dials").Output()
	if err != nil {
		return 0, fmt.Errorf("count who dialed the router: %w", err)
	}
	found := packets.FindSubmatch(out)
	if found == nil {
		return 0, fmt.Errorf("count who dialed the router: %q has no packets", out)
	}
	return strconv.Atoi(string(found[1]))
}
