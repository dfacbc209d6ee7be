//go:build release

package release

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berth-lb/berth/e2e/lab"
)

// churnFor is how long faults strike at random; BERTH_STEERING_CHURN=1h for longer.
func churnFor(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv("BERTH_STEERING_CHURN")
	if text == "" {
		return time.Minute
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatalf("BERTH_STEERING_CHURN: %v", err)
	}
	return d
}

// steeringFault strikes a node. The returned function ends it.
type steeringFault struct {
	name string
	// fatal: connections with Pods of the node break.
	fatal bool
	// deaf: until it ends the node learns of no other's death.
	deaf   bool
	strike func(ctx context.Context, r *steeringRack, node string) (end func(context.Context) error, err error)
}

func steeringFaults() []steeringFault {
	froze := func(process string) func(context.Context, *steeringRack, string) (func(context.Context) error, error) {
		return func(ctx context.Context, r *steeringRack, node string) (func(context.Context) error, error) {
			return func(ctx context.Context) error { return r.Resume(ctx, process+"@"+node) }, r.Pause(ctx, process+"@"+node)
		}
	}
	killed := func(process string) func(context.Context, *steeringRack, string) (func(context.Context) error, error) {
		return func(ctx context.Context, r *steeringRack, node string) (func(context.Context) error, error) {
			return nil, r.Kill(ctx, process+"@"+node)
		}
	}
	return []steeringFault{
		{
			name: "its cable is cut", fatal: true,
			strike: func(_ context.Context, r *steeringRack, node string) (func(context.Context) error, error) {
				return func(context.Context) error { return r.Heal(node) }, r.Cut(node)
			},
		},
		{name: "its heart freezes", strike: froze("heart")},
		{name: "its speaker freezes", deaf: true, strike: froze("speaker")},
		{name: "its heart is killed", strike: killed("heart")},
		{name: "its speaker is killed", deaf: true, strike: killed("speaker")},
		{
			name: "its speaker loses the API",
			strike: func(ctx context.Context, r *steeringRack, node string) (func(context.Context) error, error) {
				return func(ctx context.Context) error { return r.RegainAPI(ctx, node) },
					r.LoseAPI(ctx, node, lab.APILoss{Pods: true})
			},
		},
		{
			name: "the router loses it",
			strike: func(ctx context.Context, r *steeringRack, node string) (func(context.Context) error, error) {
				return routerLoses(ctx, r.Stage, node)
			},
		},
	}
}

// churn strikes one or two nodes with faults at random, again and again, while Pods come and go on
// n1 and n4. BERTH_FAULTS_SEED=N does the same again.
func (r *steeringRack) churn(t *testing.T) {
	chance := random(t)
	begun, guests := time.Now(), map[string]bool{}
	broke, saw := newBreakage(), arrivals{}
	rounds := 0
	for end := begun.Add(churnFor(t)); time.Now().Before(end) && !t.Failed(); rounds++ {
		r.held.renewControls(t)
		what, gone := r.round(t, chance, guests)
		saw = saw.add(r.newcomers.since(begun))
		now := r.held.judge(t, gone...)
		t.Logf("round %d, %s: %s", rounds+1, what, now)
		if broken, _ := now.total(); broken > 0 {
			t.Errorf("%d connections broke in round %d: %s", broken, rounds+1, what)
		}
		broke = now.add(broke)
		r.held.renew(t, gone...)
		begun = time.Now()
	}
	for node := range guests {
		r.leaves(t, node)
	}
	r.held.judge(t, "n1", "n4")
	report("churn", broke, saw)
	fmt.Printf("steering/churn_rounds %d\n", rounds)
	if _, controls := broke.total(); controls == 0 {
		t.Errorf("no connection without second chance broke, so this shows nothing: %s", broke)
	}
}

// round strikes nodes, while a Pod comes or goes on another one, and waits until all is well again.
// It returns what it did, and the nodes whose own connections may have broken.
func (r *steeringRack) round(t *testing.T, chance *rand.Rand, guests map[string]bool) (what string, gone []string) {
	t.Helper()
	var did []string
	nodes := slices.Clone(r.Nodes())
	chance.Shuffle(len(nodes), func(i, j int) { nodes[i], nodes[j] = nodes[j], nodes[i] })
	var ends []func(context.Context) error
	faults := steeringFaults()
	begun, dies, deaf := time.Now(), false, false
	for _, node := range nodes[:1+chance.IntN(2)] {
		kind := faults[chance.IntN(len(faults))]
		if kind.fatal && len(gone) > 0 {
			continue // the Pods of one node at least are to live
		}
		end, err := kind.strike(t.Context(), r, node)
		if end != nil {
			ends = append(ends, end)
		}
		if err != nil {
			t.Fatal(err)
		}
		if kind.fatal {
			gone, dies = append(gone, node), true
		}
		deaf = deaf || kind.deaf
		did = append(did, node+": "+kind.name)
	}
	for _, guest := range []string{"n1", "n4"} {
		switch struck := slices.Contains(gone, guest); {
		case struck || chance.IntN(2) == 0:
		case guests[guest]:
			delete(guests, guest)
			gone = append(gone, guest)
			did = append(did, guest+": its Pod goes")
			r.scale(t, guest, 0)
		default:
			guests[guest] = true
			did = append(did, guest+": a Pod comes")
			r.scale(t, guest, 1)
		}
	}
	lasting := time.Second + time.Duration(chance.Int64N(int64(3*time.Second)))
	lasts(t, lasting)
	if dies {
		death := r.newcomers.since(begun)
		t.Logf("new ones of this death, by front %v: %s", death.failedBy, death)
		if deaf {
			r.unheardDeaths = append(r.unheardDeaths, death)
		} else {
			r.deaths = append(r.deaths, death)
		}
	}
	for _, end := range ends {
		must(t, end)
	}
	r.whole(t)
	return strings.Join(did, "; ") + " for " + lasting.Round(time.Millisecond).String(), gone
}
