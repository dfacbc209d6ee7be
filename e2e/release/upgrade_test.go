//go:build release

package release

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/e2e/lab"
	"github.com/berth-lb/berth/e2e/stage"
	"github.com/berth-lb/berth/e2e/stock"
)

// mixed is for how long each mixture of versions lasts, beside the time that it takes to get there.
const mixed = 15 * time.Second

// TestUpgrade upgrades Berth from its previous version, and goes back, by the commands of
// docs/guides/upgrade.md, while clients use Services by ARP, NDP and BGP. What
// docs/guides/upgrade.md says below "What may run together" is shown here; for IPVS by TestUpgrade
// of e2e/vm/nodes.
func TestUpgrade(t *testing.T) {
	u := raiseUpgrade(t)
	before := u.tables(t)
	for _, step := range []struct {
		name string
		run  func(*testing.T)
		want versions
	}{
		{name: "the previous version serves", run: func(*testing.T) {}, want: "old old old old"},
		{name: "new controllers, old speakers", run: u.block("### One node first", 0), want: "new old old old"},
		{name: "a new speaker beside two old ones", run: u.replace("n1"), want: "new new old old"},
		{name: "two new speakers beside an old one", run: u.replace("n2"), want: "new new new old"},
		{name: "all new", run: u.block("### One node first", 2), want: "new new new new"},
		{name: "back: no old speaker yet", run: u.block("### Back", 1), want: "new new new new"},
		{name: "back: an old speaker beside two new ones", run: u.replace("n1"), want: "new old new new"},
		{name: "back: two old speakers beside a new one", run: u.replace("n2"), want: "new old old new"},
		{name: "back: all speakers", run: u.block("### One node first", 2), want: "new old old old"},
		{name: "back: the controllers and CRDs", run: u.block("### Back", 0), want: "old old old old"},
		{name: "an upgrade in one go", run: u.block("## Upgrade", 0), want: "new new new new"},
		{name: "old controllers, new speakers", run: u.oldControllers, want: "old new new new"},
		{name: "all new but the CRDs", run: u.oldCRDs, want: "new new new new"},
		{name: "back in one go", run: u.block("### Back", 0), want: "old old old old"},
	} {
		if !t.Run(step.name, func(t *testing.T) { u.step(t, step.want, step.run) }) {
			return // what it left is not what the next expects
		}
	}
	u.command(t, "kubectl diff -f earlier/berth.yaml") // it fails if anything differs
	if after := u.tables(t); !maps.Equal(before, after) {
		t.Errorf("nodes had the tables of nftables %v, and have %v after the way back", before, after)
	}
}

// tables returns the names of Berth's tables of nftables, by node.
func (u *upgrade) tables(t *testing.T) map[string]string {
	t.Helper()
	tables := map[string]string{}
	for _, node := range u.Nodes() {
		out, err := u.Exec(t.Context(), node, "nft", "list", "tables").Output()
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for line := range strings.Lines(string(out)) {
			if strings.Contains(line, "berth") {
				names = append(names, strings.TrimSpace(line))
			}
		}
		tables[node] = strings.Join(names, ", ")
	}
	return tables
}

// versions are those of the controllers and of the speakers of n1, n2 and n3: old or new.
type versions string

// upgrade is a field whose Berth changes its version.
type upgrade struct {
	*field
	far      *corev1.Service
	watches  map[netip.Addr]*stage.Watch // by the address that is asked
	new      newClients
	statuses *stage.StatusWatch
	page     string
	files    map[string]string // the page's, by the names there
	total    tally
}

func raiseUpgrade(t *testing.T) *upgrade {
	t.Helper()
	folder, err := stock.Find()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(folder.PreviousManifest()); err != nil {
		t.Fatalf("the previous version is not built: run `lab build --previous` first: %v", err)
	}
	manifest, err := stage.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(filepath.Join(folder.Repository, "docs", "guides", "upgrade.md"))
	if err != nil {
		t.Fatal(err)
	}
	u := &upgrade{
		page:    string(page),
		files:   map[string]string{"manifests/berth.yaml": manifest, "earlier/berth.yaml": folder.PreviousManifest()},
		watches: map[netip.Addr]*stage.Watch{},
	}
	u.field = raiseField(t, fieldOptions{
		name:   "upgrade",
		router: "frr",
		pool:   []addressRange{{"172.30.0.200", 20}, {"fd00:30::200", 20}}, // freed ones rest for a minute
		every:  40 * time.Millisecond,
		before: func(ctx context.Context, s *stage.Stage) error {
			return s.LoadImage(ctx, folder.PreviousArchive())
		},
		manifest: folder.PreviousManifest(),
	})
	must(t, func(ctx context.Context) error {
		return u.Apply(ctx, `
apiVersion: berth.dev/v1alpha1
kind: LoadBalancerPool
metadata: {name: routed}
spec: {allocation: OnRequest, addresses: [198.51.100.0/24], scopes: [{namespaceSelector: {}, serviceSelector: {}}]}
---
`+stage.Router)
	}, func(ctx context.Context) error { return u.AwaitSpeakers(ctx, true) })
	far := u.service(corev1.IPv4Protocol)
	far.Annotations = map[string]string{v1alpha1.AnnotationPools: "routed"}
	if u.far, err = u.Create(t.Context(), far); err != nil {
		t.Fatal(err)
	}
	near := append(u.serve(t, corev1.IPv4Protocol, 3), u.serve(t, corev1.IPv6Protocol, 3)...)
	u.settled(t, time.Now())
	u.routed(t)
	if u.statuses, err = u.WatchStatuses(t.Context(), u.app.Namespace); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := u.statuses.Stop(); err != nil {
			t.Error(err)
		}
	})
	// Addresses have different owners: each is asked for. Their clients keep what they know of
	// neighbors, another host's do not.
	var asked []netip.Addr
	for _, svc := range append(near, u.far) {
		host := lab.Remote
		if svc != u.far {
			host, asked = lab.Client, append(asked, addressOf(svc))
		}
		w := u.StartWatch(
			context.WithoutCancel(t.Context()), host, addressOf(svc), 100*time.Millisecond, askTimeout, false,
		)
		t.Cleanup(func() { w.Stop() })
		u.watches[addressOf(svc)] = w
	}
	u.new.start(t, u.Stage, asked)
	t.Cleanup(func() { fmt.Println("upgrades, all together:", u.total) })
	return u
}

// routed waits until the router sends what is for the far Service to all nodes.
func (u *upgrade) routed(t *testing.T) {
	t.Helper()
	must(t, func(ctx context.Context) error {
		return u.AwaitRoutes(ctx, patience, addressOf(u.far), u.Nodes()...)
	})
}

// block returns a step that runs the commands of a block of the page: the one of this number below
// a heading.
func (u *upgrade) block(heading string, number int) func(*testing.T) {
	return func(t *testing.T) { u.follow(t, heading, number, nil) }
}

func (u *upgrade) follow(t *testing.T, heading string, number int, change func(string) string) {
	t.Helper()
	_, below, found := strings.Cut(u.page, "\n"+heading+"\n")
	if !found {
		t.Fatalf("the page has no heading %q", heading)
	}
	below, _, _ = strings.Cut(below, "\n#")
	blocks := strings.Split(below, "```sh\n")[1:]
	if len(blocks) <= number {
		t.Fatalf("below %q there are %d blocks of commands", heading, len(blocks))
	}
	text, _, _ := strings.Cut(blocks[number], "```")
	for line := range strings.Lines(text) {
		if change != nil {
			line = change(line)
		}
		u.command(t, line)
	}
}

// command runs a line of the page, which has no spaces between quotes.
func (u *upgrade) command(t *testing.T, line string) {
	t.Helper()
	args := strings.Fields(line)
	if args[0] != "kubectl" {
		t.Fatalf("this test cannot follow %q", line)
	}
	for i, arg := range args {
		args[i] = strings.Trim(arg, "'")
		if file := u.files[arg]; file != "" {
			args[i] = file
		}
	}
	if _, err := u.Kubectl(t.Context(), "", args[1:]...); err != nil {
		t.Fatal(err)
	}
}

// replace returns a step that replaces the speaker of a node.
func (u *upgrade) replace(node string) func(*testing.T) {
	return func(t *testing.T) {
		u.follow(t, "### One node first", 1, func(line string) string {
			return strings.ReplaceAll(line, "spec.nodeName=n1", "spec.nodeName="+node)
		})
	}
}

func (u *upgrade) oldControllers(t *testing.T) {
	u.command(t, "kubectl apply -f earlier/berth.yaml --selector app.kubernetes.io/component=controller")
	u.command(t, "kubectl -n berth-system rollout status deployment/berth-controller")
}

// oldCRDs has all new with CRDs that drop fields which the new version writes.
func (u *upgrade) oldCRDs(t *testing.T) {
	u.command(t, "kubectl apply -f manifests/berth.yaml --selector app.kubernetes.io/component=controller")
	u.command(t, "kubectl -n berth-system rollout status deployment/berth-controller")
	text, err := os.ReadFile(u.files["earlier/berth.yaml"])
	if err != nil {
		t.Fatal(err)
	}
	var crds []string
	for object := range strings.SplitSeq(string(text), "\n---\n") {
		if strings.Contains(object, "\nkind: CustomResourceDefinition\n") {
			crds = append(crds, object)
		}
	}
	if len(crds) != 7 {
		t.Fatalf("the previous version has %d CRDs", len(crds))
	}
	must(t, func(ctx context.Context) error { return u.Apply(ctx, strings.Join(crds, "\n---\n")) })
}

// step changes versions, lets the mixture last, and judges by what was seen in that time.
func (u *upgrade) step(t *testing.T, want versions, change func(*testing.T)) {
	begun, changes := time.Now(), len(u.statuses.Changes())
	change(t)
	u.versions(t, want)
	must(t, func(ctx context.Context) error { return u.AwaitSpeakers(ctx, true) })
	u.settled(t, time.Now())
	u.routed(t)
	rest := time.Now()
	u.newcomer(t)
	written := u.written(t)
	lasts(t, max(2*time.Second, time.Until(rest.Add(mixed))))
	if again := u.written(t); !maps.Equal(written, again) {
		t.Errorf("L2Owners were written although nothing changed: %v became %v", written, again)
	}
	u.unmoved(t, rest)
	u.overlaps(t, t.Name(), begun, time.Now())
	u.noConflicts(t)
	u.keeps(t, changes)
	u.judge(t, begun, rest, want)
}

// versions waits until all Pods are of the versions.
func (u *upgrade) versions(t *testing.T, want versions) {
	t.Helper()
	eventually(t, func(ctx context.Context) error {
		pods, err := u.Kubernetes.CoreV1().Pods(stage.Namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		images := map[string]string{stock.PreviousImage: "old", stock.BerthImage(): "new"}
		found, controllers := map[string]string{}, 0
		for _, pod := range pods.Items {
			place, image := pod.Spec.NodeName, images[pod.Spec.Containers[0].Image]
			if pod.Labels["app.kubernetes.io/component"] == "controller" {
				place, controllers = "controllers", controllers+1
			}
			switch {
			case pod.DeletionTimestamp != nil:
				return fmt.Errorf("%s ends", pod.Name)
			case found[place] != "" && found[place] != image:
				return fmt.Errorf("%s are %s and %s", place, found[place], image)
			case !slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
				return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
			}):
				return fmt.Errorf("%s is not ready", pod.Name)
			}
			found[place] = image
		}
		is := strings.Join([]string{found["controllers"], found["n1"], found["n2"], found["n3"]}, " ")
		if is != string(want) || controllers != 2 {
			return fmt.Errorf("the versions are %s, want %s", is, want)
		}
		return nil
	})
}

// newcomer creates a Service of each family in the mixture, which gets an address and is answered.
func (u *upgrade) newcomer(t *testing.T) {
	t.Helper()
	for _, family := range []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol} {
		svc := u.serve(t, family, 1)[0]
		eventually(t, func(ctx context.Context) error {
			_, err := u.AskHTTP(ctx, lab.Client, addressOf(svc))
			return err
		})
		u.settled(t, time.Now())
		u.announced(t)
		u.remove(t, svc)
	}
}

// announced waits until the statuses of all Services say that they are announced.
func (u *upgrade) announced(t *testing.T) {
	t.Helper()
	eventually(t, func(ctx context.Context) error {
		list, err := u.Kubernetes.CoreV1().Services(u.app.Namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, svc := range list.Items {
			for _, kind := range []string{v1alpha1.ServiceAllocated, v1alpha1.ServiceAnnounced} {
				if !meta.IsStatusConditionTrue(svc.Status.Conditions, kind) {
					return fmt.Errorf("Service %s has no %s: %+v", svc.Name, kind, svc.Status.Conditions)
				}
			}
		}
		return nil
	})
}

// written returns the versions of the L2Owners of addresses that are asked for.
func (u *upgrade) written(t *testing.T) map[string]string {
	t.Helper()
	list, err := u.Berth.L2Owners.List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	versions := map[string]string{}
	for _, o := range list.Items {
		if address, err := netip.ParseAddr(o.Status.Address); err == nil && u.watches[address] != nil {
			versions[o.Status.Address] = o.ResourceVersion
		}
	}
	return versions
}

// unmoved checks that since then no address has moved.
func (u *upgrade) unmoved(t *testing.T, since time.Time) {
	t.Helper()
	for address := range u.watches {
		if n := u.moves(address, since, time.Now()); n > 0 {
			t.Errorf(
				"%s moved %d times although no speaker changed: %s",
				address,
				n,
				u.capture.Of(address).Since(since),
			)
		}
	}
}

// keeps checks that no Service lost or changed its address.
func (u *upgrade) keeps(t *testing.T, since int) {
	t.Helper()
	for _, change := range u.statuses.Changes()[since:] {
		if len(change.Before) > 0 && !slices.Equal(change.Before, change.After) {
			t.Errorf("the status changed: %s", change)
		}
	}
	u.announced(t)
}

// askTimeout is how long a client waits for an answer.
const askTimeout = 3 * time.Second

// newClients are on the spine, and ask one after the other: each asks first who has the address.
type newClients struct {
	mu     sync.Mutex
	record map[netip.Addr]stage.Record // guarded by mu
}

func (n *newClients) start(t *testing.T, s *stage.Stage, addresses []netip.Addr) {
	n.record = map[netip.Addr]stage.Record{}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for i := 0; ctx.Err() == nil; i = (i + 1) % len(addresses) {
			r := stage.Request{Sent: time.Now(), Err: s.FlushNeighbors(lab.Spine)}
			if r.Err == nil {
				one, end := context.WithTimeout(ctx, askTimeout)
				r.Answer, r.Err = s.AskHTTP(one, lab.Spine, addresses[i])
				end()
			}
			r.Done = time.Now()
			if ctx.Err() == nil {
				n.mu.Lock()
				n.record[addresses[i]] = append(n.record[addresses[i]], r)
				n.mu.Unlock()
			}
			select {
			case <-ctx.Done():
			case <-tick.C:
			}
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
}

func (n *newClients) of(address netip.Addr) stage.Record {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.record[address])
}

// tally is what became of connections.
type tally struct{ asked, failed, broken, hung, slow int }

func (c tally) String() string {
	return fmt.Sprintf(
		"%d new connections, %d failed, %d reset in mid-flight, %d hung in mid-flight at the previous version, "+
			"%d answered after a second or more", c.asked, c.failed, c.broken, c.hung, c.slow,
	)
}

func (c tally) plus(d tally) tally {
	return tally{c.asked + d.asked, c.failed + d.failed, c.broken + d.broken, c.hung + d.hung, c.slow + d.slow}
}

// previousHangs: where an address moves to a speaker of 9e1868a, a connection that is being made in
// that moment may hang, as two in 190 moves did, instead of being reset. Whatever is upgraded from
// that version has that before, too. The next previous version has not: then this goes.
const previousHangs = true

// hung reports whether a connection was open while the address moved to an old speaker.
func (u *upgrade) hung(address netip.Addr, r stage.Request, now versions) bool {
	if !previousHangs || !errors.Is(r.Err, context.DeadlineExceeded) ||
		u.moves(address, r.Sent.Add(-time.Second), r.Sent.Add(time.Second)) == 0 {
		return false
	}
	owner := u.capture.Of(address).Between(r.Sent.Add(time.Second), r.Done).Hosts()
	speakers := strings.Fields(string(now))[1:]
	i := slices.IndexFunc(u.Nodes(), func(node string) bool { return slices.Equal(owner, []string{node}) })
	return i >= 0 && speakers[i] == "old"
}

// judge wants no new connection to have failed since a moment, and none to have been reset since
// nothing changes any longer. Those before are those that were open when an address moved.
func (u *upgrade) judge(t *testing.T, begun, rest time.Time, now versions) {
	t.Helper()
	var all tally
	for _, address := range slices.SortedFunc(maps.Keys(u.watches), netip.Addr.Compare) {
		for _, r := range append(u.watches[address].Record(), u.new.of(address)...) {
			if r.Done.Before(begun) {
				continue
			}
			all.asked++
			switch {
			case r.Broken():
				all.broken++
				fmt.Printf("\t%s: reset at %s, %s after it was begun\n", address, r.Done.Format("15:04:05.000"),
					r.Done.Sub(r.Sent).Round(time.Millisecond))
				if r.Sent.After(rest) {
					t.Errorf("%s: a connection was reset although nothing changed: %v", address, r.Err)
				}
				if address != addressOf(u.far) &&
					u.moves(address, r.Sent.Add(-time.Second), r.Done.Add(time.Second)) == 0 {
					t.Errorf("%s: a connection was reset although the address did not move: %v", address, r.Err)
				}
			case r.Err != nil && u.hung(address, r, now):
				all.hung++
				fmt.Printf("\t%s: hung at the previous version, from %s on\n", address, r.Sent.Format("15:04:05.000"))
			case r.Err != nil:
				all.failed++
				t.Errorf("%s: a new connection of %s failed at %s: %v", address, r.Sent.Format("15:04:05.000"),
					r.Done.Format("15:04:05.000"), r.Err)
			case r.Done.Sub(r.Sent) >= time.Second:
				all.slow++
			}
		}
	}
	fmt.Printf("%s: %s\n", t.Name(), all)
	u.total = u.total.plus(all)
	if all.asked == 0 {
		t.Error("nobody asked")
	}
}
