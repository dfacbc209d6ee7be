//go:build root

package api

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	lua "github.com/yuin/gopher-lua"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"

	"github.com/berth-lb/berth/e2e/stage"
)

// One object of each kind that is configured, and a change to it.
var seen = map[string]struct{ spec, change string }{
	"LoadBalancerPool":    {`{addresses: [192.0.2.0/28]}`, `{"spec":{"priority":1}}`},
	"SegmentAnnouncement": {`{}`, `{"spec":{"interfaces":["eth0"]}}`},
	"RouteAnnouncement":   {`{}`, `{"spec":{"med":1}}`},
	"BGPNeighbor":         {`{localASN: 1, remoteASN: 2, address: 192.0.2.254}`, `{"spec":{"port":1179}}`},
	"AddressReservation":  {`{addresses: [192.0.2.1]}`, `{"spec":{"serviceName":"web"}}`},
}

// Tools that wait for objects, as Flux does by kstatus and Argo CD by the script in
// manifests/argocd, do not consider an object ready before the controller has reviewed it, or while
// a part of it is not in effect.
func TestKstatusOfConfiguration(t *testing.T) {
	ns := namespace(t)
	health := argoHealth(t)
	for kind, o := range seen {
		create(t, ns, object(kind, "seen", o.spec))
	}
	expect := func(when string, wanted status.Status, argo string) {
		t.Helper()
		for kind := range seen {
			awaitStatus(t, health, kind, ns, when, wanted, argo)
		}
	}
	expect("before any controller runs", status.InProgressStatus, "Progressing")
	first := start(t)
	expect("after the controller looked", status.CurrentStatus, "Healthy")
	out, err := scene.Kubectl(
		t.Context(), "", "wait", "--for=condition=Ready", "--timeout="+patience.String(), "loadbalancerpools.berth.dev/seen",
		"bgpneighbors.berth.dev/seen",
	)
	if err != nil {
		t.Errorf("kubectl wait: %v, %s", err, out)
	}
	first.stop()
	for kind, o := range seen {
		_, err := resource(t, kind, ns).Patch(
			t.Context(),
			"seen",
			types.MergePatchType,
			[]byte(o.change),
			metav1.PatchOptions{},
		)
		must(t, err)
	}
	expect("edited, and not reviewed again", status.InProgressStatus, "Progressing")
	start(t)
	expect("after it looked again", status.CurrentStatus, "Healthy")

	// A generation that there is not yet, as a restore may bring.
	_, err = resource(t, "LoadBalancerPool", ns).Patch(
		t.Context(),
		"seen",
		types.MergePatchType,
		[]byte(`{"status":{"observedGeneration":99}}`),
		metav1.PatchOptions{},
		"status",
	)
	must(t, err)
	awaitStatus(t, health, "LoadBalancerPool", ns, "with a generation to come", status.InProgressStatus, "Progressing")
	// One of which a part is not in effect.
	must(t, scene.Apply(t.Context(), object("LoadBalancerPool", "seen", `{addresses: [192.0.2.0/28, 198.51.100.9-198.51.100.1]}`)))
	awaitStatus(
		t, health, "LoadBalancerPool", ns, "with a part that is not in effect", status.InProgressStatus, "Degraded",
	)
}

// What speakers write is seen in the same way.
func TestKstatusOfSpeaker(t *testing.T) {
	ns := namespace(t)
	silenced(t)
	health := argoHealth(t)
	create(t, ns, "{apiVersion: berth.dev/v1alpha1, kind: Speaker, metadata: {name: seen}, spec: {bgp: {routerID: 10.0.0.1}}}")
	awaitStatus(t, health, "Speaker", ns, "before its speaker reports", status.InProgressStatus, "Progressing")
	report(t, "seen", "state: Announcing, observedGeneration: 1")
	awaitStatus(t, health, "Speaker", ns, "after it reported", status.CurrentStatus, "Healthy")
	report(t, "seen", "state: Leaving, observedGeneration: 1")
	awaitStatus(t, health, "Speaker", ns, "while it leaves", status.InProgressStatus, "Degraded")
	report(t, "seen", "state: Announcing, observedGeneration: 1")
	_, err := resource(t, "Speaker", ns).Patch(
		t.Context(),
		"seen",
		types.MergePatchType,
		[]byte(`{"spec":{"bgp":{"routerID":"10.0.0.2"}}}`),
		metav1.PatchOptions{},
	)
	must(t, err)
	awaitStatus(t, health, "Speaker", ns, "before it sees its new router ID", status.InProgressStatus, "Progressing")

	create(t, ns, "{apiVersion: berth.dev/v1alpha1, kind: L2Owner, metadata: {name: seen}}")
	awaitStatus(t, health, "L2Owner", ns, "that nobody owns", status.InProgressStatus, "Progressing")
}

// awaitStatus waits until kstatus, and Argo CD's script, say this of the object "seen" of a kind.
func awaitStatus(t *testing.T, health string, kind, ns, when string, wanted status.Status, argo string) {
	t.Helper()
	must(t, stage.Eventually(t.Context(), patience, func(ctx context.Context) error {
		o, err := resource(t, kind, ns).Get(ctx, "seen", metav1.GetOptions{})
		if err != nil {
			return err
		}
		result, err := status.Compute(o)
		if err != nil {
			return err
		}
		said, err := runHealth(health, o)
		if err == nil && (result.Status != wanted || said != argo) {
			err = fmt.Errorf(
				"%s %s: kstatus says %s (%s), Argo CD %s; want %s and %s", kind, when, result.Status, result.Message,
				said, wanted, argo,
			)
		}
		return err
	}))
}

// argoHealth is the script that manifests/argocd gives to Argo CD.
func argoHealth(t *testing.T) string {
	t.Helper()
	manifest, err := stage.Manifest()
	must(t, err)
	text, err := os.ReadFile(filepath.Join(filepath.Dir(manifest), "argocd", "health.lua"))
	must(t, err)
	return string(text)
}

// runHealth runs the script as Argo CD does: with the object as obj, for a table with status and
// message.
func runHealth(script string, o *unstructured.Unstructured) (string, error) {
	l := lua.NewState()
	defer l.Close()
	l.SetGlobal("obj", luaValue(l, o.Object))
	if err := l.DoString(script); err != nil {
		return "", fmt.Errorf("health script: %w", err)
	}
	result, ok := l.Get(-1).(*lua.LTable)
	if !ok {
		return "", fmt.Errorf("the health script returns %s", l.Get(-1).Type())
	}
	return result.RawGetString("status").String(), nil
}

func luaValue(l *lua.LState, v any) lua.LValue {
	switch v := v.(type) {
	case map[string]any:
		table := l.NewTable()
		for key, value := range v {
			table.RawSetString(key, luaValue(l, value))
		}
		return table
	case []any:
		table := l.NewTable()
		for _, value := range v {
			table.Append(luaValue(l, value))
		}
		return table
	case string:
		return lua.LString(v)
	case bool:
		return lua.LBool(v)
	case int64:
		return lua.LNumber(v)
	case float64:
		return lua.LNumber(v)
	}
	return lua.LNil
}
