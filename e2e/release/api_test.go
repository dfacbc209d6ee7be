//go:build release

package release

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/e2e/lab"
	"github.com/berth-lb/berth/e2e/stage"
)

// TestNodeWithoutAPI deletes a Service whose address is answered for by a node that has lost only
// the API, and gives the address to another Service.
func TestNodeWithoutAPI(t *testing.T) {
	f := raiseField(t, fieldOptions{
		name:  "relstale",
		pool:  []addressRange{{"172.30.0.200", 6}},
		every: 20 * time.Millisecond,
		rest:  20 * time.Second, // more than the 15 s after which a speaker is stale
	})
	next := stage.App{Namespace: f.app.Namespace, Name: "next"}
	must(t, func(ctx context.Context) error { return f.Deploy(ctx, next) })
	f.serve(t, corev1.IPv4Protocol, 2) // who stay
	for _, loss := range []lab.APILoss{{Pods: true}, {Pods: true, Refused: true}, {}} {
		t.Run(loss.String(), func(t *testing.T) { f.testReuse(t, loss, next) })
	}
	f.noConflicts(t)
}

func (f *field) testReuse(t *testing.T, loss lab.APILoss, next stage.App) {
	old := f.serve(t, corev1.IPv4Protocol, 1)[0]
	address := addressOf(old)
	owner := f.settled(t, time.Now())[address]
	heir := f.service(corev1.IPv4Protocol)
	heir.Spec.Selector, heir.Spec.LoadBalancerIP = map[string]string{"app": next.Name}, address.String()
	services := f.Kubernetes.CoreV1().Services(heir.Namespace)
	if _, err := services.Create(t.Context(), heir, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	f.strike(t, fault{strike: func(ctx context.Context, f *field, node string) (healing, error) {
		return func(ctx context.Context) error { return f.RegainAPI(ctx, node) }, f.LoseAPI(ctx, node, loss)
	}}, owner)
	f.remove(t, old)
	eventually(t, func(ctx context.Context) error {
		given, err := f.given(ctx)
		if err == nil && (given[address] == nil || given[address].Name != heir.Name) {
			err = fmt.Errorf("%s does not have %s yet", heir.Name, address)
		}
		return err
	})
	given := time.Now()
	client := f.StartWatch(t.Context(), lab.Client, address, 50*time.Millisecond, 2*time.Second, true)
	now := f.settled(t, given)[address]
	if now == owner {
		t.Errorf("%s answers for %s of %s still, without the API", owner, address, heir.Name)
	}
	var last time.Time
	for _, seen := range f.capture.Of(address).By(owner) {
		last = seen.At
	}
	taken := time.Now()
	lasts(t, 3*time.Second)
	for _, r := range client.Stop().SentAfter(taken) {
		if r.Err != nil || !strings.HasPrefix(r.Answer.Pod, next.Name+"-") {
			t.Errorf("a client of the new Service was answered by %q (%v)", r.Answer.Pod, r.Err)
		}
	}
	fmt.Printf(
		"%s: the address was given to the other Service after %s, its old node last answered %s later\n", loss,
		given.Sub(begun).Round(time.Millisecond), last.Sub(given).Round(time.Millisecond),
	)
	if last.Sub(begun) < given.Sub(begun)/2 {
		t.Errorf("%s did not answer for %s while that rested: it has heard that its Service is gone", owner, address)
	}
	if last.Sub(given) > handover {
		t.Errorf("%s answered for %s until %s after another Service had it", owner, address, last.Sub(given))
	}
	must(t, func(ctx context.Context) error { return f.RegainAPI(ctx, owner) })
	f.whole(t)
	if now := f.settled(t, time.Now())[address]; now == owner {
		t.Errorf("%s took %s back", owner, address)
	}
	f.overlaps(t, loss.String(), begun, time.Now())
	f.remove(t, heir)
}
