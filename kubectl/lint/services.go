package lint

import (
	"errors"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/controller/service"
)

// annotations of Services that Berth knows.
var annotations = []string{
	v1alpha1.AnnotationAddresses, v1alpha1.AnnotationPools, v1alpha1.AnnotationSharingKey, v1alpha1.AnnotationRelease,
	v1alpha1.AnnotationIPVSScheduler,
}

// foreign are prefixes of annotations of other load balancers.
var foreign = map[string]string{
	"metallb.io": "MetalLB", "metallb.universe.tf": "MetalLB", "kube-vip.io": "kube-vip",
	"lbipam.cilium.io": "Cilium", "io.cilium": "Cilium", "purelb.io": "PureLB",
}

// service judges a Service as the controller would.
func (l *linter) service(o Object, snapshot *config.Snapshot) {
	var svc corev1.Service
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &svc); err != nil {
		l.say(o, Error, "it cannot be read: %v", err)
		return
	}
	for _, name := range slices.Sorted(maps.Keys(svc.Annotations)) {
		prefix, _, _ := strings.Cut(name, "/")
		switch {
		case foreign[prefix] != "":
			l.say(o, Warning, "annotation %s is %s's, and Berth ignores it", name, foreign[prefix])
		case prefix == l.schemas.group && !slices.Contains(annotations, name):
			l.say(o, Error, "annotation %s is not known; did you mean %s?", name, config.Nearest(name, annotations))
		}
	}
	if svc.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return
	}
	if class := svc.Spec.LoadBalancerClass; class != nil && *class != v1alpha1.LoadBalancerClass {
		l.say(
			o,
			Warning,
			"spec.loadBalancerClass %q is not served by default; the controller's --classes would have to name it",
			*class,
		)
	}
	if len(svc.Spec.IPFamilies) == 0 {
		// The API server fills them in, and only it knows which come first: what is asked for counts.
		svc.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}
	}
	request, err := service.RequestOf(&svc, labels.Set{}, snapshot, nil, nil)
	var invalid *service.InvalidRequest
	switch {
	case errors.As(err, &invalid):
		l.say(o, Error, "%s", invalid.Message)
	case err != nil:
		l.say(o, Error, "%v", err)
	}
	if request.Unusable != nil && request.Unusable.Reason != service.ReasonUnknownPool { // see below
		l.say(o, Warning, "%s", request.Unusable.Message)
	}
	severity, where := Warning, " (it is not among these files)"
	if l.complete {
		severity, where = Error, ""
	}
	for i, name := range service.AnnotationList(svc.Annotations, v1alpha1.AnnotationPools) {
		if snapshot.Pool(name) == nil {
			l.say(
				o,
				severity,
				"annotation %s[%d]: no LoadBalancerPool %q exists%s",
				v1alpha1.AnnotationPools,
				i,
				name,
				where,
			)
		}
	}
	for _, address := range request.Pinned {
		if snapshot.PoolOf(address) == nil {
			l.say(o, severity, "%s is in no LoadBalancerPool of these files", address)
		}
	}
}
