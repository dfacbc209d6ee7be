package doctor

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/internal/version"
	"github.com/berth-lb/berth/kubectl/cluster"
	"github.com/berth-lb/berth/kubectl/doctor/nodes"
	"github.com/berth-lb/berth/manifests/crds"
)

var now = time.Date(2026, 11, 29, 4, 0, 0, 0, time.UTC)

func meta(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: name, Namespace: "berth-system"}
}

func ptr[T any](v T) *T { return &v }

// scene is a cluster in which all is well, to be changed.
type scene struct {
	s *cluster.State
	x *Extras
	p *Proposal
	n *nodes.Seen
}

func node(name, address string) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Status: corev1.NodeStatus{
			Addresses:  []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: address}},
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
		},
	}
}

func speakerOf(node string) *v1alpha1.Speaker {
	return &v1alpha1.Speaker{
		ObjectMeta: metav1.ObjectMeta{Name: node},
		Status: v1alpha1.SpeakerStatus{
			Version: version.Number(),
			Conditions: []metav1.Condition{
				{
					Type:   v1alpha1.ConditionReady,
					Status: metav1.ConditionTrue,
					Reason: string(v1alpha1.SpeakerAnnouncing),
				},
			},
			Segments: []v1alpha1.SegmentReport{{
				Interface: "eth0", State: v1alpha1.SegmentAnnouncing, Subnets: []string{"192.0.2.0/24"}, PeersAlive: ptr(int32(1)),
			}},
			Sessions: []v1alpha1.SessionReport{
				{NeighborName: "tor", Address: ptr("192.0.2.1"), State: v1alpha1.SessionEstablished},
			},
			SigningKey: "aaaaaaaa", AcceptedKeys: []string{"aaaaaaaa"},
		},
	}
}

var berthLabels = map[string]string{"app.kubernetes.io/name": "berth", componentName: "speaker"}

func speakerPod(node string) *corev1.Pod {
	m := meta("berth-speaker-" + node)
	m.Labels = berthLabels
	return &corev1.Pod{ObjectMeta: m, Spec: corev1.PodSpec{
		NodeName: node, HostNetwork: true,
		Containers: []corev1.Container{
			{Name: "speaker", Image: "berth:1", Ports: []corev1.ContainerPort{{ContainerPort: 7470}}},
		},
	}}
}

func well(t *testing.T) *scene {
	t.Helper()
	deployment := &appsv1.Deployment{
		ObjectMeta: meta("berth-controller"),
		Spec:       appsv1.DeploymentSpec{Replicas: ptr(int32(2))},
	}
	deployment.Labels = map[string]string{"app.kubernetes.io/name": "berth", componentName: "controller"}
	deployment.Status.ReadyReplicas = 2
	daemons := &appsv1.DaemonSet{ObjectMeta: meta("berth-speaker")}
	daemons.Labels = berthLabels
	daemons.Spec.Template.Spec.Containers = []corev1.Container{
		{Name: "speaker", Image: "berth:1", Args: []string{"speaker"}},
	}
	s := &cluster.State{
		Taken: now, Namespace: "berth-system", ServerVersion: "v1.36.3",
		Nodes:       []*corev1.Node{node("n1", "192.0.2.11"), node("n2", "192.0.2.12")},
		Speakers:    []*v1alpha1.Speaker{speakerOf("n1"), speakerOf("n2")},
		Pods:        []*corev1.Pod{speakerPod("n1"), speakerPod("n2")},
		Deployments: []*appsv1.Deployment{deployment}, DaemonSets: []*appsv1.DaemonSet{daemons},
		Leases: []*coordinationv1.Lease{{ObjectMeta: meta("berth-controller"), Spec: coordinationv1.LeaseSpec{
			HolderIdentity: ptr("berth-controller-1"), RenewTime: &metav1.MicroTime{Time: now},
		}}},
		Namespaces: []*corev1.Namespace{{ObjectMeta: metav1.ObjectMeta{
			Name: "berth-system", Labels: map[string]string{podSecurity: "privileged"},
		}}},
		Pools:   []*v1alpha1.LoadBalancerPool{pool("rack", "192.0.2.128/25")},
		Missing: map[cluster.Resource]error{},
	}
	x := &Extras{
		Pods: s.Pods, PolicyAPI: true, Missing: map[cluster.Resource]error{},
		Definitions: map[string]*unstructured.Unstructured{},
		Foreign:     map[cluster.Resource][]unstructured.Unstructured{},
	}
	all, err := crds.All()
	if err != nil {
		t.Fatal(err)
	}
	for _, crd := range all {
		x.Definitions[crd.GetName()] = crd
	}
	for _, name := range []string{"system-node-critical", "system-cluster-critical"} {
		x.PriorityClasses = append(x.PriorityClasses, schedulingv1.PriorityClass{ObjectMeta: meta(name)})
	}
	for _, name := range []string{"berth-controller", "berth-speaker"} {
		x.Roles = append(x.Roles, rbacv1.Role{ObjectMeta: meta(name)})
		x.RoleBindings = append(x.RoleBindings, rbacv1.RoleBinding{ObjectMeta: meta(name)})
		x.ClusterRoles = append(x.ClusterRoles, rbacv1.ClusterRole{ObjectMeta: meta(name)})
		x.ClusterBindings = append(x.ClusterBindings, rbacv1.ClusterRoleBinding{ObjectMeta: meta(name)})
	}
	for _, name := range []string{"berth-speaker", "berth-l2owner"} {
		x.Policies = append(x.Policies, admissionv1.ValidatingAdmissionPolicy{ObjectMeta: meta(name)})
		x.PolicyBindings = append(
			x.PolicyBindings,
			admissionv1.ValidatingAdmissionPolicyBinding{ObjectMeta: meta(name)},
		)
	}
	return &scene{s: s, x: x}
}

func pool(name string, ranges ...v1alpha1.AddressRange) *v1alpha1.LoadBalancerPool {
	p := &v1alpha1.LoadBalancerPool{ObjectMeta: metav1.ObjectMeta{Name: name}}
	p.Spec.Addresses = ranges
	p.Spec.Scopes = []v1alpha1.PoolScope{
		{NamespaceSelector: &v1alpha1.Selector{}, ServiceSelector: &v1alpha1.Selector{}},
	}
	return p
}

func lb(name string, class *string, ingress ...string) *corev1.Service {
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "shop"}}
	svc.Spec.Type, svc.Spec.LoadBalancerClass = corev1.ServiceTypeLoadBalancer, class
	for _, a := range ingress {
		svc.Status.LoadBalancer.Ingress = append(svc.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: a})
	}
	return svc
}

// serveMetalLBs has Berth serve a class of MetalLB's, which gave a Service of it an address.
func serveMetalLBs(c *scene) {
	c.s.Deployments[0].Spec.Template.Spec.Containers = []corev1.Container{
		{Args: []string{"controller", "--classes=metallb.io/lb"}},
	}
	c.s.Services = append(c.s.Services, lb("web", ptr("metallb.io/lb"), "203.0.113.1"))
}

func daemonSet(name, image string, args ...string) *appsv1.DaemonSet {
	d := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "other"}}
	d.Spec.Template.Spec.Containers = []corev1.Container{{Name: name, Image: image, Args: args}}
	return d
}

func configMap(mode, ipvs, rest string) string {
	return `apiVersion: kubeproxy.config.k8s.io/v1alpha1
bindAddress: 0.0.0.0
clientConnection: {kubeconfig: /var/lib/kube-proxy/kubeconfig.conf, qps: 0}
clusterCIDR: 10.244.0.0/16
configSyncPeriod: 0s
conntrack: {maxPerCore: null, min: null, tcpEstablishedTimeout: null}
detectLocalMode: ""
iptables:
  masqueradeAll: false
  masqueradeBit: null
  minSyncPeriod: 0s
  syncPeriod: 0s
ipvs:
  excludeCIDRs: null
  minSyncPeriod: 0s
  scheduler: ""
` + ipvs + `  syncPeriod: 0s
kind: KubeProxyConfiguration
mode: "` + mode + `"
nodePortAddresses: null
` + rest
}

func hostPod(name string, port corev1.ContainerPort) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "other"}, Spec: corev1.PodSpec{
		HostNetwork: port.HostPort == 0, NodeName: "n1",
		Containers: []corev1.Container{{Name: "main", Image: "something", Ports: []corev1.ContainerPort{port}}},
	}}
}

func webhookFor(
	policy admissionv1.FailurePolicyType,
	group, resource string,
	namespaces *metav1.LabelSelector,
) []admissionv1.ValidatingWebhookConfiguration {
	return []admissionv1.ValidatingWebhookConfiguration{
		{ObjectMeta: metav1.ObjectMeta{Name: "w"}, Webhooks: []admissionv1.ValidatingWebhook{{
			FailurePolicy: &policy, NamespaceSelector: namespaces,
			Rules: []admissionv1.RuleWithOperations{
				{Rule: admissionv1.Rule{APIGroups: []string{group}, Resources: []string{resource}}},
			},
		}}},
	}
}

func TestLook(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*scene)
		want   []string // "id object", as reported; none: all is well
		says   string   // in the first finding, or in a fact if there is none
	}{
		{name: "all is well", change: func(*scene) {}},
		{
			name: "not installed",
			change: func(c *scene) {
				c.s.Uninstalled, c.s.Speakers, c.s.Pools = true, nil, nil
			},
			says: "not installed",
		},
		{
			name: "an old Kubernetes", change: func(c *scene) { c.s.ServerVersion = "v1.31.9+k3s1" },
			want: []string{"kubernetes-version "}, says: "v1.31.9",
		},
		{name: "a new Kubernetes", change: func(c *scene) { c.s.ServerVersion = "v1.40.0" }, says: "newer"},
		{
			name: "no policies",
			change: func(c *scene) {
				c.x.PolicyAPI, c.x.Policies, c.x.PolicyBindings = false, nil, nil
			},
			want: []string{"admission-policy-api "},
		},
		{
			name: "restricted namespace",
			change: func(c *scene) {
				c.s.Namespaces[0].Labels[podSecurity] = "restricted"
			},
			want: []string{"pod-security Namespace berth-system"},
		},
		{
			name: "no priority class", change: func(c *scene) { c.x.PriorityClasses = c.x.PriorityClasses[:1] },
			want: []string{"priority-class PriorityClass system-cluster-critical"},
		},
		{
			name: "webhook for everything",
			change: func(c *scene) {
				c.x.Validating = webhookFor(admissionv1.Fail, "*", "*", nil)
			},
			want: []string{"webhook ValidatingWebhookConfiguration w"}, says: "Pods in Berth's namespace",
		},
		{
			name: "webhook for Pods of another namespace",
			change: func(c *scene) {
				c.x.Validating = webhookFor(
					admissionv1.Fail, "", "pods", &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}},
				)
			},
		},
		{
			name: "webhook that is ignored",
			change: func(c *scene) {
				c.x.Validating = webhookFor(admissionv1.Ignore, "*", "*", nil)
			},
		},
		{
			name: "one node excluded",
			change: func(c *scene) {
				c.s.Nodes[0].Labels = map[string]string{excludeLabel: ""}
			},
			says: "n1 has the label",
		},
		{
			name: "all nodes excluded",
			change: func(c *scene) {
				for _, n := range c.s.Nodes {
					n.Labels = map[string]string{excludeLabel: ""}
				}
			},
			want: []string{"nodes-excluded Node n1"},
		},
		{
			name: "port 7470 by hostNetwork",
			change: func(c *scene) {
				c.x.Pods = append(c.x.Pods, hostPod("p", corev1.ContainerPort{ContainerPort: 7470}))
			},
			want: []string{"port-in-use Pod other/p"}, says: "7470",
		},
		{
			name: "port 10256 by hostPort", change: func(c *scene) {
				c.x.Pods = append(c.x.Pods, hostPod("p", corev1.ContainerPort{ContainerPort: 1, HostPort: 10256}))
			},
			want: []string{"port-in-use Pod other/p"}, says: "10256",
		},
		{
			name: "port 7470 of a Pod without a node", change: func(c *scene) {
				p := hostPod("p", corev1.ContainerPort{ContainerPort: 1, HostPort: 7470})
				p.Spec.NodeName = ""
				c.x.Pods = append(c.x.Pods, p)
			},
			want: []string{"port-in-use Pod other/p"}, says: "main wants TCP port 7470 of a node, which is for",
		},
		{
			name: "port 179, which nobody needs",
			change: func(c *scene) {
				c.x.Pods = append(c.x.Pods, hostPod("p", corev1.ContainerPort{ContainerPort: 179}))
			},
		},
		{
			name: "port 179 with bgp-passive", change: func(c *scene) {
				c.s.DaemonSets[0].Spec.Template.Spec.Containers[0].Args = []string{"speaker", "--bgp-listen=:179"}
				c.x.Pods = append(c.x.Pods, hostPod("p", corev1.ContainerPort{ContainerPort: 179}))
			},
			want: []string{"port-in-use Pod other/p"}, says: "179",
		},
		{
			name: "Calico with bgp-passive", change: func(c *scene) {
				c.s.DaemonSets[0].Spec.Template.Spec.Containers[0].Args = []string{"speaker", "--bgp-listen=:179"}
				c.s.DaemonSets = append(c.s.DaemonSets, daemonSet("calico-node", "docker.io/calico/node:v3.30.0"))
			},
			want: []string{"port-in-use DaemonSet other/calico-node"},
		},
		{
			name: "kube-proxy of kubeadm",
			change: func(c *scene) {
				c.x.KubeProxy = configMap("", "  strictARP: false\n", "")
			},
			says: "mode iptables",
		},
		{
			name: "ipvs without strictARP",
			change: func(c *scene) {
				c.x.KubeProxy = configMap("ipvs", "  strictARP: false\n", "")
			},
			want: []string{"kube-proxy-strict-arp ConfigMap kube-system/kube-proxy"},
		},
		{
			name: "ipvs with strictARP",
			change: func(c *scene) {
				c.x.KubeProxy = configMap("ipvs", "  strictARP: true\n", "")
			},
			says: "mode ipvs",
		},
		{
			name: "a slow kube-proxy",
			change: func(c *scene) {
				c.x.KubeProxy = configMap("nftables", "", "nftables: {minSyncPeriod: 10s}\n")
			},
			want: []string{"kube-proxy-slow ConfigMap kube-system/kube-proxy"}, says: "10s",
		},
		{
			name: "kube-proxy as a DaemonSet", change: func(c *scene) {
				c.s.DaemonSets = append(c.s.DaemonSets, daemonSet("kube-proxy", "registry.k8s.io/kube-proxy:v1.36.3"))
			},
			says: "kube-proxy runs",
		},
		{
			name: "Cilium without kube-proxy", change: func(c *scene) {
				c.s.DaemonSets = append(c.s.DaemonSets, daemonSet("cilium", "quay.io/cilium/cilium:v1.18.0@sha256:0"))
			},
			want: []string{"kube-proxy-replaced DaemonSet other/cilium"}, says: "Cilium",
		},
		{
			name: "MetalLB", change: func(c *scene) {
				c.s.DaemonSets = append(c.s.DaemonSets, daemonSet("speaker", "quay.io/metallb/speaker:v0.15.2"))
			},
			want: []string{"other-load-balancer DaemonSet other/speaker"}, says: "MetalLB",
		},
		{
			name: "MetalLB with a class", change: func(c *scene) {
				c.s.DaemonSets = append(
					c.s.DaemonSets, daemonSet("speaker", "quay.io/metallb/speaker:v0.15.2", "--lb-class=metallb"),
				)
			},
			says: "class of its own",
		},
		{
			name: "ServiceLB", change: func(c *scene) {
				c.s.DaemonSets = append(c.s.DaemonSets, daemonSet("svclb-web", "rancher/klipper-lb:v0.4.9"))
			},
			want: []string{"other-load-balancer DaemonSet other/svclb-web"}, says: "ServiceLB",
		},
		{
			name: "PureLB", change: func(c *scene) {
				c.s.DaemonSets = append(c.s.DaemonSets, daemonSet("lbnodeagent", "ghcr.io/purelb/purelb/lbnodeagent:v0.13.0"))
			},
			want: []string{"other-load-balancer DaemonSet other/lbnodeagent"}, says: "PureLB",
		},
		{
			name: "OpenELB", change: func(c *scene) {
				c.s.DaemonSets = append(c.s.DaemonSets, daemonSet("openelb", "kubesphere/openelb:v0.6.0"))
			},
			want: []string{"other-load-balancer DaemonSet other/openelb"}, says: "OpenELB",
		},
		{
			name: "a cloud", change: func(c *scene) {
				c.s.DaemonSets = append(c.s.DaemonSets, daemonSet("ccm", "registry.k8s.io/provider-aws/cloud-controller-manager:v1.34.0"))
			},
			want: []string{"other-load-balancer DaemonSet other/ccm"},
		},
		{
			name: "kube-router that announces", change: func(c *scene) {
				c.x.KubeProxy = configMap("", "", "")
				c.s.DaemonSets = append(
					c.s.DaemonSets,
					daemonSet("kube-router", "cloudnativelabs/kube-router", "--advertise-loadbalancer-ip=true"),
				)
			},
			want: []string{"other-load-balancer DaemonSet other/kube-router"},
		},
		{
			name: "kube-vip for the control plane", change: func(c *scene) {
				p := hostPod("kube-vip-n1", corev1.ContainerPort{})
				p.Spec.Containers[0].Image = "ghcr.io/kube-vip/kube-vip:v1.0.1"
				p.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "cp_enable", Value: "true"}}
				c.x.Pods = append(c.x.Pods, p)
			},
			says: "serves no Services",
		},
		{
			name: "kube-vip for Services", change: func(c *scene) {
				p := hostPod("kube-vip-n1", corev1.ContainerPort{})
				p.Spec.Containers[0].Image = "ghcr.io/kube-vip/kube-vip:v1.0.1"
				p.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "svc_enable", Value: "true"}}
				c.x.Pods = append(c.x.Pods, p)
			},
			want: []string{"other-load-balancer Pod other/kube-vip-n1"}, says: "kube-vip",
		},
		{
			name: "kube-vip's cloud provider", change: func(c *scene) {
				c.s.DaemonSets = append(c.s.DaemonSets, daemonSet("p", "ghcr.io/kube-vip/kube-vip-cloud-provider:v0.0.12"))
			},
			want: []string{"other-load-balancer DaemonSet other/p"}, says: "kube-vip's cloud provider",
		},
		{
			name: "Cilium's pools",
			change: func(c *scene) {
				c.x.Foreign[ciliumPools] = []unstructured.Unstructured{named("blue")}
			},
			want: []string{"other-load-balancer CiliumLoadBalancerIPPool blue"},
		},
		{
			name: "Calico announces", change: func(c *scene) {
				u := named("default")
				u.Object["spec"] = map[string]any{"serviceLoadBalancerIPs": []any{map[string]any{"cidr": "192.0.2.0/24"}}}
				c.x.Foreign[calicoBGP] = []unstructured.Unstructured{u, named("other")}
			},
			want: []string{"other-load-balancer BGPConfiguration default"},
		},
		{
			name: "a class that nobody serves",
			change: func(c *scene) {
				c.s.Services = append(c.s.Services, lb("web", ptr("metallb")))
			},
			want: []string{"class-not-served Service shop/web"}, says: "metallb",
		},
		{
			name: "a class that somebody serves",
			change: func(c *scene) {
				c.s.Services = append(c.s.Services, lb("web", ptr("metallb"), "203.0.113.1"))
			},
		},
		{
			name: "a status of another",
			change: func(c *scene) {
				c.s.Services = append(c.s.Services, lb("web", nil, "203.0.113.1"))
			},
			want: []string{"status-of-another Service shop/web"},
		},
		{
			name: "a status of another, of a class that Berth serves, too", change: func(c *scene) {
				serveMetalLBs(c)
				c.s.Pools = nil
			},
			want: []string{"status-of-another Service shop/web"}, says: "no pool exists, so Berth leaves it alone",
		},
		{
			name: "such a Service, and a pool", change: serveMetalLBs,
			want: []string{"service-pending Service shop/web"},
		},
		{
			name: "such a Service, and pools that are not known", change: func(c *scene) {
				serveMetalLBs(c)
				c.s.Pools, c.s.Missing[cluster.Pools] = nil, errors.New("timeout")
			},
			want: []string{"service-pending Service shop/web"},
		},
		{
			name: "a Service that waits",
			change: func(c *scene) {
				c.s.Services = append(c.s.Services, lb("web", nil))
			},
			want: []string{"service-pending Service shop/web"},
		},
		{
			name: "a Service that waits for Berth",
			change: func(c *scene) {
				c.s.Uninstalled, c.s.Services = true, append(c.s.Services, lb("web", nil))
			},
			says: "1 Service without",
		},
		{
			name: "a pool with a node's address",
			change: func(c *scene) {
				c.s.Pools[0].Spec.Addresses = []v1alpha1.AddressRange{"192.0.2.0/24"}
			},
			want: []string{"pool-address-in-use LoadBalancerPool rack", "pool-address-in-use LoadBalancerPool rack"},
			says: "192.0.2.11 is the InternalIP of node n1",
		},
		{
			name: "a proposed pool with a node's address",
			change: func(c *scene) {
				c.p = ProposeRanges([]string{"192.0.2.12-192.0.2.20"})
			},
			want: []string{"pool-address-in-use LoadBalancerPool proposed"},
		},
		{
			name: "a proposed pool in a pod CIDR", change: func(c *scene) {
				c.s.Nodes[0].Spec.PodCIDRs = []string{"10.244.1.0/24"}
				c.p = ProposeRanges([]string{"10.244.1.128/28"})
			},
			want: []string{"pool-address-in-use LoadBalancerPool proposed"}, says: "pod CIDR",
		},
		{
			name: "a proposed pool that overlaps another",
			change: func(c *scene) {
				c.p = ProposeRanges([]string{"192.0.2.128-192.0.2.130"})
			},
			want: []string{"pool-invalid LoadBalancerPool proposed"}, says: "rack",
		},
		{
			name: "a proposed pool that is not valid",
			change: func(c *scene) {
				c.p = ProposeRanges([]string{"192.0.2.129/28"})
			},
			want: []string{"pool-invalid LoadBalancerPool proposed"}, says: "host bits",
		},
		{
			name: "externalIPs", change: func(c *scene) {
				svc := lb("web", ptr("metallb"), "203.0.113.1")
				svc.Spec.ExternalIPs = []string{"192.0.2.200"}
				c.s.Services = append(c.s.Services, svc)
			},
			want: []string{"pool-external-ip LoadBalancerPool rack"},
		},
		{
			name: "an address of another load balancer",
			change: func(c *scene) {
				c.s.Services = append(c.s.Services, lb("web", ptr("metallb"), "192.0.2.200"))
			},
			want: []string{"pool-address-of-service LoadBalancerPool rack"},
		},
		{
			name: "a CRD is missing", change: func(c *scene) { delete(c.x.Definitions, "speakers.berth.dev") },
			want: []string{"crd-missing CustomResourceDefinition speakers.berth.dev"},
		},
		{
			name: "a CRD differs", change: func(c *scene) {
				u := c.x.Definitions["speakers.berth.dev"].DeepCopy()
				unstructured.RemoveNestedField(u.Object, "spec", "versions")
				c.x.Definitions["speakers.berth.dev"] = u
			},
			want: []string{"crd-differs CustomResourceDefinition speakers.berth.dev"},
		},
		{
			name: "a role is missing",
			change: func(c *scene) {
				c.x.Roles = c.x.Roles[:1]
			},
			want: []string{"rights-missing Role berth-speaker"},
		},
		{
			name: "a policy is missing", change: func(c *scene) { c.x.Policies = c.x.Policies[:1] },
			want: []string{"policy-missing ValidatingAdmissionPolicy berth-l2owner"},
		},
		{
			name: "it may fence, and nothing confines it", change: func(c *scene) {
				c.x.ClusterRoles = append(c.x.ClusterRoles, rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "berth-fence"}})
			},
			want: []string{"fence-unconfined ClusterRole berth-fence"},
		},
		{
			name: "it may fence, and is confined", change: func(c *scene) {
				fence := metav1.ObjectMeta{Name: "berth-fence"}
				c.x.ClusterRoles = append(c.x.ClusterRoles, rbacv1.ClusterRole{ObjectMeta: fence})
				c.x.Policies = append(c.x.Policies, admissionv1.ValidatingAdmissionPolicy{ObjectMeta: fence})
				c.x.PolicyBindings = append(
					c.x.PolicyBindings, admissionv1.ValidatingAdmissionPolicyBinding{ObjectMeta: fence},
				)
			},
		},
		{
			name: "it fences, and no speaker reports", change: func(c *scene) {
				pod := &c.s.Deployments[0].Spec.Template.Spec
				pod.Containers = []corev1.Container{{Args: []string{"controller", "--fence-dead-nodes"}}}
			},
			want: []string{"fence-blind Deployment berth-system/berth-controller"},
		},
		{
			name: "no controller", change: func(c *scene) { c.s.Deployments, c.s.Leases = nil, nil },
			want: []string{"controller-missing Deployment berth-system/berth-controller"},
		},
		{
			name: "no controller, and the Lease of one that has ended", change: func(c *scene) {
				c.s.Deployments = nil
				c.s.Leases[0].Spec.RenewTime.Time = now.Add(-time.Minute)
			},
			want: []string{"controller-missing Deployment berth-system/berth-controller"},
		},
		{name: "a controller that runs without a Deployment", change: func(c *scene) { c.s.Deployments = nil }},
		{
			name: "scaled to 0", change: func(c *scene) {
				c.s.Deployments[0].Spec.Replicas, c.s.Deployments[0].Status.ReadyReplicas = ptr(int32(0)), 0
			},
			want: []string{"controller-not-ready Deployment berth-system/berth-controller"},
		},
		{
			name: "an old Lease",
			change: func(c *scene) {
				c.s.Leases[0].Spec.RenewTime.Time = now.Add(-time.Minute)
			},
			want: []string{"no-leader Lease berth-system/berth-controller"},
			says: "which renewed it last at 2026-11-29T03:59:00Z",
		},
		{
			name: "no Lease", change: func(c *scene) { c.s.Leases = nil },
			want: []string{"no-leader Lease berth-system/berth-controller"}, says: "nobody holds the Lease",
		},
		{
			name: "no Pod of a speaker",
			change: func(c *scene) {
				c.s.Pods = c.s.Pods[:1]
			},
			want: []string{"speaker-missing Node n2"},
		},
		{
			name: "a speaker that has not reported",
			change: func(c *scene) {
				c.s.Speakers = c.s.Speakers[:1]
			},
			want: []string{"speaker-missing Node n2"},
		},
		{
			name: "a speaker with a problem", change: func(c *scene) {
				c.s.Speakers[0].Status.Problems = []v1alpha1.SpeakerProblem{{Reason: "Any", Message: "something"}}
			},
			want: []string{"speaker-problem Speaker n1"},
		},
		{
			name: "an older speaker",
			change: func(c *scene) {
				c.s.Speakers[0].Status.Version = "v0.0.9"
			},
			want: []string{"version-skew "}, says: "v0.0.9: the speaker of n1",
		},
		{
			name: "two images",
			change: func(c *scene) {
				c.s.Pods[0].Spec.Containers[0].Image = "berth:2"
			},
			want: []string{"version-skew "},
		},
		{
			name: "a condition", change: func(c *scene) {
				c.s.Pools[0].Status.Conditions = []metav1.Condition{
					{Type: v1alpha1.ConditionAccepted, Status: metav1.ConditionTrue},
					{Type: v1alpha1.ConditionExhausted, Status: metav1.ConditionTrue, Reason: "Full", Message: "no address is free"},
				}
			},
			want: []string{"condition LoadBalancerPool rack"}, says: "no address is free",
		},
		{
			name: "a session is down", change: func(c *scene) {
				session := &c.s.Speakers[1].Status.Sessions[0]
				session.State, session.LastError = v1alpha1.SessionDown, "connection refused"
			},
			want: []string{"session-down BGPNeighbor tor"}, says: "connection refused",
		},
		{
			name: "alone",
			change: func(c *scene) {
				c.s.Speakers[0].Status.Segments[0].PeersAlive = ptr(int32(0))
			},
			want: []string{"segment-alone Node n1"},
		},
		{
			name: "a link is down",
			change: func(c *scene) {
				c.s.Speakers[0].Status.Segments[0].State = v1alpha1.SegmentWaiting
			},
			want: []string{"segment-waiting Node n1"},
		},
		{
			name: "another way back",
			change: func(c *scene) {
				c.s.Speakers[0].Status.Segments[0].ReturnPath = v1alpha1.ReturnPathOther
			},
			want: []string{"return-path Node n1"},
		},
		{
			name: "proxy ARP",
			change: func(c *scene) {
				c.s.Speakers[0].Status.Segments[0].ProxyARPMAC = "02:00:00:00:00:01"
			},
			want: []string{"proxy-arp Node n1"},
		},
		{
			name: "keys apart", change: func(c *scene) {
				status := &c.s.Speakers[1].Status
				status.SigningKey, status.AcceptedKeys = "bbbbbbbb", []string{"aaaaaaaa", "bbbbbbbb"}
			},
			want: []string{"hello-keys Node n2"},
			says: "n2 signs hellos with the key bbbbbbbb, which n1 does not accept",
		},
		{
			name: "a conflict", change: func(c *scene) {
				c.s.Speakers[0].Status.Conflicts = []v1alpha1.ConflictReport{
					{Address: "192.0.2.130", MAC: "02:00:00:00:00:02", Interface: "eth0"},
				}
			},
			want: []string{"address-conflict Node n1"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			at := well(t)
			c.change(at)
			r := Look(at.s, at.x, at.p, at.n)
			if saved := at.saved(t); !reflect.DeepEqual(r, Look(saved.s, saved.x, at.p, at.n)) {
				t.Errorf("once saved, it is %+v", Look(saved.s, saved.x, at.p, at.n))
			}
			var got []string
			for _, f := range r.Findings {
				got = append(got, f.ID+" "+f.Object)
			}
			if !slices.Equal(got, c.want) {
				t.Fatalf("found %q, want %q\n%+v", got, c.want, r)
			}
			text := strings.Join(r.Facts, "\n")
			if len(r.Findings) > 0 {
				text = r.Findings[0].What
			}
			if !strings.Contains(text, c.says) {
				t.Errorf("it says %q, want %q in it", text, c.says)
			}
		})
	}
}

// saved returns the scene as it is in an archive.
func (at *scene) saved(t *testing.T) *scene {
	t.Helper()
	state, err := at.s.Save()
	if err != nil {
		t.Fatal(err)
	}
	files, err := at.x.Save()
	if err != nil {
		t.Fatal(err)
	}
	s, err := cluster.Load(state)
	if err != nil {
		t.Fatal(err)
	}
	x, err := LoadExtras(files)
	if err != nil {
		t.Fatal(err)
	}
	return &scene{s: s, x: x}
}

func named(name string) unstructured.Unstructured {
	u := unstructured.Unstructured{Object: map[string]any{}}
	u.SetKind("Any")
	u.SetName(name)
	return u
}

func TestProposeYAML(t *testing.T) {
	const text = `
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: berth.dev/v1alpha1
kind: LoadBalancerPool
metadata: {name: office}
spec: {addresses: [192.0.2.0/28]}
`
	p, err := ProposeYAML(strings.NewReader(text))
	if err != nil || len(p.Pools) != 1 || p.Pools[0].Spec.Addresses[0] != "192.0.2.0/28" {
		t.Errorf("got %+v, %v", p, err)
	}
	for name, text := range map[string]string{
		"nothing": "", "no pool": "kind: Namespace\napiVersion: v1\n", "not YAML": "{",
	} {
		if _, err := ProposeYAML(strings.NewReader(text)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// TestPage compares the table of docs/reference/doctor.md with the findings that there are, and
// looks for the pages that findings name.
func TestPage(t *testing.T) {
	const root = "../.."
	text, err := os.ReadFile(filepath.Join(root, "docs/reference/doctor.md"))
	if err != nil {
		t.Fatal(err)
	}
	var rows, want []string
	row := regexp.MustCompile(
		"(?m)^\\| <a id=\"([a-z0-9-]+)\"></a>`([a-z0-9-]+)` \\| (error|warning) " +
			"\\| [A-Z].*\\. \\| [A-Z].* \\|$",
	)
	for _, m := range row.FindAllStringSubmatch(string(text), -1) {
		if m[1] != m[2] {
			t.Errorf("the anchor of %s is %s", m[2], m[1])
		}
		rows = append(rows, m[2]+" "+m[3])
	}
	for _, k := range Kinds() {
		want = append(want, k.ID+" "+string(k.Severity))
		if _, err := os.Stat(filepath.Join(root, k.Docs)); err != nil {
			t.Errorf("%s: %v", k.ID, err)
		}
	}
	if !slices.Equal(rows, want) {
		t.Errorf("the page has\n%q\nwant\n%q", rows, want)
	}
}

// TestVersions compares the versions of Kubernetes with the page that names them.
func TestVersions(t *testing.T) {
	text, err := os.ReadFile("../../docs/reference/versions.md")
	if err != nil {
		t.Fatal(err)
	}
	var minors []int
	for _, m := range regexp.MustCompile(`(?m)^\| (v1\.\d+\.\d+) \|`).FindAllStringSubmatch(string(text), -1) {
		if minor, known := minorOf(m[1]); known {
			minors = append(minors, minor)
		}
	}
	if len(minors) == 0 || slices.Min(minors) != oldestMinor || slices.Max(minors) != testedMinor {
		t.Errorf("the page has %v, the doctor %d to %d", minors, oldestMinor, testedMinor)
	}
}
