//go:build release

package release

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/e2e/lab"
	"github.com/berth-lb/berth/e2e/stage"
	"github.com/berth-lb/berth/e2e/stock"
)

const shop = "shop"

// TestWorksWith runs the real Traefik behind Services of Berth's, and the real external-dns and
// Envoy Gateway's control plane beside it. docs/guides/works-with.md says what it shows.
func TestWorksWith(t *testing.T) {
	i := &ingress{Stage: raise(t, lab.Options{Name: "works", Nodes: 3, Router: "frr"})}
	t.Cleanup(func() {
		if t.Failed() {
			i.Explain(context.Background(), t.Output())
		}
	})
	must(t, i.Install, i.Configure, func(ctx context.Context) error { return i.AwaitSpeakers(ctx, true) })
	t.Run("Traefik", func(t *testing.T) {
		for _, step := range []struct {
			name string
			run  func(*testing.T)
		}{
			{"routes by host, path and TLS", i.testRoutes},
			{"an Ingress has the address of the Service", i.testIngressStatus},
			{"under Cluster a replica ends and moves, and no connection fails", i.testClusterMoves},
			{"under Cluster it sees a node as the client", i.testClusterHidesClients},
			{"under Local it sees the client, and only nodes with replicas announce", i.testLocalShowsClients},
			{"under Local a replica ends and moves, and no connection fails", i.testLocalMoves},
		} {
			if !t.Run(step.name, step.run) {
				t.FailNow() // the next begins where it ends
			}
		}
	})
	t.Run("external-dns follows an address", i.testExternalDNS)
	t.Run("Envoy Gateway has addresses", i.testEnvoyGateway)
}

// ingress is a lab with Berth, and with what works with it.
type ingress struct {
	*stage.Stage
	roots *x509.CertPool
	// The addresses of the Services of Traefik, on the segment and behind the router.
	near, far netip.Addr
}

func fixture(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func (i *ingress) testRoutes(t *testing.T) {
	must(
		t,
		func(ctx context.Context) error { return i.LoadCompany(ctx, stock.Traefik) },
		func(ctx context.Context) error { return i.Deploy(ctx, stage.App{Namespace: shop, Name: "red"}) },
		func(ctx context.Context) error { return i.Deploy(ctx, stage.App{Namespace: shop, Name: "blue"}) },
		func(ctx context.Context) error { return i.makeCertificate(ctx, "secure.lab.test") },
		func(ctx context.Context) error { return i.Apply(ctx, fixture(t, "traefik.yaml")) },
		func(ctx context.Context) error { return i.Apply(ctx, fixture(t, "ingress.yaml")) },
		i.awaitTraefik,
	)
	i.near, i.far = i.addressOf(t, "traefik"), i.addressOf(t, "traefik-routed")
	for _, tt := range []struct {
		url, want string
	}{
		{url: "http://red.lab.test/", want: "red-"},
		{url: "http://blue.lab.test/", want: "blue-"},
		{url: "http://www.lab.test/red/x", want: "red-"},
		{url: "http://www.lab.test/blue", want: "blue-"},
		{url: "https://secure.lab.test/", want: "blue-"},
	} {
		for host, address := range i.clients() {
			eventually(t, func(ctx context.Context) error {
				answer, err := i.ask(ctx, host, address, tt.url)
				if err == nil && !strings.HasPrefix(answer.Pod, tt.want) {
					err = fmt.Errorf("%s at %s is answered by %s, want %s...", tt.url, address, answer.Pod, tt.want)
				}
				return err
			})
		}
	}
}

// clients are the hosts that ask, and the address that each asks at.
func (i *ingress) clients() map[string]netip.Addr {
	return map[string]netip.Addr{lab.Client: i.near, lab.Remote: i.far}
}

// makeCertificate makes a Secret with a certificate for a name.
func (i *ingress) makeCertificate(ctx context.Context, name string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return err
	}
	i.roots = x509.NewCertPool()
	i.roots.AddCert(certificate)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	_, err = i.Kubernetes.CoreV1().Secrets(shop).Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "secure"},
		Type:       corev1.SecretTypeTLS,
		Data: map[string][]byte{
			corev1.TLSCertKey:       pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
			corev1.TLSPrivateKeyKey: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}),
		},
	}, metav1.CreateOptions{})
	return err
}

func (i *ingress) awaitTraefik(ctx context.Context) error {
	_, err := i.Kubectl(ctx, "", "-n", "traefik", "rollout", "status", "deployment/traefik", "--timeout=90s")
	return err
}

func (i *ingress) addressOf(t *testing.T, name string) netip.Addr {
	t.Helper()
	var address netip.Addr
	eventually(t, func(ctx context.Context) error {
		svc, err := i.Kubernetes.CoreV1().Services("traefik").Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if len(stage.Addresses(svc)) == 0 {
			return fmt.Errorf("no address for Service %s: %v", name, svc.Status.Conditions)
		}
		address = addressOf(svc)
		return nil
	})
	return address
}

// ask requests a URL from a host, at an address, whatever name the URL has.
func (i *ingress) ask(ctx context.Context, host string, address netip.Addr, url string) (stage.Answer, error) {
	var answer stage.Answer
	client := &http.Client{
		Timeout: 5 * time.Second,
		Transport: &http.Transport{
			DisableKeepAlives: true,
			TLSClientConfig:   &tls.Config{RootCAs: i.roots},
			DialContext: func(ctx context.Context, network, name string) (net.Conn, error) {
				_, port, err := net.SplitHostPort(name)
				if err != nil {
					return nil, err
				}
				return i.Dial(ctx, host, network, net.JoinHostPort(address.String(), port))
			},
		},
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return answer, err
	}
	// What a client says of itself must not reach the application.
	request.Header.Set("X-Forwarded-For", "192.0.2.66")
	request.Header.Set("X-Real-Ip", "192.0.2.66")
	response, err := client.Do(request)
	if err != nil {
		return answer, err
	}
	defer response.Body.Close()
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		return answer, fmt.Errorf("%s answered %s: %w", url, response.Status, err)
	}
	return answer, nil
}

func (i *ingress) testIngressStatus(t *testing.T) {
	eventually(t, func(ctx context.Context) error {
		found, err := i.Kubernetes.NetworkingV1().Ingresses(shop).Get(ctx, "shop", metav1.GetOptions{})
		if err != nil {
			return err
		}
		want := i.near.String()
		same := func(got networkingv1.IngressLoadBalancerIngress) bool { return got.IP == want }
		if got := found.Status.LoadBalancer.Ingress; len(got) != 1 || !same(got[0]) {
			return fmt.Errorf("the Ingress has the addresses %v, want %s", got, want)
		}
		return nil
	})
}

// policy sets externalTrafficPolicy of both Services.
func (i *ingress) policy(ctx context.Context, policy corev1.ServiceExternalTrafficPolicy) error {
	patch := fmt.Appendf(nil, `{"spec": {"externalTrafficPolicy": %q}}`, policy)
	for _, name := range []string{"traefik", "traefik-routed"} {
		_, err := i.Kubernetes.CoreV1().Services("traefik").Patch(
			ctx, name, types.MergePatchType, patch, metav1.PatchOptions{},
		)
		if err != nil {
			return err
		}
	}
	return nil
}

// place has the replicas run on these nodes, one on each.
func (i *ingress) place(ctx context.Context, nodes ...string) error {
	patch := fmt.Appendf(nil, `[{"op": "replace", "path": "/spec/template/spec/affinity/nodeAffinity/`+
		`requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms/0/matchExpressions/0/values",`+
		` "value": ["%s"]}]`, strings.Join(nodes, `", "`))
	_, err := i.Kubernetes.AppsV1().Deployments("traefik").Patch(
		ctx, "traefik", types.JSONPatchType, patch, metav1.PatchOptions{},
	)
	if err != nil {
		return err
	}
	return i.awaitTraefik(ctx)
}

// unfailing has clients ask at both addresses while the test does something, one request after the
// other, each on a new connection. None may fail, but that the few that are open just when an
// address moves may be reset.
func (i *ingress) unfailing(t *testing.T, moves int, do ...func(context.Context) error) {
	t.Helper()
	probes := map[string]*stage.Probe{}
	for host, address := range i.clients() {
		probes[host] = i.StartProbe(t.Context(), host, address, probeEvery, 5*time.Second, host == lab.Client)
	}
	var failed error
	for _, step := range do {
		if failed = step(t.Context()); failed != nil {
			break
		}
	}
	for host, probe := range probes {
		gap := probe.Stop()
		t.Logf("%s: %s", host, gap)
		if gap.Asked == 0 || gap.Failed > gap.Broken || gap.Broken > moves {
			t.Errorf("%s: %s", host, gap)
		}
	}
	if failed != nil {
		t.Fatal(failed)
	}
}

func (i *ingress) restart(ctx context.Context) error {
	if _, err := i.Kubectl(ctx, "", "-n", "traefik", "rollout", "restart", "deployment/traefik"); err != nil {
		return err
	}
	return i.awaitTraefik(ctx)
}

// awaitEnded waits until no replica is left that is being deleted.
func (i *ingress) awaitEnded(ctx context.Context) error {
	return stage.Eventually(ctx, patience, func(ctx context.Context) error {
		pods, err := i.Kubernetes.CoreV1().Pods("traefik").List(ctx, metav1.ListOptions{})
		if err == nil && len(pods.Items) != 2 {
			err = fmt.Errorf("%d replicas are there, want two", len(pods.Items))
		}
		return err
	})
}

func (i *ingress) testClusterMoves(t *testing.T) {
	i.unfailing(t, 0, i.restart, func(ctx context.Context) error { return i.place(ctx, "n2", "n3") }, i.awaitEnded)
}

func (i *ingress) testClusterHidesClients(t *testing.T) {
	for host, address := range i.clients() {
		answer, err := i.ask(t.Context(), host, address, "http://red.lab.test/")
		if err != nil {
			t.Fatal(err)
		}
		seen, err := netip.ParseAddr(answer.ForwardedFor)
		if err != nil {
			t.Fatalf("Traefik forwards for %q: %v", answer.ForwardedFor, err)
		}
		own, err := i.Lab.Addresses(host)
		if err != nil {
			t.Fatal(err)
		}
		if slices.Contains(own, seen) || seen.String() == "192.0.2.66" {
			t.Errorf("Traefik forwards for %s, want an address of a node, under Cluster", seen)
		}
	}
}

func (i *ingress) testLocalShowsClients(t *testing.T) {
	must(t, func(ctx context.Context) error { return i.policy(ctx, corev1.ServiceExternalTrafficPolicyLocal) })
	i.onlyThere(t, "n2", "n3")
	i.showsClients(t)
}

// onlyThere waits until only these nodes announce both addresses.
func (i *ingress) onlyThere(t *testing.T, nodes ...string) {
	t.Helper()
	must(t, func(ctx context.Context) error { return i.AwaitRoutes(ctx, patience, i.far, nodes...) })
	eventually(t, func(ctx context.Context) error {
		owner, err := i.Owner(ctx, i.near)
		if err == nil && !slices.Contains(nodes, owner) {
			err = fmt.Errorf("%s answers for %s, want one of %v", owner, i.near, nodes)
		}
		return err
	})
}

// showsClients waits until the application learns the addresses of clients, and nothing else.
func (i *ingress) showsClients(t *testing.T) {
	t.Helper()
	for host, address := range i.clients() {
		own, err := i.Lab.Addresses(host)
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, func(ctx context.Context) error {
			answer, err := i.ask(ctx, host, address, "http://red.lab.test/")
			if err != nil {
				return err
			}
			for _, seen := range []string{answer.ForwardedFor, answer.RealIP} {
				if a, err := netip.ParseAddr(seen); err != nil || !slices.Contains(own, a) {
					return fmt.Errorf("Traefik forwards %s for %s, want one of %v, under Local", host, seen, own)
				}
			}
			return nil
		})
	}
}

func (i *ingress) testLocalMoves(t *testing.T) {
	i.unfailing(
		t, 4, i.restart, i.awaitEnded, func(ctx context.Context) error { return i.place(ctx, "n1", "n3") }, i.awaitEnded,
	)
	i.onlyThere(t, "n1", "n3")
	i.showsClients(t)
}

// startKnot starts the DNS server of the zone lab.test on the control plane's host.
func (i *ingress) startKnot(t *testing.T) {
	t.Helper()
	folder, err := stock.Find()
	if err != nil {
		t.Fatal(err)
	}
	if err := folder.FetchKnot(t.Context(), t.Output()); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, name := range []string{"knot.conf", "lab.test.zone"} {
		text := strings.ReplaceAll(fixture(t, name), "DIR", dir)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	cmd := exec.Command(filepath.Join(folder.Knot(), "usr", "sbin", "knotd"), "-c", filepath.Join(dir, "knot.conf"))
	libraries, err := filepath.Glob(filepath.Join(folder.Knot(), "usr", "lib", "*-linux-gnu"))
	if err != nil {
		t.Fatal(err)
	}
	cmd.Env = append(os.Environ(), "LD_LIBRARY_PATH="+strings.Join(libraries, ":"))
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := i.In(lab.ControlPlane, cmd.Start); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("knotd: %s", &out)
		}
	})
}

// lookUp asks the DNS server for the addresses of a name.
func (i *ingress) lookUp(ctx context.Context, name string) ([]string, error) {
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return i.Dial(ctx, lab.Client, network, "172.30.0.2:53")
	}}
	found, err := resolver.LookupHost(ctx, name+".")
	var missing *net.DNSError
	if errors.As(err, &missing) && missing.IsNotFound {
		return nil, nil
	}
	return found, err
}

// awaitRecord waits until the DNS server has these addresses for a name, and no others.
func (i *ingress) awaitRecord(t *testing.T, name string, want ...string) {
	t.Helper()
	eventually(t, func(ctx context.Context) error {
		got, err := i.lookUp(ctx, name)
		if err == nil && !slices.Equal(got, want) {
			err = fmt.Errorf("%s has the addresses %v, want %v", name, got, want)
		}
		return err
	})
}

func (i *ingress) testExternalDNS(t *testing.T) {
	i.startKnot(t)
	i.awaitRecord(t, "ns.lab.test", "172.30.0.2")
	must(
		t,
		func(ctx context.Context) error { return i.LoadCompany(ctx, stock.ExternalDNS) },
		func(ctx context.Context) error { return i.Apply(ctx, fixture(t, "external-dns.yaml")) },
		func(ctx context.Context) error {
			_, err := i.Kubectl(
				ctx, "", "-n", "external-dns", "rollout", "status", "deployment/external-dns", "--timeout=60s",
			)
			return err
		},
		func(ctx context.Context) error { return i.Deploy(ctx, berthApp) },
	)
	svc := i.Expose(berthApp, "named")
	svc.Annotations = map[string]string{"external-dns.alpha.kubernetes.io/hostname": "named.lab.test"}
	svc, err := i.Create(t.Context(), svc)
	if err != nil {
		t.Fatal(err)
	}
	i.awaitRecord(t, "named.lab.test", addressOf(svc).String())
	const other = "172.30.0.240"
	services := i.Kubernetes.CoreV1().Services(svc.Namespace)
	_, err = services.Patch(
		t.Context(), svc.Name, types.MergePatchType,
		fmt.Appendf(nil, `{"metadata": {"annotations": {%q: %q}}}`, v1alpha1.AnnotationAddresses, other),
		metav1.PatchOptions{},
	)
	if err != nil {
		t.Fatal(err)
	}
	i.awaitRecord(t, "named.lab.test", other)
	if err := services.Delete(t.Context(), svc.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	i.awaitRecord(t, "named.lab.test")
}

const gatewayClass = `
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: eg}
spec: {controllerName: gateway.envoyproxy.io/gatewayclass-controller}
`

// gateway is a Gateway with more in its spec.
func gateway(name, more string) string {
	return fmt.Sprintf(`
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: %s, namespace: shop}
spec:
  gatewayClassName: eg
  listeners: [{name: http, protocol: HTTP, port: 80}]
%s
`, name, more)
}

func (i *ingress) testEnvoyGateway(t *testing.T) {
	must(
		t,
		func(ctx context.Context) error { return i.InstallEnvoyGateway(ctx, t.TempDir()) },
		func(ctx context.Context) error { return i.Apply(ctx, gatewayClass) },
	)
	for _, tt := range []struct {
		name, more string
		service    string // address that Berth gives; empty: any of its pool
		external   string // spec.externalIPs of the Service
		status     string // address in the Gateway's status; empty: that of the Service
	}{
		{name: "any"},
		{
			name:    "annotated",
			more:    "  infrastructure: {annotations: {berth.dev/load-balancer-ips: 172.30.0.245}}",
			service: "172.30.0.245",
		},
		{
			name: "both",
			more: "  infrastructure: {annotations: {berth.dev/load-balancer-ips: 172.30.0.246}}\n" +
				"  addresses: [{type: IPAddress, value: 172.30.0.246}]",
			service: "172.30.0.246", external: "172.30.0.246", status: "172.30.0.246",
		},
		{
			// Berth does not look at externalIPs, and gives another address.
			name:     "alone",
			more:     "  addresses: [{type: IPAddress, value: 172.30.0.247}]",
			external: "172.30.0.247", status: "172.30.0.247",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			must(t, func(ctx context.Context) error { return i.Apply(ctx, gateway(tt.name, tt.more)) })
			eventually(t, func(ctx context.Context) error {
				svc, err := i.serviceOf(ctx, tt.name)
				if err != nil {
					return err
				}
				given, status := addressOf(svc).String(), tt.status
				if tt.service != "" && given != tt.service {
					return fmt.Errorf("the Service has %s, want %s", given, tt.service)
				}
				if tt.service == "" && given == tt.status {
					return fmt.Errorf("the Service has %s, want another: nothing asked Berth for it", given)
				}
				if got := strings.Join(svc.Spec.ExternalIPs, " "); got != tt.external {
					return fmt.Errorf("the Service has the externalIPs %q, want %q", got, tt.external)
				}
				if status == "" {
					status = given
				}
				got, err := i.Kubectl(
					ctx, "", "-n", shop, "get", "gateway", tt.name, "-o", "jsonpath={.status.addresses[*].value}",
				)
				if err == nil && got != status {
					err = fmt.Errorf("the Gateway has %q, want %q", got, status)
				}
				return err
			})
		})
	}
}

// serviceOf returns the Service that Envoy Gateway made for a Gateway, once it has an address.
func (i *ingress) serviceOf(ctx context.Context, gateway string) (*corev1.Service, error) {
	list, err := i.Kubernetes.CoreV1().Services("envoy-gateway-system").List(ctx, metav1.ListOptions{
		LabelSelector: "gateway.envoyproxy.io/owning-gateway-name=" + gateway,
	})
	if err != nil {
		return nil, err
	}
	if len(list.Items) != 1 || len(stage.Addresses(&list.Items[0])) == 0 {
		return nil, fmt.Errorf("%d Services of Gateway %s, want one with an address", len(list.Items), gateway)
	}
	return &list.Items[0], nil
}
