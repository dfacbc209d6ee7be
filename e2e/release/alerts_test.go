//go:build release

package release

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/e2e/lab"
	"github.com/berth-lb/berth/e2e/stage"
)

var watchedApp = stage.App{Namespace: "shop", Name: "web"}

// raiseWatched raises a lab with Berth, a Service on the segment and one behind BGP with BFD, and
// Prometheus.
func raiseWatched(t *testing.T) (w *watched, onSegment *corev1.Service) {
	t.Helper()
	s := raise(t, lab.Options{Name: "watched", Nodes: 3, Router: "frr"})
	t.Cleanup(func() {
		if t.Failed() {
			s.Explain(context.Background(), t.Output())
		}
	})
	must(t, s.Install, func(ctx context.Context) error {
		return s.Apply(ctx, fmt.Sprintf(`
apiVersion: berth.dev/v1alpha1
kind: LoadBalancerPool
metadata: {name: rack}
spec: {addresses: [172.30.0.200-172.30.0.219], scopes: [{namespaceSelector: {}, serviceSelector: {}}]}
---
apiVersion: berth.dev/v1alpha1
kind: LoadBalancerPool
metadata: {name: small}
spec: {allocation: OnRequest, addresses: [172.30.0.220-172.30.0.230], scopes: [{namespaceSelector: {}, serviceSelector: {}}]}
---
apiVersion: berth.dev/v1alpha1
kind: SegmentAnnouncement
metadata: {name: rack}
spec: {poolNames: [rack, small], nodeSelector: {}, serviceSelector: {}}
---
apiVersion: berth.dev/v1alpha1
kind: LoadBalancerPool
metadata: {name: routed}
spec: {allocation: OnRequest, addresses: [198.51.100.0/24], scopes: [{namespaceSelector: {}, serviceSelector: {}}]}
---
apiVersion: berth.dev/v1alpha1
kind: BGPNeighbor
metadata: {name: tor}
spec: {localASN: %d, remoteASN: %d, address: 172.30.0.1, holdTime: 3s, connectRetryTime: 1s, bfd: {}, nodeSelector: {}}
---
apiVersion: berth.dev/v1alpha1
kind: RouteAnnouncement
metadata: {name: tor}
spec: {poolNames: [routed], neighborNames: [tor], nodeSelector: {}, serviceSelector: {}}
`, lab.NodeAS, lab.RouterAS))
	}, func(ctx context.Context) error { return s.AwaitSpeakers(ctx, true) })
	w = startPrometheus(t, s)
	must(t, func(ctx context.Context) error { return s.Deploy(ctx, watchedApp) })
	onSegment = w.create(t, "web", "rack", nil)
	w.create(t, "routed", "routed", nil)
	eventually(t, func(ctx context.Context) error {
		_, err := s.AskHTTP(ctx, lab.Client, addressOf(onSegment))
		return err
	})
	return w, onSegment
}

// create creates a Service with an address of the pool.
func (w *watched) create(t *testing.T, name, pool string, change func(*corev1.Service)) *corev1.Service {
	t.Helper()
	svc, err := w.Create(t.Context(), w.service(name, pool, change))
	if err != nil {
		t.Fatal(err)
	}
	return svc
}

func (w *watched) service(name, pool string, change func(*corev1.Service)) *corev1.Service {
	svc := w.Expose(watchedApp, name)
	svc.Annotations = map[string]string{"berth.dev/pools": pool}
	if change != nil {
		change(svc)
	}
	return svc
}

// createUnserved creates a Service that gets no address.
func (w *watched) createUnserved(t *testing.T, svc *corev1.Service) {
	t.Helper()
	_, err := w.Kubernetes.CoreV1().Services(svc.Namespace).Create(t.Context(), svc, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

func (w *watched) remove(t *testing.T, name string) {
	t.Helper()
	err := w.Kubernetes.CoreV1().Services(watchedApp.Namespace).Delete(t.Context(), name, metav1.DeleteOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

func (w *watched) kubectl(t *testing.T, args ...string) {
	t.Helper()
	if _, err := w.Kubectl(t.Context(), "", args...); err != nil {
		t.Fatal(err)
	}
}

// TestAlertsAboutServices has Debian's Prometheus watch Berth while Services, pools and the
// configuration go wrong.
func TestAlertsAboutServices(t *testing.T) {
	w, web := raiseWatched(t)
	nodes, err := w.Addresses("n1")
	if err != nil {
		t.Fatal(err)
	}
	var writer *stage.StatusWriter
	w.suffer(t,
		alarm{
			// It clears when the pool is full.
			alert: "BerthPoolNearlyFull", slow: true,
			begin: func(t *testing.T) {
				for i := range 10 {
					w.create(t, fmt.Sprintf("small-%d", i), "small", nil)
				}
			},
		},
		alarm{
			alert: "BerthPoolExhausted",
			begin: func(t *testing.T) {
				w.create(t, "small-10", "small", nil)
				w.createUnserved(t, w.service("small-11", "small", nil))
			},
			end: func(t *testing.T) {
				w.kubectl(t, "patch", "loadbalancerpools.berth.dev", "small", "--type=merge", "-p",
					`{"spec":{"addresses":["172.30.0.220-172.30.0.250"]}}`)
			},
		},
		alarm{
			alert: "BerthServiceWithoutAddress",
			begin: func(t *testing.T) {
				w.createUnserved(t, w.service("outside", "rack", func(svc *corev1.Service) {
					svc.Annotations = map[string]string{"berth.dev/load-balancer-ips": "203.0.113.1"}
				}))
			},
			end: func(t *testing.T) { w.remove(t, "outside") },
		},
		alarm{
			alert: "BerthServiceNotAnnounced",
			begin: func(t *testing.T) {
				w.create(t, "no-pods", "rack", func(svc *corev1.Service) {
					svc.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
					svc.Spec.Selector = map[string]string{"app": "nothing"}
				})
			},
			end: func(t *testing.T) { w.remove(t, "no-pods") },
		},
		alarm{
			alert: "BerthStatusContested",
			begin: func(t *testing.T) {
				writer, err = w.StartStatusWriter(t.Context(), stage.StatusWriterOptions{
					Namespace: web.Namespace, Service: web.Name, Addresses: nodes,
				})
				if err != nil {
					t.Fatal(err)
				}
			},
			end: func(t *testing.T) {
				if _, err := writer.Stop(); err != nil {
					t.Fatal(err)
				}
			},
		},
		alarm{
			alert: "BerthConfigurationNotInEffect",
			begin: func(t *testing.T) {
				must(t, func(ctx context.Context) error {
					return w.Apply(ctx, `
apiVersion: berth.dev/v1alpha1
kind: SegmentAnnouncement
metadata: {name: misspelled}
spec: {poolNames: [rakc], nodeSelector: {}, serviceSelector: {}}
`)
				})
			},
			end: func(t *testing.T) { w.kubectl(t, "delete", "segmentannouncements.berth.dev", "misspelled") },
		},
		alarm{
			alert: "BerthNoLeader",
			begin: func(t *testing.T) {
				w.kubectl(t, "-n", stage.Namespace, "scale", "deployment/berth-controller", "--replicas=0")
			},
			end: func(t *testing.T) {
				w.kubectl(t, "-n", stage.Namespace, "scale", "deployment/berth-controller", "--replicas=2")
			},
		},
	)
}

// TestAlertsAboutTheNetwork has Debian's Prometheus watch Berth while the segment, a router,
// speakers and the way to the API server go wrong. In the end the dashboards' queries are asked.
func TestAlertsAboutTheNetwork(t *testing.T) {
	w, web := raiseWatched(t)
	address := addressOf(web)
	distant := w.withoutController(t)
	var stopped string
	var err error
	others := slices.DeleteFunc(slices.Clone(w.Nodes()), func(n string) bool { return n == "n1" })
	w.suffer(t,
		alarm{
			alert: "BerthAddressConflict",
			begin: func(t *testing.T) {
				must(t, func(context.Context) error { return w.AddAddress(lab.Client, address) },
					func(context.Context) error { return w.AnnounceAddress(lab.Client, address) })
			},
			end: func(t *testing.T) {
				must(t, func(context.Context) error { return w.RemoveAddress(lab.Client, address) })
			},
		},
		alarm{
			alert: "BerthSegmentAlone",
			begin: func(t *testing.T) {
				for _, n := range others {
					must(t, func(ctx context.Context) error { return w.Block(ctx, "n1", n) })
				}
			},
			end: func(t *testing.T) {
				for _, n := range others {
					must(t, func(ctx context.Context) error { return w.Unblock(ctx, "n1", n) })
				}
			},
		},
		alarm{
			alert: "BerthOverslept", slow: true,
			begin: func(t *testing.T) {
				must(t, func(ctx context.Context) error { return w.Pause(ctx, "heart@n1") })
				lasts(t, 3*time.Second) // it is to stand still for longer than the others wait
				must(t, func(ctx context.Context) error { return w.Resume(ctx, "heart@n1") })
			},
		},
		alarm{
			alert: "BerthBGPCrashed", slow: true,
			begin: func(t *testing.T) { must(t, func(ctx context.Context) error { return w.CrashBGP(ctx, "n1") }) },
		},
		alarm{
			alert: "BerthBGPSessionDown",
			begin: func(t *testing.T) {
				must(t, func(ctx context.Context) error { return w.Kill(ctx, "bgpd@"+lab.Router) })
			},
			end: func(t *testing.T) {
				must(t, func(ctx context.Context) error { return w.Start(ctx, "bgpd@"+lab.Router) })
			},
		},
		alarm{
			alert: "BerthDown",
			begin: func(t *testing.T) {
				if stopped, err = w.Owner(t.Context(), address); err != nil {
					t.Fatal(err)
				}
				must(t, func(ctx context.Context) error { return w.Pause(ctx, "speaker@"+stopped) })
			},
			// The kubelet starts another.
			end: func(t *testing.T) {
				must(t, func(ctx context.Context) error { return w.Kill(ctx, "speaker@"+stopped) })
			},
		},
		alarm{
			alert: "BerthBGPSessionFlapping", slow: true,
			begin: func(t *testing.T) {
				for range 3 {
					must(t, func(ctx context.Context) error {
						_, err := w.AwaitRouterSessions(ctx, patience)
						return err
					})
					// Berth starts a session that was up for 10 s at once again, and others after 5 s.
					lasts(t, 10500*time.Millisecond)
					before := w.downs(t)
					must(t, func(ctx context.Context) error {
						_, err := w.Vtysh(ctx, "clear bgp *")
						return err
					})
					eventually(t, func(context.Context) error {
						if now := w.downs(t); now < before+float64(len(w.Nodes())) {
							return fmt.Errorf("%v sessions have ended, %v before", now, before)
						}
						return nil
					})
				}
			},
		},
		alarm{
			alert: "BerthAPIContactLost",
			begin: func(t *testing.T) {
				must(t, func(ctx context.Context) error { return w.Block(ctx, distant, lab.ControlPlane) })
			},
			end: func(t *testing.T) {
				must(t, func(ctx context.Context) error { return w.Unblock(ctx, distant, lab.ControlPlane) })
			},
		},
	)
	w.checkPanels(t)
}

// downs returns how many sessions have ended, as Prometheus knows.
func (w *watched) downs(t *testing.T) float64 {
	t.Helper()
	n, err := w.instant(t.Context(), `sum(berth_bgp_session_downs_total)`)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// withoutController returns a node on which no controller runs.
func (w *watched) withoutController(t *testing.T) string {
	t.Helper()
	pods, err := w.Kubernetes.CoreV1().Pods(stage.Namespace).List(t.Context(), metav1.ListOptions{
		LabelSelector: "app.kubernetes.io/component=controller",
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, node := range w.Nodes() {
		if !slices.ContainsFunc(pods.Items, func(p corev1.Pod) bool { return p.Spec.NodeName == node }) {
			return node
		}
	}
	t.Fatal("each node has a controller")
	return ""
}
