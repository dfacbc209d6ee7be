//go:build root

package api

import (
	"context"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config/dialect"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/controller"
	"github.com/berth-lb/berth/controller/service"
)

// While a cluster changes over, annotations for other load balancers count where Berth's own are
// missing, and an edit of the Service is not needed.
func TestHonoredAnnotations(t *testing.T) {
	ns := namespace(t)
	makePool(t, "first", "198.51.100.0/28")
	apply(t, "LoadBalancerPool", "second", "{allocation: OnRequest, addresses: [203.0.113.0/28]}")
	t.Cleanup(func() {
		_ = resource(t, "LoadBalancerPool", "").Delete(context.WithoutCancel(t.Context()), "second", metav1.DeleteOptions{})
	})
	startAs(t, (*controller.Controller).Lead, func(o *controller.Options) {
		o.Honored = dialect.Honored{dialect.MetalLB, dialect.Cilium}
	})
	for name, annotations := range map[string]map[string]string{
		"pool":    {"metallb.universe.tf/address-pool": "second"},
		"address": {"metallb.io/loadBalancerIPs": "203.0.113.9"},
		"cilium":  {"lbipam.cilium.io/ips": "203.0.113.10"},
		"own":     {"metallb.io/loadBalancerIPs": "203.0.113.11", v1alpha1.AnnotationAddresses: "203.0.113.12"},
		"foreign": {"kube-vip.io/loadbalancerIPs": "203.0.113.13", "purelb.io/service-group": "second"},
		"wrong":   {"metallb.io/address-pool": "third"},
	} {
		annotated(t, ns, name, annotations, nil)
	}
	await(t, ns, "pool", service.ReasonAllocated, "203.0.113.0")
	await(t, ns, "address", service.ReasonAllocated, "203.0.113.9")
	await(t, ns, "cilium", service.ReasonAllocated, "203.0.113.10")
	await(t, ns, "own", service.ReasonAllocated, "203.0.113.12")
	await(t, ns, "foreign", service.ReasonAllocated, "198.51.100.0")
	await(t, ns, "wrong", service.ReasonUnknownPool)

	shared := map[string]string{"metallb.io/allow-shared-ip": "key", "metallb.io/loadBalancerIPs": "203.0.113.14"}
	annotated(t, ns, "web", shared, on(80))
	annotated(t, ns, "tls", shared, on(443))
	await(t, ns, "web", service.ReasonAllocated, "203.0.113.14")
	await(t, ns, "tls", service.ReasonAllocated, "203.0.113.14")
}
