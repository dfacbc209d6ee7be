//go:build release

package release

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/e2e/lab"
	"github.com/berth-lb/berth/e2e/soak"
	"github.com/berth-lb/berth/e2e/stage"
)

// handover is how long two nodes may answer for an address while it moves between nodes that hear
// each other.
const handover = soak.Handover

// field is a rack of three nodes with Berth on it, and a capture of all addresses that Berth may
// give on the segment. It judges by who answers for them, and compares that with the L2Owners.
type field struct {
	*stage.Stage
	app     stage.App
	pool    []netip.Addr
	capture *stage.Capture
	every   time.Duration // between two requests for an address
	created int

	mu    sync.Mutex
	since map[string]time.Time // when each Service got its address; guarded by mu
}

type fieldOptions struct {
	name string
	// pool has ranges of addresses.
	pool []addressRange
	// every is the time between two requests for an address.
	every time.Duration
	// rest is for how long freed addresses rest; 0: the default.
	rest time.Duration
	// before is done before Berth is installed.
	before func(context.Context, *stage.Stage) error
	// manifest is what Berth is installed from; empty: manifests/berth.yaml.
	manifest string
	// component is one of manifests/ that Berth is installed with.
	component string
	router    string // of the lab
}

type addressRange struct {
	first string
	n     int
}

func (r addressRange) all() []netip.Addr {
	var all []netip.Addr
	for a := netip.MustParseAddr(r.first); len(all) < r.n; a = a.Next() {
		all = append(all, a)
	}
	return all
}

func raiseField(t *testing.T, o fieldOptions) *field {
	t.Helper()
	f := &field{
		Stage: raise(t, lab.Options{Name: o.name, Nodes: 3, Router: o.router, DualStack: true}),
		app:   stage.App{Namespace: "field", Name: "web"},
		every: o.every,
		since: map[string]time.Time{},
	}
	t.Cleanup(func() {
		if t.Failed() {
			f.Explain(context.Background(), t.Output())
		}
	})
	var ranges []string
	for _, r := range o.pool {
		all := r.all()
		f.pool = append(f.pool, all...)
		ranges = append(ranges, fmt.Sprintf(`"%s-%s"`, all[0], all[len(all)-1]))
	}
	if o.before != nil {
		must(t, func(ctx context.Context) error { return o.before(ctx, f.Stage) })
	}
	install := f.Install
	if o.manifest != "" {
		install = func(ctx context.Context) error {
			_, err := f.Kubectl(ctx, "", "apply", "-f", o.manifest)
			return errors.Join(err, f.AwaitBerth(ctx))
		}
	}
	if o.component != "" {
		install = func(ctx context.Context) error {
			return errors.Join(f.InstallComponent(ctx, t.TempDir(), o.component), f.ReadyAtOnce(ctx))
		}
	}
	must(t, install)
	if o.rest > 0 {
		patch := fmt.Sprintf(
			`[{"op": "add", "path": "/spec/template/spec/containers/0/args/-", "value": "--rest=%s"}]`,
			o.rest,
		)
		must(t, func(ctx context.Context) error {
			_, err := f.Kubectl(
				ctx, "", "-n", stage.Namespace, "patch", "deployment/berth-controller", "--type=json", "-p", patch,
			)
			return err
		}, f.AwaitBerth)
	}
	must(t, func(ctx context.Context) error {
		return f.Apply(ctx, fmt.Sprintf(`
apiVersion: berth.dev/v1alpha1
kind: LoadBalancerPool
metadata: {name: rack}
spec: {addresses: [%s], scopes: [{namespaceSelector: {}, serviceSelector: {}}]}
---
apiVersion: berth.dev/v1alpha1
kind: SegmentAnnouncement
metadata: {name: rack}
spec: {poolNames: [rack], nodeSelector: {}, serviceSelector: {}}
`, strings.Join(ranges, ", ")))
	}, func(ctx context.Context) error { return f.Deploy(ctx, f.app) },
		func(ctx context.Context) error { return f.AwaitSpeakers(ctx, false) })
	var err error
	if f.capture, err = f.StartCaptureEvery(context.WithoutCancel(t.Context()), o.every, f.pool...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.capture.Stop(); err != nil {
			t.Error(err)
		}
	})
	return f
}

// random returns a source of chance and logs how to repeat it: with BERTH_FAULTS_SEED.
func random(t *testing.T) *rand.Rand { return rand.New(rand.NewPCG(seeded(t), 0)) }

// seeded returns the seed of random.
func seeded(t *testing.T) uint64 {
	t.Helper()
	seed := rand.Uint64()
	if text := os.Getenv("BERTH_FAULTS_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("BERTH_FAULTS_SEED: %v", err)
		}
	}
	fmt.Printf("to repeat %s: BERTH_FAULTS_SEED=%d\n", t.Name(), seed)
	return seed
}

// service returns a Service of one address, which does not exist yet.
func (f *field) service(family corev1.IPFamily) *corev1.Service {
	f.created++
	svc := f.Expose(f.app, fmt.Sprintf("svc-%04d", f.created))
	policy := corev1.IPFamilyPolicySingleStack
	svc.Spec.IPFamilyPolicy, svc.Spec.IPFamilies = &policy, []corev1.IPFamily{family}
	svc.Spec.Ports = svc.Spec.Ports[:1]
	return svc
}

// serve creates Services, and returns once all have addresses.
func (f *field) serve(t *testing.T, family corev1.IPFamily, n int) []*corev1.Service {
	t.Helper()
	services := make([]*corev1.Service, n)
	group, ctx := errgroup.WithContext(t.Context())
	group.SetLimit(10)
	for i := range services {
		svc := f.service(family)
		group.Go(func() error {
			var err error
			services[i], err = f.Create(ctx, svc)
			f.mu.Lock()
			defer f.mu.Unlock()
			f.since[svc.Name] = time.Now()
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	return services
}

func (f *field) remove(t *testing.T, svc *corev1.Service) {
	t.Helper()
	services := f.Kubernetes.CoreV1().Services(svc.Namespace)
	if err := services.Delete(t.Context(), svc.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
}

// addresses are those that Services have.
type addresses map[netip.Addr]*corev1.Service

// given returns the addresses that Services have, with the Services.
func (f *field) given(ctx context.Context) (addresses, error) {
	list, err := f.Kubernetes.CoreV1().Services(f.app.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	given := addresses{}
	for i := range list.Items {
		for _, a := range stage.Addresses(&list.Items[i]) {
			given[a] = &list.Items[i]
		}
	}
	return given, nil
}

// steady is how many requests in a row must have the same single answer.
const steady = 3

// answering returns the node that alone answered the last requests for each of the addresses, all
// of them later than the given time. It fails if another address of the pool was answered for.
func (f *field) answering(given addresses, since time.Time) (map[netip.Addr]string, error) {
	owners := map[netip.Addr]string{}
	var faults []error
	for _, address := range f.pool {
		rounds := f.capture.Rounds(address, since)
		if len(rounds) < steady {
			return nil, fmt.Errorf("%s was not asked for often enough yet", address)
		}
		for _, round := range rounds[len(rounds)-steady:] {
			hosts := round.Answers()
			switch {
			case given[address] == nil && len(hosts) > 0:
				faults = append(faults, fmt.Errorf("%v answer for %s, which no Service has", hosts, address))
			case given[address] == nil:
			case len(hosts) != 1 || owners[address] != "" && owners[address] != hosts[0]:
				faults = append(
					faults,
					fmt.Errorf("%v answer for %s, want one node (%s before)", hosts, address, owners[address]),
				)
			default:
				owners[address] = hosts[0]
			}
		}
	}
	if len(faults) > 0 {
		return nil, fmt.Errorf("%d faults, among them: %w", len(faults), errors.Join(faults[:min(5, len(faults))]...))
	}
	return owners, nil
}

// settled waits until each address that a Service has is answered for by one node, all others by
// none, and the L2Owners say so. It judges by requests after the given time, and returns who
// answers.
func (f *field) settled(t *testing.T, since time.Time) map[netip.Addr]string {
	t.Helper()
	var owners map[netip.Addr]string
	eventually(t, func(ctx context.Context) error {
		given, err := f.given(ctx)
		if err != nil {
			return err
		}
		if owners, err = f.answering(given, since); err != nil {
			lasts(t, f.every) // nothing new to see before
			return err
		}
		if err = f.mirrored(ctx, owners); err != nil {
			lasts(t, f.every)
		}
		return err
	})
	return owners
}

// mirrored checks that there is one L2Owner for each address, and none for others.
func (f *field) mirrored(ctx context.Context, owners map[netip.Addr]string) error {
	list, err := f.Berth.L2Owners.List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	said := map[netip.Addr]string{}
	for _, o := range list.Items {
		address, err := netip.ParseAddr(o.Status.Address)
		if err != nil {
			return fmt.Errorf("L2Owner %s: %w", o.Name, err)
		}
		switch {
		case said[address] != "":
			return fmt.Errorf(
				"there are two L2Owners of %s: of %s, and %s of %s",
				address,
				said[address],
				o.Name,
				o.Status.NodeName,
			)
		case o.Status.Tentative || owners[address] != o.Status.NodeName:
			return fmt.Errorf(
				"L2Owner %s names %q (tentative: %v), and %q answers", o.Name, o.Status.NodeName, o.Status.Tentative,
				owners[address],
			)
		}
		said[address] = o.Status.NodeName
	}
	for address, owner := range owners {
		if said[address] != owner {
			return fmt.Errorf("%s answers for %s, which has no L2Owner", owner, address)
		}
	}
	return nil
}

// overlaps checks that between two moments no two nodes answered for an address, but for the time
// that a move may take.
func (f *field) overlaps(t *testing.T, what string, from, to time.Time) {
	t.Helper()
	var bad []string
	for _, address := range f.figures(what, from, to) {
		overlap, _ := f.capture.Overlap(address, from, to)
		if overlap.Lasted() > handover {
			bad = append(bad, fmt.Sprintf(
				"%s was answered for by %v for %s from %s on; from %s on: %s",
				address,
				overlap.Hosts,
				overlap.Lasted(),
				overlap.From.Format(
					"15:04:05.000",
				),
				from.Format("15:04:05.000"),
				f.capture.Of(address).Between(from, to),
			))
		}
	}
	if len(bad) > 0 {
		t.Errorf(
			"%s: %d addresses were answered for by two nodes for longer than %s:\n%s", what, len(bad), handover,
			strings.Join(bad[:min(10, len(bad))], "\n"),
		)
	}
}

// figures prints how many addresses had two answers to at least one request between two moments,
// for how long at most, and how many times an address moved. It returns the former.
func (f *field) figures(what string, from, to time.Time) []netip.Addr {
	var twice []netip.Addr
	var longest time.Duration
	moves := 0
	for _, address := range f.pool {
		moves += f.moves(address, from, to)
		overlap, requests := f.capture.Overlap(address, from, to)
		if requests > 0 {
			twice, longest = append(twice, address), max(longest, overlap.Lasted())
		}
	}
	fmt.Printf(
		"%s: %d moves in %s; %d of %d addresses had two answers to a request, for %s at most\n", what, moves,
		to.Sub(from).Round(time.Millisecond), len(twice), len(f.pool), longest.Round(time.Millisecond),
	)
	for _, address := range twice[:min(3, len(twice))] {
		fmt.Println("\tamong them", f.describe(address, from, to))
	}
	return twice
}

// describe returns the answers to the first request for an address that several hosts answered.
func (f *field) describe(address netip.Addr, from, to time.Time) string {
	for _, round := range f.capture.Rounds(address, from) {
		if len(round.Answers()) < 2 || !round.Asked.Before(to) {
			continue
		}
		var answers []string
		for _, s := range round.Seen {
			if !s.Gratuitous {
				later := s.At.Sub(round.Asked).Round(100 * time.Microsecond)
				answers = append(answers, fmt.Sprintf("%s %s later", s.Host, later))
			}
		}
		after := round.Asked.Sub(from).Round(time.Millisecond)
		return fmt.Sprintf("%s after %s: %s", address, after, strings.Join(answers, ", "))
	}
	return ""
}

// moves counts how many times another node than before answered for an address.
func (f *field) moves(address netip.Addr, from, to time.Time) int {
	moves, owner := 0, ""
	for _, round := range f.capture.Rounds(address, from) {
		hosts := round.Answers()
		if len(hosts) != 1 || !round.Asked.Before(to) {
			continue
		}
		if owner != "" && owner != hosts[0] {
			moves++
		}
		owner = hosts[0]
	}
	return moves
}

// unanswered returns the addresses that nobody and that several nodes answered for when they were
// last asked for, at a moment.
func (f *field) unanswered(given addresses, at time.Time) (nobody, several []netip.Addr) {
	for address := range given {
		rounds := f.capture.Rounds(address, at.Add(-3*f.every))
		rounds = slices.DeleteFunc(rounds, func(r stage.Round) bool { return !r.Asked.Before(at) })
		if len(rounds) == 0 || len(rounds[len(rounds)-1].Answers()) == 0 {
			nobody = append(nobody, address)
		} else if len(rounds[len(rounds)-1].Answers()) > 1 {
			several = append(several, address)
		}
	}
	return nobody, several
}

// whole waits until every speaker announces, and hears all others.
func (f *field) whole(t *testing.T) {
	t.Helper()
	must(t, f.AwaitBerth, func(ctx context.Context) error { return f.AwaitSpeakers(ctx, false) })
	want := fmt.Sprintf("berth_l2_peers{interface=\"eth0\"} %d\n", len(f.Nodes())-1)
	for _, node := range f.Nodes() {
		eventually(t, func(ctx context.Context) error {
			text, err := f.metrics(ctx, node)
			if err == nil && !strings.Contains(text, want) {
				err = fmt.Errorf("the speaker of %s does not hear %d others", node, len(f.Nodes())-1)
			}
			return err
		})
	}
}

// metrics returns the metrics of a node's speaker.
func (f *field) metrics(ctx context.Context, node string) (string, error) {
	addresses, err := f.Lab.Addresses(node)
	if err != nil {
		return "", err
	}
	url := "http://" + netip.AddrPortFrom(addresses[0], 7470).String() + "/metrics"
	return f.get(ctx, node, url)
}

// get returns what a URL answers to a host.
func (f *field) get(ctx context.Context, host, url string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	response, err := f.HTTPClient(host).Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return string(text), err
}

// noConflicts checks that no Service and no speaker ever reported a conflict.
func (f *field) noConflicts(t *testing.T) {
	t.Helper()
	const conflict = "AddressConflict"
	given, err := f.given(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for address, svc := range given {
		for _, c := range svc.Status.Conditions {
			if c.Reason == conflict {
				t.Errorf("Service %s, which has %s, has condition %s: %s", svc.Name, address, c.Type, c.Message)
			}
		}
	}
	events, err := f.Kubernetes.EventsV1().Events(f.app.Namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range events.Items {
		if e.Reason == conflict {
			t.Errorf("event %s of %s at %s: %s", e.Reason, e.Regarding.Name, e.EventTime.Format("15:04:05.000"), e.Note)
		}
	}
	speakers, err := f.Berth.Speakers.List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range speakers.Items {
		if len(s.Status.Conflicts) > 0 {
			t.Errorf("the speaker of %s reports conflicts: %+v", s.Name, s.Status.Conflicts)
		}
	}
}

// restart replaces all speakers, one after the other, and waits until the last is ready.
func (f *field) restart(ctx context.Context) error {
	_, err := f.Kubectl(ctx, "", "-n", stage.Namespace, "rollout", "restart", "daemonset/berth-speaker")
	if err != nil {
		return err
	}
	return errors.Join(f.AwaitBerth(ctx), f.AwaitSpeakers(ctx, false))
}

// exclude takes a node out of service, or back.
func (f *field) exclude(ctx context.Context, node string, out bool) error {
	change := v1alpha1.ExcludeLabel + "-"
	if out {
		change = v1alpha1.ExcludeLabel + "="
	}
	_, err := f.Kubectl(ctx, "", "label", "--overwrite", "node", node, change)
	return err
}
