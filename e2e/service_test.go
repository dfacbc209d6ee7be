//go:build root

package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/e2e/lab"
	"github.com/berth-lb/berth/e2e/stage"
)

// change makes a Service differ from a plain one.
type change func(*corev1.Service)

func pinned(address string) change {
	return func(svc *corev1.Service) { svc.Spec.LoadBalancerIP = address }
}

func local(svc *corev1.Service) {
	svc.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
}

func only(family corev1.IPFamily) change {
	return func(svc *corev1.Service) {
		policy := corev1.IPFamilyPolicySingleStack
		svc.Spec.IPFamilyPolicy, svc.Spec.IPFamilies = &policy, []corev1.IPFamily{family}
	}
}

// service returns a Service of the application that does not exist yet. Its name sorts after those
// of earlier Services: of two that are created within a second, the name decides which is older.
func (r *rack) service(changes ...change) *corev1.Service {
	svc := r.Expose(r.web, fmt.Sprintf("svc-%03d", r.created.Add(1)))
	for _, c := range changes {
		c(svc)
	}
	return svc
}

// serve creates a Service, which is deleted with the test, and returns it as soon as it has an
// address.
func (r *rack) serve(t *testing.T, changes ...change) *corev1.Service {
	t.Helper()
	svc := r.service(changes...)
	t.Cleanup(func() { r.remove(t, svc) })
	created, err := r.Create(t.Context(), svc)
	if err != nil {
		t.Fatal(err)
	}
	return created
}

// ask creates a Service, which is deleted with the test, and does not wait for an address.
func (r *rack) ask(t *testing.T, changes ...change) *corev1.Service {
	t.Helper()
	svc := r.service(changes...)
	t.Cleanup(func() { r.remove(t, svc) })
	created, err := r.Kubernetes.CoreV1().Services(svc.Namespace).Create(t.Context(), svc, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return created
}

// remove deletes a Service, if it is still there.
func (r *rack) remove(t *testing.T, svc *corev1.Service) {
	t.Helper()
	if _, err := r.Kubectl(
		context.WithoutCancel(t.Context()), "", "-n", svc.Namespace, "delete", "--ignore-not-found", "service", svc.Name,
	); err != nil {
		t.Error(err)
	}
}

// get returns the Service as it is now.
func (r *rack) get(t *testing.T, svc *corev1.Service) *corev1.Service {
	t.Helper()
	found, err := r.Kubernetes.CoreV1().Services(svc.Namespace).Get(t.Context(), svc.Name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// address returns the Service's address of a family.
func (r *rack) address(t *testing.T, svc *corev1.Service, family corev1.IPFamily) netip.Addr {
	t.Helper()
	for _, a := range stage.Addresses(svc) {
		if a.Is4() == (family == corev1.IPv4Protocol) {
			return a
		}
	}
	t.Fatalf("Service %s has no %s address: %v", svc.Name, family, svc.Status.LoadBalancer.Ingress)
	return netip.Addr{}
}

// awaitCondition waits until a condition of the Service has a status and a reason, and returns the
// Service and the condition's message.
func (r *rack) awaitCondition(
	t *testing.T,
	svc *corev1.Service,
	kind string,
	status metav1.ConditionStatus,
	reason string,
) (*corev1.Service, string) {
	t.Helper()
	var found *corev1.Service
	var message string
	eventually(t, func(ctx context.Context) error {
		var err error
		found, err = r.Kubernetes.CoreV1().Services(svc.Namespace).Get(ctx, svc.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, c := range found.Status.Conditions {
			if c.Type == kind && c.Status == status && c.Reason == reason {
				message = c.Message
				return nil
			}
		}
		return fmt.Errorf("Service %s: no condition %s %s %s in %+v", svc.Name, kind, status, reason, found.Status.Conditions)
	})
	return found, message
}

// announced waits until a speaker can announce the Service's addresses.
func (r *rack) announced(t *testing.T, svc *corev1.Service) {
	t.Helper()
	r.awaitCondition(t, svc, v1alpha1.ServiceAnnounced, metav1.ConditionTrue, "Announced")
}

// awaitEvent waits until the Service has an event with the reason.
func (r *rack) awaitEvent(t *testing.T, svc *corev1.Service, reason string) {
	t.Helper()
	eventually(t, func(ctx context.Context) error {
		events, err := r.Kubernetes.EventsV1().Events(svc.Namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		var reasons []string
		for _, e := range events.Items {
			if e.Regarding.Name == svc.Name {
				reasons = append(reasons, e.Reason)
			}
		}
		if !slices.Contains(reasons, reason) {
			return fmt.Errorf("Service %s has events %v, want %s", svc.Name, reasons, reason)
		}
		return nil
	})
}

// forwarded waits until every kube-proxy forwards the address. A connection that is made earlier
// can meet a node that does not know the address. The node sends its packets out again unchanged,
// and its connection tracking remembers that for the life of the connection.
func (r *rack) forwarded(t *testing.T, address netip.Addr) {
	t.Helper()
	family, command := "ip", "iptables-save -t nat"
	if address.Is6() {
		family = "ip6"
	}
	if !r.iptables {
		command = "nft list map " + family + " kube-proxy service-ips"
	}
	eventually(t, func(ctx context.Context) error {
		for _, node := range r.Nodes() {
			out, err := r.Exec(ctx, node, strings.Fields(command)...).CombinedOutput()
			if err != nil {
				return fmt.Errorf("%s on %s: %w: %s", command, node, err, out)
			}
			if !strings.Contains(string(out), " "+address.String()+" ") &&
				!strings.Contains(string(out), " "+address.String()+"/") {
				return fmt.Errorf("kube-proxy of %s does not forward %s yet", node, address)
			}
		}
		return nil
	})
}

// answers waits until the address answers a host over HTTP, TCP and UDP, each on a new connection,
// and returns the three answers.
func (r *rack) answers(t *testing.T, host string, address netip.Addr) []stage.Answer {
	t.Helper()
	r.forwarded(t, address)
	var all []stage.Answer
	for _, ask := range []func(context.Context) (stage.Answer, error){
		func(ctx context.Context) (stage.Answer, error) { return r.AskHTTP(ctx, host, address) },
		func(ctx context.Context) (stage.Answer, error) { return r.AskLine(ctx, host, "tcp", address) },
		func(ctx context.Context) (stage.Answer, error) { return r.AskLine(ctx, host, "udp", address) },
	} {
		eventually(t, func(ctx context.Context) error {
			answer, err := ask(ctx)
			if err == nil {
				all = append(all, answer)
			}
			return err
		})
	}
	return all
}

// owner waits until a single node answers for the address, and returns it.
func (r *rack) owner(t *testing.T, address netip.Addr) string {
	t.Helper()
	owner, err := r.AwaitOwner(t.Context(), patience, address)
	if err != nil {
		t.Fatal(err)
	}
	return owner
}

// routes waits until the router has routes to the address by these nodes alone.
func (r *rack) routes(t *testing.T, address netip.Addr, nodes ...string) {
	t.Helper()
	if err := r.AwaitRoutes(t.Context(), patience, address, nodes...); err != nil {
		t.Fatal(err)
	}
}

// others returns all nodes but one.
func (r *rack) others(node string) []string {
	return slices.DeleteFunc(slices.Clone(r.Nodes()), func(n string) bool { return n == node })
}

// away returns a Service whose Pods are on other nodes than the one that answers for it, so that
// the loss of that node affects no Pod. It also returns that node.
func (r *rack) away(t *testing.T) (*corev1.Service, string) {
	t.Helper()
	n := r.created.Add(1)
	app := stage.App{Namespace: fmt.Sprintf("e2e-away-%d", n), Name: "away"}
	svc := r.Expose(app, fmt.Sprintf("svc-%d", n))
	t.Cleanup(func() {
		r.remove(t, svc)
		// Its Pods take some time.
		if _, err := r.Kubectl(
			context.WithoutCancel(t.Context()), "", "delete", "--wait=false", "--ignore-not-found", "namespace",
			app.Namespace,
		); err != nil {
			t.Error(err)
		}
	})
	if err := r.Apply(t.Context(), "{apiVersion: v1, kind: Namespace, metadata: {name: "+app.Namespace+"}}"); err != nil {
		t.Fatal(err)
	}
	created, err := r.Create(t.Context(), svc)
	if err != nil {
		t.Fatal(err)
	}
	owner := r.owner(t, r.address(t, created, corev1.IPv4Protocol))
	app.Nodes = r.others(owner)
	if err := r.Deploy(t.Context(), app); err != nil {
		t.Fatal(err)
	}
	r.answers(t, lab.Client, r.address(t, created, corev1.IPv4Protocol))
	return created, owner
}

// speaker returns what the speaker of a node reports.
func (r *rack) speaker(ctx context.Context, node string) (v1alpha1.SpeakerStatus, error) {
	s, err := r.Berth.Speakers.Get(ctx, node, metav1.GetOptions{})
	if err != nil {
		return v1alpha1.SpeakerStatus{}, err
	}
	return s.Status, nil
}

// awaitState waits until the speaker of a node is in a state, and returns the message of that
// state.
func (r *rack) awaitState(t *testing.T, node string, state v1alpha1.SpeakerState) string {
	t.Helper()
	var message string
	eventually(t, func(ctx context.Context) error {
		report, err := r.speaker(ctx, node)
		if err != nil {
			return err
		}
		var now v1alpha1.SpeakerState
		if now, message = report.State(); now != state {
			return fmt.Errorf("speaker of %s is %s (%s), want %s", node, now, message, state)
		}
		return nil
	})
	return message
}
