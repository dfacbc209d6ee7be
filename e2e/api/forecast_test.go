//go:build root

package api

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/controller"
	"github.com/berth-lb/berth/e2e/stage"
	"github.com/berth-lb/berth/kubectl/cluster"
	"github.com/berth-lb/berth/kubectl/forecast"
	"github.com/berth-lb/berth/kubectl/lint"
)

// foreseen is how Services stand: their addresses, and the reason of their condition.
type foreseen map[string]stand

type stand struct{ addresses, reason string }

// worlds makes random changes to the objects of a namespace.
type worlds struct {
	random    *rand.Rand
	namespace string
}

func (w *worlds) among(n int) int { return w.random.IntN(n) }

func oneOf[T any](w *worlds, all ...T) T { return all[w.among(len(all))] }

// pool returns a pool of its own addresses, of which there are enough for all Services.
func (w *worlds) pool(i int) string {
	spec := []string{
		fmt.Sprintf(
			"addresses: [198.18.%d.%d-198.18.%d.%d, \"2001:db8:%d::/120\"]",
			i,
			w.among(60),
			i,
			60+w.among(100),
			i,
		),
		"allocation: " + oneOf(w, "Automatic", "Automatic", "OnRequest", "Disabled"),
		"priority: " + oneOf(w, "0", "1", "2", "1", "0", "2", "many"), // the last is refused
		oneOf(w, "scopes: [{namespaceSelector: {}, serviceSelector: {}}]",
			"scopes: [{namespaceSelector: {}, serviceSelector: {matchLabels: {team: a}}}]"),
	}
	if w.among(4) == 0 {
		spec = append(spec, "excludeEdges: true")
	}
	return object("LoadBalancerPool", fmt.Sprintf("forecast-%d", i), "{"+strings.Join(spec, ", ")+"}")
}

// service returns a Service. What it asks for by name no other one does.
func (w *worlds) service(i int) string {
	annotations := []string{}
	if w.among(3) == 0 {
		annotations = append(
			annotations,
			fmt.Sprintf(`berth.dev/load-balancer-ips: "198.18.%d.%d"`, w.among(4), 100+i),
		)
	}
	if w.among(4) == 0 {
		annotations = append(annotations, fmt.Sprintf("berth.dev/pools: forecast-%d", w.among(4)))
	}
	if w.among(3) == 0 {
		annotations = append(annotations, "berth.dev/sharing-key: one")
	}
	class := oneOf(w, "", "", "", "  loadBalancerClass: example.com/other\n")
	kind := oneOf(w, "LoadBalancer", "LoadBalancer", "LoadBalancer", "ClusterIP")
	if kind == "ClusterIP" {
		class = ""
	}
	return fmt.Sprintf(`apiVersion: v1
kind: Service
metadata: {name: forecast-%d, namespace: %s, labels: {team: %s}, annotations: {%s}}
spec:
  type: %s
  ipFamilyPolicy: %s
%s  ports: [{port: %d}]
  selector: {app: none}
`, i, w.namespace, oneOf(w, "a", "b"), strings.Join(annotations, ", "), kind,
		oneOf(w, "SingleStack", "PreferDualStack", "RequireDualStack"), class, 80+w.among(3))
}

func (w *worlds) reservation(i int) string {
	return fmt.Sprintf(`apiVersion: berth.dev/v1alpha1
kind: AddressReservation
metadata: {name: forecast-%d, namespace: %s}
spec: {addresses: [198.18.%d.%d]%s}
`, i, w.namespace, w.among(4), 40+i, oneOf(w, "", fmt.Sprintf(", serviceName: forecast-%d", i)))
}

// change returns some objects, and whether to delete them.
func (w *worlds) change() (text string, deletes bool) {
	texts := map[string]string{}
	for range 1 + w.among(2) {
		switch n := w.among(10); {
		case n < 3:
			texts["pool"] = w.pool(w.among(4))
		case n < 9:
			texts["service"] = w.service(w.among(12))
		default:
			texts["reservation"] = w.reservation(w.among(4))
		}
	}
	return strings.Join(slices.Sorted(maps.Values(texts)), "---\n"), w.among(6) == 0
}

// stands returns how the Services and reservations of the namespace stand.
func stands(s *cluster.State, namespace string) foreseen {
	all := foreseen{}
	for _, svc := range s.Services {
		if svc.Namespace != namespace {
			continue
		}
		var texts []string
		for _, i := range svc.Status.LoadBalancer.Ingress {
			texts = append(texts, i.IP)
		}
		x := stand{addresses: strings.Join(texts, " ")}
		if c := meta.FindStatusCondition(svc.Status.Conditions, v1alpha1.ServiceAllocated); c != nil {
			x.reason = c.Reason
		}
		all[svc.Name] = x
	}
	for _, r := range s.Reservations {
		if r.Namespace != namespace {
			continue
		}
		var texts []string
		for _, a := range r.Status.Addresses {
			texts = append(texts, a.Address)
		}
		x := stand{addresses: strings.Join(texts, " ")}
		if c := meta.FindStatusCondition(r.Status.Conditions, v1alpha1.ConditionReady); c != nil {
			x.reason = c.Reason
		}
		all[reserved+r.Name] = x
	}
	return all
}

// reserved tells an AddressReservation from a Service.
const reserved = "reservation "

// TestForecast makes random changes, and compares what kubectl berth diff says of each with what
// comes of it. BERTH_DIFF_CHANGES sets their number, BERTH_DIFF_SEED which they are.
func TestForecast(t *testing.T) {
	number := func(name string, otherwise int) int {
		if text := os.Getenv(name); text != "" {
			n, err := strconv.Atoi(text)
			must(t, err)
			return n
		}
		return otherwise
	}
	seed := number("BERTH_DIFF_SEED", 1)
	ns := namespace(t)
	startAs(t, (*controller.Controller).Lead, func(o *controller.Options) { o.Rest = 0 })
	config, err := scene.RESTConfig()
	must(t, err)
	config.QPS, config.Burst = 500, 1000
	clients, err := cluster.NewClients(config)
	must(t, err)
	schemas, err := lint.NewSchemas()
	must(t, err)
	t.Cleanup(func() {
		_, err := scene.Kubectl(
			context.WithoutCancel(t.Context()), "", "delete", "--ignore-not-found", "loadbalancerpools.berth.dev",
			"forecast-0", "forecast-1", "forecast-2", "forecast-3", "forecast-last",
		)
		if err != nil {
			t.Error(err)
		}
	})
	read := func(ctx context.Context) (*cluster.State, error) {
		s, err := cluster.Read(ctx, clients, stage.Namespace)
		if err != nil {
			return nil, err
		}
		s.Deployments = append(s.Deployments, &appsv1.Deployment{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: stage.Namespace,
				Labels:    map[string]string{"app.kubernetes.io/component": "controller", "app.kubernetes.io/name": "berth"},
			},
			Spec: appsv1.DeploymentSpec{
				Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{
					Args: []string{"controller", "--rest=0s"},
				}}}},
			},
		})
		return s, nil
	}
	first, err := read(t.Context())
	must(t, err)
	w := &worlds{random: rand.New(rand.NewPCG(uint64(seed), 0)), namespace: ns}
	expected, kinds := stands(first, ns), map[forecast.Change]int{}
	for step := range number("BERTH_DIFF_CHANGES", 20) {
		text, deletes := w.change()
		before, err := read(t.Context())
		must(t, err)
		if is := stands(before, ns); !maps.Equal(is, expected) {
			t.Fatalf("seed %d, after change %d: they went on to change\n%v, expected\n%v", seed, step, is, expected)
		}
		objects, findings := lint.Parse([]lint.File{{Name: "change", Text: []byte(text)}})
		if len(findings) > 0 {
			t.Fatalf("%v in\n%s", findings, text)
		}
		report := forecast.Files(t.Context(), before, schemas, objects, deletes)
		for _, o := range report.Objects {
			kinds[o.Change]++
		}
		args := []string{"apply", "-f", "-"}
		if deletes {
			args = []string{"delete", "--ignore-not-found", "-f", "-"}
		}
		_, err = scene.Kubectl(t.Context(), text, args...)
		if (err != nil) != report.Refused {
			t.Fatalf("seed %d, change %d: foreseen %+v, kubectl says %v\n%s", seed, step, report.Objects, err, text)
		}
		if strings.Contains(text, "LoadBalancerPool") {
			compiled(t, step)
		}
		likely := map[string]bool{}
		for _, a := range report.Addresses {
			for _, text := range a.Likely {
				likely[text] = true
			}
		}
		must(t, stage.Eventually(t.Context(), patience, func(ctx context.Context) error {
			after, err := read(ctx)
			if err = errors.Join(err, ctx.Err()); err != nil { // what is cut off looks like an empty cluster
				return err
			}
			is := stands(after, ns)
			want := foreseen{}
			for name := range is {
				want[name] = expected[name]
			}
			for _, a := range report.Addresses {
				_, name, _ := strings.Cut(a.Service, "/")
				if _, there := is[name]; there {
					want[name] = stand{strings.Join(a.After, " "), a.Reason}
				}
			}
			for _, r := range report.Reservations {
				_, name, _ := strings.Cut(r.Name, "/")
				if _, there := is[reserved+name]; there {
					want[reserved+name] = stand{strings.Join(r.After, " "), r.Reason}
				}
			}
			if !maps.EqualFunc(is, want, func(a, b stand) bool { return a.like(b, likely) }) {
				return fmt.Errorf(
					"seed %d, change %d (delete %t):\n%s\nbefore   %v\nforeseen %v\nis       %v",
					seed,
					step,
					deletes,
					text,
					expected,
					want,
					is,
				)
			}
			kinds["Services foreseen to change"] += len(report.Addresses)
			kinds["reservations foreseen to change"] += len(report.Reservations)
			kinds["addresses foreseen as likely"] += len(likely)
			expected = is
			return nil
		}))
	}
	t.Logf("objects: %v", kinds)
	if kinds[forecast.Refused]+kinds[forecast.Deleted] == 0 || kinds[forecast.Changed] == 0 {
		t.Errorf("the changes are too much alike: %v", kinds)
	}
}

// compiled waits until the controller has seen all changes of pools that were made: they come to it
// in order.
func compiled(t *testing.T, step int) {
	t.Helper()
	apply(
		t,
		"LoadBalancerPool",
		"forecast-last",
		fmt.Sprintf("{addresses: [198.18.9.9], allocation: OnRequest, priority: %d}", step+1),
	)
	must(t, stage.Eventually(t.Context(), patience, func(ctx context.Context) error {
		o, err := resource(t, "LoadBalancerPool", "").Get(ctx, "forecast-last", metav1.GetOptions{})
		if err != nil {
			return err
		}
		var pool v1alpha1.LoadBalancerPool
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &pool); err != nil {
			return err
		}
		if c := meta.FindStatusCondition(pool.Status.Conditions, v1alpha1.ConditionAccepted); c == nil ||
			c.ObservedGeneration != pool.Generation {
			return errors.New("the controller has not compiled the last pool yet")
		}
		return nil
	}))
}

// like reports whether it is as foreseen. Where a foreseen address is only likely, another of the
// same pool will do.
func (s stand) like(foreseen stand, likely map[string]bool) bool {
	is, said := strings.Fields(s.addresses), strings.Fields(foreseen.addresses)
	return s.reason == foreseen.reason && slices.EqualFunc(is, said, func(a, b string) bool {
		return a == b || likely[b] && poolOf(a) == poolOf(b)
	})
}

// poolOf returns what tells the addresses of a pool from others: see worlds.pool.
func poolOf(address string) string {
	a := netip.MustParseAddr(address)
	prefix, _ := a.Prefix(a.BitLen() / 2)
	if a.Is4() {
		prefix, _ = a.Prefix(24)
	}
	return prefix.String()
}

// TestForecastOfSecrets: whether a password is another one is known to those who may get Secrets.
func TestForecastOfSecrets(t *testing.T) {
	secret := func(password string) string {
		return fmt.Sprintf("apiVersion: v1\nkind: Secret\ntype: kubernetes.io/basic-auth\n"+
			"metadata: {name: forecast, namespace: %s}\nstringData: {password: %s}\n", stage.Namespace, password)
	}
	must(t, scene.Apply(t.Context(), secret("one")))
	t.Cleanup(func() {
		secrets := scene.Kubernetes.CoreV1().Secrets(stage.Namespace)
		must(t, secrets.Delete(context.WithoutCancel(t.Context()), "forecast", metav1.DeleteOptions{}))
	})
	config, err := scene.RESTConfig()
	must(t, err)
	clients, err := cluster.NewClients(config)
	must(t, err)
	schemas, err := lint.NewSchemas()
	must(t, err)
	s, err := cluster.Read(t.Context(), clients, stage.Namespace)
	must(t, err)
	tor := &v1alpha1.BGPNeighbor{ObjectMeta: metav1.ObjectMeta{Name: "forecast"}}
	tor.Spec.Authentication.TCPMD5.SecretName = "forecast"
	s.BGPNeighbors = append(s.BGPNeighbors, tor)
	for password, want := range map[string]forecast.Change{"one": forecast.Unchanged, "two": forecast.Changed} {
		objects, _ := lint.Parse([]lint.File{{Name: "change", Text: []byte(secret(password))}})
		names := forecast.Secrets(s, objects)
		if !slices.Equal(names, []string{"forecast"}) {
			t.Fatalf("Secrets to read: %q", names)
		}
		s.ReadPasswords(t.Context(), clients, append(names, "no-such"))
		if absent, read := s.Passwords["no-such"]; !read || absent != nil {
			t.Errorf("a Secret that is not there: read %t, %v", read, absent)
		}
		if is := forecast.Files(t.Context(), s, schemas, objects, false).Objects[0].Change; is != want {
			t.Errorf("password %s: %s, want %s", password, is, want)
		}
	}
}
