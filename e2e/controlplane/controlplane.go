// Package controlplane says how to run a real etcd and API server without a lab: with files in one
// folder, and an administrator who has a token.
package controlplane

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/berth-lb/berth/config/client"
)

// Plan is a control plane whose files are there.
type Plan struct {
	Dir     string
	Address string // of the API server, whose port is 6443
}

// token is the administrator's. The API server is in a network namespace of a test.
const token = "admin"

// Prepare writes the files of a control plane.
func Prepare(dir, address string) (Plan, error) {
	p := Plan{Dir: dir, Address: address}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return p, fmt.Errorf("make the key of ServiceAccounts: %w", err)
	}
	pair := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
	for name, text := range map[string]string{
		"tokens.csv": token + `,admin,admin,"system:masters"` + "\n",
		"sa.key":     string(pair),
		"kubeconfig": Kubeconfig(address+":6443", token),
	} {
		if err := os.WriteFile(p.file(name), []byte(text), 0o600); err != nil {
			return p, fmt.Errorf("prepare the control plane: %w", err)
		}
	}
	return p, nil
}

func (p Plan) file(name string) string { return filepath.Join(p.Dir, name) }

// Kubeconfig returns the path of the administrator's.
func (p Plan) Kubeconfig() string { return p.file("kubeconfig") }

// Kubeconfig returns that of a client with a token.
func Kubeconfig(server, token string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Config
current-context: it
contexts: [{name: it, context: {cluster: it, user: it}}]
clusters: [{name: it, cluster: {server: "https://%s", insecure-skip-tls-verify: true}}]
users: [{name: it, user: {token: %q}}]
`, server, token)
}

// Etcd returns the arguments of the program that holds the components of Kubernetes.
func (p Plan) Etcd() []string {
	return []string{"etcd", "--dir", p.file("etcd"), "--client", "127.0.0.1:2379", "--peer", "127.0.0.1:2380"}
}

// APIServer returns the arguments, with the ranges of ClusterIPs.
func (p Plan) APIServer(serviceRanges string, more ...string) []string {
	return append([]string{
		"kube-apiserver", "--etcd-servers=http://127.0.0.1:2379", "--advertise-address=" + p.Address,
		"--cert-dir=" + p.file("pki"), "--token-auth-file=" + p.file("tokens.csv"),
		"--authorization-mode=RBAC", "--service-cluster-ip-range=" + serviceRanges,
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file=" + p.file("sa.key"), "--service-account-signing-key-file=" + p.file("sa.key"),
	}, more...)
}

// Connect returns the administrator's clients.
func (p Plan) Connect() (kubernetes.Interface, *client.Interface, error) {
	config, err := clientcmd.BuildConfigFromFlags("", p.Kubeconfig())
	if err != nil {
		return nil, nil, fmt.Errorf("read kubeconfig: %w", err)
	}
	config.QPS, config.Burst = 1000, 2000
	set, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, nil, fmt.Errorf("client of the API server: %w", err)
	}
	own, err := client.New(config)
	if err != nil {
		return nil, nil, fmt.Errorf("client of the API server: %w", err)
	}
	return set, own, nil
}
