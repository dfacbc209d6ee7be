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

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/e2e/lab"
	"github.com/berth-lb/berth/e2e/stage"
)

// testPathsWatched has BFD watch the sessions with the router, without a new session, and cuts a node off: the
// router drops its routes because of BFD, not when the hold time is over.
func testPathsWatched(t *testing.T, r *rack) {
	patch := func(ctx context.Context, bfd string) error {
		_, err := r.Kubectl(ctx, "", "patch", "bgppeer", "tor", "--type=merge", "-p", `{"spec":{"bfd":`+bfd+`}}`)
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
	for neighbour, n := range r.connections(t) {
		if n != before[neighbour] {
			t.Errorf("the session with %s was opened anew for BFD", neighbour)
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

// addressText is the node's IPv4 address.
func (r *rack) addressText(node string) string {
	return fmt.Sprintf("172.30.0.1%s", node[len("n"):])
}

// testHold replaces all speakers while they are asked to hold: each group stays with its node.
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
	if _, err := r.Kubectl(t.Context(), "", "-n", stage.Namespace, "rollout", "restart", "daemonset/berth-speaker"); err != nil {
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

// testRouterID gives a node another router ID, and takes it back.
func testRouterID(t *testing.T, r *rack) {
	const node = "n2"
	annotate := func(ctx context.Context, value string) {
		t.Helper()
		if _, err := r.Kubectl(ctx, "", "annotate", "--overwrite", "node", node, v1alpha1.AnnotationRouterID+value); err != nil {
			t.Fatal(err)
		}
	}
	knownAs := func(id string) {
		t.Helper()
		eventually(t, func(ctx context.Context) error {
			address := r.addressText(node)
			out, err := r.Vtysh(ctx, "show bgp neighbors "+address+" json")
			return errors.Join(err, jsonHas(out, []string{address + "/bgpState = Established", address + "/remoteRouterId = " + id}))
		})
	}
	t.Cleanup(func() { annotate(context.WithoutCancel(t.Context()), "-") })
	annotate(t.Context(), "=10.9.8.7")
	knownAs("10.9.8.7")
	// One that is none is told, and the node's own serves.
	annotate(t.Context(), "=none")
	knownAs(r.addressText(node))
	eventually(t, func(ctx context.Context) error {
		report, err := r.speaker(ctx, node)
		if err == nil && !strings.Contains(strings.Join(report.Messages, "\n"), v1alpha1.AnnotationRouterID) {
			err = fmt.Errorf("the speaker says %q, want a word on the annotation", report.Messages)
		}
		return err
	})
	annotate(t.Context(), "-")
	eventually(t, func(ctx context.Context) error {
		report, err := r.speaker(ctx, node)
		if err == nil && len(report.Messages) > 0 {
			err = fmt.Errorf("the speaker says %q still", report.Messages)
		}
		return err
	})
}

// testRoutersConnect has the speakers listen, as manifests/bgp-passive does, and the router connect to them: by its
// address, and by a prefix that holds it.
func testRoutersConnect(t *testing.T, r *rack) {
	peer := func(place string) string {
		return `
apiVersion: berth.dev/v1alpha1
kind: BGPPeer
metadata: {name: caller}
spec: {localASN: 64513, peerASN: 64512, ` + place + `}
---
apiVersion: berth.dev/v1alpha1
kind: BGPAdvertisement
metadata: {name: caller}
spec: {pools: [routed], peers: [caller]}
`
	}
	svc := r.serve(t, only(corev1.IPv6Protocol), pinned("2001:db8:100::99"))
	r.apply(t, peer(`address: "fd00:30::1", passive: true`))
	eventually(t, func(ctx context.Context) error {
		s, err := r.session(ctx, "n1", "caller")
		if err == nil && !strings.Contains(s.LastError, "--bgp-listen") {
			err = fmt.Errorf("without a listener the session says %+v", s)
		}
		return err
	})
	if _, err := r.Kubectl(t.Context(), "", "-n", stage.Namespace, "patch", "daemonset", "berth-speaker", "--type=json", "-p", `[
		{"op":"add","path":"/spec/template/spec/containers/0/args/-","value":"--bgp-listen=:179"},
		{"op":"add","path":"/spec/template/spec/containers/0/securityContext/capabilities/add/-","value":"NET_BIND_SERVICE"}]`); err != nil {
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
	if _, err := r.Kubectl(t.Context(), "", "delete", "bgppeer", "caller"); err != nil {
		t.Fatal(err)
	}
	r.routes(t, soleAddress(svc), r.Nodes()...) // by the other sessions
	if err := r.Apply(t.Context(), peer(`addressPrefix: "fd00:30::/120"`)); err != nil {
		t.Fatal(err)
	}
	connected()
	for _, node := range r.Nodes() {
		eventually(t, func(ctx context.Context) error {
			report, err := r.speaker(ctx, node)
			if err == nil && !slices.ContainsFunc(report.Sessions, func(s v1alpha1.SessionReport) bool {
				return s.Peer == "caller" && s.Address == "fd00:30::1" && s.State == "Established"
			}) {
				err = fmt.Errorf("the speaker of %s reports no session with the router by its address: %+v", node, report.Sessions)
			}
			return err
		})
	}
}
