//go:build root

package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/e2e/lab"
	"github.com/berth-lb/berth/e2e/stage"
)

// testPathsWatched enables BFD for the sessions with the router, which are not reset, and cuts a
// node off: the router drops its routes because of BFD, not when the hold time expires.
func testPathsWatched(t *testing.T, r *rack) {
	patch := func(ctx context.Context, bfd string) error {
		_, err := r.Kubectl(ctx, "", "patch", "bgpneighbor", "tor", "--type=merge", "-p", `{"spec":{"bfd":`+bfd+`}}`)
		return err
	}
	before := r.connections(t)
	t.Cleanup(func() {
		if err := patch(context.WithoutCancel(t.Context()), "null"); err != nil {
			t.Error(err)
		}
	})
	if err := patch(t.Context(), `{"receiveInterval":"100ms","transmitInterval":"100ms"}`); err != nil {
		t.Fatal(err)
	}
	watched := func(node string) {
		eventually(t, func(ctx context.Context) error {
			out, err := r.Vtysh(ctx, "show bfd peer "+r.addressText(node)+" json")
			return errors.Join(err, jsonHas(out, []string{"status = up", "remote-transmit-interval = 100"}))
		})
	}
	for _, node := range r.Nodes() {
		watched(node)
	}
	for neighbor, n := range r.connections(t) {
		if n != before[neighbor] {
			t.Errorf("the session with %s was opened again for BFD", neighbor)
		}
	}

	const cut = "n2"
	address := soleAddress(r.serve(t, only(corev1.IPv4Protocol), pinned("198.51.100.41")))
	r.routes(t, address, r.Nodes()...)
	t.Cleanup(func() {
		if err := r.Heal(cut); err != nil {
			t.Error(err)
		}
	})
	if err := r.Cut(cut); err != nil {
		t.Fatal(err)
	}
	r.routes(t, address, r.others(cut)...)
	eventually(t, func(ctx context.Context) error {
		out, err := r.Vtysh(ctx, "show bgp neighbors "+r.addressText(cut)+" json")
		return errors.Join(err, jsonHas(out, []string{r.addressText(cut) + "/lastNotificationReason = Cease/BFD Down"}))
	})
	if err := r.Heal(cut); err != nil {
		t.Fatal(err)
	}
	watched(cut)
	r.routes(t, address, r.Nodes()...)
}

// addressText returns the node's IPv4 address.
func (r *rack) addressText(node string) string {
	return fmt.Sprintf("172.30.0.1%s", node[len("n"):])
}

// testHold replaces all speakers with --on-restart=hold: each group stays with its node.
func testHold(t *testing.T, r *rack) {
	if _, err := r.Kubectl(t.Context(), "", "-n", stage.Namespace, "patch", "daemonset", "berth-speaker", "--type=json",
		"-p", `[{"op":"add","path":"/spec/template/spec/containers/0/args/-","value":"--on-restart=hold"}]`); err != nil {
		t.Fatal(err)
	}
	if err := r.AwaitBerth(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.settle(t)
	owners := map[*corev1.Service]string{}
	for range 6 {
		svc := r.serve(t)
		r.answers(t, lab.Client, r.address(t, svc, corev1.IPv4Protocol)) // until then two nodes may contest it
		owners[svc] = r.ownerObject(t, svc, "")
	}
	if _, err := r.Kubectl(
		t.Context(), "", "-n", stage.Namespace, "rollout", "restart", "daemonset/berth-speaker",
	); err != nil {
		t.Fatal(err)
	}
	if err := r.AwaitBerth(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.settle(t)
	for svc, before := range owners {
		if now := r.ownerObject(t, svc, ""); now != before {
			t.Errorf("%s answers for %s, want %s still", now, svc.Name, before)
		}
		r.answers(t, lab.Client, r.address(t, svc, corev1.IPv4Protocol))
	}
}

// testRouterID gives a node another router ID, and takes it back. Its Speaker is then as one that
// was made before there was a speaker: it does not go with the Node, until the speaker says so.
func testRouterID(t *testing.T, r *rack) {
	const node = "n2"
	patch := func(ctx context.Context, text string) error {
		_, err := r.Kubectl(ctx, "", "patch", "speaker", node, "--type=merge", "-p", text)
		return err
	}
	knownAs := func(id string) {
		t.Helper()
		eventually(t, func(ctx context.Context) error {
			address := r.addressText(node)
			out, err := r.Vtysh(ctx, "show bgp neighbors "+address+" json")
			return errors.Join(
				err,
				jsonHas(out, []string{address + "/bgpState = Established", address + "/remoteRouterId = " + id}),
			)
		})
	}
	reported := func(id string) {
		t.Helper()
		eventually(t, func(ctx context.Context) error {
			s, err := r.Berth.Speakers.Get(ctx, node, metav1.GetOptions{})
			if err == nil &&
				(s.Status.RouterID != id || s.Status.ObservedGeneration != s.Generation || len(s.OwnerReferences) != 1) {
				err = fmt.Errorf("the Speaker has %+v, %+v, want the router ID %s, and that it goes with its Node", s.ObjectMeta, s.Status, id)
			}
			return err
		})
	}
	t.Cleanup(func() {
		if err := patch(context.WithoutCancel(t.Context()), `{"spec":null}`); err != nil {
			t.Error(err)
		}
	})
	if err := patch(t.Context(), `{"metadata":{"ownerReferences":null},"spec":{"bgp":{"routerID":"10.9.8.7"}}}`); err != nil {
		t.Fatal(err)
	}
	knownAs("10.9.8.7")
	reported("10.9.8.7")
	if err := patch(t.Context(), `{"spec":{"bgp":{"routerID":"10.9.8.256"}}}`); err == nil ||
		!strings.Contains(err.Error(), "10.9.8.256 is not a router ID; write a unicast IPv4 address") {
		t.Errorf("a router ID that is none is answered with %v", err)
	}
	if err := patch(t.Context(), `{"spec":null}`); err != nil {
		t.Fatal(err)
	}
	knownAs(r.addressText(node))
	reported(r.addressText(node))
}

// testRoutersConnect has the speakers listen, as manifests/bgp-passive does, and the router connect
// to them: by its address, and by a prefix that holds it.
func testRoutersConnect(t *testing.T, r *rack) {
	neighbor := func(place string) string {
		return `
apiVersion: berth.dev/v1alpha1
kind: BGPNeighbor
metadata: {name: caller}
spec: {localASN: 64513, remoteASN: 64512, ` + place + `, nodeSelector: {}}
---
apiVersion: berth.dev/v1alpha1
kind: RouteAnnouncement
metadata: {name: caller}
spec: {poolNames: [routed], neighborNames: [caller], nodeSelector: {}, serviceSelector: {}}
`
	}
	svc := r.serve(t, only(corev1.IPv6Protocol), pinned("2001:db8:100::99"))
	r.apply(t, neighbor(`address: "fd00:30::1", connect: Accept`))
	eventually(t, func(ctx context.Context) error {
		s, err := r.session(ctx, "n1", "caller")
		if err == nil && !strings.Contains(s.LastError, "--bgp-listen") {
			err = fmt.Errorf("without a listener the session says %+v", s)
		}
		return err
	})
	if _, err := r.Kubectl(t.Context(), "", "-n", stage.Namespace, "patch", "daemonset", "berth-speaker", "--type=json", "-p", `[
		{"op":"add","path":"/spec/template/spec/containers/0/args/-","value":"--bgp-listen=:179"},
		{"op":"add","path":"/spec/template/spec/containers/2/securityContext/capabilities/add/-","value":"NET_BIND_SERVICE"}]`); err != nil {
		t.Fatal(err)
	}
	if err := r.AwaitBerth(t.Context()); err != nil {
		t.Fatal(err)
	}
	connected := func() {
		t.Helper()
		for _, node := range r.Nodes() {
			address := strings.Replace(r.addressText(node), "172.30.0.", "fd00:30::", 1)
			eventually(t, func(ctx context.Context) error {
				out, err := r.Vtysh(ctx, "show bgp ipv6 unicast neighbors "+address+" routes json")
				return errors.Join(err, jsonHas(out, []string{"routes/" + soleAddress(svc).String() + `\/128/# = 1`}))
			})
		}
	}
	connected()
	if _, err := r.Kubectl(t.Context(), "", "delete", "bgpneighbor", "caller"); err != nil {
		t.Fatal(err)
	}
	r.routes(t, soleAddress(svc), r.Nodes()...) // by the other sessions
	if err := r.Apply(t.Context(), neighbor(`addressPrefix: "fd00:30::/120"`)); err != nil {
		t.Fatal(err)
	}
	connected()
	for _, node := range r.Nodes() {
		eventually(t, func(ctx context.Context) error {
			report, err := r.speaker(ctx, node)
			if err == nil && !slices.ContainsFunc(report.Sessions, func(s v1alpha1.SessionReport) bool {
				return s.NeighborName == "caller" && s.Address != nil && *s.Address == "fd00:30::1" &&
					s.State == v1alpha1.SessionEstablished
			}) {
				err = fmt.Errorf("the speaker of %s reports no session with the router by its address: %+v", node, report.Sessions)
			}
			return err
		})
	}
}
