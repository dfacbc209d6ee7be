//go:build bench || qemu

package rate_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/e2e/stage"
	"github.com/berth-lb/berth/e2e/vm/cluster"
	"github.com/berth-lb/berth/speaker/dataplane/steering"
	"github.com/berth-lb/berth/speaker/dataplane/steering/decide"
	"github.com/berth-lb/berth/speaker/dataplane/steering/table"
)

// way is one by which the client reaches pods.
type way struct {
	name    string
	address string
	gateway *cluster.Node // that the client sends to, the owner of the address
	target  *cluster.Node // that has the pods
	client  string        // as the pods see it
	service string        // whose packets the gateway's Driver counts; "": it is not steered
}

// rack are nodes by which all ways lead to equal pods, through the rules of kube-proxy: two that
// know nothing of steering, and three that steer: by MAC address, by IPIP, and what they steer to.
type rack struct {
	*cluster.Cluster
	owner, target                *cluster.Node
	steerer, tunneler, steeredTo *cluster.Node
	pods                         map[*cluster.Node][]cluster.Pod
	drivers                      map[*cluster.Node]*steering.Driver
	ways                         map[string]way
}

// The ways.
const (
	direct   = "direct"        // to a pod's own address through its node
	beside   = "direct-beside" // the same, where the program looks at each packet
	policyC  = "cluster"
	policyL  = "local"
	steered  = "steered"
	looked   = "steered-lookup" // as in the first hours after a change: the target asks conntrack
	tunneled = "steered-ipip"
)

// newRack adds the nodes 3 to 7. Its addresses are not on the segment: the client has routes, and
// nobody announces anything.
func newRack(b *testing.B, c *cluster.Cluster) *rack {
	b.Helper()
	r := &rack{
		Cluster: c,
		owner:   c.AddNode(b, 3), target: c.AddNode(b, 4),
		steerer: c.AddNode(b, 5), steeredTo: c.AddNode(b, 6), tunneler: c.AddNode(b, 7),
		pods: map[*cluster.Node][]cluster.Pod{}, drivers: map[*cluster.Node]*steering.Driver{}, ways: map[string]way{},
	}
	for _, n := range []*cluster.Node{r.owner, r.target, r.steerer, r.steeredTo, r.tunneler} {
		quiet(b, n)
	}
	// What the others steer leaves before it meets kube-proxy's rules.
	for _, n := range []*cluster.Node{r.owner, r.target, r.steeredTo} {
		startKubeProxy(b, c, n)
	}
	for _, n := range []*cluster.Node{r.target, r.steeredTo} {
		for range 2 {
			p := c.AddPod(b, n)
			serve(b, p.Name)
			r.pods[n] = append(r.pods[n], p)
		}
		cluster.Run(b, cluster.Client, "ip", "route", "add", n.PodCIDRs()[0], "via", n.IPv4)
	}
	for _, n := range []*cluster.Node{r.steerer, r.steeredTo, r.tunneler} {
		r.steer(b, n)
	}
	r.addWays(b)
	return r
}

// quiet keeps a node from telling the client of shorter ways: packets that come from the segment
// and return to it are normal here.
func quiet(b *testing.B, n *cluster.Node) {
	b.Helper()
	cluster.Run(
		b,
		n.Name,
		"sysctl",
		"-qw",
		"net.ipv4.conf.all.send_redirects=0",
		"net.ipv4.conf.eth0.send_redirects=0",
	)
}

func startKubeProxy(b *testing.B, c *cluster.Cluster, n *cluster.Node) {
	b.Helper()
	c.Start(
		b, n.Name, "kube-proxy-"+n.Name, nil, c.Kube(), "kube-proxy", "--kubeconfig="+c.Kubeconfig(),
		"--proxy-mode=nftables", "--hostname-override="+n.Name, "--cluster-cidr=10.244.0.0/16",
		"--nodeport-addresses=primary", "--healthz-bind-address=127.0.0.1:10256",
		"--metrics-bind-address=127.0.0.1:10249", "--conntrack-max-per-core=0", "--conntrack-min=0",
	)
}

// steer has a node steer what is for the Services of steeredTo.
func (r *rack) steer(b *testing.B, n *cluster.Node) {
	b.Helper()
	dir := b.TempDir()
	if err := unix.Mount("bpffs", dir, "bpf", 0, ""); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	d, err := steering.New(steering.Config{Pins: filepath.Join(dir, "steering")})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { d.Close() })
	desired := steering.Desired{
		Enabled: true, Seed: decide.Seed{1}, Self: n.Name, Interfaces: []string{"eth0"},
		Nodes: map[string]steering.Node{}, Services: map[string]steering.Service{},
	}
	for _, name := range []string{steered, looked, tunneled} {
		chance := name == looked
		s := steering.Service{
			Members:   []table.Member{{Node: r.steeredTo.Name, Weight: 1}},
			TCPChance: chance, UDPChance: chance,
		}
		for port, protocol := range ports4 {
			number := uint8(decide.TCP)
			if protocol == corev1.ProtocolUDP {
				number = decide.UDP
			}
			at := netip.AddrPortFrom(netip.MustParseAddr(addresses[name]), uint16(port))
			s.Frontends = append(s.Frontends, steering.Frontend{Address: at, Protocol: number})
		}
		desired.Services[name] = s
	}
	if _, err := cluster.In(n.Name, func() (any, error) {
		for _, other := range []*cluster.Node{r.steerer, r.steeredTo, r.tunneler} {
			at, err := steering.Reach(netip.MustParseAddr(other.IPv4), netip.Addr{})
			if err != nil {
				return nil, err
			}
			at.Encapsulate = n == r.tunneler
			desired.Nodes[other.Name] = at
		}
		return nil, d.Sync(desired)
	}); err != nil {
		b.Fatalf("steer at %s: %v", n.Name, err)
	}
	b.Logf("%s steers with %+v", n.Name, d.Features())
	r.drivers[n] = d
}

// refresh keeps what steers from thinking that nobody cares any more.
func (r *rack) refresh(b *testing.B) {
	b.Helper()
	for n, d := range r.drivers {
		if _, err := cluster.In(n.Name, func() (any, error) { return nil, d.Refresh() }); err != nil {
			b.Fatalf("refresh what steers at %s: %v", n.Name, err)
		}
	}
}

// steeredPackets are those of a way: that its gateway sent to the target, that the target counted,
// and of those the ones that conntrack knew.
type steeredPackets struct{ sent, taken, known int }

// counted returns what was steered of a way until now; nothing if it is not.
func (r *rack) counted(b *testing.B, w way) (n steeredPackets) {
	b.Helper()
	if w.service == "" {
		return n
	}
	for _, at := range []*cluster.Node{w.gateway, w.target} {
		counts, err := r.drivers[at].Stats()
		if err != nil {
			b.Fatal(err)
		}
		for _, c := range counts {
			switch {
			case c.Service != w.service || c.Node != w.target.Name:
			case at == w.gateway && c.Reason == decide.First:
				n.sent += int(c.Packets)
			case at == w.target && c.Reason == decide.Known:
				n.known += int(c.Packets)
				n.taken += int(c.Packets)
			case at == w.target && c.Reason != decide.Decapsulated: // which is counted beside one of the others
				n.taken += int(c.Packets)
			}
		}
	}
	return n
}

var addresses = map[string]string{
	policyC: "198.51.100.1", policyL: "198.51.100.2", steered: "198.51.100.3", looked: "198.51.100.4",
	tunneled: "198.51.100.5",
}

// addWays makes the Services, and waits until each way leads to a pod that sees the client, or with
// policy Cluster the owner.
func (r *rack) addWays(b *testing.B) {
	b.Helper()
	for _, w := range []way{
		{name: direct, address: r.pods[r.target][0].IPv4, gateway: r.target, target: r.target},
		{name: beside, address: r.pods[r.steeredTo][0].IPv4, gateway: r.steeredTo, target: r.steeredTo},
		{name: policyC, gateway: r.owner, target: r.target, client: r.owner.IPv4},
		{name: policyL, gateway: r.target, target: r.target},
		{name: steered, gateway: r.steerer, target: r.steeredTo, service: steered},
		{name: looked, gateway: r.steerer, target: r.steeredTo, service: looked},
		{name: tunneled, gateway: r.tunneler, target: r.steeredTo, service: tunneled},
	} {
		if w.client == "" {
			w.client = cluster.ClientIPv4
		}
		if w.address == "" {
			w.address = addresses[w.name]
			policy := corev1.ServiceExternalTrafficPolicyLocal
			if w.name == policyC {
				policy = corev1.ServiceExternalTrafficPolicyCluster
			}
			var pods []string
			for _, p := range r.pods[w.target] {
				pods = append(pods, p.IPv4)
			}
			class := "example.com/none" // nobody else gives it addresses
			s := service{name: "rack-" + w.name, policy: policy, class: &class, pods: pods, node: w.target.Name}
			err := s.create(b.Context(), r.Cluster)
			if err == nil {
				err = s.serveAt(b.Context(), r.Cluster, w.address)
			}
			if err != nil {
				b.Fatal(err)
			}
			cluster.Run(b, cluster.Client, "ip", "route", "add", w.address, "via", w.gateway.IPv4)
		}
		answers(b, w.address, w.client)
		r.ways[w.name] = w
	}
}

func (r *rack) named(names ...string) (ways []way) {
	for _, n := range names {
		ways = append(ways, r.ways[n])
	}
	return ways
}

// ports4 are those of all Services.
var ports4 = map[int32]corev1.Protocol{
	connectPort: corev1.ProtocolTCP, bulkPort: corev1.ProtocolTCP, datagramPort: corev1.ProtocolUDP,
	linePort: corev1.ProtocolTCP,
}

// service is a Service and its endpoints, all on one node.
type service struct {
	name        string
	policy      corev1.ServiceExternalTrafficPolicy
	class       *string
	pods        []string
	node        string
	annotations map[string]string
}

func (s service) create(ctx context.Context, c *cluster.Cluster) error {
	object := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: s.name, Annotations: s.annotations}}
	object.Spec = corev1.ServiceSpec{
		Type:                          corev1.ServiceTypeLoadBalancer,
		LoadBalancerClass:             s.class,
		ExternalTrafficPolicy:         s.policy,
		AllocateLoadBalancerNodePorts: new(bool),
	}
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: s.name, Labels: map[string]string{discoveryv1.LabelServiceName: s.name}},
		AddressType: discoveryv1.AddressTypeIPv4,
	}
	for port, protocol := range ports4 {
		title := fmt.Sprint("p", port)
		object.Spec.Ports = append(object.Spec.Ports, corev1.ServicePort{Name: title, Port: port, Protocol: protocol})
		slice.Ports = append(slice.Ports, discoveryv1.EndpointPort{Name: &title, Port: &port, Protocol: &protocol})
	}
	ready := true
	for _, pod := range s.pods {
		slice.Endpoints = append(
			slice.Endpoints,
			discoveryv1.Endpoint{
				Addresses:  []string{pod},
				NodeName:   &s.node,
				Conditions: discoveryv1.EndpointConditions{Ready: &ready},
			},
		)
	}
	// On an emulated machine the API server may be late.
	return stage.Eventually(ctx, patience, func(ctx context.Context) error {
		_, err := c.Kubernetes.CoreV1().Services(metav1.NamespaceDefault).Create(ctx, object, metav1.CreateOptions{})
		if err == nil || apierrors.IsAlreadyExists(err) {
			slices := c.Kubernetes.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault)
			_, err = slices.Create(ctx, slice, metav1.CreateOptions{})
		}
		if apierrors.IsAlreadyExists(err) {
			return nil
		}
		return err
	})
}

const patience = 4 * time.Minute

// serveAt gives the Service its address, as a load balancer does.
func (s service) serveAt(ctx context.Context, c *cluster.Cluster, address string) error {
	services := c.Kubernetes.CoreV1().Services(metav1.NamespaceDefault)
	return stage.Eventually(ctx, patience, func(ctx context.Context) error {
		object, err := services.Get(ctx, s.name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		object.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: address}}
		_, err = services.UpdateStatus(ctx, object, metav1.UpdateOptions{})
		return err
	})
}

// answers waits until a Service answers, and checks whom its endpoint sees.
func answers(b *testing.B, address, client string) {
	b.Helper()
	cluster.Eventually(b, func(context.Context) error {
		conn, err := cluster.Dial(cluster.Client, "tcp", address, linePort)
		if err != nil {
			return err
		}
		answer, err := cluster.Say(conn)
		if err = errors.Join(err, conn.Close()); err == nil && answer.ClientAddress().String() != client {
			err = fmt.Errorf("behind %s %s saw %s, want %s", address, answer.Pod, answer.Client, client)
		}
		return err
	})
}
