package fence

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/berth-lb/berth/config/candidate"
	"github.com/berth-lb/berth/config/client"
)

// byNode is the index of pods by their node.
const byNode = "node"

// cluster has those objects that nothing but fencing reads.
type cluster struct {
	everywhere, ofNodes  informers.SharedInformerFactory
	pods, slices, leases cache.SharedIndexInformer
}

// newCluster returns caches that are empty.
func newCluster(kube kubernetes.Interface) (*cluster, error) {
	c := &cluster{everywhere: newFactory(kube, ""), ofNodes: newFactory(kube, corev1.NamespaceNodeLease)}
	c.pods = c.everywhere.Core().V1().Pods().Informer()
	c.slices = c.everywhere.Discovery().V1().EndpointSlices().Informer()
	c.leases = c.ofNodes.Coordination().V1().Leases().Informer()
	err := errors.Join(
		c.pods.SetTransform(slimPod), c.slices.SetTransform(slimSlice),
		c.pods.AddIndexers(cache.Indexers{byNode: func(o any) ([]string, error) {
			if pod, ok := o.(*corev1.Pod); ok && pod.Spec.NodeName != "" {
				return []string{pod.Spec.NodeName}, nil
			}
			return nil, nil
		}}),
	)
	if err != nil {
		return nil, fmt.Errorf("fence dead nodes: watch: %w", err)
	}
	return c, nil
}

// run fills the caches until the context ends.
func (c *cluster) run(ctx context.Context) {
	c.everywhere.StartWithContext(ctx)
	c.ofNodes.StartWithContext(ctx)
	<-ctx.Done()
	c.everywhere.Shutdown()
	c.ofNodes.Shutdown()
}

func (c *cluster) synced() bool {
	return c.pods.HasSynced() && c.slices.HasSynced() && c.leases.HasSynced()
}

// of returns the ready pods of nodes, and all Services with their ready endpoints. The first have
// addresses of Berth's.
func (c *cluster) of(nodes []string, first map[string]bool) ([]Pod, map[string]Service) {
	var pods []Pod
	for _, node := range nodes {
		found, err := c.pods.GetIndexer().ByIndex(byNode, node)
		if err != nil {
			continue // there is this index
		}
		for _, o := range found {
			if p, ok := o.(*corev1.Pod); ok && p.DeletionTimestamp == nil && isReady(p) {
				pods = append(pods, Pod{
					Namespace: p.Namespace, Name: p.Name, UID: string(p.UID), ResourceVersion: p.ResourceVersion, Node: node,
				})
			}
		}
	}
	services := map[string]Service{}
	for _, slice := range client.Stored[*discoveryv1.EndpointSlice](c.slices) {
		key := candidate.ServiceOf(slice)
		if key == "" {
			continue
		}
		service := services[key]
		service.First = first[key]
		for _, e := range slice.Endpoints {
			endpoint := Endpoint{}
			if e.NodeName != nil {
				endpoint.Node = *e.NodeName
			}
			if e.TargetRef != nil {
				endpoint.Pod = string(e.TargetRef.UID)
			}
			service.Endpoints = append(service.Endpoints, endpoint)
		}
		services[key] = service
	}
	return pods, services
}

func isReady(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// slimPod returns a Pod with only its names, its node and its condition Ready.
func slimPod(o any) (any, error) {
	p, ok := o.(*corev1.Pod)
	if !ok {
		return o, nil
	}
	slim := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: p.Namespace, Name: p.Name, UID: p.UID, ResourceVersion: p.ResourceVersion,
			DeletionTimestamp: p.DeletionTimestamp,
		},
		Spec: corev1.PodSpec{NodeName: p.Spec.NodeName},
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			slim.Status.Conditions = []corev1.PodCondition{{Type: c.Type, Status: c.Status}}
		}
	}
	return slim, nil
}

// slimSlice returns an EndpointSlice with only its ready endpoints, and of these only where they
// are and which pods. Like slimPod it may be given what it returned: a reflector does so at first.
func slimSlice(o any) (any, error) {
	s, ok := o.(*discoveryv1.EndpointSlice)
	if !ok {
		return o, nil
	}
	slim := candidate.SlimSlice(s, true)
	slim.Endpoints = nil
	for _, e := range s.Endpoints {
		if candidate.StateOf(e.Conditions) != candidate.Ready {
			continue
		}
		endpoint := discoveryv1.Endpoint{NodeName: e.NodeName, Conditions: e.Conditions}
		if e.TargetRef != nil && e.TargetRef.Kind == "Pod" {
			endpoint.TargetRef = &corev1.ObjectReference{Kind: e.TargetRef.Kind, UID: e.TargetRef.UID}
		}
		slim.Endpoints = append(slim.Endpoints, endpoint)
	}
	return slim, nil
}
