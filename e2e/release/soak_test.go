//go:build release

package release

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"

	"github.com/berth-lb/berth/e2e/lab"
	"github.com/berth-lb/berth/e2e/soak"
	"github.com/berth-lb/berth/e2e/stage"
)

// soakFor is how long TestSoak lasts; BERTH_SOAK=1h, as with `make soak`, for longer.
func soakFor(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv("BERTH_SOAK")
	if text == "" {
		return time.Minute
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatalf("BERTH_SOAK: %v", err)
	}
	return d
}

// enough breaches end a soak: more of them do not help to find the cause.
const enough = 10

// TestSoak strikes random nodes, the router and the control plane with faults of all kinds, while
// Services, pools, labels and announcements change. By a capture of all addresses, the router's
// table and the API it judges that
//
//   - no two nodes that hear each other answer for an address for longer than a move may take;
//   - an address that a Service has is answered for, or has a route, but for the time that it takes
//     to notice a fault;
//   - once a fault is over one node answers for each address, none for another, the L2Owners say
//     so, and all nodes have routes;
//   - at the end, with the same objects as at the beginning, there is no more of anything.
//
// BERTH_FAULTS_SEED=N brings the same faults and changes in the same order again. The plot is
// bin/soak.svg, or where BERTH_SOAK_PLOT says.
func TestSoak(t *testing.T) {
	s := raiseSoak(t)
	defer s.report(t)
	s.whole(t)
	s.settledAll(t)
	s.before = s.census(t)
	s.ended = time.Now()
	for end := s.begun.Add(soakFor(t)); time.Now().Before(end) && s.breaches < enough; {
		s.round(t, s.plan.Next())
	}
	s.finish(t)
}

// soaking is a field on which a plan comes true.
type soaking struct {
	*field
	seed    uint64
	plan    *soak.Plan
	kinds   map[string]fault
	ledger  *soak.Ledger
	figures soakFigures

	services, burst, spare []shaped
	struck, changed        map[string]int // how often, by name
	rounds, breaches, went int            // went: how often an address moved
	begun, ended           time.Time      // of the soak, and of the last round
	before, after          soak.Census

	mu     sync.Mutex
	tables []table // guarded by mu; of the router
}

// table is which addresses the router had routes to.
type table struct {
	at  time.Time
	has map[netip.Addr]bool
}

// soakFigures are what the plot shows.
type soakFigures struct {
	mu                       sync.Mutex // guards what is below
	gaps, routeGaps, doubles []soak.Point
	worst                    time.Duration // of gaps
	worstRound               string
	memory, goroutines       map[string][]soak.Point
}

func raiseSoak(t *testing.T) *soaking {
	t.Helper()
	s := &soaking{
		seed: seeded(t), kinds: map[string]fault{}, ledger: soak.NewLedger(),
		struck: map[string]int{}, changed: map[string]int{},
		figures: soakFigures{memory: map[string][]soak.Point{}, goroutines: map[string][]soak.Point{}},
	}
	s.field = raiseField(t, fieldOptions{
		name: "relsoak", router: "frr", component: "steering",
		pool:  []addressRange{{"172.30.0.200", 40}, {"fd00:30::200", 30}},
		every: 100 * time.Millisecond,
		rest:  20 * time.Second, // more than the 15 s after which a speaker is stale
	})
	var kinds []soak.Kind
	for _, f := range soakFaults() {
		kinds = append(kinds, f.Kind)
		s.kinds[f.Name] = f
	}
	s.plan = soak.NewPlan(s.seed, s.Nodes(), kinds)
	s.apply(t, soakPools)
	must(t, func(ctx context.Context) error { return s.AwaitSpeakers(ctx, true) })
	s.begun = time.Now()
	s.watchServices(t)
	s.background(t, 500*time.Millisecond, s.readRouter)
	s.background(t, 10*time.Second, s.sample)
	s.services = s.create(t, soakShapes()...)
	return s
}

// background does something again and again until the end of the test.
func (s *soaking) background(t *testing.T, every time.Duration, do func(context.Context)) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var running sync.WaitGroup
	t.Cleanup(func() { cancel(); running.Wait() })
	running.Go(func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			do(ctx)
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	})
}

// watchServices notes which addresses Services have.
func (s *soaking) watchServices(t *testing.T) {
	factory := informers.NewSharedInformerFactoryWithOptions(
		s.Kubernetes,
		0,
		informers.WithNamespace(s.app.Namespace),
	)
	note := func(object any, gone bool) {
		if tombstone, is := object.(cache.DeletedFinalStateUnknown); is {
			object = tombstone.Obj
		}
		svc, is := object.(*corev1.Service)
		switch {
		case !is:
		case gone:
			s.ledger.Note(time.Now(), svc.Name)
		default:
			s.ledger.Note(time.Now(), svc.Name, stage.Addresses(svc)...)
		}
	}
	informer := factory.Core().V1().Services().Informer()
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(object any) { note(object, false) },
		UpdateFunc: func(_, object any) { note(object, false) },
		DeleteFunc: func(object any) { note(object, true) },
	}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	factory.StartWithContext(ctx)
	t.Cleanup(func() { cancel(); factory.Shutdown() })
	if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
		t.Fatal("the Services were not listed")
	}
}

// readRouter notes the router's table: that of its kernel, by which it forwards.
func (s *soaking) readRouter(ctx context.Context) {
	at := time.Now()
	out, err := s.Exec(ctx, lab.Router, "ip", "-4", "-json", "route", "show", "proto", "bgp").Output()
	if err != nil {
		return // it is asked again
	}
	var routes []struct{ Dst string }
	if len(strings.TrimSpace(string(out))) > 0 && json.Unmarshal(out, &routes) != nil {
		return
	}
	one := table{at: at, has: map[netip.Addr]bool{}}
	for _, r := range routes {
		if address, err := netip.ParseAddr(r.Dst); err == nil {
			one.has[address] = true
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tables = append(s.tables, one)
}

// round has one round of the plan happen, and judges what was seen.
func (s *soaking) round(t *testing.T, r soak.Round) {
	t.Helper()
	s.rounds++
	fmt.Printf("%s %s\n", time.Now().Format("15:04:05"), r)
	begun := time.Now()
	var ends []func()
	for _, strike := range r.Strikes {
		s.struck[strike.Kind.Name]++
		ends = append(ends, s.strike(t, s.kinds[strike.Kind.Name], strike.Node))
	}
	for _, c := range r.Changes {
		s.change(t, c)
	}
	lasts(t, time.Until(begun.Add(r.Lasts)))
	for _, end := range slices.Backward(ends) {
		end()
	}
	healed := time.Now()
	s.whole(t)
	from := begun
	if r.Has(func(k soak.Kind) bool { return k.Deaf }) {
		from = healed.Add(time.Second) // to notice, and to answer
		lasts(t, time.Until(from))
	}
	s.settledAll(t)
	now := time.Now()
	s.judgeOwners(t, r, from, now)
	s.judgeGaps(t, r, s.ended, now)
	s.ended = now
	const past = 10 * time.Second
	s.capture.Forget(now.Add(-past))
	s.ledger.Forget(now.Add(-past))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tables = slices.DeleteFunc(s.tables, func(one table) bool { return one.at.Before(now.Add(-past)) })
}

// whole waits until the API answers, and every speaker announces and hears the others.
func (s *soaking) whole(t *testing.T) {
	t.Helper()
	eventually(t, func(ctx context.Context) error {
		_, err := s.Kubernetes.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx)
		return err
	})
	eventually(t, func(ctx context.Context) error {
		_, err := s.Kubectl(
			ctx, "", "-n", s.app.Namespace, "rollout", "status", "deployment/"+s.app.Name, "--timeout=60s",
		)
		return err
	})
	s.field.whole(t)
}

// settledAll waits until all Services have addresses, and those are where they belong: each with
// one node, or with routes by all.
func (s *soaking) settledAll(t *testing.T) {
	t.Helper()
	want := len(s.services) + len(s.burst) + len(s.spare)
	var given addresses
	eventually(t, func(ctx context.Context) (err error) {
		if given, err = s.given(ctx); err == nil && len(given) != want {
			err = fmt.Errorf("%d of %d Services have addresses", len(given), want)
		}
		return err
	})
	s.settled(t, time.Now())
	for address := range given {
		if !slices.Contains(s.pool, address) {
			must(t, func(ctx context.Context) error { return s.AwaitRoutes(ctx, patience, address, s.Nodes()...) })
		}
	}
	eventually(t, func(ctx context.Context) error {
		s.readRouter(ctx)
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.tables) == 0 {
			return errors.New("the router's table was not read")
		}
		for address := range s.tables[len(s.tables)-1].has {
			if given[address] == nil {
				return fmt.Errorf("the router has a route to %s, which no Service has", address)
			}
		}
		return nil
	})
}

// judgeOwners judges whether two nodes answered for an address.
func (s *soaking) judgeOwners(t *testing.T, r soak.Round, from, to time.Time) {
	t.Helper()
	var longest time.Duration
	for _, address := range s.pool {
		s.went += s.moves(address, s.ended, to)
		whole, _ := s.capture.Overlap(address, s.ended, to)
		longest = max(longest, whole.Lasted())
		if overlap, _ := s.capture.Overlap(address, from, to); overlap.Lasted() > soak.Handover {
			s.breach(
				t,
				r,
				"%s was answered for by %v for %s from %s on: %s",
				address,
				overlap.Hosts,
				overlap.Lasted(),
				overlap.From.Format("15:04:05.000"),
				s.capture.Of(address).Between(from, to),
			)
		}
	}
	s.figures.mu.Lock()
	defer s.figures.mu.Unlock()
	s.figures.doubles = append(s.figures.doubles, s.point(longest.Seconds()))
}

// judgeGaps judges whether an address was lost.
func (s *soaking) judgeGaps(t *testing.T, r soak.Round, from, to time.Time) {
	t.Helper()
	var gaps, routeGaps time.Duration
	for address, spans := range s.ledger.Between(from, to) {
		for _, span := range spans {
			onSegment := slices.Contains(s.pool, address)
			looks, most, word := s.looks(address, from), r.Gap(), "answer"
			if !onSegment {
				looks, most, word = s.routeLooks(address), r.RouteGap(), "route"
			}
			gap := soak.LongestGap(looks, span)
			if onSegment {
				gaps = max(gaps, gap.Lasts())
			} else if most > 0 {
				routeGaps = max(routeGaps, gap.Lasts())
			}
			if most > 0 && gap.Lasts() > most {
				s.breach(
					t,
					r,
					"%s had no %s for %s from %s on, want %s at most; a Service had it from %s on",
					address,
					word,
					gap.Lasts().Round(time.Millisecond),
					gap.From.Format("15:04:05.000"),
					most,
					span.From.Format("15:04:05.000"),
				)
			}
		}
	}
	s.figures.mu.Lock()
	defer s.figures.mu.Unlock()
	s.figures.gaps = append(s.figures.gaps, s.point(gaps.Seconds()))
	s.figures.routeGaps = append(s.figures.routeGaps, s.point(routeGaps.Seconds()))
	if gaps > s.figures.worst {
		s.figures.worst, s.figures.worstRound = gaps, r.String()
	}
}

// looks returns the requests for an address.
func (s *soaking) looks(address netip.Addr, since time.Time) []soak.Look {
	var all []soak.Look
	for _, round := range s.capture.Rounds(address, since) {
		all = append(all, soak.Look{At: round.Asked, Served: len(round.Answers()) > 0})
	}
	return all
}

// routeLooks returns the looks for a route to an address.
func (s *soaking) routeLooks(address netip.Addr) []soak.Look {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []soak.Look
	for _, one := range s.tables {
		all = append(all, soak.Look{At: one.at, Served: one.has[address]})
	}
	return all
}

// breach notes a promise that was broken.
func (s *soaking) breach(t *testing.T, r soak.Round, format string, args ...any) {
	t.Helper()
	s.breaches++
	t.Errorf("%s: %s", r, fmt.Sprintf(format, args...))
}

func (s *soaking) point(value float64) soak.Point {
	return soak.Point{At: time.Since(s.begun), Value: value}
}

// finish puts everything back, and compares with the beginning.
func (s *soaking) finish(t *testing.T) {
	t.Helper()
	for _, c := range s.plan.Finish() {
		s.change(t, c)
	}
	s.whole(t)
	s.settledAll(t)
	var leaks []string
	if err := stage.Eventually(t.Context(), 2*patience, func(context.Context) error {
		s.after = s.census(t)
		if leaks = soak.Leaks(s.before, s.after); len(leaks) > 0 {
			lasts(t, time.Second)
			return fmt.Errorf("%d things grew", len(leaks))
		}
		return nil
	}); err != nil {
		t.Errorf("%v:\n%s", err, strings.Join(leaks, "\n"))
	}
}

// report prints the summary, and writes the plot.
func (s *soaking) report(t *testing.T) {
	s.figures.mu.Lock()
	defer s.figures.mu.Unlock()
	fmt.Printf(
		"soak: seed %d, %s, %d rounds, %d breaches\n",
		s.seed,
		time.Since(s.begun).Round(time.Second),
		s.rounds,
		s.breaches,
	)
	counted := func(what string, all map[string]int) {
		total := 0
		for _, n := range all {
			total += n
		}
		fmt.Printf("%d %s\n", total, what)
		for _, name := range slices.Sorted(maps.Keys(all)) {
			fmt.Printf("%6d %s\n", all[name], name)
		}
	}
	counted("faults", s.struck)
	counted("changes", s.changed)
	fmt.Printf("%d times an address moved; longest without an answer %s: %s\n",
		s.went, s.figures.worst.Round(time.Millisecond), s.figures.worstRound)
	fmt.Print(soak.Table(s.before, s.after))
	file, err := s.writePlot()
	if err != nil {
		t.Error(err)
		return
	}
	fmt.Println("plot:", file)
}

// writePlot writes the plot, and returns where.
func (s *soaking) writePlot() (string, error) {
	file := os.Getenv("BERTH_SOAK_PLOT")
	if file == "" {
		manifest, err := stage.Manifest()
		if err != nil {
			return "", err
		}
		file = filepath.Join(filepath.Dir(filepath.Dir(manifest)), "bin", "soak.svg")
	}
	lines := func(all map[string][]soak.Point) []soak.Series {
		var series []soak.Series
		for _, name := range slices.Sorted(maps.Keys(all)) {
			series = append(series, soak.Series{Name: name, Points: all[name]})
		}
		return series
	}
	plot := soak.Plot{
		Title: fmt.Sprintf(
			"soak of %s, seed %d: %d rounds, %d breaches",
			time.Since(s.begun).Round(time.Second),
			s.seed,
			s.rounds,
			s.breaches,
		),
		Panels: []soak.Panel{
			{
				Title: "longest time without an answer or a route in each round, s", Limit: soak.GapAtMost.Seconds(),
				Series: []soak.Series{
					{Name: "answer", Dots: true, Points: s.figures.gaps},
					{Name: "route, router there", Dots: true, Points: s.figures.routeGaps},
				},
			},
			{
				Title:  "longest time with two answers in each round, also of nodes that do not hear each other, s",
				Series: []soak.Series{{Name: "two answers", Dots: true, Points: s.figures.doubles}},
			},
			{Title: "memory of the largest process of a kind, MiB", Series: lines(s.figures.memory)},
			{Title: "goroutines of the process that has most", Series: lines(s.figures.goroutines)},
		},
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return "", err
	}
	out, err := os.Create(file)
	if err != nil {
		return "", err
	}
	defer out.Close()
	return file, plot.Write(out)
}
