package doctor

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// proxyConfig is of kube-proxy's configuration what concerns Berth.
type proxyConfig struct {
	Mode     string       `json:"mode"`
	IPTables proxySyncing `json:"iptables"`
	NFTables proxySyncing `json:"nftables"`
	IPVS     struct {
		proxySyncing `json:",inline"`
		StrictARP    bool `json:"strictARP"`
	} `json:"ipvs"`
}

type proxySyncing struct {
	MinSyncPeriod metav1.Duration `json:"minSyncPeriod"`
}

// slowSync is the longest time between two changes of kube-proxy's rules that is not a finding. By
// default it is 1 s.
const slowSync = 5 * time.Second

// mode returns the mode by its usual name.
func (p proxyConfig) mode() string {
	if p.Mode == "" {
		return "iptables"
	}
	return p.Mode
}

func (p proxyConfig) minSync() time.Duration {
	switch p.mode() {
	case "nftables":
		return p.NFTables.MinSyncPeriod.Duration
	case "ipvs":
		return p.IPVS.MinSyncPeriod.Duration
	}
	return p.IPTables.MinSyncPeriod.Duration
}

func parseProxy(text string) (proxyConfig, error) {
	var p proxyConfig
	if err := yaml.Unmarshal([]byte(text), &p); err != nil {
		return p, fmt.Errorf("ConfigMap kube-system/kube-proxy: config.conf: %w", err)
	}
	return p, nil
}

// kubeProxy looks at kube-proxy, as far as the API server knows of it.
func (e *examination) kubeProxy() {
	const object = "ConfigMap kube-system/kube-proxy"
	if e.extras.KubeProxy != "" {
		p, err := parseProxy(e.extras.KubeProxy)
		if err != nil {
			e.report.Unknown = append(e.report.Unknown, err.Error())
			return
		}
		e.fact("kube-proxy runs in mode %s", p.mode())
		if p.mode() == "ipvs" && !p.IPVS.StrictARP {
			e.find(
				"kube-proxy-strict-arp",
				object,
				"kube-proxy runs in mode ipvs without strictARP: every node answers ARP for every address",
			)
		}
		if period := p.minSync(); period > slowSync {
			e.find(
				"kube-proxy-slow",
				object,
				"%s.minSyncPeriod is %s: a new Service refuses connections for that long after it got its address",
				p.mode(),
				period,
			)
		}
		return
	}
	if e.runsKubeProxy() {
		e.fact("kube-proxy runs; its mode is not in a ConfigMap, so it is not known")
		return
	}
	if replacement, object := e.replacement(); replacement != "" {
		e.find("kube-proxy-replaced", object, "%s carries Services in place of kube-proxy", replacement)
		return
	}
	e.fact("kube-proxy is not seen as an object: it runs outside of Pods, as in k3s, or not at all")
}

func (e *examination) runsKubeProxy() bool {
	return slices.ContainsFunc(e.workloads(), func(w workload) bool {
		return slices.ContainsFunc(w.spec.Containers, func(c corev1.Container) bool {
			return strings.Contains(c.Image, "kube-proxy") || c.Name == "kube-proxy"
		})
	})
}

// replacement returns what may be in the place of kube-proxy.
func (e *examination) replacement() (name, object string) {
	for _, w := range e.workloads() {
		for _, c := range w.spec.Containers {
			switch {
			case strings.Contains(c.Image, "cilium/cilium"):
				return "Cilium", w.object
			case strings.Contains(c.Image, "kube-router") && argument(c, "--run-service-proxy") != "false":
				return "kube-router", w.object
			case strings.Contains(c.Image, "ovn-kubernetes"):
				return "OVN-Kubernetes", w.object
			}
		}
	}
	return "", ""
}
