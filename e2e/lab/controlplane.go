//go:build linux

package lab

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

const (
	apiAddress    = "172.30.0.2" // of the control plane's host
	apiServer     = "https://" + apiAddress + ":6443"
	apiClusterIP4 = "10.96.0.1" // of Service default/kubernetes
)

func (l *Lab) pki(file string) string { return filepath.Join(l.dir(), "pki", file) }

// makeCertificates writes the keys, certificates and kubeconfigs of the lab.
func (l *Lab) makeCertificates() error {
	a, err := newAuthority(filepath.Join(l.dir(), "pki"), apiServer)
	if err != nil {
		return err
	}
	const service = "kubernetes.default.svc"
	addrs := []netip.Addr{
		netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr(apiAddress), netip.MustParseAddr(apiClusterIP4),
	}
	names := []string{"localhost", "kubernetes", "kubernetes.default", service, service + ".cluster.local"}
	return firstError(
		func() error { return a.store("apiserver", "kube-apiserver", nil, addrs, names) },
		func() error { return a.store("front-proxy", "front-proxy-client", nil, nil, nil) },
		func() error {
			return a.store("kubelet-client", "kube-apiserver-kubelet-client", []string{"system:masters"}, nil, nil)
		},
		func() error { return a.store("sa", "service-accounts", nil, nil, nil) },
		func() error { return a.kubeconfig("admin", "admin", "system:masters") },
		func() error { return a.kubeconfig("controller-manager", "system:kube-controller-manager") },
		func() error { return a.kubeconfig("scheduler", "system:kube-scheduler") },
		func() error { return a.kubeconfig("proxy", "system:kube-proxy") },
		func() error {
			for _, node := range l.plan.nodes() {
				if err := a.kubeconfig("node-"+node, "system:node:"+node, "system:nodes"); err != nil {
					return err
				}
			}
			return nil
		},
	)
}

// program is the command line of etcd or of a component of Kubernetes.
func (l *Lab) program(name string, args ...string) []string {
	switch {
	case l.opts.Kubernetes != "" && name != "etcd":
		return append([]string{l.folder.Kubernetes(l.opts.Kubernetes, name)}, args...)
	case name == "kubelet":
		return append([]string{l.folder.Bin(name)}, args...)
	default:
		return append([]string{l.folder.Bin("kube"), name}, args...)
	}
}

// startControlPlane starts etcd and the components of Kubernetes, in order.
func (l *Lab) startControlPlane(ctx context.Context) error {
	audit, err := l.auditArgs()
	if err != nil {
		return err
	}
	steps := []struct {
		name string
		args []string
		url  string
	}{
		{"etcd", l.etcdArgs(), "http://127.0.0.1:2379/health"},
		{"kube-apiserver", append(l.apiserverArgs(), audit...), apiServer + "/readyz"},
		{"kube-controller-manager", l.controllerManagerArgs(), "https://127.0.0.1:10257/healthz"},
		{"kube-scheduler", l.schedulerArgs(), "https://127.0.0.1:10259/healthz"},
	}
	for _, s := range steps {
		if err := l.start(ctx, ControlPlane, s.name, l.program(s.name, s.args...)...); err != nil {
			return err
		}
		if err := l.healthy(ctx, ControlPlane, s.name, l.answers(ControlPlane, s.url)); err != nil {
			return err
		}
	}
	return nil
}

// answers returns a check that a URL gives status 200 to a client in the host.
func (l *Lab) answers(hostName, url string) func(context.Context) error {
	return func(ctx context.Context) error {
		client := l.HTTPClient(hostName)
		// The request stays within the host, so the certificate need not be verified.
		client.Transport.(*http.Transport).TLSClientConfig = &tls.Config{InsecureSkipVerify: true}
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		response, err := client.Do(request)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("%s: %s", url, response.Status)
		}
		return nil
	}
}

func (l *Lab) etcdArgs() []string {
	return []string{
		"--dir",
		filepath.Join(l.dir(), "data", "etcd"),
		"--client",
		"127.0.0.1:2379",
		"--peer",
		"127.0.0.1:2380",
	}
}

func (l *Lab) serviceRange() string {
	if l.opts.DualStack {
		return serviceRange4 + "," + serviceRange6
	}
	return serviceRange4
}

func (l *Lab) podRange() string {
	if l.opts.DualStack {
		return podRange4 + "," + podRange6
	}
	return podRange4
}

func (l *Lab) apiserverArgs() []string {
	return []string{
		"--etcd-servers=http://127.0.0.1:2379",
		"--advertise-address=" + apiAddress, "--bind-address=0.0.0.0", "--secure-port=6443",
		"--tls-cert-file=" + l.pki("apiserver.crt"), "--tls-private-key-file=" + l.pki("apiserver.key"),
		"--client-ca-file=" + l.pki("ca.crt"), "--authorization-mode=Node,RBAC",
		"--enable-admission-plugins=NodeRestriction", "--allow-privileged=true",
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file=" + l.pki("sa.key"), "--service-account-signing-key-file=" + l.pki("sa.key"),
		"--service-cluster-ip-range=" + l.serviceRange(),
		"--kubelet-client-certificate=" + l.pki("kubelet-client.crt"), "--kubelet-client-key=" + l.pki("kubelet-client.key"),
		"--kubelet-preferred-address-types=InternalIP",
		"--requestheader-client-ca-file=" + l.pki("ca.crt"), "--requestheader-allowed-names=front-proxy-client",
		"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file=" + l.pki("front-proxy.crt"), "--proxy-client-key-file=" + l.pki("front-proxy.key"),
		"--profiling=false",
	}
}

// controllers lists those that a cluster without a cloud and without volumes needs.
func controllers() []string {
	return []string{
		"deployment-controller", "replicaset-controller", "daemonset-controller", "statefulset-controller",
		"job-controller", "cronjob-controller", "replicationcontroller-controller", "disruption-controller",
		"endpoints-controller", "endpointslice-controller", "endpointslice-mirroring-controller",
		"namespace-controller", "garbage-collector-controller", "pod-garbage-collector-controller",
		"serviceaccount-controller", "serviceaccount-token-controller", "root-ca-certificate-publisher-controller",
		"node-lifecycle-controller", "taint-eviction-controller", "service-cidr-controller",
		"clusterrole-aggregation-controller",
	}
}

func (l *Lab) controllerManagerArgs() []string {
	config := l.pki("controller-manager.kubeconfig")
	notices := []string{"--node-monitor-period=1s", "--node-monitor-grace-period=6s"}
	if l.opts.StockGrace {
		notices = nil
	}
	return append([]string{
		"--kubeconfig=" + config, "--authentication-kubeconfig=" + config, "--authorization-kubeconfig=" + config,
		"--use-service-account-credentials=true", "--service-account-private-key-file=" + l.pki("sa.key"),
		"--root-ca-file=" + l.pki("ca.crt"), "--leader-elect=false", "--bind-address=127.0.0.1", "--profiling=false",
		"--controllers=" + strings.Join(controllers(), ","),
	}, notices...)
}

func (l *Lab) schedulerArgs() []string {
	config := l.pki("scheduler.kubeconfig")
	return []string{
		"--kubeconfig=" + config, "--authentication-kubeconfig=" + config, "--authorization-kubeconfig=" + config,
		"--leader-elect=false", "--bind-address=127.0.0.1", "--profiling=false",
	}
}

// defaultServiceAccount returns a check that pods can be created.
func defaultServiceAccount(client kubernetes.Interface) func(context.Context) error {
	return func(ctx context.Context) error {
		_, err := client.CoreV1().ServiceAccounts("default").Get(ctx, "default", metav1.GetOptions{})
		return err
	}
}

// listens returns a check that a Unix socket of a host accepts connections.
func (l *Lab) listens(hostName, socket string) func(context.Context) error {
	return func(ctx context.Context) error {
		init, err := l.initOf(hostName)
		if err != nil {
			return err
		}
		path := fmt.Sprintf("/proc/%d/root%s", init, socket)
		if _, err := os.Stat(path); err != nil {
			return err
		}
		conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
		if err != nil {
			return err
		}
		return conn.Close()
	}
}
