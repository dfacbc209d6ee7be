//go:build root

package api

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/berth-lb/berth/e2e/lab"
	"github.com/berth-lb/berth/e2e/stage"
)

// programs runs `berth controller`, the program itself.
type programs struct {
	binary, kubeconfig string
	env                []string
}

var programDir string // where the program is, of all tests of the package

// built returns the program, as it is shipped. It is built once.
var built = sync.OnceValues(func() (string, error) {
	manifest, err := stage.Manifest()
	if err != nil {
		return "", err
	}
	binary := filepath.Join(programDir, "berth")
	build := exec.Command("go", "build", "-ldflags", "-s -w", "-o", binary, "./cmd/berth")
	build.Dir = filepath.Dir(filepath.Dir(manifest))
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-trimpath")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the program: %w: %s", err, out)
	}
	return binary, nil
})

func newPrograms(t *testing.T) *programs {
	t.Helper()
	binary, err := built()
	must(t, err)
	p := &programs{binary: binary, kubeconfig: filepath.Join(t.TempDir(), "kubeconfig")}
	token, err := scene.Kubernetes.CoreV1().ServiceAccounts(
		stage.Namespace,
	).CreateToken(t.Context(), "berth-controller", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	must(t, err)
	config, err := clientcmd.LoadFromFile(scene.Kubeconfig())
	must(t, err)
	for name := range config.AuthInfos {
		config.AuthInfos[name] = &clientcmdapi.AuthInfo{Token: token.Status.Token}
	}
	must(t, clientcmd.WriteToFile(*config, p.kubeconfig))
	t.Cleanup(func() {
		err := scene.Kubernetes.CoordinationV1().Leases(
			stage.Namespace,
		).Delete(context.Background(), "berth-controller", metav1.DeleteOptions{})
		if err != nil {
			t.Error(err)
		}
	})
	return p
}

// program is one that runs.
type program struct {
	log    string // file
	signal func(os.Signal) error
	wait   func() error // for its end, whichever it is
	stop   func() error
}

// start starts the program until the test ends, beside the API server.
func (p *programs) start(t *testing.T, identity string, flags ...string) program {
	t.Helper()
	if !since(t, "1.33.0") { // the API server has no ServiceCIDRs, of which the program warns
		flags = append(flags, "--service-cidrs="+serviceCIDR)
	}
	flags = append([]string{"controller", "--identity", identity, "--listen", ""}, flags...)
	return p.run(t, lab.ControlPlane, identity, flags...)
}

// run starts the program on a host until the test ends.
func (p *programs) run(t *testing.T, host, identity string, args ...string) program {
	t.Helper()
	file := filepath.Join(t.TempDir(), identity+".log")
	log, err := os.Create(file)
	must(t, err)
	cmd := exec.Command(p.binary, append(args, "--kubeconfig", p.kubeconfig, "--namespace", stage.Namespace)...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), p.env...)
	must(t, scene.In(host, cmd.Start))
	must(t, log.Close())
	ended := false
	r := program{log: file, signal: cmd.Process.Signal}
	r.wait = func() error {
		if ended {
			return nil
		}
		ended = true
		return cmd.Wait()
	}
	r.stop = func() error {
		if ended {
			return nil
		}
		if err := errors.Join(r.signal(unix.SIGTERM), r.signal(unix.SIGCONT)); err != nil {
			return fmt.Errorf("stop %s: %w", identity, err)
		}
		return r.wait()
	}
	t.Cleanup(func() {
		if err := r.stop(); err != nil || t.Failed() {
			text, _ := os.ReadFile(file)
			t.Errorf("%s ended: %v\n%s", identity, err, text)
		}
	})
	return r
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
		lease, err := scene.Kubernetes.CoordinationV1().Leases(
			stage.Namespace,
		).Get(ctx, "berth-controller", metav1.GetOptions{})
		if err == nil && (lease.Spec.HolderIdentity == nil || *lease.Spec.HolderIdentity != holder) {
			err = fmt.Errorf("the Lease is held by %+v, want %s", lease.Spec.HolderIdentity, holder)
		}
		return err
	}))
}

// A controller in one mode waits until those in the other mode have ended.
func TestProgramModesExcludeEachOther(t *testing.T) {
	ns := namespace(t)
	grantProvider(t)
	makePool(t, "p", "192.0.2.1-192.0.2.9")
	p := newPrograms(t)
	reconciler := p.start(t, "reconciler")
	awaitLeader(t, "reconciler")
	provider := p.start(t, "provider", "--cloud-provider")
	deleteServices(t, ns)
	provider.awaitLog(
		t, `"level":"WARN"`, "the leader runs in the other mode", `"leader":"reconciler"`,
		`"runs":"without --cloud-provider"`,
	)
	makeService(t, ns, "first", nil)
	if svc := await(t, ns, "first", "Allocated", "192.0.2.1"); len(svc.Finalizers) != 0 {
		t.Errorf("finalizers %v while the reconciler leads", svc.Finalizers)
	}

	must(t, reconciler.stop())
	awaitLeader(t, "provider/cloud-provider")
	wait(
		t,
		ns,
		"first",
		"the service controller's",
		func(s *corev1.Service) bool { return slices.Contains(s.Finalizers, finalizer) },
	)
	makeService(t, ns, "second", nil)
	await(t, ns, "second", "Allocated", "192.0.2.2")
	await(t, ns, "first", "Allocated", "192.0.2.1")
	reconciler = p.start(t, "later")
	reconciler.awaitLog(
		t, `"level":"WARN"`, "the leader runs in the other mode", `"leader":"provider"`,
		`"runs":"with --cloud-provider"`,
	)
	must(t, reconciler.stop())
	awaitLeader(t, "provider/cloud-provider")
}

// TestFrozenLeaderWritesNothing: there is no moment at which two
// Services have one address, though the woken leader finds its workers' queues full
// and knows nothing of what the next leader gave.
func TestFrozenLeaderWritesNothing(t *testing.T) {
	ns := namespace(t)
	makePool(t, "p", "192.0.2.0/28") // small: what is freed is given again at once
	p := newPrograms(t)
	owners := watchOwners(t, ns)
	frozen := p.start(t, "frozen", "--rest=0s")
	awaitLeader(t, "frozen")
	p.env = []string{"KUBE_FEATURE_WatchListClient=false"} // as with an API server that streams no lists
	standby := p.start(t, "standby", "--rest=0s")
	standby.awaitLog(t, `"leader":"frozen"`)
	makeService(t, ns, "stays", nil)
	await(t, ns, "stays", "Allocated", "192.0.2.0")
	makeService(t, ns, "goes", nil)
	await(t, ns, "goes", "Allocated", "192.0.2.1")

	// It freezes in the midst of its work.
	churn := make(chan error, 1)
	waking, ended := context.WithCancel(t.Context())
	defer ended()
	go func() { churn <- comeAndGo(waking, ns) }()
	must(t, stage.Eventually(t.Context(), patience, func(context.Context) error {
		if n := owners.given(); n < 20 {
			return fmt.Errorf("%d addresses were given", n)
		}
		return nil
	}))
	must(t, frozen.signal(unix.SIGSTOP))
	awaitLeader(t, "standby")
	remove(t, ns, "goes")
	before := owners.given()
	must(t, stage.Eventually(t.Context(), patience, func(context.Context) error {
		if n := owners.given() - before; n < 20 {
			return fmt.Errorf("the standby gave %d addresses", n)
		}
		return nil
	}))
	must(t, frozen.signal(unix.SIGCONT))
	if err := frozen.wait(); err == nil {
		t.Error("the woken leader ended as if all were well")
	}
	frozen.awaitLog(t, "another leads; stopping", `"leader":"standby"`)
	before = owners.given()
	must(t, stage.Eventually(t.Context(), patience, func(context.Context) error {
		if n := owners.given() - before; n < 20 {
			return fmt.Errorf("the standby gave %d addresses after the other's end", n)
		}
		return nil
	}))
	ended()
	must(t, <-churn)
	await(t, ns, "stays", "Allocated", "192.0.2.0")
	if shared := owners.shared(); len(shared) > 0 {
		t.Errorf("addresses that two Services had at once: %v", shared)
	}
}

// comeAndGo makes Services and deletes them, a few at a time, until the context ends.
func comeAndGo(ctx context.Context, ns string) error {
	services := scene.Kubernetes.CoreV1().Services(ns)
	for i := 0; ; i++ {
		svc := &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: fmt.Sprintf("passing-%d", i)},
			Spec: corev1.ServiceSpec{
				Type: corev1.ServiceTypeLoadBalancer, Ports: []corev1.ServicePort{{Port: 80}},
			},
		}
		_, err := services.Create(ctx, svc, metav1.CreateOptions{})
		if err == nil && i >= 10 {
			err = services.Delete(ctx, fmt.Sprintf("passing-%d", i-10), metav1.DeleteOptions{})
		}
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("come and go: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(20 * time.Millisecond): // a user's pace
		}
	}
}

// owners follows which Service has which address, in the order of the API server.
type owners struct {
	mu      sync.Mutex
	of      map[string]string // Service by address
	count   int
	doubled []string
}

// watchOwners follows the Services of a namespace until the test ends.
func watchOwners(t *testing.T, ns string) *owners {
	t.Helper()
	o := &owners{of: map[string]string{}}
	follow := func(svc *corev1.Service, gone bool) {
		o.mu.Lock()
		defer o.mu.Unlock()
		maps.DeleteFunc(o.of, func(address, owner string) bool {
			return owner == svc.Name &&
				(gone || !slices.ContainsFunc(
					svc.Status.LoadBalancer.Ingress, func(i corev1.LoadBalancerIngress) bool { return i.IP == address },
				))
		})
		if gone {
			return
		}
		for _, i := range svc.Status.LoadBalancer.Ingress {
			switch owner := o.of[i.IP]; owner {
			case svc.Name:
			case "":
				o.of[i.IP] = svc.Name
				o.count++
			default:
				o.doubled = append(o.doubled, fmt.Sprintf("%s of %s and %s", i.IP, owner, svc.Name))
			}
		}
	}
	informer := informers.NewSharedInformerFactoryWithOptions(
		scene.Kubernetes, 0, informers.WithNamespace(ns),
	).Core().V1().Services().Informer()
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(n any) { follow(n.(*corev1.Service), false) },
		UpdateFunc: func(_, n any) { follow(n.(*corev1.Service), false) },
		DeleteFunc: func(n any) {
			if svc, ok := n.(*corev1.Service); ok {
				follow(svc, true)
			}
		},
	})
	must(t, err)
	go informer.RunWithContext(t.Context())
	if !cache.WaitForCacheSync(t.Context().Done(), informer.HasSynced) {
		t.Fatal("no watch of the Services")
	}
	return o
}

// given counts the addresses that were given so far.
func (o *owners) given() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.count
}

func (o *owners) shared() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.doubled)
}
