//go:build root

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"slices"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/berth-lb/berth/e2e/lab"
	"github.com/berth-lb/berth/e2e/stage"
)

// apiService is the API server as pods reach it: kube-proxy sends them on to its host.
const apiService = "https://10.96.0.1/version"

// watchOver watches what a careless pool must not harm, until the returned function is called,
// which fails the test if there was harm: nodes stay Ready, each pod reaches the API server, the
// controllers are not restarted, and only the nodes and the API server's host claim their own
// addresses.
func (r *rack) watchOver(t *testing.T) (end func()) {
	t.Helper()
	before := r.health(t)
	hosts := append(r.Nodes(), lab.ControlPlane)
	var guarded []netip.Addr
	owners := map[netip.Addr]string{}
	for _, host := range hosts {
		addresses, err := r.Lab.Addresses(host)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range addresses {
			owners[a] = host
		}
		guarded = append(guarded, addresses...)
	}
	capture, err := r.StartCapture(context.WithoutCancel(t.Context()), guarded...)
	if err != nil {
		t.Fatal(err)
	}
	asked := r.askFromPods(t)
	return func() {
		t.Helper()
		if err := capture.Stop(); err != nil {
			t.Error(err)
		}
		for _, address := range guarded {
			if seen := capture.Of(address); !slices.Equal(seen.Hosts(), []string{owners[address]}) {
				t.Errorf("%s is an address of %s; on the segment it was claimed by %v: %s", address, owners[address], seen.Hosts(), seen)
			}
		}
		asked()
		for what, now := range r.health(t) {
			if now != before[what] {
				t.Errorf("%s is %s, was %s before", what, now, before[what])
			}
		}
	}
}

// health returns what does not change in a healthy cluster: since when each node is Ready, and how
// many times each controller was restarted.
func (r *rack) health(t *testing.T) map[string]string {
	t.Helper()
	health := map[string]string{}
	nodes, err := r.Kubernetes.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes.Items {
		for _, c := range n.Status.Conditions {
			if c.Type == corev1.NodeReady {
				health["node "+n.Name] = fmt.Sprintf("Ready=%s since %s", c.Status, c.LastTransitionTime)
			}
		}
	}
	pods, err := r.Kubernetes.CoreV1().Pods(
		stage.Namespace,
	).List(
		t.Context(),
		metav1.ListOptions{LabelSelector: "app.kubernetes.io/component=controller"},
	)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pods.Items {
		for _, c := range p.Status.ContainerStatuses {
			health["Pod "+p.Name] = fmt.Sprintf("ready=%v after %d restarts", c.Ready, c.RestartCount)
		}
	}
	return health
}

// askFromPods makes a pod of each node send requests to the API server all the time. The returned
// function ends that, and fails the test if a request failed.
func (r *rack) askFromPods(t *testing.T) (end func()) {
	t.Helper()
	admin, err := r.RESTConfig()
	if err != nil {
		t.Fatal(err)
	}
	trust, err := rest.TLSConfigFor(admin)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var asking sync.WaitGroup
	seen := make([]probe, len(r.Nodes()))
	for i, node := range r.Nodes() {
		pod, err := r.Process(t.Context(), "echo@"+node)
		if err != nil {
			cancel()
			t.Fatal(err)
		}
		client := &http.Client{
			Timeout:   probeTimeout,
			Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: trust, DialContext: dialFrom(pod)},
		}
		asking.Go(func() { seen[i] = askAPI(ctx, client) }) // ends with ctx
	}
	return func() {
		t.Helper()
		cancel()
		asking.Wait()
		for i, node := range r.Nodes() {
			if len(seen[i].failed) > 0 || seen[i].asked == 0 {
				t.Errorf("a pod of %s asks the API server: %s", node, seen[i])
			}
		}
	}
}

func askAPI(ctx context.Context, client *http.Client) probe {
	var seen probe
	tick := time.NewTicker(5 * probeEvery)
	defer tick.Stop()
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, apiService, nil)
		var response *http.Response
		if err == nil {
			response, err = client.Do(request)
		}
		if ctx.Err() != nil && seen.asked > 0 {
			return seen // the last one was ended by us
		}
		if err == nil {
			err = response.Body.Close()
		}
		if seen.asked++; err != nil {
			seen.failed = append(seen.failed, err)
		}
		select {
		case <-ctx.Done():
			return seen
		case <-tick.C:
		}
	}
}

// dialFrom connects from the network of a process.
func dialFrom(p lab.Process) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		var conn net.Conn
		err := p.In(func() error {
			var err error
			conn, err = new(net.Dialer).DialContext(ctx, network, address) // numeric: the socket is opened on this thread
			return err
		})
		return conn, err
	}
}

// podsReach checks that a pod of each node can connect to a port of some host.
func (r *rack) podsReach(t *testing.T, to netip.AddrPort) {
	t.Helper()
	for _, node := range r.Nodes() {
		pod, err := r.Process(t.Context(), "echo@"+node)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), probeTimeout)
		conn, err := dialFrom(pod)(ctx, "tcp", to.String())
		cancel()
		if err != nil {
			t.Errorf("from a pod of %s: %v", node, err)
			continue
		}
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	}
}

// dropped reports whether the table of Berth on a node drops packets for an address.
func (r *rack) dropped(ctx context.Context, node string, address netip.Addr) (bool, error) {
	out, err := r.Exec(ctx, node, "nft", "list", "table", "inet", "berth").CombinedOutput()
	if err != nil {
		return false, fmt.Errorf("nft list table inet berth on %s: %w: %s", node, err, out)
	}
	return regexp.MustCompile(`[ ,{]` + regexp.QuoteMeta(address.String()) + `[ ,}\n]`).Match(out), nil
}

// notDropped checks that no node drops packets for an address.
func (r *rack) notDropped(t *testing.T, address netip.Addr) {
	t.Helper()
	for _, node := range r.Nodes() {
		if dropped, err := r.dropped(t.Context(), node, address); err != nil || dropped {
			t.Errorf("node %s drops packets for %s (%v)", node, address, err)
		}
	}
}

// hasAddress gives a host of the segment an address, with something that listens at the port, until
// the end of the test.
func (r *rack) hasAddress(t *testing.T, host string, at netip.AddrPort) {
	t.Helper()
	if err := r.AddAddress(host, at.Addr()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.RemoveAddress(host, at.Addr()); err != nil {
			t.Error(err)
		}
	})
	var listener net.Listener
	err := r.In(host, func() error {
		var err error
		listener, err = new(net.ListenConfig).Listen(t.Context(), "tcp", at.String())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- greet(listener) }() // ends with the listener
	t.Cleanup(func() {
		if err := errors.Join(listener.Close(), <-done); err != nil {
			t.Error(err)
		}
	})
}

// greet accepts connections and closes each.
func greet(listener net.Listener) error {
	for {
		conn, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err == nil {
			err = conn.Close()
		}
		if err != nil {
			return err
		}
	}
}

// claimedOnlyBy captures addresses. The returned function ends that, and fails the test unless the
// given host, and no other, claimed them.
func (r *rack) claimedOnlyBy(t *testing.T, host string, addresses ...netip.Addr) (end func()) {
	t.Helper()
	capture, err := r.StartCapture(context.WithoutCancel(t.Context()), addresses...)
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		if err := capture.Stop(); err != nil {
			t.Error(err)
		}
		for _, address := range addresses {
			want := []string{host}
			if host == "" {
				want = nil
			}
			if seen := capture.Of(address); !slices.Equal(seen.Hosts(), want) {
				t.Errorf("%s was claimed by %v, want %v: %s", address, seen.Hosts(), want, seen)
			}
		}
	}
}

// lasts lets some time pass in which a fault would show.
func lasts(t *testing.T, d time.Duration) {
	t.Helper()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.Context().Done():
		t.Fatal(t.Context().Err())
	}
}
