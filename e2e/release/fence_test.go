//go:build release

package release

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/controller/fence"
	"github.com/berth-lb/berth/e2e/lab"
	"github.com/berth-lb/berth/e2e/stage"
)

// fenceKills is how often TestFence kills the node; BERTH_FENCE_KILLS is another number.
// BERTH_FENCE_PODS is another number of Pods on it. With BERTH_FENCE_STOCK=1 Kubernetes gives a
// node 50 s, as by default, and not 6.
const (
	fenceKills = 5
	fencePods  = 5
	// fencePodsElsewhere is how many Pods each other node has at most.
	fencePodsElsewhere = 30
)

// victim is the node that dies, or seems to.
const victim = "n4"

// fencedApps are the Pods of one Service.
func fencedApps(pods int) []stage.App {
	app := func(name string, pods int, nodes ...string) stage.App {
		return stage.App{Namespace: fencedNamespace, Name: name, Group: "fenced", Nodes: nodes, PodsPerNode: pods}
	}
	return []stage.App{app("victims", pods, victim), app("others", min(pods, fencePodsElsewhere), "n2", "n3")}
}

const fencedNamespace = "shop"

// TestFence kills a node, and looks how soon its endpoints are gone, and how many requests fail,
// with and without --fence-dead-nodes. Then all kinds of things make it seem dead: it must not be
// fenced, or if all evidence is there, its kubelet must undo that within 15 s.
func TestFence(t *testing.T) {
	apps := fencedApps(number(t, "BERTH_FENCE_PODS", fencePods))
	stock := os.Getenv("BERTH_FENCE_STOCK") != ""
	r := &fenceRack{
		Stage: raise(t, lab.Options{Name: "fence", Nodes: 4, Router: "none", StockGrace: stock}),
		pods:  map[string]int{}, patient: !stock,
	}
	for _, app := range apps {
		for _, node := range app.Nodes {
			r.pods[node] = app.PodsPerNode
		}
	}
	t.Cleanup(func() {
		if t.Failed() {
			r.Explain(context.Background(), t.Output())
		}
	})
	for _, app := range apps {
		must(t, func(ctx context.Context) error { return r.Deploy(ctx, app) })
	}
	must(t, r.Install, r.controllersOn("n1"),
		func(ctx context.Context) error { return r.Apply(ctx, fencedConfiguration) },
		func(ctx context.Context) error {
			svc := r.Expose(apps[0], "web")
			svc.Spec.Selector = map[string]string{"group": apps[0].Group}
			svc, err := r.Create(ctx, svc)
			if err == nil {
				r.fronts, err = r.frontsOf(svc)
			}
			return err
		})
	r.isWhole(t)
	r.newcomers = arrive(t, r.Stage, r.fronts...)
	t.Run("without", func(t *testing.T) {
		first, last := r.kill(t)
		fmt.Printf("fence/without_endpoints_gone first %.2f s, last %.2f s\nfence/without_requests %s\n",
			first.Seconds(), last.Seconds(), r.failures(1))
	})

	must(t, func(ctx context.Context) error {
		return r.InstallComponent(ctx, t.TempDir(), "fence")
	}, r.controllersOn("n1"))
	r.isWhole(t)
	t.Run("kills", r.kills)
	t.Run("the leader is killed while it writes", r.leaderDies)
	for _, row := range falseAlarms() {
		t.Run(row.name, func(t *testing.T) { r.alarm(t, row) })
	}
	r.isWhole(t)
	r.wroteNothingElse(t)
}

const fencedConfiguration = `
apiVersion: berth.dev/v1alpha1
kind: LoadBalancerPool
metadata: {name: rack}
spec: {addresses: [172.30.0.200/32], scopes: [{namespaceSelector: {}, serviceSelector: {}}]}
---
apiVersion: berth.dev/v1alpha1
kind: SegmentAnnouncement
metadata: {name: rack}
spec: {poolNames: [rack], nodeSelector: {}, serviceSelector: {}}
`

// fenceRack is a lab of four nodes: n1 has the controllers, the others have Pods.
type fenceRack struct {
	*stage.Stage
	pods map[string]int // of the Service, by node
	// patient: Kubernetes itself is to notice a death before the victim boots.
	patient   bool
	fronts    []front
	newcomers *newcomers
	lost      arrivals // what newcomers saw of deaths since failures was called
}

// frontsOf are the ways to the Service: its address, a NodePort from outside, and its ClusterIP
// from a node.
func (r *fenceRack) frontsOf(svc *corev1.Service) ([]front, error) {
	own, err := r.Addresses("n1")
	if err != nil {
		return nil, err
	}
	var nodePort uint16
	for _, p := range svc.Spec.Ports {
		if p.Name == "line" {
			nodePort = uint16(p.NodePort)
		}
	}
	balanced, clusterIP := svc.Status.LoadBalancer.Ingress[0].IP, svc.Spec.ClusterIP
	return []front{
		{name: "LoadBalancer", host: lab.Client, address: netip.MustParseAddr(balanced)},
		{name: "NodePort", host: lab.Client, address: own[0], number: nodePort},
		{name: "ClusterIP", host: "n1", address: netip.MustParseAddr(clusterIP)},
	}, nil
}

// failures returns how many requests by TCP failed for each death, by front.
func (r *fenceRack) failures(deaths int) string {
	var text []string
	for _, f := range r.fronts {
		text = append(text, fmt.Sprintf("%s %.1f", f.name, float64(r.lost.failedBy[f.name])/float64(deaths)))
	}
	saw := fmt.Sprintf("failed for each death: %s; of %d in all", strings.Join(text, ", "), r.lost.tried)
	r.lost = arrivals{}
	return saw
}

// controllersOn moves the controllers to a node, so that none dies with the victim.
func (r *fenceRack) controllersOn(node string) func(context.Context) error {
	return func(ctx context.Context) error {
		_, err := r.Kubectl(
			ctx,
			"",
			"-n",
			stage.Namespace,
			"patch",
			"deployment",
			"berth-controller",
			"--type=merge",
			"-p",
			fmt.Sprintf(`{"spec": {"template": {"spec": {"nodeSelector": {"kubernetes.io/hostname": %q}}}}}`, node),
		)
		if err != nil {
			return err
		}
		return r.AwaitBerth(ctx)
	}
}

// endpoints counts the ready endpoints of the Service, by node.
func (r *fenceRack) endpoints(ctx context.Context) (map[string]int, error) {
	found, err := r.Kubernetes.DiscoveryV1().EndpointSlices(fencedNamespace).List(ctx, ofTheService)
	if err != nil {
		return nil, err
	}
	return readyByNode(slices.Values(found.Items)), nil
}

var ofTheService = metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=web"}

func readyByNode(all iter.Seq[discoveryv1.EndpointSlice]) map[string]int {
	counts := map[string]int{}
	for s := range all {
		for _, e := range s.Endpoints {
			if e.NodeName != nil && (e.Conditions.Ready == nil || *e.Conditions.Ready) {
				counts[*e.NodeName]++
			}
		}
	}
	return counts
}

// lack says whose endpoints are not all ready; nil: nobody's.
func (r *fenceRack) lack(counts map[string]int) error {
	if !maps.Equal(counts, r.pods) {
		return fmt.Errorf("ready endpoints: %v, want %v", counts, r.pods)
	}
	return nil
}

// isWhole waits until all Pods are endpoints, and each speaker hears all others.
func (r *fenceRack) isWhole(t *testing.T) {
	t.Helper()
	if err := stage.Eventually(t.Context(), wholeWithin, func(ctx context.Context) error {
		if err := r.lacksNothing(ctx); err != nil {
			return err
		}
		for _, node := range r.Nodes() {
			s, err := r.Berth.Speakers.Get(ctx, node, metav1.GetOptions{})
			if err != nil {
				return err
			}
			if len(s.Status.Segments) != 1 || *s.Status.Segments[0].PeersAlive != 3 || len(s.Status.SilentNodes) > 0 {
				return fmt.Errorf("speaker of %s: %+v, silent %+v", node, s.Status.Segments, s.Status.SilentNodes)
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// lacksNothing returns an error if an endpoint is not ready.
func (r *fenceRack) lacksNothing(ctx context.Context) error {
	counts, err := r.endpoints(ctx)
	if err != nil {
		return err
	}
	return r.lack(counts)
}

// wholeWithin is more than a node takes to boot and start all its Pods.
const wholeWithin = 3 * time.Minute

// kill kills the victim, and returns after how long its first and its last ready endpoint were
// gone.
func (r *fenceRack) kill(t *testing.T) (first, last time.Duration) {
	t.Helper()
	begun := r.die(t)
	first, last = r.gone(t, begun)
	r.lost = r.lost.add(r.newcomers.since(begun))
	r.boot(t)
	return first, last
}

// die kills the victim, and returns when nobody reached it any more: its processes are looked for
// after that.
func (r *fenceRack) die(t *testing.T) time.Time {
	t.Helper()
	begun := time.Now()
	must(
		t,
		func(context.Context) error { return r.Cut(victim) },
		func(ctx context.Context) error { return r.Kill(ctx, victim) },
	)
	return begun
}

// boot boots the victim again, when Kubernetes has noticed that it was dead: else its death could
// not be told from a false alarm. Where that takes long, this test writes it to the Node, as the
// node lifecycle controller would.
func (r *fenceRack) boot(t *testing.T) {
	t.Helper()
	if err := stage.Eventually(t.Context(), goneWithin, func(ctx context.Context) error {
		nodes := r.Kubernetes.CoreV1().Nodes()
		node, err := nodes.Get(ctx, victim, metav1.GetOptions{})
		if err != nil || nodeReady(node) != corev1.ConditionTrue {
			return err
		}
		if !r.patient {
			for i := range node.Status.Conditions {
				if c := &node.Status.Conditions[i]; c.Type == corev1.NodeReady {
					c.Status, c.Reason = corev1.ConditionUnknown, "NodeStatusUnknown"
				}
			}
			_, err = nodes.UpdateStatus(ctx, node, metav1.UpdateOptions{})
		}
		return cmp.Or(err, errors.New("the Node is Ready"))
	}); err != nil {
		t.Fatal(err)
	}
	must(t, func(ctx context.Context) error { return r.Start(ctx, victim) })
	r.isWhole(t)
}

func nodeReady(n *corev1.Node) corev1.ConditionStatus {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status
		}
	}
	return corev1.ConditionUnknown
}

// goneWithin is more than the 50 s after which Kubernetes calls a silent node's Pods unready.
const goneWithin = 80 * time.Second

// gone waits until the victim has no ready endpoint, and the answers to requests that came before.
func (r *fenceRack) gone(t *testing.T, begun time.Time) (first, last time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), goneWithin)
	defer cancel()
	of := r.Kubernetes.DiscoveryV1().EndpointSlices(fencedNamespace)
	listed, err := of.List(ctx, ofTheService)
	if err != nil {
		t.Fatal(err)
	}
	since := ofTheService
	since.ResourceVersion = listed.ResourceVersion
	changes, err := of.Watch(ctx, since)
	if err != nil {
		t.Fatal(err)
	}
	defer changes.Stop()
	now := map[string]discoveryv1.EndpointSlice{}
	for _, s := range listed.Items {
		now[s.Name] = s
	}
	for {
		counts := readyByNode(maps.Values(now))
		for node, pods := range r.pods {
			if node != victim && counts[node] < pods {
				t.Errorf("others' endpoints went, too: %v", counts)
			}
		}
		if last = time.Since(begun); first == 0 && counts[victim] < r.pods[victim] {
			first = last
		}
		if counts[victim] == 0 {
			break
		}
		change := <-changes.ResultChan()
		changed, is := change.Object.(*discoveryv1.EndpointSlice)
		if !is {
			t.Fatalf("%d endpoints on %s; then %+v", counts[victim], victim, change)
		}
		if now[changed.Name] = *changed; change.Type == watch.Deleted {
			delete(now, changed.Name)
		}
	}
	<-time.After(2 * arrivePatient) // kube-proxy, and the last requests
	return first, last
}

// kills kills the victim a number of times.
func (r *fenceRack) kills(t *testing.T) {
	var firsts, lasts []time.Duration
	for range number(t, "BERTH_FENCE_KILLS", fenceKills) {
		first, last := r.kill(t)
		firsts, lasts = append(firsts, first), append(lasts, last)
		if last > 5*time.Second {
			t.Errorf("the endpoints were there for %v: Kubernetes took them, not Berth", last)
		}
	}
	for name, all := range map[string][]time.Duration{"first": firsts, "last": lasts} {
		slices.Sort(all)
		fmt.Printf("fence/%s_endpoint_gone median %.2f s, at most %.2f s (of %d deaths, %d Pods each)\n",
			name, all[len(all)/2].Seconds(), all[len(all)-1].Seconds(), len(all), r.pods[victim])
	}
	fmt.Printf("fence/requests %s\n", r.failures(len(lasts)))
	if told := r.events(t, "Fenced"); len(told) == 0 {
		t.Error("no event tells of it")
	}
}

// number returns that of a variable of the environment, or else the usual one.
func number(t *testing.T, variable string, usual int) int {
	t.Helper()
	text := os.Getenv(variable)
	if text == "" {
		return usual
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s: %v", variable, err)
	}
	return n
}

// leaderDies kills the victim, and the leading controller as soon as the first endpoint is gone:
// its successor goes on, and nobody else is fenced.
func (r *fenceRack) leaderDies(t *testing.T) {
	begun := r.die(t)
	eventually(t, func(ctx context.Context) error {
		counts, err := r.endpoints(ctx)
		if err == nil && counts[victim] == r.pods[victim] {
			err = errors.New("all endpoints are there")
		}
		return err
	})
	must(t, func(ctx context.Context) error {
		leader, err := r.leader(ctx)
		if err != nil {
			return err
		}
		return r.Kill(ctx, leader+"@n1")
	})
	_, last := r.gone(t, begun)
	fmt.Printf("fence/leader_killed_last_endpoint_gone %.2f s\n", last.Seconds())
	r.boot(t)
}

// leader returns the Pod of the controller that leads.
func (r *fenceRack) leader(ctx context.Context) (string, error) {
	lease, err := r.Kubernetes.CoordinationV1().
		Leases(stage.Namespace).
		Get(ctx, "berth-controller", metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	if lease.Spec.HolderIdentity == nil || *lease.Spec.HolderIdentity == "" {
		return "", errors.New("nobody leads")
	}
	pod, _, _ := strings.Cut(*lease.Spec.HolderIdentity, "_")
	return pod, nil
}

// events returns what events of a reason say of the victim.
func (r *fenceRack) events(t *testing.T, reason string) []string {
	t.Helper()
	found, err := r.Kubernetes.EventsV1().Events("").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var notes []string
	for _, e := range found.Items {
		if e.Reason == reason && e.Regarding.Name == victim {
			notes = append(notes, e.Note)
		}
	}
	return notes
}

// falseAlarm makes the victim seem dead.
type falseAlarm struct {
	name     string
	do, undo func(ctx context.Context, r *fenceRack) error
	// complete: all evidence is there, so that it is fenced.
	complete bool
}

func falseAlarms() []falseAlarm {
	signal := func(process string) falseAlarm {
		return falseAlarm{
			name: process + " is stopped",
			do:   func(ctx context.Context, r *fenceRack) error { return r.Pause(ctx, process+"@"+victim) },
			undo: func(ctx context.Context, r *fenceRack) error { return r.Resume(ctx, process+"@"+victim) },
		}
	}
	dies := func(process string) falseAlarm {
		return falseAlarm{
			name: process + " is killed",
			do:   func(ctx context.Context, r *fenceRack) error { return r.Kill(ctx, process+"@"+victim) },
			undo: func(context.Context, *fenceRack) error { return nil }, // it begins again by itself
		}
	}
	noAPI := func(who string, loss lab.APILoss, nodes ...string) falseAlarm {
		each := func(ctx context.Context, do func(ctx context.Context, node string) error) error {
			for _, node := range nodes {
				if err := do(ctx, node); err != nil {
					return err
				}
			}
			return nil
		}
		return falseAlarm{
			name: who,
			do: func(ctx context.Context, r *fenceRack) error {
				return each(ctx, func(ctx context.Context, node string) error { return r.LoseAPI(ctx, node, loss) })
			},
			undo: func(ctx context.Context, r *fenceRack) error { return each(ctx, r.RegainAPI) },
		}
	}
	// A firewall on the victim drops what others' probes send.
	firewall := falseAlarm{
		name: "a firewall drops the probes",
		do: func(ctx context.Context, r *fenceRack) error {
			return r.nft(
				ctx,
				victim,
				"add table inet firewall\nadd chain inet firewall input { type filter hook input priority 0; }\n"+
					"add rule inet firewall input iifname eth0 tcp flags & (syn | ack) == syn drop\n",
			)
		},
		undo: func(ctx context.Context, r *fenceRack) error {
			return r.nft(ctx, victim, "delete table inet firewall\n")
		},
	}
	return []falseAlarm{
		signal("kubelet"),
		signal("heart"),
		signal("speaker"),
		{
			name: "kubelet is killed",
			do:   func(ctx context.Context, r *fenceRack) error { return r.Kill(ctx, "kubelet@"+victim) },
			undo: func(ctx context.Context, r *fenceRack) error { return r.Start(ctx, "kubelet@"+victim) },
		},
		dies("heart"),
		dies("speaker"),
		both(signal("heart"), signal("kubelet")),
		noAPI("the whole node does not hear the API server", lab.APILoss{}, victim),
		noAPI("the API server refuses the whole node", lab.APILoss{Refused: true}, victim),
		both(signal("heart"), noAPI("the others' speakers have no API server", lab.APILoss{Pods: true}, "n2", "n3")),
		firewall,
		both(signal("kubelet"), firewall),
		{
			name: "the controllers' node and it do not hear each other",
			do:   func(ctx context.Context, r *fenceRack) error { return r.Block(ctx, "n1", victim) },
			undo: func(ctx context.Context, r *fenceRack) error { return r.Unblock(ctx, "n1", victim) },
		},
		{
			name: "two others do not hear it, which hears them",
			do: func(ctx context.Context, r *fenceRack) error {
				return errors.Join(r.BlockOneWay(ctx, victim, "n2"), r.BlockOneWay(ctx, victim, "n3"))
			},
			undo: func(ctx context.Context, r *fenceRack) error {
				return errors.Join(r.Unblock(ctx, "n2", victim), r.Unblock(ctx, "n3", victim))
			},
		},
		{
			name: "the segment carries no hellos",
			do:   func(ctx context.Context, r *fenceRack) error { return r.FilterEtherType(ctx, etherType) },
			undo: func(ctx context.Context, r *fenceRack) error { return r.PassAll(ctx) },
		},
		{
			name: "a tenth of all frames is lost",
			do:   func(ctx context.Context, r *fenceRack) error { return r.LoseFrames(ctx, 10) },
			undo: func(ctx context.Context, r *fenceRack) error { return r.PassAll(ctx) },
		},
		{
			name: "two speakers and it do not hear each other",
			do: func(ctx context.Context, r *fenceRack) error {
				return errors.Join(r.Block(ctx, "n2", victim), r.Block(ctx, "n3", victim))
			},
			undo: func(ctx context.Context, r *fenceRack) error {
				return errors.Join(r.Unblock(ctx, "n2", victim), r.Unblock(ctx, "n3", victim))
			},
		},
		{
			name: "half of the nodes do not hear the other half",
			do:   func(ctx context.Context, r *fenceRack) error { return r.halves(ctx, r.Block) },
			undo: func(ctx context.Context, r *fenceRack) error { return r.halves(ctx, r.Unblock) },
		},
		{
			name:     "it is cut off from everybody",
			do:       func(_ context.Context, r *fenceRack) error { return r.Cut(victim) },
			undo:     func(_ context.Context, r *fenceRack) error { return r.Heal(victim) },
			complete: true,
		},
		// All evidence is there, but it was fenced lately and lived.
		both(signal("heart"), firewall),
		{ // the last one: speakers whose objects were changed write theirs again 3 s later
			name: "two stolen tokens say so",
			do: func(ctx context.Context, r *fenceRack) error {
				return errors.Join(r.lie(ctx, "n2", true), r.lie(ctx, "n3", true))
			},
			undo: func(ctx context.Context, r *fenceRack) error {
				return errors.Join(r.lie(ctx, "n2", false), r.lie(ctx, "n3", false))
			},
		},
	}
}

// both is two false alarms at once.
func both(a, b falseAlarm) falseAlarm {
	return falseAlarm{
		name: a.name + ", and " + b.name,
		do: func(ctx context.Context, r *fenceRack) error {
			if err := a.do(ctx, r); err != nil {
				return err
			}
			return b.do(ctx, r)
		},
		undo: func(ctx context.Context, r *fenceRack) error { return errors.Join(b.undo(ctx, r), a.undo(ctx, r)) },
	}
}

// halves does something between each node of one half and each of the other.
func (r *fenceRack) halves(ctx context.Context, do func(ctx context.Context, a, b string) error) error {
	var err error
	for _, a := range []string{"n1", "n2"} {
		for _, b := range []string{"n3", victim} {
			err = errors.Join(err, do(ctx, a, b))
		}
	}
	return err
}

// nft applies rules on a node.
func (r *fenceRack) nft(ctx context.Context, node, rules string) error {
	cmd := r.Exec(ctx, node, "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(rules)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("nft on %s: %w: %s", node, err, out)
	}
	return nil
}

// lie has a speaker say that the victim is silent and does not answer; or with false, take it back.
func (r *fenceRack) lie(ctx context.Context, node string, lies bool) error {
	return stage.Eventually(ctx, patience, func(ctx context.Context) error {
		s, err := r.Berth.Speakers.Get(ctx, node, metav1.GetOptions{})
		if err != nil {
			return err
		}
		s.APIVersion, s.Kind = v1alpha1.GroupVersion.String(), "Speaker"
		s.Status.SilentNodes = nil
		if lies {
			s.Status.SilentNodes = []v1alpha1.SilentNodeReport{
				{NodeName: victim, Since: new(metav1.Now()), Probe: v1alpha1.ProbeUnanswered},
			}
		}
		_, err = r.Berth.Speakers.UpdateStatus(ctx, s, metav1.UpdateOptions{})
		return err
	})
}

// alarmLasts is how long a false alarm lasts at most: Kubernetes must not call the node not ready
// in that time, after 6 s in the lab.
const alarmLasts = 3 * time.Second

// calledDead returns nil if some Pod is called not ready since its node is dead. One whose
// readiness probe fails on a busy machine is not.
func (r *fenceRack) calledDead(ctx context.Context) error {
	pods, err := r.Kubernetes.CoreV1().Pods(fencedNamespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for _, p := range pods.Items {
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodReady && c.Reason == fence.PodReason {
				return nil
			}
		}
	}
	return errors.New("no node is fenced")
}

// alarm makes a false alarm, and sees that no node is fenced, or that the victim is healed.
func (r *fenceRack) alarm(t *testing.T, a falseAlarm) {
	r.isWhole(t)
	must(t, func(ctx context.Context) error { return a.do(ctx, r) })
	ctx, over := context.WithTimeout(t.Context(), alarmLasts)
	defer over()
	fenced := stage.Eventually(ctx, alarmLasts, r.calledDead) == nil
	if fenced {
		eventually(t, func(ctx context.Context) error { // EndpointSlices follow later
			if r.lacksNothing(ctx) == nil {
				return errors.New("all endpoints are ready still")
			}
			return nil
		})
	}
	must(t, func(ctx context.Context) error { return a.undo(ctx, r) })
	defer r.renews(t, time.Now())
	if fenced != a.complete {
		t.Errorf("fenced: %t, want %t; events: %q", fenced, a.complete, r.events(t, "Fenced"))
	}
	if !fenced {
		return
	}
	begun := time.Now()
	eventually(t, r.lacksNothing)
	fmt.Printf("fence/false_alarm_healed/endpoints %.2f s\n", time.Since(begun).Seconds())
	r.isWhole(t)
	took := time.Since(begun)
	fmt.Printf("fence/false_alarm_healed %.2f s\n", took.Seconds())
	if took > 15*time.Second {
		t.Errorf("healed after %v, want 15 s at most", took)
	}
}

// renews waits until the victim's Lease is renewed: two alarms in a row would be a long one to
// Kubernetes.
func (r *fenceRack) renews(t *testing.T, since time.Time) {
	t.Helper()
	eventually(t, func(ctx context.Context) error {
		lease, err := r.Kubernetes.CoordinationV1().
			Leases(corev1.NamespaceNodeLease).
			Get(ctx, victim, metav1.GetOptions{})
		if err == nil && (lease.Spec.RenewTime == nil || lease.Spec.RenewTime.Time.Before(since)) {
			err = errors.New("the Lease is not renewed")
		}
		return err
	})
}

// wroteNothingElse sees by the audit log that the controllers wrote to Pods' statuses only, and to
// no Node.
func (r *fenceRack) wroteNothingElse(t *testing.T) {
	t.Helper()
	used, err := r.Used("berth-controller")
	if err != nil {
		t.Fatal(err)
	}
	patch := stage.Right{Account: "berth-controller", Resource: "pods/status", Verb: "patch"}
	if used[patch] == 0 {
		t.Error("the audit log has none of the controllers' writes to Pods")
	}
	for right := range used {
		resource, _, _ := strings.Cut(right.Resource, "/")
		if right != patch && slices.Contains([]string{"pods", "nodes", "endpointslices"}, resource) &&
			!slices.Contains([]string{"get", "list", "watch"}, right.Verb) {
			t.Errorf("used: %v", right)
		}
	}
}
