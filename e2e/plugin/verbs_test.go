//go:build root

package plugin

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/kubectl/forecast"
	"github.com/berth-lb/berth/kubectl/view"
)

// done is what a verb says with -o json.
type done struct {
	Object, Text, Next, DryRun string
	Changed                    bool
	Foreseen                   *forecast.Report
}

// act runs a verb, and returns the one thing that it did.
func act(t *testing.T, args ...string) done {
	t.Helper()
	var all []done
	if r := berthJSON(t, &all, args...); r.code != 0 || len(all) != 1 {
		t.Fatalf("kubectl berth %v: %+v", args, r)
	}
	return all[0]
}

// refused runs a command that must fail, and say why.
func refused(t *testing.T, want string, args ...string) {
	t.Helper()
	if r := berth(t, args...); r.code != 2 || !strings.Contains(r.err, want) {
		t.Errorf("kubectl berth %v: %+v", args, r)
	}
}

// A drained node answers for nothing when drain returns, and undo brings it back.
func TestDrain(t *testing.T) {
	address := netip.MustParseAddr(expose(t, "moved"))
	before, err := scene.Owner(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := kubectl("label", "node", before, v1alpha1.ExcludeLabel+"-")(context.Background()); err != nil {
			t.Error(err)
		}
	})
	dry := act(t, "drain", before, "--dry-run=server")
	if !dry.Changed || dry.DryRun != "server" || dry.Foreseen == nil {
		t.Fatalf("dry run: %+v", dry)
	}
	refused(t, "you have no right to get nodes", "drain", before, "--as=nobody")
	const drained = "it answers for nothing, and announces nothing"
	if d := act(t, "drain", before, "--wait"); !d.Changed || !strings.HasSuffix(d.Text, drained) {
		t.Errorf("drain: %+v", d)
	}
	after, err := scene.Owner(t.Context(), address)
	if err != nil || after == before {
		t.Errorf("%s is answered for by %s, which was drained (%v)", address, after, err)
	}
	if !slices.ContainsFunc(dry.Foreseen.Owners, func(o forecast.Owner) bool {
		return o.Address == address.String() && o.Before == before && o.After == after
	}) {
		t.Errorf("%s went from %s to %s; the dry run said %+v", address, before, after, dry.Foreseen.Owners)
	}
	if d := act(t, "drain", before); d.Changed {
		t.Errorf("drained twice: %+v", d)
	}
	d := act(t, "drain", before, "--undo", "--wait")
	if !d.Changed || !strings.HasSuffix(d.Text, "its speaker announces") {
		t.Errorf("undo: %+v", d)
	}
	node, err := scene.Kubernetes.CoreV1().Nodes().Get(t.Context(), before, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, labeled := node.Labels[v1alpha1.ExcludeLabel]; labeled || node.Annotations["berth.dev/drained"] != "" {
		t.Errorf("after undo: labels %v, annotations %v", node.Labels, node.Annotations)
	}
	if d := act(t, "rebalance", "rack"); !d.Changed || d.Object != "segmentannouncement/rack" {
		t.Errorf("rebalance: %+v", d)
	}
	refused(t, "there is no SegmentAnnouncement none; there is rack\n", "rebalance", "none")
}

// A label that somebody else set stays.
func TestDrainLeavesTheLabelsOfOthers(t *testing.T) {
	if err := kubectl("label", "node", "n2", v1alpha1.ExcludeLabel+"=")(t.Context()); err != nil {
		t.Fatal(err)
	}
	r := berth(t, "drain", "n2", "--undo")
	if err := kubectl("label", "node", "n2", v1alpha1.ExcludeLabel+"-")(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r.code != 2 || !strings.Contains(r.err, "drain did not set its label") {
		t.Errorf("undo: %+v", r)
	}
	eventually(t, func(ctx context.Context) error { return scene.AwaitSpeakers(ctx, true) })
}

// What the plugin says that the router is to have is what the router has.
func TestRoutes(t *testing.T) {
	svc := scene.Expose(web, "far")
	metav1.SetMetaDataAnnotation(&svc.ObjectMeta, v1alpha1.AnnotationAddresses, "198.51.100.7")
	single := corev1.IPFamilyPolicySingleStack
	svc.Spec.IPFamilyPolicy, svc.Spec.IPFamilies = &single, []corev1.IPFamily{corev1.IPv4Protocol}
	if _, err := scene.Create(t.Context(), svc); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		services := scene.Kubernetes.CoreV1().Services(web.Namespace)
		if err := services.Delete(context.Background(), "far", metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	if err := scene.AwaitRoutes(t.Context(), patience, netip.MustParseAddr("198.51.100.7"), "n1", "n2"); err != nil {
		t.Fatal(err)
	}
	var rows []view.Route
	berthJSON(t, &rows, "bgp", "routes", "--neighbor", "tor")
	if len(rows) != 2 || rows[0].Prefix != "198.51.100.7/32" || rows[0].Node != "n1" || rows[0].Obstacle != "" ||
		!slices.Equal(rows[1].Services, []string{"plugin/far"}) {
		t.Errorf("bgp routes: %+v", rows)
	}
	file := filepath.Join(t.TempDir(), "table")
	for _, command := range []string{
		"show bgp ipv4 unicast json", "show bgp ipv4 unicast", "show bgp ipv4 unicast json detail",
	} {
		table, err := scene.Vtysh(t.Context(), command)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(table), 0o600); err != nil {
			t.Fatal(err)
		}
		var found view.Compared
		r := berthJSON(t, &found, "bgp", "routes", "--from-router", file)
		if r.code != 0 || found.Wanted != 2 || len(found.Differences) > 0 {
			t.Errorf("%s: exit code %d, %+v of\n%s", command, r.code, found, table)
		}
		without := strings.ReplaceAll(table, "172.30.0.11", "172.30.0.99")
		if err := os.WriteFile(file, []byte(without), 0o600); err != nil {
			t.Fatal(err)
		}
		r = berthJSON(t, &found, "bgp", "routes", "--from-router", file)
		if r.code != 1 || len(found.Differences) != 1 || found.Differences[0].Kind != view.OtherNextHop {
			t.Errorf("%s, changed: exit code %d, %+v", command, r.code, found)
		}
		longer := strings.Replace(table, `"string":"64513"`, `"string":"64513 64513"`, 1)
		if longer == table {
			continue // it shows no AS path in detail
		}
		if err := os.WriteFile(file, []byte(longer), 0o600); err != nil {
			t.Fatal(err)
		}
		r = berthJSON(t, &found, "bgp", "routes", "--from-router", file)
		if r.code != 1 || len(found.Differences) != 1 || found.Differences[0].Kind != view.OtherAttributes {
			t.Errorf("%s, with a longer path: exit code %d, %+v", command, r.code, found)
		}
	}
	if err := os.WriteFile(file, []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	refused(t, "it is no table that is known", "bgp", "routes", "--from-router", file)
}

// An address that a Service has is kept for it, and what the controller would refuse is refused.
func TestReserve(t *testing.T) {
	address := expose(t, "keeper")
	if d := act(t, "reserve", address, "--for", "keeper", "-n", web.Namespace); !d.Changed {
		t.Errorf("reserve: %+v", d)
	}
	t.Cleanup(func() {
		reservations := scene.Berth.AddressReservations(web.Namespace)
		if err := reservations.Delete(context.Background(), "keeper", metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	eventually(t, func(ctx context.Context) error {
		r, err := scene.Berth.AddressReservations(web.Namespace).Get(ctx, "keeper", metav1.GetOptions{})
		if err != nil || len(r.Status.Addresses) != 1 || r.Status.Addresses[0].Address != address {
			return fmt.Errorf("reservation: %+v, %w", r, err)
		}
		return nil
	})
	if d := act(t, "reserve", address, "--for", "keeper", "-n", web.Namespace); d.Changed {
		t.Errorf("reserved twice: %+v", d)
	}
	for address, want := range map[string]string{
		"203.0.113.9": "is in no LoadBalancerPool",
		"172.30.0.11": "is in no LoadBalancerPool",
		"nonsense":    "is not an address",
	} {
		refused(t, want, "reserve", address, "-n", web.Namespace)
	}
	const inPool = "is in LoadBalancerPool rack, and is not released"
	refused(t, inPool, "release", "keeper", address, "-n", web.Namespace)
	if d := act(t, "release", "keeper", "--all", "-n", web.Namespace); d.Changed {
		t.Errorf("release --all of what is in a pool: %+v", d)
	}
}

// When rotate-key returns, every speaker has another key, and no other.
func TestRotateKey(t *testing.T) {
	keys := func() (all []string) {
		list, err := scene.Berth.Speakers.List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for i := range list.Items {
			all = append(all, list.Items[i].Status.AcceptedKeys...)
		}
		slices.Sort(all)
		return slices.Compact(all)
	}
	before := keys()
	if d := act(t, "rotate-key", "--wait"); !d.Changed || d.Next != "" {
		t.Errorf("rotate-key: %+v", d)
	}
	if after := keys(); len(after) != 1 || slices.Contains(before, after[0]) {
		t.Errorf("keys were %v, and are %v", before, after)
	}
}

func TestCompletion(t *testing.T) {
	const program = "#!/bin/sh\nexec kubectl-berth __complete \"$@\"\n"
	if r := berth(t, "completion", "kubectl"); r.code != 0 || r.out != program {
		t.Errorf("completion kubectl: %+v", r)
	}
	if r := berth(t, "__complete", "drain", ""); r.code != 0 || !strings.HasPrefix(r.out, "n1\nn2\n") {
		t.Errorf("nodes: %+v", r)
	}
	if r := berth(t, "__complete", "drain", "n1", ""); r.code != 0 || !strings.HasPrefix(r.out, ":4\n") {
		t.Errorf("nothing after a node: %+v", r)
	}
	if r := berth(t, "__complete", "pools", ""); r.code != 0 || !strings.Contains("\n"+r.out, "\nrack\n") {
		t.Errorf("of pools: %+v", r)
	}
	if r := berth(t, "__complete", "why", "-n", "default", ""); r.code != 0 || !strings.HasPrefix(r.out, ":4\n") {
		t.Errorf("of Services in default, none of type LoadBalancer: %+v", r)
	}
	if r := berth(t, "__complete", "rebalance", ""); !strings.HasPrefix(r.out, "rack\n") {
		t.Errorf("announcements: %+v", r)
	}
}
