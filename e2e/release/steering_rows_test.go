//go:build release

package release

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/e2e/lab"
	"github.com/berth-lb/berth/e2e/stage"
)

const (
	cutFor  = 4 * time.Second // so long a fault lasts: far longer than to notice it
	settles = 2 * time.Second // a node that joins waits 1.5 s
	// failAtMost is how long new connections may fail, on a machine that is very busy. Kubernetes
	// would need 6 s to find out about a node.
	failAtMost = 2 * time.Second
)

// steeringRow is something that happens to the rack, and goes by.
type steeringRow struct {
	name string // of its figures
	does string
	// gone are nodes whose own connections may break, or as in "udp n3" those by a network.
	gone []string
	// dies: a node with Pods does, and new connections fail until that is noticed.
	dies bool
	// controls: connections without second chance must break.
	controls bool
	// slow: Pods are, so that new connections may fail.
	slow bool
	// front is the only one by which new connections count; empty: all do.
	front  string
	before func(t *testing.T) // what is not part of it; nil: nothing
	begin  func(t *testing.T)
	end    func(t *testing.T) // nil: it goes by by itself
}

func (r *steeringRack) rows() []steeringRow {
	return slices.Concat(r.deathRows(), r.endpointRows(), r.alarmRows())
}

func (r *steeringRack) deathRows() []steeringRow {
	cut := func(nodes ...string) func(*testing.T) {
		return func(t *testing.T) {
			for _, node := range nodes {
				must(t, func(context.Context) error { return r.Cut(node) })
			}
			lasts(t, cutFor)
		}
	}
	heal := func(nodes ...string) func(*testing.T) {
		return func(t *testing.T) {
			for _, node := range nodes {
				must(t, func(context.Context) error { return r.Heal(node) })
			}
			r.whole(t)
		}
	}
	return []steeringRow{
		{name: "owner_dies", does: "the owner dies, which has no Pod", begin: cut("n1"), end: heal("n1")},
		{
			name: "pods_node_dies", does: "a node with Pods dies", gone: []string{"n3"}, dies: true, controls: true,
			begin: cut("n3"), end: heal("n3"),
		},
		{
			name: "two_die", does: "the owner and a node with Pods die at once", gone: []string{"n2"}, dies: true,
			controls: true, begin: cut("n1", "n2"), end: heal("n1", "n2"),
		},
		{
			name: "node_killed", does: "a node with Pods is killed, and boots again", gone: []string{"n3"}, dies: true,
			controls: true,
			begin: func(t *testing.T) {
				must(t, func(ctx context.Context) error { return r.Kill(ctx, "n3") })
				lasts(t, cutFor)
			},
			end: func(t *testing.T) {
				must(t, func(ctx context.Context) error { return r.Start(ctx, "n3") })
				r.whole(t)
			},
		},
		{
			name: "deaf_node", does: "a node with Pods dies while another one with Pods hears nothing", gone: []string{"n2"},
			dies: true, controls: true,
			begin: func(t *testing.T) {
				must(t, func(ctx context.Context) error { return r.Pause(ctx, "heart@n3") })
				lasts(t, time.Second)
				cut("n2")(t)
			},
			end: func(t *testing.T) { // it is not heard by n2 that comes back, and has its connections
				must(t, func(context.Context) error { return r.Heal("n2") })
				lasts(t, cutFor)
				must(t, func(ctx context.Context) error { return r.Resume(ctx, "heart@n3") })
				r.whole(t)
			},
		},
		{
			// Without hellos on the segment it is the API that tells who answers there: that is
			// another test.
			name: "no_segment", does: "a node with Pods dies, and no node ever heard another on a segment",
			gone: []string{"n2"}, dies: true, controls: true, front: "routed",
			before: func(t *testing.T) {
				must(t, func(ctx context.Context) error { return r.FilterEtherType(ctx, etherType) })
				lasts(t, settles)
				for _, node := range r.Nodes() { // those that begin now have heard nobody
					must(t, func(ctx context.Context) error {
						return errors.Join(r.Kill(ctx, "heart@"+node), r.Kill(ctx, "speaker@"+node))
					})
				}
				eventually(t, r.AwaitBerth)
				lasts(t, 5*settles) // they look who is to watch them
			},
			begin: cut("n2"),
			end: func(t *testing.T) {
				must(t, r.PassAll)
				heal("n2")(t)
			},
		},
		{
			name: "ecmp", does: "the router loses two of four nodes, and regains them",
			begin: func(t *testing.T) { r.uses(t, "n3", "n4") }, end: func(t *testing.T) { r.uses(t, r.Nodes()...) },
		},
		r.birdRow(),
	}
}

func (r *steeringRack) endpointRows() []steeringRow {
	without := func(t *testing.T, node string, does func(*testing.T)) {
		t.Helper()
		must(t, func(ctx context.Context) error { return r.LoseAPI(ctx, node, lab.APILoss{Pods: true}) })
		does(t)
		must(t, func(ctx context.Context) error { return r.RegainAPI(ctx, node) })
		lasts(t, settles)
	}
	joins, leaves := func(t *testing.T) { r.joins(t, "n4") }, func(t *testing.T) { r.leaves(t, "n4") }
	return []steeringRow{
		{
			name: "join_drain", does: "an endpoint joins on a new node, drains and leaves", gone: []string{"n4"},
			controls: true, begin: joins, end: leaves,
		},
		{
			// For longer than 35 s: tables are looked through each 20 s, and a node stays for 15. kube-proxy
			// itself forgets UDP flows of Pods that are unready.
			name: "unready", does: "the Pods of a node become unready, and are ready again",
			gone: []string{"udp n3"}, controls: true,
			begin: func(t *testing.T) {
				r.turn(t, "n3", "/unready")
				lasts(t, (unreadyAfter+40)*time.Second)
			},
			end: func(t *testing.T) {
				r.turn(t, "n3", "/ready")
				r.serve(t, "n3")
				lasts(t, settles)
			},
		},
		{
			name: "join_owner_dies", does: "an endpoint joins on a new node as the owner dies", gone: []string{"n4"},
			controls: true,
			begin: func(t *testing.T) {
				must(t, func(context.Context) error { return r.Cut("n1") })
				r.joins(t, "n4")
			},
			end: func(t *testing.T) {
				must(t, func(context.Context) error { return r.Heal("n1") })
				r.leaves(t, "n4")
				r.whole(t)
			},
		},
		{
			name: "late_owner", does: "the owner hears late that an endpoint joined, and that it left",
			gone: []string{"n4"}, controls: true,
			begin: func(t *testing.T) { without(t, "n1", joins) }, end: func(t *testing.T) { without(t, "n1", leaves) },
		},
		{
			name: "late_target", does: "a node with Pods hears late that an endpoint joined, and that it left",
			gone: []string{"n4"}, controls: true,
			begin: func(t *testing.T) { without(t, "n2", joins) }, end: func(t *testing.T) { without(t, "n2", leaves) },
		},
	}
}

func (r *steeringRack) alarmRows() []steeringRow {
	freeze := func(node string) func(*testing.T) {
		return func(t *testing.T) {
			must(t, func(ctx context.Context) error { return r.Pause(ctx, "heart@"+node) })
			lasts(t, 2*time.Second)
		}
	}
	wake := func(node string) func(*testing.T) {
		return func(t *testing.T) {
			must(t, func(ctx context.Context) error { return r.Resume(ctx, "heart@"+node) })
			r.whole(t)
		}
	}
	return []steeringRow{
		{
			name: "false_alarm_target", does: "what sends the hellos of a node with Pods freezes", begin: freeze("n2"),
			end: wake("n2"),
		},
		{
			name: "false_alarm_owner", does: "what sends the hellos of the owner freezes", begin: freeze("n1"),
			end: wake("n1"),
		},
		{
			name: "starved", does: "a node with Pods has no processor left", slow: true,
			begin: func(t *testing.T) {
				end := starve(t, r.Stage, "n2")
				lasts(t, 8*time.Second)
				end()
			},
			end: r.whole,
		},
		{
			name: "rolling_restart", does: "all speakers are replaced",
			begin: func(t *testing.T) {
				must(t, func(ctx context.Context) error {
					_, err := r.Kubectl(
						ctx, "", "-n", stage.Namespace, "rollout", "restart", "daemonset/berth-speaker",
					)
					return err
				}, r.AwaitBerth)
			},
			end: r.whole,
		},
	}
}

// try has a row happen, and judges. Connections that begin before it goes by must live on, too.
func (r *steeringRack) try(t *testing.T, row steeringRow) {
	r.newcomers.count(row.front)
	if row.before != nil {
		row.before(t)
	}
	r.held.renewControls(t)
	begun := time.Now()
	row.begin(t)
	saw := r.newcomers.since(begun)
	if row.dies {
		r.deaths = append(r.deaths, saw)
	}
	broke := r.held.judge(t, row.gone...)
	if row.end != nil {
		r.held.renew(t, row.gone...)
		begun = time.Now()
		row.end(t)
		r.moveBack(t)
		saw = saw.add(r.newcomers.since(begun))
		broke = broke.add(r.held.judge(t, row.gone...))
	}
	r.held.renew(t, row.gone...)
	report(row.name, broke, saw)
	broken, controls := broke.total()
	if broken > 0 {
		t.Errorf("connections broke: %s", broke)
	}
	if row.controls && controls == 0 {
		t.Errorf("no connection without second chance broke, so this shows nothing: %s", broke)
	}
	if longest := max(saw.longest["tcp"], saw.longest["udp"]); saw.tried == 0 || longest > failAtMost && !row.slow {
		t.Errorf("new connections failed for %s, such as: %v", saw, saw.first)
	}
}

func report(row string, broke breakage, saw arrivals) {
	broken, _ := broke.total()
	fmt.Printf("steering/%s_broken %d (%s)\n", row, broken, broke)
	longest := max(saw.longest["tcp"], saw.longest["udp"])
	fmt.Printf("steering/%s_new_failed_for %.2f s (%s)\n", row, longest.Seconds(), saw)
}

// whole waits until Berth runs on all nodes, one of them owns the addresses on the segment, the
// router uses all, and those with Pods get new connections.
func (r *steeringRack) whole(t *testing.T) {
	t.Helper()
	eventually(t, r.AwaitBerth)
	r.owned(t, []front{r.segment, r.control, r.cluster}, r.Nodes()...)
	must(t, func(ctx context.Context) error {
		return r.AwaitRoutes(ctx, patience, r.routed.address, r.Nodes()...)
	})
	r.serve(t, "n2", "n3")
	lasts(t, settles)
}

// serve waits until new connections get to each of some nodes, from the segment and by the router.
func (r *steeringRack) serve(t *testing.T, nodes ...string) {
	t.Helper()
	for _, f := range []front{r.segment, r.routed, r.cluster} {
		missing := map[string]bool{}
		for _, node := range nodes {
			missing[node] = true
		}
		eventually(t, func(ctx context.Context) error {
			answer, err := r.AskLine(ctx, f.host, "tcp", f.address)
			delete(missing, answer.Node)
			if err == nil && len(missing) > 0 {
				err = fmt.Errorf("no new connection by %s gets to %v", f.name, missing)
			}
			return err
		})
	}
}

// uses has the router exchange routes with these nodes only.
func (r *steeringRack) uses(t *testing.T, nodes ...string) {
	t.Helper()
	var lines []string
	for _, node := range r.Nodes() {
		addresses, err := r.Lab.Addresses(node)
		if err != nil {
			t.Fatal(err)
		}
		line := fmt.Sprintf("neighbor %s shutdown", addresses[0])
		if slices.Contains(nodes, node) {
			line = "no " + line
		}
		lines = append(lines, line)
	}
	must(t, func(ctx context.Context) error { return r.ConfigureRouter(ctx, lines...) },
		func(ctx context.Context) error { return r.AwaitRoutes(ctx, patience, r.routed.address, nodes...) })
	lasts(t, settles)
}

// joins runs a Pod on a node without one, and waits until it has connections.
func (r *steeringRack) joins(t *testing.T, node string) {
	t.Helper()
	r.scale(t, node, 1)
	r.serve(t, node)
	lasts(t, settles)
}

// turn has the Pods of a node say that they are ready, or not.
func (r *steeringRack) turn(t *testing.T, node, path string) {
	t.Helper()
	must(t, func(ctx context.Context) error {
		pods, err := r.Kubernetes.CoreV1().Pods(steeredNamespace).List(
			ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + node},
		)
		if err != nil {
			return err
		}
		for _, pod := range pods.Items {
			response, err := r.HTTPClient(node).Post("http://"+net.JoinHostPort(pod.Status.PodIP, "8080")+path, "", nil)
			if err != nil {
				return fmt.Errorf("turn Pod %s: %w", pod.Name, err)
			}
			if err := response.Body.Close(); err != nil || response.StatusCode != http.StatusOK {
				return errors.Join(fmt.Errorf("turn Pod %s: %s", pod.Name, response.Status), err)
			}
		}
		return nil
	})
}

// leaves ends the Pod that joins ran, and waits until it is gone.
func (r *steeringRack) leaves(t *testing.T, node string) {
	t.Helper()
	r.scale(t, node, 0)
	eventually(t, func(ctx context.Context) error {
		left, err := r.Kubectl(ctx, "", "-n", steeredNamespace, "get", "pods", "-l", "app="+guest(node), "-o", "name")
		if err == nil && strings.TrimSpace(left) != "" {
			err = errors.New("there still is " + left)
		}
		return err
	})
	lasts(t, settles)
}

// guest is the application of a Pod that joins a node.
func guest(node string) string { return "guest-" + node }

func (r *steeringRack) scale(t *testing.T, node string, pods int) {
	t.Helper()
	must(t, func(ctx context.Context) error {
		_, err := r.Kubectl(
			ctx, "", "-n", steeredNamespace, "scale", "deployment/"+guest(node), fmt.Sprintf("--replicas=%d", pods),
		)
		return err
	})
}
