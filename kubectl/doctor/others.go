package doctor

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// program is another program that may serve Services.
type program struct {
	name string
	// images contain one of these, behind a slash or at the start.
	images []string
	// apart reports whether it leaves Services without a class alone, or serves none; why says so.
	apart func(container corev1.Container) bool
	why   string
}

var programs = []program{
	{
		name: "MetalLB", images: []string{"metallb/speaker", "metallb/controller", "metallb-speaker", "metallb-controller"},
		apart: func(c corev1.Container) bool { return argument(c, "--lb-class") != "" }, why: "it serves a class of its own",
	},
	{
		name: "kube-vip", images: []string{"kube-vip/kube-vip:", "plndr/kube-vip:", "kube-vip/kube-vip@"},
		apart: func(c corev1.Container) bool {
			return environment(c, "svc_enable") != "true" && !slices.Contains(c.Args, "--services") ||
				environment(c, "lb_class_only") == "true"
		},
		why: "it serves no Services, or only a class of its own",
	},
	{name: "kube-vip's cloud provider", images: []string{"kube-vip-cloud-provider"}},
	{name: "PureLB", images: []string{"purelb/allocator", "purelb/lbnodeagent", "purelb/purelb"}},
	{name: "OpenELB", images: []string{"openelb/openelb", "kubesphere/openelb", "openelb-controller"}},
	{name: "ServiceLB of k3s", images: []string{"klipper-lb"}},
	{
		name: "kube-router", images: []string{"kube-router"},
		apart: func(c corev1.Container) bool {
			v := argument(c, "--advertise-loadbalancer-ip")
			return v == "" || v == "false"
		},
		why: "it does not announce addresses of load balancers",
	},
	{name: "a cloud controller manager", images: []string{"cloud-controller-manager", "cloud-provider-kind"}},
}

// workload is what runs somewhere: a Deployment, a DaemonSet or a Pod.
type workload struct {
	object string
	spec   corev1.PodSpec
}

func (e *examination) workloads() []workload {
	var all []workload
	for _, d := range e.Deployments {
		all = append(all, workload{"Deployment " + d.Namespace + "/" + d.Name, d.Spec.Template.Spec})
	}
	for _, d := range e.DaemonSets {
		all = append(all, workload{"DaemonSet " + d.Namespace + "/" + d.Name, d.Spec.Template.Spec})
	}
	for _, p := range e.extras.Pods {
		if !slices.ContainsFunc(
			p.OwnerReferences,
			func(o metav1.OwnerReference) bool { return o.Kind == "DaemonSet" || o.Kind == "ReplicaSet" },
		) {
			all = append(all, workload{"Pod " + p.Namespace + "/" + p.Name, p.Spec})
		}
	}
	return all
}

// others looks for other load balancers.
func (e *examination) others() {
	classless := e.Controller().Classless
	for _, p := range programs {
		var objects []string
		apart := true
		for _, w := range e.workloads() {
			for _, c := range w.spec.Containers {
				if p.is(c.Image) {
					objects = append(objects, w.object)
					apart = apart && p.apart != nil && p.apart(c)
					break
				}
			}
		}
		switch {
		case len(objects) == 0:
		case apart:
			e.fact("%s runs (%s), and leaves other Services alone: %s", p.name, few(objects), p.why)
		case !classless:
			e.fact(
				"%s runs (%s); Berth serves only Services of its class (--serve-classless=false)",
				p.name,
				few(objects),
			)
		default:
			e.find(
				"other-load-balancer",
				objects[0],
				"%s runs here (%s), and may serve the same Services as Berth: those without a class",
				p.name,
				few(objects),
			)
		}
	}
	if pools := e.extras.Foreign[ciliumPools]; len(pools) > 0 {
		e.find(
			"other-load-balancer",
			"CiliumLoadBalancerIPPool "+pools[0].GetName(),
			"Cilium gives addresses to Services too: it has %s",
			counted(len(pools), "CiliumLoadBalancerIPPool"),
		)
	}
	for _, c := range e.extras.Foreign[calicoBGP] {
		if ranges, _, err := unstructured.NestedSlice(c.Object, "spec", "serviceLoadBalancerIPs"); err == nil &&
			len(ranges) > 0 {
			e.find(
				"other-load-balancer",
				"BGPConfiguration "+c.GetName(),
				"Calico announces addresses of load balancers by BGP: spec.serviceLoadBalancerIPs has %s",
				counted(len(ranges), "range"),
			)
		}
	}
}

func (p program) is(image string) bool {
	return slices.ContainsFunc(p.images, func(part string) bool {
		return strings.HasPrefix(image, part) || strings.Contains(image, "/"+part)
	})
}

// argument returns the value of a container's flag, "true" if it has none, "" if it is not given.
func argument(c corev1.Container, name string) string {
	args := slices.Concat(c.Command, c.Args)
	for i, a := range args {
		if value, is := strings.CutPrefix(a, name+"="); is {
			return value
		}
		if a == name {
			if i+1 < len(args) && !strings.HasPrefix(args[i+1], "-") {
				return args[i+1]
			}
			return "true"
		}
	}
	return ""
}

func environment(c corev1.Container, name string) string {
	for _, v := range c.Env {
		if v.Name == name {
			return v.Value
		}
	}
	return ""
}
