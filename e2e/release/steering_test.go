//go:build release

package release

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/e2e/lab"
	"github.com/berth-lb/berth/e2e/stage"
)

// TestSteering has clients of steered Services hold connections, on the segment and behind a router
// that spreads them over all nodes, while others open new ones all the time. Nodes die, Pods come
// and go, and what watches nodes is wrong: none may break but those with Pods of nodes that died.
// BERTH_STEERING_PROXY=iptables has kube-proxy in that mode.
// Connections of a Service without second chance must break where that is what saves the others.
func TestSteering(t *testing.T) {
	r := raiseSteering(t)
	t.Run("kubectl berth why says where each client goes", r.foretell)
	for _, row := range r.rows() {
		t.Run(row.does, func(t *testing.T) { r.try(t, row) })
	}
	t.Run("faults at random", r.churn)
	r.reportDeaths()
	r.held.end(func(*conversation) bool { return true })
	r.isTurnedOff(t)
}

// steeringRack is a lab of four nodes that steer. Services have Pods on n2 and n3, and at times on
// n4; n1 answers for the addresses on the segment.
type steeringRack struct {
	*stage.Stage
	segment, routed, control, cluster front

	held      *held
	newcomers *newcomers
	deaths    []arrivals // what new connections saw of each death of a node with Pods
	// unheardDeaths are the deaths while another node's speaker was stopped.
	unheardDeaths []arrivals
}

const steeredNamespace = "steered"

// steeringPools are the pools by name, with the addresses of their only Services.
const steeringPools = `
apiVersion: berth.dev/v1alpha1
kind: LoadBalancerPool
metadata: {name: segment}
spec: {addresses: [172.30.0.200/32], dataplane: Steering, scopes: [{namespaceSelector: {}, serviceSelector: {}}]}
---
apiVersion: berth.dev/v1alpha1
kind: LoadBalancerPool
metadata: {name: control}
spec:
  addresses: [172.30.0.201/32]
  dataplane: Steering
  steering: {secondChance: Never}
  scopes: [{namespaceSelector: {}, serviceSelector: {}}]
---
apiVersion: berth.dev/v1alpha1
kind: LoadBalancerPool
metadata: {name: routed}
spec: {addresses: [198.51.100.200/32], dataplane: Steering, scopes: [{namespaceSelector: {}, serviceSelector: {}}]}
---
apiVersion: berth.dev/v1alpha1
kind: LoadBalancerPool
metadata: {name: cluster}
spec:
  addresses: [172.30.0.202/32]
  dataplane: Steering
  steering: {externalTrafficPolicyCluster: Steer}
  scopes: [{namespaceSelector: {}, serviceSelector: {}}]
---
apiVersion: berth.dev/v1alpha1
kind: SegmentAnnouncement
metadata: {name: rack}
spec:
  poolNames: [segment, control, cluster]
  nodeSelector: {}
  serviceSelector: {}
  preferredNodes: [{weight: 1, nodeSelector: {matchLabels: {kubernetes.io/hostname: n1}}}]
---
apiVersion: berth.dev/v1alpha1
kind: BGPNeighbor
metadata: {name: tor}
spec:
  localASN: %d
  remoteASN: %d
  address: 172.30.0.1
  holdTime: 3s
  connectRetryTime: 1s
  bfd: {receiveInterval: 100ms, transmitInterval: 100ms}
  nodeSelector: {}
---
apiVersion: berth.dev/v1alpha1
kind: RouteAnnouncement
metadata: {name: tor}
spec: {poolNames: [routed], neighborNames: [tor], nodeSelector: {}, serviceSelector: {}}
`

func raiseSteering(t *testing.T) *steeringRack {
	t.Helper()
	r := &steeringRack{Stage: raise(t, lab.Options{
		Name: "steering", Nodes: 4, Router: "frr", ProxyMode: os.Getenv("BERTH_STEERING_PROXY"),
	})}
	t.Cleanup(func() {
		if t.Failed() {
			r.Explain(context.Background(), t.Output())
		}
	})
	must(t, func(ctx context.Context) error { return r.InstallComponent(ctx, t.TempDir(), "steering") },
		func(ctx context.Context) error { return r.Deploy(ctx, steered("web", "n2", "n3")) },
		func(ctx context.Context) error {
			return r.Apply(ctx, fmt.Sprintf(steeringPools, lab.NodeAS, lab.RouterAS))
		},
		func(ctx context.Context) error { return r.Deploy(ctx, steered(guest("n1"), "n1")) },
		func(ctx context.Context) error { return r.Deploy(ctx, steered(guest("n4"), "n4")) })
	r.scale(t, "n1", 0) // they come and go later
	r.leaves(t, "n4")
	r.leaves(t, "n1")
	r.segment = front{name: "segment", host: lab.Client, address: r.expose(t, "segment"), tcp: 300, udp: 60}
	r.routed = front{name: "routed", host: lab.Remote, address: r.expose(t, "routed"), tcp: 200, udp: 40}
	r.control = front{
		name: "control", host: lab.Client, address: r.expose(t, "control"), tcp: 120, udp: 40, control: true,
	}
	r.cluster = front{name: "cluster", host: lab.Client, address: r.expose(t, "cluster"), tcp: 100, udp: 30}
	r.moveBack(t) // to n1, which has no Pod: so it steers
	must(t, func(ctx context.Context) error {
		return r.AwaitRoutes(ctx, patience, r.routed.address, r.Nodes()...)
	})
	r.held = hold(t, r.Stage, r.segment, r.routed, r.cluster, r.control)
	if on := r.held.nodes(); on["n2"] == 0 || on["n3"] == 0 || len(on) != 2 {
		t.Fatalf("connections are on %v, want some on each of n2 and n3", on)
	}
	r.newcomers = arrive(t, r.Stage, r.segment, r.routed, r.cluster)
	return r
}

// unreadyAfter is for how many seconds a Pod must say that it is not ready.
const unreadyAfter = 30

// steered is an application with a Pod on each of some nodes, behind all Services of the test. Pods
// on a busy node stay ready: kube-proxy forgets the UDP flows of others.
func steered(name string, nodes ...string) stage.App {
	return stage.App{Namespace: steeredNamespace, Name: name, Group: "steered", Nodes: nodes, UnreadyAfter: unreadyAfter}
}

// expose makes the Service of a pool, and returns its address.
func (r *steeringRack) expose(t *testing.T, pool string) netip.Addr {
	t.Helper()
	svc := r.Expose(steered("web"), pool)
	svc.Annotations = map[string]string{v1alpha1.AnnotationPools: pool}
	svc.Spec.Selector = map[string]string{"group": "steered"}
	if pool != "cluster" {
		svc.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	}
	svc, err := r.Create(t.Context(), svc)
	if err != nil {
		t.Fatal(err)
	}
	return stage.Addresses(svc)[0]
}

// owned waits until one of the nodes, and no other one, answers for the address of each front.
func (r *steeringRack) owned(t *testing.T, fronts []front, nodes ...string) {
	t.Helper()
	for _, f := range fronts {
		eventually(t, func(ctx context.Context) error {
			at, err := r.AwaitOwner(ctx, patience, f.address)
			if err == nil && !slices.Contains(nodes, at) {
				err = fmt.Errorf("%s answers for %s, want one of %v", at, f.address, nodes)
			}
			return err
		})
	}
}

// moveBack has n1, which is preferred, own the addresses on the segment again. It asks until that
// is so: who was offered an address may be too busy to take it.
func (r *steeringRack) moveBack(t *testing.T) {
	t.Helper()
	asked := time.Time{}
	eventually(t, func(ctx context.Context) error {
		if time.Since(asked) > 5*time.Second {
			asked = time.Now()
			if _, err := r.Kubectl(
				ctx, "", "annotate", "--overwrite", "segmentannouncement", "rack",
				v1alpha1.AnnotationRebalance+"="+asked.Format(time.RFC3339Nano),
			); err != nil {
				return err
			}
		}
		for _, f := range []front{r.segment, r.control, r.cluster} {
			if at, err := r.Owner(ctx, f.address); err != nil || at != "n1" {
				return errors.Join(err, fmt.Errorf("%s answers for %s, want n1", at, f.address))
			}
		}
		return nil
	})
}

// reportDeaths prints for how long new connections failed when nodes died. Those while the speaker
// of another node was stopped count apart: nobody tells the program there of the death.
func (r *steeringRack) reportDeaths() {
	report := func(what, network string, deaths []arrivals) {
		var all []float64
		for _, saw := range deaths {
			all = append(all, saw.longest[network].Seconds())
		}
		slices.Sort(all)
		if n := len(all); n > 0 {
			fmt.Printf("steering/%s_new_%s_failed_for_median %.2f s\n", what, network, all[n/2])
			fmt.Printf("steering/%s_new_%s_failed_for_p99 %.2f s (of %d deaths)\n", what, network, all[(n*99-1)/100], n)
		}
	}
	for _, network := range []string{"tcp", "udp"} {
		report("death", network, r.deaths)
		report("death_while_a_speaker_is_stopped", network, r.unheardDeaths)
	}
}

// isTurnedOff turns steering off: nothing is left of it, and nodes with Pods answer.
func (r *steeringRack) isTurnedOff(t *testing.T) {
	t.Helper()
	must(t, func(ctx context.Context) error {
		_, err := r.Kubectl(
			ctx, "", "-n", stage.Namespace, "annotate", "secret", v1alpha1.HelloSecret,
			v1alpha1.AnnotationSteering+"=Disabled",
		)
		return err
	})
	for _, node := range r.Nodes() {
		eventually(t, func(ctx context.Context) error {
			left, err := r.Exec(ctx, node, "ls", "/sys/fs/bpf").Output()
			if err == nil && strings.Contains(string(left), "berth") {
				err = fmt.Errorf("%s has %s", node, left)
			}
			if err != nil {
				return err
			}
			tables, err := r.Exec(ctx, node, "nft", "list", "tables").Output()
			if err == nil && strings.Contains(string(tables), "berth-pods") {
				err = fmt.Errorf("%s has the table berth-pods", node)
			}
			return err
		})
	}
	r.owned(t, []front{r.segment, r.control}, "n2", "n3")
	r.owned(t, []front{r.cluster}, r.Nodes()...)
}
