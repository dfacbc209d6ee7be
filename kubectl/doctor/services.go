package doctor

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/controller/service"
	"github.com/berth-lb/berth/kubectl/view"
)

// services looks for Services that nobody serves, or that somebody else does.
func (e *examination) services() {
	snapshot, _ := config.Compile(e.Objects())
	flags := e.Controller()
	classes := service.Classes{Names: flags.Classes, Classless: flags.Classless}
	waiting := 0
	for _, svc := range e.Services {
		object := "Service " + svc.Namespace + "/" + svc.Name
		served := len(svc.Status.LoadBalancer.Ingress) > 0
		leaves, untilPool := e.LeavesAlone(svc, e.labelsOf(svc.Namespace), snapshot)
		switch class := svc.Spec.LoadBalancerClass; {
		case svc.Spec.Type != corev1.ServiceTypeLoadBalancer || svc.DeletionTimestamp != nil:
		case class != nil && !classes.Selects(svc) && !served:
			e.find(
				"class-not-served",
				object,
				"its spec.loadBalancerClass is %q, which Berth does not serve, and nobody gave it an address",
				*class,
			)
		case !classes.Selects(svc):
		case untilPool:
			e.find(
				"status-of-another",
				object,
				"%s gave it its address, and no pool exists, so Berth leaves it alone",
				service.WriterOf(svc),
			)
		case served && leaves:
			e.find(
				"status-of-another",
				object,
				"%s gave it its address, so Berth leaves it alone",
				service.WriterOf(svc),
			)
		case !served && e.Uninstalled:
			waiting++
		}
	}
	if waiting > 0 {
		e.fact("%s without an address: Berth will serve what has no class or its own", counted(waiting, "Service"))
	}
	if e.Uninstalled {
		return
	}
	for _, row := range view.ServicesOf(e.State, "") {
		if row.Reason != "" && !row.Others {
			e.find("service-pending", "Service "+row.Namespace+"/"+row.Name, "%s: %s", row.Reason, row.Message)
		}
	}
}

func (e *examination) labelsOf(namespace string) labels.Set {
	for _, n := range e.Namespaces {
		if n.Name == namespace {
			return n.Labels
		}
	}
	return nil
}

// externalIPs returns the addresses of spec.externalIPs of a Service.
func externalIPs(svc *corev1.Service) []netip.Addr {
	var all []netip.Addr
	for _, text := range svc.Spec.ExternalIPs {
		if a, err := netip.ParseAddr(text); err == nil {
			all = append(all, a.Unmap())
		}
	}
	return all
}
