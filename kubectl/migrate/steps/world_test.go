package steps

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"

	"github.com/berth-lb/berth/config/candidate"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/kubectl/cluster"
	"github.com/berth-lb/berth/kubectl/lint"
	"github.com/berth-lb/berth/kubectl/migrate"
)

// world is a model of a cluster with MetalLB and Berth: the objects, and what the two make of them.
// It reacts to each action, at once or after a while.
type world struct {
	t       *testing.T
	objects map[string]map[string]any // by resource/namespace/name
	started map[string]any            // the objects at the beginning
	last    *Snapshot                 // as it is since the last reaction
	// lag is how often the cluster is read before an action has its effect.
	lag, reads int
	due        []Action
	// broken: a node has failed, so its addresses are away.
	broken bool
	// segment is the subnet on which Berth answers, and untold says that speakers do not report it.
	segment string
	untold  bool
	// routeless: Berth's sessions are up, and announce nothing.
	routeless bool
	// unannounced: Berth's controller says so of all Services.
	unannounced bool
	// late are Services that MetalLB says it announces from this node, too; empty: it says nothing
	// yet.
	late map[string]string
	// speakers are the states of Berth's speakers, if they do not announce; empty: there is none.
	speakers map[string]string
	// restarted are nodes on which the DaemonSet replaced MetalLB's speaker by itself.
	restarted []string
}

const metallbs = "metallb-system"

// schemas are the same for all worlds, and take long to compile.
var schemas = sync.OnceValues(lint.NewSchemas)

// conversions are results of the conversion by its input: most actions leave that as it is.
var conversions sync.Map

// newWorld returns a cluster that MetalLB serves, after some changes.
func newWorld(t *testing.T, changes ...func(*world)) *world {
	t.Helper()
	w := &world{t: t, objects: map[string]map[string]any{}}
	for _, name := range []string{"n1", "n2", "n3"} {
		w.put(
			"nodes",
			fmt.Sprintf(`{"metadata": {"name": %q, "labels": {"kubernetes.io/hostname": %q}},
			  "status": {"conditions": [{"type": "Ready", "status": "True"}]}}`, name, name),
		)
	}
	w.put(
		"daemonsets",
		`{"metadata": {"namespace": "metallb-system", "name": "speaker", "labels": {"app": "metallb", "component": "speaker"}},
	  "spec": {"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}},
	    "template": {"spec": {"containers": [{"name": "speaker"}]}}}}`,
	)
	w.put(
		"deployments",
		`{"metadata": {"namespace": "metallb-system", "name": "controller", "labels": {"app": "metallb", "component": "controller"}},
	  "spec": {"replicas": 1, "template": {"spec": {"containers": [{"name": "controller", "args": ["--port=7472"]}]}}}}`,
	)
	w.put(
		"deployments",
		`{"metadata": {"namespace": "berth-system", "name": "berth-controller", "labels": {"app.kubernetes.io/name": "berth",
	    "app.kubernetes.io/component": "controller"}},
	  "spec": {"replicas": 2, "template": {"spec": {"containers": [{"name": "controller", "args": ["controller"]}]}}}}`,
	)
	for i, policy := range []string{"Cluster", "Local"} {
		w.put("services", fmt.Sprintf(`{"metadata": {"namespace": "shop", "name": "segment-%d"},
		  "spec": {"type": "LoadBalancer", "externalTrafficPolicy": %q, "ports": [{"port": 80}]},
		  "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1%d"}]}}}`, i, policy, i))
	}
	w.put(
		"services",
		`{"metadata": {"namespace": "shop", "name": "routed", "annotations": {"metallb.io/address-pool": "routed"}},
	  "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]}, "status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.1"}]}}}`,
	)
	for _, name := range []string{"segment-0", "segment-1", "routed"} {
		w.endpoints(name, "n1", "n2", "n3")
	}
	const group = `"apiVersion": "metallb.io/v1beta1", "metadata": {"namespace": "metallb-system", "name": `
	w.put(
		"ipaddresspools",
		`{"kind": "IPAddressPool", `+group+`"rack"}, "spec": {"addresses": ["192.0.2.10-192.0.2.20"]}}`,
	)
	w.put(
		"ipaddresspools",
		`{"kind": "IPAddressPool", `+group+`"routed"}, "spec": {"addresses": ["198.51.100.0/24"], "autoAssign": false}}`,
	)
	w.put("l2advertisements", `{"kind": "L2Advertisement", `+group+`"rack"}, "spec": {"ipAddressPools": ["rack"],
	  "nodeSelectors": [{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "NotIn", "values": ["n1"]}]}]}}`)
	w.put(
		"bgpadvertisements",
		`{"kind": "BGPAdvertisement", `+group+`"tor"}, "spec": {"ipAddressPools": ["routed"], "peers": ["tor"]}}`,
	)
	w.put(
		"bgppeers",
		`{"kind": "BGPPeer", "apiVersion": "metallb.io/v1beta2", "metadata": {"namespace": "metallb-system", "name": "tor"},
	  "spec": {"myASN": 64513, "peerASN": 64512, "peerAddress": "192.0.2.1", "passwordSecret": {"name": "tor"}}}`,
	)
	w.put(
		"secrets",
		`{"apiVersion": "v1", "kind": "Secret", "metadata": {"namespace": "metallb-system", "name": "tor"},
	  "type": "kubernetes.io/basic-auth", "data": {"password": "c2VjcmV0"}}`,
	)
	for _, change := range changes {
		change(w)
	}
	w.react()
	w.started = w.copy()
	return w
}

// fork returns another world that goes on from where this one is.
func (w *world) fork() *world {
	forked := *w
	forked.started, forked.objects = maps.Clone(w.started), make(map[string]map[string]any, len(w.objects))
	for name, o := range w.objects {
		forked.objects[name] = (&unstructured.Unstructured{Object: o}).DeepCopy().Object
	}
	return &forked
}

func (w *world) put(resource, text string) {
	w.t.Helper()
	var o map[string]any
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		w.t.Fatal(err)
	}
	u := unstructured.Unstructured{Object: o}
	w.objects[resource+"/"+u.GetNamespace()+"/"+u.GetName()] = o
}

// endpoints gives a Service an endpoint on each of these nodes.
func (w *world) endpoints(service string, nodes ...string) {
	var all []string
	for i, node := range nodes {
		all = append(all, fmt.Sprintf(`{"addresses": ["10.0.0.%d"], "nodeName": %q}`, i+1, node))
	}
	w.put("endpointslices", fmt.Sprintf(`{"metadata": {"namespace": "shop", "name": %q,
	  "labels": {"kubernetes.io/service-name": %q}}, "endpoints": [%s]}`, service, service, strings.Join(all, ",")))
}

// copy is all that is there, but for what changes with each write.
func (w *world) copy() map[string]any {
	text, err := json.Marshal(w.objects)
	if err != nil {
		w.t.Fatal(err)
	}
	var copied map[string]any
	_ = json.Unmarshal(text, &copied)
	for name, o := range copied {
		prune(o.(map[string]any), "labels", "annotations", "conditions")
		unstructured.RemoveNestedField(o.(map[string]any), "metadata", "resourceVersion")
		if strings.HasPrefix(name, "l2owners/") {
			delete(copied, name)
		}
	}
	return copied
}

// prune takes out maps and lists that became empty.
func prune(o map[string]any, names ...string) {
	for k, v := range o {
		switch x := v.(type) {
		case map[string]any:
			prune(x, names...)
			if len(x) == 0 && slices.Contains(names, k) {
				delete(o, k)
			}
		case []any:
			if len(x) == 0 && slices.Contains(names, k) {
				delete(o, k)
			}
		}
	}
}

func of[T any](w *world, resource string) (found []*T) {
	var names []string
	for name := range w.objects {
		if strings.HasPrefix(name, resource+"/") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		into := new(T)
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(w.objects[name], into); err != nil {
			w.t.Fatalf("%s: %v", name, err)
		}
		found = append(found, into)
	}
	return found
}

// act does what the API server does.
func (w *world) act(_ context.Context, a Action) error {
	name := a.Resource.Resource + "/" + a.Namespace + "/" + a.Name
	was, _ := json.Marshal(w.objects[name])
	switch {
	case a.Apply != nil:
		w.objects[name] = a.Apply.DeepCopy().Object
	case a.Patch == nil:
		if w.objects[name] == nil {
			w.t.Errorf("%s deletes what is not there", a)
		}
		delete(w.objects, name)
	default:
		patch, _ := json.Marshal(a.Patch)
		now, err := jsonpatch.MergePatch(was, patch)
		if a.Type == types.StrategicMergePatchType {
			now, err = strategicpatch.StrategicMergePatch(was, patch, appsv1.Deployment{})
		}
		if err != nil {
			return fmt.Errorf("%s: %w in %s", a, err, was)
		}
		var o map[string]any
		_ = json.Unmarshal(now, &o)
		w.objects[name] = o
	}
	if w.lag > 0 {
		w.due = append(w.due, a)
		w.reads = w.lag
		return nil
	}
	w.react()
	w.judge(a)
	return nil
}

// tick lets what was done have its effect, after some reads.
func (w *world) tick() {
	if len(w.due) == 0 {
		return
	}
	if w.reads--; w.reads > 0 {
		return
	}
	w.react()
	w.judge(w.due[len(w.due)-1])
	w.due = nil
}

func matches(t *testing.T, selector any, set map[string]string) bool {
	t.Helper()
	text, _ := json.Marshal(selector)
	var s metav1.LabelSelector
	if err := json.Unmarshal(text, &s); err != nil {
		t.Fatal(err)
	}
	compiled, err := metav1.LabelSelectorAsSelector(&s)
	if err != nil {
		t.Fatal(err)
	}
	return compiled.Matches(labels.Set(set))
}

func (w *world) anyMatches(selectors []any, set map[string]string) bool {
	return len(selectors) == 0 || slices.ContainsFunc(selectors, func(s any) bool { return matches(w.t, s, set) })
}

// react is what MetalLB, Berth and Kubernetes make of the objects.
func (w *world) react() {
	w.last = nil
	w.runSpeakers()
	w.announceMetalLB()
	w.controlBerth()
	w.announceBerth()
}

func (w *world) revision() string {
	spec, _, _ := unstructured.NestedMap(w.objects["daemonsets/metallb-system/speaker"], "spec", "template")
	text, _ := json.Marshal(spec)
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:4])
}

// runSpeakers is the controller of DaemonSets.
func (w *world) runSpeakers() {
	d := of[appsv1.DaemonSet](w, "daemonsets")[0]
	for _, n := range of[corev1.Node](w, "nodes") {
		name := "pods/metallb-system/speaker-" + n.Name
		old := w.objects[name]
		if w.isDown(n) {
			continue // nobody ends or starts Pods there
		}
		if !placed(d, n) {
			delete(w.objects, name)
			continue
		}
		if old != nil {
			hash, _, _ := unstructured.NestedString(old, "metadata", "labels", "controller-revision-hash")
			if hash == w.revision() || d.Spec.UpdateStrategy.Type == appsv1.OnDeleteDaemonSetStrategyType {
				continue
			}
			w.restarted = append(w.restarted, n.Name)
		}
		w.put("pods", fmt.Sprintf(`{"metadata": {"namespace": "metallb-system", "name": "speaker-%s",
		  "labels": {"app": "metallb", "component": "speaker", "controller-revision-hash": %q}},
		  "spec": {"nodeName": %q, "containers": [{"name": "speaker"}]},
		  "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}`, n.Name, w.revision(), n.Name))
	}
	c := w.objects["deployments/metallb-system/controller"]
	spec, _, _ := unstructured.NestedMap(c, "spec", "template", "spec")
	w.objects["pods/metallb-system/controller"] = map[string]any{
		"metadata": map[string]any{
			"namespace": metallbs, "name": "controller",
			"labels": map[string]any{"app": "metallb", "component": "controller"},
		},
		"spec": spec,
	}
	for _, d := range of[appsv1.Deployment](w, "deployments") {
		o := w.objects["deployments/"+d.Namespace+"/"+d.Name]
		o["status"] = map[string]any{
			"updatedReplicas": int64(*d.Spec.Replicas), "availableReplicas": int64(*d.Spec.Replicas),
		}
	}
}

// announceMetalLB elects a node for each Service, as MetalLB does: the same one for the same
// candidates.
func (w *world) announceMetalLB() {
	for name := range w.objects {
		if strings.HasPrefix(name, "servicel2statuses/") {
			delete(w.objects, name)
		}
	}
	nodes, advertisements := of[corev1.Node](w, "nodes"), of[unstructured.Unstructured](w, "l2advertisements")
	for _, svc := range of[corev1.Service](w, "services") {
		if svc.Name == "routed" {
			continue
		}
		elected, best := "", ""
		for _, n := range nodes {
			if w.objects["pods/metallb-system/speaker-"+n.Name] == nil || candidate.Exclusion(n) != "" ||
				w.isDown(n) ||
				!w.advertised(advertisements, svc, n) {
				continue
			}
			sum := sha256.Sum256([]byte(n.Name + "#" + svc.Name))
			if hash := hex.EncodeToString(sum[:]); best == "" || hash < best {
				elected, best = n.Name, hash
			}
		}
		also, late := w.late[svc.Name]
		if also != "" {
			w.put("servicel2statuses", fmt.Sprintf(`{"kind": "ServiceL2Status", "apiVersion": "metallb.io/v1beta1",
			  "metadata": {"namespace": "metallb-system", "name": "l2-%s-late"}, "status": {"node": %q, "serviceName": %q,
			  "serviceNamespace": "shop"}}`, svc.Name, also, svc.Name))
		}
		if elected != "" && (also != "" || !late) {
			w.put("servicel2statuses", fmt.Sprintf(`{"kind": "ServiceL2Status", "apiVersion": "metallb.io/v1beta1",
			  "metadata": {"namespace": "metallb-system", "name": "l2-%s"}, "status": {"node": %q, "serviceName": %q,
			  "serviceNamespace": "shop", "interfaces": [{"name": "eth0"}]}}`, svc.Name, elected, svc.Name))
		}
	}
}

func (w *world) advertised(advertisements []*unstructured.Unstructured, svc *corev1.Service, n *corev1.Node) bool {
	for _, o := range advertisements {
		nodes, _, _ := unstructured.NestedSlice(o.Object, "spec", "nodeSelectors")
		selectors, _, _ := unstructured.NestedSlice(o.Object, "spec", "serviceSelectors")
		if w.anyMatches(nodes, n.Labels) && w.anyMatches(selectors, svc.Labels) {
			return true
		}
	}
	return false
}

// controlBerth is Berth's controller, if it runs: it takes over what pools have.
func (w *world) controlBerth() {
	d := of[appsv1.Deployment](w, "deployments")
	i := slices.IndexFunc(d, func(d *appsv1.Deployment) bool { return d.Name == "berth-controller" })
	if *d[i].Spec.Replicas == 0 {
		return
	}
	for _, svc := range of[corev1.Service](w, "services") {
		o, address := w.objects["services/shop/"+svc.Name], netip.MustParseAddr(addresses(svc)[0])
		owns := svc.Spec.LoadBalancerClass != nil
		switch pool := w.poolOf(address); {
		case pool == "" && !owns:
			continue
		case pool == "" && len(of[v1alpha1.LoadBalancerPool](w, "loadbalancerpools")) > 0:
			w.t.Errorf("Service %s lost %s: it is in no pool yet", svc.Name, address)
		case pool == "":
			unstructured.RemoveNestedField(o, "status", "conditions")
			continue
		}
		var conditions []any
		for _, kind := range []string{v1alpha1.ServiceAllocated, v1alpha1.ServiceRecord, v1alpha1.ServiceAnnounced} {
			status := "True"
			if kind == v1alpha1.ServiceAnnounced && w.unannounced {
				status = "False"
			}
			conditions = append(conditions, map[string]any{"type": kind, "status": status})
		}
		_ = unstructured.SetNestedSlice(o, conditions, "status", "conditions")
	}
}

// poolOf returns Berth's pool that has an address.
func (w *world) poolOf(address netip.Addr) string {
	for _, p := range of[v1alpha1.LoadBalancerPool](w, "loadbalancerpools") {
		for _, text := range p.Spec.Addresses {
			if rangesOf([]string{string(text)}).Contains(address) {
				return p.Name
			}
		}
	}
	return ""
}

// announceBerth are Berth's speakers: an owner stays as long as it is a candidate.
func (w *world) announceBerth() {
	nodes, announcements := of[corev1.Node](w, "nodes"), of[v1alpha1.SegmentAnnouncement](w, "segmentannouncements")
	for _, svc := range of[corev1.Service](w, "services") {
		address, name := addresses(svc)[0], "l2owners//"+svc.Name
		var candidates []string
		for _, a := range announcements {
			for _, n := range nodes {
				if candidate.Exclusion(n) == "" && !w.isDown(n) && svc.Name != "routed" &&
					condition(svc, v1alpha1.ServiceRecord).Status == "True" &&
					matches(w.t, a.Spec.ServiceSelector, svc.Labels) &&
					matches(w.t, a.Spec.NodeSelector, n.Labels) {
					candidates = append(candidates, n.Name)
				}
			}
		}
		owner, _, _ := unstructured.NestedString(w.objects[name], "status", "nodeName")
		switch {
		case len(candidates) == 0:
			delete(w.objects, name)
		case !slices.Contains(candidates, owner):
			w.put(
				"l2owners",
				fmt.Sprintf(`{"metadata": {"name": %q}, "status": {"address": %q, "nodeName": %q, "segment": %q}}`,
					svc.Name, address, candidates[0], cmp.Or(w.segment, "192.0.2.0/24")),
			)
		}
	}
}

// speaking returns who has a BGP session on a node.
func (w *world) speaking(n *corev1.Node) (metalLB, berth bool, held bool) {
	metalLB = w.objects["pods/metallb-system/speaker-"+n.Name] != nil
	for _, b := range of[v1alpha1.BGPNeighbor](w, "bgpneighbors") {
		held = held || matches(w.t, b.Spec.NodeSelector, n.Labels)
	}
	return metalLB, held && !metalLB, held
}

func (w *world) berthArgs(args ...any) {
	w.set("deployments/berth-system/berth-controller", []any{map[string]any{"name": "controller", "args": args}},
		"spec", "template", "spec", "containers")
}

// ready sets the condition Ready of a node.
func (w *world) ready(node, status string) {
	w.set("nodes//"+node, []any{map[string]any{"type": "Ready", "status": status}}, "status", "conditions")
}

func (w *world) isDown(n *corev1.Node) bool { return candidate.ReadyStatus(n) != corev1.ConditionTrue }

// exclude gives a node the label that keeps Berth off it, as kubeadm does with the control plane.
func (w *world) exclude(node string) {
	w.set("nodes//"+node, "", "metadata", "labels", v1alpha1.ExcludeLabel)
}

// prefixes is how many routes Berth's speaker on a node announces.
func (w *world) prefixes(s *Snapshot, n *corev1.Node) (count int32) {
	for _, svc := range s.Services {
		if svc.Name == "routed" && candidate.Exclusion(n) == "" &&
			condition(svc, v1alpha1.ServiceRecord).Status == "True" &&
			len(s.RouteAnnouncements) > 0 &&
			!w.routeless {
			count++
		}
	}
	return count
}

// judge checks that each address has one announcer, and that the routers have most of their
// sessions.
func (w *world) judge(a Action) {
	if w.broken || w.late != nil {
		return
	}
	for _, svc := range of[corev1.Service](w, "services") {
		if svc.Name == "routed" {
			continue
		}
		by := map[string]string{}
		if status := w.objects["servicel2statuses/metallb-system/l2-"+svc.Name]; status != nil {
			node, _, _ := unstructured.NestedString(status, "status", "node")
			by[node] = "MetalLB"
		}
		if owner, _, _ := unstructured.NestedString(w.objects["l2owners//"+svc.Name], "status", "nodeName"); owner != "" {
			by[owner] += "Berth"
		}
		if len(by) != 1 {
			w.t.Errorf("after %s, %s is announced by %v, want one node", a, svc.Name, by)
		}
		if a.Resource.Resource == "services" && len(svc.Status.LoadBalancer.Ingress) != 1 {
			w.t.Errorf("after %s, %s has lost its address", a, svc.Name)
		}
	}
	silent, speakers := 0, of[appsv1.DaemonSet](w, "daemonsets")[0]
	for _, n := range of[corev1.Node](w, "nodes") {
		off := n.DeepCopy()
		delete(off.Labels, SpeaksLabel)
		if metalLB, berth, _ := w.speaking(n); !metalLB && !berth &&
			placed(speakers, off) {
			silent++
		}
	}
	if silent > 1 {
		w.t.Errorf("after %s, %d nodes have no BGP session, want at most one", a, silent)
	}
}

// read is a Reader without an API server.
func (w *world) read(ctx context.Context) (*Snapshot, error) {
	w.tick()
	s := &Snapshot{
		State: &cluster.State{
			Taken: time.Now(), Namespace: "berth-system", Nodes: of[corev1.Node](w, "nodes"),
			Services: of[corev1.Service](w, "services"), Deployments: of[appsv1.Deployment](w, "deployments"),
			DaemonSets:           of[appsv1.DaemonSet](w, "daemonsets"),
			Pools:                of[v1alpha1.LoadBalancerPool](w, "loadbalancerpools"),
			SegmentAnnouncements: of[v1alpha1.SegmentAnnouncement](w, "segmentannouncements"),
			RouteAnnouncements:   of[v1alpha1.RouteAnnouncement](w, "routeannouncements"),
			BGPNeighbors:         of[v1alpha1.BGPNeighbor](w, "bgpneighbors"),
			Owners:               of[v1alpha1.L2Owner](w, "l2owners"),
			EndpointSlices:       of[discoveryv1.EndpointSlice](w, "endpointslices"),
		},
		Revision: w.revision(), Sessions: map[string]map[string]bool{}, Secrets: map[string]bool{},
		MetalLBPods: of[corev1.Pod](w, "pods"),
	}
	for _, n := range s.Nodes {
		metalLB, berth, held := w.speaking(n)
		s.Sessions[n.Name] = map[string]bool{"192.0.2.1": metalLB}
		k := &v1alpha1.Speaker{ObjectMeta: metav1.ObjectMeta{Name: n.Name}}
		state, differs := w.speakers[n.Name]
		if _, excluded := n.Labels[v1alpha1.ExcludeLabel]; excluded && !differs {
			state = string(v1alpha1.SpeakerLeaving)
		} else if differs && state == "" {
			continue
		}
		k.Status.Conditions = []metav1.Condition{{
			Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue,
			Reason: cmp.Or(state, string(v1alpha1.SpeakerAnnouncing)),
		}}
		if len(s.SegmentAnnouncements) > 0 && w.segment != "" && !w.untold {
			k.Status.Segments = []v1alpha1.SegmentReport{{Interface: "eth1", Subnets: []string{w.segment}}}
		}
		if held {
			state := v1alpha1.SessionDown
			if berth {
				state = v1alpha1.SessionEstablished
			}
			k.Status.Sessions = []v1alpha1.SessionReport{{
				NeighborName: "tor", State: state, Prefixes: new(w.prefixes(s, n)),
			}}
		}
		s.Speakers = append(s.Speakers, k)
	}
	for _, resource := range []string{
		"ipaddresspools", "l2advertisements", "bgpadvertisements", "bgppeers", "servicel2statuses",
	} {
		s.MetalLB = append(s.MetalLB, of[unstructured.Unstructured](w, resource)...)
	}
	input := append(Originals(s.MetalLB), &unstructured.Unstructured{Object: w.objects["secrets/metallb-system/tor"]})
	for name, o := range w.objects {
		if strings.HasPrefix(name, "services/") {
			svc := (&unstructured.Unstructured{Object: o}).DeepCopy()
			svc.SetAPIVersion("v1")
			svc.SetKind("Service")
			delete(svc.Object, "status")
			input = append(input, svc)
		}
	}
	slices.SortStableFunc(
		input,
		func(a, b *unstructured.Unstructured) int { return cmp.Compare(a.GetName(), b.GetName()) },
	)
	result, err := converted(ctx, s.Namespace, input)
	if err != nil {
		return nil, err
	}
	s.Converted, s.Report = result.Objects, result.Report
	for name, o := range w.objects {
		if name, ours := strings.CutPrefix(name, "secrets/"+s.Namespace+"/"); ours {
			s.Secrets[name] = made(&unstructured.Unstructured{Object: o})
		}
	}
	return s, nil
}

// converted returns the result of the conversion, which nobody may change.
func converted(ctx context.Context, namespace string, input []*unstructured.Unstructured) (migrate.Result, error) {
	text, _ := json.Marshal(input)
	if known, is := conversions.Load(string(text)); is {
		return known.(migrate.Result), nil
	}
	compiled, err := schemas()
	if err != nil {
		return migrate.Result{}, err
	}
	result, err := migrate.From(ctx, compiled, "metallb", namespace, input)
	if err == nil {
		conversions.Store(string(text), result)
	}
	return result, err
}
