//go:build linux

package hollow

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/berth-lb/berth/config/client"
	"github.com/berth-lb/berth/e2e/controlplane"
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

	folder stock.Folder
	dir    string
	plan   controlplane.Plan
}

// newCluster starts etcd, the API server, and Berth's controller with the rights of its
// ServiceAccount. There are no other controllers: the caller makes what they would make.
func newCluster(ctx context.Context, dir string) (*cluster, error) {
	folder, err := stock.Find()
	if err != nil {
		return nil, err
	}
	c := &cluster{folder: folder, dir: dir}
	if c.plan, err = controlplane.Prepare(dir, serverAddress); err != nil {
		return nil, err
	}
	kube := func(name string, args ...string) error {
		_, err := c.start(ctx, "", name, append([]string{folder.Bin("kube")}, args...)...)
		return err
	}
	if err := kube("etcd", c.plan.Etcd()...); err != nil {
		return nil, err
	}
	if err := kube("kube-apiserver", c.plan.APIServer("10.96.0.0/16", "--event-ttl=5m")...); err != nil {
		return nil, err
	}
	if c.kubernetes, c.berth, err = c.plan.Connect(); err != nil {
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
	return file, os.WriteFile(file, []byte(controlplane.Kubeconfig(metered, token.Status.Token)), 0o600)
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
	flags := []string{"kubectl", "--kubeconfig=" + c.plan.Kubeconfig(), "--cache-dir=" + filepath.Join(c.dir, "cache")}
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
