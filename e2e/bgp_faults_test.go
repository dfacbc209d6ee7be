//go:build root

package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/e2e/lab"
	"github.com/berth-lb/berth/e2e/stage"
)

// spineNeighbor makes BIRD a second router of all nodes. The same pool is announced to both.
const spineNeighbor = `
apiVersion: berth.dev/v1alpha1
kind: BGPNeighbor
metadata: {name: spine}
spec: {localASN: 64513, remoteASN: 64514, address: 172.30.0.3, nodeSelector: {}}
---
apiVersion: berth.dev/v1alpha1
kind: RouteAnnouncement
metadata: {name: spine}
spec: {poolNames: [routed], neighborNames: [spine], nodeSelector: {}, serviceSelector: {}}
`

// onSpine waits until BIRD has routes to the address by exactly these nodes.
func (r *rack) onSpine(t *testing.T, address netip.Addr, nodes ...string) {
	t.Helper()
	var want []string
	for _, node := range r.Nodes() {
		line := "BGP.next_hop: " + r.addressText(node)
		if !strings.Contains(strings.Join(nodes, " "), node) {
			line = "!" + line
		}
		want = append(want, line)
	}
	eventually(t, func(ctx context.Context) error {
		out, err := r.Birdc(ctx, fmt.Sprintf("show route all for %s/%d", address, address.BitLen()))
		return errors.Join(err, textHas(out, want))
	})
}

// session returns what a node's speaker reports of its session with a neighbor.
func (r *rack) session(ctx context.Context, node, neighbor string) (v1alpha1.SessionReport, error) {
	report, err := r.speaker(ctx, node)
	if err != nil {
		return v1alpha1.SessionReport{}, err
	}
	for _, s := range report.Sessions {
		if s.NeighborName == neighbor {
			return s, nil
		}
	}
	return v1alpha1.SessionReport{}, fmt.Errorf("the speaker of %s reports no session with %s", node, neighbor)
}

// awaitSession waits until the session is up or not, and returns the report.
func (r *rack) awaitSession(t *testing.T, node, neighbor string, up bool) v1alpha1.SessionReport {
	t.Helper()
	var found v1alpha1.SessionReport
	eventually(t, func(ctx context.Context) error {
		var err error
		found, err = r.session(ctx, node, neighbor)
		if err == nil && (found.State == v1alpha1.SessionEstablished) != up {
			err = fmt.Errorf("the session of %s with %s: %+v", node, neighbor, found)
		}
		return err
	})
	return found
}

// sessionErrors watches, and returns what waits until the node's speaker has reported an error of
// its session with a neighbor that begins like this: one error follows another.
func (r *rack) sessionErrors(t *testing.T, node, neighbor string) (await func(begins string)) {
	t.Helper()
	only := metav1.ListOptions{FieldSelector: "metadata.name=" + node}
	reports, err := r.Berth.Speakers.Watch(t.Context(), only)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var reported []string // guarded by mu
	done := make(chan struct{})
	go func() {
		defer close(done)
		for e := range reports.ResultChan() {
			speaker, ok := e.Object.(*v1alpha1.Speaker)
			if !ok {
				continue
			}
			for _, s := range speaker.Status.Sessions {
				if s.NeighborName == neighbor {
					mu.Lock()
					reported = append(reported, s.LastError)
					mu.Unlock()
				}
			}
		}
	}()
	t.Cleanup(func() { reports.Stop(); <-done })
	return func(begins string) {
		t.Helper()
		eventually(t, func(context.Context) error {
			mu.Lock()
			defer mu.Unlock()
			if !slices.ContainsFunc(reported, func(e string) bool { return strings.HasPrefix(e, begins) }) {
				return fmt.Errorf("the speaker of %s says of its session with %s %q, want %q", node, neighbor, reported, begins)
			}
			return nil
		})
	}
}

// testRouterKilled kills the router's BGP daemon, and starts it again. The other router and the
// segment are served all the time.
func testRouterKilled(t *testing.T, r *rack) {
	r.apply(t, spineNeighbor)
	l2 := r.serve(t)
	owner := r.owner(t, r.address(t, l2, corev1.IPv4Protocol))
	routed := soleAddress(r.serve(t, only(corev1.IPv4Protocol), pinned("198.51.100.70")))
	r.routes(t, routed, r.Nodes()...)
	r.onSpine(t, routed, r.Nodes()...)
	since := map[string]v1alpha1.SessionReport{}
	for _, node := range r.Nodes() {
		since[node] = r.awaitSession(t, node, "spine", true)
	}

	back := sync.OnceFunc(func() {
		ctx := context.WithoutCancel(t.Context())
		if err := stage.Eventually(
			ctx, patience, func(ctx context.Context) error { return r.Start(ctx, "bgpd@"+lab.Router) },
		); err != nil {
			t.Error(err)
		}
	})
	if err := r.Kill(t.Context(), "bgpd@"+lab.Router); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(back)
	for _, node := range r.Nodes() {
		if s := r.awaitSession(t, node, "tor", false); s.LastError == "" {
			t.Errorf("the speaker of %s does not say why the session ended: %+v", node, s)
		}
	}
	later := soleAddress(r.serve(t, only(corev1.IPv4Protocol), pinned("198.51.100.71")))
	r.onSpine(t, later, r.Nodes()...)
	if now := r.owner(t, r.address(t, l2, corev1.IPv4Protocol)); now != owner {
		t.Errorf("%s answers on the segment, want %s still", now, owner)
	}

	back()
	for _, address := range []netip.Addr{routed, later} {
		r.routes(t, address, r.Nodes()...)
		r.answers(t, lab.Remote, address)
	}
	for _, node := range r.Nodes() {
		if now := r.awaitSession(t, node, "spine", true); !now.LastTransitionTime.Equal(since[node].LastTransitionTime) {
			t.Errorf("the session of %s with the other router was touched: since %s, before %s", node, now.LastTransitionTime, since[node].LastTransitionTime)
		}
	}
}

// testBlackHole blocks all frames between a node and the router, so that neither is told of the
// end. The node's other session, its owned addresses and the other nodes' sessions continue.
func testBlackHole(t *testing.T, r *rack) {
	r.apply(t, spineNeighbor)
	const lost = "n2"
	routed := soleAddress(r.serve(t, only(corev1.IPv4Protocol), pinned("198.51.100.72")))
	r.routes(t, routed, r.Nodes()...)
	r.onSpine(t, routed, r.Nodes()...)
	spine := r.awaitSession(t, lost, "spine", true)
	l2 := map[netip.Addr]string{} // with an address of the lost node's among them, probably
	for range 6 {
		address := r.address(t, r.serve(t), corev1.IPv4Protocol)
		l2[address] = r.owner(t, address)
	}

	heal := sync.OnceFunc(func() {
		if err := r.Unblock(context.WithoutCancel(t.Context()), lost, lab.Router); err != nil {
			t.Error(err)
		}
	})
	if err := r.Block(t.Context(), lost, lab.Router); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(heal)
	awaitError := r.sessionErrors(t, lost, "tor")
	// Changes reach the other routers even before the hold time expires.
	later := soleAddress(r.serve(t, only(corev1.IPv4Protocol), pinned("198.51.100.73")))
	r.onSpine(t, later, r.Nodes()...)
	r.routes(t, later, r.others(lost)...)
	r.routes(t, routed, r.others(lost)...) // the router's hold timer
	awaitError("hold timer expired")
	for address, owner := range l2 {
		if now := r.owner(t, address); now != owner {
			t.Errorf("%s answers for %s, want %s still", now, address, owner)
		}
	}
	if now := r.awaitSession(t, lost, "spine", true); !now.LastTransitionTime.Equal(spine.LastTransitionTime) {
		t.Errorf("the session with the other router was touched: %+v, before %+v", now, spine)
	}

	heal()
	r.routes(t, routed, r.Nodes()...)
	r.routes(t, later, r.Nodes()...)
}

// testSpeakerKilled kills a speaker: routers notice nothing.
func testSpeakerKilled(t *testing.T, r *rack) {
	const node = "n2"
	routed := soleAddress(r.serve(t, only(corev1.IPv4Protocol), pinned("198.51.100.74")))
	r.routes(t, routed, r.Nodes()...)
	before := r.connections(t)
	if err := r.Kill(t.Context(), "speaker@"+node); err != nil {
		t.Fatal(err)
	}
	r.settle(t)
	r.routes(t, routed, r.Nodes()...)
	// The next one is obeyed.
	later := soleAddress(r.serve(t, only(corev1.IPv4Protocol), pinned("198.51.100.75")))
	r.routes(t, later, r.Nodes()...)
	if after := r.connections(t); !maps.Equal(after, before) {
		t.Errorf("sessions were made again: by neighbor %v times, %v before", after, before)
	}
}

// testBGPKilled kills the process that speaks BGP, or the one that keeps it: the kernel closes the
// session, the next process announces the routes again, and the other nodes' sessions go on.
func testBGPKilled(t *testing.T, r *rack) {
	const node = "n2"
	routed := soleAddress(r.serve(t, only(corev1.IPv4Protocol), pinned("198.51.100.74")))
	for what, kill := range map[string]func(context.Context) error{
		"worker": func(ctx context.Context) error { return r.CrashBGP(ctx, node) },
		"keeper": func(ctx context.Context) error { return r.Kill(ctx, "bgp@"+node) },
	} {
		t.Run(what, func(t *testing.T) {
			r.routes(t, routed, r.Nodes()...)
			before := r.connections(t)
			if err := kill(t.Context()); err != nil {
				t.Fatal(err)
			}
			r.answers(t, lab.Remote, routed)
			eventually(t, func(context.Context) error {
				if r.connections(t)[r.addressText(node)] == before[r.addressText(node)] {
					return errors.New("the session was not made again")
				}
				return nil
			})
			r.routes(t, routed, r.Nodes()...)
			for neighbor, n := range r.connections(t) {
				if neighbor != r.addressText(node) && n != before[neighbor] {
					t.Errorf("the session with %s was made %d times, %d before", neighbor, n, before[neighbor])
				}
			}
		})
	}
}

// testPasswordRotated changes a password on both sides. Only that session is reset. Then its Secret
// is deleted and made again, which resets nothing. A final newline of the password does not count.
func testPasswordRotated(t *testing.T, r *rack) {
	const node = "n1"
	secret := func(password string) string {
		return `
apiVersion: v1
kind: Secret
metadata: {name: rotated, namespace: berth-system}
type: kubernetes.io/basic-auth
stringData: {password: "` + password + "\\n\"}\n"
	}
	router := func(password string) string {
		return fmt.Sprintf(`protocol bgp secret1 {
  local 172.30.0.3 port 1180 as 64514; neighbor %s port 1180 as 64513; direct; passive; password %q;
  ipv4 { import all; export none; };
}
`, r.addressText(node), password)
	}
	r.configureSpine(t, router("first"))
	r.apply(t, secret("first"))
	r.apply(t, `
apiVersion: berth.dev/v1alpha1
kind: BGPNeighbor
metadata: {name: secret}
spec:
  localASN: 64513
  remoteASN: 64514
  address: 172.30.0.3
  port: 1180
  authentication: {type: TCPMD5, tcpMD5: {secretName: rotated}}
  nodeSelector: {matchLabels: {kubernetes.io/hostname: n1}}
`)
	first := r.awaitSession(t, node, "secret", true)
	others := r.connections(t)

	if err := r.Apply(t.Context(), secret("second")); err != nil {
		t.Fatal(err)
	}
	r.awaitSession(t, node, "secret", false) // the router has the old one
	if err := r.ConfigureSpine(t.Context(), router("second")); err != nil {
		t.Fatal(err)
	}
	second := r.awaitSession(t, node, "secret", true)
	if second.LastTransitionTime.Equal(first.LastTransitionTime) {
		t.Errorf("the session is the old one: %+v", second)
	}
	eventually(t, func(ctx context.Context) error {
		out, err := r.Birdc(ctx, "show protocols secret1")
		return errors.Join(err, textHas(out, []string{"Established"}))
	})
	for neighbor, n := range r.connections(t) {
		if n != others[neighbor] {
			t.Errorf("the session with %s was opened again", neighbor)
		}
	}

	if _, err := r.Kubectl(t.Context(), "", "-n", stage.Namespace, "delete", "secret", "rotated"); err != nil {
		t.Fatal(err)
	}
	awaitReady := func(status string) {
		t.Helper()
		eventually(t, func(ctx context.Context) error {
			_, err := r.Kubectl(ctx, "", "wait", "--for=condition=Ready="+status, "bgpneighbor/secret", "--timeout=10s")
			return err
		})
	}
	awaitReady("False")
	if err := r.Apply(t.Context(), secret("second")); err != nil {
		t.Fatal(err)
	}
	awaitReady("True")
	if third := r.awaitSession(t, node, "secret", true); !third.LastTransitionTime.Equal(second.LastTransitionTime) {
		t.Errorf("the session began again when its Secret was made again: before %+v, now %+v", second, third)
	}
}

// testWeights checks how the router's kernel spreads 10 000 connections over a node with three Pods
// and one with a single Pod.
func testWeights(t *testing.T, r *rack) {
	const group = "weighed"
	for _, app := range []stage.App{
		{Namespace: r.web.Namespace, Name: "heavy", Group: group, Nodes: []string{"n1"}, PodsPerNode: 3},
		{Namespace: r.web.Namespace, Name: "light", Group: group, Nodes: []string{"n2"}},
	} {
		t.Cleanup(func() {
			if _, err := r.Kubectl(
				context.WithoutCancel(t.Context()), "", "-n", app.Namespace, "delete", "--cascade=foreground", "--timeout=60s",
				"deployment/"+app.Name,
			); err != nil {
				t.Error(err)
			}
		})
		if err := r.Deploy(t.Context(), app); err != nil {
			t.Fatal(err)
		}
	}
	r.apply(t, `
apiVersion: berth.dev/v1alpha1
kind: LoadBalancerPool
metadata: {name: weighed}
spec: {allocation: OnRequest, addresses: [203.0.113.128/28], scopes: [{namespaceSelector: {}, serviceSelector: {}}]}
---
apiVersion: berth.dev/v1alpha1
kind: RouteAnnouncement
metadata: {name: weighed}
spec: {poolNames: [weighed], neighborNames: [tor], nodeSelector: {}, serviceSelector: {}, weightBy: LocalEndpoints}
`)
	address := soleAddress(
		r.serve(t, only(corev1.IPv4Protocol), pinned("203.0.113.129"), local, func(svc *corev1.Service) {
			svc.Spec.Selector = map[string]string{"group": group}
		}),
	)
	eventually(t, func(ctx context.Context) error {
		out, err := r.Exec(ctx, lab.Router, "ip", "-json", "route", "show", address.String()).Output()
		return errors.Join(err, jsonHas(string(out), []string{"0/nexthops/0/weight ~ ^[1-9]", "0/nexthops/# = 2"}))
	})
	r.forwarded(t, address)

	const connections = 10000
	var mu sync.Mutex
	served := map[string]int{}
	clients, ctx := errgroup.WithContext(t.Context())
	clients.SetLimit(32)
	for range connections {
		clients.Go(func() error {
			answer, err := r.AskHTTP(ctx, lab.Remote, address)
			mu.Lock()
			defer mu.Unlock()
			served[answer.Node]++
			return err
		})
	}
	if err := clients.Wait(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d connections: %v", connections, served)
	if ratio := float64(served["n1"]) / float64(served["n2"]); ratio < 2.7 || ratio > 3.3 ||
		served["n1"]+served["n2"] != connections {
		t.Errorf("of %d connections the nodes served %v, want 3 to 1 within 10 %%", connections, served)
	}
}
