//go:build release

package release

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/e2e/lab"
	"github.com/berth-lb/berth/e2e/soak"
	"github.com/berth-lb/berth/e2e/stage"
)

// outLabel takes a node out of all SegmentAnnouncements of the soak.
const outLabel = "soak-out"

// soakSegment is a SegmentAnnouncement of a pool; its name comes first.
const soakSegment = `
apiVersion: berth.dev/v1alpha1
kind: SegmentAnnouncement
metadata: {name: %s}
spec:
  poolNames: [%s]
  nodeSelector: {matchExpressions: [{key: ` + outLabel + `, operator: DoesNotExist}]}
  serviceSelector: {}
`

// soakPools has the pools by name: rack and steered on the segment, routed by BGP.
var soakPools = strings.Join([]string{
	soakPool("rack", `addresses: [172.30.0.200-172.30.0.229, "fd00:30::200-fd00:30::21d"]`),
	fmt.Sprintf(soakSegment, "rack", "rack"),
	soakPool("steered", "addresses: [172.30.0.230-172.30.0.234], allocation: OnRequest, dataplane: Steering"),
	fmt.Sprintf(soakSegment, "steered", "steered"),
	soakPool(stage.RoutedPool, "addresses: [198.51.100.0/26], allocation: OnRequest"),
	stage.Router,
}, "---\n")

// sparePool is the pool that comes and goes.
var sparePool = soakPool("spare", "addresses: [172.30.0.235-172.30.0.239], allocation: OnRequest") + "---\n" +
	fmt.Sprintf(soakSegment, "spare", "spare")

// soakPool is a pool for all Services.
func soakPool(name, spec string) string {
	return fmt.Sprintf(`
apiVersion: berth.dev/v1alpha1
kind: LoadBalancerPool
metadata: {name: %s}
spec: {%s, scopes: [{namespaceSelector: {}, serviceSelector: {}}]}
`, name, spec)
}

// shape says what a Service is like.
type shape struct {
	pool   string
	family corev1.IPFamily
	local  bool // its externalTrafficPolicy
}

// soakShapes are those of the Services that are there all the time: one each.
func soakShapes() []shape {
	rack4, rack6 := shape{pool: "rack", family: corev1.IPv4Protocol}, shape{pool: "rack", family: corev1.IPv6Protocol}
	routed := shape{pool: "routed", family: corev1.IPv4Protocol}
	return []shape{
		rack4, rack4, rack4, {pool: "rack", family: corev1.IPv4Protocol, local: true},
		rack6, rack6, {pool: "rack", family: corev1.IPv6Protocol, local: true},
		{pool: "steered", family: corev1.IPv4Protocol}, {pool: "steered", family: corev1.IPv4Protocol, local: true},
		routed, routed, {pool: "routed", family: corev1.IPv4Protocol, local: true},
	}
}

// shaped is a Service with its shape.
type shaped struct {
	shape
	svc *corev1.Service
}

// create creates Services, and does not wait for their addresses.
func (s *soaking) create(t *testing.T, shapes ...shape) []shaped {
	t.Helper()
	var all []shaped
	for _, kind := range shapes {
		svc := s.service(kind.family)
		svc.Annotations = map[string]string{v1alpha1.AnnotationPools: kind.pool}
		if kind.local {
			svc.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		}
		created, err := s.Kubernetes.CoreV1().Services(svc.Namespace).Create(t.Context(), svc, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, shaped{shape: kind, svc: created})
	}
	return all
}

func (s *soaking) delete(t *testing.T, services []shaped) {
	t.Helper()
	for _, one := range services {
		s.ledger.Gone(time.Now(), one.svc.Name)
		s.remove(t, one.svc)
	}
}

// change does what the plan says.
func (s *soaking) change(t *testing.T, c soak.Change) {
	t.Helper()
	s.changed[c.Name]++
	switch c.Name {
	case soak.ServicesReplaced:
		for i := range 1 + c.Choice%3 {
			n := (c.Choice>>8 + i) % uint64(len(s.services))
			s.delete(t, s.services[n:n+1])
			s.services[n] = s.create(t, s.services[n].shape)[0]
		}
	case soak.BurstComes:
		for range 4 {
			s.burst = append(s.burst, s.create(t, soakShapes()[0], soakShapes()[4])...)
		}
	case soak.BurstGoes:
		s.delete(t, s.burst)
		s.burst = nil
	case soak.PoolComes:
		s.apply(t, sparePool)
		s.spare = s.create(
			t,
			shape{pool: "spare", family: corev1.IPv4Protocol},
			shape{pool: "spare", family: corev1.IPv4Protocol},
		)
	case soak.PoolGoes:
		s.delete(t, s.spare)
		s.spare = nil
		s.kubectl(t, "delete", "loadbalancerpools.berth.dev/spare", "segmentannouncements.berth.dev/spare")
	case soak.NodeLabeled:
		s.kubectl(t, "label", "node", c.Node, outLabel+"=yes")
	case soak.NodeUnlabeled:
		s.kubectl(t, "label", "node", c.Node, outLabel+"-")
	case soak.TwinComes:
		s.apply(t, fmt.Sprintf(soakSegment, "twin", "rack"))
	case soak.TwinGoes:
		s.kubectl(t, "delete", "segmentannouncements.berth.dev/twin")
	case soak.Rebalanced:
		s.kubectl(t, "annotate", "--overwrite", "segmentannouncements.berth.dev/rack",
			v1alpha1.AnnotationRebalance+"="+time.Now().Format(time.RFC3339Nano))
	case soak.RoutesChanged:
		s.kubectl(t, "patch", "routeannouncements.berth.dev/tor", "--type=merge", "-p",
			fmt.Sprintf(`{"spec": {"med": %d, "communities": ["%d:%d"]}}`, c.Choice%1000, lab.NodeAS, c.Choice%7))
	case soak.SteeringOff:
		s.kubectl(t, "-n", stage.Namespace, "annotate", "--overwrite", "secret", v1alpha1.HelloSecret,
			v1alpha1.AnnotationSteering+"="+v1alpha1.SteeringDisabled)
	case soak.SteeringOn:
		s.kubectl(
			t,
			"-n",
			stage.Namespace,
			"annotate",
			"secret",
			v1alpha1.HelloSecret,
			v1alpha1.AnnotationSteering+"-",
		)
	case soak.PodsReplaced:
		s.kubectl(t, "-n", s.app.Namespace, "rollout", "restart", "deployment/"+s.app.Name)
	default:
		t.Fatalf("nobody knows how %q is done", c.Name)
	}
}

func (s *soaking) apply(t *testing.T, yaml string) {
	t.Helper()
	must(t, func(ctx context.Context) error { return s.Apply(ctx, yaml) })
}

func (s *soaking) kubectl(t *testing.T, args ...string) {
	t.Helper()
	must(t, func(ctx context.Context) error {
		_, err := s.Kubectl(ctx, "", args...)
		return err
	})
}
