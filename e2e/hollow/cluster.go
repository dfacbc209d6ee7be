//go:build linux

package hollow

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/berth-lb/berth/config/client"
	"github.com/berth-lb/berth/e2e/stage"
	"github.com/berth-lb/berth/e2e/stock"
)

// Addresses on the bridge. Node number i has 172.30.1.i.
const (
	serverAddress = "172.30.0.1" // of the API server and the first router
	secondRouter  = "172.30.0.2"
	metered       = serverAddress + ":7443" // the API server, with all bytes counted
	patience      = 10 * time.Minute        // two busy processors carry all nodes
)

// cluster is an API server with Berth's controller, and hollow nodes.
type cluster struct {
	kubernetes kubernetes.Interface
	berth      *client.Interface
	meter      *meter
	nodes      []*node

	folder     stock.Folder
	dir        string
	kubeconfig string // the administrator's
}

// newCluster starts etcd, the API server, and Berth's controller with the rights of its
// ServiceAccount. There are no other controllers: the caller makes what they would make.
func newCluster(ctx context.Context, dir string) (*cluster, error) {
	folder, err := stock.Find()
	if err != nil {
		return nil, err
	}
	c := &cluster{folder: folder, dir: dir, kubeconfig: filepath.Join(dir, "kubeconfig")}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, fmt.Errorf("make the key of ServiceAccounts: %w", err)
	}
	pair := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
	for name, text := range map[string]string{
		"tokens.csv": "admin,admin,admin,\"system:masters\"\n", "sa.key": string(pair),
		"kubeconfig": kubeconfig(serverAddress+":6443", "admin"),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return nil, fmt.Errorf("prepare the cluster: %w", err)
		}
	}
	if _, err := c.start(ctx, "", "etcd", folder.Bin("kube"), "etcd", "--dir", filepath.Join(dir, "etcd"),
		"--client", "127.0.0.1:2379", "--peer", "127.0.0.1:2380"); err != nil {
		return nil, err
	}
	if _, err := c.start(ctx, "", "kube-apiserver", folder.Bin("kube"), "kube-apiserver",
		"--etcd-servers=http://127.0.0.1:2379", "--advertise-address="+serverAddress,
		"--cert-dir="+filepath.Join(dir, "pki"), "--token-auth-file="+filepath.Join(dir, "tokens.csv"),
		"--authorization-mode=RBAC", "--service-cluster-ip-range=10.96.0.0/16",
		"--service-account-issuer=https://kubernetes.default.svc", "--event-ttl=5m",
		"--service-account-key-file="+filepath.Join(dir, "sa.key"),
		"--service-account-signing-key-file="+filepath.Join(dir, "sa.key")); err != nil {
		return nil, err
	}
	if err := c.connect(); err != nil {
		return nil, err
	}
	if err := c.eventually(ctx, func(ctx context.Context) error {
		return c.kubernetes.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
	}); err != nil {
		return nil, fmt.Errorf("wait for the API server: %w", err)
	}
	if c.meter, err = newMeter(ctx, metered, serverAddress+":6443"); err != nil {
		return nil, err
	}
	manifest, err := stage.Manifest()
	if err != nil {
		return nil, err
	}
	if err := c.eventually(ctx, func(ctx context.Context) error {
		return c.kubectl(ctx, "", "apply", "--server-side", "-f", manifest)
	}); err != nil {
		return nil, fmt.Errorf("install Berth: %w", err)
	}
	return c, c.startController(ctx)
}

func (c *cluster) connect() error {
	config, err := clientcmd.BuildConfigFromFlags("", c.kubeconfig)
	if err != nil {
		return fmt.Errorf("read kubeconfig: %w", err)
	}
	config.QPS, config.Burst = 1000, 2000
	if c.kubernetes, err = kubernetes.NewForConfig(config); err != nil {
		return fmt.Errorf("client of the API server: %w", err)
	}
	if c.berth, err = client.New(config); err != nil {
		return fmt.Errorf("client of the API server: %w", err)
	}
	return nil
}

// kubeconfig is for a client with a token.
func kubeconfig(server, token string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Config
current-context: it
contexts: [{name: it, context: {cluster: it, user: it}}]
clusters: [{name: it, cluster: {server: "https://%s", insecure-skip-tls-verify: true}}]
users: [{name: it, user: {token: %q}}]
`, server, token)
}

// credentials writes a kubeconfig for a ServiceAccount of Berth's, by way of the meter, and returns
// its path. The token is bound to the object, unless that is nil.
func (c *cluster) credentials(
	ctx context.Context,
	account, name string,
	bound *authenticationv1.BoundObjectReference,
) (string, error) {
	day := int64(24 * 60 * 60)
	token, err := c.kubernetes.CoreV1().ServiceAccounts(stage.Namespace).CreateToken(
		ctx, account, &authenticationv1.TokenRequest{
			Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: bound, ExpirationSeconds: &day},
		}, metav1.CreateOptions{},
	)
	if err != nil {
		return "", fmt.Errorf("token of ServiceAccount %s: %w", account, err)
	}
	file := filepath.Join(c.dir, name+".kubeconfig")
	return file, os.WriteFile(file, []byte(kubeconfig(metered, token.Status.Token)), 0o600)
}

func (c *cluster) startController(ctx context.Context) error {
	config, err := c.credentials(ctx, "berth-controller", "controller", nil)
	if err != nil {
		return err
	}
	_, err = c.start(ctx, "", "controller", c.folder.Bin("berth"), "controller", "--kubeconfig="+config,
		"--namespace="+stage.Namespace, "--identity=controller", "--listen=127.0.0.1:7471")
	return err
}

// start starts a program in a network namespace; its log is in the cluster's folder.
func (c *cluster) start(ctx context.Context, space, name string, argv ...string) (*exec.Cmd, error) {
	log, err := os.OpenFile(filepath.Join(c.dir, name+".log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	defer log.Close()
	argv = within(space, argv...)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return cmd, nil
}

// kubectl runs kubectl.
func (c *cluster) kubectl(ctx context.Context, stdin string, args ...string) error {
	flags := []string{"kubectl", "--kubeconfig=" + c.kubeconfig, "--cache-dir=" + filepath.Join(c.dir, "cache")}
	cmd := exec.CommandContext(ctx, c.folder.Bin("kube"), append(flags, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}

func (c *cluster) apply(ctx context.Context, yaml string) error {
	return c.kubectl(ctx, yaml, "apply", "-f", "-")
}

func (c *cluster) eventually(ctx context.Context, what func(context.Context) error) error {
	return stage.Eventually(ctx, patience, what)
}
