package steps

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
)

// run does one action of the next step, or of the one to undo, and reports whether there is none.
func (w *world) run(t *testing.T, back bool, actions int) (over bool) {
	t.Helper()
	s, err := w.last, error(nil)
	if s == nil {
		s, err = w.read(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	all, err := Plan(s)
	if err != nil {
		t.Fatal(err)
	}
	step, found := Next(all)
	if back {
		step, found = Back(all)
	}
	if !found {
		return true
	}
	var said []string
	read := func(ctx context.Context) (*Snapshot, error) {
		if known := s; known != nil { // nothing has changed since
			s = nil
			return known, nil
		}
		read, err := w.read(ctx)
		if w.lag == 0 {
			w.last = read
		}
		return read, err
	}
	r := &Runner{
		Read: read, Act: w.act, Poll: time.Second, Timeout: time.Minute, Actions: actions,
		Say: func(text string) { said = append(said, text) },
	}
	if err := r.Run(t.Context(), step.Name, back); err != nil && !errors.Is(err, ErrStopped) {
		t.Fatalf("%s, back %t: %v\n%s", step.Name, back, err, strings.Join(said, "\n"))
	}
	return false
}

func (w *world) walk(t *testing.T, back bool, actions int) {
	t.Helper()
	for range 200 {
		if w.run(t, back, actions) {
			return
		}
	}
	t.Fatal("it does not come to an end")
}

// There and back, interrupted after each action, one node announces each address all the time, and
// all is as it was.
func TestThereAndBack(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ actions, lag int }{{1, 0}, {0, 0}, {0, 4}, {1, 2}} {
		synctest.Test(t, func(t *testing.T) {
			actions, w := test.actions, newWorld(t)
			w.lag = test.lag
			w.walk(t, false, actions)
			for name := range w.objects {
				for _, left := range []string{
					"servicel2statuses/", "pods/metallb-system/speaker", "l2advertisements/metallb-system/rack-at",
				} {
					if strings.HasPrefix(name, left) {
						t.Errorf("MetalLB has %s when all is done", name)
					}
				}
			}
			for _, svc := range of[corev1.Service](w, "services") {
				if node, labeled := svc.Labels[ServiceNodeLabel]; labeled {
					t.Errorf("Service %s has the label of node %s when all is done", svc.Name, node)
				}
			}
			w.walk(t, true, actions)
			if diff := cmp.Diff(w.started, w.copy()); diff != "" {
				t.Errorf("it is not as it was (-before +after):\n%s", diff)
			}
			if len(w.restarted) > 0 {
				t.Errorf("the DaemonSet restarted MetalLB's speakers on %v", w.restarted)
			}
		})
	}
}

// Who turns round at any moment gets where he wants to.
func TestTurnsRound(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for range 4 {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			for range 12 {
				back := random.IntN(3) == 0
				for range 1 + random.IntN(12) {
					w.run(t, back, 1)
				}
			}
			w.walk(t, random.IntN(2) == 0, 1)
			w.walk(t, true, 1)
			if diff := cmp.Diff(w.started, w.copy()); diff != "" {
				t.Errorf("it is not as it was (-before +after):\n%s", diff)
			}
		})
	}
}

func TestSessionsIn(t *testing.T) {
	const log = `{"event":"sessionUp","peer":"192.0.2.1"}
not JSON
{"event":"sessionUp","peer":"192.0.2.2"}
{"event":"sessionDown","peer":"192.0.2.1"}
{"event":"sessionUp","peer":"192.0.2.1"}
{"event":"sessionDown","peer":"192.0.2.2"}
`
	want := map[string]bool{"192.0.2.1": true, "192.0.2.2": false}
	if diff := cmp.Diff(want, sessionsIn(strings.NewReader(log))); diff != "" {
		t.Errorf("sessions (-want +got):\n%s", diff)
	}
}

func TestCommand(t *testing.T) {
	w := newWorld(t)
	s, err := w.read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	all, err := Plan(s)
	if err != nil {
		t.Fatal(err)
	}
	commands := map[string]string{}
	for _, step := range all {
		for _, p := range step.Do {
			for _, a := range p.Actions {
				commands[step.Name] += a.Command() + "\n"
			}
		}
	}
	text, _ := json.Marshal(commands)
	for _, want := range []string{
		`kubectl patch nodes/n1 --type=merge -p '{\"metadata\":{\"labels\":{\"berth.dev/bgp-by\":\"berth\"}}}'`,
		`kubectl apply --server-side --field-manager=kubectl-berth -f - \u003c\u003c'EOF'\napiVersion: berth.dev/v1alpha1\nkind: SegmentAnnouncement`,
		`kubectl -n berth-system create secret generic tor --type=kubernetes.io/basic-auth --from-literal=password=\"${PASSWORD:?`,
		`kubectl -n shop patch services/segment-0 --type=merge -p '{\"metadata\":{\"labels\":{\"berth.dev/metallb-node\":\"`,
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the commands lack %s:\n%s", want, text)
		}
	}
	for _, password := range []string{"c2VjcmV0"} {
		if strings.Contains(string(text), password) {
			t.Errorf("the commands have the password of a BGP session:\n%s", text)
		}
	}
}

func TestPlanRefuses(t *testing.T) {
	for name, change := range map[string]func(*Snapshot){
		"there is no MetalLB":                func(s *Snapshot) { s.DaemonSets = nil },
		"this cluster has no Berth":          func(s *Snapshot) { s.Uninstalled = true },
		"MetalLB speaks BGP in mode frr-k8s": frrMode,
		"write --berth-namespace=lb": func(s *Snapshot) {
			s.Deployments[slices.Index(s.Deployments, s.berthDeployment())].Namespace = "lb"
		},
	} {
		w := newWorld(t)
		s, err := w.read(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		change(s)
		if _, err := Plan(s); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("error %v, want %q", err, name)
		}
	}
}

func frrMode(s *Snapshot) {
	c := &s.daemonSet().Spec.Template.Spec.Containers[0]
	c.Env = []corev1.EnvVar{{Name: "METALLB_BGP_TYPE", Value: "frr-k8s"}}
}
