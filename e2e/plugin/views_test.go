//go:build root

package plugin

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/kubectl/view"
	"github.com/berth-lb/berth/kubectl/why"
)

// expose makes a Service of the application, and waits until a node answers for its address.
func expose(t *testing.T, name string) (address string) {
	t.Helper()
	if _, err := scene.Create(t.Context(), scene.Expose(web, name)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		services := scene.Kubernetes.CoreV1().Services(web.Namespace)
		if err := services.Delete(context.Background(), name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	eventually(t, func(context.Context) error {
		var rows []view.Service
		berthJSON(t, &rows, "services", "-n", web.Namespace)
		i := slices.IndexFunc(rows, func(r view.Service) bool { return r.Name == name })
		if i < 0 || len(rows[i].Owners) == 0 || rows[i].Reason != "" {
			return fmt.Errorf("services: %+v", rows)
		}
		address = rows[i].Addresses[0]
		return nil
	})
	return address
}

// The views show one thing in the same way, which is the way it is.
func TestViews(t *testing.T) {
	address := expose(t, "seen")
	var status view.Status
	if r := berthJSON(t, &status, "status", "--check"); r.code != 0 || len(status.Problems) > 0 {
		t.Errorf("status --check of a sound cluster: exit code %d, %+v", r.code, status.Problems)
	}
	if status.Speakers.Are != 2 || status.Sessions.Are != 2 || status.Services.Are == 0 {
		t.Errorf("status: %+v", status)
	}
	var holder view.Holder
	berthJSON(t, &holder, "pools", "--who", address)
	if !slices.Equal(holder.Services, []string{"plugin/seen"}) || holder.Pool != "rack" || len(holder.Owners) == 0 {
		t.Errorf("pools --who %s: %+v", address, holder)
	}
	var owners []view.Owner
	berthJSON(t, &owners, "l2", "owners", "--address", address)
	if len(owners) == 0 || owners[0].Node != holder.Owners[owners[0].Segment] ||
		!slices.Equal(owners[0].Services, holder.Services) {
		t.Errorf("l2 owners: %+v, pools --who: %+v", owners, holder)
	}
	node, err := scene.Owner(t.Context(), netip.MustParseAddr(address))
	if err != nil {
		t.Fatal(err)
	}
	if node != owners[0].Node {
		t.Errorf("for a client %s answers for %s, l2 owners says %s", node, address, owners[0].Node)
	}
	var segments []view.Segment
	berthJSON(t, &segments, "l2", "segments")
	if len(segments) != 2 || segments[0].Peers != 1 || segments[0].Problem != "" {
		t.Errorf("l2 segments: %+v", segments)
	}
	var sessions []view.Session
	berthJSON(t, &sessions, "bgp", "sessions", "--neighbor", "tor")
	if len(sessions) != 2 || sessions[0].State != "Established" {
		t.Errorf("bgp sessions: %+v", sessions)
	}
	var pools []view.Pool
	berthJSON(t, &pools, "pools", "rack")
	if len(pools) != 1 || pools[0].IPv4 == nil || pools[0].IPv4.Total != "51" ||
		!slices.Equal(pools[0].AnnouncedBy, []string{"SegmentAnnouncement rack"}) {
		t.Errorf("pools: %+v", pools)
	}
	var report why.Report
	if r := berthJSON(t, &report, "why", "seen", "-n", "plugin"); r.code != 0 || !report.Reachable {
		t.Errorf("why: exit code %d, %+v", r.code, report)
	}
	if r := berth(t, "why", "unseen", "-n", "plugin"); r.code != 2 ||
		!strings.Contains(r.err, "there is no Service unseen in namespace plugin") {
		t.Errorf("why of no Service: %+v", r)
	}
}

// What a user may not read is said, and nothing is concluded from it.
func TestWithoutRights(t *testing.T) {
	address := expose(t, "partly")
	bind(t, "viewer", "view")
	var report why.Report
	var r result
	eventually(t, func(context.Context) error { // roles are aggregated soon
		r = berthJSON(t, &report, "why", "partly", "-n", "plugin", "--as=viewer")
		if r.code != 0 {
			return fmt.Errorf("exit code %d: %s", r.code, r.err)
		}
		return nil
	})
	if r.code != 0 || !report.Reachable ||
		!strings.Contains(report.Verdict, "nothing that you could read keeps a client from "+address) {
		t.Errorf("exit code %d, verdict %q", r.code, report.Verdict)
	}
	if !strings.Contains(r.err, "ClusterRole berth-view has these rights") {
		t.Errorf("it says of the rights: %s", r.err)
	}
	bind(t, "reader", "berth-view")
	eventually(t, func(context.Context) error {
		if r := berth(t, "status", "--check", "--as=reader"); r.code != 0 || r.err != "" {
			return fmt.Errorf("with berth-view: exit code %d, %s%s", r.code, r.err, r.out)
		}
		return nil
	})
}

// bind gives the user a ClusterRole for the time of the test.
func bind(t *testing.T, user, role string) {
	t.Helper()
	name := "plugin-" + user
	give := kubectl("create", "clusterrolebinding", name, "--clusterrole="+role, "--user="+user)
	if err := give(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := kubectl("delete", "clusterrolebinding", name)(context.Background()); err != nil {
			t.Error(err)
		}
	})
}
