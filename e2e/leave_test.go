//go:build root

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
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
	eventually(t, func(ctx context.Context) error {
		out, err := r.Vtysh(ctx, "show bgp ipv4 unicast community graceful-shutdown json")
		return errors.Join(
			err,
			jsonHas(out, []string{"routes/" + soleAddress(bgp).String() + `\/32/0/peerId = ` + r.addressText(owner)}),
		)
	})
	if message := r.awaitState(t, owner, v1alpha1.SpeakerLeaving); !strings.Contains(message, v1alpha1.ExcludeLabel) {
		t.Errorf("it leaves because %q, want the label named", message)
	}
	r.successor(t, l2, owner)
	r.routes(t, soleAddress(bgp), r.others(owner)...)
	eventually(t, func(ctx context.Context) error {
		report, err := r.speaker(ctx, owner)
		if err != nil {
			return err
		}
		if report.AddressesOwned == nil || report.PrefixesAnnounced == nil {
			return fmt.Errorf("the speaker of %s counts nothing: %+v", owner, report)
		}
		if *report.AddressesOwned > 0 || *report.PrefixesAnnounced > 0 {
			return fmt.Errorf("the speaker of %s still has %d addresses and %d prefixes", owner, *report.AddressesOwned, *report.PrefixesAnnounced)
		}
		return nil
	})

	label(t.Context(), v1alpha1.ExcludeLabel+"-")
	r.awaitState(t, owner, v1alpha1.SpeakerAnnouncing)
	r.routes(t, soleAddress(bgp), r.Nodes()...)
	if owners := r.recovered(t, l2); owners[0] != owners[1] {
		t.Errorf("addresses of one Service are answered for by %v after a planned move, want one node", owners)
	}
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

// followSpeakers reads the logs of the speakers until they end. The returned functions, by node,
// wait for that and return the log.
func (r *rack) followSpeakers(t *testing.T) map[string]func() []byte {
	t.Helper()
	pods, err := r.Kubernetes.CoreV1().Pods(
		stage.Namespace,
	).List(
		t.Context(),
		metav1.ListOptions{LabelSelector: "app.kubernetes.io/component=speaker"},
	)
	if err != nil {
		t.Fatal(err)
	}
	logs := map[string]func() []byte{}
	for _, pod := range pods.Items {
		stream, err := r.Kubernetes.CoreV1().Pods(
			stage.Namespace,
		).GetLogs(
			pod.Name,
			&corev1.PodLogOptions{Container: "speaker", Follow: true},
		).Stream(
			t.Context(),
		)
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

// leftFor reports whether a speaker's log says that it leaves for this reason.
func leftFor(log []byte, reason string) bool {
	for line := range bytes.Lines(log) {
		var entry struct{ Msg, State, Reason string }
		if json.Unmarshal(line, &entry) == nil && entry.Msg == "speaker state changed" &&
			entry.State == string(v1alpha1.SpeakerLeaving) && entry.Reason == reason {
			return true
		}
	}
	return false
}

// testRebalance makes a node leave and return: its addresses stay with the others until the
// annotation requests a rebalance.
func testRebalance(t *testing.T, r *rack) {
	// New addresses go to the node that comes first for them. This is repeated until one goes to n1.
	var svc *corev1.Service
	for svc == nil {
		s := r.serve(t)
		if r.ownerObject(t, s, "") == "n1" {
			svc = s
		}
	}
	label := func(change string) {
		t.Helper()
		if _, err := r.Kubectl(
			context.WithoutCancel(t.Context()), "", "label", "--overwrite", "node", "n1", v1alpha1.ExcludeLabel+change,
		); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(func() { label("-") })
	address := r.address(t, svc, corev1.IPv4Protocol)
	r.answers(t, lab.Client, address) // kube-proxy has its rules
	end := r.probe(t, lab.Client, address, probeTimeout, true)
	label("=")
	other := r.ownerObject(t, svc, "n1")
	label("-")
	if err := r.AwaitSpeakers(t.Context(), r.router); err != nil {
		t.Fatal(err)
	}
	if now := r.ownerObject(t, svc, ""); now != other {
		t.Errorf("%s answers once n1 is back, want %s still", now, other)
	}
	if _, err := r.Kubectl(
		t.Context(), "", "annotate", "--overwrite", "segmentannouncement", "--all", v1alpha1.AnnotationRebalance+"=once",
	); err != nil {
		t.Fatal(err)
	}
	if now := r.ownerObject(t, svc, other); now != "n1" {
		t.Errorf("%s answers after rebalancing, want n1", now)
	}
	r.unfailed(t, "new connections while the address moved twice", end())
}

// ownerObject waits until an L2Owner of the Service names a node other than the given one, and
// returns that node.
func (r *rack) ownerObject(t *testing.T, svc *corev1.Service, not string) string {
	t.Helper()
	var node string
	eventually(t, func(ctx context.Context) error {
		owners, err := r.Berth.L2Owners.List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, o := range owners.Items {
			of := slices.Contains(o.Status.ServiceRefs, v1alpha1.ServiceReference{Namespace: svc.Namespace, Name: svc.Name})
			if of && o.Status.NodeName != "" && o.Status.NodeName != not {
				node = o.Status.NodeName
				return nil
			}
		}
		return fmt.Errorf("no L2Owner of Service %s names a node other than %q", svc.Name, not)
	})
	return node
}
