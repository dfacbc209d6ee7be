//go:build root || release

package plugin

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/e2e/lab"
	"github.com/berth-lb/berth/e2e/stage"
	"github.com/berth-lb/berth/kubectl/doctor"
)

// berthAilments are what is wrong with Berth, and with the network that it uses.
var berthAilments = []ailment{
	{
		id:     "service-pending",
		object: "Service plugin/shop",
		what:   "UnknownPool",
		yaml:   pinned("berth.dev/pools: nothing", ""),
	},
	{
		id:     "condition",
		object: "SegmentAnnouncement office",
		what:   "offce",
		yaml:   segment("office", "poolNames: [offce]"),
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
		id: "fence-unconfined", object: "ClusterRole berth-fence", what: "no ValidatingAdmissionPolicy berth-fence",
		do:   kubectl("create", "clusterrole", "berth-fence", "--verb=patch", "--resource=pods/status"),
		undo: kubectl("delete", "clusterrole", "berth-fence"),
	},
	{
		id: "fence-blind", object: "Deployment " + stage.Namespace + "/berth-controller", what: "--report-silent-nodes",
		// Paused, so that no controller begins with the flag, whose rights it does not have.
		do: inOrder(
			kubectl("rollout", "pause", "deployment/berth-controller", "-n", stage.Namespace),
			kubectl("patch", "deployment", "berth-controller", "-n", stage.Namespace, "--type=json", "-p",
				`[{"op": "add", "path": "/spec/template/spec/containers/0/args/-", "value": "--fence-dead-nodes"}]`),
		),
		undo: inOrder(
			reinstall, kubectl("rollout", "resume", "deployment/berth-controller", "-n", stage.Namespace),
		),
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
		id: "rights-missing", object: "RoleBinding berth-controller", what: "may not do its work",
		do: kubectl("delete", "rolebinding", "berth-controller", "-n", stage.Namespace), undo: reinstall,
	},
	{
		id: "crd-missing", object: "CustomResourceDefinition addressreservations.berth.dev", what: "there is no",
		do: kubectl("delete", "crd", "addressreservations.berth.dev"),
		undo: inOrder(
			reinstall,
			kubectl("wait", "crd", "addressreservations.berth.dev", "--for=condition=Established", "--timeout=30s"),
		),
	},
	// The upgrade to an image that no node has comes to a halt.
	{
		id: "version-skew", what: "2 images",
		do: kubectl(
			"set",
			"image",
			"deployment/berth-controller",
			"-n",
			stage.Namespace,
			"controller=localhost/berth:v0.0.9",
		),
		undo: inOrder(
			kubectl("rollout", "undo", "deployment/berth-controller", "-n", stage.Namespace),
			func(ctx context.Context) error { return scene.AwaitBerth(ctx) },
		),
	},
	// Speakers report it together, which takes up to 10 s.
	{
		id: "return-path", object: "Node n1", what: "interface eth0",
		also: []doctor.Finding{
			{ID: "speaker-problem", Object: "Speaker n1", What: "leave by away0"},
			{ID: "segment-waiting", Object: "Node n1", What: "interface down0"},
		},
		yaml: pool("office", "192.0.2.128/25") + segment("office", "poolNames: [office], interfaces: [down0]") +
			pinned("berth.dev/pools: office", ""),
		do: onHost("n1", `ip link add away0 type veth peer name away1
ip addr add 192.168.77.1/24 dev away0
ip link set away1 up
ip link set away0 up
ip route add 203.0.113.0/24 dev away0
ip link add down0 type veth peer name down1
ip addr add 192.0.2.1/24 dev down0
ip link set down0 up`),
		undo: onHost("n1", "ip link del away0; ip link del down0"),
	},
	{id: "proxy-arp", object: "Node n", what: "answers ARP for every address", do: startProxyARP, undo: stopProxyARP},
	{
		id: "hello-keys", object: "Node n1", what: "which n2 does not accept", do: inOrder(
			func(ctx context.Context) error { return scene.Pause(ctx, "speaker@n2") },
			func(ctx context.Context) error {
				key := base64.StdEncoding.EncodeToString([]byte(rand.Text()))
				return kubectl("patch", "secret", v1alpha1.HelloSecret, "-n", stage.Namespace, "--type=merge", "-p",
					fmt.Sprintf(`{"data":{%q:%q}}`, v1alpha1.HelloKey, key))(ctx)
			},
		),
		undo: inOrder(
			func(ctx context.Context) error { return scene.Resume(ctx, "speaker@n2") },
			func(ctx context.Context) error { return scene.AwaitSpeakers(ctx, true) },
		),
	},
	// What a backup brings back: a Lease that nobody renews, and nobody may take.
	{
		id: "no-leader", object: "Lease " + stage.Namespace + "/berth-controller", what: "held by somebody-else",
		do: kubectl(
			"patch",
			"lease",
			"berth-controller",
			"-n",
			stage.Namespace,
			"--type=merge",
			"-p",
			`{"spec":{"holderIdentity":"somebody-else","leaseDurationSeconds":3600,"renewTime":"2026-01-01T00:00:00.000000Z"}}`,
		),
		undo: inOrder(
			kubectl("delete", "lease", "berth-controller", "-n", stage.Namespace),
			func(ctx context.Context) error { return scene.AwaitBerth(ctx) },
		),
	},
	{
		id: "controller-missing", object: "Deployment " + stage.Namespace + "/berth-controller",
		what: "no Service gets an address",
		do:   kubectl("delete", "deployment", "berth-controller", "-n", stage.Namespace),
		undo: inOrder(
			applied("app.kubernetes.io/name=berth,app.kubernetes.io/component=controller"),
			func(ctx context.Context) error { return scene.AwaitBerth(ctx) },
		),
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

// reinstall applies what of Berth's manifests runs nowhere again.
var reinstall = applied("app.kubernetes.io/part-of=berth,app.kubernetes.io/name!=berth")

// applied applies Berth's manifests again, as far as their labels match.
func applied(labels string) func(context.Context) error {
	return func(ctx context.Context) error {
		file, err := stage.Manifest()
		if err != nil {
			return err
		}
		return kubectl("apply", "-f", file, "-l", labels)(ctx)
	}
}

// The router answers for half of the pool, and for a network that nobody uses.
var proxied = []netip.Prefix{netip.MustParsePrefix("172.30.0.192/26"), netip.MustParsePrefix("198.18.0.0/15")}

// startProxyARP has the router answer for every address. Speakers look for that when an address
// comes, and not again for 5 minutes: so hearts begin again, and the address is none that was in
// conflict a moment ago.
func startProxyARP(ctx context.Context) error {
	_, err := scene.Kubectl(ctx, pinned("", ""), "delete", "--ignore-not-found", "-f", "-")
	for _, p := range proxied {
		err = errors.Join(err, scene.StartProxyARP(p))
	}
	for _, node := range scene.Nodes() {
		err = errors.Join(err, scene.Kill(ctx, "heart@"+node))
	}
	if err = errors.Join(err, scene.AwaitBerth(ctx)); err != nil {
		return err
	}
	return scene.Apply(ctx, pinned("", ""))
}

// stopProxyARP also restarts what remembers for 5 minutes that the router did it.
func stopProxyARP(ctx context.Context) error {
	_, err := scene.Kubectl(ctx, pinned("", ""), "delete", "--ignore-not-found", "-f", "-")
	for _, p := range proxied {
		err = errors.Join(err, scene.StopProxyARP(p))
	}
	for _, node := range scene.Nodes() {
		err = errors.Join(err, scene.Kill(ctx, "heart@"+node))
	}
	return errors.Join(err, stage.Eventually(ctx, patience, func(ctx context.Context) error {
		speakers, err := scene.Berth.Speakers.List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, s := range speakers.Items {
			for _, segment := range s.Status.Segments {
				if segment.ProxyARPMAC != "" {
					return fmt.Errorf("the speaker of %s remembers %s", s.Name, segment.ProxyARPMAC)
				}
			}
		}
		return nil
	}))
}
