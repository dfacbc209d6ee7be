//go:build release

package release

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/e2e/stage"
)

// TestHellosFiltered has a switch that drops the messages of speakers from the beginning. What it
// checks is promised in "Where hellos are filtered" of docs/guides/layer2.md.
func TestHellosFiltered(t *testing.T) {
	f := raiseField(t, fieldOptions{
		name:  "relfilter",
		pool:  []addressRange{{"172.30.0.200", 20}, {"fd00:30::200", 20}},
		every: 40 * time.Millisecond,
		before: func(ctx context.Context, s *stage.Stage) error {
			return s.FilterEtherType(ctx, etherType)
		},
	})
	for _, step := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"a new address has one owner within two seconds", f.testNewAddress},
		{"many new addresses at once", f.testManyAddresses},
		{"speakers say what is filtered", func(t *testing.T) { f.filtered(t, true) }},
		{"a restarted speaker moves nothing", f.testKilled},
		{"nor does the API server when it is away", f.testAway},
		{"a rolling restart ends with one owner", f.testRollout},
		{"once messages pass, nothing moves", f.testPass},
	} {
		if !t.Run(step.name, func(t *testing.T) {
			begun := time.Now()
			step.run(t)
			f.overlaps(t, step.name, begun, time.Now())
			f.noConflicts(t)
		}) {
			return
		}
	}
}

// newAddress is how long a new address may wait for its first answer.
const newAddress = 2 * time.Second

func (f *field) testNewAddress(t *testing.T) {
	var longest time.Duration
	for _, family := range []corev1.IPFamily{
		corev1.IPv4Protocol, corev1.IPv6Protocol, corev1.IPv4Protocol, corev1.IPv6Protocol, corev1.IPv4Protocol,
	} {
		longest = max(longest, f.firstAnswers(t, f.serve(t, family, 1)))
	}
	measured("first_answer_without_hellos", longest)
	f.settled(t, time.Now())
}

func (f *field) testManyAddresses(t *testing.T) {
	services := append(f.serve(t, corev1.IPv4Protocol, 10), f.serve(t, corev1.IPv6Protocol, 10)...)
	measured("first_answer_of_20_without_hellos", f.firstAnswers(t, services))
	f.settled(t, time.Now())
}

// firstAnswers waits until the addresses of Services are answered for, and returns how long that
// took at most since a Service had its address.
func (f *field) firstAnswers(t *testing.T, services []*corev1.Service) time.Duration {
	t.Helper()
	var longest time.Duration
	for _, svc := range services {
		address := addressOf(svc)
		eventually(t, func(context.Context) error {
			seen := f.capture.Of(address)
			if len(seen) == 0 {
				return fmt.Errorf("nobody answers for %s of %s", address, svc.Name)
			}
			longest = max(longest, seen[0].At.Sub(f.since[svc.Name]))
			return nil
		})
	}
	if longest > newAddress {
		t.Errorf("the first answer came after %s, want %s at most", longest, newAddress)
	}
	return longest
}

// filtered waits until every speaker that others' addresses are on the segment of says so, or until
// none does.
func (f *field) filtered(t *testing.T, want bool) {
	t.Helper()
	eventually(t, func(ctx context.Context) error {
		for _, node := range f.Nodes() {
			speaker, err := f.Berth.Speakers.Get(ctx, node, metav1.GetOptions{})
			if err != nil {
				return err
			}
			if slices.ContainsFunc(speaker.Status.Problems, isFiltered) != want {
				return fmt.Errorf(
					"the speaker of %s reports %+v, want HellosFiltered: %v",
					node,
					speaker.Status.Problems,
					want,
				)
			}
		}
		return nil
	})
}

func isFiltered(p v1alpha1.SpeakerProblem) bool {
	return p.Reason == "HellosFiltered" && strings.Contains(p.Message, "interface eth0: ")
}

func (f *field) testKilled(t *testing.T) {
	before := f.settled(t, time.Now())
	for _, node := range f.Nodes() {
		killed := time.Now()
		must(t, func(ctx context.Context) error { return f.Kill(ctx, "heart@"+node) })
		f.stayed(t, before, f.settled(t, time.Now()), killed)
		must(t, func(ctx context.Context) error { return f.AwaitSpeakers(ctx, false) })
	}
}

// stayed checks that addresses have the owners of before, and that nobody else answered since.
func (f *field) stayed(t *testing.T, before, now map[netip.Addr]string, since time.Time) {
	t.Helper()
	for address, owner := range before {
		seen := f.capture.Of(address).Since(since)
		if now[address] != owner || !slices.Equal(seen.Hosts(), []string{owner}) {
			t.Errorf("%s answered for %s, now %q does: %s", owner, address, now[address], seen)
		}
	}
}

func (f *field) testAway(t *testing.T) {
	before := f.settled(t, time.Now())
	given, err := f.given(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// Elsewhere the controller manager ends when it cannot renew its lease, and its next process
	// gives nodes time. The lab's has no lease, and would call nodes NotReady that could not write.
	const manager = "kube-controller-manager"
	paused := time.Now()
	must(t, func(ctx context.Context) error { return f.Kill(ctx, manager) },
		func(ctx context.Context) error { return f.Pause(ctx, "kube-apiserver") })
	t.Cleanup(func() {
		if err := f.Resume(context.WithoutCancel(t.Context()), "kube-apiserver"); err != nil { // a second time does nothing
			t.Error(err)
		}
	})
	lasts(t, 18*time.Second) // it is lost after 8 s, and all are stale after 15 s
	now, err := f.answering(given, paused.Add(17*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	f.stayed(t, before, now, paused)
	must(t, func(ctx context.Context) error { return f.Resume(ctx, "kube-apiserver") },
		func(ctx context.Context) error { return f.Start(ctx, manager) },
		func(ctx context.Context) error { return f.AwaitSpeakers(ctx, false) })
	f.stayed(t, before, f.settled(t, time.Now()), paused)
}

func (f *field) testRollout(t *testing.T) {
	must(t, f.restart)
	f.settled(t, time.Now())
}

func (f *field) testPass(t *testing.T) {
	before, begun := f.settled(t, time.Now()), time.Now()
	must(t, f.PassAll)
	f.whole(t)
	f.stayed(t, before, f.settled(t, time.Now()), begun)
	f.filtered(t, false)
}
