//go:build root

package api

import (
	"context"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/e2e/stage"
)

func object(kind, name, spec string) string {
	return fmt.Sprintf("apiVersion: berth.dev/v1alpha1\nkind: %s\nmetadata: {name: %s}\nspec: %s\n", kind, name, spec)
}

func TestTheAPIServerRefusesWhatAnObjectAloneShowsToBeWrong(t *testing.T) {
	namespace(t)
	for _, c := range []struct{ kind, spec, message string }{
		{"IPPool", `{}`, "spec.addresses: Required value"},
		{"IPPool", `{addresses: []}`, "should have at least 1 items"},
		{"IPPool", `{addresses: [192.0.2.7]}`, "write a single address as 192.0.2.1/32"},
		{"IPPool", `{addresses: [192.0.2.7/24]}`, "a prefix has no host bits set"},
		{"IPPool", `{addresses: [192.0.2.1-x]}`, "each entry is a prefix such as 192.0.2.0/24 or a range"},
		{"IPPool", `{addresses: ["192.0.2.1-2001:db8::1"]}`, "both ends of a range are of one family"},
		{"IPPool", `{addresses: [192.0.2.0/24], allocation: Never}`, `Unsupported value: "Never"`},
		{"IPPool", `{addresses: [192.0.2.0/24], dataplane: EBPF}`, `Unsupported value: "EBPF"`},
		{"IPPool", `{addresses: [192.0.2.0/24], ipvs: {}}`, "ipvs is for dataplane: IPVS"},
		{"IPPool", `{addresses: [192.0.2.0/24], dataplane: KubeProxy, ipvs: {scheduler: mh}}`, "ipvs is for dataplane: IPVS"},
		{"IPPool", `{addresses: [192.0.2.0/24], dataplane: IPVS, ipvs: {scheduler: best}}`, `Unsupported value: "best"`},
		{"IPPool", `{addresses: [192.0.2.0/24], dataplane: IPVS, ipvs: {drainTimeout: 0s}}`, "from 1s to 24h"},
		{"IPPool", `{addresses: [192.0.2.0/24], dataplane: IPVS, ipvs: {drainTimeout: 24h1s}}`, "from 1s to 24h"},
		{"IPPool", `{addresses: [192.0.2.0/24], dataplane: IPVS, ipvs: {drainTimeout: 1d}}`, "spec.ipvs.drainTimeout"},
		{"L2Advertisement", `{pools: [a, a]}`, "Duplicate value"},
		{"L2Advertisement", `{interfaces: [""]}`, "should be at least 1 chars long"},
		{"L2Advertisement", `{preferredNodes: [{nodeSelector: {}}]}`, "spec.preferredNodes[0].weight: Required value"},
		{"L2Advertisement", `{preferredNodes: [{weight: 0, nodeSelector: {}}]}`, "should be greater than or equal to 1"},
		{"L2Advertisement", `{preferredNodes: [{weight: 101, nodeSelector: {}}]}`, "should be less than or equal to 100"},
		{"L2Advertisement", `{preferredNodes: [{weight: 50}]}`, "spec.preferredNodes[0].nodeSelector: Required value"},
		{"L2Advertisement", `{serviceSelectors: web}`, "must be of type array"},
		{"BGPAdvertisement", `{peers: [a, a]}`, "Duplicate value"},
		{"BGPPeer", `{localASN: 1, peerASN: 2}`, "one of address, interface and addressPrefix says where the peer is"},
		{"BGPPeer", `{localASN: 1, peerASN: 2, address: 192.0.2.1, interface: eth0}`, "one of address, interface and addressPrefix says where the peer is"},
		{"BGPPeer", `{localASN: 1, peerASN: 2, address: 192.0.2.1, addressPrefix: 10.0.0.0/24}`, "one of address, interface and addressPrefix says where the peer is"},
		{"BGPPeer", `{localASN: 1, peerASN: 2, addressPrefix: 10.0.0.7/24}`, "a prefix such as 10.0.0.0/24, without host bits"},
		{"BGPPeer", `{localASN: 1, peerASN: 2, addressPrefix: routers}`, "a prefix such as 10.0.0.0/24, without host bits"},
		{"BGPPeer", `{localASN: 1, peerType: External, addressPrefix: 10.0.0.0/24}`, "routers of addressPrefix are known by peerASN"},
		{"BGPPeer", `{localASN: 1, peerASN: 2, addressPrefix: 10.0.0.0/24, bfd: {}}`, "routers of addressPrefix have no sourceAddress, gracefulRestart or bfd"},
		{"BGPPeer", `{localASN: 1, peerASN: 2, addressPrefix: 10.0.0.0/24, passive: true}`, "a passive peer has an address"},
		{"BGPPeer", `{localASN: 1, peerASN: 2, interface: eth0, passive: true}`, "a passive peer has an address"},
		{"BGPPeer", `{localASN: 1, peerASN: 2, addressPrefix: 10.0.0.0/24, vrf: red}`, "the peer connects to us"},
		{"BGPPeer", `{localASN: 1, peerASN: 2, address: 192.0.2.1, passive: true, port: 1179}`, "the peer connects to us"},
		{"BGPPeer", `{localASN: 1, peerASN: 2, address: "2001:db8::1", passive: true, ttlSecurity: true}`, "ttlSecurity does not work with peers that connect to us over IPv6"},
		{"BGPPeer", `{localASN: 1, peerASN: 2, addressPrefix: "2001:db8::/64", ttlSecurity: true}`, "ttlSecurity does not work with peers that connect to us over IPv6"},
		{"BGPPeer", `{localASN: 1, address: 192.0.2.1}`, "one of peerASN and peerType says which AS the peer is in"},
		{"BGPPeer", `{localASN: 1, peerASN: 2, peerType: External, address: 192.0.2.1}`, "one of peerASN and peerType says which AS the peer is in"},
		{"BGPPeer", `{localASN: 1, peerType: Both, address: 192.0.2.1}`, `Unsupported value: "Both"`},
		{"BGPPeer", `{localASN: 1, peerType: Internal, address: 192.0.2.1, ebgpMultihop: 3}`, "ebgpMultihop is for external peers"},
		{"BGPPeer", `{localASN: 2, localASOverride: 1, peerASN: 1, address: 192.0.2.1, ebgpMultihop: 3}`, "ebgpMultihop is for external peers"},
		{"BGPPeer", `{localASN: 1, peerASN: 2, address: 192.0.2.1, ebgpMultihop: 3, ttlSecurity: true}`, "ttlSecurity is for peers one hop away"},
		{"BGPPeer", `{localASN: 1, peerASN: 2, interface: eth0, sourceAddress: 192.0.2.11}`, "a peer on an interface is reached by link-local addresses"},
		{"BGPPeer", `{localASN: 1, peerASN: 2, address: 192.0.2.1, sourceAddress: "2001:db8::1"}`, "sourceAddress and address are of one family"},
		{"BGPPeer", `{localASN: 1, peerASN: 2, address: 192.0.2.1, families: [IPX]}`, `Unsupported value: "IPX"`},
		{"BGPPeer", `{localASN: 1, peerASN: 2, address: 192.0.2.1, gracefulRestart: {restartTime: 2h}}`, "from 1s to 4095s"},
		{"BGPPeer", `{localASN: 1, peerASN: 2, address: 192.0.2.1, bfd: {transmitInterval: 1ms}}`, "from 10ms to 60s"},
		{"BGPPeer", `{localASN: 1, peerASN: 2, address: 192.0.2.1, bfd: {multiplier: 1}}`, "should be greater than or equal to 2"},
		{"BGPPeer", `{localASN: 1, peerASN: 2, address: 192.0.2.1, passwordSecretRef: {name: ""}}`, "should be at least 1 chars long"},
		{"BGPAdvertisement", `{aggregationLength: 33}`, "should be less than or equal to 32"},
		{"BGPAdvertisement", `{localPref: 4294967296}`, "should be less than or equal to 4294967295"},
		{"BGPAdvertisement", `{prepend: 11}`, "should be less than or equal to 10"},
		{"BGPAdvertisement", `{weightBy: Nodes}`, `Unsupported value: "Nodes"`},
		{"BGPPeer", `{localASN: 1, peerASN: 2, address: router}`, "an IPv4 or IPv6 address such as 192.0.2.1"},
		{"BGPPeer", `{localASN: 0, peerASN: 2, address: 192.0.2.1}`, "should be greater than or equal to 1"},
		{"BGPPeer", `{localASN: 1, peerASN: 4294967296, address: 192.0.2.1}`, "should be less than or equal to 4294967294"},
		{"BGPPeer", `{localASN: 1, peerASN: 2, address: 192.0.2.1, holdTime: 1s}`, "from 3s to 18h"},
		{"BGPPeer", `{localASN: 1, peerASN: 2, address: 192.0.2.1, holdTime: soon}`, "should match"},
		{"BGPPeer", `{localASN: 1, peerASN: 2, address: 192.0.2.1, holdTime: 9s, keepaliveTime: 9s}`, "keepaliveTime is below holdTime"},
		{"BGPPeer", `{localASN: 1, peerASN: 1, address: 192.0.2.1, ebgpMultihop: 3}`, "ebgpMultihop is for external peers"},
		{"BGPPeer", `{localASN: 1, peerASN: 2, address: 192.0.2.1, port: 70000}`, "should be less than or equal to 65535"},
		{"IPPool", `{addresses: [192.0.2.0/24], reserved: [192.0.2.7]}`, "write a single address as 192.0.2.1/32"},
		{"IPPool", `{addresses: [192.0.2.0/24], priority: 9000000}`, "should be less than or equal to 1000000"},
		{"IPReservation", `{}`, "give an address, or a pool to take one from"},
		{"IPReservation", `{address: here}`, "an IPv4 or IPv6 address such as 192.0.2.1"},
		{"IPReservation", `{pool: p, family: IPX}`, `Unsupported value: "IPX"`},
		{"SpeakerStatus", `{}`, `unknown field "spec"`},
	} {
		_, err := scene.Kubectl(t.Context(), object(c.kind, "bad", c.spec), "apply", "--validate=strict", "-f", "-")
		if err == nil || !strings.Contains(err.Error(), c.message) {
			t.Errorf("%s %s: %v; want a refusal with %q", c.kind, c.spec, err, c.message)
		}
	}
	if _, err := scene.Kubectl(t.Context(), "apiVersion: berth.dev/v1alpha1\nkind: SpeakerStatus\nmetadata: {name: bad}\nstatus: {state: Asleep}\n", "apply", "-f", "-"); err == nil || !strings.Contains(err.Error(), `Unsupported value: "Asleep"`) {
		t.Errorf("SpeakerStatus in state Asleep: %v", err)
	}
	// A peer with a prefix has a session with each of its routers.
	for sessions, message := range map[string]string{
		`[{peer: racks, address: 10.0.0.1}, {peer: racks, address: 10.0.0.2}, {peer: spine}]`: "",
		`[{peer: racks, address: 10.0.0.1}, {peer: racks, address: 10.0.0.1}]`:                "Duplicate value",
	} {
		_, err := scene.Kubectl(t.Context(), "apiVersion: berth.dev/v1alpha1\nkind: SpeakerStatus\nmetadata: {name: racks}\nstatus: {groupsOwned: 0, sessions: "+sessions+"}\n", "apply", "--dry-run=server", "-f", "-")
		if message == "" && err != nil || message != "" && (err == nil || !strings.Contains(err.Error(), message)) {
			t.Errorf("SpeakerStatus with sessions %s: %v, want %q", sessions, err, message)
		}
	}
}

func TestWhatOnlyTheWholeSetShowsBecomesAConditionAndTheRestServes(t *testing.T) {
	ns := namespace(t)
	start(t)
	for _, o := range []string{
		object("IPPool", "good", `{addresses: [192.0.2.0/28]}`),
		object("IPPool", "reversed", `{addresses: [198.51.100.9-198.51.100.1, 198.51.100.32/28]}`),
		object("IPPool", "scoped", `{addresses: [203.0.113.0/28], scopes: [{serviceSelector: {matchExpressions: [{key: a, operator: Near}]}}], reserved: [10.0.0.0/30]}`),
		object("L2Advertisement", "good", `{pools: [good]}`),
		object("L2Advertisement", "typo", `{pools: [god]}`),
		object("L2Advertisement", "selector", `{nodeSelectors: [{matchExpressions: [{key: a, operator: Near}]}]}`),
		object("L2Advertisement", "services", `{serviceSelectors: [{matchLabels: {a: b}}, {matchExpressions: [{key: a, operator: Near}]}]}`),
		object("L2Advertisement", "preference", `{preferredNodes: [{weight: 7, nodeSelector: {matchExpressions: [{key: a, operator: Near}]}}]}`),
		object("L2Advertisement", "pattern", `{interfaces: [eth0, "bond["]}`),
		object("BGPPeer", "group", `{localASN: 1, peerASN: 2, address: 224.0.0.1}`),
		object("BGPPeer", "dials", `{localASN: 1, peerASN: 2, address: 192.0.2.9, passive: true}`),
		object("BGPPeer", "racks-a", `{localASN: 1, peerASN: 2, addressPrefix: 10.9.0.0/24}`),
		object("BGPPeer", "racks-b", `{localASN: 1, peerASN: 2, address: 10.9.0.7}`),
		object("BGPAdvertisement", "typo", `{peers: [tor]}`),
		object("BGPPeer", "secret", `{localASN: 1, peerASN: 2, address: 192.0.2.1, passwordSecretRef: {name: nobody}}`),
		object("BGPAdvertisement", "community", `{pools: [good], communities: ["65536:1"]}`),
		object("BGPAdvertisement", "preference-a", `{pools: [good], localPref: 200}`),
		object("BGPAdvertisement", "preference-b", `{pools: [good], localPref: 100}`),
	} {
		must(t, scene.Apply(t.Context(), o))
	}
	awaitReady(t, "ippool", "good", "True", "all of the object is in effect")
	awaitReady(t, "ippool", "reversed", "False", `spec.addresses[0]: "198.51.100.9-198.51.100.1" is reversed; write 198.51.100.1-198.51.100.9`)
	awaitReady(t, "ippool", "scoped", "False", `spec.reserved: 10.0.0.0/30 is not all in the pool; reserve only addresses of spec.addresses; spec.scopes[0].serviceSelector: "Near" is not a valid label selector operator; the pool gives no addresses until this is mended`)
	awaitReady(t, "l2advertisement", "good", "True", "all of the object is in effect")
	awaitReady(t, "l2advertisement", "typo", "False", `spec.pools[0]: no IPPool "god" exists; create it or take the name out`)
	awaitReady(t, "l2advertisement", "selector", "False", `spec.nodeSelectors[0]: "Near" is not a valid label selector operator; the object is not in effect until this is mended`)
	awaitReady(t, "l2advertisement", "services", "False", `spec.serviceSelectors[1]: "Near" is not a valid label selector operator; the object is not in effect until this is mended`)
	awaitReady(t, "l2advertisement", "preference", "False", `spec.preferredNodes[0].nodeSelector: "Near" is not a valid label selector operator; the entry is not in effect until this is mended`)
	awaitReady(t, "l2advertisement", "pattern", "False", `spec.interfaces[1]: "bond[" is no shell pattern; write a name such as eth0 or a pattern such as bond*`)
	awaitReady(t, "bgppeer", "group", "False", `spec.address: 224.0.0.1 is not the address of a router; write a unicast address`)
	awaitReady(t, "bgpadvertisement", "typo", "False", `spec.peers[0]: no BGPPeer "tor" is in effect; create it, mend it, or take the name out`)
	awaitReady(t, "bgppeer", "dials", "True", "all of the object is in effect")
	awaitReady(t, "bgppeer", "racks-a", "True", "all of the object is in effect")
	awaitReady(t, "bgppeer", "racks-b", "False", `spec.address: 10.9.0.7 overlaps the older BGPPeer racks-a, which has addressPrefix: 10.9.0.0/24, on every node: a router would belong to both; change or delete one of the two`)
	awaitReady(t, "bgppeer", "secret", "False", `spec.passwordSecretRef: there is no Secret "nobody" of type kubernetes.io/basic-auth in Berth's namespace; create it there, with the key "password"`)
	awaitReady(t, "bgpadvertisement", "community", "False", `spec.communities[0]: "65536:1" is no community; write two numbers up to 65535 (65000:100), three up to 4294967295 (65000:1:2), or a name such as no-export; routes are announced without it`)
	awaitReady(t, "bgpadvertisement", "preference-b", "False", `spec.localPref: 100, where the older BGPAdvertisement preference-a says 200 for the same routes, which counts; make them equal, or select other pools, peers, nodes or Services`)

	makeService(t, ns, "web", nil)
	await(t, ns, "web", "Allocated", "192.0.2.0")
	makeService(t, ns, "rest", pin("198.51.100.33"))
	await(t, ns, "rest", "Allocated", "198.51.100.33")

	// Mended, it is in effect, and says so.
	must(t, scene.Apply(t.Context(), object("IPPool", "reversed", `{addresses: [198.51.100.1-198.51.100.9, 198.51.100.32/28]}`)))
	awaitReady(t, "ippool", "reversed", "True", "all of the object is in effect")
	must(t, scene.Apply(t.Context(), object("BGPPeer", "tor", `{localASN: 1, peerASN: 2, address: 192.0.2.254}`)))
	awaitReady(t, "bgpadvertisement", "typo", "True", "all of the object is in effect")
	password := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "nobody", Namespace: stage.Namespace}, Type: corev1.SecretTypeBasicAuth,
		StringData: map[string]string{corev1.BasicAuthUsernameKey: "", corev1.BasicAuthPasswordKey: "a secret"},
	}
	_, err := scene.Kubernetes.CoreV1().Secrets(stage.Namespace).Create(t.Context(), password, metav1.CreateOptions{})
	must(t, err)
	awaitReady(t, "bgppeer", "secret", "True", "all of the object is in effect")
	must(t, scene.Kubernetes.CoreV1().Secrets(stage.Namespace).Delete(t.Context(), "nobody", metav1.DeleteOptions{}))
	awaitReady(t, "bgppeer", "secret", "False", `spec.passwordSecretRef: there is no Secret "nobody" of type kubernetes.io/basic-auth in Berth's namespace; create it there, with the key "password"`)
}

// awaitAnnounced waits until the Service web is announced so, or not.
func awaitAnnounced(t *testing.T, ns, reason, message string) {
	t.Helper()
	awaitAnnouncedOf(t, ns, "web", reason, message)
}

func awaitAnnouncedOf(t *testing.T, ns, name, reason, message string) {
	t.Helper()
	must(t, stage.Eventually(t.Context(), patience, func(context.Context) error {
		c := meta.FindStatusCondition(get(t, ns, name).Status.Conditions, v1alpha1.ServiceAnnounced)
		if c == nil || c.Reason != reason || c.Message != message {
			return fmt.Errorf("condition %+v, want %s: %s", c, reason, message)
		}
		return nil
	}))
}

// awaitReady waits until the object's condition Ready is as wanted.
func awaitReady(t *testing.T, kind, name, status, message string) {
	t.Helper()
	must(t, stage.Eventually(t.Context(), patience, func(ctx context.Context) error {
		out, err := scene.Kubectl(ctx, "", "get", kind, name, "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].status} {.status.conditions[?(@.type=="Ready")].message}`)
		if err == nil && out != status+" "+message {
			err = fmt.Errorf("%s %s is Ready %q, want %q", kind, name, out, status+" "+message)
		}
		return err
	}))
}

func TestKubectlExplainIsDocumentation(t *testing.T) {
	for field, phrase := range map[string]string{
		"ippool.spec":                         "Addresses of the pool: prefixes",
		"l2advertisement.spec":                "Interfaces on which to announce",
		"bgpadvertisement.spec":               "to which to announce",
		"bgppeer.spec":                        "LocalASN is the autonomous system number",
		"speakerstatus.status":                "Sessions with BGP peers",
		"ipreservation.spec":                  "by name, that gets the address whenever it exists",
		"ippool.status.ipv4":                  "in decimal",
		"speakerstatus.status.segments":       "Interface on the segment",
		"l2owner.spec":                        "Segment, by its first subnet",
		"l2advertisement.spec.preferredNodes": "Weight of the nodes, 1 to 100",
	} {
		out, err := scene.Kubectl(t.Context(), "", "explain", field)
		if err != nil || !strings.Contains(strings.Join(strings.Fields(out), " "), phrase) {
			t.Errorf("kubectl explain %s: %v\n%s\nwants %q", field, err, out, phrase)
		}
	}
}
