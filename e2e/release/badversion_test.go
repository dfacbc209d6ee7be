//go:build release

package release

import (
	"context"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/e2e/lab"
	"github.com/berth-lb/berth/e2e/stage"
)

// noNewSessions lets no BGP session come up, and leaves those alone that are.
const noNewSessions = `
table inet badversion {
	chain out { type filter hook output priority 0; tcp dport 179 ct state new drop; }
	chain in { type filter hook input priority 0; tcp dport 179 ct state new drop; }
}
`

// TestBadVersion rolls out speakers that crash, that cannot serve their segment, and that reach no
// router. Each time the rollout stops at the first node, no client notices, and `kubectl rollout
// undo` heals it.
func TestBadVersion(t *testing.T) {
	s := raise(t, lab.Options{Name: "relbad", Nodes: 3, Router: "frr"})
	file, err := stage.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	kubectl := func(args ...string) func(context.Context) error {
		return func(ctx context.Context) error { _, err := s.Kubectl(ctx, "", args...); return err }
	}
	app := stage.App{Namespace: "bad", Name: "web"}
	must(
		t, kubectl("apply", "-f", file), s.AwaitBerth, s.Configure,
		func(ctx context.Context) error { return s.AwaitSpeakers(ctx, true) },
		func(ctx context.Context) error { return s.Deploy(ctx, app) },
	)
	segment, behind := s.Expose(app, "segment"), s.Expose(app, "behind")
	behind.Annotations = map[string]string{v1alpha1.AnnotationPools: "routed"}
	for _, svc := range []**corev1.Service{&segment, &behind} {
		if *svc, err = s.Create(t.Context(), *svc); err != nil {
			t.Fatal(err)
		}
		eventually(t, func(ctx context.Context) error {
			_, err := s.AskHTTP(ctx, hostFor(*svc), addressOf(*svc))
			return err
		})
	}

	for _, c := range []struct {
		name  string
		patch string // of the container
		begin func(t *testing.T)
		end   func(t *testing.T)
	}{
		{
			name:  "it crashes",
			patch: `{"name": "speaker", "args": ["speaker", "--no-such-flag"]}`,
		},
		{
			name:  "it cannot serve its segment",
			patch: `{"name": "heart", "securityContext": {"capabilities": {"add": []}}}`,
		},
		{
			name:  "it reaches no router",
			patch: `{"name": "speaker", "args": ["speaker", "--verbose"]}`,
			begin: func(t *testing.T) { onNodes(t, s, noNewSessions) },
			end:   func(t *testing.T) { onNodes(t, s, "delete table inet badversion") },
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			must(
				t,
				func(ctx context.Context) error { return s.AwaitRoutes(ctx, patience, addressOf(behind), s.Nodes()...) },
			)
			probes := map[string]*stage.Probe{}
			for _, svc := range []*corev1.Service{segment, behind} {
				probes[svc.Name] = s.StartProbe(
					t.Context(),
					hostFor(svc),
					addressOf(svc),
					probeEvery,
					probeTimeout,
					false,
				)
			}
			if c.begin != nil {
				c.begin(t)
			}
			must(t, kubectl("-n", stage.Namespace, "patch", "daemonset", "berth-speaker", "-p",
				`{"spec":{"template":{"spec":{"containers":[`+c.patch+`]}}}}`))
			// Longer than a speaker waits for sessions that the process before did not have.
			_, err := s.Kubectl(
				t.Context(),
				"",
				"-n",
				stage.Namespace,
				"rollout",
				"status",
				"daemonset/berth-speaker",
				"--timeout=45s",
			)
			if err == nil {
				t.Error("the rollout went through")
			}
			set, err := s.Kubernetes.AppsV1().
				DaemonSets(stage.Namespace).
				Get(t.Context(), "berth-speaker", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if is := set.Status; is.UpdatedNumberScheduled != 1 || is.NumberAvailable != 2 || is.NumberReady != 2 {
				t.Errorf("%d speakers are replaced, %d are available and %d ready, want 1, 2 and 2",
					is.UpdatedNumberScheduled, is.NumberAvailable, is.NumberReady)
			}
			if c.end != nil {
				c.end(t)
			}
			must(
				t,
				kubectl("-n", stage.Namespace, "rollout", "undo", "daemonset/berth-speaker"),
				s.AwaitBerth,
				func(ctx context.Context) error { return s.AwaitSpeakers(ctx, true) },
				func(ctx context.Context) error { return s.AwaitRoutes(ctx, patience, addressOf(behind), s.Nodes()...) },
			)
			for name, probe := range probes {
				gap := probe.Stop()
				fmt.Printf("%s: %s: %s\n", c.name, name, gap)
				if gap.Failed > gap.Broken || gap.Asked == 0 {
					t.Errorf("%s: %+v", name, gap)
				}
			}
		})
	}
}

// onNodes has each node's nftables do what the script says.
func onNodes(t *testing.T, s *stage.Stage, script string) {
	t.Helper()
	for _, node := range s.Nodes() {
		cmd := s.Exec(t.Context(), node, "nft", "-f", "-")
		cmd.Stdin = strings.NewReader(script)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("nft on %s: %v: %s", node, err, out)
		}
	}
}
