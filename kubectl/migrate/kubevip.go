package migrate

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
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
	for _, o := range c.input {
		c.kubeVIPPod(o)
	}
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
	NodeSelector map[string]string `json:"nodeSelector,omitempty"`
	Affinity     map[string]any    `json:"affinity,omitempty"`
	Containers   []struct {
		Image string          `json:"image,omitempty"`
		Env   []corev1.EnvVar `json:"env,omitempty"`
	} `json:"containers,omitempty"`
}

// kubeVIPPod converts what the environment of a container says, if it is kube-vip's.
func (c *converter) kubeVIPPod(o *unstructured.Unstructured) {
	path := []string{"spec", "template", "spec"}
	switch o.GetKind() {
	case "DaemonSet":
	case "Pod":
		path = path[:1]
	default:
		return
	}
	fields, _, _ := unstructured.NestedMap(o.Object, path...)
	// Not strictly: most fields of a Pod are not about load balancing.
	pod, err := lenient[podTemplate](fields)
	if err != nil {
		c.lacks(nameIn(o), strings.Join(path, "."), "", "it cannot be read: "+err.Error())
		return
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
		nodes := everything()
		if len(pod.NodeSelector) > 0 {
			nodes = &v1alpha1.Selector{MatchLabels: pod.NodeSelector}
		}
		c.kubeVIP(itemOf(o), env, nodes)
	}
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
