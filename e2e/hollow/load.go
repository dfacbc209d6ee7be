//go:build linux

package hollow

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/e2e/stage"
)

// namespace has all Services of the measurement.
const namespace = "hollow"

// atOnce is how many requests are made at a time.
const atOnce = 8

// configure makes two pools, one announced on the segment and one to two routers.
func (c *cluster) configure(ctx context.Context) error {
	if err := c.kubectl(ctx, "", "create", "namespace", namespace); err != nil {
		return err
	}
	return c.apply(ctx, fmt.Sprintf(`
apiVersion: berth.dev/v1alpha1
kind: LoadBalancerPool
metadata: {name: rack}
spec:
  addresses: [172.30.64.0-172.30.127.255]
  scopes: [{namespaceSelector: {}, serviceSelector: {matchLabels: {by: segment}}}]
---
apiVersion: berth.dev/v1alpha1
kind: SegmentAnnouncement
metadata: {name: rack}
spec: {poolNames: [rack], nodeSelector: {}, serviceSelector: {}}
---
apiVersion: berth.dev/v1alpha1
kind: LoadBalancerPool
metadata: {name: routed}
spec:
  addresses: [198.18.0.0/16]
  scopes: [{namespaceSelector: {}, serviceSelector: {matchLabels: {by: routes}}}]
---
apiVersion: berth.dev/v1alpha1
kind: BGPNeighbor
metadata: {name: first}
spec: {localASN: %[1]d, remoteASN: %[2]d, address: %[3]s, holdTime: 9s, connectRetryTime: 1s, nodeSelector: {}}
---
apiVersion: berth.dev/v1alpha1
kind: BGPNeighbor
metadata: {name: second}
spec: {localASN: %[1]d, remoteASN: %[2]d, address: %[4]s, holdTime: 9s, connectRetryTime: 1s, nodeSelector: {}}
---
apiVersion: berth.dev/v1alpha1
kind: RouteAnnouncement
metadata: {name: routed}
spec: {poolNames: [routed], neighborNames: [first, second], nodeSelector: {}, serviceSelector: {}}
`, nodeAS, routerAS, serverAddress, secondRouter))
}

// The ways in which a Service is reached, which its label "by" says.
const (
	bySegment = "segment"
	byRoutes  = "routes"
	byNobody  = "nobody" // a ClusterIP Service
)

// makeService makes a Service, and the EndpointSlice that the control plane would make for it.
func (c *cluster) makeService(ctx context.Context, name, by, onNode string) error {
	no := false
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"by": by, "app": name}},
		Spec: corev1.ServiceSpec{
			Selector: map[string]string{"app": name}, Ports: []corev1.ServicePort{{Name: "http", Port: 80}},
		},
	}
	if by != byNobody {
		svc.Spec.Type, svc.Spec.AllocateLoadBalancerNodePorts = corev1.ServiceTypeLoadBalancer, &no
	}
	created, err := c.kubernetes.CoreV1().Services(namespace).Create(ctx, svc, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("create Service %s: %w", name, err)
	}
	yes, port, http := true, int32(80), "http"
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Name: name + "-abcde", Labels: map[string]string{
				discoveryv1.LabelServiceName: name, discoveryv1.LabelManagedBy: "endpointslice-controller.k8s.io",
			},
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: "v1", Kind: "Service", Name: name, UID: created.UID, Controller: &yes, BlockOwnerDeletion: &yes,
			}},
		},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: &http, Port: &port}},
	}
	for i := range 2 {
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{fmt.Sprintf("10.244.1.%d", i+1)}, NodeName: &onNode,
			Conditions: discoveryv1.EndpointConditions{Ready: &yes, Serving: &yes},
			TargetRef: &corev1.ObjectReference{
				Kind: "Pod", Namespace: namespace, Name: fmt.Sprintf("%s-%d", name, i), UID: created.UID,
			},
		})
	}
	if _, err := c.kubernetes.DiscoveryV1().EndpointSlices(namespace).Create(
		ctx, slice, metav1.CreateOptions{},
	); err != nil {
		return fmt.Errorf("create EndpointSlice of %s: %w", name, err)
	}
	return nil
}

// makeServices makes the Services of these numbers, and waits until each has an address.
func (c *cluster) makeServices(ctx context.Context, by string, from, to int) error {
	group, making := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for i := from; i < to; i++ {
		group.Go(func() error {
			return c.makeService(making, fmt.Sprintf("%s-%05d", by, i), by, c.nodes[i%len(c.nodes)].name)
		})
	}
	if err := group.Wait(); err != nil || by == byNobody {
		return err
	}
	return c.eventually(ctx, func(ctx context.Context) error {
		list, err := c.kubernetes.CoreV1().Services(namespace).List(ctx, metav1.ListOptions{
			LabelSelector: "by=" + by, ResourceVersion: "0",
		})
		if err != nil {
			return err
		}
		given := 0
		for i := range list.Items {
			given += len(list.Items[i].Status.LoadBalancer.Ingress)
		}
		if given < to {
			return pause(ctx, fmt.Errorf("%d of %d Services have an address", given, to))
		}
		return nil
	})
}

// pause returns the error after a while: what follows from it is not worth asking often.
func pause(ctx context.Context, err error) error {
	select {
	case <-time.After(500 * time.Millisecond):
	case <-ctx.Done():
	}
	return err
}

// addressWithin makes a Service, and returns how long it took until it had an address.
func (c *cluster) addressWithin(ctx context.Context, name, by string) (time.Duration, error) {
	watching, err := c.kubernetes.CoreV1().Services(namespace).Watch(ctx, metav1.ListOptions{
		FieldSelector: "metadata.name=" + name,
	})
	if err != nil {
		return 0, fmt.Errorf("watch Service %s: %w", name, err)
	}
	defer watching.Stop()
	begun := time.Now()
	if err := c.makeService(ctx, name, by, c.nodes[0].name); err != nil {
		return 0, err
	}
	for event := range watching.ResultChan() {
		if svc, ok := event.Object.(*corev1.Service); ok && len(stage.Addresses(svc)) > 0 {
			return time.Since(begun), nil
		}
	}
	return 0, errors.Join(ctx.Err(), fmt.Errorf("no address for Service %s", name))
}

// owners returns how many addresses each node answers for, as the L2Owners say.
func (c *cluster) owners(ctx context.Context) (map[string]int, error) {
	list, err := c.berth.L2Owners.List(ctx, metav1.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return nil, fmt.Errorf("list L2Owners: %w", err)
	}
	found := map[string]int{}
	for i := range list.Items {
		found[list.Items[i].Status.NodeName]++
	}
	return found, nil
}

// rebalance spreads the addresses over all nodes: those that came later own none. It returns when
// addresses move no longer.
func (c *cluster) rebalance(ctx context.Context) error {
	if err := c.kubectl(
		ctx, "", "annotate", "segmentannouncements.berth.dev", "rack", "--overwrite",
		v1alpha1.AnnotationRebalance+"="+time.Now().UTC().Format(time.RFC3339Nano),
	); err != nil {
		return err
	}
	var before map[string]int
	return c.eventually(ctx, func(ctx context.Context) error {
		found, err := c.owners(ctx)
		if err != nil {
			return err
		}
		same := maps.Equal(before, found)
		before = found
		for _, n := range c.nodes {
			if found[n.name] == 0 {
				return pause(ctx, fmt.Errorf("node %s owns no address", n.name))
			}
		}
		if !same {
			return errors.Join(wait(ctx, 5*time.Second), errors.New("addresses move still"))
		}
		return nil
	})
}

// awaitOwners waits until living nodes answer for so many addresses.
func (c *cluster) awaitOwners(ctx context.Context, count int) error {
	return c.eventually(ctx, func(ctx context.Context) error {
		found, err := c.owners(ctx)
		if err != nil {
			return err
		}
		owned := 0
		for _, n := range c.nodes {
			if !n.dead.Load() {
				owned += found[n.name]
			}
		}
		if owned < count {
			return pause(ctx, fmt.Errorf("living nodes own %d of %d addresses", owned, count))
		}
		return nil
	})
}
