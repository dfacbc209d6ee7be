//go:build root

// Package api tests what Berth asks of a real API server, with exactly the rights
// that manifests/ give it.
package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/events"

	"github.com/berth-lb/berth/config/client"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/controller"
	"github.com/berth-lb/berth/e2e/lab"
	"github.com/berth-lb/berth/e2e/stage"
)

const (
	patience    = 15 * time.Second
	serviceCIDR = "10.96.0.0/16" // of the lab, IPv4
)

var scene *stage.Stage // of all tests of the package

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	l, err := lab.Up(ctx, lab.Options{
		Name: fmt.Sprintf("api%d", os.Getpid()), Nodes: 1, DualStack: true, Log: os.Stderr,
		Kubernetes: os.Getenv("BERTH_KUBERNETES"), // for `make test-minors`
	})
	if err == nil {
		defer func() {
			if err := l.Down(context.WithoutCancel(ctx)); err != nil {
				fmt.Fprintln(os.Stderr, "lab down:", err)
			}
		}()
		scene, err = stage.New(l, true)
	}
	if err == nil {
		programDir, err = os.MkdirTemp("", "berth-program-")
		defer func() { _ = os.RemoveAll(programDir) }()
	}
	if err == nil {
		err = prepare(ctx)
	}
	var reasons *recorder
	if err == nil {
		reasons, err = record(ctx, scene)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if code := m.Run(); code != 0 || !complete() {
		return code
	}
	unlike, err := reasons.unlike()
	unused, err2 := unusedRights(scene)
	if err := errors.Join(err, err2); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if faults := slices.Concat(unlike, unused); len(faults) > 0 {
		fmt.Fprintln(os.Stderr, "FAIL: what holds of all tests together\n\t"+strings.Join(faults, "\n\t"))
		return 1
	}
	return 0
}

// prepare applies only what the tests need of manifests/.
func prepare(ctx context.Context) error {
	file, err := stage.Manifest()
	if err != nil {
		return err
	}
	dir := filepath.Dir(file)
	for _, args := range [][]string{
		{"apply", "-f", dir + "/namespace.yaml", "-f", dir + "/crds"},
		{
			"apply", "-n", stage.Namespace, "-f", dir + "/rbac-controller.yaml", "-f", dir + "/rbac-speaker.yaml",
			"-f", dir + "/rbac-tenants.yaml", "-f", dir + "/admission-speaker.yaml",
		},
		{"wait", "--for=condition=Established", "crd", "--all", "--timeout=30s"},
	} {
		if _, err := scene.Kubectl(ctx, "", args...); err != nil {
			return err
		}
	}
	return nil
}

// running is a controller at work.
type running struct {
	registry *prometheus.Registry
	stop     func()
}

// start runs a controller with the token of its ServiceAccount.
func start(t *testing.T) *running {
	t.Helper()
	return startAs(t, (*controller.Controller).Lead)
}

// startAs runs a controller that is led in this way, with options that are changed so.
func startAs(
	t *testing.T,
	lead func(*controller.Controller, context.Context) error,
	change ...func(*controller.Options),
) *running {
	t.Helper()
	config := configOf(t, "berth-controller", nil)
	set, err := kubernetes.NewForConfig(config)
	must(t, err)
	own, err := client.New(config)
	must(t, err)
	scheme := runtime.NewScheme()
	must(t, errors.Join(clientscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)))
	broadcaster := events.NewBroadcaster(&events.EventSinkImpl{Interface: set.EventsV1()})
	ctx, cancel := context.WithCancel(context.Background())
	must(t, broadcaster.StartRecordingToSinkWithContext(ctx))

	r := &running{registry: prometheus.NewRegistry()}
	options := controller.Options{
		Kubernetes: set, Berth: own, Events: broadcaster.NewRecorder(scheme, "berth-controller"),
		Logger: slog.New(slog.NewTextHandler(io.Discard, nil)), Metrics: r.registry,
		Namespace: stage.Namespace, Classless: true,
	}
	if !since(t, "1.33.0") { // the API server has no ServiceCIDRs
		options.ServiceCIDRs = []netip.Prefix{netip.MustParsePrefix(serviceCIDR)}
	}
	for _, c := range change {
		c(&options)
	}
	c, err := controller.New(options)
	must(t, err)
	ended := make(chan error, 2)
	go func() { ended <- c.Watch(ctx) }()
	go func() { ended <- lead(c, ctx) }()
	stopped := false
	r.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		for range 2 {
			if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
				t.Errorf("controller: %v", err)
			}
		}
		broadcaster.Shutdown()
	}
	t.Cleanup(r.stop)
	return r
}

// configOf returns the way to the API server with a token of a ServiceAccount of
// Berth's, bound to an object if there is one.
func configOf(t *testing.T, account string, bound *authenticationv1.BoundObjectReference) *rest.Config {
	t.Helper()
	token, err := scene.Kubernetes.CoreV1().ServiceAccounts(stage.Namespace).CreateToken(
		t.Context(),
		account,
		&authenticationv1.TokenRequest{
			Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: bound},
		},
		metav1.CreateOptions{},
	)
	must(t, err)
	admin, err := scene.RESTConfig()
	must(t, err)
	config := rest.AnonymousClientConfig(admin)
	config.UserAgent = account + "/test" // it names the field manager
	config.BearerToken = token.Status.Token
	config.QPS, config.Burst = 500, 1000
	config.Dial = admin.Dial
	return config
}

// writes returns how often the controller wrote the status of a Service.
func (r *running) writes(t *testing.T) float64 {
	t.Helper()
	return r.count(t, "berth_service_status_writes_total")
}

// count returns the value of a counter of the controller.
func (r *running) count(t *testing.T, name string) float64 {
	t.Helper()
	families, err := r.registry.Gather()
	must(t, err)
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	t.Fatal("no metric " + name)
	return 0
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// namespace makes a namespace of the test's own, and deletes it with its Services,
// and all configuration, at the end.
func namespace(t *testing.T) string {
	t.Helper()
	ns, err := scene.Kubernetes.CoreV1().Namespaces().Create(
		t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "t-"}}, metav1.CreateOptions{},
	)
	must(t, err)
	t.Cleanup(func() {
		ctx := context.Background()
		for _, args := range [][]string{
			{"delete", "services,addressreservations", "--all", "-n", ns.Name, "--ignore-not-found"},
			{"delete", "loadbalancerpools,segmentannouncements,routeannouncements,bgpneighbors", "--all"},
			{"delete", "namespace", ns.Name, "--wait=false"},
		} {
			if _, err := scene.Kubectl(ctx, "", args...); err != nil {
				t.Error(err)
			}
		}
	})
	return ns.Name
}

func makePool(t *testing.T, name string, addresses ...string) {
	t.Helper()
	apply(t, "LoadBalancerPool", name, fmt.Sprintf(`{addresses: ["%s"]}`, strings.Join(addresses, `", "`)))
}

// makeService creates a Service of type LoadBalancer.
func makeService(t *testing.T, ns, name string, change func(*corev1.ServiceSpec)) {
	t.Helper()
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}, Spec: corev1.ServiceSpec{
		Type: corev1.ServiceTypeLoadBalancer, Ports: []corev1.ServicePort{{Port: 80}},
		Selector: map[string]string{"app": name},
	}}
	if change != nil {
		change(&svc.Spec)
	}
	_, err := scene.Kubernetes.CoreV1().Services(ns).Create(t.Context(), svc, metav1.CreateOptions{})
	must(t, err)
}

func get(t *testing.T, ns, name string) *corev1.Service {
	t.Helper()
	svc, err := scene.Kubernetes.CoreV1().Services(ns).Get(t.Context(), name, metav1.GetOptions{})
	must(t, err)
	return svc
}

// await waits until the Service has exactly these addresses, and the condition
// Allocated this reason.
func await(t *testing.T, ns, name, reason string, addresses ...string) *corev1.Service {
	t.Helper()
	var svc *corev1.Service
	must(t, stage.Eventually(t.Context(), patience, func(context.Context) error {
		svc = get(t, ns, name)
		var got []string
		for _, a := range stage.Addresses(svc) {
			got = append(got, a.String())
		}
		c := meta.FindStatusCondition(svc.Status.Conditions, v1alpha1.ServiceAllocated)
		if c == nil || c.Reason != reason || !slices.Equal(got, addresses) {
			return fmt.Errorf("Service %s has %v and condition %+v, want %v and %s", name, got, c, addresses, reason)
		}
		return nil
	}))
	return svc
}

func families(policy corev1.IPFamilyPolicy, list ...corev1.IPFamily) func(*corev1.ServiceSpec) {
	return func(s *corev1.ServiceSpec) { s.IPFamilyPolicy, s.IPFamilies = &policy, list }
}

func pin(address string) func(*corev1.ServiceSpec) {
	return func(s *corev1.ServiceSpec) { s.LoadBalancerIP = address }
}

// Services get addresses of the IP families that they request.
func TestAllocationByFamily(t *testing.T) {
	ns := namespace(t)
	start(t)
	makePool(t, "p", "192.0.2.1-192.0.2.9", "2001:db8::1-2001:db8::9")
	makeService(t, ns, "four", families(corev1.IPFamilyPolicySingleStack, corev1.IPv4Protocol))
	await(t, ns, "four", "Allocated", "192.0.2.1")
	makeService(t, ns, "six", families(corev1.IPFamilyPolicySingleStack, corev1.IPv6Protocol))
	await(t, ns, "six", "Allocated", "2001:db8::1")
	makeService(t, ns, "dual", families(corev1.IPFamilyPolicyRequireDualStack, corev1.IPv6Protocol, corev1.IPv4Protocol))
	svc := await(t, ns, "dual", "Allocated", "2001:db8::2", "192.0.2.2")
	for _, i := range svc.Status.LoadBalancer.Ingress {
		if i.IPMode == nil || *i.IPMode != corev1.LoadBalancerIPModeVIP {
			t.Errorf("ingress %+v, want ipMode VIP", i)
		}
	}
	must(t, stage.Eventually(t.Context(), patience, func(ctx context.Context) error {
		p, err := scene.Berth.LoadBalancerPools.Get(ctx, "p", metav1.GetOptions{})
		if err != nil {
			return err
		}
		four := v1alpha1.AddressUsage{Total: "9", Assigned: "2", Reserved: "0", Excluded: "0", Resting: "0", Free: "7"}
		six := four
		four.Next, six.Next = "192.0.2.3", "2001:db8::3"
		if diff := cmp.Diff(
			[]v1alpha1.AddressUsage{four, six}, []v1alpha1.AddressUsage{p.Status.IPv4, p.Status.IPv6},
		); diff != "" {
			return errors.New(diff)
		}
		return nil
	}))
}

// PreferDualStack is satisfied with one family until a pool has the other.
func TestAllocationPreferDualStack(t *testing.T) {
	ns := namespace(t)
	start(t)
	makePool(t, "four", "192.0.2.1/32")
	makeService(t, ns, "web", families(corev1.IPFamilyPolicyPreferDualStack, corev1.IPv4Protocol, corev1.IPv6Protocol))
	await(t, ns, "web", "FamilyMissing", "192.0.2.1")
	makePool(t, "six", "2001:db8::1/128")
	await(t, ns, "web", "Allocated", "192.0.2.1", "2001:db8::1")
}

// A request that cannot be met is explained, and met as soon as possible.
func TestAllocationExplainsAndWaits(t *testing.T) {
	for _, c := range []struct {
		name    string
		pool    string
		change  func(*corev1.ServiceSpec)
		reason  string
		message string
		fix     func(t *testing.T, ns string)
		after   string
	}{
		{
			name:    "no pool",
			reason:  "NoPool",
			message: "no LoadBalancerPool gives IPv4 addresses to this Service automatically; create one with allocation Automatic, or name one in annotation berth.dev/pools",
			fix:     func(t *testing.T, _ string) { makePool(t, "p", "192.0.2.5/32") },
			after:   "192.0.2.5",
		},
		{
			name:    "full pool",
			pool:    "192.0.2.1/32",
			reason:  "PoolExhausted",
			message: "no IPv4 address is free in LoadBalancerPool p; add some to its spec.addresses, or create another pool",
			fix:     func(t *testing.T, ns string) { remove(t, ns, "first") },
			after:   "192.0.2.1",
		},
		{
			name:    "address in use",
			pool:    "192.0.2.1-192.0.2.2",
			change:  pin("192.0.2.1"),
			reason:  "AddressInUse",
			message: "spec.loadBalancerIP: 192.0.2.1 is held by Service NS/first; ask for another here, or have that Service ask for another",
			fix:     func(t *testing.T, ns string) { remove(t, ns, "first") },
			after:   "192.0.2.1",
		},
		{
			name:    "outside the pools",
			pool:    "192.0.2.1-192.0.2.2",
			change:  pin("203.0.113.1"),
			reason:  "AddressOutsidePools",
			message: "spec.loadBalancerIP: 203.0.113.1 is in no LoadBalancerPool; ask for an address of one (kubectl get loadbalancerpools.berth.dev), or add it to spec.addresses of one",
			fix:     func(t *testing.T, _ string) { makePool(t, "q", "203.0.113.0/24") },
			after:   "203.0.113.1",
		},
		{
			name: "wrong family",
			pool: "192.0.2.1-192.0.2.2",
			change: func(s *corev1.ServiceSpec) {
				families(corev1.IPFamilyPolicySingleStack, corev1.IPv4Protocol)(s)
				pin("2001:db8::1")(s)
			},
			reason:  "FamilyMismatch",
			message: "spec.loadBalancerIP: 2001:db8::1 is IPv6, and spec.ipFamilies has [IPv4] only",
			fix:     func(t *testing.T, ns string) { patch(t, ns, "web", `{"spec":{"loadBalancerIP":""}}`) },
			after:   "192.0.2.2",
		},
		{
			name:    "no address",
			pool:    "192.0.2.1-192.0.2.2",
			change:  pin("example"),
			reason:  "InvalidAddress",
			message: `spec.loadBalancerIP: "example" is not an IP address; write one such as 192.0.2.1, or take it out`,
			fix:     func(t *testing.T, ns string) { patch(t, ns, "web", `{"spec":{"loadBalancerIP":"192.0.2.2"}}`) },
			after:   "192.0.2.2",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			ns := namespace(t)
			start(t)
			if c.pool != "" {
				makePool(t, "p", c.pool)
				makeService(t, ns, "first", pin("192.0.2.1"))
				await(t, ns, "first", "Allocated", "192.0.2.1")
			}
			makeService(t, ns, "web", c.change)
			svc := await(t, ns, "web", c.reason)
			want := strings.ReplaceAll(c.message, "NS", ns)
			if got := meta.FindStatusCondition(svc.Status.Conditions, v1alpha1.ServiceAllocated).Message; got != want {
				t.Errorf("message\n got %s\nwant %s", got, want)
			}
			awaitEvent(t, ns, "web", c.reason)
			c.fix(t, ns)
			await(t, ns, "web", "Allocated", c.after)
		})
	}
}

func remove(t *testing.T, ns, name string) {
	t.Helper()
	must(t, scene.Kubernetes.CoreV1().Services(ns).Delete(t.Context(), name, metav1.DeleteOptions{}))
}

func patch(t *testing.T, ns, name, with string, subresource ...string) {
	t.Helper()
	_, err := scene.Kubernetes.CoreV1().Services(
		ns,
	).Patch(
		t.Context(),
		name,
		"application/merge-patch+json",
		[]byte(with),
		metav1.PatchOptions{},
		subresource...)
	must(t, err)
}

// awaitEvent waits for an event about the Service, found as kubectl describe does.
func awaitEvent(t *testing.T, ns, name, reason string) {
	t.Helper()
	uid := get(t, ns, name).UID
	must(t, stage.Eventually(t.Context(), patience, func(ctx context.Context) error {
		list, err := scene.Kubernetes.CoreV1().Events(
			ns,
		).List(
			ctx,
			metav1.ListOptions{FieldSelector: "involvedObject.uid=" + string(uid) + ",reason=" + reason},
		)
		if err == nil && len(list.Items) == 0 {
			err = fmt.Errorf("no event %s about %s", reason, name)
		}
		return err
	}))
}

// Services that cannot get both families take no address, and do not requeue each other.
func TestAllocationRequireDualStack(t *testing.T) {
	ns := namespace(t)
	r := start(t)
	makePool(t, "four", "192.0.2.1-192.0.2.9")
	for _, name := range []string{"a", "b"} {
		makeService(t, ns, name, families(corev1.IPFamilyPolicyRequireDualStack, corev1.IPv4Protocol, corev1.IPv6Protocol))
		await(t, ns, name, "NoPool")
	}
	if n := r.count(t, "berth_allocations_total"); n != 0 {
		t.Errorf("%v allocations for requests that cannot be met, want none", n)
	}
	makePool(t, "six", "2001:db8::1-2001:db8::9")
	for _, name := range []string{"a", "b"} {
		must(t, stage.Eventually(t.Context(), patience, func(context.Context) error {
			if got := len(stage.Addresses(get(t, ns, name))); got != 2 {
				return fmt.Errorf("Service %s has %d addresses, want both", name, got)
			}
			return nil
		}))
	}
}

// A hello key that is missing or damaged is replaced.
func TestHelloKeyIsReplaced(t *testing.T) {
	namespace(t)
	start(t)
	secrets := scene.Kubernetes.CoreV1().Secrets(stage.Namespace)
	good := func(ctx context.Context) error {
		s, err := secrets.Get(ctx, v1alpha1.HelloSecret, metav1.GetOptions{})
		if err == nil && len(s.Data[v1alpha1.HelloKey]) != 32 {
			err = fmt.Errorf("the key has %d bytes", len(s.Data[v1alpha1.HelloKey]))
		}
		return err
	}
	must(t, stage.Eventually(t.Context(), patience, good))
	ns := namespace(t)
	makePool(t, "p", "192.0.2.1/32")
	makeService(t, ns, "web", nil)
	await(t, ns, "web", "Allocated", "192.0.2.1") // the controller leads, and has read the keys
	signs := helloSecret(t).Data[v1alpha1.RecordKey]
	must(t, secrets.Delete(t.Context(), v1alpha1.HelloSecret, metav1.DeleteOptions{}))
	must(t, stage.Eventually(t.Context(), patience, good))
	if again := helloSecret(t).Data[v1alpha1.RecordKey]; len(signs) != 32 || !bytes.Equal(signs, again) {
		t.Error("the key that signs records is another one: all records are void")
	}
	_, err := secrets.Patch(
		t.Context(), v1alpha1.HelloSecret, "application/merge-patch+json", []byte(`{"data":{"key":"YQ=="}}`),
		metav1.PatchOptions{},
	)
	must(t, err)
	must(t, stage.Eventually(t.Context(), patience, good))
}

// A status that was changed by another writer is restored.
func TestStatusIsRestored(t *testing.T) {
	ns := namespace(t)
	start(t)
	makePool(t, "p", "192.0.2.1-192.0.2.9")
	makeService(t, ns, "web", nil)
	await(t, ns, "web", "Allocated", "192.0.2.1")
	patch(t, ns, "web", `{"status":{"loadBalancer":{"ingress":[{"ip":"192.0.2.7"}]}}}`, "status")
	await(t, ns, "web", "Allocated", "192.0.2.1")
	patch(t, ns, "web", `{"status":{"loadBalancer":null,"conditions":null}}`, "status")
	await(t, ns, "web", "Allocated", "192.0.2.1")
}

// A restart keeps every address and writes nothing.
func TestRestartKeepsAddresses(t *testing.T) {
	ns := namespace(t)
	first := start(t)
	makePool(t, "p", "192.0.2.1-192.0.2.20")
	for i := range 10 {
		makeService(t, ns, fmt.Sprintf("s%d", i), nil)
		await(t, ns, fmt.Sprintf("s%d", i), "Allocated", fmt.Sprintf("192.0.2.%d", i+1))
	}
	remove(t, ns, "s3") // a hole, which no other Service falls into
	first.stop()
	makeService(t, ns, "between", nil)
	versions := map[string]string{}
	for i := range 10 {
		if i != 3 {
			versions[fmt.Sprintf("s%d", i)] = get(t, ns, fmt.Sprintf("s%d", i)).ResourceVersion
		}
	}
	second := start(t)
	await(t, ns, "between", "Allocated", "192.0.2.4")
	makeService(t, ns, "last", nil)
	await(t, ns, "last", "Allocated", "192.0.2.11")
	for name, version := range versions {
		if got := get(t, ns, name).ResourceVersion; got != version {
			t.Errorf("Service %s was written by the restart", name)
		}
	}
	if got := second.writes(t); got != 2 {
		t.Errorf("%v writes after the restart, want 2, for the two new Services", got)
	}
}

// An address that is in two statuses stays with the older Service.
func TestAddressInTwoStatuses(t *testing.T) {
	ns := namespace(t)
	makePool(t, "p", "192.0.2.1-192.0.2.9")
	ours := func(s *corev1.ServiceSpec) { class := v1alpha1.LoadBalancerClass; s.LoadBalancerClass = &class }
	makeService(t, ns, "zebra", ours)
	must(t, stage.Eventually(t.Context(), patience, func(context.Context) error { // creation times are whole seconds
		if time.Since(get(t, ns, "zebra").CreationTimestamp.Time) < time.Second {
			return errors.New("too young")
		}
		return nil
	}))
	makeService(t, ns, "ant", ours)
	for _, name := range []string{"zebra", "ant"} {
		patch(t, ns, name, `{"status":{"loadBalancer":{"ingress":[{"ip":"192.0.2.5"}]}}}`, "status")
	}
	start(t)
	await(t, ns, "zebra", "Allocated", "192.0.2.5")
	await(t, ns, "ant", "Allocated", "192.0.2.1")
}

// A Service that is changed to another type releases its address.
func TestTypeChangeReleasesAddress(t *testing.T) {
	ns := namespace(t)
	start(t)
	makePool(t, "p", "192.0.2.1/32")
	makeService(t, ns, "web", nil)
	await(t, ns, "web", "Allocated", "192.0.2.1")
	makeService(t, ns, "next", nil)
	await(t, ns, "next", "PoolExhausted")
	patch(t, ns, "web", `{"spec":{"type":"ClusterIP"}}`)
	await(t, ns, "next", "Allocated", "192.0.2.1")
	svc := get(t, ns, "web")
	if len(svc.Status.LoadBalancer.Ingress) != 0 || len(svc.Status.Conditions) != 0 {
		t.Errorf("status %+v is left on a ClusterIP Service", svc.Status)
	}
	remove(t, ns, "next")
	patch(t, ns, "web", `{"spec":{"type":"LoadBalancer"}}`)
	await(t, ns, "web", "Allocated", "192.0.2.1")
}

// Services that are not Berth's are ignored.
func TestOtherServicesAreIgnored(t *testing.T) {
	ns := namespace(t)
	r := start(t)
	makePool(t, "p", "192.0.2.1-192.0.2.9")
	class := "example.com/other"
	makeService(t, ns, "other", func(s *corev1.ServiceSpec) { s.LoadBalancerClass = &class })
	makeService(t, ns, "internal", func(s *corev1.ServiceSpec) { s.Type = corev1.ServiceTypeClusterIP })
	makeService(t, ns, "nodeport", func(s *corev1.ServiceSpec) { s.Type = corev1.ServiceTypeNodePort })
	makeService(
		t,
		ns,
		"headless",
		func(s *corev1.ServiceSpec) { s.Type, s.ClusterIP = corev1.ServiceTypeClusterIP, "None" },
	)
	makeService(t, ns, "name", func(s *corev1.ServiceSpec) {
		*s = corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "example.com"}
	})
	own := v1alpha1.LoadBalancerClass
	makeService(t, ns, "ours", func(s *corev1.ServiceSpec) { s.LoadBalancerClass = &own })
	await(t, ns, "ours", "Allocated", "192.0.2.1")
	for _, name := range []string{"other", "internal", "nodeport", "headless", "name"} {
		if s := get(t, ns, name).Status; len(s.LoadBalancer.Ingress)+len(s.Conditions) != 0 {
			t.Errorf("Service %s has status %+v, want none", name, s)
		}
	}
	if got := r.writes(t); got != 1 {
		t.Errorf("%v writes, want 1", got)
	}
}

// The deletion of a pool takes no address away.
func TestPoolDeletionKeepsAddresses(t *testing.T) {
	ns := namespace(t)
	first := start(t)
	makePool(t, "p", "192.0.2.1-192.0.2.9")
	makeService(t, ns, "web", nil)
	await(t, ns, "web", "Allocated", "192.0.2.1")
	must(t, scene.Berth.LoadBalancerPools.Delete(t.Context(), "p", metav1.DeleteOptions{}))
	await(t, ns, "web", "OutsidePools", "192.0.2.1")
	first.stop()
	start(t)
	await(t, ns, "web", "OutsidePools", "192.0.2.1")
	makePool(t, "renamed", "192.0.2.0/24")
	await(t, ns, "web", "Allocated", "192.0.2.1")
}

// A changed spec.loadBalancerIP moves the Service to that address.
func TestLoadBalancerIPChange(t *testing.T) {
	ns := namespace(t)
	start(t)
	makePool(t, "p", "192.0.2.1-192.0.2.9")
	makeService(t, ns, "web", nil)
	await(t, ns, "web", "Allocated", "192.0.2.1")
	patch(t, ns, "web", `{"spec":{"loadBalancerIP":"192.0.2.5"}}`)
	await(t, ns, "web", "Allocated", "192.0.2.5")
	makeService(t, ns, "next", nil) // what nobody has had goes first
	await(t, ns, "next", "Allocated", "192.0.2.2")
}
