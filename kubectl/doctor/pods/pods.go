// Package pods runs the probes of kubectl berth doctor --nodes: a pod on each node, which is
// deleted as soon as it has said what it saw.
package pods

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/berth-lb/berth/internal/probe"
	"github.com/berth-lb/berth/kubectl/cluster"
	"github.com/berth-lb/berth/kubectl/doctor/nodes"
)

const (
	atOnce = 16
	// pollPause is the time between two looks at the pods.
	pollPause = 200 * time.Millisecond
	// deleteWithin bounds how long it takes to delete the pods, also after an interrupt.
	deleteWithin = 30 * time.Second
	// outlive is how much longer than it is waited for a pod may live, if nobody deletes it.
	outlive = time.Minute
	// longestLine is the longest report that is read, in bytes.
	longestLine = 16 << 20
)

// Runner runs probes.
type Runner struct {
	Kubernetes kubernetes.Interface
	// Namespace is that of the pods.
	Namespace string
	// Image has the program berth. Account is the ServiceAccount of the pods, which get no token of
	// it, and PullSecrets are Secrets, both of that namespace; empty: the default, none.
	Image       string
	Account     string
	PullSecrets []corev1.LocalObjectReference
	// Timeout is how long a pod may take to start and to report, beside its questions.
	Timeout time.Duration
}

// run is one run of probes.
type run struct {
	Runner
	id   string
	plan *nodes.Plan

	mu   sync.Mutex
	seen *nodes.Seen // guarded by mu
	// began is when the last probe was first heard of; guarded by mu.
	began time.Time
}

// Run runs the probes of a plan, and deletes their pods. An error says that no node said anything,
// and why one of them did not.
func (r Runner) Run(ctx context.Context, plan *nodes.Plan) (*nodes.Seen, error) {
	x := &run{Runner: r, plan: plan, id: fmt.Sprintf("%x", time.Now().UnixNano())}
	x.seen = &nodes.Seen{Plan: plan, Reports: map[string]probe.Report{}, Failures: map[string]string{}}
	if len(plan.Requests) == 0 {
		return x.seen, nil
	}
	timeout, cancel := context.WithTimeout(ctx, r.Timeout+plan.Takes)
	defer cancel()
	x.sweep(timeout)
	created, err := x.create(timeout)
	if err == nil {
		var readers sync.WaitGroup
		following, stop := context.WithCancel(timeout)
		for node, pod := range created {
			readers.Go(func() { x.follow(following, node, pod) })
		}
		x.await(timeout)
		stop()
		readers.Wait()
	}
	if gone := x.delete(context.WithoutCancel(ctx)); gone != nil {
		err = errors.Join(err, gone)
	}
	if err = errors.Join(err, ctx.Err()); err == nil {
		err = x.nothing()
	}
	return x.seen, err
}

// nothing returns an error if no node has a report.
func (x *run) nothing() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.seen.Reports) > 0 {
		return nil
	}
	node := slices.Min(slices.Collect(maps.Keys(x.seen.Failures)))
	return fmt.Errorf("nothing was looked at from any node; from %s, because %s", node, x.seen.Failures[node])
}

// create creates the pods, and returns their names by node.
func (x *run) create(ctx context.Context) (map[string]string, error) {
	created := map[string]string{}
	var first error
	var work errgroup.Group
	work.SetLimit(atOnce)
	for _, request := range x.plan.Requests {
		work.Go(func() error {
			pod, err := x.pod(request)
			if err == nil {
				pod, err = x.Kubernetes.CoreV1().Pods(x.Namespace).Create(ctx, pod, metav1.CreateOptions{})
			}
			x.mu.Lock()
			defer x.mu.Unlock()
			if err != nil {
				first = x.refused(err)
				x.seen.Failures[request.Node] = first.Error()
				return nil
			}
			created[request.Node] = pod.Name
			return nil
		})
	}
	_ = work.Wait() // they return no error
	if len(created) == 0 {
		return nil, first
	}
	return created, nil
}

// refused says who did not let a pod be, and what to do.
func (x *run) refused(err error) error {
	text := err.Error()
	_, violates, podSecurity := strings.Cut(text, "violates PodSecurity ")
	switch {
	case podSecurity:
		return fmt.Errorf(
			"namespace %s refuses the pod by Pod Security (%s): it uses the network of its node; name another namespace with --namespace, or label this one pod-security.kubernetes.io/enforce=privileged",
			x.Namespace,
			violates,
		)
	case apierrors.IsNotFound(err):
		return fmt.Errorf("there is no namespace %s for the pods; name one with --namespace", x.Namespace)
	case strings.Contains(text, "admission webhook") || strings.Contains(text, "ValidatingAdmissionPolicy"):
		return fmt.Errorf(
			"an admission policy refuses the pod in namespace %s; name another one with --namespace, or make an exception: %w",
			x.Namespace,
			err,
		)
	case strings.Contains(text, "cannot create resource"):
		return cluster.Right(err, "create", "", "pods")
	case strings.Contains(text, "is being terminated"):
		return fmt.Errorf("namespace %s is being deleted; name another one with --namespace", x.Namespace)
	case strings.Contains(text, "exceeded quota"):
		return fmt.Errorf(
			"the quota of namespace %s has no room for a pod on each node; raise it, or name another namespace with --namespace: %w",
			x.Namespace,
			err,
		)
	case strings.Contains(text, "failed quota"):
		return fmt.Errorf(
			"the quota of namespace %s wants what the pod does not name; name another namespace with --namespace: %w",
			x.Namespace,
			err,
		)
	case apierrors.IsForbidden(err): // such as by a LimitRange
		return fmt.Errorf(
			"admission refuses the pod in namespace %s; name another one with --namespace: %w",
			x.Namespace,
			err,
		)
	}
	return err
}

// follow reads the reports of a pod until its end or the context's.
func (x *run) follow(ctx context.Context, node, pod string) {
	for ctx.Err() == nil {
		if !x.started(ctx, node, pod) {
			return
		}
		err := x.read(ctx, node, pod)
		switch {
		case err == nil || ctx.Err() != nil:
			return
		case apierrors.IsForbidden(err):
			x.fail(node, cluster.Right(err, "get", "", "pods/log").Error())
			return
		}
		pause(ctx) // the kubelet may be busy
	}
}

func pause(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(pollPause):
	}
}

// started waits until the container of a pod runs or has run, and reports whether it does.
func (x *run) started(ctx context.Context, node, name string) bool {
	why := "its pod did not start in time"
	for ; ctx.Err() == nil; pause(ctx) {
		pod, err := x.Kubernetes.CoreV1().Pods(x.Namespace).Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsForbidden(err) {
			x.fail(node, cluster.Right(err, "get", "", "pods").Error())
			return false
		}
		if apierrors.IsNotFound(err) {
			x.fail(node, "its pod was deleted")
			return false
		}
		if err != nil {
			continue
		}
		runs, problem, final := stateOf(pod)
		if runs {
			return true
		}
		if final {
			x.fail(node, problem)
			return false
		}
		if problem != "" {
			why = problem
		}
	}
	x.fail(node, why)
	return false
}

// hopeless are the reasons for which a container that waits does not start later.
var hopeless = []string{
	"ErrImageNeverPull", "InvalidImageName", "ImagePullBackOff", "CreateContainerConfigError", "CreateContainerError",
}

// unpulled is what to do where an image cannot be had.
const unpulled = "; name an image of Berth that nodes can pull with --image"

// stateOf reports whether a pod's container runs or has run, and else why not, and whether that is
// final.
func stateOf(pod *corev1.Pod) (runs bool, problem string, final bool) {
	for _, c := range pod.Status.ContainerStatuses {
		switch s := c.State; {
		case s.Running != nil, s.Terminated != nil:
			return true, "", false
		case s.Waiting != nil && s.Waiting.Reason != "" && s.Waiting.Reason != "ContainerCreating":
			problem = fmt.Sprintf("its pod does not start (%s): %s", s.Waiting.Reason, s.Waiting.Message)
			if strings.Contains(s.Waiting.Reason, "Image") {
				problem += unpulled
			}
			return false, problem, slices.Contains(hopeless, s.Waiting.Reason)
		}
	}
	if pod.Status.Phase == corev1.PodFailed {
		return false, fmt.Sprintf("its pod failed (%s): %s", pod.Status.Reason, pod.Status.Message), true
	}
	return false, "", false
}

// read takes the reports of a pod as they come. What is none is an error of the program.
func (x *run) read(ctx context.Context, node, pod string) error {
	logs, err := x.Kubernetes.CoreV1().Pods(x.Namespace).
		GetLogs(pod, &corev1.PodLogOptions{Follow: true, Container: container}).Stream(ctx)
	if err != nil {
		return err
	}
	said, err := x.take(node, logs)
	if err = errors.Join(err, logs.Close()); err != nil || ctx.Err() != nil {
		return err
	}
	if said == "" {
		said = x.end(ctx, pod)
	}
	x.fail(node, fmt.Sprintf("%s (image %s)", said, x.Image))
	return nil
}

// end returns how a pod ended that said nothing.
func (x *run) end(ctx context.Context, name string) string {
	pod, err := x.Kubernetes.CoreV1().Pods(x.Namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return "its pod ended"
	}
	for _, c := range pod.Status.ContainerStatuses {
		if t := c.State.Terminated; t != nil {
			return strings.TrimSpace(
				fmt.Sprintf("its pod ended (%s, exit code %d) %s", t.Reason, t.ExitCode, t.Message),
			)
		}
	}
	return "its pod ended"
}

// take reads reports, and returns the last line that is none.
func (x *run) take(node string, logs io.Reader) (said string, err error) {
	lines := bufio.NewScanner(logs)
	lines.Buffer(nil, longestLine)
	for lines.Scan() {
		var report probe.Report
		if line := bytes.TrimSpace(lines.Bytes()); json.Unmarshal(line, &report) != nil || report.Node != node {
			said = string(line)
			continue
		}
		x.mu.Lock()
		if _, known := x.seen.Reports[node]; !known {
			x.began = time.Now()
		}
		x.seen.Reports[node] = report
		x.mu.Unlock()
	}
	return said, lines.Err()
}

// fail notes why a node has no report, unless it has one that is done.
func (x *run) fail(node, why string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.seen.Reports[node].Done {
		return
	}
	delete(x.seen.Reports, node)
	x.seen.Failures[node] = why
}

// await waits until there is nothing more to see.
func (x *run) await(ctx context.Context) {
	for ; ctx.Err() == nil; pause(ctx) {
		x.mu.Lock()
		done, heard := x.seen.Settled()
		enough := done && (heard || time.Since(x.began) > x.plan.Hearing)
		x.mu.Unlock()
		if enough {
			break
		}
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	for node, r := range x.seen.Reports {
		if !r.Done {
			delete(x.seen.Reports, node)
			x.seen.Failures[node] = "its probe did not end in time"
		}
	}
}

// delete deletes all pods of this run, those too whose creation was not heard of.
func (x *run) delete(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, deleteWithin)
	defer cancel()
	pods := x.Kubernetes.CoreV1().Pods(x.Namespace)
	list, err := pods.List(ctx, metav1.ListOptions{LabelSelector: runLabel + "=" + x.id})
	if err != nil {
		return fmt.Errorf(
			"the pods of this look are not deleted; they end by themselves: %w",
			cluster.Right(err, "list", "", "pods"),
		)
	}
	var mu sync.Mutex
	var failed error
	var work errgroup.Group
	work.SetLimit(atOnce)
	for _, pod := range list.Items {
		work.Go(func() error {
			err := pods.Delete(ctx, pod.Name, metav1.DeleteOptions{})
			if err == nil || apierrors.IsNotFound(err) {
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			failed = fmt.Errorf(
				"pod %s/%s is not deleted; it ends by itself: %w",
				x.Namespace,
				pod.Name,
				cluster.Right(err, "delete", "", "pods"),
			)
			return nil
		})
	}
	_ = work.Wait() // they return no error
	return failed
}
