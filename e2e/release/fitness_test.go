//go:build release

package release

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/e2e/lab"
	"github.com/berth-lb/berth/e2e/stage"
)

// TestProxiesUnhealthy has kube-proxy on one node, and then on all, say that it is unhealthy, as a
// Service that it cannot write rules for makes all of them do. Its rules of before go on
// forwarding. The router prefers the other nodes, and keeps all when there is no other. No client
// notices.
func TestProxiesUnhealthy(t *testing.T) {
	s := raise(t, lab.Options{Name: "relfit", Nodes: 3, Router: "frr"})
	const at = "127.0.0.1:10299"
	unhealthy := map[string]*atomic.Bool{}
	for _, node := range s.Nodes() {
		unhealthy[node] = &atomic.Bool{}
		answerHealth(t, s, node, at, unhealthy[node])
	}
	must(t, s.Install)
	const args = "/spec/template/spec/containers/0/args/-"
	const ask = `[{"op": "add", "path": "` + args + `", "value": "--kube-proxy-healthz=http://` + at + `/healthz"}]`
	_, err := s.Kubectl(
		t.Context(), "", "-n", stage.Namespace, "patch", "daemonset", "berth-speaker", "--type=json", "-p", ask,
	)
	if err != nil {
		t.Fatal(err)
	}
	app := stage.App{Namespace: "fit", Name: "web"}
	must(
		t, s.AwaitBerth, s.Configure,
		func(ctx context.Context) error { return s.AwaitSpeakers(ctx, true) },
		func(ctx context.Context) error { return s.Deploy(ctx, app) },
	)
	segment, behind := s.Expose(app, "segment"), s.Expose(app, "behind")
	behind.Annotations = map[string]string{v1alpha1.AnnotationPools: "routed"}
	for _, svc := range []**corev1.Service{&segment, &behind} {
		if *svc, err = s.Create(t.Context(), *svc); err != nil {
			t.Fatal(err)
		}
	}
	must(t, func(ctx context.Context) error { return s.AwaitRoutes(ctx, patience, addressOf(behind), s.Nodes()...) })
	probes := map[string]*stage.Probe{}
	for _, svc := range []*corev1.Service{segment, behind} {
		eventually(t, func(ctx context.Context) error {
			_, err := s.AskHTTP(ctx, hostFor(svc), addressOf(svc))
			return err
		})
		probes[svc.Name] = s.StartProbe(t.Context(), hostFor(svc), addressOf(svc), probeEvery, probeTimeout, false)
	}

	is := func(state v1alpha1.SpeakerState, nodes ...string) {
		t.Helper()
		eventually(t, func(ctx context.Context) error {
			var wrong []error
			for _, node := range nodes {
				speaker, err := s.Berth.Speakers.Get(ctx, node, metav1.GetOptions{})
				if err != nil {
					return err
				}
				if got, message := speaker.Status.State(); got != state {
					wrong = append(wrong, fmt.Errorf("the speaker of %s is %s: %s", node, got, message))
				}
			}
			return errors.Join(wrong...)
		})
	}
	routes := func(nodes ...string) {
		t.Helper()
		must(t, func(ctx context.Context) error { return s.AwaitRoutes(ctx, patience, addressOf(behind), nodes...) })
		<-time.After(4 * time.Second) // longer than --drain-time
		must(t, func(ctx context.Context) error { return s.AwaitRoutes(ctx, patience, addressOf(behind), nodes...) })
	}
	unhealthy["n1"].Store(true)
	is(v1alpha1.SpeakerLeaving, "n1")
	routes("n2", "n3")
	unhealthy["n2"].Store(true)
	unhealthy["n3"].Store(true)
	is(v1alpha1.SpeakerLeaving, s.Nodes()...)
	routes("n1", "n2", "n3")
	if _, err := s.AwaitOwner(t.Context(), patience, addressOf(segment)); err != nil {
		t.Error(err)
	}
	unhealthy["n3"].Store(false)
	is(v1alpha1.SpeakerAnnouncing, "n3")
	routes("n3")
	unhealthy["n1"].Store(false)
	unhealthy["n2"].Store(false)
	is(v1alpha1.SpeakerAnnouncing, s.Nodes()...)
	routes("n1", "n2", "n3")
	for name, probe := range probes {
		gap := probe.Stop()
		fmt.Printf("%s: %d of %d requests failed, %d reset; longest gap %s\n", name, gap.Failed, gap.Asked, gap.Broken, gap.Longest)
		if gap.Failed > gap.Broken || gap.Asked == 0 {
			t.Errorf("%s: %+v", name, gap)
		}
	}
}

// answerHealth answers on a node in kube-proxy's place: 503 while it is unhealthy.
func answerHealth(t *testing.T, s *stage.Stage, node, at string, unhealthy *atomic.Bool) {
	t.Helper()
	var listener net.Listener
	err := s.In(node, func() (err error) {
		listener, err = (&net.ListenConfig{}).Listen(t.Context(), "tcp", at)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{ReadTimeout: patience, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if unhealthy.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})}
	go func() { _ = server.Serve(listener) }() // until it is closed
	t.Cleanup(func() { server.Close() })
}
