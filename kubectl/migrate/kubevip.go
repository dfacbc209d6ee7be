package migrate

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/berth-lb/berth/config/dialect"
	"github.com/berth-lb/berth/config/v1alpha1"
)

// global is what kube-vip's cloud provider calls the pool of the namespaces that have none.
const global = "global"

func fromKubeVIP(c *converter) {
	for _, o := range c.input {
		data, _, _ := unstructured.NestedStringMap(o.Object, "data")
		if o.GetKind() == "ConfigMap" && slices.ContainsFunc(slices.Collect(maps.Keys(data)), ofKubeVIP) {
			c.kubeVIPPools(itemOf(o), data)
		}
	}
	var all []kubeVIPPod
	for _, o := range c.input {
		all = append(all, c.kubeVIPPods(o)...)
	}
	c.kubeVIPs(all)
	c.services(kubeVIPManner)
}

var kubeVIPManner = manner{
	Dialect:  dialect.KubeVIP,
	prefixes: []string{"kube-vip.io/"},
	written: []string{
		"kube-vip.io/hwaddr", "kube-vip.io/requestedIP", "kube-vip.io/vipHost", "kube-vip.io/active-endpoint*",
		"kube-vip.io/egress-nftables-table", "kube-vip.io/leaseName", "kube-vip.io/forcePerServiceElection",
	},
	remedies: map[string]string{
		"kube-vip.io/serviceInterface": "write interfaces of a SegmentAnnouncement that selects the Service by a label",
		"kube-vip.io/serviceVLAN":      "write the VLAN's interface into interfaces of a SegmentAnnouncement that selects the Service by a label",
		"kube-vip.io/egress":           "Berth does not change the address that Pods send from; use the network plugin's egress gateway",
		"kube-vip.io/ignore":           "Berth serves it all the same; give the Service a loadBalancerClass that nobody serves",
		"kube-vip.io/forwardUPNP":      "Berth does not open ports of a router; forward them in the router's configuration",
	},
	labels: map[string]string{"implementation": "kube-vip", "ipam-address": ""},
}

// ofKubeVIP reports whether a key of a ConfigMap is one of kube-vip's cloud provider.
func ofKubeVIP(key string) bool {
	return strings.HasPrefix(key, "cidr-") || strings.HasPrefix(key, "range-")
}

// kubeVIPPools makes a pool for each namespace that has one, and for all others.
func (c *converter) kubeVIPPools(i item, data map[string]string) {
	from := i.from
	entries := map[string]string{} // keys, by namespace
	for _, key := range slices.Sorted(maps.Keys(data)) {
		prefix, namespace, _ := strings.Cut(key, "-")
		switch {
		case prefix == "cidr":
			entries[namespace] = key
		case prefix == "range" && entries[namespace] != "":
			c.note(from, "data."+key, data[key], "it is left out: kube-vip uses "+entries[namespace]+" only")
		case prefix == "range":
			entries[namespace] = key
		case key == "search-order" && data[key] == "desc":
			c.lacks(from, "data."+key, data[key], "Berth gives the lowest free address first")
		case strings.HasPrefix(key, "allow-share-") && data[key] == "true":
			c.lacks(
				from,
				"data."+key,
				data[key],
				"Services share an address if they ask for it: write the same annotation "+v1alpha1.AnnotationSharingKey+" on them",
			)
		case prefix == "interface":
			c.lacks(from, "data."+key, data[key],
				"write it into interfaces of a SegmentAnnouncement that selects LoadBalancerPool "+namespace)
		case key == "search-order", key == "skip-end-ips-in-cidr", strings.HasPrefix(key, "allow-share-"):
		default:
			c.lacks(from, "data."+key, "",
				"this command does not know the key; look up what it does, and whether Berth has it")
		}
	}
	own := sets.KeySet(entries).Delete(global)
	namespaces := sets.List(own)
	if entries[global] != "" { // last: what a namespace has counts
		namespaces = append(namespaces, global)
	}
	for _, namespace := range namespaces {
		key := entries[namespace]
		scope := v1alpha1.PoolScope{NamespaceNames: []string{namespace}, ServiceSelector: everything()}
		if namespace == global {
			scope.NamespaceNames, scope.NamespaceSelector = nil, outside(own)
		}
		pool := &v1alpha1.LoadBalancerPool{Spec: v1alpha1.LoadBalancerPoolSpec{Scopes: []v1alpha1.PoolScope{scope}}}
		pool.Name = c.nameFor("LoadBalancerPool", i, namespace)
		texts := strings.FieldsFunc(data[key], func(r rune) bool { return r == ',' })
		pool.Spec.Addresses = c.addressesOf(from, "data."+key, texts, data["skip-end-ips-in-cidr"] != "true")
		c.addPool(i, pool)
	}
}

// outside selects the namespaces that have no pool of their own.
func outside(own sets.Set[string]) *v1alpha1.Selector {
	if own.Len() == 0 {
		return everything()
	}
	return &v1alpha1.Selector{MatchExpressions: []v1alpha1.SelectorRequirement{{
		Key: corev1.LabelMetadataName, Operator: v1alpha1.SelectorNotIn, Values: sets.List(own),
	}}}
}

// podTemplate is what a DaemonSet's Pods, or a static Pod, are told.
type podTemplate struct {
	NodeName     string            `json:"nodeName,omitempty"`
	NodeSelector map[string]string `json:"nodeSelector,omitempty"`
	Affinity     map[string]any    `json:"affinity,omitempty"`
	Containers   []struct {
		Image string          `json:"image,omitempty"`
		Env   []corev1.EnvVar `json:"env,omitempty"`
	} `json:"containers,omitempty"`
}

// kubeVIPPod is a DaemonSet or a Pod of kube-vip's.
type kubeVIPPod struct {
	item
	env      map[string]string // what its container is told
	nodes    map[string]string // its nodeSelector
	static   bool              // it is a Pod, which runs on one node
	nodeName string            // of a Pod, if it is known
}

// kubeVIPPods returns what the environment of a container says, if it is kube-vip's.
func (c *converter) kubeVIPPods(o *unstructured.Unstructured) (found []kubeVIPPod) {
	path := []string{"spec", "template", "spec"}
	switch {
	case o.GetKind() == "DaemonSet":
	case o.GetKind() != "Pod", c.ofDaemonSet(o):
		return nil
	default:
		path = path[:1]
	}
	fields, _, _ := unstructured.NestedMap(o.Object, path...)
	// Not strictly: most fields of a Pod are not about load balancing.
	pod, err := lenient[podTemplate](fields)
	if err != nil {
		c.lacks(nameIn(o), strings.Join(path, "."), "", "it cannot be read: "+err.Error())
		return nil
	}
	for _, container := range pod.Containers {
		env := map[string]string{}
		for _, e := range container.Env {
			env[e.Name] = e.Value
		}
		if !strings.Contains(container.Image, "kube-vip") || strings.Contains(container.Image, "cloud-provider") {
			continue
		}
		if env["svc_enable"]+env["cp_enable"] == "" {
			c.lacks(nameIn(o), strings.Join(path, ".")+".containers", container.Image,
				"its settings are not in env, where this command looks; write announcements")
			continue
		}
		if len(pod.Affinity) > 0 {
			c.note(nameIn(o), strings.Join(path, ".")+".affinity", "",
				"write what nodes it allows into nodeSelector of the announcements")
		}
		found = append(found, kubeVIPPod{itemOf(o), env, pod.NodeSelector, o.GetKind() == "Pod", pod.NodeName})
	}
	return found
}

// ofDaemonSet reports whether a Pod is of a DaemonSet among the input, which says the same.
func (c *converter) ofDaemonSet(pod *unstructured.Unstructured) bool {
	owner := metav1.GetControllerOf(pod)
	return owner != nil && slices.ContainsFunc(c.input, func(o *unstructured.Unstructured) bool {
		return o.GetKind() == owner.Kind && o.GetName() == owner.Name && o.GetNamespace() == pod.GetNamespace()
	})
}

// kubeVIPs converts what kube-vip is told. Static Pods are alike on several nodes: those with the
// same settings are converted as one, for all of their nodes.
func (c *converter) kubeVIPs(all []kubeVIPPod) {
	var first *kubeVIPPod
	for n, p := range all {
		if !p.static {
			c.kubeVIP(p.item, p.env, selectorOf(&metav1.LabelSelector{MatchLabels: p.nodes}))
			continue
		}
		same := func(other kubeVIPPod) bool { return other.static && maps.Equal(other.env, p.env) }
		if before := slices.IndexFunc(all[:n], same); before >= 0 {
			c.say(p.from, Converted, "", "", "its settings are those of "+all[before].from)
			continue
		}
		if first != nil {
			c.note(
				p.from,
				"env",
				differing(first.env, p.env),
				"it differs from that of "+first.from+"; see that the announcements select the nodes that they are for",
			)
		}
		first = cmp.Or(first, &p)
		c.kubeVIP(
			p.item,
			p.env,
			c.nodesOf(p.from, slices.DeleteFunc(slices.Clone(all[n:]), func(other kubeVIPPod) bool {
				return !same(other)
			})),
		)
	}
}

// differing returns the names of the variables that are not the same in both, with a comma between
// them: a value may be a password.
func differing(a, b map[string]string) string {
	names := sets.KeySet(a).Union(sets.KeySet(b))
	for name := range names {
		if a[name] == b[name] {
			names.Delete(name)
		}
	}
	return strings.Join(sets.List(names), ", ")
}

// nodesOf selects the nodes of static Pods, if they are known.
func (c *converter) nodesOf(from string, pods []kubeVIPPod) *v1alpha1.Selector {
	names := sets.New[string]()
	for _, p := range pods {
		if p.nodeName == "" {
			c.note(
				from,
				"spec",
				"",
				"a static Pod runs on the nodes that have its manifest, which are often those of the "+
					"control plane, and here all nodes announce; write nodeSelector if that is not meant",
			)
			return everything()
		}
		names.Insert(p.nodeName)
	}
	c.note(from, "spec.nodeName", strings.Join(sets.List(names), ", "),
		"if they are nodes of the control plane: "+fmt.Sprintf(exclusion, strings.Join(sets.List(names), " ")))
	return &v1alpha1.Selector{MatchExpressions: []v1alpha1.SelectorRequirement{{
		Key: corev1.LabelHostname, Operator: v1alpha1.SelectorIn, Values: sets.List(names),
	}}}
}

// remedies are settings without a counterpart, by the variable that turns them on.
var remedies = map[string]string{
	"egress_podcidr":          "Berth does not change the address that Pods send from; use the network plugin's egress gateway",
	"enable_service_security": "only the ports of a Service answer at its address by kube-proxy; write a firewall rule for the rest",
	"enable_upnp":             "Berth does not open ports of a router; forward them in the router's configuration",
	"lb_enable":               "it is for the control plane; keep kube-vip for that",
	"mirror_dest_interface":   "Berth does not copy packets; use the mirror of a switch, or tc",
	"vip_routingtable":        "Berth writes no routes for routing software; write BGPNeighbors",
	"vip_wireguard":           "Berth has no tunnels; announce by BGP through one",
	"zebra_enable":            "Berth announces by BGP itself; write BGPNeighbors",
}

// kubeVIP converts settings of kube-vip.
func (c *converter) kubeVIP(i item, env map[string]string, nodes *v1alpha1.Selector) {
	on := func(name string) bool { return strings.EqualFold(env[name], "true") || env[name] == "1" }
	for _, name := range slices.Sorted(maps.Keys(remedies)) {
		if env[name] != "" && !strings.EqualFold(env[name], "false") {
			c.lacks(i.from, "env "+name, env[name], remedies[name])
		}
	}
	if on("cp_enable") {
		c.lacks(i.from, "env cp_enable", true,
			"Berth has no address for the API server; keep kube-vip for that, with svc_enable: false")
	}
	if !on("svc_enable") {
		c.note(
			i.from,
			"env svc_enable",
			env["svc_enable"],
			"it announces no Services, so there is nothing to convert",
		)
		return
	}
	all := announcement{pools: everything(), nodes: nodes, services: everything()}
	if on("vip_arp") {
		var interfaces []string
		if name := cmp.Or(env["vip_servicesinterface"], env["vip_interface"]); name != "" {
			interfaces = []string{name}
		}
		c.addSegment(i, i.name, all, interfaces)
	}
	if on("bgp_enable") {
		c.kubeVIPRoutes(i, env, all)
	}
	if on("lb_class_only") {
		c.lacks(
			i.from,
			"env lb_class_only",
			true,
			"Berth serves Services without a class, too; run the controller with --serve-classless=false",
		)
	}
	if namespace := env["svc_namespace"]; namespace != "" {
		c.lacks(i.from, "env svc_namespace", namespace, "write the namespace into scopes of the pools")
	}
	if class := env["lb_class_name"]; class != "" && !kubeVIPManner.has(class) {
		c.lacks(i.from, "env lb_class_name", class, "name the class in the controller's --classes")
	}
}
