//go:build release

package release

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/e2e/lab"
	"github.com/berth-lb/berth/e2e/soak"
	"github.com/berth-lb/berth/e2e/stage"
)

// etherType is that of the messages of Berth's speakers.
const etherType = 0x88b5

// fault is something that happens to one node or to the whole segment.
type fault struct {
	soak.Kind
	// strike causes the fault. The returned function ends it; it is nil if the fault does not last.
	strike func(ctx context.Context, f *field, node string) (heal healing, err error)
}

type healing func(context.Context) error

func interfaceFaults() []fault {
	lost := func(family int) func(context.Context, *field, string) (healing, error) {
		return func(_ context.Context, f *field, node string) (healing, error) {
			return func(context.Context) error { return f.Reconfigure(node) }, f.DropAddresses(node, family)
		}
	}
	return []fault{
		{Kind: soak.Kind{Name: "its interface has no IPv4 address"}, strike: lost(unix.AF_INET)},
		{Kind: soak.Kind{Name: "its interface has no address"}, strike: lost(unix.AF_UNSPEC)},
		{
			Kind: soak.Kind{Name: "its interface is down"},
			strike: func(_ context.Context, f *field, node string) (healing, error) {
				return func(context.Context) error { return f.Reconfigure(node) }, f.LinkDown(node)
			},
		},
		{
			Kind: soak.Kind{Name: "its interface flaps"},
			strike: func(_ context.Context, f *field, node string) (healing, error) {
				return nil, f.Flap(node)
			},
		},
	}
}

// killed returns a strike that kills a container's process on the node.
func killed(process string) func(context.Context, *field, string) (healing, error) {
	return func(ctx context.Context, f *field, node string) (healing, error) {
		return nil, f.Kill(ctx, process+"@"+node)
	}
}

// frozen returns a strike that stops a container's process on the node.
func frozen(process string) func(context.Context, *field, string) (healing, error) {
	return func(ctx context.Context, f *field, node string) (healing, error) {
		name := process + "@" + node
		return func(ctx context.Context) error { return f.Resume(ctx, name) }, f.Pause(ctx, name)
	}
}

func processFaults() []fault {
	withoutAPI := func(loss lab.APILoss) fault {
		return fault{
			Kind: soak.Kind{Name: loss.String(), AtLeast: 17 * time.Second}, // it is stale after 15 s
			strike: func(ctx context.Context, f *field, node string) (healing, error) {
				return func(ctx context.Context) error { return f.RegainAPI(ctx, node) }, f.LoseAPI(ctx, node, loss)
			},
		}
	}
	return []fault{
		{Kind: soak.Kind{Name: "its speaker is killed"}, strike: killed("speaker")},
		{Kind: soak.Kind{Name: "its heart is killed"}, strike: killed("heart")},
		{Kind: soak.Kind{Name: "its speaker freezes"}, strike: frozen("speaker")},
		{Kind: soak.Kind{Name: "its heart freezes"}, strike: frozen("heart")},
		{
			Kind: soak.Kind{Name: "it is excluded", ByAPI: true},
			strike: func(ctx context.Context, f *field, node string) (healing, error) {
				return func(ctx context.Context) error { return f.exclude(ctx, node, false) }, f.exclude(
					ctx,
					node,
					true,
				)
			},
		},
		withoutAPI(lab.APILoss{Pods: true}),
		withoutAPI(lab.APILoss{Pods: true, Refused: true}),
		withoutAPI(lab.APILoss{}),
		{
			Kind: soak.Kind{Name: "the API server is away", NoAPI: true},
			strike: func(ctx context.Context, f *field, _ string) (healing, error) {
				return func(ctx context.Context) error { return f.Resume(ctx, "kube-apiserver") }, f.Pause(
					ctx,
					"kube-apiserver",
				)
			},
		},
	}
}

func cable() fault {
	return fault{
		Kind: soak.Kind{Name: "its cable is cut"},
		strike: func(_ context.Context, f *field, node string) (healing, error) {
			return func(context.Context) error { return f.Heal(node) }, f.Cut(node)
		},
	}
}

func segmentFaults() []fault {
	deaf := func(name string, block func(ctx context.Context, f *field, node, other string) error) fault {
		return fault{
			Kind: soak.Kind{Name: name, Deaf: true},
			strike: func(ctx context.Context, f *field, node string) (healing, error) {
				each := func(ctx context.Context, do func(ctx context.Context, f *field, node, other string) error) error {
					var err error
					for _, other := range f.Nodes() {
						if other != node {
							err = errors.Join(err, do(ctx, f, node, other))
						}
					}
					return err
				}
				return func(ctx context.Context) error {
					return each(
						ctx,
						func(ctx context.Context, f *field, node, other string) error { return f.Unblock(ctx, node, other) },
					)
				}, each(ctx, block)
			},
		}
	}
	pass := func(f *field) healing { return f.PassAll }
	return []fault{
		cable(),
		deaf(
			"it and the others do not hear each other",
			func(ctx context.Context, f *field, node, other string) error {
				return f.Block(ctx, node, other)
			},
		),
		deaf("the others do not hear it", func(ctx context.Context, f *field, node, other string) error {
			return f.BlockOneWay(ctx, node, other)
		}),
		deaf("it does not hear the others", func(ctx context.Context, f *field, node, other string) error {
			return f.BlockOneWay(ctx, other, node)
		}),
		{
			Kind: soak.Kind{Name: "the segment loses a fifth of all frames", Deaf: true},
			strike: func(ctx context.Context, f *field, _ string) (healing, error) {
				return pass(f), f.LoseFrames(ctx, 20)
			},
		},
		{
			Kind: soak.Kind{Name: "the segment loses all frames", Deaf: true, Dark: true},
			strike: func(ctx context.Context, f *field, _ string) (healing, error) {
				return pass(f), f.LoseFrames(ctx, 100)
			},
		},
		{
			Kind: soak.Kind{Name: "the segment filters hellos", Deaf: true},
			strike: func(ctx context.Context, f *field, _ string) (healing, error) {
				return pass(f), f.FilterEtherType(ctx, etherType)
			},
		},
		{
			Kind: soak.Kind{Name: "its frames become long"},
			strike: func(_ context.Context, f *field, node string) (healing, error) {
				return func(context.Context) error { return f.SetMTU(node, 1500, 1500) }, f.SetMTU(node, 9000, 1500)
			},
		},
	}
}

// routerLoses has the router end its session with a node, until the returned function is called.
func routerLoses(ctx context.Context, s *stage.Stage, node string) (healing, error) {
	addresses, err := s.Lab.Addresses(node)
	if err != nil {
		return nil, err
	}
	line := fmt.Sprintf("neighbor %s shutdown", addresses[0])
	return func(ctx context.Context) error { return s.ConfigureRouter(ctx, "no "+line) }, s.ConfigureRouter(ctx, line)
}

// TestInterfaceComesAndGoes takes a node's addresses from its interface, or sets that down, again
// and again.
func TestInterfaceComesAndGoes(t *testing.T) {
	f := raiseField(t, fieldOptions{
		name:  "relface",
		pool:  []addressRange{{"172.30.0.200", 10}, {"fd00:30::200", 10}},
		every: 40 * time.Millisecond,
	})
	f.serve(t, corev1.IPv4Protocol, 6)
	f.serve(t, corev1.IPv6Protocol, 6)
	chance := random(t)
	for _, kind := range interfaceFaults() {
		t.Run(kind.Name, func(t *testing.T) {
			owners := f.settled(t, time.Now())
			begun := time.Now()
			node := owners[f.pool[0]]
			for range 6 {
				end := f.strike(t, kind, node)
				lasts(t, time.Duration(chance.Int64N(int64(2*time.Second))))
				end()
				lasts(t, time.Duration(chance.Int64N(int64(2*time.Second))))
			}
			f.whole(t)
			f.settled(t, time.Now())
			f.overlaps(t, kind.Name, begun, time.Now())
		})
	}
	f.noConflicts(t)
}

// strike causes a fault until end, or the end of the test.
func (f *field) strike(t *testing.T, kind fault, node string) (end func()) {
	t.Helper()
	heal, err := kind.strike(t.Context(), f, node)
	end = func() {
		if heal == nil {
			return
		}
		if err := heal(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
		heal = nil
	}
	t.Cleanup(end)
	if err != nil {
		t.Fatal(err)
	}
	return end
}

// faultsInARow is the number of random faults.
const faultsInARow = 20

// TestRandomFaults strikes random nodes with random faults, sometimes two at once, while Services
// come and go. BERTH_FAULTS_SEED=N strikes the same nodes in the same order again. Conflicts are
// not judged: of two nodes that answer, and do not hear each other, one may report the other, for a
// minute.
func TestRandomFaults(t *testing.T) {
	f := raiseField(t, fieldOptions{
		name:  "relrandom",
		pool:  []addressRange{{"172.30.0.200", 25}, {"fd00:30::200", 25}},
		every: 60 * time.Millisecond,
	})
	chance := random(t)
	services := append(f.serve(t, corev1.IPv4Protocol, 5), f.serve(t, corev1.IPv6Protocol, 5)...)
	f.settled(t, time.Now())
	kinds := append(append(interfaceFaults(), processFaults()...), segmentFaults()...)
	for i := range faultsInARow {
		var names []string
		var deaf, noAPI bool
		lasting := 500*time.Millisecond + time.Duration(chance.Int64N(int64(4*time.Second)))
		begun := time.Now()
		var ends []func()
		for _, n := range chance.Perm(len(f.Nodes()))[:1+chance.IntN(3)/2] {
			kind, node := kinds[chance.IntN(len(kinds))], f.Nodes()[n]
			if noAPI && kind.ByAPI {
				continue
			}
			ends = append(ends, f.strike(t, kind, node))
			deaf, noAPI, lasting = deaf || kind.Deaf, noAPI || kind.NoAPI, max(lasting, kind.AtLeast)
			names = append(names, node+": "+kind.Name)
		}
		what := fmt.Sprintf("fault %d, %s, for %s", i+1, strings.Join(names, "; "), lasting.Round(time.Millisecond))
		until := time.Now().Add(lasting)
		if !noAPI {
			services = f.churn(t, chance, services)
		}
		lasts(t, time.Until(until))
		for _, end := range slices.Backward(ends) {
			end()
		}
		healed := time.Now()
		f.whole(t)
		if deaf {
			f.figures(what, begun, healed)
			begun = healed.Add(time.Second) // to notice, and to answer
			lasts(t, time.Until(begun))
		}
		f.settled(t, time.Now())
		f.overlaps(t, what, begun, time.Now())
		if t.Failed() {
			return
		}
	}
}

// churn deletes one of the Services and makes another.
func (f *field) churn(t *testing.T, chance *rand.Rand, services []*corev1.Service) []*corev1.Service {
	t.Helper()
	i := chance.IntN(len(services))
	f.remove(t, services[i])
	family := []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}[chance.IntN(2)]
	svc := f.service(family)
	svc.Annotations = map[string]string{v1alpha1.AnnotationPools: "rack"}
	created, err := f.Kubernetes.CoreV1().Services(svc.Namespace).Create(t.Context(), svc, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	services[i] = created
	return services
}
