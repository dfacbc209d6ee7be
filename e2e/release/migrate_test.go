//go:build release

package release

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/e2e/lab"
	"github.com/berth-lb/berth/e2e/stage"
	"github.com/berth-lb/berth/e2e/stock"
)

// TestMigrateNodeByNode moves a cluster from the real MetalLB to Berth by the steps of `kubectl
// berth migrate`, and back. The command is interrupted after each change that it makes. Clients ask
// every 5 ms all the while.
func TestMigrateNodeByNode(t *testing.T) {
	m := &move{Stage: raise(t, lab.Options{Name: "release", Nodes: 3, Router: "frr"})}
	t.Cleanup(func() {
		if t.Failed() {
			m.Explain(context.Background(), t.Output())
		}
	})
	m.prepare(t)
	t.Run("the witness sees no fault before", func(t *testing.T) {
		from := time.Now()
		lasts(t, 5*time.Second)
		m.judge(t, "before", from)
	})
	before := m.configuration(t)
	for _, way := range []struct {
		name, flag string
		announcer  func(*testing.T)
	}{
		{"there", "--next", m.berthServes},
		{"back", "--back", m.metalLBServes},
	} {
		ok := t.Run(way.name, func(t *testing.T) {
			from := time.Now()
			m.walk(t, way.flag, "--actions", "1")
			way.announcer(t)
			lasts(t, time.Second)
			m.judge(t, way.name, from)
			if way.flag == "--back" {
				if after := m.configuration(t); after != before {
					t.Errorf("the configuration is\n%s\nand was\n%s", after, before)
				}
			}
		})
		if !ok {
			return
		}
	}
	t.Run("by hand, until Berth would announce, and back", func(t *testing.T) {
		from := time.Now()
		m.byHand(t, "segment/n1")
		m.walk(t, "--back")
		m.metalLBServes(t)
		m.judge(t, "by_hand", from)
		if after := m.configuration(t); after != before {
			t.Errorf("the configuration is\n%s\nand was\n%s", after, before)
		}
	})
}

const (
	// probePace is the time between two requests of a client.
	probePace = 5 * time.Millisecond
	// lateAfter is when an answer is late: a lost SYN is sent again after a second. busyAfter is when
	// the machine is: when the control, whose address does not move, gets its answer that late.
	lateAfter = 900 * time.Millisecond
	busyAfter = 50 * time.Millisecond
	// The longest outage on the segment, also for who asks by ARP, and by BGP, where the other nodes
	// carry on: there a single request is none.
	longestOnSegment = 300 * time.Millisecond
	longestRouted    = 2 * probePace
	// mostBroken: of so many connections one may be reset. When the set of next hops changes, a
	// router sends some of those that are open to other nodes, which do not know them.
	mostBroken = 100
	// control is a Service with an address that n3 itself has.
	control        = "control"
	controlAddress = "172.30.0.13"
)

// span is from a moment to another.
type span struct{ from, to time.Time }

// busy returns when the control was answered late, so that the machine had no time. Two spans do
// not overlap.
func busy(record stage.Record) (all []span) {
	slices.SortFunc(record, func(a, b stage.Request) int { return a.Sent.Compare(b.Sent) })
	for _, r := range record {
		switch last := len(all) - 1; {
		case r.Err == nil && r.Done.Sub(r.Sent) < busyAfter:
		case last >= 0 && !r.Sent.After(all[last].to):
			if r.Done.After(all[last].to) {
				all[last].to = r.Done
			}
		default:
			all = append(all, span{r.Sent, r.Done})
		}
	}
	return all
}

// took returns how long it was from a moment to another, without the time in which the machine was
// busy.
func took(from, to time.Time, busy []span) time.Duration {
	d := to.Sub(from)
	for _, b := range busy {
		begin, end := b.from, b.to
		if begin.Before(from) {
			begin = from
		}
		if end.After(to) {
			end = to
		}
		d -= max(0, end.Sub(begin))
	}
	return d
}

// sentIn reports whether something was sent while the machine was busy, or a moment around that.
func sentIn(at time.Time, busy []span) bool {
	return slices.ContainsFunc(busy, func(b span) bool {
		return at.After(b.from.Add(-busyAfter)) && at.Before(b.to.Add(busyAfter))
	})
}

// noticed is what a client noticed.
type noticed struct {
	requests, late, broken int
	// outage is the longest time in which no request got an answer in time, and gap the longest
	// between two answers.
	outage, gap time.Duration
}

func notice(record stage.Record, busy []span) noticed {
	slices.SortFunc(record, func(a, b stage.Request) int { return a.Sent.Compare(b.Sent) })
	n := noticed{requests: len(record)}
	var first time.Time
	for _, r := range record {
		switch {
		case r.Broken():
			n.broken++
		case sentIn(r.Sent, busy): // the machine may have lost it
		case took(r.Sent, r.Done, busy) >= lateAfter:
			n.late++
			if first.IsZero() {
				first = r.Sent
			}
			n.outage = max(n.outage, took(first, r.Sent, busy)+probePace)
		default:
			first = time.Time{}
		}
	}
	good := record.Good()
	slices.SortFunc(good, func(a, b stage.Request) int { return a.Done.Compare(b.Done) })
	for i := 1; i < len(good); i++ {
		n.gap = max(n.gap, took(good[i-1].Done, good[i].Done, busy))
	}
	return n
}

// move is a lab with MetalLB and Berth.
type move struct {
	*stage.Stage
	services []*corev1.Service
	probes   map[string]*stage.Watch // by Service and client
	capture  *stage.Capture
	statuses *stage.StatusWatch
	sessions map[string]stage.RouterSession
}

func (m *move) prepare(t *testing.T) {
	must(t, m.InstallMetalLB, func(ctx context.Context) error {
		return m.ConfigureMetalLB(ctx, stage.MetalLBPools{L2: metalRack, BGP: metalRouted})
	}, func(ctx context.Context) error { return m.Deploy(ctx, metalApp) })
	for _, name := range []string{"segment-cluster", "segment-local", "routed-cluster", "routed-local"} {
		svc := m.Expose(metalApp, name)
		if strings.HasPrefix(name, "routed") {
			svc.Annotations = map[string]string{stage.MetalLBPoolAnnotation: stage.MetalLBRouted}
		}
		if strings.HasSuffix(name, "local") {
			svc.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		}
		svc, err := m.Create(t.Context(), svc)
		if err != nil {
			t.Fatal(err)
		}
		m.services = append(m.services, svc)
	}
	var err error
	if m.sessions, err = m.AwaitRouterSessions(t.Context(), patience); err != nil {
		t.Fatal(err)
	}
	var onSegment []netip.Addr
	for _, svc := range m.services {
		if !routed(svc) {
			onSegment = append(onSegment, addressOf(svc))
		}
	}
	must(t, m.Install, func(ctx context.Context) error { return m.AwaitSpeakers(ctx, false) })
	m.metalLBServes(t)
	if m.statuses, err = m.WatchStatuses(t.Context(), metalApp.Namespace); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.statuses.Stop(); err != nil {
			t.Error(err)
		}
	})
	if m.capture, err = m.StartCapture(t.Context(), onSegment...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.capture.Stop(); err != nil {
			t.Error(err)
		}
	})
	m.probes = map[string]*stage.Watch{}
	if err := m.startControl(t); err != nil {
		t.Fatal(err)
	}
	for _, svc := range m.services {
		hosts := []string{lab.Remote}
		switch svc.Name {
		case "segment-cluster":
			hosts = append(hosts, lab.Client)
		case "segment-local":
			hosts = []string{lab.Client}
		}
		for _, host := range hosts {
			w := m.StartWatch(t.Context(), host, addressOf(svc), probePace, probeTimeout, false)
			t.Cleanup(func() { w.Stop() })
			m.probes[svc.Name+"_"+host] = w
		}
	}
}

// startControl starts a client like the others, whose address is a node's own.
func (m *move) startControl(t *testing.T) error {
	svc := m.Expose(metalApp, control)
	svc.Spec.Type, svc.Spec.ExternalIPs = corev1.ServiceTypeClusterIP, []string{controlAddress}
	_, err := m.Kubernetes.CoreV1().Services(svc.Namespace).Create(t.Context(), svc, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	address := netip.MustParseAddr(controlAddress)
	eventually(t, func(ctx context.Context) error {
		_, err := m.AskHTTP(ctx, lab.Client, address)
		return err
	})
	w := m.StartWatch(t.Context(), lab.Client, address, probePace, probeTimeout, false)
	t.Cleanup(func() { w.Stop() })
	m.probes[control] = w
	return nil
}

// walk runs the command until nothing is left for it to do.
func (m *move) walk(t *testing.T, args ...string) {
	for range 200 {
		out, errOut, code := m.berth(t, append([]string{"migrate", "--from", "metallb"}, args...)...)
		t.Log(strings.TrimSpace(out))
		stopped := strings.Contains(errOut, "stopped after the actions")
		if code != 0 && !stopped {
			t.Fatalf("exit code %d: %s", code, errOut)
		}
		m.oneAnnouncer(t)
		if strings.Contains(out, "every step is done") || strings.Contains(out, "no step is done") {
			return
		}
	}
	t.Fatal("it has not come to an end after 200 runs")
}

// plannedStep is a step as the plugin prints it.
type plannedStep struct {
	Name, State string
	Do          []struct {
		Commands []string
		Check    string
		Holds    bool
	}
}

// next returns the first step of the plan that is not done.
func (m *move) next(t *testing.T) plannedStep {
	t.Helper()
	out, errOut, code := m.berth(t, "migrate", "--from", "metallb", "--plan", "-o", "json")
	var all []plannedStep
	if err := json.Unmarshal([]byte(out), &all); err != nil {
		t.Fatalf("exit code %d: %s: %v", code, errOut, err)
	}
	i := slices.IndexFunc(all, func(s plannedStep) bool { return s.State != "done" })
	if want := min(1, i+1); code != want {
		t.Errorf("the exit code of --plan is %d, want %d", code, want)
	}
	if i < 0 {
		return plannedStep{}
	}
	return all[i]
}

// byHand runs the commands that the plan prints, until a step is next.
func (m *move) byHand(t *testing.T, until string) {
	folder, err := stock.Find()
	if err != nil {
		t.Fatal(err)
	}
	programs := t.TempDir()
	if err := os.Symlink(folder.Bin("kube"), filepath.Join(programs, "kubectl")); err != nil {
		t.Fatal(err)
	}
	ran := map[string]bool{}
	err = stage.Eventually(t.Context(), 3*patience, func(ctx context.Context) error {
		step := m.next(t)
		if step.Name == until {
			return nil
		}
		for _, phase := range step.Do {
			if phase.Holds {
				continue
			}
			for _, command := range phase.Commands {
				if ran[command] {
					continue
				}
				ran[command] = true
				t.Log(command)
				cmd := exec.CommandContext(ctx, "sh", "-c", command)
				cmd.Env = append(os.Environ(), "PATH="+programs+":"+os.Getenv("PATH"), "KUBECONFIG="+m.Kubeconfig())
				var out bytes.Buffer
				cmd.Stdout, cmd.Stderr = &out, &out
				if err := m.In(lab.ControlPlane, cmd.Start); err != nil {
					t.Fatal(err)
				}
				if err := cmd.Wait(); err != nil {
					t.Fatalf("%v: %s", err, out.String())
				}
			}
			return fmt.Errorf("after the commands of step %s, its check %q does not hold", step.Name, phase.Check)
		}
		return fmt.Errorf("step %s is %s", step.Name, step.State)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// berth runs the plugin as a user does.
func (m *move) berth(t *testing.T, args ...string) (out, errOut string, code int) {
	t.Helper()
	return plugin(t, m.Stage, args...)
}

// oneAnnouncer waits until one host alone answers for each address on the segment, many requests
// in a row, while nothing goes on.
func (m *move) oneAnnouncer(t *testing.T) {
	t.Helper()
	now := time.Now()
	for _, svc := range m.services {
		if routed(svc) {
			continue
		}
		if _, err := m.capture.AwaitOwner(t.Context(), patience, now, addressOf(svc)); err != nil {
			t.Error(err)
		}
	}
}

// berthServes checks that Berth announces everything, and MetalLB nothing.
func (m *move) berthServes(t *testing.T) {
	must(t, func(ctx context.Context) error { return m.AwaitSpeakers(ctx, true) })
	for _, svc := range m.services {
		now, err := m.Kubernetes.CoreV1().Services(svc.Namespace).Get(t.Context(), svc.Name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if c := condition(now, "berth.dev/Announced"); c.Status != metav1.ConditionTrue {
			t.Errorf("%s has condition Announced %q (%s: %s), want True", svc.Name, c.Status, c.Reason, c.Message)
		}
	}
	out, err := m.Kubectl(
		t.Context(),
		"",
		"-n",
		stage.MetalLBNamespace,
		"get",
		"pods,servicel2statuses",
		"-l",
		"component!=controller",
		"-o",
		"name",
	)
	if err != nil {
		t.Fatal(err)
	}
	if strings.TrimSpace(out) != "" {
		t.Errorf("MetalLB still has %s, want no speaker and no address", out)
	}
	m.awaitRoutes(t)
	if step := m.next(t); step.Name != "" {
		t.Errorf("step %s is %s, want every step done", step.Name, step.State)
	}
}

// metalLBServes checks that MetalLB announces everything, and that nothing of Berth's is left.
func (m *move) metalLBServes(t *testing.T) {
	out, err := m.Kubectl(
		t.Context(),
		"",
		"get",
		"l2owners,loadbalancerpools,segmentannouncements,routeannouncements,bgpneighbors",
		"-o",
		"name",
	)
	if err != nil {
		t.Fatal(err)
	}
	if strings.TrimSpace(out) != "" {
		t.Errorf("Berth still has %s", out)
	}
	m.awaitRoutes(t)
}

func (m *move) awaitRoutes(t *testing.T) {
	t.Helper()
	for _, svc := range m.services {
		if routed(svc) {
			must(t, func(ctx context.Context) error {
				return m.AwaitRoutes(ctx, patience, addressOf(svc), "n1", "n2", "n3")
			})
		}
	}
}

// configuration is what the migration must leave as it was.
func (m *move) configuration(t *testing.T) string {
	t.Helper()
	var all []string
	for _, what := range []string{
		"l2advertisements,bgppeers,bgpadvertisements,ipaddresspools", "daemonset/speaker", "deployment/controller",
	} {
		all = append(all, m.specs(t, "-n", stage.MetalLBNamespace, "get", what))
	}
	all = append(all, m.specs(t, "-n", stage.Namespace, "get", "deployment/berth-controller"))
	return strings.Join(
		append(all, m.specs(t, "get", "services", "-n", metalApp.Namespace), m.specs(t, "get", "nodes")),
		"\n",
	)
}

// specs are the specs, labels, annotations and conditions of objects.
func (m *move) specs(t *testing.T, args ...string) string {
	t.Helper()
	text, err := m.Kubectl(t.Context(), "", append(args, "-o", "json")...)
	if err != nil {
		t.Fatal(err)
	}
	type object struct {
		Kind     string
		Metadata struct {
			Name                string
			Labels, Annotations map[string]string
		}
		Spec   any
		Status struct{ LoadBalancer any }
	}
	var list struct{ Items []object }
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		t.Fatal(err)
	}
	if list.Items == nil {
		var one object
		if err := json.Unmarshal([]byte(text), &one); err != nil {
			t.Fatal(err)
		}
		list.Items = []object{one}
	}
	var all []string
	for _, o := range list.Items {
		for _, counter := range []string{"deprecated.daemonset.template.generation", "deployment.kubernetes.io/revision"} {
			delete(o.Metadata.Annotations, counter)
		}
		line, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, string(line))
	}
	return strings.Join(all, "\n")
}

// judge says what clients noticed since a moment, and checks it.
func (m *move) judge(t *testing.T, when string, from time.Time) {
	t.Helper()
	until := time.Now()
	slow := busy(m.probes[control].Record().SentAfter(from))
	fmt.Printf(
		"migrate_%s_took %s, the machine was busy for %s\n",
		when,
		until.Sub(from).Round(time.Second),
		(until.Sub(from) - took(from, until, slow)).Round(time.Millisecond),
	)
	for _, name := range slices.Sorted(maps.Keys(m.probes)) {
		n := notice(m.probes[name].Record().SentAfter(from), slow)
		measured(fmt.Sprintf("migrate_%s_outage_%s", when, name), n.outage)
		measured(fmt.Sprintf("migrate_%s_gap_%s", when, name), n.gap)
		fmt.Printf("migrate_%s_requests_%s %d, %d late or lost, %d reset when connected\n",
			when, name, n.requests, n.late, n.broken)
		longest := longestOnSegment
		if strings.HasPrefix(name, "routed") {
			longest = longestRouted
		}
		if n.requests == 0 || n.outage > longest {
			t.Errorf("%d requests to %s had an outage of %s, want at most %s", n.requests, name, n.outage, longest)
		}
		if most := n.requests / mostBroken; n.broken > most {
			t.Errorf("%d of %d connections to %s were reset, want at most %d", n.broken, n.requests, name, most)
		}
	}
	for _, svc := range m.services {
		if routed(svc) {
			continue
		}
		if longest, n := m.capture.Overlap(addressOf(svc), from, until); n > 0 {
			t.Errorf("%v answered %d requests for %s together, from %s on", longest.Hosts, n, svc.Name,
				longest.From.Format("15:04:05.000"))
		}
		silence := m.silence(addressOf(svc), from, slow)
		measured(fmt.Sprintf("migrate_%s_silence_arp_%s", when, svc.Name), silence)
		if silence > longestOnSegment {
			t.Errorf("nobody answered ARP for %s for %s, want at most %s", svc.Name, silence, longestOnSegment)
		}
	}
	for _, change := range m.statuses.Changes() {
		if !slices.Equal(change.Before, change.After) {
			t.Errorf("a status changed: %s", change)
		}
	}
}

// silence returns the longest time in which nobody answered requests for an address.
func (m *move) silence(address netip.Addr, from time.Time, busy []span) (longest time.Duration) {
	var since time.Time // of the first request that nobody answered
	for _, round := range m.capture.Rounds(address, from) {
		answered := len(round.Answers()) > 0
		switch {
		case !since.IsZero():
			longest = max(longest, took(since, round.Asked, busy))
			if answered {
				since = time.Time{}
			}
		case !answered:
			since = round.Asked
		}
	}
	return longest
}
