//go:build release

package release

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/e2e/lab"
	"github.com/berth-lb/berth/e2e/stage"
)

// fenceKills is how often TestFence kills the node; BERTH_FENCE_KILLS is another number.
const fenceKills = 5

// victim is the node that dies, or seems to.
const victim = "n4"

var fencedApp = stage.App{Namespace: "shop", Name: "web", Nodes: []string{"n2", "n3", victim}, PodsPerNode: 5}

// TestFence kills a node, and looks how soon its endpoints are gone, with and without
// --fence-dead-nodes. Then all kinds of things make it seem dead: it must not be fenced, or if all
// evidence is there, its kubelet must undo that within 15 s. The lab's controller manager gives a
// node 6 s, not 50.
func TestFence(t *testing.T) {
	r := &fenceRack{raise(t, lab.Options{Name: "fence", Nodes: 4, Router: "none"})}
	t.Cleanup(func() {
		if t.Failed() {
			r.Explain(context.Background(), t.Output())
		}
	})
	must(t, r.Install, func(ctx context.Context) error { return r.Deploy(ctx, fencedApp) }, r.controllersOn("n1"),
		func(ctx context.Context) error { return r.Apply(ctx, fencedConfiguration) },
		func(ctx context.Context) error {
			_, err := r.Create(ctx, r.Expose(fencedApp, "web"))
			return err
		})
	r.isWhole(t)
	t.Run("without", func(t *testing.T) {
		took := r.kill(t)
		fmt.Printf("fence/without_last_endpoint_gone %.2f s (Kubernetes waits 6 s in the lab)\n", took.Seconds())
	})

	must(t, func(ctx context.Context) error {
		return r.InstallComponent(ctx, t.TempDir(), "fence")
	}, r.controllersOn("n1"))
	r.isWhole(t)
	t.Run("kills", r.kills)
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
type fenceRack struct{ *stage.Stage }

// controllersOn moves the controllers to a node, so that none dies with the victim.
func (r *fenceRack) controllersOn(node string) func(context.Context) error {
	return func(ctx context.Context) error {
		_, err := r.Kubectl(ctx, "", "-n", stage.Namespace, "patch", "deployment", "berth-controller", "--type=merge", "-p",
			fmt.Sprintf(`{"spec": {"template": {"spec": {"nodeSelector": {"kubernetes.io/hostname": %q}}}}}`, node))
		if err != nil {
			return err
		}
		return r.AwaitBerth(ctx)
	}
}

// endpoints counts the ready endpoints of the Service, by node.
func (r *fenceRack) endpoints(ctx context.Context) (map[string]int, error) {
	found, err := r.Kubernetes.DiscoveryV1().EndpointSlices(fencedApp.Namespace).List(ctx, metav1.ListOptions{
		LabelSelector: discoveryv1.LabelServiceName + "=web",
	})
	if err != nil {
		return nil, err
	}
	counts := map[string]int{}
	for _, s := range found.Items {
		for _, e := range s.Endpoints {
			if e.NodeName != nil && (e.Conditions.Ready == nil || *e.Conditions.Ready) {
				counts[*e.NodeName]++
			}
		}
	}
	return counts, nil
}

// isWhole waits until all Pods are endpoints, and each speaker hears all others.
func (r *fenceRack) isWhole(t *testing.T) {
	t.Helper()
	eventually(t, func(ctx context.Context) error {
		counts, err := r.endpoints(ctx)
		if err != nil {
			return err
		}
		for _, node := range fencedApp.Nodes {
			if counts[node] != fencedApp.PodsPerNode {
				return fmt.Errorf("ready endpoints: %v", counts)
			}
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
	})
}

// kill kills the victim, and returns after how long it had no ready endpoint. It boots the node
// again when Kubernetes has noticed: else its death could not be told from a false alarm.
func (r *fenceRack) kill(t *testing.T) time.Duration {
	t.Helper()
	begun := time.Now()
	must(t, func(ctx context.Context) error { return r.Kill(ctx, victim) })
	var took time.Duration
	eventually(t, func(ctx context.Context) error {
		counts, err := r.endpoints(ctx)
		if err == nil && counts[victim] > 0 {
			err = fmt.Errorf("%d endpoints on %s", counts[victim], victim)
		}
		if err == nil && (counts["n2"] < fencedApp.PodsPerNode || counts["n3"] < fencedApp.PodsPerNode) {
			t.Errorf("others' endpoints went, too: %v", counts)
		}
		took = time.Since(begun)
		return err
	})
	eventually(t, func(ctx context.Context) error {
		node, err := r.Kubernetes.CoreV1().Nodes().Get(ctx, victim, metav1.GetOptions{})
		if err == nil && nodeReady(node) == corev1.ConditionTrue {
			err = errors.New("the Node is Ready")
		}
		return err
	})
	must(t, func(ctx context.Context) error { return r.Start(ctx, victim) })
	r.isWhole(t)
	return took
}

func nodeReady(n *corev1.Node) corev1.ConditionStatus {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status
		}
	}
	return corev1.ConditionUnknown
}

// kills kills the victim a number of times.
func (r *fenceRack) kills(t *testing.T) {
	n := fenceKills
	if text := os.Getenv("BERTH_FENCE_KILLS"); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil {
			t.Fatalf("BERTH_FENCE_KILLS: %v", err)
		}
	}
	var all []time.Duration
	for range n {
		took := r.kill(t)
		all = append(all, took)
		if took > 5*time.Second {
			t.Errorf("the endpoints were there for %v: Kubernetes took them, not Berth", took)
		}
	}
	slices.Sort(all)
	fmt.Printf("fence/last_endpoint_gone_median %.2f s\nfence/last_endpoint_gone_max %.2f s (of %d deaths, %d Pods each)\n",
		all[len(all)/2].Seconds(), all[len(all)-1].Seconds(), len(all), fencedApp.PodsPerNode)
	if told := r.events(t, "Fenced"); len(told) == 0 {
		t.Error("no event tells of it")
	}
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
	return []falseAlarm{
		signal("kubelet"),
		signal("heart"),
		signal("speaker"),
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
			name:     "it is cut off from everybody",
			do:       func(_ context.Context, r *fenceRack) error { return r.Cut(victim) },
			undo:     func(_ context.Context, r *fenceRack) error { return r.Heal(victim) },
			complete: true,
		},
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

// alarm makes a false alarm, and sees that the victim is not fenced, or healed.
func (r *fenceRack) alarm(t *testing.T, a falseAlarm) {
	r.isWhole(t)
	must(t, func(ctx context.Context) error { return a.do(ctx, r) })
	ctx, over := context.WithTimeout(t.Context(), alarmLasts)
	defer over()
	fenced := stage.Eventually(ctx, alarmLasts, func(ctx context.Context) error {
		counts, err := r.endpoints(ctx)
		if err == nil && counts[victim] == fencedApp.PodsPerNode {
			err = errors.New("all endpoints are there")
		}
		return err
	}) == nil
	must(t, func(ctx context.Context) error { return a.undo(ctx, r) })
	if fenced != a.complete {
		t.Errorf("fenced: %t, want %t; events: %q", fenced, a.complete, r.events(t, "Fenced"))
	}
	if !fenced {
		return
	}
	begun := time.Now()
	r.isWhole(t)
	took := time.Since(begun)
	fmt.Printf("fence/false_alarm_healed %.2f s\n", took.Seconds())
	if took > 15*time.Second {
		t.Errorf("healed after %v, want 15 s at most", took)
	}
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
