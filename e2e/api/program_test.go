//go:build root

package api

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/berth-lb/berth/e2e/lab"
	"github.com/berth-lb/berth/e2e/stage"
)

// programs runs `berth controller`, the program itself.
type programs struct{ binary, kubeconfig string }

func newPrograms(t *testing.T) *programs {
	t.Helper()
	manifest, err := stage.Manifest()
	must(t, err)
	p := &programs{filepath.Join(t.TempDir(), "berth"), filepath.Join(t.TempDir(), "kubeconfig")}
	build := exec.CommandContext(t.Context(), "go", "build", "-ldflags", "-s -w", "-o", p.binary, "./cmd/berth")
	build.Dir = filepath.Dir(filepath.Dir(manifest))
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-trimpath") // as it is shipped
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the program: %v: %s", err, out)
	}
	token, err := scene.Kubernetes.CoreV1().ServiceAccounts(stage.Namespace).CreateToken(t.Context(), "berth-controller", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	must(t, err)
	config, err := clientcmd.LoadFromFile(scene.Kubeconfig())
	must(t, err)
	for name := range config.AuthInfos {
		config.AuthInfos[name] = &clientcmdapi.AuthInfo{Token: token.Status.Token}
	}
	must(t, clientcmd.WriteToFile(*config, p.kubeconfig))
	t.Cleanup(func() {
		err := scene.Kubernetes.CoordinationV1().Leases(stage.Namespace).Delete(context.Background(), "berth-controller", metav1.DeleteOptions{})
		if err != nil {
			t.Error(err)
		}
	})
	return p
}

// program is one that runs.
type program struct {
	log  string // file
	stop func() error
}

// start starts the program until the test ends, beside the API server.
func (p *programs) start(t *testing.T, identity string, flags ...string) program {
	t.Helper()
	file := filepath.Join(t.TempDir(), identity+".log")
	log, err := os.Create(file)
	must(t, err)
	cmd := exec.Command(p.binary, append([]string{"controller", "--kubeconfig", p.kubeconfig, "--namespace", stage.Namespace, "--identity", identity, "--listen", ""}, flags...)...)
	cmd.Stdout, cmd.Stderr = log, log
	must(t, scene.In(lab.ControlPlane, cmd.Start))
	must(t, log.Close())
	ended := false
	stop := func() error {
		if ended {
			return nil
		}
		ended = true
		if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
			return fmt.Errorf("stop %s: %w", identity, err)
		}
		return cmd.Wait()
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			text, _ := os.ReadFile(file)
			t.Errorf("%s ended: %v\n%s", identity, err, text)
		}
	})
	return program{file, stop}
}

func (p program) awaitLog(t *testing.T, parts ...string) {
	t.Helper()
	must(t, stage.Eventually(t.Context(), patience, func(context.Context) error {
		text, err := os.ReadFile(p.log)
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(text)) {
			if !slices.ContainsFunc(parts, func(part string) bool { return !strings.Contains(line, part) }) {
				return nil
			}
		}
		return fmt.Errorf("no line with %q in the log:\n%s", parts, text)
	}))
}

func awaitLeader(t *testing.T, holder string) {
	t.Helper()
	must(t, stage.Eventually(t.Context(), patience, func(ctx context.Context) error {
		lease, err := scene.Kubernetes.CoordinationV1().Leases(stage.Namespace).Get(ctx, "berth-controller", metav1.GetOptions{})
		if err == nil && (lease.Spec.HolderIdentity == nil || *lease.Spec.HolderIdentity != holder) {
			err = fmt.Errorf("the Lease is held by %+v, want %s", lease.Spec.HolderIdentity, holder)
		}
		return err
	}))
}

func TestProviderProgramWaitsForTheReconcilersToEndAndTheReverse(t *testing.T) {
	ns := namespace(t)
	grantProvider(t)
	makePool(t, "p", "192.0.2.1-192.0.2.9")
	p := newPrograms(t)
	reconciler := p.start(t, "reconciler")
	awaitLeader(t, "reconciler")
	provider := p.start(t, "provider", "--cloud-provider")
	deleteServices(t, ns)
	provider.awaitLog(t, `"level":"WARN"`, "the leader runs the other way", `"leader":"reconciler"`, `"runs":"without --cloud-provider"`)
	makeService(t, ns, "first", nil)
	if svc := await(t, ns, "first", "Allocated", "192.0.2.1"); len(svc.Finalizers) != 0 {
		t.Errorf("finalizers %v while the reconciler leads", svc.Finalizers)
	}

	must(t, reconciler.stop())
	awaitLeader(t, "provider/cloud-provider")
	wait(t, ns, "first", "the service controller's", func(s *corev1.Service) bool { return slices.Contains(s.Finalizers, finalizer) })
	makeService(t, ns, "second", nil)
	await(t, ns, "second", "Allocated", "192.0.2.2")
	await(t, ns, "first", "Allocated", "192.0.2.1")
	reconciler = p.start(t, "later")
	reconciler.awaitLog(t, `"level":"WARN"`, "the leader runs the other way", `"leader":"provider"`, `"runs":"with --cloud-provider"`)
	must(t, reconciler.stop())
	awaitLeader(t, "provider/cloud-provider")
}
