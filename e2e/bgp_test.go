//go:build root

package e2e

import (
	"context"
	"errors"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"

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
