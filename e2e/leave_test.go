//go:build root

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/e2e/lab"
	"github.com/berth-lb/berth/e2e/stage"
)

func testLeave(t *testing.T, r *rack) {
	l2, bgp, stop := r.unfailing(t)
	address := r.address(t, l2, corev1.IPv4Protocol)
	owner := r.owner(t, address)
	label := func(ctx context.Context, label string) {
		t.Helper()
		if _, err := r.Kubectl(ctx, "", "label", "--overwrite", "node", owner, label); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { label(context.WithoutCancel(t.Context()), v1alpha1.ExcludeLabel+"-") })
	label(t.Context(), v1alpha1.ExcludeLabel+"=")
	if reason := r.awaitState(t, owner, v1alpha1.SpeakerLeaving); !strings.Contains(reason, v1alpha1.ExcludeLabel) {
		t.Errorf("it leaves because %q, want the label named", reason)
	}
	r.successor(t, l2, owner)
	r.routes(t, soleAddress(bgp), r.others(owner)...)
	eventually(t, func(ctx context.Context) error {
		report, err := r.speaker(ctx, owner)
		if err == nil && (report.GroupsOwned > 0 || report.PrefixesAnnounced > 0) {
			err = fmt.Errorf("the speaker of %s still has %d groups and %d prefixes", owner, report.GroupsOwned, report.PrefixesAnnounced)
		}
		return err
	})

	label(t.Context(), v1alpha1.ExcludeLabel+"-")
	r.awaitState(t, owner, v1alpha1.SpeakerReady)
	r.routes(t, soleAddress(bgp), r.Nodes()...)
	r.recovered(t, l2)
	stop()
}

func testUninstall(t *testing.T, r *rack) {
	l2 := r.serve(t)
	bgp := r.serve(t, only(corev1.IPv4Protocol), pinned("198.51.100.60"))
	for _, svc := range []*corev1.Service{l2, bgp} {
		r.announced(t, svc)
	}
	r.owner(t, r.address(t, l2, corev1.IPv4Protocol))
	r.routes(t, soleAddress(bgp), r.Nodes()...)
	logs := r.followSpeakers(t)
	if err := r.Uninstall(t.Context()); err != nil {
		t.Fatal(err)
	}
	for node, log := range logs {
		if !leftFor(log(), "Berth is being uninstalled") {
			t.Errorf("speaker of %s does not say that it leaves because Berth is being uninstalled:\n%s", node, log())
		}
	}
	for _, address := range stage.Addresses(l2) {
		if hosts, err := r.Answerers(t.Context(), address); err != nil || len(hosts) > 0 {
			t.Errorf("%v answer for %s after all is uninstalled (%v)", hosts, address, err)
		}
	}
	r.routes(t, soleAddress(bgp))
	kept := map[string][]corev1.LoadBalancerIngress{}
	for _, svc := range []*corev1.Service{l2, bgp} {
		kept[svc.Name] = r.get(t, svc).Status.LoadBalancer.Ingress
		if fmt.Sprint(stage.Addresses(r.get(t, svc))) != fmt.Sprint(stage.Addresses(svc)) {
			t.Errorf("Service %s has %v after the uninstallation, had %v", svc.Name, kept[svc.Name], svc.Status.LoadBalancer.Ingress)
		}
	}

	r.install(t)
	for _, svc := range []*corev1.Service{l2, bgp} {
		r.announced(t, svc)
		if fmt.Sprint(stage.Addresses(r.get(t, svc))) != fmt.Sprint(stage.Addresses(svc)) {
			t.Errorf("Service %s has %v after a new installation, had %v", svc.Name, stage.Addresses(r.get(t, svc)), stage.Addresses(svc))
		}
	}
	r.routes(t, soleAddress(bgp), r.Nodes()...)
	r.answers(t, lab.Remote, soleAddress(bgp))
	r.recovered(t, l2)
}

// followSpeakers reads the logs of the speakers until they end. What it returns waits
// for that, by node.
func (r *rack) followSpeakers(t *testing.T) map[string]func() []byte {
	t.Helper()
	pods, err := r.Kubernetes.CoreV1().Pods(stage.Namespace).List(t.Context(), metav1.ListOptions{LabelSelector: "app.kubernetes.io/component=speaker"})
	if err != nil {
		t.Fatal(err)
	}
	logs := map[string]func() []byte{}
	for _, pod := range pods.Items {
		stream, err := r.Kubernetes.CoreV1().Pods(stage.Namespace).GetLogs(pod.Name, &corev1.PodLogOptions{Follow: true}).Stream(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var text []byte
		done := make(chan struct{})
		go func() { // ends with the container, or the test
			defer close(done)
			defer stream.Close()
			text, _ = io.ReadAll(stream)
		}()
		logs[pod.Spec.NodeName] = func() []byte { <-done; return text }
	}
	return logs
}

// leftFor tells whether a speaker's log has it leave for the reason.
func leftFor(log []byte, reason string) bool {
	for line := range bytes.Lines(log) {
		var entry struct{ Msg, State, Reason string }
		if json.Unmarshal(line, &entry) == nil && entry.Msg == "state" && entry.State == string(v1alpha1.SpeakerLeaving) && entry.Reason == reason {
			return true
		}
	}
	return false
}
