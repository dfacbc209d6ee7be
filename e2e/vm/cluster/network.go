//go:build linux

package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/e2e/stage"
)

// Names of namespaces: the guest's own, and the client's. Those of nodes and pods have their names.
const (
	Host   = ""
	Client = "client"
)

// Addresses on the segment; node number i has 172.30.0.1i and fd00:30::1i.
const (
	server      = "172.30.0.1"
	ClientIPv4  = "172.30.0.100"
	ClientIPv6  = "fd00:30::100"
	segmentLink = "rack"
)

func makeSegment(t testing.TB) {
	t.Helper()
	Run(t, Host, "sysctl", "-qw", "kernel.hostname=host") // the API server writes it into a label
	ip(t, Host,
		"link set lo up",
		"link add "+segmentLink+" type bridge mcast_snooping 0", "link set "+segmentLink+" up",
		"addr add "+server+"/24 dev "+segmentLink, "addr add fd00:30::1/64 dev "+segmentLink+" nodad",
	)
	join(t, Client, ClientIPv4, ClientIPv6)
}

// join makes a namespace on the segment.
func join(t testing.TB, name, ipv4, ipv6 string) {
	t.Helper()
	Run(t, Host, "ip", "netns", "add", name)
	ip(t, Host, "link add eth0 netns "+name+" type veth peer name "+name, "link set "+name+" master "+segmentLink+" up")
	ip(
		t, name, "link set lo up", "link set eth0 up", "addr add "+ipv4+"/24 dev eth0",
		"addr add "+ipv6+"/64 dev eth0 nodad",
	)
}

// Node is a node of the cluster: a namespace on the segment, with a bridge cni0 for its pods, and a
// Node object that is ready.
type Node struct {
	Name       string
	IPv4, IPv6 string // on the segment

	number int
	pods   int
}

// AddNode adds a node whose pods all nodes have routes to; number is from 1 to 9.
func (c *Cluster) AddNode(t testing.TB, number int) *Node {
	t.Helper()
	n := &Node{
		Name:   fmt.Sprint("n", number),
		IPv4:   fmt.Sprint("172.30.0.1", number),
		IPv6:   fmt.Sprint("fd00:30::1", number),
		number: number,
	}
	join(t, n.Name, n.IPv4, n.IPv6)
	Run(t, n.Name, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
	lines := []string{
		"link add cni0 type bridge", "link set cni0 up",
		"addr add " + n.Gateway4() + "/24 dev cni0", "addr add " + n.Gateway6() + "/64 dev cni0 nodad",
	}
	for other := 1; other <= 9; other++ {
		if o := (&Node{number: other}); other != number {
			lines = append(
				lines,
				fmt.Sprintf("route add %s via 172.30.0.1%d", o.PodCIDRs()[0], other),
				fmt.Sprintf("route add %s via fd00:30::1%d", o.PodCIDRs()[1], other),
			)
		}
	}
	ip(t, n.Name, lines...)
	object := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: n.Name, Labels: map[string]string{corev1.LabelHostname: n.Name}},
		Spec:       corev1.NodeSpec{PodCIDR: n.PodCIDRs()[0], PodCIDRs: n.PodCIDRs()},
	}
	created, err := c.Kubernetes.CoreV1().Nodes().Create(t.Context(), object, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	created.Status = corev1.NodeStatus{
		Addresses: []corev1.NodeAddress{
			{Type: corev1.NodeInternalIP, Address: n.IPv4},
			{Type: corev1.NodeInternalIP, Address: n.IPv6},
		},
		Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "Test"}},
	}
	if _, err := c.Kubernetes.CoreV1().Nodes().UpdateStatus(t.Context(), created, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	return n
}

// PodCIDRs returns the node's pod CIDRs, IPv4 and IPv6.
func (n *Node) PodCIDRs() []string {
	return []string{fmt.Sprintf("10.244.%d.0/24", n.number), fmt.Sprintf("fd00:244:%d::/64", n.number)}
}

// Gateway4 is the node's IPv4 address towards its pods, which they see as their client when it
// masquerades.
func (n *Node) Gateway4() string { return fmt.Sprintf("10.244.%d.254", n.number) }

// Gateway6 is its IPv6 address there.
func (n *Node) Gateway6() string { return fmt.Sprintf("fd00:244:%d::fe", n.number) }

// MAC returns the node's hardware address on the segment.
func (n *Node) MAC(t testing.TB) string {
	t.Helper()
	link, err := In(n.Name, func() (netlink.Link, error) { return netlink.LinkByName("eth0") })
	if err != nil {
		t.Fatal(err)
	}
	return link.Attrs().HardwareAddr.String()
}

// Cut takes the node off the segment, all of it at once.
func (n *Node) Cut(t testing.TB) { t.Helper(); ip(t, Host, "link set "+n.Name+" down") }

// Connect plugs it in again.
func (n *Node) Connect(t testing.TB) { t.Helper(); ip(t, Host, "link set "+n.Name+" up") }

// Pod is an echo server in a namespace of its own, of the pod's name: HTTP on port 8080, lines by
// TCP and UDP on 7000.
type Pod struct {
	Name       string
	Node       string
	IPv4, IPv6 string
}

// AddPod starts a pod on the node, without an object in the API.
func (c *Cluster) AddPod(t testing.TB, n *Node) Pod {
	t.Helper()
	n.pods++
	p := Pod{
		Name: fmt.Sprintf("pod-%d-%d", n.number, n.pods), Node: n.Name,
		IPv4: fmt.Sprintf("10.244.%d.%d", n.number, n.pods), IPv6: fmt.Sprintf("fd00:244:%d::%x", n.number, n.pods),
	}
	Run(t, Host, "ip", "netns", "add", p.Name)
	ip(t, n.Name, "link add "+p.Name+" type veth peer name eth0 netns "+p.Name, "link set "+p.Name+" master cni0 up")
	ip(t, p.Name,
		"link set lo up", "link set eth0 up",
		"addr add "+p.IPv4+"/24 dev eth0", "addr add "+p.IPv6+"/64 dev eth0 nodad",
		"route add default via "+n.Gateway4(), "route add default via "+n.Gateway6(),
	)
	c.Start(t, p.Name, p.Name, []string{"POD_NAME=" + p.Name, "NODE_NAME=" + p.Node}, c.folder.Bin("echo"))
	return p
}

// Run runs a program in a namespace, and returns its output.
func Run(t testing.TB, space, name string, args ...string) string {
	t.Helper()
	argv := within(space, append([]string{name}, args...))
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(argv, " "), err, out)
	}
	return string(out)
}

func within(space string, argv []string) []string {
	if space == Host {
		return argv
	}
	return append([]string{"ip", "netns", "exec", space}, argv...)
}

// ip carries out lines of ip(8) in a namespace, by one process: each takes its time here.
func ip(t testing.TB, space string, lines ...string) {
	t.Helper()
	argv := within(space, []string{"ip", "-batch", "-"})
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("ip in %q: %v: %s\n%s", space, err, out, strings.Join(lines, "\n"))
	}
}

// In runs f on a thread in a namespace: sockets that it makes stay there.
func In[T any](space string, f func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		var r result
		if space != Host {
			var handle netns.NsHandle
			if handle, r.err = netns.GetFromName(space); r.err == nil {
				r.err = errors.Join(netns.Set(handle), handle.Close())
			}
		}
		if r.err == nil {
			r.value, r.err = f()
		}
		done <- r
	}()
	r := <-done
	return r.value, r.err
}

// Dial connects from a namespace, to an address of one host.
func Dial(space, network, host string, port int) (net.Conn, error) {
	return DialFrom(space, network, 0, host, port)
}

// DialFrom is Dial from a port; 0: any.
func DialFrom(space, network string, from int, host string, port int) (net.Conn, error) {
	return In(space, func() (net.Conn, error) {
		d := net.Dialer{Timeout: 10 * time.Second}
		switch {
		case from == 0:
		case strings.HasPrefix(network, "tcp"):
			d.LocalAddr = &net.TCPAddr{Port: from}
		default:
			d.LocalAddr = &net.UDPAddr{Port: from}
		}
		return d.Dial(network, net.JoinHostPort(host, strconv.Itoa(port)))
	})
}

// Say says a line on a connection, and returns the answer.
func Say(conn net.Conn) (stage.Answer, error) { return stage.Say(conn, time.Now().Add(5*time.Second)) }

// Ask asks over HTTP from a namespace, on a new connection.
func Ask(ctx context.Context, space, host string, port int) (stage.Answer, error) {
	var answer stage.Answer
	url := "http://" + net.JoinHostPort(host, strconv.Itoa(port)) + "/"
	out, err := Get(ctx, space, url)
	if err != nil {
		return answer, err
	}
	if err := json.Unmarshal([]byte(out), &answer); err != nil {
		return answer, fmt.Errorf("%s answered %q: %w", url, out, err)
	}
	return answer, nil
}

// Get returns what is at a URL, from a namespace.
func Get(ctx context.Context, space, url string) (string, error) {
	argv := within(space, []string{"curl", "-sS", "--globoff", "--max-time", "3", url})
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("ask %s from %q: %w: %s", url, space, err, bytes.TrimSpace(stderr.Bytes()))
	}
	return string(out), nil
}

// Neighbor returns the MAC address that the client has for an address on the segment, after it
// cleared its cache and asked again.
func Neighbor(t testing.TB, address string) string {
	t.Helper()
	Forget(t)
	var mac string
	Eventually(t, func(context.Context) (err error) {
		Solicit(address)
		if mac = Believed(t, address); mac == "" {
			err = fmt.Errorf("nobody answers for %s", address)
		}
		return err
	})
	return mac
}

// Forget clears the client's neighbor cache.
func Forget(t testing.TB) { t.Helper(); ip(t, Client, "neigh flush dev eth0") }

// Solicit makes the client ask for an address by ARP or NDP, unless its cache has it.
func Solicit(address string) {
	if conn, err := Dial(Client, "udp", address, 9); err == nil { // the kernel asks, whatever comes of it
		_, _ = conn.Write([]byte("?"))
		_ = conn.Close()
	}
}

// Believed returns the MAC address that the client has for an address without asking; empty: none.
func Believed(t testing.TB, address string) string {
	t.Helper()
	mac, _ := neighbor(t, address)
	return mac
}

// Unanswered waits until the client has asked for an address three times, a second apart, without
// an answer.
func Unanswered(t testing.TB, address string) {
	t.Helper()
	Forget(t)
	Solicit(address) // once: asking again would restart the resolution
	Eventually(t, func(context.Context) error {
		mac, state := neighbor(t, address)
		if mac != "" {
			t.Fatalf("%s answers for %s", mac, address)
		}
		if state&netlink.NUD_FAILED == 0 {
			return fmt.Errorf("it is not known yet whether somebody answers for %s", address)
		}
		return nil
	})
}

// neighbor returns the client's cache entry for an address on the segment, or nothing if it has not
// asked.
func neighbor(t testing.TB, address string) (mac string, state int) {
	t.Helper()
	all, err := In(Client, func() ([]netlink.Neigh, error) { return netlink.NeighList(0, netlink.FAMILY_ALL) })
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range all {
		if n.IP.String() == address {
			return n.HardwareAddr.String(), n.State
		}
	}
	return "", 0
}
