//go:build root

package plugin

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/e2e/lab"
	"github.com/berth-lb/berth/e2e/stage"
	"github.com/berth-lb/berth/kubectl/cluster"
)

var rewrite = flag.Bool("rewrite", false, "write the golden files again")

// mistake is something that users do wrong, and what they can read about it.
type mistake struct {
	name string
	yaml string
	// refused: the API server does not take the YAML.
	refused bool
	// also is done after the YAML is applied, and undo takes it back.
	also, undo func(context.Context) error
	// says is what the verdict must contain: when it does, all has settled.
	says string
	// told: the condition must contain it, too, which is a while behind what sessions say.
	told bool
}

// routed is a pool and its announcement to a neighbor, which the spec describes.
func routed(spec string) string {
	return pool("office", "192.0.2.0/24") + fmt.Sprintf(`
apiVersion: berth.dev/v1alpha1
kind: BGPNeighbor
metadata: {name: office}
spec: {localASN: %d, address: 172.30.0.1, holdTime: 3s, connectRetryTime: 1s, nodeSelector: {}, %s}
---
apiVersion: berth.dev/v1alpha1
kind: RouteAnnouncement
metadata: {name: office}
spec: {poolNames: [office], neighborNames: [office], nodeSelector: {}, serviceSelector: {}}
---
`, lab.NodeAS, spec)
}

const fromOffice = "berth.dev/pools: office"

// afterFirst applies the Service shop when the Service first has its address.
func afterFirst(yaml string) func(context.Context) error {
	return func(ctx context.Context) error {
		return errors.Join(
			kubectl(
				"wait",
				"service",
				"first",
				"-n",
				"plugin",
				"--for=jsonpath={.status.loadBalancer.ingress}",
				"--timeout=80s",
			)(
				ctx,
			),
			scene.Apply(ctx, yaml),
		)
	}
}

// withoutTor takes the neighbor of the lab's router away: a router has one session with a node.
var withoutTor = kubectl("delete", "bgpneighbor.berth.dev", "tor")

func withTor(ctx context.Context) error {
	if err := scene.Configure(ctx); err != nil {
		return err
	}
	return scene.AwaitSpeakers(ctx, true)
}

var mistakes = []mistake{
	{name: "01 a bad prefix", yaml: pool("office", `"192.0.2.0/33"`), refused: true},
	{name: "02 host bits", yaml: pool("office", `"192.0.2.7/24"`), refused: true},
	{
		name: "03 a reversed range", says: "is reversed",
		yaml: pool("office", `"192.0.2.20-192.0.2.10"`) + pinned(fromOffice, ""),
	},
	{
		name: "04 pools that overlap", says: "172.30.0.210",
		yaml: pool("office", "172.30.0.210/32") + pinned(fromOffice, ""),
	},
	{
		name: "05 an address outside all pools", says: "203.0.113.5",
		yaml: pinned(`berth.dev/load-balancer-ips: "203.0.113.5"`, ""),
	},
	{
		name: "06 no announcement", says: "answers nowhere",
		yaml: pool("office", "192.0.2.0/24") + pinned(fromOffice, ""),
	},
	{
		name: "07 a wrong AS number", says: "each of n1, n2 has no established session with a neighbor selected there (BGPNeighbor office: peer says",
		yaml: routed("remoteASN: 64999") + pinned(fromOffice, ""), also: withoutTor, undo: withTor, told: true,
	},
	{
		name: "08 a password that the router does not have", says: "each of n1, n2 has no established session with a neighbor selected there (BGPNeighbor office: peer answers without",
		yaml: `
apiVersion: v1
kind: Secret
metadata: {name: office, namespace: berth-system}
type: kubernetes.io/basic-auth
stringData: {password: not-the-routers}
---
` + routed(fmt.Sprintf("remoteASN: %d, authentication: {type: TCPMD5, tcpMD5: {secretName: office}}", lab.RouterAS)) + pinned(fromOffice, ""),
		also: withoutTor, undo: withTor, told: true,
	},
	{
		name: "09 no Secret", says: "there is no Secret",
		yaml: routed(
			fmt.Sprintf("remoteASN: %d, authentication: {type: TCPMD5, tcpMD5: {secretName: office}}", lab.RouterAS),
		) + pinned(
			fromOffice,
			"",
		),
		also: withoutTor, undo: withTor,
	},
	{name: "10 another class", says: "metallb", yaml: pinned("", ", loadBalancerClass: metallb")},
	{
		name: "11 all nodes excluded", says: exclude, yaml: pinned("", ""),
		also: kubectl("label", "nodes", "--all", exclude+"="), undo: kubectl("label", "nodes", "--all", exclude+"-"),
	},
	{
		name: "12 a pool that is full", says: "no IPv4 address is free",
		yaml: pool("office", "192.0.2.77") + strings.Replace(pinned(fromOffice, ""), "shop", "first", 1),
		also: afterFirst(pinned(fromOffice, "")),
	},
	{
		name: "13 a name with a typing error", says: "offce",
		yaml: pool("office", "192.0.2.0/24") + segment("office", "poolNames: [offce]") + pinned(fromOffice, ""),
	},
	{
		name: "14 a selector that no Pod has", says: "no Pod in namespace plugin",
		yaml: strings.Replace(pinned("", ""), "app: web", "app: wbe", 1),
	},
	{
		name: "15 a port that no Pod has", says: "htpp",
		yaml: strings.Replace(pinned("", ""), "8080", "htpp", 1),
	},
	{
		name: "16 Pods that are not ready", says: "ErrImageNeverPull",
		yaml: strings.Replace(pinned("", ""), "app: web", "app: sick", 1) + `
apiVersion: v1
kind: Pod
metadata: {name: sick, namespace: plugin, labels: {app: sick}}
spec:
  containers: [{name: sick, image: berth.dev/no-such-image:1, imagePullPolicy: Never}]
---
`,
	},
	{
		name: "17 no controller", says: "scaled to 0",
		also: func(ctx context.Context) error {
			return errors.Join(
				kubectl("scale", "deployment", "berth-controller", "-n", stage.Namespace, "--replicas=0")(ctx),
				kubectl(
					"wait",
					"pods",
					"-n",
					stage.Namespace,
					"-l",
					"app.kubernetes.io/component=controller",
					"--for=delete",
					"--timeout=60s",
				)(
					ctx,
				),
				scene.Apply(ctx, pinned("", "")),
			)
		},
		undo: func(ctx context.Context) error {
			return errors.Join(
				kubectl(
					"scale",
					"deployment",
					"berth-controller",
					"-n",
					stage.Namespace,
					"--replicas=2",
				)(
					ctx,
				),
				scene.AwaitBerth(ctx),
			)
		},
	},
	{
		name: "18 an address that another Service has", says: "plugin/first",
		yaml: strings.Replace(pinned(`berth.dev/load-balancer-ips: "172.30.0.222"`, ""), "shop", "first", 1),
		also: afterFirst(pinned(`berth.dev/load-balancer-ips: "172.30.0.222"`, "")),
	},
	{
		name: "19 a pool for other namespaces", says: "plugin",
		yaml: strings.Replace(
			pool("office", "192.0.2.0/24"),
			"namespaceSelector: {}",
			"namespaceNames: [finance]",
			1,
		) + pinned(
			fromOffice,
			"",
		),
	},
	{
		name: "20 an interface that no node has", says: "spec.interfaces there",
		yaml: pool(
			"office",
			"192.0.2.0/24",
		) + segment(
			"office",
			"poolNames: [office], interfaces: [bond0]",
		) + pinned(
			fromOffice,
			"",
		),
	},
}

// TestMistakes makes each mistake, and compares all that a user can read with the golden file.
func TestMistakes(t *testing.T) {
	for _, m := range mistakes {
		t.Run(m.name, func(t *testing.T) { m.make(t) })
	}
}

func (m mistake) make(t *testing.T) {
	t.Helper()
	ctx := t.Context()
	t.Cleanup(func() {
		ctx := context.WithoutCancel(ctx)
		if _, err := scene.Kubectl(ctx, m.yaml+pinned("", ""), "delete", "--ignore-not-found", "-f", "-"); err != nil {
			t.Error(err)
		}
		if m.undo != nil {
			if err := m.undo(ctx); err != nil {
				t.Error(err)
			}
		}
	})
	var text strings.Builder
	var err error
	if m.yaml != "" {
		_, err = scene.Kubectl(ctx, m.yaml, "apply", "-f", "-")
	}
	if m.refused {
		if err == nil {
			t.Fatal("the API server took it")
		}
		fmt.Fprintf(&text, "$ kubectl apply -f mistake.yaml\n%v\n", err)
	} else {
		if err == nil && m.also != nil {
			err = m.also(ctx)
		}
		if err != nil {
			t.Fatal(err)
		}
		before := ""
		eventually(t, func(ctx context.Context) error { // until two looks in a row find the same
			conditions := m.conditions(t) // before the rest, which must not be older
			got, verdict := m.look(t)
			same := steady(got) == steady(before)
			before = got
			switch {
			case !strings.Contains(verdict, m.says):
				return fmt.Errorf("the verdict is %q, want %q in it", verdict, m.says)
			case m.told && !strings.Contains(conditions, m.says):
				return fmt.Errorf("the conditions are %q, want %q in them", conditions, m.says)
			case !same:
				return errors.New("it changes still")
			}
			return nil
		})
		text.WriteString(before)
	}
	golden := filepath.Join("testdata", "mistakes", strings.ReplaceAll(m.name, " ", "-")+".txt")
	got := steady(text.String())
	if *rewrite {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got; -rewrite writes it again):\n%s", golden, diff)
	}
}

// look returns all that a user can read about the Service, and the plugin's verdict.
func (m mistake) look(t *testing.T) (text, verdict string) {
	t.Helper()
	why := berth(t, "why", "shop", "-n", "plugin")
	if why.code != 1 {
		return why.out + why.err, fmt.Sprintf("exit code %d", why.code)
	}
	_, verdict, _ = strings.Cut(why.out, "\nWhy: ")
	text = fmt.Sprintf("$ kubectl get service shop\n%s", m.get(t, "get", "service", "shop", "-n", "plugin")) +
		fmt.Sprintf("$ kubectl get service shop -o yaml    # its conditions\n%s", m.conditions(t)) +
		fmt.Sprintf("$ kubectl get events    # about it, of these reasons\n%s", m.events(t)) +
		fmt.Sprintf("$ kubectl berth why shop\n%s%s", why.err, why.out)
	return text, verdict
}

func (m mistake) get(t *testing.T, args ...string) string {
	t.Helper()
	out, err := scene.Kubectl(t.Context(), "", args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// conditions returns the conditions of the Service, as troubleshooting.md prints them.
func (m mistake) conditions(t *testing.T) string {
	t.Helper()
	return m.get(
		t,
		"get",
		"service",
		"shop",
		"-n",
		"plugin",
		"-o",
		`jsonpath={range .status.conditions[?(@.type!="berth.dev/Record")]}{.type}={.status} {.reason}: {.message}{"\n"}{end}`,
	)
}

// events returns Berth's last event about the Service for each reason that its conditions have. On
// the way there may have been others.
func (m mistake) events(t *testing.T) string {
	t.Helper()
	list, err := scene.Kubernetes.CoreV1().
		Events("plugin").
		List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=shop"})
	if err != nil {
		t.Fatal(err)
	}
	svc, err := scene.Kubernetes.CoreV1().Services("plugin").Get(t.Context(), "shop", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	conditions := m.conditions(t)
	last := map[string]corev1.Event{}
	for _, e := range list.Items {
		if e.InvolvedObject.UID != svc.UID || !strings.HasPrefix(reporter(e), "berth") ||
			!strings.Contains(conditions, " "+e.Reason+": ") {
			continue
		}
		if had, is := last[e.Reason]; !is || cluster.LastSeen(&had).Before(cluster.LastSeen(&e)) {
			last[e.Reason] = e
		}
	}
	var text strings.Builder
	for _, reason := range slices.Sorted(maps.Keys(last)) {
		fmt.Fprintf(&text, "%s %s: %s\n", last[reason].Type, reason, last[reason].Message)
	}
	return text.String()
}

func reporter(e corev1.Event) string {
	if e.ReportingController != "" {
		return e.ReportingController
	}
	return e.Source.Component
}

// what changes from run to run.
var unsteady = []struct {
	pattern *regexp.Regexp
	with    string
}{
	{regexp.MustCompile(`berth-controller-[0-9a-z]+-[0-9a-z]+`), "berth-controller-POD"},
	{regexp.MustCompile(`web-[0-9a-z]+-[0-9a-z]{5}\b`), "web-POD"},
	{regexp.MustCompile(`10\.96\.\d+\.\d+ *`), "CLUSTER-IP "},
	{regexp.MustCompile(`80:\d+/TCP`), "80:NODE-PORT/TCP"},
	{regexp.MustCompile(`\b(?:[0-9a-f]{2}:){5}[0-9a-f]{2}\b`), "MAC"},
	{regexp.MustCompile(`\b(?:\d+[hms])+(?:\d+ms)?\b`), "AGE"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT[0-9:.]+Z`), "TIME"},
	{regexp.MustCompile(`172\.30\.0\.2(?:[013-9]\d|2[013-9])\b`), "172.30.0.ADDRESS"},
	{regexp.MustCompile(`\b192\.0\.2\.\d\b([^/\d-])`), "192.0.2.ADDRESS$1"},
	{regexp.MustCompile(` *\t *| +`), " "},
	{regexp.MustCompile(`(?m)^note (Forwarding .*); the Service is younger .*$`), "ok $1"},
	{regexp.MustCompile(`, so a client that missed the announcement .*`), ""},
	{regexp.MustCompile(`\bn[12] (answers for|has it)`), "NODE $1"},
	// The events stand above, each once.
	{regexp.MustCompile(`Events the last \d`), "Events the last N"},
	{regexp.MustCompile(`(?m)^ AGE (?:Normal|Warning) .*\n`), ""},
}

func steady(text string) string {
	for _, u := range unsteady {
		text = u.pattern.ReplaceAllString(text, u.with)
	}
	return text
}
