//go:build qemu

// Package nodes_test tests Berth's own data plane where several nodes forward, in IPv4 and IPv6:
// every node and pod reaches an address, the owner moves, and other programs on the nodes do not
// interfere. See package cluster.
//
//	BERTH_VM_KIND=qemu BERTH_VM_MEMORY=2G go test -tags qemu -exec .cache/bin/vm-exec ./vm/nodes
package nodes_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/e2e/vm/cluster"
)

func TestSeveralNodesForward(t *testing.T) {
	s := start(t)
	for _, part := range []struct {
		name string
		test func(*testing.T)
	}{
		{"both families, TCP and UDP, are answered by the address", s.families},
		{"by scheduler mh all nodes choose the same pod, whatever they lived through", s.maglev},
		{"pods and nodes reach the address from everywhere", s.inside},
		{"NodePorts and listeners of the node are not reached through the address", s.nodePorts},
		{"the owner moves", s.moves},
		{"a node that cannot forward answers for no address, unless kube-proxy forwards", s.incapable},
		{"pods of a node with endpoints reach the address under policy Local", s.insideLocal},
	} {
		begun := time.Now()
		if !t.Run(part.name, part.test) {
			return // what it left is not what the next expects
		}
		t.Logf("%s: %s", part.name, time.Since(begun).Round(time.Second))
	}
}

// of returns the address of a pod or node that has the family of another address.
func of(ipv4, ipv6, family string) string {
	if strings.Contains(family, ":") {
		return ipv6
	}
	return ipv4
}

// node returns the client that a pod sees when a node masquerades packets to an address.
func node(n *cluster.Node, address string) func(cluster.Pod) string {
	return func(p cluster.Pod) string {
		if p.Node == n.Name {
			return of(n.Gateway4(), n.Gateway6(), address)
		}
		return of(n.IPv4, n.IPv6, address)
	}
}

// itself returns the client that a pod sees when the client's address is kept.
func itself(ipv4, ipv6, address string) func(cluster.Pod) string {
	return func(cluster.Pod) string { return of(ipv4, ipv6, address) }
}

func named(name string) *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}}
}

// families: under policy Cluster all endpoints answer and see the node; under Local those of the
// owner do, and see the client.
func (s *site) families(t *testing.T) {
	v := s.expose(t, named("families"), "pod-1-1", "pod-2-1")
	s.mode(t, v, corev1.LoadBalancerIPModeProxy)
	s.owned(t, v, s.n1)
	here, there := s.pods["pod-1-1"], s.pods["pod-2-1"]
	for _, address := range v.addresses() {
		answered(t, cluster.Client, address, node(s.n1, address), here)
		answered(t, cluster.Client, address, node(s.n1, address), there)
		if answer, err := cluster.Ask(t.Context(), cluster.Client, address, 80); err != nil {
			t.Error(err)
		} else if answer.Protocol != "http" {
			t.Errorf("%s answered by %s", address, answer.Protocol)
		}
		datagram(t, address)
	}
	s.policy(t, v, corev1.ServiceExternalTrafficPolicyLocal)
	s.programmed(t, v, []*cluster.Node{s.n1}, "pod-1-1")
	for _, address := range v.addresses() {
		answered(t, cluster.Client, address, itself(cluster.ClientIPv4, cluster.ClientIPv6, address), here)
		datagram(t, address)
	}
	s.endpoints(t, v, "pod-2-1")
	s.owned(t, v, s.n2)
	for _, address := range v.addresses() {
		answered(t, cluster.Client, address, itself(cluster.ClientIPv4, cluster.ClientIPv6, address), there)
	}
}

// datagram looks at where a datagram comes from that answers one to the address: a socket that
// takes any.
func datagram(t *testing.T, address string) {
	t.Helper()
	conn, err := cluster.In(cluster.Client, func() (net.PacketConn, error) { return net.ListenPacket("udp", ":0") })
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	to := &net.UDPAddr{IP: net.ParseIP(address), Port: 7000}
	cluster.Eventually(t, func(context.Context) error {
		if _, err := conn.WriteTo([]byte("hello\n"), to); err != nil {
			return err
		}
		if err := conn.SetReadDeadline(time.Now().Add(3 * time.Second)); err != nil {
			return err
		}
		_, from, err := conn.ReadFrom(make([]byte, 1500))
		if err == nil && from.String() != to.String() {
			t.Errorf("the answer to a datagram to %s came from %s", to, from)
		}
		return err
	})
}

// maglev: one node lives through all changes, one misses some, and one sees their outcome only.
func (s *site) maglev(t *testing.T) {
	s.whole(t)
	s.endSpeaker(t, s.n3, syscall.SIGKILL)
	object := named("maglev")
	object.Annotations = map[string]string{v1alpha1.AnnotationIPVSScheduler: "mh"}
	v := s.create(t, object, "pod-3-1")
	s.mode(t, v, corev1.LoadBalancerIPModeProxy)
	witnesses := []*cluster.Node{s.n1, s.n2}
	for i, pods := range [][]string{
		{"pod-3-1"},
		{"pod-3-1", "pod-1-2", "pod-2-1"},
		{"pod-1-2", "pod-2-1", "pod-3-2"},
		{"pod-2-1", "pod-3-2", "pod-1-1", "pod-2-2"},
		{"pod-2-1", "pod-1-1", "pod-2-2", "pod-1-2", "pod-3-1", "pod-3-2"},
		// The last change deletes: nothing is moved in the kernel's list after that.
		{"pod-2-1", "pod-1-1", "pod-2-2", "pod-1-2", "pod-3-1"},
	} {
		s.endpoints(t, v, pods...)
		s.programmed(t, v, witnesses, pods...)
		if i == 2 {
			s.endSpeaker(t, s.n2, syscall.SIGKILL)
			witnesses = witnesses[:1]
		}
	}
	s.startSpeaker(s.n2)
	s.startSpeaker(s.n3)
	s.programmed(t, v, s.able(), "pod-2-1", "pod-1-1", "pod-2-2", "pod-1-2", "pod-3-1")

	const ports = 64
	defer unroute(t, v)
	chosen := map[string]string{} // by network, address and port
	reached := map[string]int{}
	for _, n := range s.able() {
		s.through(t, n, v)
		for _, address := range v.addresses() {
			for _, network := range []string{"tcp", "udp"} {
				for port := 20000; port < 20000+ports; port++ {
					answer, err := askFrom(cluster.Client, network, port, address)
					if err != nil {
						t.Fatalf("%s to %s through %s from port %d: %v", network, address, n.Name, port, err)
					}
					if want := node(n, address)(s.pods[answer.Pod]); answer.ClientAddress().String() != want {
						t.Fatalf("%s saw %s, want %s: what was sent to %s did not go through it", answer.Pod, answer.Client, want, n.Name)
					}
					key := fmt.Sprint(network, " ", address, " from port ", port)
					if before, is := chosen[key]; is && before != answer.Pod {
						t.Errorf("%s: %s through %s, %s through %s", key, before, s.n1.Name, answer.Pod, n.Name)
					}
					chosen[key] = answer.Pod
					reached[answer.Pod]++
				}
			}
		}
	}
	if len(reached) != 5 {
		t.Errorf("of five endpoints these were reached: %v", reached)
	}
	t.Logf("%d connections from %d ports by each of two protocols and families through three nodes: %v", len(chosen)*3, ports, reached)
}

// inside: pods and processes of every node reach an endpoint on one of them.
func (s *site) inside(t *testing.T) {
	v := s.expose(t, named("inside"), "pod-2-1")
	only := s.pods["pod-2-1"]
	s.owned(t, v, s.n1)
	s.reachedFromAll(t, v, s.n1, only, false)
	// The endpoint itself asks, and is answered by itself.
	for _, address := range v.addresses() {
		answered(t, only.Name, address, node(s.n2, address), only)
		if _, err := cluster.Ask(t.Context(), only.Name, address, 80); err != nil {
			t.Error(err)
		}
	}
	s.policy(t, v, corev1.ServiceExternalTrafficPolicyLocal)
	s.owned(t, v, s.n2)
	s.reachedFromAll(t, v, s.n2, only, true)
}

// reachedFromAll has all nodes and a pod of each ask for the addresses of a Service with one
// endpoint, of policy Local or Cluster. Who asks on a node that does not forward is sent to the
// owner by ARP, and comes there as any client.
func (s *site) reachedFromAll(t *testing.T, v service, owner *cluster.Node, endpoint cluster.Pod, local bool) {
	t.Helper()
	type asker struct{ space, ipv4, ipv6 string }
	for i, n := range s.all() {
		pod := s.pods[fmt.Sprintf("pod-%d-2", i+1)]
		for _, a := range []asker{{n.Name, n.IPv4, n.IPv6}, {pod.Name, pod.IPv4, pod.IPv6}} {
			for _, address := range v.addresses() {
				sees := node(n, address)
				switch {
				case n == s.plain && local:
					sees = itself(a.ipv4, a.ipv6, address)
				case n == s.plain:
					sees = node(owner, address)
				}
				answered(t, a.space, address, sees, endpoint)
			}
		}
	}
}

// insideLocal: pods of a node that has an endpoint of a Service of policy Local reach all
// endpoints, the one that asks included.
func (s *site) insideLocal(t *testing.T) {
	object := named("inside-local")
	object.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	v := s.expose(t, object, "pod-1-1", "pod-2-1")
	s.owned(t, v, s.n1)
	s.programmed(t, v, []*cluster.Node{s.n1}, "pod-1-1")
	for _, address := range v.addresses() {
		for _, asker := range []string{"pod-1-2", "pod-1-1"} {
			for _, want := range []string{"pod-1-1", "pod-2-1"} {
				for _, network := range []string{"tcp", "udp"} {
					cluster.Eventually(t, func(context.Context) error {
						answer, err := ask(asker, network, address)
						if err == nil && answer.Pod != want {
							err = fmt.Errorf("%s answered", answer.Pod)
						}
						if err != nil {
							err = fmt.Errorf("%s asks %s by %s, to reach %s: %w", asker, address, network, want, err)
						}
						return err
					})
				}
			}
		}
		// Others still reach the owner's endpoint alone.
		for range 4 {
			answered(t, cluster.Client, address, itself(cluster.ClientIPv4, cluster.ClientIPv6, address), s.pods["pod-1-1"])
		}
	}
}

// nodePorts: the owner runs kube-proxy, which has NodePorts answer on all addresses of the node.
func (s *site) nodePorts(t *testing.T) {
	t.Cleanup(func() {
		for _, family := range []string{"ip", "ip6"} {
			cluster.Run(t, s.n1.Name, "nft", fmt.Sprintf("add table %[1]s kube-proxy; delete table %[1]s kube-proxy", family))
		}
	})
	s.Start(
		t, s.n1.Name, "kube-proxy", nil, s.Kube(), "kube-proxy", "--kubeconfig="+s.Kubeconfig(),
		"--hostname-override="+s.n1.Name, "--proxy-mode=nftables", "--nodeport-addresses=0.0.0.0/0,::/0",
		"--cluster-cidr=10.244.0.0/16,fd00:244::/48", "--conntrack-max-per-core=0", "--conntrack-min=0",
	)
	object, yes := named("node-ports"), true
	object.Spec.AllocateLoadBalancerNodePorts = &yes
	v := s.expose(t, object, "pod-1-1", "pod-2-1")
	s.mode(t, v, corev1.LoadBalancerIPModeProxy)
	s.owned(t, v, s.n1)
	is, err := s.Kubernetes.CoreV1().Services(namespace).Get(t.Context(), v.name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	nodePort := int(is.Spec.Ports[0].NodePort)
	const hostPort = 9999
	listener, err := cluster.In(
		s.n1.Name,
		func() (net.Listener, error) { return net.Listen("tcp", "[::]:"+strconv.Itoa(hostPort)) },
	)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() { _ = http.Serve(listener, http.NotFoundHandler()) }() // ends with the listener

	for _, address := range v.addresses() {
		own := of(s.n1.IPv4, s.n1.IPv6, address)
		for _, port := range []int{nodePort, hostPort} {
			cluster.Eventually(t, func(context.Context) error { return connect(own, port, 5*time.Second) })
			// Beside a port that is served: it is the port that makes the difference, not the address.
			if err := connect(address, 80, 5*time.Second); err != nil {
				t.Errorf("port 80 of the address: %v", err)
			}
			if err := connect(address, port, time.Second); err == nil {
				t.Errorf("port %d of the node is reached through %s", port, address)
			}
		}
		answered(t, cluster.Client, address, node(s.n1, address), s.pods["pod-2-1"])
	}
}

// connect returns nil if the client gets a TCP connection.
func connect(address string, port int, within time.Duration) error {
	_, err := cluster.In(cluster.Client, func() (struct{}, error) {
		conn, err := net.DialTimeout("tcp", net.JoinHostPort(address, strconv.Itoa(port)), within)
		if err == nil {
			err = conn.Close()
		}
		return struct{}{}, err
	})
	return err
}

// moves: the owner is cut off, is excluded, or its speaker ends cleanly. Without a DaemonSet the
// latter is the same as exclusion.
func (s *site) moves(t *testing.T) {
	t.Run("cut off", func(t *testing.T) {
		s.move(t, false, func() { s.n1.Cut(t) }, func() { s.n1.Connect(t) })
	})
	t.Run("excluded", func(t *testing.T) {
		var readmit func()
		s.plannedMove(t, func() { readmit = s.exclude(t, s.n1) }, func() { readmit() })
	})
	t.Run("its speaker ends", func(t *testing.T) {
		s.plannedMove(t, func() { s.endSpeaker(t, s.n1, syscall.SIGTERM) }, func() { s.startSpeaker(s.n1); s.whole(t) })
	})
}

// plannedMove calls move, and repeats it if the guest delayed a speaker for so long that another
// considered it dead: then two nodes answer for a moment, as the protocol allows, and clients
// notice.
func (s *site) plannedMove(t *testing.T, leave, back func()) {
	const most = 3
	for attempt := 1; attempt <= most; attempt++ {
		held := false
		t.Run(fmt.Sprintf("attempt %d", attempt), func(t *testing.T) {
			before := s.falseDeaths(t)
			failed := s.move(t, true, leave, back)
			if held = failed > 0 && attempt < most && s.falseDeaths(t) > before; failed > 0 && !held {
				t.Errorf("%d connections more than may be failed in a planned move", failed)
			}
		})
		if !held {
			return
		}
	}
}

// falseDeaths counts how many times a speaker considered that of n2 or n3 dead, although both run
// all the time.
func (s *site) falseDeaths(t *testing.T) int {
	n := 0
	for _, node := range []*cluster.Node{s.n1, s.n2, s.n3} {
		for line := range strings.Lines(s.Log(t, "heart-"+node.Name)) {
			if strings.Contains(line, `"msg":"peer down"`) &&
				(strings.Contains(line, `"node":"n2"`) || strings.Contains(line, `"node":"n3"`)) {
				n++
			}
		}
	}
	return n
}

// move has the owner leave while clients connect to endpoints on other nodes. New connections go
// on: without a failure where the move is planned. Those that exist are reset when they speak next,
// since the node that answers now does not know them; it is not left to the client to find out by a
// timeout. It returns how many more new connections failed than may.
func (s *site) move(t *testing.T, planned bool, leave, back func()) (beyond int) {
	object := named("moves")
	object.Annotations = map[string]string{v1alpha1.AnnotationIPVSScheduler: "mh"}
	v := s.expose(t, object, "pod-2-1", "pod-3-1")
	s.owned(t, v, s.n1)
	s.programmed(t, v, s.able(), "pod-2-1", "pod-3-1")
	lasting := map[string][]net.Conn{}
	for _, address := range v.addresses() {
		for range 3 {
			lasting[address] = append(lasting[address], connection(t, address))
		}
	}
	clients := map[string]*cluster.Newcomers{}
	for _, address := range v.addresses() {
		clients[address] = cluster.StartNewcomers(t, address, 7000)
	}
	defer back()
	begun := time.Now()
	leave()
	// It is n2 by preference, and n3 if n2 is late by more than the 20 ms of its turn: a guest can
	// hold a process up for that long. Then both may claim, and each address is decided by itself.
	for _, address := range v.addresses() {
		var next *cluster.Node
		cluster.Eventually(t, func(context.Context) error {
			believed := cluster.Believed(t, address)
			for _, next = range []*cluster.Node{s.n2, s.n3} {
				if believed == next.MAC(t) {
					return nil
				}
			}
			return fmt.Errorf("the client believes that %s answers for %s, want n2 or n3", believed, address)
		})
		t.Logf("the client was told of the next owner of %s, %s, within %s", address, next.Name,
			time.Since(begun).Round(time.Millisecond))
		answered(t, cluster.Client, address, node(next, address), s.pods["pod-2-1"], s.pods["pod-3-1"])
	}
	for address, client := range clients {
		client.AwaitMore(t, 5)
		answers, failed, longest := client.End()
		t.Logf(
			"%s: of %d new connections %d failed, longest time between two answers %s: %v", address,
			answers+len(failed), len(failed), longest.Round(time.Millisecond), errors.Join(failed...),
		)
		if planned { // docs/guides/layer2.md, moves: one or two of thousands may be reset
			beyond += max(0, len(failed)-2)
		}
	}
	for address, conns := range lasting {
		for _, conn := range conns {
			begun := time.Now()
			_, err := cluster.Say(conn)
			if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
				t.Errorf("an established connection to %s: %v, want a reset", address, err)
			}
			t.Logf("an established connection to %s ended within %s: %v", address, time.Since(begun).Round(time.Millisecond), err)
		}
	}
	return beyond
}

// connection is one that was answered, and lasts until the test ends.
func connection(t *testing.T, address string) (conn net.Conn) {
	t.Helper()
	cluster.Eventually(t, func(context.Context) (err error) {
		if conn, err = cluster.Dial(cluster.Client, "tcp", address, 7000); err != nil {
			return err
		}
		if _, err = cluster.Say(conn); err != nil {
			return errors.Join(err, conn.Close())
		}
		return nil
	})
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// incapable: while one node that can forward is left, even if it is silent, no other answers for an
// address that IPVS forwards. With none left kube-proxy forwards, so that every node may answer,
// until one is back.
func (s *site) incapable(t *testing.T) {
	v := s.expose(t, named("incapable"), "pod-2-1")
	object := named("of-kube-proxy")
	object.Annotations = map[string]string{v1alpha1.AnnotationPools: "theirs"}
	witness := s.expose(t, object, "pod-2-1")
	s.mode(t, witness, corev1.LoadBalancerIPModeVIP)
	s.mode(t, v, corev1.LoadBalancerIPModeProxy)
	s.owned(t, v, s.n1)
	s.owned(t, witness, s.n1)
	s.exclude(t, s.n2, s.n3)
	s.excluded(t, s.n2, s.n3)

	s.endSpeaker(t, s.n1, syscall.SIGKILL)
	s.owned(t, witness, s.plain) // so it has noticed, and takes what it may
	for _, address := range v.addresses() {
		cluster.Unanswered(t, address)
	}
	s.mode(t, v, corev1.LoadBalancerIPModeProxy)
	s.startSpeaker(s.n1)
	s.owned(t, v, s.n1)

	readmit := s.exclude(t, s.n1)
	s.mode(t, v, corev1.LoadBalancerIPModeVIP)
	s.owned(t, v, s.plain)
	readmit()
	s.mode(t, v, corev1.LoadBalancerIPModeProxy)
	s.owned(t, v, s.n1)
	for _, address := range v.addresses() {
		answered(t, cluster.Client, address, node(s.n1, address), s.pods["pod-2-1"])
	}
}
