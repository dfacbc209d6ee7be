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
	"github.com/berth-lb/berth/e2e/lab"
	"github.com/berth-lb/berth/e2e/stage"
)

// What MetalLB gives and Berth does not, and the other way round.
const (
	metalRack, metalRouted = "172.30.0.240-172.30.0.247", "198.51.100.128/25"
	berthRack, berthRouted = "172.30.0.200-172.30.0.219", "198.51.100.0/25"
)

// TestBerthBesideMetalLB migrates a cluster from the real MetalLB to Berth: both run
// side by side, Berth is removed again, and finally replaces MetalLB. Clients of
// MetalLB's Services must not notice, until MetalLB itself is stopped.
func TestBerthBesideMetalLB(t *testing.T) {
	b := &beside{Stage: raise(t, lab.Options{Name: "release", Nodes: 3, Router: "frr"})}
	t.Cleanup(func() {
		if t.Failed() {
			b.Explain(context.Background(), t.Output())
		}
	})
	if !t.Run("MetalLB serves by ARP and by BGP", b.testMetalLBServes) {
		t.FailNow() // without it the rest says nothing
	}
	b.startWitness(t)
	for _, step := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"the witness sees no fault while Berth is not there", func(t *testing.T) { lasts(t, 3*time.Second) }},
		{"installing Berth disturbs nothing", b.testInstall},
		{"Services of Berth's class are served from a pool of its own", b.testOwnServices},
		{"a router that MetalLB has a session with is not dialed, and that is said", b.testNotDialed},
		{"restarting Berth disturbs nothing", b.testRestart},
		{"uninstalling Berth disturbs nothing", b.testUninstall},
		{"Berth installed again, with pools that take over, waits while MetalLB serves", b.testWaits},
	} {
		t.Run(step.name, func(t *testing.T) {
			since := b.mark(t)
			step.run(t)
			b.unharmed(t, since)
		})
	}
	t.Run("once MetalLB is stopped Berth serves its addresses", b.testTakeOver)
}

// beside is a lab with MetalLB, later with Berth too.
type beside struct {
	*stage.Stage
	metal []*corev1.Service // MetalLB's, with their addresses
	own   *corev1.Service   // Berth's

	probes   map[string]*stage.Watch // by Service
	statuses *stage.StatusWatch
	sessions map[string]stage.RouterSession
	adopting bool // a pool of Berth's takes over
}

var (
	metalApp = stage.App{Namespace: "metal", Name: "web"}
	berthApp = stage.App{Namespace: "berthed", Name: "web"}
)

// routed Services are asked for from behind the router, the others on the segment.
func routed(svc *corev1.Service) bool { return svc.Annotations[stage.MetalLBPoolAnnotation] != "" }

func addressOf(svc *corev1.Service) netip.Addr { return stage.Addresses(svc)[0] }

func (b *beside) testMetalLBServes(t *testing.T) {
	must(t, b.InstallMetalLB, func(ctx context.Context) error {
		return b.ConfigureMetalLB(ctx, stage.MetalLBPools{L2: metalRack, BGP: metalRouted})
	}, func(ctx context.Context) error { return b.Deploy(ctx, metalApp) })
	for _, name := range []string{"first", "second", "routed"} {
		svc := b.Expose(metalApp, name)
		if name == "routed" {
			svc.Annotations = map[string]string{stage.MetalLBPoolAnnotation: stage.MetalLBRouted}
		}
		svc, err := b.Create(t.Context(), svc)
		if err != nil {
			t.Fatal(err)
		}
		b.metal = append(b.metal, svc)
	}
	var err error
	if b.sessions, err = b.AwaitRouterSessions(t.Context(), patience); err != nil {
		t.Fatal(err)
	}
	for _, svc := range b.metal {
		eventually(t, func(ctx context.Context) error {
			_, err := b.AskHTTP(ctx, hostFor(svc), addressOf(svc))
			return err
		})
	}
	if got := addressOf(b.metal[0]).String(); got != "172.30.0.240" {
		t.Errorf("MetalLB gave %s, want the first of its pool, 172.30.0.240", got)
	}
	must(t, func(ctx context.Context) error {
		return b.AwaitRoutes(ctx, patience, addressOf(b.metal[2]), "n1", "n2", "n3")
	})
}

func hostFor(svc *corev1.Service) string {
	if routed(svc) {
		return lab.Remote
	}
	return lab.Client
}

func (b *beside) testInstall(t *testing.T) {
	must(t, b.Install, func(ctx context.Context) error { return b.AwaitSpeakers(ctx, false) })
	lasts(t, 3*time.Second)
}

func (b *beside) testOwnServices(t *testing.T) {
	must(t, b.configureBerth, func(ctx context.Context) error { return b.Deploy(ctx, berthApp) })
	svc := b.Expose(berthApp, "own")
	class := "berth.dev/lb"
	svc.Spec.LoadBalancerClass = &class
	svc, err := b.Create(t.Context(), svc)
	if err != nil {
		t.Fatal(err)
	}
	b.own = svc
	if got := addressOf(svc).String(); got != "172.30.0.200" {
		t.Errorf("Berth gave %s, want the first of its pool, 172.30.0.200", got)
	}
	eventually(t, func(ctx context.Context) error {
		_, err := b.AskHTTP(ctx, lab.Client, addressOf(svc))
		return err
	})
}

// configureBerth gives Berth pools beside MetalLB's, and the same router.
func (b *beside) configureBerth(ctx context.Context) error {
	return b.Apply(ctx, fmt.Sprintf(`
apiVersion: berth.dev/v1alpha1
kind: LoadBalancerPool
metadata: {name: rack}
spec: {addresses: [%q], scopes: [{namespaceSelector: {}, serviceSelector: {}}]}
---
apiVersion: berth.dev/v1alpha1
kind: SegmentAnnouncement
metadata: {name: rack}
spec: {poolNames: [rack], nodeSelector: {}, serviceSelector: {}}
---
apiVersion: berth.dev/v1alpha1
kind: LoadBalancerPool
metadata: {name: routed}
spec: {allocation: OnRequest, addresses: [%q], scopes: [{namespaceSelector: {}, serviceSelector: {}}]}
---
`, berthRack, berthRouted)+stage.Router)
}

// testNotDialed: a router takes one session of a node, and that is MetalLB's.
func (b *beside) testNotDialed(t *testing.T) {
	eventually(t, func(ctx context.Context) error {
		for _, node := range b.Nodes() {
			status, err := b.Berth.Speakers.Get(ctx, node, metav1.GetOptions{})
			if err != nil {
				return err
			}
			if len(status.Status.Sessions) != 1 {
				return fmt.Errorf("the speaker of %s has %d sessions, want the one with BGPNeighbor tor", node, len(status.Status.Sessions))
			}
			s := status.Status.Sessions[0]
			if s.State == v1alpha1.SessionEstablished || !strings.Contains(s.LastError, "has a session with 172.30.0.1") {
				return fmt.Errorf("the speaker of %s says %s and %q, want that another program has a session with 172.30.0.1", node, s.State, s.LastError)
			}
		}
		return nil
	})
	lasts(t, 10*time.Second) // ten times the neighbor's connectRetryTime
}

func (b *beside) testRestart(t *testing.T) {
	must(t, func(ctx context.Context) error {
		_, err := b.Kubectl(
			ctx, "", "-n", stage.Namespace, "rollout", "restart", "deployment/berth-controller",
			"daemonset/berth-speaker",
		)
		return err
	}, b.AwaitBerth, func(ctx context.Context) error { return b.AwaitSpeakers(ctx, false) })
	eventually(t, func(ctx context.Context) error {
		_, err := b.AskHTTP(ctx, lab.Client, addressOf(b.own))
		return err
	})
	lasts(t, 3*time.Second)
}

func (b *beside) testUninstall(t *testing.T) {
	must(t, b.Uninstall)
	lasts(t, 3*time.Second)
}

// testWaits: Berth adopts MetalLB's Services, and announces their addresses only once
// no other node does. On MetalLB's own node both answer alike, with that node's address.
func (b *beside) testWaits(t *testing.T) {
	owners := make(map[string]string)
	for _, svc := range b.metal {
		if !routed(svc) {
			owner, err := b.Owner(t.Context(), addressOf(svc))
			if err != nil {
				t.Fatal(err)
			}
			owners[svc.Name] = owner
		}
	}
	must(t, b.Install, b.configureBerth, func(ctx context.Context) error { return b.AwaitSpeakers(ctx, false) })
	if changes := b.statuses.Changes(); len(changes) > 0 {
		t.Errorf("statuses changed before any pool takes over: %v", changes)
	}
	b.noWrites(t)
	b.adopting = true
	must(t, b.takeOver)
	eventually(t, func(ctx context.Context) error {
		for _, svc := range b.metal {
			now, err := b.Kubernetes.CoreV1().Services(svc.Namespace).Get(ctx, svc.Name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			c := condition(now, "berth.dev/Announced")
			// Nobody can tell Berth's answers from MetalLB's on the same node.
			alike := !routed(svc) && c.Status == metav1.ConditionTrue && b.berthOwner(ctx, addressOf(svc)) == owners[svc.Name]
			if c.Status != metav1.ConditionFalse && !alike {
				return fmt.Errorf(
					"%s has condition Announced %q (%s: %s), want False: MetalLB still answers, on %s", svc.Name, c.Status,
					c.Reason, c.Message, owners[svc.Name],
				)
			}
		}
		return nil
	})
	lasts(t, 5*time.Second)
}

// berthOwner returns the node whose speaker owns the address, "" if there is none.
func (b *beside) berthOwner(ctx context.Context, address netip.Addr) string {
	owners, err := b.Berth.L2Owners.List(ctx, metav1.ListOptions{})
	if err != nil {
		return ""
	}
	for _, o := range owners.Items {
		if o.Status.Address == address.String() {
			return o.Status.NodeName
		}
	}
	return ""
}

// takeOver has Berth adopt what MetalLB serves.
func (b *beside) takeOver(ctx context.Context) error {
	return b.Apply(ctx, fmt.Sprintf(`
apiVersion: berth.dev/v1alpha1
kind: LoadBalancerPool
metadata: {name: metal-rack}
spec: {addresses: [%q], allocation: OnRequest, takeOver: Always, scopes: [{namespaceSelector: {}, serviceSelector: {}}]}
---
apiVersion: berth.dev/v1alpha1
kind: SegmentAnnouncement
metadata: {name: metal-rack}
spec: {poolNames: [metal-rack], nodeSelector: {}, serviceSelector: {}}
---
apiVersion: berth.dev/v1alpha1
kind: LoadBalancerPool
metadata: {name: metal-routed}
spec: {addresses: [%q], allocation: OnRequest, takeOver: Always, scopes: [{namespaceSelector: {}, serviceSelector: {}}]}
---
apiVersion: berth.dev/v1alpha1
kind: RouteAnnouncement
metadata: {name: metal-routed}
spec: {poolNames: [metal-routed], neighborNames: [tor], nodeSelector: {}, serviceSelector: {}}
`, metalRack, metalRouted))
}

func condition(svc *corev1.Service, kind string) metav1.Condition {
	for _, c := range svc.Status.Conditions {
		if c.Type == kind {
			return c
		}
	}
	return metav1.Condition{}
}

// testTakeOver measures what clients notice: one whose neighbor cache is kept, one that
// has none, and one behind the router.
func (b *beside) testTakeOver(t *testing.T) {
	newcomer := b.StartWatch(t.Context(), lab.ControlPlane, addressOf(b.metal[0]), probeEvery, probeTimeout, true)
	defer newcomer.Stop()
	lasts(t, time.Second)
	stopped := time.Now()
	must(t, b.StopMetalLB)
	for _, svc := range b.metal {
		if routed(svc) {
			must(t, func(ctx context.Context) error {
				return b.AwaitRoutes(ctx, patience, addressOf(svc), "n1", "n2", "n3")
			})
		} else if _, err := b.AwaitOwner(t.Context(), patience, addressOf(svc)); err != nil {
			t.Error(err)
		}
		eventually(t, func(ctx context.Context) error {
			now, err := b.Kubernetes.CoreV1().Services(svc.Namespace).Get(ctx, svc.Name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			if !slices.Equal(stage.Addresses(now), stage.Addresses(svc)) {
				return fmt.Errorf("%s has %v, want %v as MetalLB gave them", svc.Name, stage.Addresses(now), stage.Addresses(svc))
			}
			if c := condition(now, "berth.dev/Announced"); c.Status != metav1.ConditionTrue {
				return fmt.Errorf("%s has condition Announced %q (%s: %s), want True", svc.Name, c.Status, c.Reason, c.Message)
			}
			return nil
		})
	}
	taken := time.Now()
	lasts(t, 3*time.Second)
	var rack, far time.Duration
	for _, svc := range b.metal {
		record := b.probes[svc.Name].Stop().SentAfter(stopped)
		if failed := record.SentAfter(taken).Failed(); len(failed) > 0 {
			t.Errorf("%s: %d requests failed after Berth had taken over, first with %v", svc.Name, len(failed), failed[0].Err)
		}
		if routed(svc) {
			far = max(far, record.Gap())
		} else {
			rack = max(rack, record.Gap())
		}
	}
	measured("metallb_takeover_gap_l2_known_client", rack)
	measured("metallb_takeover_gap_l2_new_clients", newcomer.Stop().SentAfter(stopped).Gap())
	measured("metallb_takeover_gap_bgp", far)
}

// lasts lets what would go wrong within a while go wrong: it waits for nothing that
// could be seen earlier.
func lasts(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-t.Context().Done():
		t.Fatal(t.Context().Err())
	case <-time.After(d):
	}
}
