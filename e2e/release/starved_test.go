//go:build release

package release

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/berth-lb/berth/e2e/lab"
	"github.com/berth-lb/berth/e2e/stage"
)

// starvedFor is how long all nodes together are starved; BERTH_STARVED=10m for longer.
func starvedFor(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv("BERTH_STARVED")
	if text == "" {
		return time.Minute
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatalf("BERTH_STARVED: %v", err)
	}
	return d
}

// starve keeps the processors busy in the node's own group of processes until end, by processes
// that have the weight of two whole processors.
func starve(t *testing.T, s *stage.Stage, node string) (end func()) {
	t.Helper()
	stop, err := keepBusy(t.Context(), s, node)
	end = sync.OnceFunc(func() {
		if stop == nil {
			return
		}
		if err := stop(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(end)
	if err != nil {
		t.Fatal(err)
	}
	return end
}

// keepBusy does what starve does. The returned function, nil if nothing was begun, ends it.
func keepBusy(ctx context.Context, s *stage.Stage, node string) (end healing, err error) {
	heart, err := s.Process(ctx, "heart@"+node)
	if err != nil {
		return nil, err
	}
	group, err := stage.CPUGroup(heart.PID)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(filepath.Dir(group), "hog")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	var hogs []*exec.Cmd
	end = func(ctx context.Context) error {
		for _, cmd := range hogs {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
		return stage.Eventually(ctx, patience, func(context.Context) error { return os.Remove(dir) })
	}
	if err := os.WriteFile(filepath.Join(dir, "cpu.shares"), []byte("2048"), 0o600); err != nil {
		return end, err
	}
	for range runtime.NumCPU() {
		cmd := exec.CommandContext(context.WithoutCancel(ctx), "sh", "-c", "while :; do :; done")
		if err := cmd.Start(); err != nil {
			return end, err
		}
		hogs = append(hogs, cmd)
		pid := []byte(strconv.Itoa(cmd.Process.Pid))
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), pid, 0o600); err != nil {
			return end, err
		}
	}
	return end, nil
}

// urgent has the heart of a node in the real-time class, which it asks for.
func (f *field) urgent(t *testing.T, node string) {
	t.Helper()
	must(t, func(ctx context.Context) error { return f.Urgent(ctx, node) })
}

// path is what FRR counts for a node.
type path struct {
	Peer     string
	Received int `json:"control-packet-input"`
	Ups      int `json:"session-up"`
	Downs    int `json:"session-down"`
}

// watchPaths has the router watch all nodes by BFD at 3 x 50 ms, and waits until it hears them. It
// is urgent, too: it stands for a machine of its own.
func (f *field) watchPaths(t *testing.T) {
	t.Helper()
	lines, peers := []string{}, []string{"exit", "bfd"}
	for _, node := range f.Nodes() {
		addresses, err := f.Lab.Addresses(node)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range addresses { // its sessions would come and go with those of BGP
			lines = append(lines, fmt.Sprintf("no neighbor %s bfd", a))
		}
		peers = append(peers, fmt.Sprintf("peer %s", addresses[0]), "detect-multiplier 3", "receive-interval 50",
			"transmit-interval 50", "no shutdown", "exit")
	}
	must(t, func(ctx context.Context) error { return f.ConfigureRouter(ctx, append(lines, peers...)...) })
	bfdd, err := f.Process(t.Context(), "bfdd@"+lab.Router)
	if err != nil {
		t.Fatal(err)
	}
	if err := stage.AllowRealtime(bfdd.PID); err != nil {
		t.Fatal(err)
	}
	if err := unix.SchedSetAttr(bfdd.PID, &unix.SchedAttr{Policy: unix.SCHED_RR, Priority: 1}, 0); err != nil {
		t.Fatal(err)
	}
	must(t, func(ctx context.Context) error {
		return f.Apply(ctx, fmt.Sprintf(`
apiVersion: berth.dev/v1alpha1
kind: BGPNeighbor
metadata: {name: tor}
spec:
  localASN: %d
  remoteASN: %d
  address: 172.30.0.1
  bfd: {receiveInterval: 50ms, transmitInterval: 50ms, multiplier: 3}
  nodeSelector: {}
`, lab.NodeAS, lab.RouterAS))
	})
	eventually(t, func(ctx context.Context) error {
		paths, err := f.paths(ctx)
		for node, p := range paths {
			if p.Ups == 0 {
				err = errors.Join(err, fmt.Errorf("the router does not hear %s by BFD", node))
			}
		}
		return err
	})
}

// paths returns what the router counts for each node.
func (f *field) paths(ctx context.Context) (map[string]path, error) {
	text, err := f.Vtysh(ctx, "show bfd peers counters json")
	if err != nil {
		return nil, err
	}
	var all []path
	if err := json.Unmarshal([]byte(text), &all); err != nil {
		return nil, fmt.Errorf("BFD of the router: %w: %s", err, text)
	}
	found := map[string]path{}
	for _, node := range f.Nodes() {
		addresses, err := f.Lab.Addresses(node)
		if err != nil {
			return nil, err
		}
		i := slices.IndexFunc(all, func(p path) bool { return p.Peer == addresses[0].String() })
		if i < 0 {
			return nil, fmt.Errorf("the router does not watch %s: %s", node, text)
		}
		found[node] = all[i]
	}
	return found, nil
}

// TestStarved keeps the processors busy on one node after the other, while its speaker crashes
// again and again, is told much, and is asked for its metrics by very many at once: no address
// moves, and no request for one is left without an answer. All nodes are on this machine, so that
// to starve all at once would leave each of them less than it asks for.
func TestStarved(t *testing.T) {
	f := raiseField(t, fieldOptions{
		name:   "relstarved",
		router: "frr",
		pool:   []addressRange{{"172.30.0.200", 12}, {"fd00:30::200", 12}},
		every:  100 * time.Millisecond,
	})
	f.serve(t, corev1.IPv4Protocol, 10)
	f.serve(t, corev1.IPv6Protocol, 10)
	for _, node := range f.Nodes() {
		f.urgent(t, node)
	}
	f.watchPaths(t)
	owners := f.settled(t, time.Now())
	begun, crashes := time.Now(), 0
	each := starvedFor(t) / time.Duration(len(f.Nodes()))
	for _, node := range f.Nodes() {
		end := starve(t, f.Stage, node)
		crashes += f.crash(t, node, each)
		end()
		if text, err := f.metrics(t.Context(), node); err != nil ||
			!strings.Contains(text, "\nberth_l2_overslept_total{interface=\"eth0\"} 0\n") {
			t.Errorf("the heart of %s overslept, or does not say: %v", node, err)
		}
	}
	paths, err := f.paths(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for node, p := range paths {
		if p.Downs != 0 {
			t.Errorf("for the router %s was down %d times, want never: %+v", node, p.Downs, p)
		}
	}
	asked, unanswered := 0, 0
	for address, owner := range owners {
		if hosts := f.capture.Of(address).Since(begun).Hosts(); !slices.Equal(hosts, []string{owner}) {
			t.Errorf("%s answered for %s before, and then did %q: %s", owner, address, hosts,
				f.capture.Of(address).Since(begun))
		}
		for _, round := range f.capture.Rounds(address, begun) {
			if asked++; len(round.Answers()) == 0 {
				unanswered++
			}
		}
	}
	fmt.Printf("%s: %d crashes of speakers and of BGP, %d requests for %d addresses, %d unanswered; BFD %+v\n",
		time.Since(begun).Round(time.Second), crashes, asked, len(owners), unanswered, paths)
	if unanswered > 0 {
		t.Errorf("%d of %d requests for addresses were not answered", unanswered, asked)
	}
}

// crash ends the speaker of a node, and what speaks BGP, by a fault of their memory, again and
// again. Each time it changes the configuration, and very many ask for the speaker's metrics.
func (f *field) crash(t *testing.T, node string, lasting time.Duration) (crashes int) {
	t.Helper()
	for end := time.Now().Add(lasting); time.Now().Before(end); crashes++ {
		for _, name := range []string{"speaker@", "bgp@"} {
			eventually(t, func(ctx context.Context) error { // the kubelet takes its time
				p, err := f.Process(ctx, name+node)
				if err != nil {
					return err
				}
				return unix.Kill(p.PID, unix.SIGSEGV)
			})
		}
		must(t, func(ctx context.Context) error { return f.configure(ctx, crashes) })
		killed := time.Now()
		eventually(t, func(ctx context.Context) error { return f.ready(ctx, node) })
		t.Logf("the speaker of %s was ready %s after its crash", node, time.Since(killed).Round(time.Millisecond))
		f.flood(t, node)
	}
	return crashes
}

// ready asks the speaker of a node whether it is ready, and has its heart. What the API says of the
// pod may be of the process before.
func (f *field) ready(ctx context.Context, node string) error {
	text, err := f.metrics(ctx, node)
	if err == nil && !strings.Contains(text, "\nberth_l2_overslept_total{") {
		err = fmt.Errorf("the speaker of %s does not have its heart yet", node)
	}
	return errors.Join(err, f.AwaitSpeakers(ctx, false))
}

// scrapers ask for the metrics of a speaker at the same time.
const scrapers = 2000

// flood has very many ask for the metrics of a node's speaker, who do not read what they asked for.
// Somebody who does gets it all the same.
func (f *field) flood(t *testing.T, node string) {
	t.Helper()
	addresses, err := f.Lab.Addresses(node)
	if err != nil {
		t.Fatal(err)
	}
	to := netip.AddrPortFrom(addresses[0], 7470).String()
	conns := make([]net.Conn, scrapers)
	group, ctx := errgroup.WithContext(t.Context())
	group.SetLimit(50)
	for i := range conns {
		group.Go(func() error {
			conn, err := f.Dial(ctx, lab.Client, "tcp", to)
			if err != nil {
				return err
			}
			conns[i] = conn
			_, _ = io.WriteString(conn, "GET /metrics HTTP/1.1\r\nHost: node\r\n\r\n") // or it is closed already
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Errorf("%d ask for metrics at once: %v", scrapers, err)
	}
	eventually(t, func(ctx context.Context) error { _, err := f.metrics(ctx, node); return err })
	for _, conn := range conns {
		if conn != nil {
			_ = conn.Close()
		}
	}
}

// configure changes what concerns no address that is served.
func (f *field) configure(ctx context.Context, n int) error {
	other := netip.AddrFrom4([4]byte{10, 99, byte(n), 0})
	return f.Apply(ctx, fmt.Sprintf(`
apiVersion: berth.dev/v1alpha1
kind: LoadBalancerPool
metadata: {name: other}
spec: {addresses: [%s/28], scopes: [{namespaceSelector: {}, serviceSelector: {}}]}
---
apiVersion: berth.dev/v1alpha1
kind: SegmentAnnouncement
metadata: {name: other}
spec: {poolNames: [other], nodeSelector: {matchLabels: {other: "%d"}}, serviceSelector: {}}
`, other, n))
}
