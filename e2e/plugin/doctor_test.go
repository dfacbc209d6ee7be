//go:build root

package plugin

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/berth-lb/berth/e2e/lab"
	"github.com/berth-lb/berth/e2e/stage"
	"github.com/berth-lb/berth/kubectl/doctor"
)

// ailment is something wrong that the doctor finds.
type ailment struct {
	id string // of the finding
	// object of the finding must contain it, and what it says the next one.
	object, what string
	args         []string // of the command, beside doctor
	yaml         string
	// do is done after the YAML is applied, and undo takes it back.
	do, undo func(context.Context) error
}

func inOrder(steps ...func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		for _, step := range steps {
			if err := step(ctx); err != nil {
				return err
			}
		}
		return nil
	}
}

const foreignSpeaker = `
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: speaker, namespace: plugin}
spec:
  selector: {matchLabels: {app: metallb}}
  template:
    metadata: {labels: {app: metallb}}
    spec:
      nodeSelector: {no-such-label: ""}
      containers: [{name: speaker, image: quay.io/metallb/speaker:v0.15.2, imagePullPolicy: Never}]
---
`

const failingWebhook = `
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: plugin}
webhooks:
  - name: plugin.example.com
    rules: [{apiGroups: [berth.dev], apiVersions: ["*"], operations: [DELETE], resources: [speakers]}]
    clientConfig: {service: {namespace: plugin, name: nothing}}
    admissionReviewVersions: [v1]
    sideEffects: None
---
`

var ailments = []ailment{
	{id: "other-load-balancer", object: "DaemonSet plugin/speaker", what: "MetalLB", yaml: foreignSpeaker},
	{
		id:     "class-not-served",
		object: "Service plugin/shop",
		what:   "metallb",
		yaml:   pinned("", ", loadBalancerClass: metallb"),
	},
	{
		id:     "service-pending",
		object: "Service plugin/shop",
		what:   "UnknownPool",
		yaml:   pinned("berth.dev/pools: nothing", ""),
	},
	{
		id:     "pool-external-ip",
		object: "LoadBalancerPool rack",
		what:   "172.30.0.249",
		yaml:   pinned("", `, externalIPs: ["172.30.0.249"]`),
	},
	{
		id: "pool-address-in-use", object: "LoadBalancerPool proposed", what: "InternalIP of node n1",
		args: []string{"--pool", "172.30.0.11-172.30.0.12"},
	},
	{
		id:     "pool-address-in-use",
		object: "LoadBalancerPool office",
		what:   "InternalIP of node n1",
		yaml:   pool("office", "172.30.0.11/32"),
	},
	{
		id:     "pool-invalid",
		object: "LoadBalancerPool proposed",
		what:   "LoadBalancerPool rack",
		args:   []string{"--pool", "172.30.0.200/30"},
	},
	{
		id:     "condition",
		object: "SegmentAnnouncement office",
		what:   "offce",
		yaml:   segment("office", "poolNames: [offce]"),
	},
	{id: "webhook", object: "ValidatingWebhookConfiguration plugin", what: "berth.dev", yaml: failingWebhook},
	{
		id: "nodes-excluded", object: "Node n1", what: exclude,
		do: kubectl("label", "nodes", "--all", exclude+"="), undo: kubectl("label", "nodes", "--all", exclude+"-"),
	},
	{
		id: "pod-security", object: "Namespace " + stage.Namespace, what: "baseline",
		do: kubectl(
			"label",
			"namespace",
			stage.Namespace,
			"pod-security.kubernetes.io/enforce=baseline",
			"--overwrite",
		),
		undo: kubectl(
			"label",
			"namespace",
			stage.Namespace,
			"pod-security.kubernetes.io/enforce=privileged",
			"--overwrite",
		),
	},
	{
		id: "policy-missing", object: "ValidatingAdmissionPolicyBinding berth-l2owner", what: "no ValidatingAdmissionPolicyBinding",
		do: kubectl(
			"delete",
			"validatingadmissionpolicybinding",
			"berth-l2owner",
		), undo: reinstall,
	},
	{
		id: "crd-differs", object: "CustomResourceDefinition addressreservations.berth.dev", what: "not those of version",
		do: kubectl("patch", "crd", "addressreservations.berth.dev", "--type=json", "-p",
			`[{"op": "replace", "path": "/spec/versions/0/schema/openAPIV3Schema/description", "value": "another"}]`),
		undo: reinstall,
	},
	{
		id: "segment-alone", object: "Node n1", what: "0x88b5",
		do:   func(ctx context.Context) error { return scene.FilterEtherType(ctx, 0x88b5) },
		undo: func(ctx context.Context) error { return scene.PassAll(ctx) },
	},
	{
		id: "session-down", object: "BGPNeighbor tor", what: "node n1",
		do: func(ctx context.Context) error {
			return scene.ConfigureRouter(
				ctx,
				fmt.Sprintf("router bgp %d", lab.RouterAS),
				"neighbor 172.30.0.11 shutdown",
			)
		},
		undo: inOrder(func(ctx context.Context) error {
			return scene.ConfigureRouter(
				ctx,
				fmt.Sprintf("router bgp %d", lab.RouterAS),
				"no neighbor 172.30.0.11 shutdown",
			)
		}, func(ctx context.Context) error { return scene.AwaitSpeakers(ctx, true) }),
	},
	{
		id: "address-conflict", object: "Node n", what: "172.30.0.248",
		yaml: pinned(`berth.dev/load-balancer-ips: "172.30.0.248"`, ""),
		do: inOrder(
			kubectl(
				"wait",
				"service",
				"shop",
				"-n",
				"plugin",
				"--for=jsonpath={.status.loadBalancer.ingress}",
				"--timeout=30s",
			),
			func(ctx context.Context) error {
				a := netip.MustParseAddr("172.30.0.248")
				return errors.Join(scene.AddAddress("client", a), scene.AnnounceAddress("client", a))
			},
		),
		undo: func(context.Context) error { return scene.RemoveAddress("client", netip.MustParseAddr("172.30.0.248")) },
	},
	{
		id: "controller-not-ready", object: "Deployment " + stage.Namespace + "/berth-controller", what: "scaled to 0",
		do: kubectl("scale", "deployment", "berth-controller", "-n", stage.Namespace, "--replicas=0"),
		undo: func(ctx context.Context) error {
			return errors.Join(
				kubectl("scale", "deployment", "berth-controller", "-n", stage.Namespace, "--replicas=2")(ctx),
				scene.AwaitBerth(ctx),
			)
		},
	},
	{
		id: "speaker-missing", object: "Node n2", what: "no Pod of a speaker",
		do: kubectl("patch", "daemonset", "berth-speaker", "-n", stage.Namespace, "--type=merge", "-p",
			`{"spec":{"template":{"spec":{"nodeSelector":{"kubernetes.io/hostname":"n1"}}}}}`),
		undo: inOrder(kubectl("patch", "daemonset", "berth-speaker", "-n", stage.Namespace, "--type=merge", "-p",
			`{"spec":{"template":{"spec":{"nodeSelector":{"kubernetes.io/hostname":null}}}}}`),
			func(ctx context.Context) error { return scene.AwaitBerth(ctx) },
			func(ctx context.Context) error { return scene.AwaitSpeakers(ctx, true) }),
	},
}

// reinstall applies Berth's manifests again.
func reinstall(ctx context.Context) error {
	file, err := stage.Manifest()
	if err != nil {
		return err
	}
	return kubectl("apply", "-f", file, "-l", "app.kubernetes.io/part-of=berth,app.kubernetes.io/name!=berth")(ctx)
}

// TestDoctor makes each thing wrong, and looks for the finding; at last, all is well again.
func TestDoctor(t *testing.T) {
	healthy(t)
	for _, a := range ailments {
		t.Run(a.id+"_"+strings.Fields(a.object)[0], func(t *testing.T) { a.find(t) })
	}
	healthy(t)
}

// healthy waits until the doctor finds nothing.
func healthy(t *testing.T) {
	t.Helper()
	eventually(t, func(context.Context) error {
		if r := berth(t, "doctor"); r.code != 0 || !strings.Contains(r.out, "Nothing is wrong.") {
			return fmt.Errorf("exit code %d\n%s%s", r.code, r.out, r.err)
		}
		return nil
	})
}

func (a ailment) find(t *testing.T) {
	t.Helper()
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		if a.yaml != "" {
			if _, err := scene.Kubectl(ctx, a.yaml, "delete", "--ignore-not-found", "-f", "-"); err != nil {
				t.Error(err)
			}
		}
		if a.undo != nil {
			if err := a.undo(ctx); err != nil {
				t.Error(err)
			}
		}
	})
	if a.yaml != "" {
		if err := scene.Apply(t.Context(), a.yaml); err != nil {
			t.Fatal(err)
		}
	}
	if a.do != nil {
		if err := a.do(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, func(context.Context) error {
		var report doctor.Report
		r := berthJSON(t, &report, append([]string{"doctor"}, a.args...)...)
		for _, f := range report.Findings {
			if f.ID == a.id && strings.Contains(f.Object, a.object) && strings.Contains(f.What, a.what) && r.code == 1 {
				return nil
			}
		}
		return fmt.Errorf(
			"exit code %d, no finding %s of %s with %q:\n%s%s",
			r.code,
			a.id,
			a.object,
			a.what,
			r.out,
			r.err,
		)
	})
}
