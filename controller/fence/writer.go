package fence

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	// PodReason is the reason of the condition Ready of a pod whose node is dead.
	PodReason = "NodeDead"

	writersAtOnce = 8
	writeAtMost   = 5 * time.Second
	// afterFailure is how long nothing is written when the API server refused.
	afterFailure = 5 * time.Second
	// tellAfter is how old a report is before it is told why the node is spared.
	tellAfter = 2 * time.Second
	// afterConflict is how long until the cache has what the API server has, or until the pace allows
	// some more.
	afterConflict = 100 * time.Millisecond
	afterBatch    = time.Millisecond
)

// act writes to the next pods, as many as the pace allows, and returns when to look again. What is
// known then is judged again.
func (f *Fencer) act(ctx context.Context, s Snapshot, v Verdict, c Choice) time.Duration {
	for _, node := range v.Dead {
		if fenced, known := f.fenced[node]; !known || !fenced.Ended.IsZero() {
			f.fenced[node] = Fenced{Began: s.Now, Pods: map[string]bool{}}
			f.metrics.nodes.Inc()
			f.announce(node, v.Witnesses[node], count(c.Write, node), count(c.Kept, node))
		}
	}
	batch := c.Write[:f.room(len(c.Write), s.Now)]
	done, err := f.writeAll(ctx, batch, s.Now)
	for _, pod := range done {
		f.fenced[pod.Node].Pods[pod.UID] = true
	}
	switch {
	case ctx.Err() != nil:
		return 0
	case err != nil:
		f.metrics.failures.Inc()
		f.after = s.Now.Add(afterFailure)
		if text := err.Error(); text != f.failure { // once, not every time
			f.failure = text
			f.Logger.Error("pods of a dead node were not written to; will be tried again", "error", err)
		}
		return lookEvery
	case len(batch) > 0 && len(done) == len(batch) && len(batch) < len(c.Write):
		return afterBatch
	case len(done) < len(c.Write):
		return afterConflict
	}
	f.failure = ""
	return lookEvery
}

// count counts the pods of a node.
func count(pods []Pod, node string) (n int) {
	for _, p := range pods {
		if p.Node == node {
			n++
		}
	}
	return n
}

// room returns how many of so many pods may be written to now.
func (f *Fencer) room(want int, now time.Time) int {
	n := 0
	for n < min(want, podsBetween) && f.pace.AllowN(now, 1) {
		n++
	}
	return n
}

// writeAll calls pods not ready, and returns those that are done. A conflict
// is no error: what the cache shows next is judged again.
func (f *Fencer) writeAll(ctx context.Context, pods []Pod, now time.Time) ([]Pod, error) {
	if f.DryRun {
		return pods, nil
	}
	var mu sync.Mutex
	var done []Pod
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(writersAtOnce)
	for _, pod := range pods {
		group.Go(func() error {
			err := f.write(ctx, pod, now)
			switch {
			case apierrors.IsConflict(err):
				return nil
			case err != nil && !apierrors.IsNotFound(err):
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			done = append(done, pod)
			return nil
		})
	}
	err := group.Wait()
	return done, err
}

// write calls a pod not ready, if it is the one that was judged, and as it was then.
func (f *Fencer) write(ctx context.Context, pod Pod, now time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, writeAtMost)
	defer cancel()
	patch, err := patchOf(pod, now)
	if err != nil {
		return err
	}
	_, err = f.Kubernetes.CoreV1().Pods(pod.Namespace).Patch(
		ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status",
	)
	if err != nil {
		return fmt.Errorf("status of Pod %s: %w", pod.Key(), err)
	}
	f.metrics.pods.Inc()
	return nil
}

// patchOf returns what is written to a pod: the API server refuses it for another UID or
// resourceVersion.
func patchOf(pod Pod, now time.Time) ([]byte, error) {
	type metadata struct {
		UID             string `json:"uid"`
		ResourceVersion string `json:"resourceVersion"`
	}
	type condition struct {
		Type               string `json:"type"`
		Status             string `json:"status"`
		Reason             string `json:"reason"`
		Message            string `json:"message"`
		LastTransitionTime string `json:"lastTransitionTime"`
	}
	type status struct {
		Conditions []condition `json:"conditions"`
	}
	return json.Marshal(struct {
		Metadata metadata `json:"metadata"`
		Status   status   `json:"status"`
	}{
		metadata{pod.UID, pod.ResourceVersion},
		status{[]condition{{
			Type: string(corev1.PodReady), Status: string(corev1.ConditionFalse), Reason: PodReason,
			Message:            "node " + pod.Node + " is dead, says Berth; its kubelet changes this if it lives",
			LastTransitionTime: now.UTC().Format(time.RFC3339),
		}}},
	})
}

// announce says that a node is fenced: in the log, and by an event.
func (f *Fencer) announce(node string, by []string, write, keep int) {
	reason, text := "Fenced", "%s is dead: the speakers of %s do not hear it any more, it answers nobody, and its Lease was not renewed. "+
		"Of its pods, %d are called not ready; %d stay as the last endpoints of a Service"
	if f.DryRun {
		reason, text = "WouldFence", "%s is dead: the speakers of %s do not hear it any more, it answers nobody, and its Lease was not renewed. "+
			"Without --fence-dry-run, %d of its pods would be called not ready, and %d stay as the last endpoints of a Service"
	}
	f.Logger.Warn("a node is dead", "node", node, "witnesses", by, "pods", write, "kept", keep, "dryRun", f.DryRun)
	f.event(node, reason, text, node, named(by), write, keep)
}

// named lists a few names.
func named(names []string) string {
	const few = 4
	if more := len(names) - few; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:few], ", "), more)
	}
	return strings.Join(names, ", ")
}

// notable are the reasons why a node is not fenced that an event tells: something keeps it from
// it, not evidence that it lives.
var notable = map[Reason]string{
	ReasonNoLease:        "it has no Lease in namespace kube-node-lease",
	ReasonNeverAnswered:  "it did not answer the controller on TCP ports 10250 and 7470 before either; let the controller reach them",
	ReasonRecentlyFenced: "it was fenced less than 10 minutes ago, and lived",
	ReasonCutOff:         "most other nodes do not answer the controller either",
	ReasonTooMany:        "with it, more than a third of the nodes would be out",
}

// tell counts why nodes are spared, and tells of it: once for each silence, when there was time for
// all evidence.
func (f *Fencer) tell(s Snapshot, v Verdict) {
	for node, reason := range v.Spared {
		soon := !slices.ContainsFunc(s.Reports, func(r Report) bool {
			return r.Node == node && s.Now.Sub(r.Seen) >= tellAfter
		})
		if soon || f.told[node][reason] {
			continue
		}
		if f.told[node] == nil {
			f.told[node] = map[Reason]bool{}
		}
		f.told[node][reason] = true
		f.metrics.spared.WithLabelValues(string(reason)).Inc()
		f.Logger.Info("a node that speakers do not hear is not fenced", "node", node, "reason", reason)
		if text, is := notable[reason]; is {
			f.event(node, "NotFenced", "the speakers of %s do not hear %s any more, but it is not fenced: %s",
				named(v.Witnesses[node]), node, text)
		}
	}
	for node := range f.told {
		_, spared := v.Spared[node]
		if !spared && !slices.Contains(v.Dead, node) {
			delete(f.told, node)
		}
	}
}

// event makes an event about a Node.
func (f *Fencer) event(node, reason, format string, args ...any) {
	if o, exists, err := f.Nodes.GetStore().GetByKey(node); err == nil && exists {
		if n, ok := o.(*corev1.Node); ok {
			f.Events.Eventf(n, nil, corev1.EventTypeWarning, reason, "Fence", format, args...)
		}
	}
}
