//go:build qemu

package nodes_test

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/e2e/stage"
	"github.com/berth-lb/berth/e2e/vm/cluster"
)

// site is a cluster of three nodes that forward by IPVS, and one whose speaker was not asked to. Of
// those that may announce an address that is new the first takes it.
type site struct {
	*cluster.Cluster
	t          *testing.T // the parent test: what is restarted must outlive a subtest
	n1, n2, n3 *cluster.Node
	plain      *cluster.Node // without IPVS
	speakers   map[*cluster.Node]*os.Process
	hearts     map[*cluster.Node]*os.Process
	before     map[*cluster.Node]string // version of what the speaker before had reported
	pods       map[string]cluster.Pod   // by name: pod-NODE-NUMBER
}

func start(t *testing.T) *site {
	t.Helper()
	c := cluster.New(t)
	s := &site{
		Cluster: c, t: t,
		speakers: map[*cluster.Node]*os.Process{}, hearts: map[*cluster.Node]*os.Process{},
		before: map[*cluster.Node]string{}, pods: map[string]cluster.Pod{},
	}
	s.n1, s.n2, s.n3, s.plain = c.AddNode(t, 1), c.AddNode(t, 2), c.AddNode(t, 3), c.AddNode(t, 4)
	for _, n := range s.all() {
		for range 2 {
			p := c.AddPod(t, n)
			s.pods[p.Name] = p
		}
	}
	s.configure(t)
	c.Controller(t)
	for _, n := range s.all() {
		s.startSpeaker(n)
	}
	return s
}

// whole waits until all speakers are ready and hear each other.
func (s *site) whole(t *testing.T) {
	t.Helper()
	cluster.Eventually(t, func(ctx context.Context) error {
		for _, n := range s.all() {
			r, err := s.Berth.Speakers.Get(ctx, n.Name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			state, message := r.Status.State()
			switch {
			case r.ResourceVersion == s.before[n]:
				return fmt.Errorf("the new speaker of %s has not reported", n.Name)
			case state != v1alpha1.SpeakerAnnouncing:
				return fmt.Errorf("the speaker of %s is %s: %s", n.Name, state, message)
			case !hearsAll(r.Status.Segments, len(s.all())-1):
				return fmt.Errorf("%s does not hear all others: %s", n.Name, text(r.Status))
			case n != s.plain && !slices.Contains(r.Status.IPVS.Schedulers, "mh"):
				return fmt.Errorf("%s cannot forward: %s", n.Name, text(r.Status))
			}
		}
		return nil
	})
}

// hearsAll reports whether a speaker announces on its segment and hears this number of others
// there.
func hearsAll(segments []v1alpha1.SegmentReport, others int) bool {
	return len(segments) == 1 && segments[0].State == v1alpha1.SegmentAnnouncing && segments[0].PeersAlive != nil &&
		int(*segments[0].PeersAlive) == others
}

// configure has the addresses of pool ours forwarded by IPVS, and those of pool theirs by
// kube-proxy.
func (s *site) configure(t *testing.T) {
	t.Helper()
	everything := &v1alpha1.Selector{}
	scopes := []v1alpha1.PoolScope{{NamespaceSelector: everything, ServiceSelector: everything}}
	for _, pool := range []*v1alpha1.LoadBalancerPool{
		{
			ObjectMeta: metav1.ObjectMeta{Name: "ours"},
			Spec: v1alpha1.LoadBalancerPoolSpec{
				Addresses: []v1alpha1.AddressRange{"172.30.0.200-172.30.0.219", "fd00:30::200-fd00:30::219"}, Scopes: scopes,
				Dataplane: v1alpha1.DataplaneIPVS,
			},
		},
		{
			ObjectMeta: metav1.ObjectMeta{Name: "theirs"},
			Spec: v1alpha1.LoadBalancerPoolSpec{
				Addresses: []v1alpha1.AddressRange{"172.30.0.220", "fd00:30::220"}, Scopes: scopes,
				Allocation: v1alpha1.AllocationOnRequest,
			},
		},
	} {
		if _, err := s.Berth.LoadBalancerPools.Create(t.Context(), pool, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	prefer := func(weight int32, n *cluster.Node) v1alpha1.PreferredNode {
		labels := map[string]string{corev1.LabelHostname: n.Name}
		return v1alpha1.PreferredNode{Weight: weight, NodeSelector: &v1alpha1.Selector{MatchLabels: labels}}
	}
	announcement := &v1alpha1.SegmentAnnouncement{
		ObjectMeta: metav1.ObjectMeta{Name: "all"},
		Spec: v1alpha1.SegmentAnnouncementSpec{
			PoolSelector: everything, NodeSelector: everything, ServiceSelector: everything,
			PreferredNodes: []v1alpha1.PreferredNode{prefer(100, s.n1), prefer(50, s.n2)},
		},
	}
	if _, err := s.Berth.SegmentAnnouncements.Create(t.Context(), announcement, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// able returns the nodes that forward by IPVS.
func (s *site) able() []*cluster.Node { return []*cluster.Node{s.n1, s.n2, s.n3} }

func (s *site) all() []*cluster.Node { return append(s.able(), s.plain) }

func (s *site) startSpeaker(n *cluster.Node) {
	s.t.Helper()
	args := []string{"--ipvs", "--kube-proxy-mode="}
	if n == s.plain {
		args = nil
	}
	if r, err := s.Berth.Speakers.Get(s.t.Context(), n.Name, metav1.GetOptions{}); err == nil {
		s.before[n] = r.ResourceVersion
	}
	var heart string
	s.hearts[n], heart = s.Heart(s.t, n.Name)
	s.speakers[n] = s.Speaker(s.t, n.Name, append(args, heart)...)
}

// endSpeaker ends the speaker of a node and its heart by a signal, as a kubelet ends a pod.
func (s *site) endSpeaker(t *testing.T, n *cluster.Node, signal os.Signal) {
	t.Helper()
	both := []*os.Process{s.speakers[n], s.hearts[n]}
	for _, p := range both {
		if err := p.Signal(signal); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range both {
		if _, err := p.Wait(); err != nil {
			t.Fatal(err)
		}
	}
}

// exclude labels nodes so that they announce nothing, until the test ends or the function that is
// returned is called.
func (s *site) exclude(t *testing.T, nodes ...*cluster.Node) (readmit func()) {
	t.Helper()
	label := func(value any) {
		t.Helper()
		for _, n := range nodes {
			s.patchNode(
				t,
				n,
				map[string]any{"metadata": map[string]any{"labels": map[string]any{v1alpha1.ExcludeLabel: value}}},
			)
		}
	}
	label("")
	readmit = func() { t.Helper(); label(nil) }
	t.Cleanup(readmit)
	return readmit
}

// excluded waits until the speakers of the nodes are excluded.
func (s *site) excluded(t *testing.T, nodes ...*cluster.Node) {
	t.Helper()
	for _, n := range nodes {
		cluster.Eventually(t, func(ctx context.Context) error {
			r, err := s.Berth.Speakers.Get(ctx, n.Name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			if state, _ := r.Status.State(); state != v1alpha1.SpeakerLeaving {
				return fmt.Errorf("the speaker of %s is %s", n.Name, state)
			}
			return nil
		})
	}
}

func (s *site) patchNode(t *testing.T, n *cluster.Node, patch any) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	if _, err := s.Kubernetes.CoreV1().Nodes().Patch(
		ctx, n.Name, types.MergePatchType, []byte(text(patch)), metav1.PatchOptions{},
	); err != nil {
		t.Fatal(err)
	}
}

const namespace = "default"

// service is a Service without a selector, of both families: HTTP on port 80, and lines by TCP and
// UDP on 7000.
type service struct {
	name       string
	ipv4, ipv6 string
}

func (v service) addresses() []string { return []string{v.ipv4, v.ipv6} }

// expose makes a Service with these pods as its endpoints, once all speakers are there, and waits
// for its addresses. When the test has ended it is gone, and with it all that the nodes' kernels
// had for it.
func (s *site) expose(t *testing.T, object *corev1.Service, pods ...string) service {
	t.Helper()
	s.whole(t)
	return s.create(t, object, pods...)
}

// create is expose, whichever speakers are there.
func (s *site) create(t *testing.T, object *corev1.Service, pods ...string) service {
	t.Helper()
	client := s.Kubernetes.CoreV1().Services(namespace)
	families := corev1.IPFamilyPolicyRequireDualStack
	object.Spec.Type, object.Spec.IPFamilyPolicy = corev1.ServiceTypeLoadBalancer, &families
	object.Spec.Ports = []corev1.ServicePort{
		{
			Name: "http",
			Port: 80,
		}, {Name: "line", Port: 7000}, {Name: "datagram", Port: 7000, Protocol: corev1.ProtocolUDP},
	}
	if object.Spec.AllocateLoadBalancerNodePorts == nil {
		object.Spec.AllocateLoadBalancerNodePorts = new(bool)
	}
	if _, err := client.Create(t.Context(), object, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	v := service{name: object.Name}
	t.Cleanup(func() { s.withdraw(t, v) })
	s.endpoints(t, v, pods...)
	cluster.Eventually(t, func(ctx context.Context) error {
		is, err := client.Get(ctx, v.name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		ingress := is.Status.LoadBalancer.Ingress
		if len(ingress) != 2 {
			return fmt.Errorf("%s has the addresses %v, want two", v.name, ingress)
		}
		v.ipv4, v.ipv6 = ingress[0].IP, ingress[1].IP
		if strings.Contains(v.ipv4, ":") {
			v.ipv4, v.ipv6 = v.ipv6, v.ipv4
		}
		return nil
	})
	return v
}

// endpoints replaces the endpoints of a Service by these pods.
func (s *site) endpoints(t *testing.T, v service, pods ...string) {
	t.Helper()
	client := s.Kubernetes.DiscoveryV1().EndpointSlices(namespace)
	for _, family := range []discoveryv1.AddressType{discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6} {
		slice := &discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{
				Name: v.name + "-" + strings.ToLower(
					string(family),
				), Labels: map[string]string{discoveryv1.LabelServiceName: v.name},
			},
			AddressType: family,
		}
		for name, p := range map[string]struct {
			port     int32
			protocol corev1.Protocol
		}{"http": {8080, corev1.ProtocolTCP}, "line": {7000, corev1.ProtocolTCP}, "datagram": {7000, corev1.ProtocolUDP}} {
			slice.Ports = append(
				slice.Ports,
				discoveryv1.EndpointPort{Name: &name, Port: &p.port, Protocol: &p.protocol},
			)
		}
		ready := true
		for _, name := range pods {
			p := s.pods[name]
			address := p.IPv4
			if family == discoveryv1.AddressTypeIPv6 {
				address = p.IPv6
			}
			slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
				Addresses: []string{
					address,
				}, NodeName: &p.Node, Conditions: discoveryv1.EndpointConditions{Ready: &ready},
			})
		}
		_, err := client.Create(t.Context(), slice, metav1.CreateOptions{})
		if err != nil {
			_, err = client.Update(t.Context(), slice, metav1.UpdateOptions{})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func (s *site) withdraw(t *testing.T, v service) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	slices := metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + v.name}
	if err := errors.Join(
		s.Kubernetes.CoreV1().Services(namespace).Delete(ctx, v.name, metav1.DeleteOptions{}),
		s.Kubernetes.DiscoveryV1().EndpointSlices(namespace).DeleteCollection(ctx, metav1.DeleteOptions{}, slices),
	); err != nil {
		t.Fatal(err)
	}
	if err := stage.Eventually(ctx, time.Minute, func(context.Context) error {
		for _, n := range s.able() {
			for server := range s.virtualServers(t, n) {
				if a := server.address.String(); a == v.ipv4 || a == v.ipv6 || server.mark != "" { // no other has any
					return fmt.Errorf("%s has %v still", n.Name, server)
				}
			}
		}
		return nil
	}); err != nil {
		t.Errorf("withdraw %s: %v", v.name, err)
	}
}

// policy changes the external traffic policy of a Service.
func (s *site) policy(t *testing.T, v service, policy corev1.ServiceExternalTrafficPolicy) {
	t.Helper()
	patch := fmt.Sprintf(`{"spec":{"externalTrafficPolicy":%q}}`, policy)
	if _, err := s.Kubernetes.CoreV1().Services(namespace).Patch(
		t.Context(), v.name, types.MergePatchType, []byte(patch), metav1.PatchOptions{},
	); err != nil {
		t.Fatal(err)
	}
}

// mode waits until both addresses in the status have this ipMode.
func (s *site) mode(t *testing.T, v service, want corev1.LoadBalancerIPMode) {
	t.Helper()
	cluster.Eventually(t, func(ctx context.Context) error {
		object, err := s.Kubernetes.CoreV1().Services(namespace).Get(ctx, v.name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		ingress := object.Status.LoadBalancer.Ingress
		if len(ingress) != 2 {
			return fmt.Errorf("%s has the addresses %v, want two", v.name, ingress)
		}
		for _, i := range ingress {
			if i.IPMode == nil || *i.IPMode != want {
				return fmt.Errorf("ipMode of %s is not %s: %s", i.IP, want, text(i))
			}
		}
		return nil
	})
}

// text is a value as JSON.
func text(value any) string {
	b, err := json.Marshal(value)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// owned waits until the node, which comes first of those that may, answers ARP and NDP for the
// addresses. On a machine that is busy nodes take each other for dead for a moment, and then owners
// stay: it asks for a rebalance.
func (s *site) owned(t *testing.T, v service, by *cluster.Node) {
	t.Helper()
	want := by.MAC(t)
	for _, address := range v.addresses() {
		cluster.Eventually(t, func(ctx context.Context) error {
			got := cluster.Neighbor(t, address)
			if got == want {
				return nil
			}
			annotation := map[string]string{v1alpha1.AnnotationRebalance: time.Now().Truncate(3 * time.Second).String()}
			patch := text(map[string]any{"metadata": map[string]any{"annotations": annotation}})
			_, err := s.Berth.SegmentAnnouncements.Patch(
				ctx,
				"all",
				types.MergePatchType,
				[]byte(patch),
				metav1.PatchOptions{},
			)
			return errors.Join(err, fmt.Errorf("%s answers for %s, want %s of %s", got, address, want, by.Name))
		})
	}
}

// through makes the client send packets for an address to a node, no matter which node owns it,
// until the test ends or through is called again.
func (s *site) through(t *testing.T, n *cluster.Node, v service) {
	t.Helper()
	route := func(verb string, address, via string) {
		cluster.Run(t, cluster.Client, "ip", "route", verb, address, "via", via)
	}
	route("replace", v.ipv4, n.IPv4)
	route("replace", v.ipv6, n.IPv6)
}

// unroute ends what through began.
func unroute(t *testing.T, v service) {
	t.Helper()
	for _, address := range v.addresses() {
		cluster.Run(t, cluster.Client, "ip", "route", "del", address)
	}
}

// ask says a line to an address, on a new connection from a namespace, and returns the answer.
func ask(space, network, address string) (stage.Answer, error) {
	return askFrom(space, network, 0, address)
}

// askFrom is ask from a port of the client, which is free at once again; 0: any.
func askFrom(space, network string, port int, address string) (stage.Answer, error) {
	conn, err := cluster.DialFrom(space, network, port, address, 7000)
	if err != nil {
		return stage.Answer{}, err
	}
	defer conn.Close()
	if tcp, is := conn.(*net.TCPConn); is {
		_ = tcp.SetLinger(0) // it ends by a reset: nothing waits for the port to be free
	}
	return cluster.Say(conn)
}

// answered waits until one of the pods answers, sees the client that it should, and does so over
// TCP and UDP.
func answered(t *testing.T, space, address string, sees func(pod cluster.Pod) string, pods ...cluster.Pod) {
	t.Helper()
	for _, network := range []string{"tcp", "udp"} {
		cluster.Eventually(t, func(context.Context) error {
			answer, err := ask(space, network, address)
			if err != nil {
				return fmt.Errorf("%s asks %s by %s: %w", space, address, network, err)
			}
			i := slices.IndexFunc(pods, func(p cluster.Pod) bool { return p.Name == answer.Pod })
			if i < 0 {
				return fmt.Errorf("%s asks %s by %s: %s answered", space, address, network, answer.Pod)
			}
			if want := sees(pods[i]); answer.ClientAddress() != netip.MustParseAddr(want) {
				return fmt.Errorf(
					"%s asks %s by %s: %s saw %s, want %s",
					space,
					address,
					network,
					answer.Pod,
					answer.Client,
					want,
				)
			}
			return nil
		})
	}
}

// virtualServer is one of the kernel's.
type virtualServer struct {
	protocol string
	address  netip.Addr
	port     uint16
	mark     string // in place of all of these: of what a node's own pods and processes send
}

func (v virtualServer) String() string {
	if v.mark != "" {
		return "mark " + v.mark
	}
	return v.protocol + " " + netip.AddrPortFrom(v.address, v.port).String()
}

// virtualServers returns those of a node's kernel, and where each sends new connections.
func (s *site) virtualServers(t *testing.T, n *cluster.Node) map[virtualServer][]netip.Addr {
	t.Helper()
	found := map[virtualServer][]netip.Addr{}
	var current virtualServer
	table, err := cluster.In(n.Name, readTable)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(table)) {
		switch f := strings.Fields(line); {
		case len(f) > 2 && (f[0] == "TCP" || f[0] == "UDP"):
			current = virtualServer{protocol: f[0]}
			current.address, current.port = parse(t, f[1])
			found[current] = nil
		case len(f) > 2 && f[0] == "FWM":
			current = virtualServer{mark: f[1]}
			found[current] = nil
		case len(f) > 3 && f[0] == "->" && f[2] == "Masq" && f[3] != "0":
			address, _ := parse(t, f[1])
			found[current] = append(found[current], address)
		}
	}
	return found
}

// readTable reads /proc/net/ip_vs of the thread's namespace by a single read, which is of a page at
// most. Where a second one begins the kernel counts by the virtual servers of this namespace, and
// between them by those of all: some would be missing.
func readTable() ([]byte, error) {
	file, err := os.Open("/proc/thread-self/net/ip_vs")
	if err != nil {
		return nil, err
	}
	defer file.Close()
	table := make([]byte, 2*os.Getpagesize())
	length, err := file.Read(table)
	if err != nil {
		return nil, err
	}
	switch more, err := file.Read(make([]byte, 1)); {
	case more > 0:
		return nil, fmt.Errorf("%s is longer than a page, which is not read right", file.Name())
	case !errors.Is(err, io.EOF):
		return nil, err
	}
	return table[:length], nil
}

// parse reads an address and port as the kernel writes them in /proc/net/ip_vs.
func parse(t *testing.T, text string) (netip.Addr, uint16) {
	t.Helper()
	cut := strings.LastIndex(text, ":")
	port, err := strconv.ParseUint(text[cut+1:], 16, 16)
	if err != nil {
		t.Fatalf("/proc/net/ip_vs has %q: %v", text, err)
	}
	host := text[:cut]
	if inner, is := strings.CutPrefix(host, "["); is {
		return netip.MustParseAddr(strings.TrimSuffix(inner, "]")), uint16(port)
	}
	b, err := hex.DecodeString(host)
	if err != nil {
		t.Fatalf("/proc/net/ip_vs has %q: %v", text, err)
	}
	address, _ := netip.AddrFromSlice(b)
	return address, uint16(port)
}

// programmed waits until the kernel of each node has all virtual servers of a Service, which send
// to these pods alone.
func (s *site) programmed(t *testing.T, v service, nodes []*cluster.Node, pods ...string) {
	t.Helper()
	want := map[bool][]netip.Addr{}
	for _, name := range pods {
		want[true] = append(want[true], netip.MustParseAddr(s.pods[name].IPv4))
		want[false] = append(want[false], netip.MustParseAddr(s.pods[name].IPv6))
	}
	for _, list := range want {
		slices.SortFunc(list, netip.Addr.Compare)
	}
	for _, n := range nodes {
		cluster.Eventually(t, func(context.Context) error {
			servers := s.virtualServers(t, n)
			maps.DeleteFunc(servers, func(server virtualServer, _ []netip.Addr) bool {
				return !slices.Contains(v.addresses(), server.address.String())
			})
			if len(servers) != 6 {
				return fmt.Errorf("%s has the virtual servers %v, want 6", n.Name, servers)
			}
			for server, got := range servers {
				slices.SortFunc(got, netip.Addr.Compare)
				if is := want[server.address.Is4()]; !slices.Equal(got, is) {
					return fmt.Errorf("%s sends what is for %v to %v, want %v", n.Name, server, got, is)
				}
			}
			return nil
		})
	}
}
