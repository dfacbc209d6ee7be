//go:build qemu

package life_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	lib "github.com/cloudflare/ipvs"
	"github.com/cloudflare/ipvs/netmask"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/e2e/stage"
	"github.com/berth-lb/berth/e2e/vm/cluster"
)

// established is how many connections there are when data planes change.
const established = 50

// switches changes the pool's dataplane to kube-proxy, and then back to IPVS.
func (l *life) switches(t, _ *testing.T) {
	change := func(to v1alpha1.Dataplane, mode corev1.LoadBalancerIPMode, done func()) {
		t.Helper()
		var talks []*talk
		for range established {
			talks = append(talks, newTalk(t, "tcp", web4))
		}
		come := cluster.StartNewcomers(t, web4, port)
		begun := time.Now()
		l.setDataplane(t, to)
		l.awaitMode(t, mode)
		told := time.Since(begun)
		done()
		took := time.Since(begun)
		come.AwaitMore(t, 20)
		answered, failed, longest := come.End()
		broken := endAll(talks)
		t.Logf(
			"to %s: ipMode %s after %s, done after %s; %d of %d established connections broke; %d new ones were answered and %d failed, longest time between two %s",
			to, mode, told.Round(time.Millisecond), took.Round(time.Millisecond), len(broken), established, answered,
			len(failed), longest.Round(time.Millisecond),
		)
		if len(failed) > 0 || longest > mostGap {
			t.Errorf("to %s: new connections failed: %v; longest gap %s", to, failed, longest)
		}
	}
	change(v1alpha1.DataplaneKubeProxy, corev1.LoadBalancerIPModeVIP, func() {
		l.awaitNothingForwarded(t)
	})
	change(v1alpha1.DataplaneIPVS, corev1.LoadBalancerIPModeProxy, func() { l.awaitIPVS(t) })
}

// awaitIPVS waits until new connections are IPVS's: kube-proxy, which follows the status with a
// delay, has taken back its rules, and IPVS counts connections, by counters that lag by 2 s.
func (l *life) awaitIPVS(t *testing.T) {
	t.Helper()
	cluster.Eventually(t, func(context.Context) error {
		tables := cluster.Run(t, l.node.Name, "nft", "list", "tables")
		for _, family := range []string{"ip", "ip6"} {
			if !strings.Contains(tables, "table "+family+" kube-proxy") {
				return fmt.Errorf("kube-proxy has no rules yet: %s", tables)
			}
			rules := cluster.Run(t, l.node.Name, "nft", "list", "map", family, "kube-proxy", "service-ips")
			for _, a := range addresses {
				if strings.Contains(rules, a+" ") {
					return fmt.Errorf("kube-proxy has rules for %s: %s", a, rules)
				}
			}
		}
		return nil
	})
	_, before := l.servers(t)
	cluster.Eventually(t, func(context.Context) error {
		if err := ask(web4); err != nil {
			return err
		}
		if l.since(t, before)["TCP "+web4+":7000"] <= 0 {
			return fmt.Errorf("IPVS has counted no connection since %v", before)
		}
		return nil
	})
}

// switchedOff starts a speaker without --ipvs in place of one with it.
func (l *life) switchedOff(t, parent *testing.T) {
	if found := l.left(t); len(found) == 0 {
		t.Fatal("nothing of Berth's is in the kernel, so nothing is shown")
	}
	come := cluster.StartNewcomers(t, web4, port)
	stop(t, l.speaker, syscall.SIGTERM)
	l.start(parent)
	l.awaitNothingLeft(t)
	l.AwaitLog(t, "speaker-n1", "removed what a process with --ipvs left")
	l.awaitMode(t, corev1.LoadBalancerIPModeVIP)
	come.AwaitMore(t, 20)
	answered, failed, longest := come.End()
	t.Logf("%d new connections were answered and %d failed, longest time between two %s", answered, len(failed), longest.Round(time.Millisecond))
	if len(failed) > 0 || longest > mostGap {
		t.Errorf("new connections failed: %v; longest gap %s", failed, longest)
	}

	// There is nothing to remove now, so nothing is logged.
	said := len(l.Log(t, "speaker-n1"))
	stop(t, l.speaker, syscall.SIGTERM)
	l.start(parent)
	if log := l.Log(t, "speaker-n1")[said:]; strings.Contains(log, "--ipvs") {
		t.Errorf("the second speaker without --ipvs speaks of it: %s", log)
	}
	stop(t, l.speaker, syscall.SIGTERM)
	l.start(parent, "--ipvs")
	l.awaitMode(t, corev1.LoadBalancerIPModeProxy)
	l.awaitIPVS(t)
}

// deselected has the DaemonSet select other nodes before the speaker is told to end.
func (l *life) deselected(t, parent *testing.T) {
	sets := l.Kubernetes.AppsV1().DaemonSets(stage.Namespace)
	choose := func(selector string) {
		t.Helper()
		patch := fmt.Sprintf(`{"spec":{"template":{"spec":{"nodeSelector":%s}}}}`, selector)
		if _, err := sets.Patch(
			t.Context(), "berth-speaker", types.MergePatchType, []byte(patch), metav1.PatchOptions{},
		); err != nil {
			t.Fatal(err)
		}
	}
	if found := l.left(t); len(found) == 0 {
		t.Fatal("nothing of Berth's is in the kernel, so nothing is shown")
	}
	choose(`{"rack":"another"}`)
	stop(t, l.speaker, syscall.SIGTERM)
	if found := l.left(t); len(found) > 0 {
		t.Errorf("in the kernel there are still %q", found)
	}
	l.awaitMode(t, corev1.LoadBalancerIPModeVIP)
	l.answered(t)
	choose("null")
	l.start(parent, "--ipvs")
	l.awaitMode(t, corev1.LoadBalancerIPModeProxy)
	l.awaitIPVS(t)
}

// uninstalled deletes the DaemonSet before the speaker is told to end.
func (l *life) uninstalled(t, parent *testing.T) {
	foreign := lib.Service{
		Address:   netip.MustParseAddr("192.0.2.1"),
		Port:      80,
		Protocol:  lib.TCP,
		Family:    lib.INET,
		Scheduler: "rr",
		Netmask:   netmask.MaskFrom(32, 32),
	}
	table := func(do func(lib.Client) error) {
		t.Helper()
		if _, err := cluster.In(l.node.Name, func() (any, error) {
			c, err := lib.New()
			if err != nil {
				return nil, err
			}
			defer c.(interface{ Close() error }).Close()
			return nil, do(c)
		}); err != nil {
			t.Fatal(err)
		}
	}
	table(func(c lib.Client) error { return c.CreateService(foreign) })
	if found := l.left(t); len(found) == 0 {
		t.Fatal("nothing of Berth's is in the kernel, so nothing is shown")
	}
	l.uninstall(t)
	stop(t, l.speaker, syscall.SIGTERM)
	if found := l.left(t); len(found) > 0 {
		t.Errorf("in the kernel there are still %q", found)
	}
	if tables := cluster.Run(t, l.node.Name, "nft", "list", "tables"); strings.Contains(tables, "berth") {
		t.Errorf("tables are left: %s", tables)
	}
	if real, _ := l.servers(t); len(real) != 1 {
		t.Errorf("virtual servers are %v, want the foreign one alone", real)
	}
	table(func(c lib.Client) error { return c.RemoveService(foreign) })
	l.install(t)
	l.start(parent, "--ipvs")
	l.awaitMode(t, corev1.LoadBalancerIPModeProxy)
	l.awaitIPVS(t)
}

// failing makes IPVS unusable although the kernel has it: the speaker cannot write its sysctls.
// kube-proxy serves until it can.
func (l *life) failing(t, parent *testing.T) {
	sysctls := filepath.Join(t.TempDir(), "vs")
	mend := func() {
		if err := os.Symlink("/proc/sys/net/ipv4/vs", sysctls); err != nil {
			t.Fatal(err)
		}
	}
	byKubeProxy := func() {
		t.Helper()
		l.awaitMode(t, corev1.LoadBalancerIPModeVIP)
		l.answered(t)
		l.awaitNotIPVS(t)
	}
	byIPVS := func() {
		t.Helper()
		l.awaitMode(t, corev1.LoadBalancerIPModeProxy)
		l.answered(t)
		l.awaitIPVS(t)
	}
	stop(t, l.speaker, syscall.SIGTERM)
	l.start(parent, "--ipvs", "--ipvs-sysctls="+sysctls) // it never worked
	byKubeProxy()
	mend()
	byIPVS()
	if err := os.Remove(sysctls); err != nil { // it worked once
		t.Fatal(err)
	}
	byKubeProxy()
	mend()
	byIPVS()
	stop(t, l.speaker, syscall.SIGTERM)
	l.start(parent, "--ipvs")
	byIPVS()
}

// awaitNotIPVS waits until new connections are kube-proxy's.
func (l *life) awaitNotIPVS(t *testing.T) {
	t.Helper()
	cluster.Eventually(t, func(ctx context.Context) error {
		_, before := l.servers(t)
		for range 5 {
			if err := ask(web4); err != nil {
				return err
			}
		}
		// The counters lag by 2 s.
		timer := time.NewTimer(3 * time.Second)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		if n := l.since(t, before)["TCP "+web4+":7000"]; n > 0 {
			return fmt.Errorf("IPVS has counted %d connections", n)
		}
		return nil
	})
}

// besideIPVS runs kube-proxy in mode ipvs. kube-proxy needs the program ipset for the rules around
// its virtual servers, which are not tested here, so one that only prints its version is enough.
func (l *life) besideIPVS(t, parent *testing.T) {
	stop(t, l.proxy, syscall.SIGTERM)
	dir := t.TempDir()
	ipset := "#!/bin/sh\necho 'ipset v7.17, protocol version: 7'\n"
	if err := os.WriteFile(filepath.Join(dir, "ipset"), []byte(ipset), 0o755); err != nil {
		t.Fatal(err)
	}
	proxy := l.startProxy(t, "ipvs", "PATH="+dir+":"+os.Getenv("PATH"))
	cluster.Eventually(t, func(ctx context.Context) error {
		status, err := l.Berth.Speakers.Get(ctx, l.node.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		ready := meta.FindStatusCondition(status.Status.Conditions, v1alpha1.ConditionIPVSReady)
		if r := status.Status.IPVS; !r.Asked() || len(r.Schedulers) > 0 || ready == nil ||
			!strings.Contains(ready.Message, "use another mode") {
			return fmt.Errorf("the speaker reports %+v, %+v", r, ready)
		}
		return nil
	})
	l.awaitMode(t, corev1.LoadBalancerIPModeVIP)
	l.awaitEvents(t, "IPVSLacking")
	// The virtual servers are kube-proxy's now: nothing else of ours is there.
	cluster.Eventually(t, func(context.Context) error {
		if found := l.left(t); slices.ContainsFunc(found, func(s string) bool { return strings.Contains(s, "48679") }) {
			return fmt.Errorf("in the kernel there are still %q", found)
		}
		return nil
	})
	stop(t, proxy, syscall.SIGTERM)
	l.proxy = l.startProxy(parent, "nftables")
	l.awaitMode(t, corev1.LoadBalancerIPModeProxy)
	l.awaitEvents(t, "IPVSReady")
	l.awaitIPVS(t)
}

// flushed restarts kube-proxy in mode nftables, which empties the kernel's table of IPVS when it
// finds the module: for that it asks modprobe, which finds nothing in this guest, so another stands
// in for it.
func (l *life) flushed(t, parent *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "modprobe"), []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	var talks []*talk
	for range established {
		talks = append(talks, newTalk(t, "tcp", web4))
	}
	const repaired = "IPVS table was not as desired, and was repaired"
	before := strings.Count(l.Log(t, "speaker-n1"), repaired)
	come := cluster.StartNewcomers(t, web4, port)
	stop(t, l.proxy, syscall.SIGTERM)
	l.proxy = l.startProxy(parent, "nftables", "PATH="+dir+":"+os.Getenv("PATH"))
	cluster.Eventually(t, func(context.Context) error {
		if strings.Count(l.Log(t, "speaker-n1"), repaired) == before {
			return errors.New("nobody deleted virtual servers")
		}
		return nil
	})
	l.awaitIPVS(t)
	come.AwaitMore(t, 20)
	answered, failed, longest := come.End()
	broken := endAll(talks)
	t.Logf("%d of %d established connections broke; %d new ones were answered and %d failed, longest time between two %s",
		len(broken), established, answered, len(failed), longest.Round(time.Millisecond))
}

// awaitEvents waits for an event of the node, and wants it to be told once.
func (l *life) awaitEvents(t *testing.T, reason string) {
	t.Helper()
	cluster.Eventually(t, func(ctx context.Context) error {
		list, err := l.Kubernetes.EventsV1().Events("default").List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		n := 0
		for _, e := range list.Items {
			if e.Regarding.Kind != "Node" || e.Regarding.Name != l.node.Name || e.Reason != reason {
				continue
			}
			n++
			if e.Series != nil {
				t.Errorf("event %s is repeated: %+v", reason, e.Series)
			}
		}
		if n != 1 {
			return fmt.Errorf("%d events %s of the node", n, reason)
		}
		return nil
	})
}

// awaitNothingForwarded waits until nothing of Berth's is in the kernel but an empty table of
// rules: the speaker still runs with --ipvs.
func (l *life) awaitNothingForwarded(t *testing.T) {
	t.Helper()
	cluster.Eventually(t, func(context.Context) error {
		if found := l.left(t); !slices.Equal(found, []string{"table inet berth-ipvs"}) {
			return fmt.Errorf("in the kernel there are still %q", found)
		}
		return nil
	})
	for _, a := range addresses {
		if rules := cluster.Run(t, l.node.Name, "nft", "list", "table", "inet", "berth-ipvs"); strings.Contains(rules, a) {
			t.Errorf("the rules have %s: %s", a, rules)
		}
	}
}
