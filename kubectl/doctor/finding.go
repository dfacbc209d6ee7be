package doctor

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/berth-lb/berth/kubectl/cluster"
	"github.com/berth-lb/berth/kubectl/doctor/nodes"
)

// Severity says how bad a finding is.
type Severity string

const (
	// Error: something does not work, or will not.
	Error Severity = "error"
	// Warning: something may not work, or not for everybody.
	Warning Severity = "warning"
)

// Finding is something that is wrong.
type Finding struct {
	// ID is stable: scripts may look for it.
	ID       string   `json:"id"`
	Severity Severity `json:"severity"`
	// Object is what is wrong, as kind and name; empty: the cluster as a whole.
	Object string `json:"object,omitempty"`
	// What is wrong, in a sentence.
	What string `json:"what"`
	// Remedy says what to do.
	Remedy string `json:"remedy"`
	// Docs is the page that says more, in Berth's repository.
	Docs string `json:"docs"`
}

// Report is all that was found.
type Report struct {
	Findings []Finding `json:"findings"`
	// Facts are what was seen and is not wrong by itself.
	Facts []string `json:"facts,omitempty"`
	// Unknown is what could not be looked at, and why.
	Unknown []string `json:"unknown,omitempty"`
}

// Kind is what findings with the same ID have in common.
type Kind struct {
	ID       string
	Severity Severity
	Remedy   string
	Docs     string
}

// Kinds are all that can be found, in the order in which they are reported.
func Kinds() []Kind { return kinds }

var kinds = []Kind{
	// The cluster, whether Berth is installed or not.
	{"kubernetes-version", Error, "upgrade Kubernetes to 1.32 or later", "docs/reference/versions.md"},
	{
		"admission-policy-api",
		Error,
		"serve ValidatingAdmissionPolicies (admissionregistration.k8s.io/v1): take what disables them from --runtime-config of the API server",
		"docs/reference/rbac.md",
	},
	{
		"pod-security",
		Error,
		"label the namespace pod-security.kubernetes.io/enforce=privileged: speakers use the host's network",
		"docs/reference/rbac.md",
	},
	{
		"priority-class",
		Error,
		"create the PriorityClass, which Kubernetes has by itself",
		"docs/guides/distributions.md",
	},
	{
		"webhook",
		Warning,
		"exclude Berth's namespace and the group berth.dev by namespaceSelector and rules of the webhook, or set failurePolicy: Ignore",
		"docs/guides/troubleshooting.md",
	},
	{
		"nodes-excluded",
		Error,
		"remove the label from the nodes that may announce: kubectl label node NAME node.kubernetes.io/exclude-from-external-load-balancers-",
		"docs/guides/layer2.md",
	},
	{"port-in-use", Error, "move the other program to another port, or Berth by its flags", "docs/reference/flags.md"},
	{
		"kube-proxy-strict-arp",
		Error,
		"set ipvs.strictARP: true in ConfigMap kube-proxy of kube-system, and restart kube-proxy",
		"docs/guides/migrate.md",
	},
	{
		"kube-proxy-slow",
		Warning,
		"lower minSyncPeriod in ConfigMap kube-proxy of kube-system, and restart kube-proxy",
		"docs/guides/layer2.md",
	},
	{
		"kube-proxy-replaced",
		Warning,
		"run kube-proxy, or test with your applications: Berth was not tried without it",
		"docs/guides/distributions.md",
	},
	{
		"other-load-balancer",
		Warning,
		"give it a class of its own, have Berth serve only its class (--serve-classless=false), or remove it",
		"docs/guides/migrate.md",
	},
	{
		"class-not-served",
		Warning,
		"create the Service again with a class that somebody serves, or have Berth serve this one by the controller's --classes",
		"docs/guides/troubleshooting.md",
	},
	{
		"status-of-another",
		Warning,
		"stop the other one, or take the Service over: spec.takeOver of a LoadBalancerPool",
		"docs/guides/migrate.md",
	},
	{"pool-invalid", Error, "correct the pool", "docs/guides/pools.md"},
	{
		"pool-address-in-use",
		Warning,
		"take the address out of the pool, so that nobody asks for it: Berth does not give it while it sees who has it",
		"docs/guides/pools.md",
	},
	{
		"pool-address-of-service",
		Warning,
		"take the address out of the pool, or take the Service over: spec.takeOver of the pool",
		"docs/guides/migrate.md",
	},
	{
		"pool-external-ip",
		Warning,
		"take the address out of spec.externalIPs of the Service, or out of the pool",
		"docs/guides/works-with.md",
	},
	// Berth, once it is installed.
	{"crd-missing", Error, "apply the CRDs of this version: manifests/crds", "docs/guides/upgrade.md"},
	{
		"crd-differs",
		Warning,
		"apply the CRDs of this version, or use the plugin of the version that is installed",
		"docs/guides/upgrade.md",
	},
	{
		"rights-missing",
		Error,
		"apply the manifests again: they have the roles and their bindings",
		"docs/reference/rbac.md",
	},
	{"policy-missing", Warning, "apply manifests/admission-speaker.yaml", "docs/reference/rbac.md"},
	{
		"fence-unconfined",
		Error,
		"apply the component manifests/fence again (Helm: fence.enabled: true), or delete ClusterRole berth-fence",
		"docs/guides/dead-nodes.md",
	},
	{
		"fence-blind",
		Warning,
		"give the speakers --report-silent-nodes, as the component manifests/fence and Helm's fence.enabled do",
		"docs/guides/dead-nodes.md",
	},
	{
		"controller-missing",
		Error,
		"install Berth, or name its namespace with --berth-namespace",
		"docs/getting-started.md",
	},
	{
		"controller-not-ready",
		Error,
		"look at its Pods and their events: kubectl describe pods -n berth-system -l app.kubernetes.io/component=controller",
		"docs/guides/runbook.md",
	},
	{
		"no-leader",
		Error,
		"look at the controllers' logs: kubectl logs -n berth-system -l app.kubernetes.io/component=controller",
		"docs/guides/runbook.md",
	},
	{
		"speaker-missing",
		Error,
		"look at the speaker's Pod of the node and its events: kubectl get pods -n berth-system -o wide",
		"docs/guides/runbook.md",
	},
	{"speaker-problem", Warning, "do what the speaker says", "docs/reference/conditions.md"},
	{"version-skew", Warning, "finish the upgrade, and use the plugin of the same version", "docs/guides/upgrade.md"},
	{"condition", Warning, "do what the condition says", "docs/reference/conditions.md"},
	{"service-pending", Warning, "kubectl berth why NAME says more", "docs/guides/troubleshooting.md"},
	{
		"session-down",
		Error,
		"kubectl berth bgp sessions has the last errors; look at the router's side too",
		"docs/guides/bgp.md",
	},
	{"segment-waiting", Warning, "bring the link up", "docs/guides/layer2.md"},
	{
		"segment-alone",
		Error,
		"let Ethernet frames of type 0x88b5 pass between the nodes, or list the interface in no announcement",
		"docs/guides/layer2.md",
	},
	{"proxy-arp", Warning, "turn proxy ARP off on that router's interface", "docs/guides/troubleshooting.md"},
	{"return-path", Warning, "route replies by the interface on the segment", "docs/guides/layer2.md"},
	{
		"hello-keys",
		Error,
		"finish the rotation of the hello key, so that every speaker accepts what the others sign with",
		"docs/reference/rbac.md",
	},
	{"address-conflict", Error, "take the address from that host, or out of the pool", "docs/guides/layer2.md"},
	// What only probes on the nodes find. They find some of the others, too.
	{
		nodes.AddressAnswered,
		Warning,
		"take the address from that host, or out of the pool: Berth does not announce it while the host answers",
		"docs/guides/layer2.md",
	},
	{
		nodes.AddressTwice,
		Error,
		"look at what keeps the two nodes from hearing each other, and for another load balancer or keepalived on them",
		"docs/guides/layer2.md",
	},
	{
		nodes.FramesLost,
		Error,
		"let multicast Ethernet frames of type 0x88b5 pass between the nodes: switches, hypervisors and packet filters drop them",
		"docs/guides/layer2.md",
	},
	{
		nodes.RouterUnreachable,
		Error,
		"let TCP port 179 pass between the node and the router, and have the router listen to the node",
		"docs/guides/bgp.md",
	},
	{
		nodes.RouterPassword,
		Error,
		"set the same password on both ends: in the Secret that the BGPNeighbor names, and on the router for this node",
		"docs/guides/bgp.md",
	},
	{
		nodes.ReversePath,
		Error,
		"route replies by the interface on the segment, or set net.ipv4.conf.INTERFACE.rp_filter and that of all to 2 (loose)",
		"docs/guides/layer2.md",
	},
	{
		nodes.PathMTU,
		Warning,
		"set the MTU of the nodes' interfaces to what the network between them carries, or raise that",
		"docs/guides/troubleshooting.md",
	},
	{
		nodes.KernelFeature,
		Error,
		"run a kernel that has it, or load its module at boot",
		"docs/reference/versions.md",
	},
}

// examination gathers findings.
type examination struct {
	*cluster.State
	extras *Extras
	report Report
}

// find adds a finding of a kind.
func (e *examination) find(id, object, format string, args ...any) {
	i := slices.IndexFunc(Kinds(), func(k Kind) bool { return k.ID == id })
	if i < 0 {
		panic("doctor: there is no kind of finding " + id)
	}
	k := Kinds()[i]
	e.report.Findings = append(e.report.Findings, Finding{
		ID: id, Severity: k.Severity, Object: object, What: fmt.Sprintf(format, args...), Docs: k.Docs,
		Remedy: strings.ReplaceAll(k.Remedy, "berth-system", e.Namespace),
	})
}

func (e *examination) fact(format string, args ...any) {
	e.report.Facts = append(e.report.Facts, fmt.Sprintf(format, args...))
}

// sort orders findings: the worst first, then as Kinds has them.
func (r *Report) sort() {
	all := Kinds()
	order := func(f Finding) int { return slices.IndexFunc(all, func(k Kind) bool { return k.ID == f.ID }) }
	slices.SortStableFunc(r.Findings, func(a, b Finding) int {
		return cmp.Or(
			strings.Compare(string(a.Severity), string(b.Severity)), cmp.Compare(order(a), order(b)),
			strings.Compare(a.Object, b.Object),
		)
	})
}
